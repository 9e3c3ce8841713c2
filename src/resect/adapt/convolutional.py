"""The head of an image classifier as convolutions, so that it takes images of any size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from resect.adapt.calls import model_key
from resect.adapt.heads import (
    Changes,
    Flat,
    State,
    is_start,
    of_head,
    of_start,
    why_sized,
)
from resect.edits.base import Edit
from resect.errors import EditError
from resect.graph import Call, Graph, Layer, Node, Ref, Spec, refs
from resect.keras_graph.making import changed_layer
from resect.options import Weights
from resect.plan import plan


@dataclass(frozen=True)
class Convolutional(Edit):
    """Makes the head of an image classifier convolutions, and its input of any size."""

    verb: ClassVar[str] = "fully_convolutional"

    def describe(self) -> str:
        return "make it fully convolutional"

    def pinned(self, graph: Graph) -> Edit:
        return self

    def apply(self, graph: Graph) -> Graph:
        converter = _Converter()
        new, states = converter.graph(graph, [_of_input(graph, ref) for ref in graph.input_refs])
        if not any(isinstance(state, Flat) for state in states):
            raise EditError(
                f"{graph.kind} '{graph.name}' has no head: no Flatten or global pooling of an "
                "image leads to an output.",
                "Only such a head can be made convolutions.",
            )
        for ref, state in zip(graph.output_refs, states, strict=True):
            if isinstance(state, Flat) and not state.is_point:
                raise EditError(
                    f"'{graph.tensor_label(ref)}' is an output as it leaves Flatten.",
                    "Only a Dense can become a convolution; cut the model off before Flatten.",
                    graph.tensor_label(ref),
                )
        return new


def fully_convolutional(model: Any, *, weights: Weights = "copy") -> Any:
    """An image classifier that takes images of any size, and classifies every patch of them.

    Flatten and the Dense behind it become one convolution with a kernel as large as the feature
    map, other Dense layers of the head convolutions with kernels of 1 x 1, and global pooling
    becomes pooling over windows of the feature map's size. Activations, dropout and normalization
    in between stay. The input becomes `(batch, None, None, channels)`, in nested models too.

    Preserved: all weights, kernels in another shape; what the model computes from an image of the
    old size, which is now `(batch, 1, 1, classes)`. From a larger image a network without padding
    computes `(batch, rows, columns, classes)`: what it computed from each patch of the old size, at
    a distance of the product of its strides. Padding looks at what is outside the patch instead of
    zeros, and squeeze-and-excitation looks at the whole image. Not preserved: optimizer slots of
    the reshaped kernels.

    Args:
        model: A built Keras model whose input says the size of the image.
        weights: `"copy"` or `"share"`; the reshaped kernels are new variables either way.

    Returns:
        A new model.

    Raises:
        EditError: The model has no head, the head has a layer that means something else for every
            position, or the rest has one that needs the size of the image.
        ShapeError: A layer has weights for each position.

    Example:

    >>> import keras, resect
    >>> stack = [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), keras.layers.Flatten()]
    >>> model = keras.Sequential([*stack, keras.layers.Dense(5)])
    >>> new = resect.adapt.fully_convolutional(model)
    >>> new(keras.ops.ones((1, 10, 9, 3))).shape[1:] == (3, 2, 5)
    True
    """
    return plan(model).then(Convolutional()).apply(weights=weights)


def _of_input(graph: Graph, ref: Ref) -> State:
    return "map" if len(graph.spec(ref).shape) == 4 else "fixed"


class _Converter:
    """Goes through a graph and its nested ones, and keeps what became of each layer."""

    def __init__(self) -> None:
        self.changes: dict[int, Changes | None] = {}
        self.made: dict[tuple[int, str], Layer] = {}
        self.models: dict[tuple[int, str], tuple[list[State], Graph, list[State]]] = {}

    def graph(self, graph: Graph, given: list[State]) -> tuple[Graph, list[State]]:
        """A graph whose inputs are in the given states, converted; and the states of its outputs.

        Raises:
            EditError: Some layer cannot be converted.
        """
        states: dict[Ref, State] = {}
        nodes: dict[Call, Node] = {}
        layers: dict[str, Layer] = {}
        gone: dict[Ref, Ref] = {}
        by_input = dict(zip(graph.input_refs, given, strict=True))
        starts = _starts(graph, by_input)
        for call, node in graph.nodes.items():
            layer = graph.layer(call)
            if graph.is_input(call):
                layers[call.layer], nodes[call] = _input(graph, call, by_input[Ref(call)])
                states[Ref(call)] = by_input[Ref(call)]
                continue
            now, found = self._call(graph, call, states, call in starts)
            layers[call.layer] = now or layer
            states.update({ref: found[ref.output] for ref in graph.refs_of(call)})
            if now is None:
                gone[Ref(call)] = node.data_inputs[0]
            same = now is layer and all(states[ref] == "fixed" for ref in node.inputs)
            nodes[call] = node if same else Node(call, node.args, node.kwargs, None, node.seen)
        new = graph.evolve(nodes=nodes, layers=layers)
        mapping = {ref: _followed(ref, gone) for ref in gone}
        return new.substitute(mapping).pruned().ordered(), [states[r] for r in graph.output_refs]

    def _call(
        self, graph: Graph, call: Call, states: dict[Ref, State], start: bool
    ) -> tuple[Layer | None, list[State]]:
        """What the layer of a call becomes (`None`: the call goes), and the states behind it."""
        layer, node = graph.layer(call), graph.nodes[call]
        read: list[State] = [states[ref] for ref in node.data_inputs]
        count = len(node.outputs or (None,))
        if layer.graph is not None:
            given: list[State] = [states[ref] for ref in refs(node.args)]
            return self._nested(layer, layer.graph, given, graph.label(call))
        if start and read == ["map"]:
            changes, state = of_start(graph, call)
        elif any(isinstance(state, Flat) for state in read):
            changes, state = of_head(graph, call, read)
        else:
            if "map" in read and (why := why_sized(layer)):
                raise EditError(
                    f"{graph.title(call)} {why}.", "Take it out first.", graph.label(call)
                )
            changes, state = None, "map" if "map" in read and not is_start(layer) else "fixed"
        if changes is not None and changes.goes:
            return None, [state]
        return self._changed(layer, changes, graph, call), [state] * count

    def _nested(
        self, layer: Layer, inner: Graph, given: list[State], label: str
    ) -> tuple[Layer, list[State]]:
        key = (model_key(inner), layer.part)
        if key not in self.models:
            fixed: list[State] = ["fixed"] * len(inner.output_refs)
            untouched = all(state == "fixed" for state in given)
            self.models[key] = (given, *((inner, fixed) if untouched else self.graph(inner, given)))
        earlier, new, states = self.models[key]
        if earlier != given:
            raise EditError(
                f"The nested model '{label}' is called on different things.",
                "Call a copy of it at one of the places.",
                label,
            )
        if new is inner:
            return layer, states
        return Layer(
            layer.name, layer.op, layer.cls, new, layer.origin, layer.template, part=layer.part
        ), states

    def _changed(self, layer: Layer, changes: Changes | None, graph: Graph, call: Call) -> Layer:
        """The layer with changes; the same ones at each of its calls, in all models.

        Raises:
            EditError: They differ.
        """
        if self.changes.setdefault(id(layer.op), changes) != changes:
            raise EditError(
                f"{graph.title(call)} is shared, and would have to become different things.",
                "Replace it by a copy at one of the places.",
                graph.label(call),
            )
        if changes is None:
            return layer
        key = (id(layer.op), layer.name)
        if key not in self.made:
            self.made[key] = changed_layer(layer, changes.config, changes.cls, changes.values())
        return self.made[key]


def _followed(ref: Ref, gone: dict[Ref, Ref]) -> Ref:
    while ref in gone:
        ref = gone[ref]
    return ref


def _input(graph: Graph, call: Call, state: State) -> tuple[Layer, Node]:
    """An input layer for what is given to it now."""
    layer, node = graph.layer(call), graph.nodes[call]
    spec = graph.spec(Ref(call))
    if state == "fixed":
        return layer, node
    channels = spec.shape[-1] if state == "map" else state.channels
    now: Spec = spec._replace(shape=(spec.shape[0], None, None, channels))
    config = {**layer.recipe.get_config(), "name": layer.name, "batch_shape": now.shape}
    template = layer.cls.from_config(config)
    return Layer(layer.name, template, layer.cls, origin="new"), Node(call, outputs=(now,))


def _starts(graph: Graph, given: dict[Ref, State]) -> set[Call]:
    """The calls at which a head starts: all that needs them reads nothing but heads.

    A pooling in the middle, as in squeeze-and-excitation, goes back into the map.
    """
    starts = {call for call in graph.nodes if is_start(graph.layer(call))}
    starts = {call for call in starts if _reads_map(graph, call)}
    heads = {ref.call for ref, state in given.items() if isinstance(state, Flat)}
    while True:
        region = graph.descendants(starts | heads)
        inside = region - starts
        open_calls = [
            call
            for call in inside
            if not graph.is_input(call)
            and any(ref.call not in region for ref in graph.nodes[call].data_inputs)
        ]
        back = graph.ancestors(open_calls) & starts
        if not back:
            return starts
        starts -= back


def _reads_map(graph: Graph, call: Call) -> bool:
    node = graph.nodes[call]
    return len(node.data_inputs) == 1 and len(graph.spec(node.data_inputs[0]).shape) == 4
