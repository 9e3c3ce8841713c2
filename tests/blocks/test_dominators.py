"""Dominators and regions, against their definitions."""

from __future__ import annotations

import random
import time
from itertools import pairwise, product

import pytest

from resect.blocks.dominators import immediate_dominators, regions
from resect.blocks.forks import partial_forks

pytestmark = pytest.mark.nobackend


def random_graph(seed: int) -> list[list[int]]:
    """A graph without cycles, in which everything lies between the first and the last vertex."""
    rng = random.Random(seed)
    size = rng.randint(2, 14)
    before = [[] if v == 0 else sorted({rng.randrange(v) for _ in range(3)}) for v in range(size)]
    if rng.random() < 0.5:  # long chains, where ways part less often
        before = [b if rng.random() < 0.4 else [v - 1] * (v > 0) for v, b in enumerate(before)]
    loose = set(range(size - 1)) - {source for sources in before for source in sources}
    before[-1] = sorted({*before[-1], *loose} - {size - 1})
    return before


def paths(before: list[list[int]], start: int, end: int) -> list[set[int]]:
    """The vertices of every path from one vertex to another."""
    if start == end:
        return [{end}]
    return [p | {end} for source in before[end] for p in paths(before, start, source)]


@pytest.mark.parametrize("seed", range(60))
def test_a_dominator_lies_on_every_path_from_the_entry(seed: int):
    before = random_graph(seed)
    found = immediate_dominators(before)
    for vertex in range(1, len(before)):
        all_dominators = set.intersection(*paths(before, 0, vertex)) - {vertex}
        assert found[vertex] == max(all_dominators)


@pytest.mark.parametrize("seed", range(60))
def test_a_region_is_entered_and_left_in_one_place(seed: int):
    before = random_graph(seed)
    last = len(before) - 1
    found = regions(before)

    def dominates(a: int, b: int) -> bool:
        return all(a in path for path in paths(before, 0, b))

    def closes(a: int, b: int) -> bool:
        return all(b in path for path in paths(before, a, last))

    pairs = {
        (a, b)
        for a, b in product(range(last + 1), repeat=2)
        if a != b and dominates(a, b) and closes(a, b)
    }
    smallest = {(a, b) for a, b in pairs if not any(a == c and d < b for c, d in pairs)}
    assert set(found.exit.items()) == smallest
    for vertex in range(last + 1):
        holding = [
            (a, b)
            for a, b in smallest
            if vertex not in (a, b) and dominates(a, vertex) and closes(vertex, b)
        ]
        assert found.around[vertex] == max((a for a, _ in holding), default=-1)


def test_ways_of_a_group_meet_where_nothing_else_comes():
    count = 0
    for seed in range(600):
        before = with_readers(local_graph(seed))
        last = len(before) - 1
        dominator = immediate_dominators(before)
        for group in partial_forks(before):
            count += 1
            (fork,) = {source for way in group for source in before[way]}
            others = [v for v in range(last + 1) if fork in before[v] and v not in group]
            assert len(group) > 1
            assert others
            ways = [path for way in group for path in paths(before, way, last)]
            meeting = min(set.intersection(*ways))
            assert dominator[meeting] == fork
            assert all(path & set(group) for path in paths(before, 0, meeting))
    assert count > 20


def test_a_way_that_also_leads_elsewhere_spoils_a_group():
    assert partial_forks([[], [0], [1], [1], [1], [2, 3, 4], [4, 5]]) == []
    assert partial_forks([[], [0], [1], [1], [1], [2, 3], [4, 5]]) == [[2, 3]]


def local_graph(seed: int) -> list[list[int]]:
    """A graph of which each vertex reads one or two of the four before it."""
    rng = random.Random(seed)
    size = rng.randint(6, 12)
    before = [
        sorted({max(0, v - rng.randint(1, 4)) for _ in range(rng.choice((1, 1, 2)))} if v else [])
        for v in range(size)
    ]
    loose = set(range(size - 1)) - {source for sources in before for source in sources}
    before[-1] = sorted({*before[-1], *loose})
    return before


def with_readers(before: list[list[int]]) -> list[list[int]]:
    """The graph with a vertex on each edge from a vertex that has several, as tensors have."""
    count = [sum(v in sources for sources in before) for v in range(len(before))]
    number: list[int] = []
    found: list[list[int]] = []
    for sources in before:
        now = []
        for source in sources:
            now.append(number[source])
            if count[source] > 1:
                found.append([number[source]])
                now[-1] = len(found) - 1
        number.append(len(found))
        found.append(now)
    return found


def seconds(before: list[list[int]]) -> float:
    begin = time.process_time()  # what others do on the machine does not count
    partial_forks(before)
    found = regions(before)
    assert found.exit
    return time.process_time() - begin


@pytest.mark.parametrize(
    "shape",
    [
        lambda n: [[], *([v - 1] for v in range(1, n))],  # a chain
        lambda n: [[], *(sorted({0, v - 1}) for v in range(1, n))],  # everything reads the first
        lambda n: [[], [0], *([v - 2, v - 1] for v in range(2, n))],
        # one skip connection around another, around another
        lambda n: [[], *([v - 1, n - v] if 2 * v > n + 1 else [v - 1] for v in range(1, n))],
    ],
    ids=["chain", "fan", "ladder", "nest"],
)
def test_long_graphs_take_near_linear_time(shape):
    long, short = shape(80_000), shape(10_000)
    base = min(seconds(short) for _ in range(3))
    assert seconds(long) < 60 * base + 0.5  # quadratic would be 64 times, and take minutes


def test_regions_of_a_chain_follow_each_other():
    found = regions([[], *([v] for v in range(9))])
    assert list(found.exit.items()) == list(pairwise(range(10)))
    assert set(found.around) == {-1}
