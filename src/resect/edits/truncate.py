"""The model from one call on, up to another, or both."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from resect.cut import find_cut, tail_graph
from resect.edits.base import (
    Edit,
    not_empty,
    quoted,
)
from resect.edits.nested import called_once, cut_nested, opened
from resect.errors import (
    CutError,
)
from resect.graph import Call, Graph, Ref, map_refs, refs
from resect.lookup import resolve_one
from resect.select import Place, Where


@dataclass(frozen=True)
class Truncate(Edit):
    """The model from one call on, up to another, or both; ends are inclusive.

    Args:
        start: The first call that stays. What it reads becomes an input, and so does every tensor
            from before it that the rest needs.
        end: The last call that stays. Its output is the output of the model; inputs that it does
            not need go.
    """

    verb: ClassVar[str] = "truncate"
    start: Where = None
    end: Where = None

    def __post_init__(self) -> None:
        if self.start is None and self.end is None:
            raise TypeError("truncate needs start, end or both.")

    def describe(self) -> str:
        start = "" if self.start is None else f" from {quoted(self.start)} on"
        end = "" if self.end is None else f" up to {quoted(self.end)}"
        return f"truncate{start}{end}"

    def pinned(self, graph: Graph) -> Edit:
        ends = {
            name: resolve_one(where, graph).spelling(graph)
            for name, where in (("start", self.start), ("end", self.end))
            if where is not None
        }
        return Truncate(**ends)

    def apply(self, graph: Graph) -> Graph:
        start = None if self.start is None else resolve_one(self.start, graph)
        if self.end is not None:
            graph = _ending(graph, resolve_one(self.end, graph))
        if start is None:
            return not_empty(graph)
        if start.path not in [path for path, _ in graph.walk()] or (
            start.call not in graph.at(start.path).nodes
        ):
            raise CutError(
                f"The end does not depend on the start '{start.call.layer}'.",
                "Name the earlier place as start.",
                start.call.layer,
            )
        return _starting(graph, start)


@dataclass(frozen=True)
class DropUnusedInputs(Edit):
    """Drops the inputs that no output needs."""

    verb: ClassVar[str] = "drop_unused_inputs"

    def describe(self) -> str:
        return "drop the inputs that nothing uses"

    def pinned(self, graph: Graph) -> Edit:
        return self

    def apply(self, graph: Graph) -> Graph:
        return _without_unused_inputs(graph)


def _ending(graph: Graph, end: Place) -> Graph:
    """The graph up to a call, which may lie in nested models."""
    if end.path:
        inner_place = Place(end.path[1:], end.call)
        owner = called_once(graph, end.path[0])
        inner = graph.layers[owner.layer].graph
        assert inner is not None
        ended = _without_unused_inputs(_ending(inner, inner_place))
        used = [ref in ended.input_refs for ref in inner.input_refs]
        graph = _with_inputs(graph.with_nested((owner.layer,), ended), owner, used)
        node = graph.nodes[owner]
        outputs = tuple(ended.spec(ref) for ref in ended.output_refs)
        node = dataclasses.replace(node, outputs=outputs, tensors=())
        graph = graph.evolve(nodes={**graph.nodes, owner: node})
        end = Place((), owner)
    ends = graph.refs_of(end.call)
    outputs = ends[0] if len(ends) == 1 else list(ends)
    return _without_unused_inputs(graph.evolve(outputs=outputs).pruned())


def _with_inputs(graph: Graph, owner: Call, used: list[bool]) -> Graph:
    """Calls a nested model with those of its inputs that it still has."""
    if all(used):
        return graph
    node, inner = graph.nodes[owner], graph.layers[owner.layer].graph
    assert inner is not None
    given = [ref for ref, needed in zip(refs(node.args), used, strict=True) if needed]
    by_input = dict(zip(inner.input_refs, given, strict=True))
    args = (map_refs(by_input.__getitem__, inner.inputs),)
    seen = tuple(graph.spec(ref) for ref in given)
    kwargs = {k: v for k, v in node.kwargs.items() if k == "training"}
    node = dataclasses.replace(node, args=args, kwargs=kwargs, seen=seen)
    return graph.evolve(nodes={**graph.nodes, owner: node})


def _starting(graph: Graph, start: Place) -> Graph:
    """The graph from a call on, which may lie in nested models."""
    graph, call = _front(graph, start)
    if graph.is_input(call):
        return graph
    before = [ref.call for ref in graph.nodes[call].inputs]
    after = graph.descendants([call])
    for ref in graph.output_refs:
        if ref.call not in after:
            raise CutError(
                f"The output '{graph.tensor_label(ref)}' does not depend on '{graph.label(call)}': "
                "it would be cut off from every input.",
                "Split the model instead, which passes such outputs on, or truncate its end too.",
                graph.tensor_label(ref),
            )
    return tail_graph(graph, find_cut(graph, before, [call]))


def _front(graph: Graph, start: Place) -> tuple[Graph, Call]:
    """The call to start at, in a graph where it does not lie in a nested model any more."""
    if not start.path:
        return graph, start.call
    graph, owner, inner = opened(graph, start)
    inner, call = _front(inner, Place(start.path[1:], start.call))
    before = [ref.call for ref in inner.nodes[call].inputs]
    if inner.is_input(call) or all(inner.is_input(c) for c in before):
        return graph.with_nested((owner.layer,), inner), owner
    graph, _ = cut_nested(graph, owner, inner, find_cut(inner, before, [call]))
    return graph, Call(f"{owner.layer}_tail")


def _without_unused_inputs(graph: Graph) -> Graph:
    """Drops the inputs that no output needs."""
    needed = graph.ancestors(ref.call for ref in graph.output_refs)
    kept = {ref for ref in graph.input_refs if ref.call in needed}
    if len(kept) == len(graph.input_refs):
        return graph
    inputs = _kept(graph.inputs, kept)
    if isinstance(inputs, (list, tuple)) and len(inputs) == 1:
        inputs = inputs[0]
    return graph.evolve(inputs=inputs).pruned()


def _kept(structure: Any, kept: set[Ref]) -> Any:
    if isinstance(structure, Ref):
        return structure if structure in kept else None
    if isinstance(structure, dict):
        items = {key: _kept(item, kept) for key, item in structure.items()}
        return {key: item for key, item in items.items() if item is not None} or None
    items = [item for item in (_kept(item, kept) for item in structure) if item is not None]
    return items or None
