"""What stands for what in two models: the report that `align` and `transfer` give."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table

from resect.aligning import How, Pairing, Unit
from resect.errors import EditError
from resect.text import rendered

_LISTED = 8  # so many of what is left, in an error
_SHOWN = 4  # so many of several candidates, and of unremarkable rows in a row


@dataclass(frozen=True)
class Match:
    """A layer of the source, or a part of one, that stands for one of the target.

    Attributes:
        source: Path in the source.
        target: Path in the target.
        kind: Class.
        shapes: Its variables.
        how: `"name"`, `"position"` (in the order of the layers), `"shape"` (nothing else has its
            class and shapes) or `"rename"`.
    """

    source: str
    target: str
    kind: str
    shapes: str
    how: How


@dataclass(frozen=True)
class Left:
    """A layer, or a part of one, that nothing stands for.

    Attributes:
        path: Path in its model.
        kind: Class.
        shapes: Its variables.
        reason: Why.
        ambiguous: Whether there is more than one that it could be.
    """

    path: str
    kind: str
    shapes: str
    reason: str
    ambiguous: bool = False


@dataclass(frozen=True)
class Alignment:
    """Which layers of two models stand for each other. Print it.

    Attributes:
        source: Name of the one model, or of the file.
        target: Name of the other.
        rows: Everything, in the order of the target: a `Match`, or what is left of the target.
        unused: What is left of the source.
        notes: What else there is to know: state that is not a weight.
    """

    source: str
    target: str
    rows: tuple[Match | Left, ...]
    unused: tuple[Left, ...]
    notes: tuple[str, ...] = ()

    @property
    def matches(self) -> tuple[Match, ...]:
        """What stands for each other."""
        return tuple(row for row in self.rows if isinstance(row, Match))

    @property
    def fresh(self) -> tuple[Left, ...]:
        """What of the target keeps the values that it has."""
        return tuple(row for row in self.rows if isinstance(row, Left))

    @property
    def complete(self) -> bool:
        """Whether nothing is left on either side."""
        return not (self.fresh or self.unused)

    def raise_if_incomplete(self) -> None:
        """Raises what is left.

        Raises:
            EditError: Something is left on either side; all of it is listed.
        """
        sides = (("target", self.fresh), ("source", self.unused))
        found = [
            f"'{left.path}' ({left.kind}) of the {side}: {left.reason}"
            for side, lefts in sides
            for left in lefts
        ]
        if found:
            more = f"\n… and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
            raise EditError(
                f"From {self.source} to {self.target}, {len(found)} are left:\n"
                + "\n".join(found[:_LISTED])
                + more,
                "Say what stands for what with rename={'source': 'target'}, or leave strict out.",
            )

    def __str__(self) -> str:
        table = Table("", "source", "target", "class", "variables", box=None, pad_edge=False)
        for row in _collapsed(list(_rows(self))):
            table.add_row(*row)
        lines = [f"From {self.source} to {self.target}", "", rendered(table), ""]
        lines.append(
            f"{len(self.matches)} matched, {len(self.fresh)} of the target left, "
            f"{len(self.unused)} of the source left"
        )
        lines += [f"left: {left.path}: {left.reason}" for left in (*self.fresh, *self.unused)]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


_Row = tuple[str, str, str, str, str]


def _rows(alignment: Alignment) -> Iterator[_Row]:
    for row in alignment.rows:
        if isinstance(row, Match):
            yield row.how, row.source, row.target, row.kind, row.shapes
        else:
            status = "ambiguous" if row.ambiguous else "left"
            yield status, "", row.path, row.kind, row.shapes
    for left in alignment.unused:
        status = "ambiguous" if left.ambiguous else "left"
        yield status, left.path, "", left.kind, left.shapes


def _collapsed(rows: list[_Row]) -> Iterator[_Row]:
    """The rows, with long runs of what simply has its name on both sides as one."""
    run: list[_Row] = []

    def flushed() -> Iterator[_Row]:
        if len(run) > _SHOWN:
            yield run[0]
            yield "", f"… {len(run) - 2} by name", "", "", ""
            yield run[-1]
        else:
            yield from run
        run.clear()

    for row in rows:
        if row[0] == "name" and row[1] == row[2]:
            run.append(row)
            continue
        yield from flushed()
        yield row
    yield from flushed()


def alignment_of(pairing: Pairing, source: str, target: str, notes: tuple[str, ...]) -> Alignment:
    """The report of a pairing."""
    rows: list[Match | Left] = []
    for j, unit in enumerate(pairing.target):
        if j in pairing.pairs:
            i, how = pairing.pairs[j]
            found = pairing.source[i]
            rows.append(Match(_name(found), _name(unit), unit.kind, unit.shapes, how))
        else:
            could_be = [pairing.source[i] for i in pairing.doubts.get(j, ())]
            rows.append(_left(unit, could_be, pairing.source))
    could_be_of: dict[int, list[Unit]] = {}
    for j, places in pairing.doubts.items():
        for i in places:
            could_be_of.setdefault(i, []).append(pairing.target[j])
    taken = pairing.taken
    unused = tuple(
        _left(unit, could_be_of.get(i, []), pairing.target)
        for i, unit in enumerate(pairing.source)
        if i not in taken
    )
    return Alignment(source, target, tuple(rows), unused, notes)


def _name(unit: Unit) -> str:
    return unit.name or "(the model itself)"


def _left(unit: Unit, could_be: Sequence[Unit], others: Sequence[Unit]) -> Left:
    reason = _reason(unit, could_be, others)
    return Left(_name(unit), unit.kind, unit.shapes, reason, bool(could_be))


def _reason(unit: Unit, could_be: Sequence[Unit], others: Sequence[Unit]) -> str:
    if could_be:
        shown = ", ".join(f"'{_name(other)}'" for other in could_be[:_SHOWN])
        more = f" and {len(could_be) - _SHOWN} more" if len(could_be) > _SHOWN else ""
        return f"it could be {shown}{more}"
    namesakes = [other for other in others if other.path[-1:] == unit.path[-1:]]
    same = [other for other in namesakes if other.path == unit.path] or namesakes
    if len(same) == 1 and same[0].layout != unit.layout:
        return f"the other's '{_name(same[0])}' has {same[0].shapes}"
    if any(other.signature == unit.signature for other in others):
        return "all that have its class and shapes are others, or stand elsewhere"
    return "nothing has its class and shapes"


def nearest(name: str, units: Sequence[Unit]) -> str:
    """The paths that are most like a name, as a repair says them."""
    close = difflib.get_close_matches(name, [unit.name for unit in units], n=3, cutoff=0.3)
    return f"Near it: {', '.join(map(repr, close))}." if close else "Print resect.adapt.align."
