"""The page of the documentation that shows what came of the zoo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

INTRODUCTION = """# The zoo

All of `keras.applications` and small configurations of KerasHub's backbones, with random weights.
`make zoo BACKEND=jax` (or `tensorflow`, `torch`) makes each of them and checks four things:

- **no-op**: a plan without edits reproduces it: class, configuration, variables and their paths,
  and bit-equal outputs;
- **cuts**: at every call, those of nested models included, a cut is valid and its boundary no
  larger than it need be; at a sample of them the two halves are written, and `tail(head(x))` is
  bit-equal to the model (`--every-cut` does so at all of them);
- **blocks**: every residual block collapses; a sample of the results is verified;
- **new head**: the last layer off, a `Dense(3)` on, verified, saved and loaded again.

Afterwards the source must be what it was. *refuse* means that resect says why it will not do it,
*n/a* that a layer of the model does not return what it declares, so that nothing can be cut there,
or that Keras itself does not load a plain model of its layers: some of KerasHub's have a
configuration that only their backbone can read.
"""


def page(results: Sequence[dict[str, Any]]) -> str:
    """Markdown for the saved results of one or more backends."""
    by_backend = {kept["backend"]: {m["model"]: m for m in kept["models"]} for kept in results}
    names = dict.fromkeys(name for models in by_backend.values() for name in models)
    header = ("model", "calls", "parameters", "cuts", "blocks", *by_backend)
    rows = [header, ("-",) * len(header)]
    for name in names:
        found = [models.get(name) for models in by_backend.values()]
        first = next(model for model in found if model)
        tallies = first["tallies"]
        tried = [str(_tried(tallies[check])) for check in ("cuts", "blocks") if check in tallies]
        verdicts = [model["verdict"] if model else "not run" for model in found]
        size = (str(first["calls"]), f"{first['parameters']:,}")
        rows.append((name, *size, *(tried or ("", "")), *verdicts))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    versions = ", ".join(f"{kept['backend']}: Keras {kept['keras']}" for kept in results)
    parts = [INTRODUCTION, f"{versions}.", "", table, "", *_why(by_backend)]
    return "\n".join(parts).rstrip() + "\n"


def _tried(tally: dict[str, Any]) -> int:
    return tally["passed"] + sum(len(tally[kind]) for kind in ("refused", "failed", "unsound"))


def _why(by_backend: dict[str, dict[str, Any]]) -> list[str]:
    """What was refused or failed, each once, with the backends that it was so on."""
    lines: dict[tuple[str, str, str], list[str]] = {}
    for backend, models in by_backend.items():
        for name, model in models.items():
            if model["unsupported"]:
                lines.setdefault((name, "n/a", model["unsupported"]), []).append(backend)
            for tally in model["tallies"].values():
                for kind, word in (("failed", "FAIL"), ("refused", "refuse"), ("unsound", "n/a")):
                    for line in tally[kind]:
                        lines.setdefault((name, word, line), []).append(backend)
    everywhere = list(by_backend)
    found = []
    for (name, word, line), on in lines.items():
        where = "" if on == everywhere else f" on {', '.join(on)}"
        found.append(f"- {name}, {word}{where}: {line}")
    return found
