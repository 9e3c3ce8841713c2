"""What a nested model does to its inputs before its first layer sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from resect.edits.base import call_parameters
from resect.errors import EditError, MaskError
from resect.graph import Graph, Layer, Node, Ref, Spec
from resect.keras_graph.reading import read


def arguments(graph: Graph, node: Node, layer: Layer, inner: Graph) -> list[Ref]:
    """The tensor that a call gives to each of the inputs of a nested model.

    Args:
        graph: The graph that the call is part of.
        node: The call.
        layer: The nested model.
        inner: Its graph.

    Raises:
        EditError: It is given something else than tensors, or an argument of another kind.
    """
    given = _bound(node, layer)
    odd = [
        name
        for name, value in given.items()
        if name not in ("inputs", "training", "mask") and value is not None
    ]
    if odd:
        raise EditError(
            f"The nested model '{layer.name}' is called with {', '.join(odd)}, which cannot be "
            "handed on to its layers one by one.",
            "Leave it as it is: flatten the others by name.",
            layer.name,
        )
    structure = given.get("inputs")
    leaves = _leaves(structure)
    if isinstance(structure, dict) and not isinstance(inner.inputs, dict):  # found by name then
        leaves = [structure.get(ref.call.layer) for ref in inner.input_refs]
    tensors = [leaf for leaf in leaves if isinstance(leaf, Ref)]
    if len(leaves) != len(inner.input_refs) or len(tensors) != len(leaves):
        raise EditError(
            f"The nested model '{layer.name}' is not given a tensor for each of its "
            f"{len(inner.input_refs)} inputs.",
            "Leave it as it is: flatten the others by name.",
            layer.name,
        )
    return tensors


def _bound(node: Node, layer: Layer) -> dict[str, Any]:
    """The arguments of a call by name."""
    names = [name for name in call_parameters(layer.op) if name != "kwargs"]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _leaves(structure: Any) -> list[Any]:
    """What a structure holds, dicts by sorted key; a constant is a leaf too."""
    if isinstance(structure, dict):
        structure = [structure[key] for key in sorted(structure, key=str)]
    if isinstance(structure, Ref) or not isinstance(structure, (list, tuple)):
        return [structure]
    return [leaf for item in structure for leaf in _leaves(item)]


def check_mask(graph: Graph, node: Node, layer: Layer, given: list[Ref]) -> None:
    """Refuses a mask that is not the one that comes with the input.

    Raises:
        MaskError: It would have to be attached to the input.
    """
    masks = _leaves(_bound(node, layer).get("mask"))
    for i, mask in enumerate(masks):
        if mask is not None and (i >= len(given) or graph.spec(given[i]).mask != mask):
            raise MaskError(
                f"The nested model '{layer.name}' is called with a mask that does not come with "
                "its input: its layers would not see it.",
                "Leave it as it is: flatten the others by name.",
                layer.name,
            )


def adapter(layer: Layer, given: Spec, wanted: Spec) -> list[Any]:
    """What converts a tensor as a nested model does: templates of layers or operations, in a row.

    Args:
        layer: The nested model.
        given: The tensor that it is given.
        wanted: The input that it has.

    Raises:
        EditError: It has a sparse input, or one of a rank that Keras cannot convert to.
    """
    if given.sparse != wanted.sparse:
        raise EditError(
            f"The nested model '{layer.name}' takes a {_kind(wanted)} tensor and is given a "
            f"{_kind(given)} one.",
            "Leave it as it is: flatten the others by name.",
            layer.name,
        )
    chain = []
    if given.dtype != wanted.dtype:
        chain.append(_cast(f"{layer.name}_cast", given, wanted.dtype))
    rank, expected = len(given.shape), len(wanted.shape)
    shape, cast = given.shape, given._replace(dtype=wanted.dtype)
    if rank == expected + 1 and shape[-1] == 1:
        chain.append(operation(f"{layer.name}_squeeze", [cast], _squeezed))
    elif rank == expected - 1 and wanted.shape[-1] == 1:
        chain.append(operation(f"{layer.name}_expand_dims", [cast], _expanded))
    elif rank != expected:
        raise EditError(
            f"The nested model '{layer.name}' takes {wanted} and is given {given}.",
            "Give it what it takes.",
            layer.name,
        )
    return chain


def _kind(spec: Spec) -> str:
    return "sparse" if spec.sparse else "dense"


def _cast(name: str, given: Spec, dtype: str) -> Any:
    """Between floats a layer, which hands masks on; Keras has none for the others."""
    if "float" in given.dtype and "float" in dtype:
        return keras.layers.Identity(dtype=dtype, name=name)
    return operation(name, [given], lambda x: keras.ops.cast(x, dtype))


def _squeezed(tensor: Any) -> Any:
    return keras.ops.squeeze(tensor, axis=-1)


def _expanded(tensor: Any) -> Any:
    return keras.ops.expand_dims(tensor, axis=-1)


def operation(name: str, given: Sequence[Spec], how: Callable[..., Any]) -> Any:
    """The operation behind a function of `keras.ops`.

    Args:
        name: The name that it is to have.
        given: What it is called with.
        how: The function.
    """
    tensors = [keras.Input(batch_shape=spec.shape, dtype=spec.dtype) for spec in given]
    graph = read(keras.Model(tensors, how(*tensors)))
    found = graph.layer(graph.output_refs[0].call).op
    found.name = name
    return found
