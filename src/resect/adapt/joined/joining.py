"""The layers of another model in a graph: what `stack`, `merge` and `graft` have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras

from resect.adapt.nested.inlining import JOINED, Inlining, same_layer
from resect.errors import EditError, ShapeError
from resect.graph import Call, Graph, Layer, Node, Ref, Spec, free_name, map_refs, refs
from resect.keras_graph.making import template_layer

How = Literal["average", "add", "concatenate"]

LAYERS: dict[str, Any] = {
    "average": keras.layers.Average,
    "add": keras.layers.Add,
    "concatenate": keras.layers.Concatenate,
}


def joined(
    graph: Graph, model: Any, inner: Graph, given: Sequence[Ref], instead_of: Ref | None = None
) -> tuple[Graph, tuple[Ref, ...]]:
    """A graph that has the calls of another too.

    A layer that both have becomes a shared one. Another layer of the other graph whose name is
    taken is named after the model that it comes from as well.

    Args:
        graph: A graph.
        model: The model that the other belongs to.
        inner: The other graph, complete.
        given: The tensors of `graph` that the inputs of the other stand for.
        instead_of: A tensor of `graph` that the one output of the other is read instead of; what
            nothing needs any more goes, and its names are free.

    Returns:
        The graph, its outputs what they were, and the outputs of the other in it.
    """
    name = free_name(model.name, graph.layers)
    layer = Layer(name, model, type(model), graph=inner, origin="new", part=JOINED)
    by_input = dict(zip(inner.input_refs, given, strict=True))
    node = Node(Call(name), (map_refs(by_input.__getitem__, inner.inputs),))
    returned = [Ref(node.call, i) for i in range(len(inner.output_refs))]
    if instead_of is not None:
        graph = graph.substitute({instead_of: returned[0]})
    both = graph.add([node], [layer]).evolve(outputs=[graph.outputs, returned]).pruned().ordered()
    flat = Inlining(both, {same_layer(layer)}).run()
    outputs, returned = flat.outputs
    return flat.evolve(outputs=outputs), tuple(returned)


def returned(inner: Graph, tensors: Sequence[Ref]) -> Any:
    """Tensors in the structure of the outputs of the model that they come from."""
    by_ref: dict[Ref, Ref] = dict(zip(inner.output_refs, tensors, strict=True))
    return map_refs(by_ref.__getitem__, inner.outputs)


def check_fits(what: str, given: Sequence[Spec], wanted: Sequence[Spec], repair: str) -> None:
    """Refuses tensors that a model does not take.

    Args:
        what: Who gives what to whom: `"The second model takes {wanted} and is given {given}."`.
        given: The tensors.
        wanted: The inputs.
        repair: What to do about it.

    Raises:
        ShapeError: There are more or fewer of them, or one has another shape.
    """
    if len(given) != len(wanted) or not all(map(_fits, given, wanted)):
        shown = {"given": _shown(given), "wanted": _shown(wanted)}
        raise ShapeError(what.format(**shown), repair)


def _fits(given: Spec, wanted: Spec) -> bool:
    shape, expected = given.shape, wanted.shape
    if len(shape) == len(expected) + 1 and shape[-1] == 1:  # Keras adjusts the rank
        shape = shape[:-1]
    elif len(shape) == len(expected) - 1 and expected[-1] == 1:
        expected = expected[:-1]
    pairs = zip(shape, expected, strict=False)
    return len(shape) == len(expected) and all(a is None or b is None or a == b for a, b in pairs)


def _shown(specs: Sequence[Spec]) -> str:
    return " and ".join(f"{spec} {spec.dtype}" for spec in specs) or "nothing"


# Inputs


def with_inputs(graph: Graph, specs: Sequence[tuple[str, Spec]]) -> tuple[Graph, list[Ref]]:
    """A graph with further inputs, which are not yet in the structure of its inputs.

    Args:
        graph: A graph.
        specs: The name that each is to have, unless it is taken, and its spec.
    """
    made: list[Ref] = []
    for wanted, spec in specs:
        name = graph.free_name(wanted)
        template = keras.layers.InputLayer(
            batch_shape=spec.shape, dtype=spec.dtype, sparse=spec.sparse, name=name
        )
        node = Node(Call(name), outputs=(spec._replace(mask=None),))
        graph = graph.add([node], [template_layer(name, template)])
        made.append(Ref(node.call))
    return graph, made


def matched(names: Any, given: Sequence[Ref], inner: Graph) -> list[Ref]:
    """Which tensor each input of another model stands for: by name if they agree, or in order."""
    by_name = dict(zip(names, given, strict=True))
    wanted = input_names(inner)
    if set(by_name) == set(wanted) and len(by_name) == len(given):
        return [by_name[name] for name in wanted]
    return list(given)


def input_names(graph: Graph) -> list[str]:
    """The keys of the inputs, or their names."""
    if isinstance(graph.inputs, dict) and len(graph.inputs) == len(graph.input_refs):
        return sorted(graph.inputs)
    return [ref.call.layer for ref in graph.input_refs]


def output_names(graph: Graph) -> list[str]:
    """The keys of the outputs, or numbers."""
    if isinstance(graph.outputs, dict) and len(graph.outputs) == len(graph.output_refs):
        return sorted(graph.outputs)
    return [str(i) for i, _ in enumerate(graph.output_refs)]


def shared_inputs(graph: Graph, inner: Graph) -> list[Ref]:
    """The inputs that two models both read."""
    given = matched(input_names(graph), graph.input_refs, inner)
    had = [graph.spec(ref)._replace(mask=None) for ref in given]
    wanted = [inner.spec(ref)._replace(mask=None) for ref in inner.input_refs]
    if had != wanted:
        shown = [", ".join(f"{spec} {spec.dtype}" for spec in specs) for specs in (had, wanted)]
        raise ShapeError(
            f"'{graph.name}' takes {shown[0]}, and '{inner.name}' takes {shown[1]}.",
            "Give each inputs of its own: share_inputs=False.",
        )
    return given


def with_own_inputs(graph: Graph, inner: Graph) -> tuple[Graph, list[Ref]]:
    """The graph with inputs for another model behind its own."""
    names = [ref.call.layer for ref in inner.input_refs]
    specs = [inner.spec(ref) for ref in inner.input_refs]
    graph, given = with_inputs(graph, list(zip(names, specs, strict=True)))
    flat = [*graph.input_refs, *given]
    inputs: Any = flat
    if isinstance(graph.inputs, dict) and isinstance(inner.inputs, dict):
        inputs = {**graph.inputs, **{ref.call.layer: ref for ref in given}}
    return graph.evolve(inputs=inputs), given


def combined(
    graph: Graph, structures: Sequence[Any], specs: Sequence[Sequence[Spec]], how: How
) -> Graph:
    """The graph with outputs that correspond made one."""
    forms = [map_refs(lambda _: None, structure) for structure in structures]
    if any(form != forms[0] for form in forms):
        raise EditError(
            "The models return outputs of different structures.",
            "List them with how=None, or choose some first with resect.adapt.outputs.",
        )
    merged: dict[Ref, Ref] = {}
    groups = list(zip(*map(refs, structures), strict=True))
    for group, kinds in zip(groups, zip(*specs, strict=True), strict=True):
        _check_alike(kinds, how)
        label = graph.tensor_label(group[0]).replace(":", "_")
        name = graph.free_name(how if len(groups) == 1 else f"{label}_{how}")
        template = LAYERS[how](name=name, dtype=kinds[0].dtype)
        graph = graph.add([Node(Call(name), (list(group),))], [template_layer(name, template)])
        merged[group[0]] = Ref(Call(name))
    return graph.evolve(outputs=map_refs(merged.__getitem__, structures[0]))


def _check_alike(specs: Sequence[Spec], how: How) -> None:
    """Refuses what Keras would broadcast, or cannot compute with."""
    shapes = {spec.shape[:-1] if how == "concatenate" else spec.shape for spec in specs}
    dtypes = {spec.dtype for spec in specs}
    if len(shapes) > 1 or len(dtypes) > 1 or "float" not in specs[0].dtype:
        shown = ", ".join(f"{spec} {spec.dtype}" for spec in specs)
        raise ShapeError(
            f"Outputs that correspond are {shown}: they cannot be merged by {how!r}.",
            "List them with how=None, or make them alike first.",
        )
