"""Runs the benchmarks and prints one table."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

HEADER = ("work", "resect", "against", "ratio", "bar")
ROWS = ("copies", "memory", "chains", "splits", "ablation")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs, prints, and returns the exit status, which is 0 whatever was measured."""
    options = parse(argv)
    if options.page:
        Path(options.page).write_text(
            page([json.loads(Path(p).read_text()) for p in options.results])
        )
        return 0
    found: list[tuple[str, ...]] = []
    for cells in measured(options.only, options.runs):
        found.append(cells)
        print("...", *cells, sep=" | ", flush=True)
    kept = {**machine(), "rows": found}
    print(f"\n{title(kept)}\n\n{table(found)}")
    if options.save:
        Path(options.save).write_text(json.dumps(kept, indent=1))
    return 0


def measured(only: Sequence[str], runs: int) -> Iterator[tuple[str, ...]]:
    """The rows, as they are measured."""
    for name in only or ROWS:
        module = importlib.import_module(f"benchmarks.{name}")
        yield from (row.cells for row in module.rows(runs))


def machine() -> dict[str, object]:
    """What it was measured on."""
    import keras

    packages = (
        "keras",
        {"torch": "torch", "jax": "jax"}.get(keras.backend.backend(), "tensorflow"),
    )
    versions = {package: importlib.metadata.version(package) for package in packages}
    return {
        "backend": keras.backend.backend(),
        "versions": {**versions, "python": platform.python_version()},
        "cores": os.cpu_count(),
    }


def title(kept: dict[str, object]) -> str:
    """The backend, the versions and the machine, in a line."""
    versions = kept["versions"]
    assert isinstance(versions, dict)
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{kept['backend']} ({listed}; {kept['cores']} cores)"


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned."""
    lines = [HEADER, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    text = [
        " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    ]
    text.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in text)


def page(results: Sequence[dict[str, object]]) -> str:
    """The page of the documentation that shows saved results."""
    parts = [INTRODUCTION]
    for kept in results:
        rows = kept["rows"]
        assert isinstance(rows, list)
        parts.append(f"## {title(kept)}\n\n{table(rows)}\n")
    return "\n".join(parts)


INTRODUCTION = """# Benchmarks

Measured with `make bench BACKEND=jax` (or `tensorflow`, `torch`), on two cores that had other work
to do: the times are noisy, the ratios less so, because what is compared took turns in one run. Each
time is the median of several runs after one to warm up.

- *Dropout in* inserts one `Dropout` in the middle of the model. By hand that is
  `keras.models.clone_model` with a `call_function` that puts the layer in, and, for an independent
  copy, `set_weights`. By hand, `weights="share"` leaves new call nodes on the layers of the source;
  resect leaves none, which takes a copy of every layer around the same variables, and checks the
  result: that costs about as much as what Keras does instead.
- *Peak memory* is counted beyond the source, in a process of its own. On TensorFlow a copy of a
  variable takes up memory when either of the two is first written to, as in training.
- *Layers in a row*: in parentheses are the times for reading, removing and writing. What
  `keras.Model()` takes inside is shown apart; the ratio is the time per layer against that of 100
  layers.
- *Split* writes two models at each cut. By hand the two share their weights with the source, and
  the tensors that cross the cut have to be known.
- *Loss and accuracy without each block*: `resect.importance` against `resect.collapse` and
  `evaluate` for each block, measured once, both with everything that they compile.
"""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Runs the benchmarks."
    )
    parser.add_argument("results", nargs="*", help="saved results, for --page")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=(), help="some of the rows")
    parser.add_argument("--runs", type=int, default=5, help="how many runs a median is of")
    parser.add_argument("--save", metavar="JSON", help="write the results to a file as well")
    parser.add_argument("--page", metavar="MD", help="run nothing; make a page of saved results")
    return parser.parse_args(argv)
