"""Makes the layers that an edited graph asks for: from a template, or rebuilt for another shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from resect.graph import Layer, Spec
from resect.keras_graph import private
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
    if "name" in config:
        config["name"] = name
    new = type(layer).from_config(config)
    if new.name != name:
        new.name = name
    return new


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


def needs_identity() -> bool:
    """Whether this Keras wants a layer between an input and an output that are one tensor."""
    return private.INPUTS_MUST_BE_READ


def identity_layer(name: str) -> Layer:
    """A layer that passes a tensor on."""
    template = keras.layers.Identity(name=name)
    return Layer(name, template, type(template), origin="new", variables=())


def input_layer(name: str, spec: Spec) -> Layer:
    """The layer of an input that a cut makes, for tensors of a given spec."""
    template = keras.layers.InputLayer(batch_shape=spec.shape, dtype=spec.dtype, name=name)
    return Layer(name, template, type(template), origin="new")
