"""The calls that make a mask, where Keras made it without recording that anything reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from resect.graph import Call, Graph, Layer, Node, Ref
from resect.keras_graph import private
from resect.keras_graph.reading import spec_of


def mask_calls(
    graph: Graph, ref: Ref, name_of: Callable[[str], str]
) -> tuple[list[Node], list[Layer], Ref] | None:
    """The raw operations behind the mask of a tensor, such as the `NotEqual` of an Embedding.

    Args:
        graph: The graph.
        ref: A tensor with a mask.
        name_of: From the name of an operation to a free one.

    Returns:
        Calls and layers to add to the graph, and the tensor that is the mask; `None` where it is
        not known how the mask was made.
    """
    tensors = {
        id(tensor): Ref(call, i)
        for call, node in graph.nodes.items()
        for i, tensor in enumerate(node.tensors)
    }
    own = graph.nodes[ref.call].tensors
    mask = private.get_keras_mask(own[ref.output]) if own else None
    if mask is None:
        return None
    maker = _Maker(tensors, name_of)
    found = maker.ref(mask)
    return None if found is None else (maker.nodes, maker.layers, found)


class _Maker:
    def __init__(self, refs: dict[int, Ref], name_of: Callable[[str], str]) -> None:
        self.refs = refs
        self.name_of = name_of
        self.nodes: list[Node] = []
        self.layers: list[Layer] = []

    def ref(self, tensor: Any) -> Ref | None:
        """The tensor, and whatever it is made of, as calls; `None` if a layer made it."""
        if id(tensor) in self.refs:
            return self.refs[id(tensor)]
        operation = private.maker_of(tensor)
        if operation is None or isinstance(operation, keras.Layer):
            return None
        history = tensor._keras_history
        recorded = operation._inbound_nodes[history.node_index]
        found = {id(t): self.ref(t) for t in recorded.input_tensors}
        if None in found.values():
            return None

        def put(leaf: Any) -> Any:
            return found.get(id(leaf), leaf)

        args: Any = keras.tree.map_structure(put, recorded.arguments.args)
        kwargs: Any = keras.tree.map_structure(put, recorded.arguments.kwargs)
        call = Call(self.name_of(operation.name))
        self.layers.append(Layer(call.layer, operation, type(operation)))
        outputs = tuple(spec_of(t) for t in recorded.outputs)
        seen = tuple(spec_of(t) for t in recorded.input_tensors)
        node = Node(call, args, kwargs, outputs, seen, tuple(recorded.outputs))
        self.nodes.append(node)
        self.refs.update({id(t): Ref(call, i) for i, t in enumerate(recorded.outputs)})
        return self.refs[id(tensor)]
