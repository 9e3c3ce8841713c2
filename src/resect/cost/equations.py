"""The size of an einsum."""

from __future__ import annotations

import math
from collections.abc import Sequence


def einsum(equation: str, shapes: Sequence[Sequence[int]]) -> int | None:
    """Multiply-adds of an einsum of one or two tensors; `None` for more, whose order is open.

    Example:

    >>> einsum("bij,jk->bik", [(2, 3, 4), (4, 5)])
    120
    >>> einsum("...x,xy->...y", [(2, 3, 4), (4, 5)])
    120
    """
    if len(shapes) > 2:
        return None
    if len(shapes) == 1:
        return 0
    known: dict[object, int] = {}
    terms = equation.replace(" ", "").split("->")[0].split(",")
    for term, shape in zip(terms, shapes, strict=True):
        for axis, size in zip(_axes(term, len(shape)), shape, strict=True):
            known[axis] = max(known.get(axis, 1), int(size))
    return math.prod(known.values())


def _axes(term: str, rank: int) -> list[object]:
    """The letters of a term; those that an ellipsis stands for are numbered from the end."""
    first, dots, last = term.partition("...")
    hidden = rank - len(first) - len(last) if dots else 0
    return [*first, *range(-hidden, 0), *last]
