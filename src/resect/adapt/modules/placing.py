"""Modules of several layers, put into a graph as one writes a model: `x = put(layer, x)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import keras

from resect.edits.base import by_path, single_output, spelled, spellings
from resect.errors import EditError
from resect.graph import Call, Graph, Layer, Node, Ref, Spec, free_name
from resect.keras_graph.making import template_layer
from resect.lookup import resolve_calls
from resect.select import Where

DataFormat = Literal["channels_last", "channels_first"]
#: From a tensor to what takes its place: writes down the calls between the two.
Module = Callable[["Putting", Ref], Ref]

_MIXED = {"float16": "mixed_float16", "bfloat16": "mixed_bfloat16"}
_RELAYING = (keras.layers.Permute, keras.layers.Reshape, keras.layers.Flatten)


class Putting:
    """The calls of a module in the making.

    A layer is an unbuilt template; its name is put behind that of the module. One that is put in
    twice is called twice.

    Args:
        graph: The graph that the module will stand in.
        call: The call behind which it stands.
        name: What the names of its layers begin with.
        taken: Names that are not free any more; those of the module are added.
    """

    def __init__(self, graph: Graph, call: Call, name: str, taken: set[str]) -> None:
        self.graph = graph
        self.call = call
        self.name = name
        self.nodes: list[Node] = []
        self.layers: list[Layer] = []
        self._taken = taken
        self._put: dict[int, list[Call]] = {}  # the calls of each template, by its identity

    def __call__(self, template: Any, tensors: Any) -> Ref:
        """Calls a layer, or an operation, on tensors; returns what comes out."""
        calls = self._put.setdefault(id(template), [])
        if calls:
            call = Call(calls[0].layer, len(calls))
        else:
            call = Call(free_name(f"{self.name}_{template.name}", self._taken))
            self._taken.add(call.layer)
            self.layers.append(template_layer(call.layer, template))
        calls.append(call)
        self.nodes.append(Node(call, (tensors,)))
        return Ref(call)

    def spec(self, ref: Ref) -> Spec:
        """The spec of a tensor that the module reads."""
        return self.graph.spec(ref)

    @property
    def label(self) -> str:
        """The user's spelling of the call behind which the module stands."""
        return self.graph.label(self.call)


def pinned_places(graph: Graph, where: Where) -> Any:
    """The places of modules spelled out, with the output that is meant."""
    found = spellings(resolve_calls(where, graph), graph)
    return spelled(where, found) if isinstance(found, str) else found


def put_behind(graph: Graph, where: Where, name: str, module: Module) -> Graph:
    """Puts a module behind each of some calls; whatever read those reads the module.

    Args:
        graph: The outermost graph.
        where: The calls, at any depth.
        name: What is put behind the name of the call in the names of the new layers.
        module: Writes the module down.

    Raises:
        MultipleOutputsError: A call returns several tensors, and it is not said which is meant.
    """
    for path, calls in by_path(resolve_calls(where, graph)).items():
        nested = graph.at(path)
        taken = set(nested.layers)
        instead: dict[Ref, Ref] = {}
        nodes: list[Node] = []
        layers: list[Layer] = []
        for call in calls:
            ref = single_output(nested, call, where)
            put = Putting(nested, call, f"{call.layer}_{name}", taken)
            instead[ref] = module(put, ref)
            nodes += put.nodes
            layers += put.layers
        rewired = nested.substitute(instead).add(nodes, layers).ordered()
        graph = graph.with_nested(path, rewired)
    return graph


def policy_for(put: Putting, ref: Ref) -> str:
    """The dtype policy of new layers that read a tensor: what they return is of its dtype.

    Raises:
        EditError: It holds no floating-point numbers.
    """
    dtype = put.spec(ref).dtype
    if "float" not in dtype:
        raise EditError(
            f"'{put.label}' returns {dtype}, and new layers compute with floats.",
            "Choose a place behind it, where the tensor is of a float dtype.",
            put.label,
        )
    return policy_of(dtype)


def policy_of(dtype: str) -> str:
    """The dtype policy of a layer that returns a dtype, and keeps its variables in float32."""
    return _MIXED.get(dtype, dtype)


def data_format_at(graph: Graph, call: Call) -> DataFormat | None:
    """Where the channels are in the output of a call, as the nearest layer before it says.

    Returns:
        `None` if none says so on the way to the input.
    """
    waiting, seen = [call], {call}
    while waiting:
        at = waiting.pop(0)
        layer = graph.layer(at).recipe
        if (said := getattr(layer, "data_format", None)) is not None:
            return said
        axis = getattr(layer, "axis", None) if hasattr(layer, "moving_mean") else None
        if axis is not None:
            rank = len(graph.spec(Ref(at)).shape)
            return "channels_last" if axis in (-1, rank - 1) else "channels_first"
        if isinstance(layer, _RELAYING):
            return None
        found = [ref.call for ref in graph.nodes[at].data_inputs if ref.call not in seen]
        waiting += found
        seen.update(found)
    return None


def channels_at(put: Putting, ref: Ref, data_format: DataFormat) -> int:
    """The number of channels of a tensor `(batch, ..., channels)` or `(batch, channels, ...)`.

    Raises:
        EditError: It has no other axes, more than three, or an unknown number of channels.
    """
    shape = put.spec(ref).shape
    channels = shape[-1 if data_format == "channels_last" else 1] if len(shape) > 1 else None
    if not 3 <= len(shape) <= 5 or channels is None:
        raise EditError(
            f"'{put.label}' returns {put.spec(ref)}, which is no map with channels.",
            "Choose a place with the shape (batch, height, width, channels), or with one or three "
            "spatial axes.",
            put.label,
        )
    return channels
