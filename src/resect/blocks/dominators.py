"""Dominators of a graph without cycles, and the regions that lie between two of its vertices.

A vertex dominates another if every path from the entry to that one goes through it. In a graph
without cycles one pass in topological order finds all of them: the immediate dominator of a vertex
is the nearest common ancestor, in the tree found so far, of the vertices before it (Cooper, Harvey
and Kennedy, "A simple, fast dominance algorithm", 2001, whose iteration ends after one round here).
Common ancestors are found in logarithmic time with one jump pointer a vertex (Myers, "An
applicative random-access stack", 1983), so chains of any length take near-linear time.

Vertices are the numbers from 0, in topological order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


def immediate_dominators(before: Sequence[Sequence[int]]) -> list[int]:
    """The immediate dominator of every vertex; the entry's is itself.

    Args:
        before: For each vertex those with an edge to it, all of smaller numbers. Only the first
            has none.

    Example:

    >>> immediate_dominators([[], [0], [1], [1], [2, 3]])
    [0, 0, 1, 1, 1]
    """
    tree = _Tree(len(before))
    for vertex in range(1, len(before)):
        first, *others = before[vertex]
        for other in others:
            first = tree.common(first, other)
        tree.add(vertex, first)
    return tree.parent


class _Tree:
    """A tree that grows by leaves and answers which ancestor two vertices share."""

    def __init__(self, size: int) -> None:
        self.parent, self.depth, self.jump = [0] * size, [0] * size, [0] * size

    def add(self, vertex: int, parent: int) -> None:
        jump = self.jump[parent]
        even = (
            self.depth[parent] - self.depth[jump] == self.depth[jump] - self.depth[self.jump[jump]]
        )
        self.parent[vertex] = parent
        self.depth[vertex] = self.depth[parent] + 1
        self.jump[vertex] = self.jump[jump] if even else parent

    def common(self, one: int, other: int) -> int:
        if self.depth[one] < self.depth[other]:
            one, other = other, one
        while self.depth[one] > self.depth[other]:
            near = self.depth[self.jump[one]] < self.depth[other]
            one = self.parent[one] if near else self.jump[one]
        while one != other:
            if self.jump[one] == self.jump[other]:  # their jumps lead to one depth
                one, other = self.parent[one], self.parent[other]
            else:
                one, other = self.jump[one], self.jump[other]
        return one


@dataclass(frozen=True)
class Regions:
    """Where a graph narrows to a single vertex, and what lies between.

    A region leads from a vertex to the nearest one that all its paths meet in, if all paths to
    that one also come from it. Two regions are nested, or one begins where the other ends, or they
    have nothing in common ("The program structure tree", Johnson, Pearson and Pingali, 1994, here
    with the vertices as what is entered and left).

    Attributes:
        exit: By the vertex that a region begins with, the one that it ends with.
        around: For each vertex the first vertex of the innermost region that it lies strictly
            inside of, -1 if there is none.
    """

    exit: dict[int, int]
    around: list[int]


def regions(before: Sequence[Sequence[int]]) -> Regions:
    """The smallest regions with one entry and one exit, each with the one that it lies in.

    Args:
        before: As for `immediate_dominators`; only the last vertex has none behind it.

    Example:

    >>> regions([[], [0], [1], [1], [2, 3]])
    Regions(exit={0: 1, 1: 4}, around=[-1, -1, 1, 1, -1])
    """
    dominator = immediate_dominators(before)
    after = immediate_post_dominators(before)
    exits = {
        v: after[v] for v in range(len(before) - 1) if after[v] != v and dominator[after[v]] == v
    }
    around = [-1] * len(before)
    for vertex in range(1, len(before)):
        entry = dominator[vertex]
        inside = entry in exits and exits[entry] != vertex
        around[vertex] = entry if inside else around[entry]
    return Regions(exits, around)


def immediate_post_dominators(before: Sequence[Sequence[int]]) -> list[int]:
    """The nearest vertex that all paths from each vertex lead through; the last one's is itself.

    Example:

    >>> immediate_post_dominators([[], [0], [1], [1], [2, 3]])
    [1, 4, 4, 4, 4]
    """
    last = len(before) - 1
    behind: list[list[int]] = [[] for _ in before]
    for vertex, sources in enumerate(before):
        for source in sources:
            behind[last - source].append(last - vertex)
    return [last - found for found in reversed(immediate_dominators(behind))]
