"""Dissolves nested models: their calls become calls of the graph around them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras

from resect.adapt.inlined_inputs import adapter, arguments, check_mask
from resect.adapt.training_argument import (
    Path,
    Training,
    hides_training,
    takes_training,
    training_of,
)
from resect.edits.base import call_parameters, is_raw
from resect.edits.rename import Rename
from resect.errors import EditError, MaskError
from resect.graph import Call, Graph, Layer, Node, Ref, Spec, free_name, map_refs
from resect.keras_graph.inferring import infer
from resect.keras_graph.making import template_layer
from resect.keras_graph.private import Functional
from resect.keras_graph.reading import read

Key = tuple[Any, ...]

#: The `part` of a model that is dissolved where it is put, as if it had been called by itself.
JOINED = "joined"

_PLAIN_CALLS = (Functional.call, keras.Sequential.call)


def same_layer(layer: Layer) -> Key:
    """What is equal for a layer wherever it stands."""
    return ("layer", id(layer.op), layer.part)


class Inlining:
    """Dissolves some of the nested models of a graph.

    Args:
        graph: The outermost graph, complete.
        chosen: The models, by `same_layer`.
    """

    def __init__(self, graph: Graph, chosen: set[Key]) -> None:
        self.graph = graph
        self.chosen = chosen
        self.done: dict[int, Graph] = {}
        self.renamed: dict[Key, str] = {}

    def run(self) -> Graph:
        """The graph without them."""
        for _, nested in self.graph.walk():
            for layer in nested.layers.values():
                if layer.graph is not None and same_layer(layer) in self.chosen:
                    _check(layer)
        _check_copies(self.graph, self.chosen)
        return self._with_one_name(self._host(self.graph))

    def _with_one_name(self, graph: Graph) -> Graph:
        """A layer that was renamed, renamed in the models that stay too: it has one name."""
        for path, nested in graph.walk() if self.renamed else ():
            for name, layer in nested.layers.items():
                new = self.renamed.get(same_layer(layer), name)
                if new != name and layer.origin != "new":
                    renamed = Rename((("/".join([*path, name]), new),)).apply(graph)
                    return self._with_one_name(renamed)
        return graph

    def _host(self, graph: Graph) -> Graph:
        """A graph that stays, the models in it dissolved or changed."""
        if id(graph) not in self.done:
            self.done[id(graph)] = self._changed(graph)
        return self.done[id(graph)]

    def _changed(self, graph: Graph) -> Graph:
        names = _names(graph, self.chosen)
        stays = dict(_staying(graph, self.chosen))
        layers: dict[str, Layer] = {}
        for key, layer in stays.items():
            inner = None if layer.graph is None else self._host(layer.graph)
            if layer.name != names[key] and layer.origin != "new":
                self.renamed[same_layer(layer)] = names[key]
            if inner is not layer.graph or layer.name != names[key]:
                layer = dataclasses.replace(layer, name=names[key], graph=inner)
            layers[layer.name] = layer
        dissolves = any(self._is_chosen(layer) for layer in graph.layers.values())
        if not dissolves:
            changed = any(layers[name] is not la for name, la in graph.layers.items())
            return graph.evolve(layers=layers) if changed else graph
        return _Host(graph, self.chosen, names, layers).run()

    def _is_chosen(self, layer: Layer) -> bool:
        return layer.graph is not None and same_layer(layer) in self.chosen


# Which layers there will be, and their names


class _Found(NamedTuple):
    key: Key
    layer: Layer
    path: tuple[str, ...]


def _layers(
    graph: Graph, chosen: set[Key], path: tuple[str, ...] = (), owner: Key = ()
) -> Iterator[_Found]:
    """The layers of a graph and of the models in it that are dissolved, their inputs left out."""
    inputs = {ref.call.layer for ref in graph.input_refs} if path else set()
    for name, layer in graph.layers.items():
        key = _key(layer, name, owner)
        if layer.graph is not None and same_layer(layer) in chosen:
            yield from _layers(layer.graph, chosen, (*path, name), key)
        elif name not in inputs:
            yield _Found(key, layer, path)


def _key(layer: Layer, name: str, owner: Key) -> Key:
    """What tells a layer from others; one that is new is known by where it was put."""
    return ("new", owner, name) if layer.origin == "new" else same_layer(layer)


def _staying(graph: Graph, chosen: set[Key]) -> Iterator[tuple[Key, Layer]]:
    seen: set[Key] = set()
    for found in _outer_first(graph, chosen):
        if found.key not in seen:
            seen.add(found.key)
            yield found.key, found.layer


def _outer_first(graph: Graph, chosen: set[Key]) -> list[_Found]:
    return sorted(_layers(graph, chosen), key=lambda found: bool(found.path))


def _names(graph: Graph, chosen: set[Key]) -> dict[Key, str]:
    """A name for each layer: its own, or with its path where that is taken by another."""
    found = _outer_first(graph, chosen)
    wanted: dict[str, set[Key]] = {}
    for each in found:
        wanted.setdefault(each.layer.name, set()).add(each.key)
    names: dict[Key, str] = {}
    taken = set(wanted)
    for each in found:
        if each.key in names:
            continue
        name = each.layer.name
        if each.path and len(wanted[name]) > 1:
            # PyTorch takes no name with a dot, and models of Keras's applications have one.
            prefix = "_".join(each.path).replace(".", "_")
            name = free_name(f"{prefix}_{name}", taken)
            taken.add(name)
        names[each.key] = name
    return names


# The calls


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
class _Host:
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
            key = _key(layer, call.layer, owner)
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


# What cannot be dissolved


def _check(layer: Layer) -> None:
    """Refuses a nested model that is more than its graph.

    Raises:
        EditError: It is.
    """
    op = layer.op
    if type(op).call not in _PLAIN_CALLS:
        raise EditError(
            f"'{layer.name}' ({layer.kind}) has a call of its own: its graph is not all it does.",
            "Leave it as it is: flatten the others by name.",
            layer.name,
        )
    if op.activity_regularizer is not None:
        raise EditError(
            f"The nested model '{layer.name}' has an activity_regularizer, which belongs to none "
            "of its layers.",
            "Give it to the layer that makes the output.",
            layer.name,
        )
    own = {id(v) for other in _operations(read(op)) for v in getattr(other, "variables", ())}
    extra = [v.path for v in op.variables if id(v) not in own]
    if extra:
        raise EditError(
            f"The nested model '{layer.name}' has variables that none of its calls uses: "
            f"{', '.join(extra[:4])}.",
            "They would be lost: take them off it first.",
            layer.name,
        )


def _check_copies(graph: Graph, chosen: set[Key]) -> None:
    """A model that was put in is copied at each place; dissolved, it would be one and the same.

    Raises:
        EditError: One of its layers stands elsewhere too.
    """
    homes: dict[int, set[Key]] = {}
    dissolved: dict[int, str] = {}
    stack: list[tuple[Graph, Key, str]] = [(graph, (), "")]
    while stack:
        nested, home, name = stack.pop()
        for layer in nested.layers.values():
            homes.setdefault(id(layer.op), set()).add(home)
            if name:
                dissolved[id(layer.op)] = name
            if layer.graph is None:
                continue
            is_new = layer.origin == "new"
            gone = is_new and layer.part != JOINED and same_layer(layer) in chosen
            inner = ("new", home, layer.name) if is_new else home
            stack.append((layer.graph, inner, layer.name if gone else name))
    for key, name in dissolved.items():
        if len(homes[key]) > 1:
            raise EditError(
                f"'{name}' was put in, and its layers stand elsewhere too: they would become "
                "shared layers.",
                "Put a copy in: resect.clone(model).",
                name,
            )


def _operations(graph: Graph) -> list[Any]:
    return [
        layer.op
        for _, nested in graph.walk()
        for layer in nested.layers.values()
        if layer.graph is None
    ]


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
