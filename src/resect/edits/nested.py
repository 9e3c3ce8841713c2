"""Cuts a nested model in two, where a cut goes through it."""

from __future__ import annotations

import dataclasses

from resect.cut import Cut, head_graph, tail_graph
from resect.errors import (
    AmbiguousError,
)
from resect.graph import Call, Graph, Layer, Node, Ref, map_refs
from resect.select import Place


def opened(graph: Graph, place: Place) -> tuple[Graph, Call, Graph]:
    """The graph, the one call of the nested model that a place lies in, and that model's graph."""
    owner = called_once(graph, place.path[0])
    inner = graph.layers[owner.layer].graph
    assert inner is not None
    return graph, owner, inner


def called_once(graph: Graph, name: str) -> Call:
    """The one call of a nested model.

    Raises:
        AmbiguousError: It is called several times.
    """
    calls = graph.calls_of(name)
    if len(calls) != 1:
        spelled = ", ".join(f"'{graph.label(call)}'" for call in calls)
        raise AmbiguousError(
            f"The nested model '{name}' is called {len(calls)} times ({spelled}): it cannot be cut "
            "in one of them and stay whole in the others.",
            "Cut at one of its calls instead.",
            name,
        )
    return calls[0]


def cut_nested(graph: Graph, owner: Call, inner: Graph, cut: Cut) -> tuple[Graph, Call]:
    """Replaces the call of a nested model by calls of its two halves.

    Returns:
        The graph and the call of the first half.
    """
    layer, node = graph.layers[owner.layer], graph.nodes[owner]
    head = head_graph(inner, cut)
    tail = tail_graph(inner, cut)
    first = dataclasses.replace(layer, graph=head, part="head")
    name = f"{owner.layer}_tail"
    second = Layer(name, layer.op, layer.cls, graph=tail.evolve(name=name), part="tail")
    head_node = dataclasses.replace(
        node, outputs=tuple(inner.spec(ref) for ref in cut.boundary), tensors=()
    )
    passed = [Ref(owner, i) for i in range(len(cut.boundary))]
    kwargs = {k: v for k, v in node.kwargs.items() if k == "training"}
    call = Call(name)
    tail_node = Node(
        call,
        (passed[0] if len(passed) == 1 else passed,),
        kwargs,
        outputs=node.outputs,
        seen=tuple(inner.spec(ref) for ref in cut.boundary),
    )
    mapping = {ref: Ref(call, ref.output) for ref in graph.refs_of(owner)}
    rewired = graph.substitute(mapping)
    nodes = {**rewired.nodes, owner: head_node, call: tail_node}
    layers = {**rewired.layers, owner.layer: first, name: second}
    outputs = map_refs(lambda r: mapping.get(r, r), graph.outputs)
    return graph.evolve(nodes=nodes, layers=layers, outputs=outputs).ordered(), owner
