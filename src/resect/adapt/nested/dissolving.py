"""Writes the calls of a graph, and of the models in it that are dissolved, into one graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from resect.adapt.nested.inputs import adapter, arguments, check_mask
from resect.adapt.nested.masks import with_masks
from resect.adapt.nested.naming import Key, is_opened, key_of, same_layer
from resect.adapt.nested.training_argument import (
    Path,
    Training,
    hides_training,
    takes_training,
    training_of,
)
from resect.edits.base import call_parameters, is_raw
from resect.errors import EditError, MaskError
from resect.graph import Call, Graph, Layer, Node, Ref, Spec, free_name, map_refs
from resect.keras_graph.inferring import infer
from resect.keras_graph.making import template_layer

#: The `part` of a model that is dissolved where it is put, as if it had been called by itself.
JOINED = "joined"


@dataclass
class _Dissolved:
    """A call of a nested model that is gone.

    Attributes:
        name: The name of the model.
        masking: Whether it hands the mask of its input on; models do if they are told to.
        given: What it read.
        returned: What stands for its outputs.
    """

    name: str
    masking: bool
    given: tuple[Ref, ...]
    returned: tuple[Ref, ...]


@dataclass
class Host:
    """Writes the calls of a graph and of the models in it that are dissolved into one graph."""

    graph: Graph
    chosen: set[Key]
    names: Mapping[Key, str]
    layers: dict[str, Layer]
    nodes: dict[Call, Node] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    doubtful: set[Call] = field(default_factory=set)  # may now see a mask
    dissolved: list[_Dissolved] = field(default_factory=list)
    training: Training = field(default_factory=Training)
    opened: bool = False  # whether a call of a layer was dissolved

    def run(self) -> Graph:
        """The flat graph."""
        self.training = training_of(self.graph, apart=JOINED)
        for call in self.graph.nodes:
            if call.layer not in self.layers:
                continue
            top = self.numbers.get(call.layer, 0)
            self.numbers[call.layer] = max(top, call.number + 1)
        tensors = {ref: ref for ref in self.graph.input_refs}
        self._write(self.graph, tensors, (), ())
        outputs = map_refs(tensors.__getitem__, self.graph.outputs)
        whole = self.graph.evolve(nodes=self.nodes, layers=self.layers, outputs=outputs)
        if self.opened:
            returned = {
                tensors[ref]: _moved(self.graph.spec(ref), tensors)
                for ref in self.graph.output_refs
            }
            whole = with_masks(whole, returned)
        flat = whole.pruned().ordered()
        _check_dropped(whole, flat)
        if self.doubtful:
            self._check_masks(flat)
        return flat

    def _write(self, graph: Graph, tensors: dict[Ref, Ref], path: Path, owner: Key) -> None:
        """Writes the calls of a graph.

        Args:
            graph: The graph.
            tensors: What stands for its tensors; its inputs are given, the others are added.
            path: The calls that lead to it.
            owner: The key of the model that it is the graph of.
        """
        for call, node in graph.nodes.items():
            layer = graph.layer(call)
            key = key_of(layer, call.layer, owner)
            if path and graph.is_input(call):
                continue
            if layer.graph is not None and same_layer(layer) in self.chosen:
                self._dissolve(graph, node, layer, tensors, path, key)
                continue
            new = self._node(node, Call(self.names[key], 0), tensors)
            if path:
                new = self._inner(new, layer, (*path, call))
            else:
                number = call.number if call.layer == self.names[key] else None
                new = self._numbered(new, number)
                new = self._with_training(new, layer, (call,))
            self.nodes[new.call] = new
            outputs = graph.refs_of(call)
            tensors.update({ref: Ref(new.call, ref.output) for ref in outputs})

    def _numbered(self, node: Node, number: int | None) -> Node:
        name = node.call.layer
        if number is None:
            number = self.numbers.get(name, 0)
            self.numbers[name] = number + 1
        return dataclasses.replace(node, call=Call(name, number))

    def _node(self, node: Node, call: Call, tensors: Mapping[Ref, Ref]) -> Node:
        args, kwargs = map_refs(tensors.__getitem__, (node.args, dict(node.kwargs)))
        outputs = node.outputs and tuple(_moved(spec, tensors) for spec in node.outputs)
        seen = tuple(_moved(spec, tensors) for spec in node.seen)
        return dataclasses.replace(
            node, call=call, args=args, kwargs=kwargs, outputs=outputs, seen=seen
        )

    def _inner(self, node: Node, layer: Layer, path: Path) -> Node:
        """A call of a layer of a nested model; Keras is asked again if it may see a mask now."""
        node = self._with_training(self._numbered(node, None), layer, path)
        if any(ref.call in self.doubtful for ref in node.inputs):
            self.doubtful.add(node.call)
            node = dataclasses.replace(node, outputs=None, tensors=())
        return node

    def _with_training(self, node: Node, layer: Layer, path: Path) -> Node:
        """Records the `training` argument that reached the call without being recorded there."""
        if is_raw(layer.op):
            return node
        told = path in self.training.recorded
        if (told or self.training.mixed) and hides_training(layer.recipe):
            raise EditError(
                f"The call of '{layer.name}' ({layer.kind}) takes no training argument, and its "
                "sublayers do: the one that a nested model was called with would not reach them.",
                "Let its call take training and hand it on.",
                layer.name,
            )
        if not takes_training(layer.recipe):
            return node
        on = self.training.on[path]
        if not self.training.mixed and (not told or "training" in node.kwargs):
            return node
        return dataclasses.replace(node, kwargs={**node.kwargs, "training": on})

    def _dissolve(
        self,
        graph: Graph,
        node: Node,
        layer: Layer,
        tensors: dict[Ref, Ref],
        path: Path,
        key: Key,
    ) -> None:
        """Writes the calls of a nested model in the place of a call of it."""
        inner = layer.graph
        assert inner is not None
        if is_opened(layer):
            self.opened = True
            given = dict(zip(inner.input_refs, node.inputs, strict=True))
            inside = {wanted: tensors[ref] for wanted, ref in given.items()}
            self._write(inner, inside, (*path, node.call), key)
            returned = enumerate(inner.output_refs)
            tensors.update({Ref(node.call, i): inside[ref] for i, ref in returned})
            return
        given = arguments(graph, node, layer, inner)
        check_mask(graph, node, layer, given)
        inside: dict[Ref, Ref] = {}
        for wanted, ref in zip(inner.input_refs, given, strict=True):
            spec = graph.spec(ref)
            converted = self._converted(layer, spec, inner.spec(wanted), tensors[ref])
            if spec.masked:
                self.doubtful.add(converted.call)
            inside[wanted] = converted
        self._write(inner, inside, (*path, node.call), key)
        returned = tuple(inside[ref] for ref in inner.output_refs)
        tensors.update({Ref(node.call, i): ref for i, ref in enumerate(returned)})
        givens = tuple(tensors[ref] for ref in given)
        masking = layer.op.supports_masking and layer.part != JOINED
        self.dissolved.append(_Dissolved(layer.name, masking, givens, returned))

    def _converted(self, layer: Layer, given: Spec, wanted: Spec, ref: Ref) -> Ref:
        """The tensor as the nested model converts it before its first layer."""
        for template in adapter(layer, given, wanted):
            name = free_name(template.name, {*self.layers, *self.names.values()})
            self.layers[name] = template_layer(name, template)
            self.nodes[Call(name)] = Node(Call(name), (ref,), outputs=None)
            if given.masked and is_raw(template):
                raise MaskError(
                    f"The nested model '{layer.name}' converts its input {given}, and its "
                    "mask would be lost.",
                    "Give it what it takes.",
                    layer.name,
                )
            ref = Ref(Call(name))
        return ref

    def _check_masks(self, flat: Graph) -> None:
        """A nested model hands the mask of its input on where its layers do not.

        Raises:
            MaskError: That would matter.
        """
        inferred = infer(flat)
        if inferred.problems:  # they are found again, and reported
            return
        whole = inferred.graph
        for call in self.dissolved:
            if not call.masking or not any(
                r.call in whole.nodes and whole.spec(r).masked for r in call.given
            ):
                continue
            for ref in call.returned:
                if ref.call in whole.nodes and not whole.spec(ref).masked and _heeded(whole, ref):
                    raise MaskError(
                        f"The nested model '{call.name}' hands the mask of its input on to its "
                        f"output, where '{flat.label(ref.call)}' drops it.",
                        "Leave this model as it is: flatten the others by name.",
                        call.name,
                    )


def _heeded(graph: Graph, ref: Ref) -> bool:
    """Whether a mask on a tensor would make a difference."""
    if ref in graph.output_refs:
        return True
    readers = [graph.layer(call).op for call in graph.readers(ref)]
    layers = [op for op in readers if not is_raw(op)]
    return any(op.supports_masking or "mask" in call_parameters(op) for op in layers)


def _moved(spec: Spec, tensors: Mapping[Ref, Ref]) -> Spec:
    """A spec whose mask stands in the flat graph."""
    if not isinstance(spec.mask, Ref):
        return spec
    return spec._replace(mask=tensors.get(spec.mask, True))


def _check_dropped(whole: Graph, flat: Graph) -> None:
    """Layers whose outputs nothing reads go; their losses must not.

    Raises:
        EditError: One has a regularizer.
    """
    for name in whole.layers.keys() - flat.layers.keys():
        op = whole.layers[name].op
        rules: Iterable[Any] = [v.regularizer for v in getattr(op, "weights", ())]
        if getattr(op, "activity_regularizer", None) is not None or any(rules):
            raise EditError(
                f"Nothing reads what '{name}' computes, so it would go, and the loss of its "
                "regularizer with it.",
                "Take the regularizer off first.",
                name,
            )
