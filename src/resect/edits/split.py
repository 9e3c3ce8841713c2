"""The two sides of a cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from resect.cut import Cut, find_cut, head_graph, tail_graph
from resect.edits.base import (
    Edit,
    quoted,
)
from resect.edits.nested import cut_nested, opened
from resect.graph import Call, Graph
from resect.lookup import resolve_one
from resect.select import Place, Where


@dataclass(frozen=True)
class Head(Edit):
    """The model up to a cut: the first half of `split`.

    Args:
        at: The last call of the head.
    """

    verb: ClassVar[str] = "head"
    uncompiled: ClassVar[str] = "the head of a split has no loss"
    at: Where

    def describe(self) -> str:
        return f"split at {quoted(self.at)} and keep the head"

    def pinned(self, graph: Graph) -> Edit:
        return Head(resolve_one(self.at, graph).spelling(graph))

    def apply(self, graph: Graph) -> Graph:
        graph, cut = _cut_after(graph, resolve_one(self.at, graph))
        tail_graph(graph, cut)  # refuses what cannot be put together again
        return head_graph(graph, cut).evolve(name=f"{graph.name}_head")


@dataclass(frozen=True)
class Tail(Edit):
    """The model from a cut on: the second half of `split`.

    Args:
        at: The last call of the head.
    """

    verb: ClassVar[str] = "tail"
    at: Where

    def describe(self) -> str:
        return f"split at {quoted(self.at)} and keep the tail"

    def pinned(self, graph: Graph) -> Edit:
        return Tail(resolve_one(self.at, graph).spelling(graph))

    def apply(self, graph: Graph) -> Graph:
        graph, cut = _cut_after(graph, resolve_one(self.at, graph))
        return tail_graph(graph, cut).evolve(name=f"{graph.name}_tail")


def _cut_after(graph: Graph, place: Place) -> tuple[Graph, Cut]:
    """The cut right after a call, in a graph where that call is not nested any more."""
    graph, call = _back(graph, place)
    return graph, find_cut(graph, [call], graph.consumers(call))


def _back(graph: Graph, place: Place) -> tuple[Graph, Call]:
    if not place.path:
        return graph, place.call
    graph, owner, inner = opened(graph, place)
    inner, call = _back(inner, Place(place.path[1:], place.call))
    cut = find_cut(inner, [call], list(inner.consumers(call)))
    if not cut.tail:
        return graph, owner
    return cut_nested(graph, owner, inner, cut)
