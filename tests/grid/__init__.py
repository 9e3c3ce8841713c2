"""The grid: every kind of model, edited by every edit.

    rows      where on which kind of model       (tests/grid/rows.py)
    columns   which edit, at or next to there    (tests/grid/columns.py)
    outcomes  a cell works, or refuses           (tests/grid/outcomes.py)
    record    the refusals as last recorded      (tests/grid/record.py, tests/grid/refusals.toml)

`tests/test_grid.py` runs it; `tools/support.py` records it, and turns it into the support table.
"""

from tests.grid.columns import COLUMNS, Column
from tests.grid.outcomes import Refusal, attempt
from tests.grid.record import Record, keras_release
from tests.grid.rows import ROWS, Row

__all__ = ["COLUMNS", "ROWS", "Column", "Record", "Refusal", "Row", "attempt", "keras_release"]
