"""Every kind of model times every edit: it works, and is right, or it refuses as recorded.

There is no third outcome. `outcomes.toml` holds the refusals; `python -m tools.support` records
them anew, and writes the support table of the docs.
"""

from __future__ import annotations

import pytest

from tests.grid import COLUMNS, ROWS, attempt, recorded

RECORDED = recorded()

CELLS = [(row, column) for row in ROWS for column in COLUMNS]


@pytest.mark.parametrize(("row", "column"), CELLS, ids=[f"{r}-{c}" for r, c in CELLS])
# What Keras says of a layer without `build`, and of a model that is given a tensor with a mask.
@pytest.mark.filterwarnings(r"ignore:`build\(\)` was called on layer 'block'")
@pytest.mark.filterwarnings(r"ignore:Layer '.*_tail' .* was passed an input with a mask attached")
def test_a_cell_works_or_refuses_as_recorded(row: str, column: str) -> None:
    kind = ROWS[row].kind
    if not ROWS[row].runs_here:
        pytest.skip(kind.unsupported[__import__("keras").backend.backend()])
    if "hub" in kind.tags:
        pytest.importorskip("keras_hub")
    assert attempt(ROWS[row], COLUMNS[column]) == RECORDED.get(row, {}).get(column)
