"""What blocks are worth, as values, and how they print."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, overload

from rich.table import Table

from resect import plots
from resect.cost.profile import short
from resect.errors import SurgeryError
from resect.text import rendered

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Method = Literal["ablation", "influence", "angular", "taylor", "cka"]
SortKey = Literal["score", "parameters", "multiply_adds", "name"]

MEANINGS: dict[Method, str] = {
    "ablation": "change of the loss when it is bypassed",
    "influence": "1 − cosine of what enters and what leaves",
    "angular": "angle between what enters and what leaves, 1 for opposite",
    "taylor": "first-order estimate of the change of the loss when it is bypassed",
    "cka": "1 − similarity (CKA) of what enters and what leaves",
}


@dataclass(frozen=True)
class Ranked:
    """What one block is worth.

    Attributes:
        name: The block's name; of several consecutive ones the first and the last.
        ends: `resect.collapse(model, *ends)` takes it out.
        score: Its importance: what is least is missed least.
        low: Lower end of the 95 % confidence interval over batches; `nan` for a single batch.
        high: Upper end.
        changes: By `"ablation"`: by how much the loss and each metric change.
        parameters: Number of weights in it; `None` where it cannot be counted.
        multiply_adds: Of one sample; `None` where they cannot be counted.
    """

    name: str
    ends: tuple[str, str]
    score: float
    low: float
    high: float
    changes: Mapping[str, float] = field(default_factory=dict)
    parameters: int | None = None
    multiply_adds: int | None = None

    def record(self) -> dict[str, Any]:
        """All of it as a flat dict."""
        found = asdict(self)
        found.pop("changes")
        found["start"], found["end"] = found.pop("ends")
        return found | {f"change of {name}": value for name, value in self.changes.items()}


@dataclass(frozen=True)
class Similarity:
    """A table of numbers between places.

    Attributes:
        rows: Names of the rows.
        columns: Names of the columns.
        values: One row of numbers each; `nan` where there is none.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Importance(Sequence[Ranked]):
    """What the blocks of a model are worth. Print it: it is a table.

    Attributes:
        title: Kind and name of the model.
        method: How it was measured.
        rows: The blocks, in the order of the model.
        samples: Number of samples of the data.
        batches: Number of batches.
        baseline: By `"ablation"`: loss and metrics of the model as it is.
        similarity: By `"cka"`: between the places before and after all blocks. By `"angular"`: the
            distance from each place across 1, 2, … blocks.
        peak_bytes: By `"ablation"`: the most activations that were held at once.
    """

    title: str
    method: Method
    rows: tuple[Ranked, ...]
    samples: int
    batches: int
    baseline: Mapping[str, float] = field(default_factory=dict)
    similarity: Similarity | None = None
    peak_bytes: int = 0

    def sorted(self, by: SortKey = "score") -> tuple[Ranked, ...]:
        """The blocks, the least important first; by cost, the most expensive first."""
        if by == "name":
            return tuple(sorted(self.rows, key=lambda row: row.name))
        if by == "score":
            return tuple(sorted(self.rows, key=lambda row: row.score))
        return tuple(sorted(self.rows, key=lambda row: getattr(row, by) or 0, reverse=True))

    def records(self) -> list[dict[str, Any]]:
        """One flat dict a block: `pandas.DataFrame(importance.records())`."""
        return [row.record() for row in self.rows]

    def to_json(self) -> str:
        """All of it as JSON."""
        found: dict[str, Any] = {"model": self.title, "method": self.method}
        found |= {"samples": self.samples, "batches": self.batches}
        found["baseline"] = dict(self.baseline)
        found["similarity"] = None if self.similarity is None else asdict(self.similarity)
        found["blocks"] = self.records()
        return json.dumps(found, indent=2)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Ranked]:
        return iter(self.rows)

    @overload
    def __getitem__(self, item: int | str) -> Ranked: ...
    @overload
    def __getitem__(self, item: slice) -> Sequence[Ranked]: ...
    def __getitem__(self, item: int | str | slice) -> Ranked | Sequence[Ranked]:
        if isinstance(item, str):
            named = [row for row in self.rows if row.name == item]
            if not named:
                raise KeyError(f"No block of {self.title} that was measured is called '{item}'.")
            return named[0]
        return self.rows[item]

    def __str__(self) -> str:
        return self.table()

    def table(self, *, sort: SortKey | None = "score", limit: int | None = None) -> str:
        """The blocks as text.

        Args:
            sort: What to sort by; `None`: the order of the model.
            limit: How many blocks to show.
        """
        rows = self.rows if sort is None else self.sorted(sort)
        shown = rows[:limit]
        metrics = [name for name in self.baseline if name != "loss"]
        table = Table("block", box=None, pad_edge=False)
        columns = (self.method, "95 % interval", *metrics, "parameters", "multiply-adds")
        for column in columns:
            table.add_column(column, justify="right")
        for row in shown:
            table.add_row(*_cells(row, metrics))
        if len(shown) < len(rows):
            table.add_row(f"… {len(rows) - len(shown)} more")
        heading = f"{self.title}, {self.samples} samples: {MEANINGS[self.method]}"
        parts = [heading, "", rendered(table, width=200)]
        if self.baseline:
            now = ", ".join(f"{name} {value:.4g}" for name, value in self.baseline.items())
            parts += ["", f"as it is: {now}"]
        return "\n".join(parts)

    def plot(
        self, *, sort: SortKey | None = "score", limit: int | None = None, ax: Axes | None = None
    ) -> Axes:
        """Draws the blocks as bars, with their confidence intervals.

        Args:
            sort: What to sort by; `None`: the order of the model.
            limit: How many blocks to show.
            ax: Matplotlib's `Axes` to draw on; by default those of a new figure.

        Returns:
            The axes: `ax.figure.savefig("importance.png")` writes the picture.

        Raises:
            SurgeryError: Matplotlib is not installed.
        """
        rows = (self.rows if sort is None else self.sorted(sort))[:limit]
        return plots.bars(
            [row.name for row in rows],
            [row.score for row in rows],
            [row.low for row in rows],
            [row.high for row in rows],
            ax=ax,
            title=self.title,
            label=MEANINGS[self.method],
        )

    def plot_costs(
        self,
        by: Literal["parameters", "multiply_adds"] = "multiply_adds",
        *,
        ax: Axes | None = None,
    ) -> Axes:
        """Draws importance against cost: what is least missed and saves most is at the lower right.

        Args:
            by: Which cost; a block whose cost cannot be counted is left out.
            ax: Matplotlib's `Axes` to draw on; by default those of a new figure.

        Returns:
            The axes.

        Raises:
            SurgeryError: The cost of no block is known; or matplotlib is not installed.
        """
        known = [(row, cost) for row in self.rows if (cost := getattr(row, by)) is not None]
        if not known:
            raise SurgeryError(
                f"The {by.replace('_', '-')} of no block of {self.title} could be counted.",
                "resect.cost.register gives a layer class of one's own a rule; plot() needs none.",
            )
        return plots.scatter(
            [cost for _, cost in known],
            [row.score for row, _ in known],
            [row.name for row, _ in known],
            ax=ax,
            title=self.title,
            x_label=by.replace("_", "-"),
            y_label=MEANINGS[self.method],
        )

    def plot_similarity(self, *, ax: Axes | None = None) -> Axes:
        """Draws `similarity` as a table of colours.

        Args:
            ax: Matplotlib's `Axes` to draw on; by default those of a new figure.

        Returns:
            The axes.

        Raises:
            SurgeryError: The method measures no similarity; or matplotlib is not installed.
        """
        found = self.similarity
        if found is None:
            raise SurgeryError(
                f'By "{self.method}" there is no table of similarities to draw.',
                'Measure with method="cka" or method="angular".',
            )
        label = "similarity (CKA)" if self.method == "cka" else "angular distance"
        return plots.matrix(
            found.rows, found.columns, found.values, ax=ax, title=self.title, label=label
        )


def _cells(row: Ranked, metrics: Sequence[str]) -> tuple[str, ...]:
    interval = "" if row.low != row.low else f"{row.low:.3g} to {row.high:.3g}"
    changes = (f"{row.changes[name]:+.3g}" for name in metrics)
    parameters = "?" if row.parameters is None else f"{row.parameters:,}"
    arithmetic = "?" if row.multiply_adds is None else short(row.multiply_adds)
    return row.name, f"{row.score:.4g}", interval, *changes, parameters, arithmetic
