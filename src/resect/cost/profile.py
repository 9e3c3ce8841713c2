"""Costs as values, and how they print."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, overload

from rich.table import Table

from resect.text import byte_size, rendered

SortKey = Literal["parameters", "weight_bytes", "multiply_adds", "activation_bytes", "name"]

_SHOWN = 40


@dataclass(frozen=True)
class Cost:
    """What one call costs.

    Attributes:
        name: The user's spelling of the call.
        kind: The layer's class.
        output_shapes: Shape of each tensor that it returns, batch included.
        parameters: Number of its weights; of a weight that several calls use, at the first.
        weight_bytes: What they take in memory.
        multiply_adds: Of the whole batch; `None` where nobody counts them. Where only a part of a
            layer is counted, that part.
        activation_bytes: What its outputs take in memory.
        uncounted: What in it nobody counts.
    """

    name: str
    kind: str
    output_shapes: tuple[tuple[int | None, ...], ...]
    parameters: int
    weight_bytes: int
    multiply_adds: int | None
    activation_bytes: int
    uncounted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Latency:
    """Measured time of one prediction, in seconds.

    Attributes:
        median: Half of the runs took longer.
        fastest: The shortest run.
        slowest: The longest.
        runs: How many were timed, after others that were not.
        backend: The backend that ran it.
    """

    median: float
    fastest: float
    slowest: float
    runs: int
    backend: str

    def __str__(self) -> str:
        return (
            f"{1000 * self.median:.3g} ms (median of {self.runs} on {self.backend}, "
            f"{1000 * self.fastest:.3g} to {1000 * self.slowest:.3g})"
        )


@dataclass(frozen=True)
class Profile(Sequence[Cost]):
    """What a model costs, call by call. Print it: it is a table.

    Attributes:
        title: Kind and name of the model.
        batch: Number of samples that it was counted for.
        input_shapes: By name, the shapes of the inputs, batch included.
        rows: The calls in topological order, those of nested models in the place of the model.
        peak_bytes: The most memory that inputs and activations take at once: every tensor from the
            call that returns it to the last that reads it, calls one by one in topological order,
            nothing computed in place, and nothing known of what a layer needs while it runs.
        latency: Measured, if it was asked for.
    """

    title: str
    batch: int
    input_shapes: tuple[tuple[str, tuple[int | None, ...]], ...]
    rows: tuple[Cost, ...]
    peak_bytes: int
    latency: Latency | None = None

    @property
    def parameters(self) -> int:
        """Number of weights, each once."""
        return sum(row.parameters for row in self.rows)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights, each once."""
        return sum(row.weight_bytes for row in self.rows)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of all calls that are counted; see `uncounted`."""
        return sum(row.multiply_adds or 0 for row in self.rows)

    @property
    def activation_bytes(self) -> int:
        """Bytes of all that calls return, as training keeps them."""
        return sum(row.activation_bytes for row in self.rows)

    @property
    def uncounted(self) -> tuple[str, ...]:
        """The calls with arithmetic that nobody counts, each with what in it that is."""
        return tuple(f"{r.name} ({', '.join(r.uncounted)})" for r in self.rows if r.uncounted)

    def of(self, calls: Iterable[str]) -> Profile:
        """The part of some calls, such as `block.calls`; a nested model stands for all in it.

        Raises:
            KeyError: There is no such call.
        """
        chosen: dict[int, Cost] = {}
        for call in calls:
            found = [
                i
                for i, row in enumerate(self.rows)
                if row.name == call or row.name.startswith(f"{call}/")
            ]
            if not found:
                raise KeyError(f"No call of {self.title} is spelled '{call}'.")
            chosen.update({i: self.rows[i] for i in found})
        rows = tuple(chosen[i] for i in sorted(chosen))
        return Profile(self.title, self.batch, self.input_shapes, rows, self.peak_bytes)

    def sorted(self, by: SortKey = "multiply_adds") -> tuple[Cost, ...]:
        """The calls, the most expensive first."""
        if by == "name":
            return tuple(sorted(self.rows, key=lambda row: row.name))
        return tuple(sorted(self.rows, key=lambda row: getattr(row, by) or 0, reverse=True))

    def records(self) -> list[dict[str, Any]]:
        """One dict a call: `pandas.DataFrame(profile.records())`."""
        return [asdict(row) for row in self.rows]

    def to_json(self) -> str:
        """Totals and calls as JSON."""
        found: dict[str, Any] = {"model": self.title, "batch": self.batch}
        found["input_shapes"] = dict(self.input_shapes)
        for key in ("parameters", "weight_bytes", "multiply_adds", "activation_bytes"):
            found[key] = getattr(self, key)
        found["peak_bytes"] = self.peak_bytes
        found["uncounted"] = list(self.uncounted)
        found["latency"] = None if self.latency is None else asdict(self.latency)
        found["calls"] = self.records()
        return json.dumps(found, indent=2)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Cost]:
        return iter(self.rows)

    @overload
    def __getitem__(self, item: int | str) -> Cost: ...
    @overload
    def __getitem__(self, item: slice) -> Sequence[Cost]: ...
    def __getitem__(self, item: int | str | slice) -> Cost | Sequence[Cost]:
        if isinstance(item, str):
            named = [row for row in self.rows if row.name == item]
            if not named:
                raise KeyError(f"No call of {self.title} is spelled '{item}'.")
            return named[0]
        return self.rows[item]

    def __str__(self) -> str:
        if len(self.rows) > _SHOWN:
            return self.table(sort="multiply_adds", limit=_SHOWN // 2)
        return self.table()

    def table(self, *, sort: SortKey | None = None, limit: int | None = None) -> str:
        """The calls and the totals as text.

        Args:
            sort: What to sort by, the most expensive first; by default the order of the calls.
            limit: How many calls to show.
        """
        rows = self.rows if sort is None else self.sorted(sort)
        shown = rows[:limit]
        table = Table("call", "class", "output shape", box=None, pad_edge=False)
        for column in ("parameters", "multiply-adds", "activations"):
            table.add_column(column, justify="right")
        for row in shown:
            table.add_row(*_cells(row))
        if len(shown) < len(rows):
            table.add_row(f"… {len(rows) - len(shown)} more")
        return "\n".join([self.title, "", rendered(table, width=160), "", *self._totals()])

    def _totals(self) -> Iterator[str]:
        inputs = ", ".join(f"{name} {shape}" for name, shape in self.input_shapes)
        yield f"for           {inputs}"
        yield f"parameters    {self.parameters:,} ({byte_size(self.weight_bytes)})"
        yield f"multiply-adds {short(self.multiply_adds)}"
        yield f"activations   {byte_size(self.activation_bytes)}"
        yield f"at once       {byte_size(self.peak_bytes)}"
        if self.latency is not None:
            yield f"latency       {self.latency}"
        if self.uncounted:
            yield f"not counted   {', '.join(self.uncounted)}"


def _cells(row: Cost) -> tuple[str, ...]:
    shapes = " ".join(str(shape) for shape in row.output_shapes)
    known = short(row.multiply_adds) if row.multiply_adds else ""
    counted = "?" if row.multiply_adds is None else known + "+?" * bool(row.uncounted)
    parameters = f"{row.parameters:,}" if row.parameters else ""
    return row.name, row.kind, shapes, parameters, counted, byte_size(row.activation_bytes)


def short(number: int) -> str:
    """A large number in three digits: `4.09 G`.

    >>> short(999), short(15_470_264_320)
    ('999', '15.5 G')
    """
    size = float(number)
    for unit in ("", "k", "M", "G", "T"):
        if size < 999.5 or unit == "T":
            return f"{size:.3g} {unit}".strip()
        size /= 1000
    return ""
