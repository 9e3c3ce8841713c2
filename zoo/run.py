"""Runs the checks of `zoo.checks` over the models of the zoo, and says what came of each.

    python -m zoo                           all of them, on the backend that KERAS_BACKEND names
    python -m zoo ResNet50 'Efficient*'     some of them
    python -m zoo --every-cut bert          with the two halves written and run at every cut
    python -m zoo --save jax.json           with the results kept, for --page
    python -m zoo --page zoo.md jax.json torch.json

The exit status is 0 if nothing failed. A refusal is no failure: resect says why it will not do it.
"""

from __future__ import annotations

import argparse
import fnmatch
import gc
import json
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import keras

from zoo.checks import CHECKS, Case, Effort, Tally, run, untouched
from zoo.entry import Entry
from zoo.models import APPLICATIONS, BACKBONES

MODELS = {**APPLICATIONS, **BACKBONES}


@dataclass
class Result:
    """What came of one model.

    Attributes:
        model: Its name in the zoo.
        calls: Number of calls in its graph, nested models left out.
        parameters: Number of parameters.
        tallies: What came of each check.
        unsupported: Why Keras cannot run it on this backend; nothing was checked then.
        seconds: How long it took, building included.
    """

    model: str
    calls: int = 0
    parameters: int = 0
    tallies: dict[str, Tally] = field(default_factory=dict)
    unsupported: str = ""
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        if any(tally.failed for tally in self.tallies.values()):
            return "FAIL"
        if any(tally.refused for tally in self.tallies.values()):
            return "refuse"
        return "n/a" if self.unsupported else "pass"

    def lines(self) -> Iterator[str]:
        """What was refused and what failed, and why Keras cannot run it."""
        if self.unsupported:
            yield f"n/a: {self.unsupported}"
        for tally in self.tallies.values():
            yield from (f"FAIL {line}" for line in tally.failed)
            yield from (f"refuse {line}" for line in tally.refused)
            yield from (f"n/a {line}" for line in tally.unsound)


def check(entry: Entry, effort: Effort) -> Result:
    """Runs every check on one model, and frees it."""
    result = Result(entry.name)
    begin = time.perf_counter()
    backend = keras.backend.backend()
    if backend in entry.unsupported:
        result.unsupported = entry.unsupported[backend]
        return result
    try:
        case = Case(entry)
    except Exception as error:  # a model that cannot be made or run is a failure of the zoo
        traceback.print_exc()
        result.tallies["no-op"] = Tally(failed=[f"making it: {type(error).__name__}: {error}"])
    else:
        result.calls, result.parameters = len(case.graph), case.model.count_params()
        result.tallies = {name: run(trials(case, effort)) for name, trials in CHECKS.items()}
        result.tallies["no-op"].failed += run(untouched(case)).failed
    result.seconds = time.perf_counter() - begin
    return result


def free() -> None:
    """Gives back the memory of models that nothing refers to any more."""
    keras.utils.clear_session()
    gc.collect()


# The command


ROW = "{:24}{:>6} {:>12}  {:8}{:26}{:20}{:10}{:>8}  {}"


def heading() -> str:
    """The first line of the table."""
    return ROW.format("", "calls", "parameters", *CHECKS, "seconds", "")


def row(result: Result) -> str:
    """A line of the table."""
    tallies = [str(result.tallies.get(name, "-")) for name in CHECKS]
    size = (result.calls, f"{result.parameters:,}")
    return ROW.format(result.model, *size, *tallies, f"{result.seconds:.1f}", result.verdict)


def chosen(patterns: Sequence[str], light: bool) -> list[Entry]:
    """The entries that names and globs mean, large ones last; without any, all of them."""
    patterns = patterns or ["*"]
    unknown = [p for p in patterns if not fnmatch.filter(MODELS, p)]
    if unknown:
        raise SystemExit(
            f"No model of the zoo is called {unknown[0]!r}. python -m zoo --list lists them."
        )
    named = [e for e in MODELS.values() if any(fnmatch.fnmatchcase(e.name, p) for p in patterns)]
    wanted = [entry for entry in named if not (light and entry.heavy)]
    return sorted(wanted, key=lambda entry: entry.heavy)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs, prints, and returns the exit status."""
    options = parse(argv)
    if options.page:
        from zoo.page import page

        Path(options.page).write_text(
            page([json.loads(Path(p).read_text()) for p in options.names])
        )
        return 0
    entries = chosen(options.names, options.light)
    if options.list:
        print("\n".join(entry.name for entry in entries))
        return 0
    print(heading(), flush=True)
    results = []
    for entry in entries:
        results.append(check(entry, effort(entry, options)))
        free()
        print(row(results[-1]), *results[-1].lines(), sep="\n      ", flush=True)
        if options.save:
            Path(options.save).write_text(json.dumps(record(results), indent=1))
    return summary(results)


def effort(entry: Entry, options: argparse.Namespace) -> Effort:
    """How much is tried: of a large model less is written, and nothing saved."""
    if options.every_cut:
        return Effort(cuts=None, blocks=None, reload=not entry.heavy)
    share = 4 if entry.heavy else 1
    return Effort(max(2, options.cuts // share), max(1, options.blocks // share), not entry.heavy)


def summary(results: Sequence[Result]) -> int:
    """Prints the counts and returns the exit status."""
    verdicts = [result.verdict for result in results]
    counts = ", ".join(
        f"{verdicts.count(v)} {v}" for v in ("pass", "refuse", "FAIL", "n/a") if v in verdicts
    )
    seconds = sum(result.seconds for result in results)
    print(f"\n{len(results)} models on {keras.backend.backend()}: {counts} in {seconds:.0f} s")
    return int("FAIL" in verdicts)


def record(results: Sequence[Result]) -> dict[str, object]:
    """What `--save` keeps."""
    models = [{**asdict(result), "verdict": result.verdict} for result in results]
    return {"backend": keras.backend.backend(), "keras": keras.__version__, "models": models}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m zoo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="names or globs of models; all without any")
    parser.add_argument("--list", action="store_true", help="only print the names")
    parser.add_argument(
        "--light", action="store_true", help="leave out what has more than 50 million parameters"
    )
    parser.add_argument(
        "--cuts", type=int, default=8, help="at how many cuts both halves are written and run"
    )
    parser.add_argument(
        "--blocks", type=int, default=3, help="how many collapsed blocks are written and verified"
    )
    parser.add_argument(
        "--every-cut", action="store_true", help="write and run at every cut and every block"
    )
    parser.add_argument("--save", metavar="JSON", help="write the results to a file as well")
    parser.add_argument(
        "--page", metavar="MD", help="run nothing; make a page of saved results, named as arguments"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
