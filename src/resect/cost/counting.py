"""Goes through a graph and counts, call by call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from resect.cost.profile import Cost
from resect.cost.rules import Called, rule_of
from resect.cost.shapes import byte_count, bytes_of, output_specs
from resect.errors import ShapeError, SurgeryError
from resect.graph import Call, Graph, Node, Ref, Spec, map_refs, refs
from resect.keras_graph.layer_tracing import trace_call
from resect.keras_graph.opening import open_layer, returned_by
from resect.keras_graph.reading import has_graph, read
from resect.keras_graph.state import variable_specs


@dataclass
class Count:
    """What has been counted so far.

    Attributes:
        rows: One for each call, those of nested models in the place of the model.
        seen: The variables that have been counted, by identity.
    """

    rows: list[Cost] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)


def count_graph(
    graph: Graph, specs: dict[Ref, Spec], count: Count, path: tuple[str, ...] = ()
) -> int:
    """Counts every call of a graph.

    Args:
        graph: The graph.
        specs: Shape and dtype of its inputs, no axis unknown. Those of all other tensors are added.
        count: What the calls are added to.
        path: The spellings of the calls of nested models on the way to it.

    Returns:
        The most bytes that tensors made in the graph take at once.
    """
    last = _last_readers(graph)
    live = peak = 0
    held: dict[Ref, int] = {}
    for call, node in graph.nodes.items():
        if graph.is_input(call):
            continue
        inner = _count_call(graph, call, node, specs, count, path)
        for ref in graph.refs_of(call):
            held[ref] = bytes_of([specs[ref]])
        made = sum(held[ref] for ref in graph.refs_of(call))
        peak = max(peak, live + max(inner, made))
        live += made
        for ref in dict.fromkeys([*node.inputs, *graph.refs_of(call)]):
            if last.get(ref, call) == call and ref in held:
                live -= held.pop(ref)
    return peak


def _last_readers(graph: Graph) -> dict[Ref, Call | None]:
    """The call that reads each tensor last; `None` for what the model returns."""
    last: dict[Ref, Call | None] = {
        ref: call for call, node in graph.nodes.items() for ref in node.inputs
    }
    return last | dict.fromkeys(graph.output_refs)


def _count_call(
    graph: Graph,
    call: Call,
    node: Node,
    specs: dict[Ref, Spec],
    count: Count,
    path: tuple[str, ...],
) -> int:
    """Adds the rows of a call and the specs of what it returns.

    Returns:
        Bytes that a nested model takes at once while it runs; nothing for a layer, of whose inside
        nothing is known.
    """
    layer = graph.layer(call)
    if layer.graph is not None:
        inner = _inner_specs(graph, call, node, layer.graph, specs)
        peak = count_graph(layer.graph, inner, count, (*path, graph.label(call)))
        found = [inner[ref] for ref in layer.graph.output_refs]
        specs.update(zip(graph.refs_of(call), found, strict=True))
        return peak
    outputs = output_specs(graph, call, node, specs)
    specs.update(zip(graph.refs_of(call), outputs, strict=True))
    multiply_adds, uncounted = multiply_adds_of(layer.op, node, specs, outputs)
    parameters, weight_bytes = _weights(layer.op, count.seen)
    count.rows.append(
        Cost(
            name="/".join([*path, graph.label(call)]),
            kind=layer.kind,
            output_shapes=tuple(tuple(spec.shape) for spec in outputs),
            parameters=parameters,
            weight_bytes=weight_bytes,
            multiply_adds=multiply_adds,
            activation_bytes=bytes_of(outputs),
            uncounted=uncounted,
        )
    )
    return 0


def _inner_specs(
    graph: Graph, call: Call, node: Node, nested: Graph, specs: Mapping[Ref, Spec]
) -> dict[Ref, Spec]:
    given = refs(node.args[:1]) or refs(dict(node.kwargs))
    if len(given) != len(nested.input_refs):
        raise ShapeError(
            f"{graph.title(call)} is called with {len(given)} tensors and has "
            f"{len(nested.input_refs)} inputs.",
            "Pass it one tensor for each.",
            graph.label(call),
        )
    return {own: specs[ref] for own, ref in zip(nested.input_refs, given, strict=True)}


def _weights(operation: Any, seen: set[int]) -> tuple[int, int]:
    """Number and bytes of the weights that have not been counted yet."""
    own = getattr(operation, "weights", ())
    parameters = size = 0
    for variable, spec in zip(own, variable_specs(operation), strict=True):
        if id(variable) not in seen:
            seen.add(id(variable))
            parameters += _product(spec.shape)
            size += byte_count(spec.shape, spec.dtype)
    return parameters, size


def _product(shape: tuple[int, ...]) -> int:
    return byte_count(shape, "int8")


# Arithmetic


def multiply_adds_of(
    operation: Any, node: Node, specs: Mapping[Ref, Spec], outputs: list[Spec]
) -> tuple[int | None, tuple[str, ...]]:
    """The multiply-adds of a call, and what in it nobody counts.

    A layer without a rule is looked into; what has a rule there counts, and the rest is named.
    """
    rule = rule_of(operation)
    if rule is not None:
        args, kwargs = map_refs(lambda ref: specs[ref], (node.args, dict(node.kwargs)))
        read = tuple(specs[ref] for ref in node.inputs)
        found = rule(Called(operation, read, tuple(outputs), args, kwargs, _inner_count))
        return found, () if found is not None else (type(operation).__name__,)
    opened = _opened(operation, node, specs) if hasattr(operation, "weights") else None
    if opened is None:
        return None, (type(operation).__name__,)
    inside, given = opened
    return _inside(operation, inside, [specs[ref] for ref in given])


def _opened(
    layer: Any, node: Node, specs: Mapping[Ref, Spec]
) -> tuple[Graph, tuple[Ref, ...]] | None:
    """The graph of what a layer does, and what its inputs stand for; `None` if there is none."""
    inside = open_layer(layer, node, dict(specs))
    if inside is not None:
        return inside, tuple(dict.fromkeys(node.inputs))
    try:
        traced = trace_call(layer, node, specs)
    except SurgeryError:  # the reason is of no use here: what is not counted is named
        return None
    return traced.graph, traced.given


def _inside(operation: Any, graph: Graph, given: list[Spec]) -> tuple[int | None, tuple[str, ...]]:
    """The multiply-adds of the calls in a layer."""
    count = Count()
    inputs = dict(zip(graph.input_refs, given, strict=True))
    try:
        count_graph(graph, inputs, count)
    except ShapeError as error:
        return None, (f"{type(operation).__name__} > {error.problem.node}",)
    total = sum(row.multiply_adds or 0 for row in count.rows)
    names = (name for row in count.rows for name in row.uncounted)
    return total, tuple(dict.fromkeys(f"{type(operation).__name__} > {name}" for name in names))


def _inner_count(layer: Any, shape: tuple[int, ...]) -> int | None:
    """The multiply-adds of a layer that another one calls on one tensor; `None` if unknown."""
    ref = Ref(Call("input"))
    node = Node(Call(layer.name), args=(ref,))
    specs = {ref: Spec(shape, "float32")}
    if isinstance(layer, keras.Model) and has_graph(layer):
        nested = read(layer)
        return _all(_inside(layer, nested, list(specs.values())))
    return _all(multiply_adds_of(layer, node, specs, list(_outputs(layer, shape))))


def _all(found: tuple[int | None, tuple[str, ...]]) -> int | None:
    return None if found[1] else found[0]


def _outputs(layer: Any, shape: tuple[int, ...]) -> Iterator[Spec]:
    if hasattr(layer, "state_size") and not hasattr(layer, "cell"):
        return  # the cell of a recurrent layer, which takes its state too
    for tensor in returned_by(layer, (keras.KerasTensor(shape),), {}):
        yield Spec(tuple(tensor.shape), str(tensor.dtype))
