"""The record of the grid, `refusals.toml`: every cell that refuses, with its words.

Cells that are not in it work. A kind that refuses every edit in the same words is recorded once,
under `"*"`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import keras

from tests.grid.columns import COLUMNS
from tests.grid.outcomes import Refusal
from tests.grid.rows import ROWS

PATH = Path(__file__).parent / "refusals.toml"

HEADING = """\
# Every cell of the grid that refuses, by row and column; all others work.
# Written by `python -m tools.support`. Review each change: is it legitimate to refuse this?
"""

Refusals = Mapping[str, Mapping[str, Refusal]]


@dataclass(frozen=True)
class Record:
    """What came of the grid when it was last recorded.

    Attributes:
        backend: Where it ran.
        keras: Under which release of Keras, such as `"3.15"`.
        refusals: The refusals by row and column.
    """

    backend: str = ""
    keras: str = ""
    refusals: Refusals = field(default_factory=dict)

    @classmethod
    def load(cls) -> Record:
        """The record on disk."""
        data = tomllib.loads(PATH.read_text()) if PATH.exists() else {}
        made = data.pop("recorded", {})
        return cls(**made, refusals={row: _expanded(cells) for row, cells in data.items()})

    def save(self) -> None:
        """Writes it to disk."""
        lines = [HEADING, "[recorded]", f'backend = "{self.backend}"', f'keras = "{self.keras}"']
        for row in ROWS:
            for column, refusal in _folded(self.refusals.get(row, {})).items():
                lines += ["", f'["{row}"."{column}"]', f'error = "{refusal.error}"']
                lines += [f"message = '''\n{refusal.message}'''"]
        PATH.write_text("\n".join(lines) + "\n")

    @property
    def is_from_here(self) -> bool:
        """Whether refusals must have the same words here: some of them are Keras's own."""
        return (self.backend, self.keras) == (keras.backend.backend(), keras_release())


def keras_release() -> str:
    """Major and minor version of Keras."""
    return ".".join(keras.__version__.split(".")[:2])


def _expanded(cells: Mapping[str, Mapping[str, str]]) -> dict[str, Refusal]:
    refusals = {column: Refusal(**cell) for column, cell in cells.items()}
    return dict.fromkeys(COLUMNS, refusals["*"]) if "*" in refusals else refusals


def _folded(cells: Mapping[str, Refusal]) -> Mapping[str, Refusal]:
    same = set(cells) == set(COLUMNS) and len(set(cells.values())) == 1
    return {"*": next(iter(cells.values()))} if same else cells
