"""Masks that a layer handed on, and that what it was made of does not: given explicitly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras

from resect.adapt.nested.inputs import operation
from resect.edits.base import call_parameters, is_raw
from resect.errors import MaskError
from resect.graph import Call, Graph, Layer, Node, Ref, Spec, free_name, refs
from resect.keras_graph.inferring import infer
from resect.keras_graph.making import template_layer
from resect.keras_graph.reading import sublayers

Lost = Mapping[Ref, Any]


def with_masks(graph: Graph, returned: Mapping[Ref, Spec]) -> Graph:
    """A graph in which every call sees the masks that it saw.

    Args:
        graph: A graph whose calls say in `seen` which masks came with what they read.
        returned: The outputs of the graph, with the masks that came with them.

    Raises:
        MaskError: A mask cannot be given as an argument, and would matter.
    """
    specs = [*returned.values(), *(spec for node in graph.nodes.values() for spec in node.seen)]
    if not any(spec.masked for spec in specs):
        return graph
    graph = graph.ordered()
    inferred = infer(graph)
    if inferred.problems:  # they are found again, and reported
        return graph
    given = _Given(graph, inferred.graph)
    graph = given.run()
    if graph is not given.graph:
        inferred = infer(graph)
    if not inferred.problems:
        _check_returned(graph, returned, inferred.graph)
    return graph


class _Given:
    """Gives calls their masks as arguments, where they do not come with what they read any more.

    Args:
        graph: The graph.
        now: The same, with the masks that Keras would see in it.
    """

    def __init__(self, graph: Graph, now: Graph) -> None:
        self.graph = graph
        self.now = now
        self.nodes: dict[Call, Node] = {}
        self.layers = dict(graph.layers)

    def run(self) -> Graph:
        """The graph, the same one if nothing is lost."""
        changed = False
        for call, node in self.graph.nodes.items():
            new = self._seeing(node)
            changed = changed or new is not node
            self.nodes[call] = new
        if not changed:
            return self.graph
        return self.graph.evolve(nodes=self.nodes, layers=self.layers).ordered()

    def _seeing(self, node: Node) -> Node:
        lost = {
            ref: spec.mask
            for ref, spec in zip(node.inputs, node.seen, strict=False)
            if spec.masked and not self.now.spec(ref).masked
        }
        layer = self.graph.layer(node.call)
        if not lost or is_raw(layer.op):
            return node
        masks = _arguments(node, layer, lost)
        if masks is None and not is_indifferent(node, layer):
            raise MaskError(
                f"{self.graph.title(node.call)} reads a tensor that came with a mask, which "
                "nothing would hand on to it.",
                "Inline this layer too, or leave the one before it as it is.",
                self.graph.label(node.call),
            )
        if masks is None:
            return node
        kwargs = {**node.kwargs, **masks}
        if "query_mask" in masks and ignores_query_mask(layer.recipe):
            mask = kwargs.pop("query_mask")
            kwargs["attention_mask"] = self._both(layer, mask, kwargs.get("attention_mask"))
        node = dataclasses.replace(node, kwargs=kwargs, outputs=None, tensors=())
        return dataclasses.replace(node, seen=tuple(map(self._spec, node.inputs)))

    def _spec(self, ref: Ref) -> Spec:
        return self.now.spec(ref) if ref.call in self.now.nodes else _HIDES

    def _both(self, layer: Layer, mask: Ref, other: Ref | None) -> Ref:
        """The attention mask that hides what the mask of the query hides, and what another does."""
        expanded = self._call(layer, "expand_dims", _rows, mask)
        if other is None:
            return expanded
        return self._call(layer, "logical_and", keras.ops.logical_and, other, expanded)

    def _call(self, layer: Layer, name: str, how: Callable[..., Any], *given: Ref) -> Ref:
        template = operation(name, list(map(self._spec, given)), how)
        call = Call(free_name(f"{layer.name}_{name}", self.layers))
        self.layers[call.layer] = template_layer(call.layer, template)
        self.nodes[call] = Node(call, given, outputs=None)
        return Ref(call)


_HIDES = Spec((None, None, 1), "bool")


def _rows(mask: Any) -> Any:
    return keras.ops.expand_dims(mask, -1)


def ignores_query_mask(layer: Any) -> bool:
    """Whether a layer takes the mask of its query from the tensor, whatever it is given."""
    return isinstance(layer, keras.layers.MultiHeadAttention)


def _arguments(node: Node, layer: Layer, lost: Lost) -> dict[str, Any] | None:
    """The masks by the arguments for which Keras takes them from the tensors; `None` if it can't.

    A layer that is called with one tensor has a `mask`, one that is called with several, such as
    `query` and `value`, has a `query_mask` and a `value_mask`.
    """
    parameters = call_parameters(layer.recipe)
    named = {**dict(zip(parameters, node.args, strict=False)), **node.kwargs}
    given = [name for name, value in named.items() if refs(value) and not name.endswith("mask")]
    tensors = {name: named[name] for name in given if isinstance(named[name], Ref)}
    found: dict[str, Any] = {}
    for name, ref in tensors.items():
        argument = "mask" if len(given) == 1 else f"{name}_mask"
        if ref not in lost:
            continue
        if argument not in parameters or not _asks_arguments_only(layer):
            return None
        if named.get(argument) is None:
            if not isinstance(lost[ref], Ref):
                return None
            found[argument] = lost[ref]
    return found if lost.keys() <= set(tensors.values()) else None


def _asks_arguments_only(layer: Layer) -> bool:
    """Whether a layer that takes a mask as an argument looks for it nowhere else.

    Sublayers of a layer of one's own may look for it on the tensor.
    """
    own = layer.cls.__module__.split(".")[0] != keras.__name__
    return layer.graph is None and not (own and sublayers(layer.recipe))


def is_indifferent(node: Node, layer: Layer) -> bool:
    """Whether a layer does nothing with a mask but hand it on: its readers are looked at too."""
    op = layer.recipe
    if layer.graph is not None or sublayers(op):
        return False
    if not op.supports_masking:
        return True
    hands_on = type(op).compute_mask is keras.Layer.compute_mask
    return hands_on and len(node.data_inputs) == 1 and "mask" not in call_parameters(op)


def _check_returned(graph: Graph, returned: Mapping[Ref, Spec], now: Graph) -> None:
    for ref, spec in returned.items():
        if spec.masked and not now.spec(ref).masked:
            raise MaskError(
                f"The output '{graph.tensor_label(ref)}' of '{graph.name}' came with a mask, by "
                "which Keras weighs the loss, and would come without one.",
                "Leave the last layer that hands the mask on as it is.",
                graph.label(ref.call),
            )
