"""Every kind of model times every edit: it works, and is right, or it refuses as recorded.

There is no third outcome. `grid/refusals.toml` holds the refusals; `python -m tools.support`
records them anew, and writes the support table of the docs.
"""

from __future__ import annotations

import keras
import pytest

from tests.grid import COLUMNS, ROWS, Record, attempt
from tools import support

RECORD = Record.load()

CELLS = [pytest.param(row, column, id=f"{row}-{column}") for row in ROWS for column in COLUMNS]


# What Keras says of a layer without `build`, and of a model that is given a tensor with a mask;
# what JAX says of int64, which lookups return.
@pytest.mark.filterwarnings(r"ignore:`build\(\)` was called on layer 'block'")
@pytest.mark.filterwarnings(r"ignore:Layer '.*_tail' .* was passed an input with a mask attached")
@pytest.mark.filterwarnings(r"ignore:Explicitly requested dtype int64")
@pytest.mark.parametrize(("row", "column"), CELLS)
def test_a_cell_works_or_refuses_as_recorded(row: str, column: str) -> None:
    kind = ROWS[row].kind
    if keras.backend.backend() in kind.unsupported:
        pytest.skip(kind.unsupported[keras.backend.backend()])
    if "hub" in kind.tags:
        pytest.importorskip("keras_hub")
    outcome, expected = (
        attempt(ROWS[row], COLUMNS[column]),
        RECORD.refusals.get(row, {}).get(column),
    )
    assert (outcome and outcome.error) == (expected and expected.error), outcome
    if RECORD.is_from_here:
        assert outcome == expected


@pytest.mark.nobackend
def test_the_record_names_cells_of_the_grid() -> None:
    recorded = {(row, column) for row, cells in RECORD.refusals.items() for column in cells}
    assert recorded <= {(row, column) for row in ROWS for column in COLUMNS}


@pytest.mark.nobackend
def test_the_support_table_says_what_is_recorded() -> None:
    assert support.PAGE.read_text() == support.page(RECORD), "run python -m tools.support --page"
