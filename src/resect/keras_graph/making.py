"""Makes the layers that an edited graph asks for: from a template, or rebuilt for another shape."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import keras

from resect.errors import EditError, SurgeryError
from resect.graph import Change, Layer, Shape, Spec
from resect.keras_graph.copying import Copier
from resect.keras_graph.reading import has_graph, read
from resect.options import Weights


def new_layer(layer: Layer, weights: Weights, copy_model: Callable[..., Any]) -> Any:
    """A layer made from the template of an insertion or replacement, under the graph's name.

    A template with weights is copied with them. One without is made anew from its configuration,
    so that each place gets random seeds of its own.
    """
    template = layer.op
    if not _has_state(template):
        try:
            return from_config(template, layer.name)
        except Exception:  # no usable configuration: its attributes are copied instead
            return Copier(weights, copy_model).layer(template, layer.name)
    return Copier(weights, copy_model).layer(template, layer.name)


def from_config(layer: Any, name: str) -> Any:
    """A fresh, unbuilt layer of the same class and configuration."""
    config = _unbuilt(layer.get_config())
    if isinstance(layer, keras.layers.InputLayer):  # old ones do not say that they are optional
        config = completed(layer, config)
    if "name" in config:
        config["name"] = name
    try:
        new = type(layer).from_config(config)
    except (TypeError, ValueError):
        known = completed(layer, config)
        if config.keys() <= known.keys():
            raise
        new = type(layer).from_config(known)
    if new.name != name:
        new.name = name
    return new


def completed(layer: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a layer's constructor, as its configuration and its attributes say.

    Some of KerasHub's layers put into their configuration what the constructor does not take, and
    leave out what it takes.
    """
    own = inspect.signature(type(layer).__init__).parameters
    base = inspect.signature(keras.Layer.__init__).parameters
    taken = {name: value for name, value in config.items() if name in own or name in base}
    held = {name: vars(layer)[name] for name in own if name in vars(layer) and name not in taken}
    simple = (int, float, str, bool, tuple)
    return {**{n: v for n, v in held.items() if isinstance(v, simple)}, **taken}


def _unbuilt(config: Any) -> Any:
    """A configuration whose parts do not say for which shapes they were built.

    Wrappers and stacked cells save it for the layers inside them, which would then come built.
    """
    if isinstance(config, (list, tuple)) and not hasattr(config, "_fields"):
        return type(config)(_unbuilt(item) for item in config)
    if type(config) is not dict:
        return config
    is_object = {"class_name", "config"} <= set(config)
    kept = {k: v for k, v in config.items() if not (is_object and k == "build_config")}
    return {key: _unbuilt(value) for key, value in kept.items()}


def _has_state(template: Any) -> bool:
    return bool(getattr(template, "weights", ())) or hasattr(template, "adapt")


def template_layer(name: str, template: Any, replaced: Any = None) -> Layer:
    """The layer of a graph that will be made from a template.

    Args:
        name: Its name in the graph.
        template: A layer or a model; a model with a graph can be edited further.
        replaced: The layer whose place it takes, if it is to take over the weights that fit.
    """
    graph = read(template) if isinstance(template, keras.Model) and has_graph(template) else None
    return Layer(name, template, type(template), graph, origin="new", template=replaced)


def changed_layer(
    layer: Layer,
    config: Callable[[dict[str, Any]], dict[str, Any]],
    cls: type | None = None,
    values: Mapping[str, Callable[[Mapping[str, Any]], Any] | None] | None = None,
    built: Callable[[Any], Any] | None = None,
    thawed: frozenset[str] = frozenset(),
) -> Layer:
    """A layer of the graph that goes on with another configuration.

    Args:
        layer: The layer. One that is new is made from the other configuration from the start.
        config: From its configuration to that which it is to have.
        cls: The class that it is to be of, if another.
        values: As in `resect.graph.Change`.
        built: Likewise; a layer that is new must not need it.
        thawed: Likewise.

    Raises:
        EditError: It has no configuration, does not take the new one, or brings weights of its own.
    """
    if layer.origin == "new" and getattr(layer.op, "weights", ()):
        raise EditError(
            f"'{layer.name}' ({layer.kind}) is new and brings its own weights.",
            "Change it before you put it in.",
            layer.name,
        )
    try:
        found = config(_unbuilt(layer.recipe.get_config()))
        template = _reconfigured(layer, cls or layer.cls, {**found, "name": layer.name})
    except SurgeryError:
        raise
    except Exception as error:
        raise EditError(
            f"'{layer.name}' ({layer.kind}) cannot be made anew with this configuration: "
            f"{_point(error)}",
            "Give it what its class takes; a class of your own needs a get_config.",
            layer.name,
        ) from error
    if layer.origin == "new":
        return replace(layer, op=template, cls=type(template), variables=None)
    earlier = layer.change or Change(None)
    change = Change(
        template,
        _then(earlier.values, values or {}),
        _both(earlier.built, built),
        earlier.thawed | thawed,
    )
    return replace(layer, cls=type(template), change=change, variables=None)


def _reconfigured(layer: Layer, cls: type, config: dict[str, Any]) -> Any:
    """A layer with another configuration, also if its constructor does not take all of that.

    What it does not take is left out only where it stays as it was: it says nothing new.
    """
    try:
        return cls.from_config(config)
    except (TypeError, ValueError):
        known = completed(layer.recipe, config)
        had = _unbuilt(layer.recipe.get_config())
        odd = config.keys() - known.keys()
        if not odd or cls is not layer.cls or any(config[key] != had.get(key) for key in odd):
            raise
        return cls.from_config(known)


def _point(error: Exception) -> str:
    """What Keras has to say at the end of its report."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _then(first: Mapping[str, Any], second: Mapping[str, Any]) -> Mapping[str, Any]:
    """Changes of values one after the other."""

    def after(how: Callable[[Mapping[str, Any]], Any]) -> Callable[[Mapping[str, Any]], Any]:
        return lambda old: how({**old, **{k: f(old) for k, f in first.items() if f is not None}})

    return {**first, **{k: None if how is None else after(how) for k, how in second.items()}}


def _both(
    first: Callable[[Any], Any] | None, second: Callable[[Any], Any] | None
) -> Callable[[Any], Any] | None:
    if first is None or second is None:
        return first or second

    def both(layer: Any) -> None:
        first(layer)
        second(layer)

    return both


def identity_layer(name: str) -> Layer:
    """A layer that passes a tensor on."""
    template = keras.layers.Identity(name=name)
    return Layer(name, template, type(template), origin="new", variables=())


def input_layer(name: str, spec: Spec) -> Layer:
    """The layer of an input that a cut makes, for tensors of a given spec."""
    template = keras.layers.InputLayer(batch_shape=spec.shape, dtype=spec.dtype, name=name)
    return Layer(name, template, type(template), origin="new")


def resized_input(layer: Layer, shape: Shape) -> Layer:
    """An input like another, of another shape: its dtype, `optional` and `sparse` stay."""
    config = completed(layer.op, layer.op.get_config())
    template = type(layer.op).from_config({**config, "batch_shape": shape})
    return Layer(layer.name, template, type(template), origin="new")
