"""Cuts a graph in two, through as few bytes as possible.

The head holds all that must come before the cut, the tail all that must come after. What is
neither may go to either side: it goes where the tensors that cross the cut are smallest, counted
in bytes per sample, each tensor once however many calls read it. That is a minimum cut of a flow
network (Ford and Fulkerson, 1956), found by shortest augmenting paths (Edmonds and Karp, 1972).
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from resect.edits.base import call_parameters
from resect.errors import CutError, EmptyResultError, MaskError
from resect.graph import Call, Graph, Node, Ref, Spec
from resect.keras_graph.making import input_layer
from resect.keras_graph.passing import passed_on

_SOURCE, _SINK = "source", "sink"
_UNCUTTABLE = float("inf")


@dataclass(frozen=True)
class Cut:
    """Two sides of a graph.

    Attributes:
        head: Calls before the cut, inputs included.
        tail: Calls after it.
        boundary: The tensors that cross it, in topological order.
    """

    head: frozenset[Call]
    tail: frozenset[Call]
    boundary: tuple[Ref, ...]


def find_cut(graph: Graph, before: Iterable[Call], after: Iterable[Call]) -> Cut:
    """The smallest cut that has some calls before it and others after it.

    Args:
        graph: A complete graph.
        before: Calls that must be in the head, with all that they need.
        after: Calls that must be in the tail, with all that needs them.

    Raises:
        CutError: Something would have to be on both sides.
    """
    inputs = {ref.call for ref in graph.input_refs}
    head = graph.ancestors(before) | inputs
    tail = graph.descendants(after)
    both = head & tail
    if both:
        shown = graph.label(min(both, key=list(graph.nodes).index))
        raise CutError(
            f"'{shown}' would have to lie on both sides of the cut.", "Choose another place.", shown
        )
    free = set(graph.nodes) - head - tail
    if free:
        head |= free & _source_side(graph, head, tail, free)
    tail = set(graph.nodes) - head
    outputs = set(graph.output_refs)
    boundary = [
        ref
        for call in graph.nodes
        if call in head
        for ref in graph.refs_of(call)
        if ref in outputs or any(reader in tail for reader in graph.readers(ref))
    ]
    return Cut(frozenset(head), frozenset(tail), tuple(boundary))


def bytes_per_sample(spec: Spec) -> int:
    """Size of a tensor without its batch axis; an axis of unknown length counts as one."""
    size = 1
    for axis in spec.shape[1:]:
        size *= axis or 1
    try:
        return max(1, size * np.dtype(spec.dtype).itemsize)
    except TypeError:  # bfloat16, float8 and strings, which NumPy does not know
        return max(1, size * (2 if "16" in spec.dtype else 4))


def head_graph(graph: Graph, cut: Cut) -> Graph:
    """The model up to a cut: all inputs in, the boundary out."""
    nodes = {call: node for call, node in graph.nodes.items() if call in cut.head}
    names = {call.layer for call in nodes}
    layers = {name: layer for name, layer in graph.layers.items() if name in names}
    head = graph.evolve(nodes=nodes, layers=layers, outputs=_structure(cut.boundary))
    return passed_on(head)


def tail_graph(graph: Graph, cut: Cut) -> Graph:
    """The model from a cut on: the boundary in, all outputs out.

    Inputs are named after the calls that fed them; an input of the model that only the tail
    needs stays what it is.

    Raises:
        MaskError: A tensor of the boundary has a mask that the tail would miss.
        EmptyResultError: No call lies behind the cut.
    """
    if not cut.tail:
        raise EmptyResultError(
            f"Nothing of {graph.kind} '{graph.name}' lies behind the cut.",
            "Cut before its last call.",
        )
    _check_masks(graph, cut)
    layers = {call.layer: graph.layers[call.layer] for call in graph.nodes if call in cut.tail}
    nodes: dict[Call, Node] = {}
    mapping: dict[Ref, Ref] = {}
    for ref in cut.boundary:
        if graph.is_input(ref.call) and ref.call.layer not in layers:
            layers[ref.call.layer] = graph.layers[ref.call.layer]
            nodes[ref.call] = graph.nodes[ref.call]
            mapping[ref] = ref
            continue
        spec = graph.spec(ref)._replace(sparse=False, mask=None)
        layer = input_layer(_free_name(ref, {*layers}, cut, graph), spec)
        layers[layer.name] = layer
        call = Call(layer.name)
        nodes[call] = Node(call, outputs=(spec,))
        mapping[ref] = Ref(call)
    nodes |= {call: node for call, node in graph.nodes.items() if call in cut.tail}
    inputs = _structure(tuple(mapping[ref] for ref in cut.boundary))
    tail = dataclasses.replace(graph, nodes=nodes, layers=layers, inputs=inputs, edited=True)
    return passed_on(tail.substitute(mapping))


def _free_name(ref: Ref, taken: set[str], cut: Cut, graph: Graph) -> str:
    name = ref.call.layer
    if len(graph.nodes[ref.call].outputs or ()) > 1:
        name = f"{name}_{ref.output}"
    tail_names = {call.layer for call in cut.tail}
    candidate, count = name, 0
    while candidate in taken | tail_names:
        count += 1
        candidate = f"{name}_{count}"
    return candidate


def _structure(refs: tuple[Ref, ...]) -> Any:
    return refs[0] if len(refs) == 1 else list(refs)


def _check_masks(graph: Graph, cut: Cut) -> None:
    """Refuses a boundary whose masks Keras hands on at run time, unrecorded, to the tail."""
    masked = [ref for ref in cut.boundary if graph.spec(ref).masked]
    outputs = set(graph.output_refs)
    seen = set(masked)
    stack = [(ref, ref) for ref in masked]
    while stack:
        ref, origin = stack.pop()
        if ref in outputs:
            raise _mask_lost(graph, origin, "the loss of the model")
        for call in graph.readers(ref):
            if call not in cut.tail:
                continue
            if _reads_implicit_mask(graph, call):
                raise _mask_lost(graph, origin, graph.title(call))
            for output in graph.refs_of(call):
                if graph.spec(output).masked and output not in seen:
                    seen.add(output)
                    stack.append((output, origin))


def _reads_implicit_mask(graph: Graph, call: Call) -> bool:
    layer, node = graph.layer(call), graph.nodes[call]
    if layer.graph is not None:
        return True
    names = [n for n in call_parameters(layer.op) if n == "mask" or n.endswith("_mask")]
    return any(node.kwargs.get(name) is None for name in names)


def _mask_lost(graph: Graph, ref: Ref, reader: str) -> MaskError:
    label = graph.tensor_label(ref)
    return MaskError(
        f"The cut goes through '{label}', whose mask Keras hands on to {reader} at run time.",
        "Cut before the mask is made, or behind the last layer that uses it.",
        label,
    )


# The minimum cut


def _source_side(graph: Graph, head: set[Call], tail: set[Call], free: set[Call]) -> set[Any]:
    """What can still be reached from the source once the flow is maximal."""
    capacity = _network(graph, head, tail, free)
    while True:
        path = _augmenting_path(capacity)
        if isinstance(path, set):
            return path
        flow = min(capacity[a][b] for a, b in path)
        for a, b in path:
            capacity[a][b] -= flow
            capacity[b][a] = capacity[b].get(a, 0) + flow


def _network(
    graph: Graph, head: set[Call], tail: set[Call], free: set[Call]
) -> dict[Hashable, dict[Hashable, float]]:
    """A node for each free call and each tensor; head and tail are the source and the sink."""
    capacity: dict[Hashable, dict[Hashable, float]] = {_SOURCE: {}, _SINK: {}}

    def side(call: Call) -> Hashable:
        return _SOURCE if call in head else _SINK if call in tail else call

    def edge(a: Hashable, b: Hashable, size: float) -> None:
        capacity.setdefault(a, {})[b] = capacity.setdefault(a, {}).get(b, 0) + size
        capacity.setdefault(b, {}).setdefault(a, 0)

    outputs = set(graph.output_refs)
    for call in graph.nodes:
        if call in tail:
            continue
        for ref in graph.refs_of(call):
            readers = {side(reader) for reader in graph.readers(ref)} - {_SOURCE}
            if not readers and ref not in outputs:
                continue
            edge(side(call), ref, bytes_per_sample(graph.spec(ref)))
            for reader in readers | ({_SINK} if ref in outputs else set()):
                edge(ref, reader, _UNCUTTABLE)
    for call in free:  # nothing in the head may read from the tail
        for ref in graph.nodes[call].inputs:
            if ref.call in free:
                edge(call, ref.call, _UNCUTTABLE)
    return capacity


def _augmenting_path(capacity: dict[Hashable, dict[Hashable, float]]) -> Any:
    """Edges of a shortest path with room, or the set that can be reached if there is none."""
    came_from: dict[Hashable, Hashable] = {_SOURCE: _SOURCE}
    queue: deque[Hashable] = deque([_SOURCE])
    while queue:
        here = queue.popleft()
        for there, room in capacity[here].items():
            if room > 0 and there not in came_from:
                came_from[there] = here
                queue.append(there)
    if _SINK not in came_from:
        return set(came_from)
    path, here = [], _SINK
    while here != _SOURCE:
        path.append((came_from[here], here))
        here = came_from[here]
    return path
