"""Records the grid of kinds and edits, and writes the support table of the docs.

    python -m tools.support            runs every cell; writes grid/refusals.toml and support.md
    python -m tools.support --page     only writes the page, from what is recorded

The words of the refusals are those of JAX; kinds that Keras cannot run there are run elsewhere, in
a process of their own.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras

import resect
from tests.grid import COLUMNS, ROWS, Record, Refusal, Row, attempt, keras_release

PAGE = Path(__file__).parent.parent / "docs" / "support.md"

INTRODUCTION = """\
# What works on which model

Every row is a kind of model and the call in it that is edited; every column is an edit. Each cell
is run by the test suite on JAX, TensorFlow and PyTorch.

- **✓** it works: the result equals the edited graph evaluated on the source's own layers, and the
  source is untouched.
- **A name** is refused, with the error of that name and a message that says what was asked, what
  was found and what to do. [What is refused](#what-is-refused) shows one of each.

There is no third outcome.
"""


# The page


def page(record: Record) -> str:
    """The text of `docs/support.md`."""
    sections = [INTRODUCTION.rstrip(), "\n".join(_summary(record))]
    for module, rows in itertools.groupby(ROWS.values(), lambda row: row.kind.build.__module__):
        sections.append("\n".join(_section(module, list(rows), record)))
    sections.append("\n\n".join(_refusals(record)))
    return "\n\n".join(sections) + "\n"


def _summary(record: Record) -> Iterator[str]:
    kinds = {row.kind.name for row in ROWS.values()}
    refused = sum(len(cells) for cells in record.refusals.values())
    cells = len(ROWS) * len(COLUMNS)
    yield "<!-- readme -->"
    yield (
        f"{len(kinds)} kinds of model at {len(ROWS)} places, {len(COLUMNS)} edits: "
        f"{cells - refused:,} cells work, {refused:,} are refused."
    )
    yield "<!-- end of readme -->"


def _section(module: str, rows: Sequence[Row], record: Record) -> Iterator[str]:
    title = (importlib.import_module(module).__doc__ or "").strip().splitlines()[0]
    yield f"## {title.rstrip('.')}"
    yield ""
    yield f"| model | {' | '.join(COLUMNS)} |"
    yield f"| --- |{' --- |' * len(COLUMNS)}"
    for row in rows:
        refused = record.refusals.get(row.name, {})
        cells = [_cell(refused.get(column)) for column in COLUMNS]
        yield f"| {_heading(row)} | {' | '.join(cells)} |"


def _heading(row: Row) -> str:
    summary = row.kind.summary.replace("|", "\\|")
    at = f" at `{row.focus}`" if row.focus else ""
    return f"`{row.kind.name}`{at}<br>{summary}"


def _cell(refusal: Refusal | None) -> str:
    return "✓" if refusal is None else refusal.error.removesuffix("Error")


def _refusals(record: Record) -> Iterator[str]:
    """Every error that occurs, how often, and the first message of it."""
    found = [refusal for cells in record.refusals.values() for refusal in cells.values()]
    count = Counter(refusal.error for refusal in found)
    yield "## What is refused"
    for error, times in sorted(count.items(), key=lambda item: (-item[1], item[0])):
        example = next(refusal for refusal in found if refusal.error == error)
        said = (getattr(resect.errors, error).__doc__ or "").splitlines()[0]
        cells = "1 cell" if times == 1 else f"{times} cells"
        yield f"**{error}** in {cells}. {said} For example:"
        yield f"```text\n{example.message}\n```"


# The runs


def run(rows: Sequence[Row]) -> dict[str, dict[str, Refusal]]:
    """The refusals of some rows, each cell made as the test suite makes it."""
    warnings.simplefilter("ignore")
    found: dict[str, dict[str, Refusal]] = {}
    for row in rows:
        print(row.name, file=sys.stderr, flush=True)
        for column in COLUMNS.values():
            keras.utils.clear_session(free_memory=False)
            keras.utils.set_random_seed(0)
            outcome = attempt(row, column)
            if outcome is not None:
                found.setdefault(row.name, {})[column.name] = outcome
    return found


def run_elsewhere(rows: Sequence[Row]) -> dict[str, dict[str, Refusal]]:
    """The refusals of rows that Keras cannot run on this backend."""
    found: dict[str, dict[str, Refusal]] = {}
    for row in rows:
        backends = {"tensorflow", "torch", "jax"} - set(row.kind.unsupported)
        command = [sys.executable, "-m", "tools.support", "--row", row.name]
        environment = {**os.environ, "KERAS_BACKEND": sorted(backends)[0]}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        cells = json.loads(done.stdout.splitlines()[-1])
        found[row.name] = {column: Refusal(*cell) for column, cell in cells.items()}
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Records and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true", help="do not run anything")
    parser.add_argument("--row", help="run one row, and print its refusals as JSON")
    options = parser.parse_args(argv)
    if options.row:
        cells = run([ROWS[options.row]]).get(options.row, {})
        print(json.dumps({name: (cell.error, cell.message) for name, cell in cells.items()}))
        return
    if not options.page:
        here = [row for row in ROWS.values() if row.runs_here]
        elsewhere = [row for row in ROWS.values() if not row.runs_here]
        record = Record(keras.backend.backend(), keras_release(), run_elsewhere(elsewhere))
        Record(record.backend, record.keras, {**record.refusals, **run(here)}).save()
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(Record.load()))


if __name__ == "__main__":
    main()
