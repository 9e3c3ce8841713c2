"""Replaces calls of composite layers by what they do, each as a graph of its own, to be dissolved.

A call becomes a call of a pseudo model, whose graph is the trace of that one call and stands on the
layer's own sublayers. `adapt.nested.inlining` dissolves it like a nested model.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from resect.adapt.nested.check import check_same
from resect.adapt.nested.inlining import Inlining
from resect.adapt.nested.masks import is_indifferent
from resect.adapt.nested.naming import OPENED, is_opened, same_layer
from resect.adapt.nested.training_argument import recorded_training
from resect.edits.base import is_raw
from resect.errors import EditError, InputLayerError, MaskError
from resect.graph import Call, Graph, Layer, Node, Ref, Spec, free_name, map_refs
from resect.keras_graph import private
from resect.keras_graph.layer_tracing import TracedCall, trace_call
from resect.keras_graph.mask_calls import mask_calls
from resect.keras_graph.reading import sublayers
from resect.select import Place


def opened(graph: Graph, chosen: Mapping[int, Any]) -> Graph:
    """A graph in which layers are replaced by what they are made of, wherever they are called.

    Args:
        graph: The outermost graph, complete.
        chosen: The layers, by identity.

    Raises:
        EditError: A layer has weights of its own, or is not as it was in the source.
        MaskError: A mask would be lost.
        TraceError: The `call` of a layer cannot be traced, or not exactly.
    """
    numbers = itertools.count()
    used: dict[int, set[int]] = {key: set() for key in chosen}
    for path in sorted((path for path, _ in graph.walk()), key=len, reverse=True):
        nested = graph.at(path)
        here = [la for la in nested.layers.values() if id(la.op) in chosen and not la.graph]
        if here:
            for layer in here:
                _check_masks(graph, path, layer)
            graph = graph.with_nested(path, _Opening(nested, chosen, numbers, used).run())
    for key, layer in chosen.items():
        _check_weights(layer, used[key])
    calls = {
        same_layer(layer)
        for _, nested in graph.walk()
        for layer in nested.layers.values()
        if is_opened(layer)
    }
    return Inlining(graph, calls).run()


def composite(graph: Graph, place: Place) -> Any:
    """The layer at a place, if it may be opened.

    Raises:
        EditError: It is an input, a raw operation or a nested model, or an edit has made it.
    """
    within, spelling = graph.at(place.path), place.spelling(graph)
    layer = within.layer(place.call)
    title, how, repair = f"'{spelling}' ({layer.kind})", "", "Name a layer that is made of others."
    if within.is_input(place.call):
        raise InputLayerError(f"{title} is an input.", repair, spelling)
    if layer.graph is not None:
        how, repair = "is a nested model", "Use resect.adapt.flatten."
    elif is_raw(layer.op):
        how = "is a raw operation"
    elif layer.origin == "rebuilt" or layer.change is not None:
        how, repair = "has been changed by an earlier edit", "Inline it first, then change it."
    elif layer.origin != "kept":
        how, repair = "is new: it has no weights yet", "Inline it in the model that comes of this."
    if how:
        raise EditError(f"{title} {how}.", repair, spelling)
    return layer.op


def _check_masks(graph: Graph, path: tuple[str, ...], layer: Layer) -> None:
    """Refuses a layer in a nested model that is given masks: they are seen only when it runs."""
    for i in range(len(path)):
        host = graph.at(path[:i])
        for call in host.calls_of(path[i]):
            node = host.nodes[call]
            given = node.kwargs.get("mask") is not None
            if given or any(host.spec(ref).masked for ref in node.inputs):
                raise MaskError(
                    f"'{'/'.join([*path, layer.name])}' lies in a nested model that is given a "
                    "mask.",
                    "Flatten that model first: resect.adapt.flatten(model).",
                    layer.name,
                )


def _check_weights(layer: Any, used: set[int]) -> None:
    """Refuses a layer some of whose weights would be left behind.

    Raises:
        EditError: It has a weight that none of its calls uses.
    """
    extra = [weight.path for weight in layer.weights if id(weight) not in used]
    if extra:
        raise EditError(
            f"'{layer.name}' ({type(layer).__name__}) has weights that its calls do not use: "
            f"{', '.join(extra[:4])}.",
            "They would be lost: take them off it first, or leave it as it is.",
            layer.name,
        )


class _Opening:
    """Writes the pseudo models into one graph.

    Args:
        graph: The graph.
        chosen: The layers, by identity.
        numbers: Numbers for the pseudo models.
        used: For each layer, the variables that its calls use, by identity.
    """

    def __init__(
        self,
        graph: Graph,
        chosen: Mapping[int, Any],
        numbers: Iterator[int],
        used: dict[int, set[int]],
    ) -> None:
        self.graph = graph
        self.chosen = chosen
        self.numbers = numbers
        self.used = used
        self.layers = {n: la for n, la in graph.layers.items() if not self._is_chosen(la)}
        self.nodes: dict[Call, Node] = {}
        self.specs: dict[Ref, Spec] = {}
        self.moved: dict[Ref, Ref] = {}
        self.visited: set[Call] = set()
        self.made: dict[int, Ref] = {}  # masks, by the identity of Keras's tensor

    def run(self) -> Graph:
        """The graph with calls of pseudo models in the place of the layers'."""
        self._visit(self.graph.nodes)
        outputs = map_refs(lambda ref: self.moved.get(ref, ref), self.graph.outputs)
        graph = self.graph.evolve(nodes=self.nodes, layers=self.layers, outputs=outputs)
        return graph.ordered()

    def _visit(self, calls: Iterable[Call]) -> None:
        for call in calls:
            if call in self.visited:
                continue
            self.visited.add(call)
            layer = self.graph.layer(call)
            node = self._with_masks(self.graph.nodes[call].substitute(self.moved), layer)
            self._add(node)
            if self._is_chosen(layer):
                self._open(node, layer)

    def _is_chosen(self, layer: Layer) -> bool:
        return layer.graph is None and id(layer.op) in self.chosen

    def _add(self, node: Node) -> None:
        self.nodes[node.call] = node
        self.specs.update({Ref(node.call, i): s for i, s in enumerate(node.outputs or ())})

    def _with_masks(self, node: Node, layer: Layer) -> Node:
        """A call that knows by which calls the masks are made that it sees and hands on."""
        seen = tuple(
            spec._replace(mask=self.specs[ref].mask) if spec.masked else spec
            for ref, spec in zip(node.inputs, node.seen, strict=False)
        )
        outputs = node.outputs and tuple(
            spec._replace(mask=self._handed_on(node, layer, i)) if spec.mask is True else spec
            for i, spec in enumerate(node.outputs)
        )
        return dataclasses.replace(node, seen=seen, outputs=outputs)

    def _handed_on(self, node: Node, layer: Layer, output: int) -> Any:
        """The tensor that is the mask of an output, `True` where it is not known."""
        if node.tensors:
            mask = private.get_keras_mask(node.tensors[output])
            return self.made.get(id(mask), True)
        hands_on = is_indifferent(node, layer) and getattr(layer.op, "supports_masking", False)
        return (hands_on and self.specs[node.data_inputs[0]].mask) or True

    def _open(self, node: Node, layer: Layer) -> None:
        del self.nodes[node.call]
        for ref in node.inputs:
            mask = self.specs[ref].mask
            if mask is True:
                self._make_mask(ref)
            elif mask is not None and mask not in self.specs:  # its calls may come later
                needed = self.graph.ancestors([mask.call])
                self._visit([call for call in self.graph.nodes if call in needed])
        traced = trace_call(layer.op, node, self.specs)
        check_same(layer.op, node, traced)
        self._count(layer, traced.graph)
        number = node.call.number
        name = free_name(f"{layer.name}_{number}" if number else layer.name, self.layers)
        pseudo = dataclasses.replace(
            layer, name=name, graph=traced.graph, part=f"{OPENED} {next(self.numbers)}"
        )
        self.layers[name] = pseudo
        call, training = Call(name), recorded_training(layer, node)
        kwargs = {} if training is None else {"training": training}
        outputs = tuple(_output_specs(call, node, traced))
        seen = tuple(self.specs[ref] for ref in traced.given)
        self._add(Node(call, (list(traced.given),), kwargs, outputs, seen))
        for i in range(len(node.outputs or ())):
            self.moved[Ref(node.call, i)] = Ref(call, i)

    def _make_mask(self, ref: Ref) -> None:
        made = mask_calls(self.graph, ref, lambda name: free_name(name, self.layers))
        if made is None:
            return
        nodes, layers, mask = made
        for node, layer in zip(nodes, layers, strict=True):
            self.layers[layer.name] = layer
            self._add(node.substitute(self.moved))
        mask = self.moved.get(mask, mask)
        self.specs[ref] = self.specs[ref]._replace(mask=mask)
        self.made[id(private.get_keras_mask(self._tensor(ref)))] = mask

    def _tensor(self, ref: Ref) -> Any:
        return self.graph.nodes[ref.call].tensors[ref.output]

    def _count(self, layer: Layer, graph: Graph) -> None:
        for inner in graph.layers.values():
            for part in (inner.op, *sublayers(inner.op)):
                self.used[id(layer.op)].update(map(id, getattr(part, "weights", ())))


def _output_specs(call: Call, node: Node, traced: TracedCall) -> Iterator[Spec]:
    """What a call of a pseudo model returns: the masks that came with it are outputs too."""
    for i, ref in enumerate(traced.graph.output_refs):
        spec = traced.graph.spec(ref)._replace(mask=None)
        if i in traced.masks:
            spec = spec._replace(mask=Ref(call, traced.masks[i]))
        elif node.outputs and i < len(node.outputs) and node.outputs[i].masked:
            spec = spec._replace(mask=True)
        yield spec
