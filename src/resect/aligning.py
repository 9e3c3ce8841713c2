"""Which layer of one model stands for which of another: by name, then by order. No Keras.

Both models are sequences of units: layers, and parts of layers, that hold variables. Two units may
stand for each other if they have one signature, which is the class and the names and shapes of
the variables. Names that someone chose come first. What they leave open is aligned as `diff`
aligns lines: as many pairs as there can be in one order on both sides. A pair counts only if it is
in every such alignment; what could be paired differently is ambiguous, and said to be.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from resect.graph import VariableSpec

How = Literal["rename", "name", "position", "shape"]


@dataclass(frozen=True, eq=False)
class Unit:
    """A layer, or a part of one, that holds variables of its own.

    Attributes:
        path: The names that lead to it, without the model's.
        given: Of each of them, whether someone chose it; Keras gave the others (`dense_1`).
        kind: Its class.
        variables: Its own variables.
        handle: What holds the values, opaque here.
    """

    path: tuple[str, ...]
    given: tuple[bool, ...]
    kind: str
    variables: tuple[VariableSpec, ...]
    handle: Any = None

    @cached_property
    def signature(self) -> Hashable:
        """What two units must have in common to stand for each other."""
        return self.kind, self.layout

    @cached_property
    def layout(self) -> Hashable:
        """Names, shapes and kinds of number of its variables, in order."""
        return tuple((_role(v.name), v.shape, _number(v.dtype)) for v in self.variables)

    @property
    def name(self) -> str:
        """Its path, as it is spelled."""
        return "/".join(self.path)

    @cached_property
    def tail(self) -> tuple[str, ...]:
        """The end of the path that someone chose."""
        kept = 0
        while kept < len(self.path) and self.given[-1 - kept]:
            kept += 1
        return self.path[len(self.path) - kept :]

    @property
    def shapes(self) -> str:
        """Its variables, as they are printed."""
        listed = [f"{_role(v.name)} {_shape(v.shape)}".strip() for v in self.variables]
        return ", ".join(listed)


def _role(name: str) -> str:
    return re.sub(r"_\d+$", "", name)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) if shape else "scalar"


def _number(dtype: str) -> str:
    kinds = ("float8", "bfloat16", "float", "uint", "int", "bool")
    kind = next((kind for kind in kinds if dtype.startswith(kind)), dtype)
    return "float" if kind == "bfloat16" else kind


@dataclass
class Pairing:
    """Which unit of the source stands for which of the target, while it is being found.

    Attributes:
        source: Units of the source, in order.
        target: Units of the target, in order.
        pairs: By its place in the target, the place in the source, and how the pair was found.
        doubts: By its place in the target, the places in the source that it could be.
    """

    source: Sequence[Unit]
    target: Sequence[Unit]
    pairs: dict[int, tuple[int, How]] = field(default_factory=dict)
    doubts: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def taken(self) -> set[int]:
        """The places in the source that have a pair."""
        return {i for i, _ in self.pairs.values()}

    def by_key(
        self, how: How, mine: Callable[[Unit], Iterable[Any]], theirs: Callable[[Unit], Any]
    ) -> None:
        """Pairs what has a key in common that nothing else has.

        Args:
            how: How the pairs are found.
            mine: From a unit of one side to its keys.
            theirs: From a unit of the other to its only key; `None` leaves it out.
        """
        for reverse in (False, True):
            one, other = (self.target, self.source) if reverse else (self.source, self.target)
            taken, done = self.taken, set(self.pairs)
            if reverse:
                taken, done = done, taken
            index = _index(one, taken, mine)
            wanted = _index(other, done, lambda unit: [theirs(unit)])
            for key, places in wanted.items():
                found = index.get(key, [])
                if key is None or len(places) != 1 or len(found) != 1:
                    continue
                i, j = (places[0], found[0]) if reverse else (found[0], places[0])
                if j not in self.pairs and i not in self.taken:
                    self.pairs[j] = i, how


def _index(
    units: Sequence[Unit], without: set[int], keys: Callable[[Unit], Iterable[Any]]
) -> dict[Any, list[int]]:
    found: dict[Any, list[int]] = collections.defaultdict(list)
    for i, unit in enumerate(units):
        if i not in without:
            for key in keys(unit):
                found[key].append(i)
    return found


def pair(
    source: Sequence[Unit],
    target: Sequence[Unit],
    by: Sequence[str] = ("name", "position"),
    renamed: Mapping[int, tuple[str, ...]] | None = None,
    *,
    in_order: bool = True,
) -> Pairing:
    """Finds which unit stands for which.

    Args:
        source: Units of the source, in order.
        target: Units of the target, in order.
        by: What counts: `"name"`, `"position"`, or both. Of both, only names that were chosen
            count; alone, all do.
        renamed: The path that a unit of the source, by its place, has in the target.
        in_order: Whether the two orders mean the same thing. Where they do not, position only
            counts for what has a signature that nothing else has.
    """
    found = Pairing(source, target)
    renamed = renamed or {}
    places = {unit.path: j for j, unit in enumerate(target)}
    for i, path in renamed.items():
        found.pairs[places[path]] = i, "rename"
    if "name" in by:
        _by_name(found, every="position" not in by)
    if "position" in by:
        if in_order:
            _by_order(found)
        else:
            _by_shape(found)
    return found


def _by_name(found: Pairing, *, every: bool) -> None:
    def path(unit: Unit) -> Any:
        return unit.path if every or all(unit.given) else None

    def tail(unit: Unit) -> Any:
        return unit.path if every else unit.tail or None

    def tails(unit: Unit) -> Any:
        names = tail(unit) or ()
        return [(names[i:], unit.signature) for i in range(len(names))]

    def keyed(key: Callable[[Unit], Any], what: str) -> Callable[[Unit], Any]:
        return lambda unit: (names, getattr(unit, what)) if (names := key(unit)) else None

    for key, what in ((path, "signature"), (tail, "signature"), (path, "layout")):
        whole = keyed(key, what)
        found.by_key("name", lambda unit, whole=whole: [whole(unit)], whole)
    found.by_key("name", tails, keyed(tail, "signature"))


def _by_shape(found: Pairing) -> None:
    found.by_key("shape", lambda unit: [unit.signature], lambda unit: unit.signature)
    _doubt(found)


def _doubt(found: Pairing) -> None:
    """Notes what could be paired, of the units that nothing else tells apart."""
    open_ = _index(found.source, found.taken, lambda unit: [unit.signature])
    for j, unit in enumerate(found.target):
        if j not in found.pairs and unit.signature in open_:
            found.doubts[j] = tuple(open_[unit.signature])


def _by_order(found: Pairing) -> None:
    """Aligns the sequences; pairs that were found by name hold, wherever they stand."""
    scores = _scores(found)
    before, after = _best(scores), _best(scores[::-1, ::-1])[::-1, ::-1]
    best = before[-1, -1]
    possible = (scores > 0) & (before[:-1, :-1] + scores + after[1:, 1:] == best)
    left_out = (before[:-1, :] + after[1:, :] == best).any(axis=1)  # in some best alignment
    target_left_out = (before[:, :-1] + after[:, 1:] == best).any(axis=0)
    for j in range(len(found.target)):
        candidates = np.flatnonzero(possible[:, j])
        if j in found.pairs or not len(candidates):
            continue
        i = int(candidates[0])
        alone = len(candidates) == 1 and possible[i].sum() == 1
        if alone and not left_out[i] and not target_left_out[j]:
            found.pairs[j] = i, "position"
        else:
            found.doubts[j] = tuple(map(int, candidates))


def _scores(found: Pairing) -> np.ndarray:
    """What each pair is worth: `(source, target)`, 0 for what may not be paired.

    One pair that was found by name weighs more than all others together.
    """
    number: dict[Any, int] = {}
    ones, others = (
        np.array([number.setdefault(u.signature, len(number)) for u in units], "int64")
        for units in (found.source, found.target)
    )
    scores = (ones[:, None] == others[None, :]).astype("int64")
    for j, (i, _) in found.pairs.items():
        scores[i, :], scores[:, j] = 0, 0
    for j, (i, _) in found.pairs.items():
        scores[i, j] = min(scores.shape) + 1
    return scores


def _best(scores: np.ndarray) -> np.ndarray:
    """The worth of the best alignment of the first i and the first j, for all i and j."""
    rows, columns = scores.shape
    best = np.zeros((rows + 1, columns + 1), "int64")
    for i in range(rows):
        best[i + 1, 1:] = np.maximum(best[i, 1:], best[i, :-1] + scores[i])
        np.maximum.accumulate(best[i + 1], out=best[i + 1])
    return best
