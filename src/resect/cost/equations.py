"""The size of an einsum."""

from __future__ import annotations

import math
from collections.abc import Sequence


def einsum(equation: str, shapes: Sequence[Sequence[int]]) -> int | None:
    """Multiply-adds of an einsum of one or two tensors; `None` for more, whose order is open.

    An axis that only one of the two has, and the result does not, is summed before. Products that
    nothing adds up are element-wise, and count as nothing.

    Example:

    >>> einsum("bij,jk->bik", [(2, 3, 4), (4, 5)])
    120
    >>> einsum("...x,xy->...y", [(2, 3, 4), (4, 5)])
    120
    >>> einsum("bi,bj->bij", [(2, 3), (2, 4)]), einsum("bij,bjk->bk", [(2, 3, 4), (2, 4, 5)])
    (0, 40)
    """
    if len(shapes) > 2:
        return None
    if len(shapes) == 1:
        return 0
    terms, arrow, result = equation.replace(" ", "").partition("->")
    pairs = zip(terms.split(","), shapes, strict=True)
    one, other = (dict(zip(_axes(t, len(s)), map(int, s), strict=True)) for t, s in pairs)
    both = one.keys() & other.keys()
    kept = {axis for axis in one.keys() | other.keys() if isinstance(axis, int) or axis in result}
    if not arrow:
        kept = {axis for axis in one.keys() ^ other.keys() if terms.count(str(axis)) == 1}
        kept |= {axis for axis in one.keys() | other.keys() if isinstance(axis, int)}
    if not both - kept:
        return 0
    return math.prod(max(one.get(a, 1), other.get(a, 1)) for a in both | kept)


def _axes(term: str, rank: int) -> list[str | int]:
    """The letters of a term; those that an ellipsis stands for are numbered from the end."""
    first, dots, last = term.partition("...")
    hidden = rank - len(first) - len(last) if dots else 0
    return [*first, *range(-hidden, 0), *last]
