"""The grid: every kind of model, cut, mended and rewired by every edit.

    rows      where on which kind of model          (tests/grid/rows.py)
    columns   which edit, at that place              (tests/grid/columns.py)
    outcomes  what came of each cell that refuses    (tests/grid/outcomes.py, outcomes.toml)

`tests/test_grid.py` runs it, `tools/support.py` turns it into the support table of the docs.
"""

from tests.grid.columns import COLUMNS, Column
from tests.grid.outcomes import Refusal, attempt, recorded
from tests.grid.rows import ROWS, Row

__all__ = ["COLUMNS", "ROWS", "Column", "Refusal", "Row", "attempt", "recorded"]
