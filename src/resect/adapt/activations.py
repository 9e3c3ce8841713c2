"""Other activations: layers, operations and arguments alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import keras

from resect.adapt.base import Changed, Config, change_layers, chosen_or_all
from resect.edits import Replace
from resect.edits.base import Edit, quoted, spellings
from resect.errors import EditError
from resect.graph import Graph, Layer
from resect.lookup import resolve
from resect.options import Weights
from resect.plan import plan
from resect.select import Place, Where

#: Arguments that hold an activation.
FIELDS = ("activation", "recurrent_activation")

# Layers that are nothing but an activation, and variables that they have.
_LAYERS = {
    keras.layers.LeakyReLU: "leaky_relu",
    keras.layers.PReLU: "prelu",
    keras.layers.ELU: "elu",
    keras.layers.Softmax: "softmax",
}
_LOST = {"alpha": None}


@dataclass(frozen=True)
class Activations(Edit):
    """Swaps activations for others.

    Args:
        swap: Pairs of the name of an activation and what takes its place.
        where: The layers; all of them without.
    """

    verb: ClassVar[str] = "activations"
    swap: tuple[tuple[str, Any], ...]
    where: Where = None

    def describe(self) -> str:
        pairs = ", ".join(f"{old} by {activation_name(new)}" for old, new in self.swap)
        return f"replace {pairs}" + ("" if self.where is None else f" in {quoted(self.where)}")

    def pinned(self, graph: Graph) -> Edit:
        if self.where is None:
            return self
        return Activations(self.swap, spellings(resolve(self.where, graph), graph))

    def apply(self, graph: Graph) -> Graph:
        swap = dict(self.swap)
        places = chosen_or_all(graph, self.where)
        found = [place for place in places if self._concerned(graph, place, swap)]
        if not found:
            have = sorted({name for place in places for name in _names(_at(graph, place))})
            raise EditError(
                f"No layer has the activation {' or '.join(map(repr, swap))}.",
                f"There are: {', '.join(have) or 'none'}.",
            )
        raw = [p for p in found if not issubclass(_at(graph, p).cls, keras.Layer)]
        layers = [place for place in found if place not in raw]
        graph = change_layers(graph, layers, lambda layer: _changed(layer, swap))
        for place in raw:
            new = swap[activation_of(_at(graph, place))]
            template = keras.layers.Activation(new, name=place.call.layer)
            graph = Replace(place.spelling(graph), template).apply(graph)
        return graph

    def _concerned(self, graph: Graph, place: Place, swap: Mapping[str, Any]) -> bool:
        return any(name in swap for name in _names(_at(graph, place)))


def _at(graph: Graph, place: Place) -> Layer:
    return graph.at(place.path).layer(place.call)


def activation_name(value: Any) -> str:
    """The name of an activation, given as a name, a configuration or a function."""
    if isinstance(value, str):
        return value
    function = keras.activations.get(value)
    return getattr(function, "__name__", type(function).__name__)


def activation_of(layer: Layer) -> str:
    """The name of the activation that a layer ends with; `""` if it has none."""
    return next(iter(_names(layer)), "")


def _names(layer: Layer) -> list[str]:
    """The names of all activations of a layer, that of its output first."""
    if layer.graph is not None:
        return []
    if not issubclass(layer.cls, keras.Layer):
        name = layer.kind.lower()
        known = {"".join(each.split("_")): each for each in _known()}
        return [known[name]] if name in known else []
    config = _config_of(layer)
    if config is None:
        held = [getattr(layer.recipe, field, None) for field in FIELDS]
        return [activation_name(value) for value in held if callable(value)]
    own = _whole(layer.cls, config)
    return [own] if own else list(_in_config(config))


def _config_of(layer: Layer) -> Config | None:
    """The configuration of a layer; `None` for one of a user's own that has none.

    Such a layer cannot be changed. What it shows as attributes is found all the same, so that it is
    refused, and not passed over.
    """
    try:
        return layer.recipe.get_config()
    except NotImplementedError:
        return None


def _known() -> list[str]:
    return [name for name in dir(keras.activations) if callable(getattr(keras.activations, name))]


def _whole(cls: type, config: Config) -> str:
    """The activation that a layer is, where it is nothing else."""
    if cls is keras.layers.ReLU:
        limits = tuple(config[key] for key in ("max_value", "negative_slope", "threshold"))
        return {(None, 0.0, 0.0): "relu", (6.0, 0.0, 0.0): "relu6"}.get(limits, "")
    return _LAYERS.get(cls, "")


def _in_config(config: Config) -> Iterator[str]:
    for key, value in config.items():
        if key in FIELDS and value is not None:
            yield activation_name(value)
        elif (inner := _inner(value)) is not None:
            own = _whole(*inner)
            yield from [own] if own else _in_config(inner[1])


def _inner(value: Any) -> tuple[type, Config] | None:
    """The class and configuration of a layer that another has among its settings."""
    if not (isinstance(value, dict) and isinstance(value.get("config"), dict)):
        return None
    return getattr(keras.layers, str(value.get("class_name")), keras.layers.Layer), value["config"]


def _changed(layer: Layer, swap: Mapping[str, Any]) -> Changed:
    config = _config_of(layer)
    own = "" if config is None else _whole(layer.cls, config)
    if own:
        config = {"activation": keras.activations.serialize(keras.activations.get(swap[own]))}
        lost = _LOST if layer.cls is keras.layers.PReLU else None
        return Changed(lambda old: {**_shared_fields(old), **config}, lost, keras.layers.Activation)
    return Changed(lambda old: _swapped(old, swap))


def _shared_fields(config: Config) -> Config:
    return {key: config[key] for key in ("name", "trainable", "dtype") if key in config}


def _swapped(config: Config, swap: Mapping[str, Any]) -> Config:
    new = dict(config)
    for key, value in config.items():
        if key in FIELDS and value is not None and activation_name(value) in swap:
            function = keras.activations.get(swap[activation_name(value)])
            new[key] = keras.activations.serialize(function)
        elif isinstance(value, dict) and (inner := _inner(value)) is not None:
            new[key] = _swapped_inner(value, *inner, swap)
    return new


def _swapped_inner(value: Config, cls: type, config: Config, swap: Mapping[str, Any]) -> Config:
    own = _whole(cls, config)
    if own not in swap:
        return {**value, "config": _swapped(config, swap)}
    layer = keras.layers.Activation(swap[own], name=config.get("name"))
    return cast(Config, keras.saving.serialize_keras_object(layer))


def activations(
    model: Any, swap: Mapping[str, Any], where: Where = None, *, weights: Weights = "copy"
) -> Any:
    """The model with other activations.

    Found are `Activation` layers, layers that are an activation (`ReLU`, `LeakyReLU`, `PReLU`,
    `ELU`, `Softmax`), operations (`keras.ops.relu`), and `activation` and `recurrent_activation`
    arguments, also in nested models, wrappers and cells. What a layer of one's own does inside
    `call` is not found.

    Preserved: all weights, but for the slopes of a `PReLU`.
    Not preserved: what the model computes.

    Args:
        model: A built Keras model.
        swap: What takes the place of what: `{"relu": "silu", "relu6": "silu"}`. A value is a name
            or a function.
        where: Only these layers.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model.

    Raises:
        EditError: No layer has such an activation, or one that has it cannot be made anew.
        NoMatchError: `where` matches nothing.

    Example:

    >>> import keras, resect
    >>> stack = [keras.Input((4,)), keras.layers.Dense(3, activation="relu", name="hidden")]
    >>> new = resect.adapt.activations(keras.Sequential(stack), {"relu": "silu"})
    >>> new.get_layer("hidden").activation.__name__
    'silu'
    """
    return plan(model).then(Activations(tuple(swap.items()), where)).apply(weights=weights)
