"""Looks inside a layer: what its `call` returns, and the calls that it makes, as a graph."""

from __future__ import annotations

from typing import Any

import keras

from resect.graph import Graph, Node, Ref, Spec, map_refs
from resect.keras_graph import private
from resect.keras_graph.reading import call_lists_of, read
from resect.keras_graph.symbolic import function_between


def open_layer(layer: Any, node: Node, specs: dict[Ref, Spec]) -> Graph | None:
    """The graph of what a layer does in inference when it is called on tensors of known shapes.

    Its `call` runs once on symbolic tensors, which computes nothing and changes nothing.

    Args:
        layer: A built layer.
        node: The call, with the arguments that it is called with.
        specs: Shape and dtype of every tensor among them, no axis unknown.

    Returns:
        The graph, on the layer's own layers; `None` if `call` does not run on symbolic tensors, or
        returns nothing that depends on them.
    """
    tensors = {
        ref: keras.Input(batch_shape=specs[ref].shape, dtype=specs[ref].dtype)
        for ref in dict.fromkeys(node.inputs)
    }
    args, kwargs = map_refs(tensors.__getitem__, (node.args, dict(node.kwargs)))
    marks = call_lists_of(layer)
    try:
        with private.fresh_names([]), keras.StatelessScope(initialize_variables=False):
            returned = layer.call(*args, **kwargs)
            outputs = [t for t in keras.tree.flatten(returned) if _is_symbolic(t)]
            if not outputs:
                return None
            with private.deep_recursion(10_000):
                return read(function_between(list(tensors.values()), outputs, layer.name))
    except Exception:  # whatever a layer of a user's own raises: it cannot be looked into
        return None
    finally:
        for operations, length in marks:
            del operations[length:]


def returned_by(operation: Any, args: Any, kwargs: Any) -> list[Any]:
    """The symbolic tensors that a call would return, for symbolic tensors of known shapes.

    A layer that only knows the shape that it was built for (`EinsumDense` does) is run by the
    backend without values.
    """
    try:
        found = keras.tree.flatten(operation.compute_output_spec(*args, **kwargs))
    except Exception:  # as above; what the backend says of the same call is the better message
        found = None
    if found is None or any(None in tensor.shape for tensor in found):
        quantized = getattr(operation, "quantization_mode", None) is not None
        call = operation.quantized_call if quantized else operation.call
        found = keras.tree.flatten(private.compute_output_spec(call, *args, **kwargs))
    return found


def _is_symbolic(tensor: Any) -> bool:
    return isinstance(tensor, keras.KerasTensor)
