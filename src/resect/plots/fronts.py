"""Which points no other point beats."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Literal

Better = Literal["lower", "higher"]
Point = tuple[float, float]


def front(
    points: Sequence[Point], better: tuple[Better, Better] = ("lower", "lower")
) -> tuple[int, ...]:
    """The Pareto front of points: those that no other beats.

    A point beats another that is worse in one coordinate and not better in the other. Of equal
    points all are in the front, or none. Points with a `nan` are never in it.

    Args:
        points: The points.
        better: Which way is better, of each coordinate.

    Returns:
        Positions of those points, in the order of the first coordinate.

    Raises:
        ValueError: `better` holds something else than `"lower"` and `"higher"`.

    Example:

    >>> from resect import plots
    >>> plots.front([(2, 0.7), (1, 0.5), (3, 0.6), (4, 0.9)], better=("lower", "higher"))
    (1, 0, 3)
    """
    if not set(better) <= {"lower", "higher"}:
        raise ValueError(f"better={better!r} is to be 'lower' or 'higher' for each coordinate.")
    signs = [1 if way == "lower" else -1 for way in better]
    costs = [(signs[0] * x, signs[1] * y) for x, y in points]
    known = [i for i, cost in enumerate(costs) if all(map(isfinite, cost))]
    found: list[int] = []
    for i in sorted(known, key=lambda i: costs[i]):
        if not found or costs[i][1] < costs[found[-1]][1] or costs[i] == costs[found[-1]]:
            found.append(i)
    return tuple(sorted(found, key=lambda i: points[i][0]))
