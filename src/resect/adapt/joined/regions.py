"""Regions of a graph: what lies between two calls."""

from __future__ import annotations

from typing import NamedTuple

from resect.adapt.joined.joining import with_inputs
from resect.edits.base import same_path, single_output
from resect.errors import CutError, MaskError
from resect.graph import Call, Graph, Ref
from resect.lookup import resolve_one
from resect.select import Where


class Region(NamedTuple):
    """All calls between two, these included.

    Attributes:
        path: The nested model that they lie in.
        calls: The calls.
        reads: The tensors from outside that they read.
        end: The tensor that the last returns.
    """

    path: tuple[str, ...]
    calls: frozenset[Call]
    reads: tuple[Ref, ...]
    end: Ref

    def graph(self, whole: Graph) -> Graph:
        """The region as a model of its own, its inputs what it reads.

        Raises:
            MaskError: What it reads has a mask.
        """
        within = whole.at(self.path)
        for ref in self.reads:
            if within.spec(ref).masked:
                raise MaskError(
                    f"The region of '{whole.name}' reads '{within.tensor_label(ref)}' with a "
                    "mask, which it would miss.",
                    "Begin where no mask is handed on.",
                    within.label(ref.call),
                )
        nodes = {call: node for call, node in within.nodes.items() if call in self.calls}
        layers = {call.layer: within.layers[call.layer] for call in nodes}
        bare = within.evolve(nodes=nodes, layers=layers, inputs=[], outputs=self.end)
        named = [(f"{ref.call.layer}_{ref.output}", within.spec(ref)) for ref in self.reads]
        bare, inputs = with_inputs(bare, named)
        mapping = dict(zip(self.reads, inputs, strict=True))
        return bare.substitute(mapping).evolve(inputs=inputs).ordered()


def region(graph: Graph, start: Where, end: Where) -> Region:
    """The calls from one to another.

    Args:
        graph: The outermost graph.
        start: The first call.
        end: The last call.

    Raises:
        CutError: The end does not depend on the start; or something outside reads the inside.
        NestedError: They lie in different models.
    """
    first, last = resolve_one(start, graph), resolve_one(end, graph)
    path = same_path(graph, first, last)
    within = graph.at(path)
    calls = within.descendants([first.call]) & within.ancestors([last.call])
    if not calls:
        raise CutError(
            f"'{last.spelling(graph)}' does not depend on '{first.spelling(graph)}'.",
            "Name the earlier place first.",
            last.call.layer,
        )
    result = single_output(within, last.call, end)
    _check_closed(within, calls, result)
    reads = [r for c, n in within.nodes.items() if c in calls for r in n.inputs]
    outside = dict.fromkeys(ref for ref in reads if ref.call not in calls)
    return Region(path, frozenset(calls), tuple(outside), result)


def _check_closed(graph: Graph, calls: set[Call], end: Ref) -> None:
    for call in graph.nodes:
        if call not in calls:
            continue
        for ref in graph.refs_of(call):
            outside = [c for c in graph.readers(ref) if c not in calls]
            reader = graph.title(outside[0]) if outside else "the model's output"
            if ref != end and (outside or ref in graph.output_refs):
                raise CutError(
                    f"'{graph.tensor_label(ref)}' lies inside the region, and {reader} reads it.",
                    "Choose a region that only its end leaves.",
                    graph.label(call),
                )
