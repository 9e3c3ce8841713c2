"""Where only some of the ways that part at a vertex meet again.

Behind a tensor that a residual block and a long skip connection both read, the block's two ways
meet, the third goes on. That is no region between two vertices, because not all that leaves the
first comes to the second. A vertex put between the first and the two makes one of it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from resect.blocks.dominators import immediate_dominators, immediate_post_dominators


def partial_forks(before: Sequence[Sequence[int]]) -> list[list[int]]:
    """The smallest groups of ways that part at one vertex and all meet in another.

    Args:
        before: As for `dominators.regions`.

    Returns:
        For each group the vertices that its ways begin with, two or more of those behind one
        vertex but not all of them. The first vertex of the graph is no fork.

    Example:

    Of the three ways that part at 1, those by 2 and 3 meet in 5.

    >>> partial_forks([[], [0], [1], [1], [1], [2, 3], [4, 5]])
    [[2, 3]]
    """
    dominator = immediate_dominators(before)
    after = immediate_post_dominators(before)
    first, last = _intervals(dominator)
    children: list[list[int]] = [[] for _ in before]
    for vertex in range(1, len(before)):
        children[dominator[vertex]].append(vertex)
    found: list[list[int]] = []
    for fork, ways in enumerate(children):
        if fork and len(ways) > 2:  # two ways and where they meet, and at least one other
            meets = _meeting(fork, ways, dominator, after)
            tops = _Tops(ways, first, last)
            found += _smallest(ways, meets, {w: [tops.of(p) for p in before[w]] for w in ways})
    return found


def _intervals(dominator: list[int]) -> tuple[list[int], list[int]]:
    """By which two numbers it can be told whether a vertex lies below another in the tree."""
    size = [1] * len(dominator)
    for vertex in range(len(dominator) - 1, 0, -1):
        size[dominator[vertex]] += size[vertex]
    first, free = [0] * len(dominator), [1] * len(dominator)
    for vertex in range(1, len(dominator)):
        parent = dominator[vertex]
        first[vertex] = free[parent]
        free[parent] += size[vertex]
        free[vertex] = first[vertex] + 1
    return first, [start + count for start, count in zip(first, size, strict=True)]


class _Tops:
    """Which child of a fork a vertex lies below."""

    def __init__(self, ways: list[int], first: list[int], last: list[int]) -> None:
        self.ways = sorted(ways, key=first.__getitem__)
        self.starts = [first[way] for way in self.ways]
        self.first, self.last = first, last

    def of(self, vertex: int) -> int | None:
        place = bisect_right(self.starts, self.first[vertex]) - 1
        if place < 0 or self.last[self.ways[place]] <= self.first[vertex]:
            return None
        return self.ways[place]


def _meeting(
    fork: int, ways: list[int], dominator: list[int], after: list[int]
) -> dict[int, int | None]:
    """The nearest vertex that each way comes to, and that other ways from the fork come to."""
    found: dict[int, int | None] = {}
    for way in ways:
        vertex = way
        while vertex != after[fork]:
            vertex = after[vertex]
            if dominator[vertex] == fork or vertex == after[fork]:
                break
        found[way] = vertex if vertex != after[fork] and vertex != way else None
    return found


def _smallest(
    ways: list[int], meets: dict[int, int | None], tops: dict[int, list[int | None]]
) -> list[list[int]]:
    """The groups whose ways all meet in one vertex that nothing else comes to."""
    below: dict[int, list[int]] = {}
    for way in ways:
        meeting = meets[way]
        if meeting is not None:
            below.setdefault(meeting, []).append(way)
    found: list[list[int]] = []
    for meeting, group in below.items():
        plain = all(tops[way] == [None] for way in group)  # no smaller group within it
        if plain and len(group) > 1 and set(tops[meeting]) == set(group):
            found.append(group)
    return found
