"""Blocks on the way: what may go from a plan, and how its calls are spelled."""

from __future__ import annotations

from collections.abc import Sequence

from resect.blocks import Block, blocks
from resect.graph import Graph
from resect.plan import Plan
from resect.select import Place

#: What `resect.collapse` takes.
Ends = tuple[str, str]

#: The ends of the blocks that are gone, in order.
Path = tuple[Ends, ...]


def longer(plan: Plan, path: Sequence[Ends]) -> Plan:
    """A plan with the removals of a path at its end."""
    for ends in path:
        plan = plan.collapse(*ends)
    return plan


def candidates(plan: Plan, chosen: Sequence[frozenset[Place]] | None) -> list[Block]:
    """The blocks that may go from the result of a plan, in the order of the model.

    Args:
        plan: What is gone already.
        chosen: The calls of each block that may, in the original; what is left of it is meant. A
            block that is no longer one is left out.
    """
    every = blocks(plan.result)
    if chosen is None:
        found = list(every.level("block").collapsible())
    else:
        there = places(plan.result)
        left = {calls & there for calls in chosen}
        by_calls = {frozenset(b.places): b for b in every if b.collapsible}
        found = [block for calls, block in by_calls.items() if calls in left]
    return found


def places(graph: Graph) -> frozenset[Place]:
    """Every call of a graph and of the models in it."""
    return frozenset(Place(path, call) for path, inner in graph.walk() for call in inner.nodes)


def spellings(planned: Graph, made: Graph) -> dict[str, str]:
    """How the calls of a planned graph are spelled in the model that was made of it.

    Where calls of a shared layer have gone, those that are left are counted anew there.
    """
    return {
        Place(path, one).spelling(planned): Place(path, other).spelling(made)
        for path, inner in planned.walk()
        for name in inner.layers
        for one, other in zip(inner.calls_of(name), made.at(path).calls_of(name), strict=True)
    }


def still(plan: Plan, block: Block) -> Ends | None:
    """The ends of a block of the original after others have gone; `None` if it went too."""
    left = frozenset(block.places) & places(plan.result)
    there = blocks(plan.result).collapsible()
    return next((each.ends for each in there if frozenset(each.places) == left), None)


def said(path: Sequence[Ends]) -> str:
    """A path in words."""
    return ", ".join(f"{start} -> {end}" for start, end in path)
