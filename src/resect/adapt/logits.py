"""Logits instead of probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import keras

from resect.adapt.activations import activation_of
from resect.adapt.base import Changed, change_layers, producer
from resect.edits import Remove
from resect.edits.base import Edit
from resect.errors import EditError
from resect.graph import Call, Graph, Layer
from resect.options import Weights
from resect.plan import plan
from resect.select import Place

_FINAL = ("softmax", "sigmoid", "log_softmax", "log_sigmoid", "hard_sigmoid", "sparsemax")


@dataclass(frozen=True)
class Logits(Edit):
    """Takes the final softmax or sigmoid off every output that has one."""

    verb: ClassVar[str] = "logits"
    uncompiled: ClassVar[str] = "its loss was made for probabilities"

    def describe(self) -> str:
        return "return logits"

    def pinned(self, graph: Graph) -> Edit:
        return self

    def apply(self, graph: Graph) -> Graph:
        found = [producer(graph, ref) for ref in dict.fromkeys(graph.output_refs)]
        final = [place for place in found if activation_of(_layer(graph, place)) in _FINAL]
        if not final:
            ends = ", ".join(
                f"'{place.spelling(graph)}' ({_layer(graph, place).kind}, "
                f"{activation_of(_layer(graph, place)) or 'no activation'})"
                for place in found
            )
            raise EditError(
                f"No output ends with a softmax or sigmoid: they come from {ends}.",
                "They may be logits already.",
            )
        for place in final:
            _check_ends(graph, place)
        for place in final:
            graph = self._without(graph, place)
        return graph

    def _without(self, graph: Graph, place: Place) -> Graph:
        layer = _layer(graph, place)
        if _has_argument(layer):
            linear = Changed(lambda config: {**config, "activation": "linear"})
            return change_layers(graph, [place], lambda _: linear)
        return Remove(place.spelling(graph)).apply(graph)


def _check_ends(graph: Graph, place: Place) -> None:
    """Refuses a call whose output, or whose layer, is used for something else too."""
    calls = [*map(Call, place.path), place.call]
    for depth, call in enumerate(calls):
        nested = graph.at(place.path[:depth])
        if nested.is_shared(call.layer) or nested.consumers(call):
            how = "is called several times" if nested.is_shared(call.layer) else "is read inside"
            raise EditError(
                f"'{place.spelling(graph)}' makes an output, and '{call.layer}' {how}: without its "
                "activation something else would change too.",
                "Take that off first, or replace the activation by hand.",
                place.spelling(graph),
            )


def _has_argument(layer: Layer) -> bool:
    """Whether the activation is an argument of a layer that does something else."""
    if not issubclass(layer.cls, keras.Layer) or layer.cls is keras.layers.Activation:
        return False
    return "activation" in layer.recipe.get_config()


def _layer(graph: Graph, place: Place) -> Layer:
    return graph.at(place.path).layer(place.call)


def logits(model: Any, *, weights: Weights = "copy") -> Any:
    """The model without its final softmax or sigmoid.

    Whether that is an argument of the last layer, a layer, or an operation, also where the last
    layer is a nested model. The result is not compiled, because the loss of the source was made
    for probabilities: compile it with `from_logits=True`.

    Preserved: `activation(new(x))` equals `model(x)`.
    Not preserved: the compile state.

    Args:
        model: A built Keras model.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model.

    Raises:
        EditError: No output ends with a softmax or a sigmoid.

    Example:

    >>> import keras, resect
    >>> stack = [keras.Input((4,)), keras.layers.Dense(3, activation="softmax", name="classes")]
    >>> new = resect.adapt.logits(keras.Sequential(stack))
    >>> new.get_layer("classes").activation.__name__
    'linear'
    """
    return plan(model).then(Logits()).apply(weights=weights)
