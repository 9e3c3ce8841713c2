"""What each class of layer becomes when its input comes in another layout."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import keras
import numpy as np
from keras import layers

from resect.adapt.base import Config
from resect.adapt.layout.layouts import (
    Answer,
    Layout,
    Rule,
    Site,
    axes_in,
    constant_in,
    moved,
    same,
    shape_in,
    unchanged,
    updated,
)
from resect.adapt.layout.operations import RULES as OPERATIONS
from resect.edits.base import is_raw

# Activations that treat each number by itself.
_ELEMENTWISE = (
    "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu "
    "linear log_sigmoid mish relu relu6 selu sigmoid silu soft_shrink softplus softsign "
    "sparse_plus sparse_sigmoid squareplus swish tanh tanh_shrink threshold"
)


def _names(text: str) -> tuple[type, ...]:
    """Classes of `keras.layers`, without those that this Keras does not have."""
    found = (getattr(layers, name, None) for name in text.split())
    return tuple(cls for cls in found if cls is not None)


def _each(text: str, sizes: Iterable[int]) -> tuple[type, ...]:
    return tuple(cls for n in sizes for cls in _names(text.replace("#", f"{n}D")))


_RECURRENT = _each("ConvLSTM#", (1, 2, 3))
_SHRINKING = _each("SpatialDropout#", (2, 3))
_POOLING = _each(
    "MaxPooling# AveragePooling# GlobalMaxPooling# GlobalAveragePooling# "
    "AdaptiveMaxPooling# AdaptiveAveragePooling#",
    (1, 2, 3),
)
_SPATIAL = (
    *_POOLING,
    *_each("Conv# Conv#Transpose DepthwiseConv# SeparableConv# ZeroPadding#", (1, 2, 3)),
    *_each("UpSampling# Cropping#", (2, 3)),
    *_names("Resizing CenterCrop"),
)


def treats_numbers_alone(function: Any) -> bool:
    """Whether an activation is one of Keras's that treat each number by itself."""
    name = getattr(function, "__name__", "")
    if function is not None and name not in _ELEMENTWISE.split():
        return False
    known = (getattr(module, name, None) for module in (keras.activations, keras.ops))
    return function is None or any(function is each for each in known)


def _formatted(site: Site, layout: Layout) -> Answer | None:
    """A layer that has a data format: it takes the new one."""
    if demanded(site) != layout:
        return None
    outputs = []
    for spec in site.outputs:
        rank = len(spec.shape)
        if rank == len(layout):
            outputs.append(layout)
        else:
            recurrent = site.layer.cls in _RECURRENT  # without its axis of time
            outputs.append(moved(rank, site.to) if recurrent else unchanged(rank))
    if site.layer.cls is layers.TimeDistributed:
        return Answer(tuple(outputs), lambda config: _inside(config, site.to))
    return Answer(tuple(outputs), updated(data_format=site.to))


def _inside(config: Config, to: str) -> Config:
    inner = config["layer"]
    return {**config, "layer": {**inner, "config": {**inner["config"], "data_format": to}}}


def _following(site: Site, layout: Layout) -> Answer | None:
    """A layer whose data format matters, but that does not ask for another: Flatten, dropout."""
    rank = len(site.inputs[0].shape)
    if not site.converts or layout != moved(rank, site.to):
        return None
    outputs = (unchanged(len(s.shape)) if len(s.shape) != rank else layout for s in site.outputs)
    return Answer(tuple(outputs), updated(data_format=site.to))


def _elementwise(site: Site, layout: Layout) -> Answer | None:
    return Answer(same(site, layout))


def _activation(site: Site, layout: Layout) -> Answer | None:
    if not treats_numbers_alone(site.layer.recipe.activation):
        return None
    return Answer(same(site, layout))


def _noise(site: Site, layout: Layout) -> Answer | None:
    """Dropout, which may drop whole rows: a shape in which some axes are 1."""
    shape = site.config.get("noise_shape")
    if shape is None:
        return Answer(same(site, layout))
    if len(shape) != len(layout):
        return None
    return Answer(same(site, layout), updated(noise_shape=shape_in(layout, shape)))


def _axis(site: Site, layout: Layout) -> Answer | None:
    axis = site.config["axis"]
    return Answer(same(site, layout), updated(axis=axes_in(layout, axis)))


def _one_axis(site: Site, layout: Layout) -> Answer | None:
    """Normalization with a weight for each channel; with several axes they would be reordered."""
    axis = site.config["axis"]
    if isinstance(axis, (list, tuple)) and len(axis) > 1:
        return None
    return _axis(site, layout)


def _last_axis(site: Site, layout: Layout) -> Answer | None:
    """Normalization that Keras computes rightly over the last axis only, on PyTorch for one."""
    axes = np.atleast_1d(axes_in(layout, site.config["axis"]))
    if len(axes) > 1 or axes[0] % len(layout) != len(layout) - 1:
        return None
    return _axis(site, layout)


def _prelu(site: Site, layout: Layout) -> Answer | None:
    """A slope for each channel, or for each place too: they are transposed."""
    shared = site.config["shared_axes"]
    axes = None if shared is None else sorted(axes_in(layout, list(shared)))
    order = tuple(axis - 1 for axis in layout[1:])
    values = {"alpha": lambda old: np.transpose(np.asarray(old["alpha"]), order)}
    return Answer(same(site, layout), updated(shared_axes=axes), values)


def _rescaling(site: Site, layout: Layout) -> Answer | None:
    """A scale and an offset, which are broadcast like constants."""
    old = {field: np.asarray(getattr(site.layer.recipe, field)) for field in ("scale", "offset")}
    if all(value.ndim == 0 for value in old.values()):
        return Answer(same(site, layout))
    new = {field: constant_in(layout, value) for field, value in old.items()}
    # With images channels first by default, Keras puts the channels of a scale elsewhere itself.
    if keras.config.image_data_format() == "channels_first":
        return None
    return Answer(
        same(site, layout), updated(**{k: v.tolist() for k, v in new.items() if v is not None})
    )


RULES: dict[Any, Rule] = {
    **dict.fromkeys((*_SPATIAL, *_RECURRENT, layers.TimeDistributed), _formatted),
    **dict.fromkeys((layers.Flatten, *_SHRINKING), _following),
    **dict.fromkeys(
        _names(
            "ReLU LeakyReLU ELU Identity GaussianNoise GaussianDropout ActivityRegularization "
            "Add Subtract Multiply Average Maximum Minimum"
        ),
        _elementwise,
    ),
    layers.Activation: _activation,
    **dict.fromkeys((layers.Dropout, layers.AlphaDropout), _noise),
    **dict.fromkeys(_names("Softmax Concatenate UnitNormalization"), _axis),
    **dict.fromkeys(
        _names("BatchNormalization GroupNormalization Normalization"),
        _one_axis,
    ),
    **dict.fromkeys(_names("LayerNormalization RMSNormalization"), _last_axis),
    layers.PReLU: _prelu,
    layers.Rescaling: _rescaling,
}

_REGISTERED: dict[type, str] = {}
_HOW: dict[str, Rule] = {"elementwise": _elementwise, "axis": _axis, "data_format": _formatted}


def register_layout(cls: type, how: Literal["elementwise", "axis", "data_format"]) -> None:
    """Says what `data_format` does with a layer class of one's own.

    Without, the layer goes on reading the old layout, behind a `Permute`: right, but slower.

    Args:
        cls: The class itself; its subclasses need a registration of their own.
        how: `"elementwise"`: it treats each number alike, wherever it stands; `"axis"`: it has a
            setting `axis`, its output has the shape of its input, and its weights, if it has any,
            are those of this one axis; `"data_format"`: it has a setting `data_format` that says
            where the channels of its input and its output are, and weights that do not depend on
            that.

    Raises:
        ValueError: `how` is none of these.

    Example:

    >>> import keras, resect
    >>> class Doubled(keras.layers.Layer):
    ...     def call(self, x):
    ...         return 2 * x
    >>> resect.adapt.register_layout(Doubled, "elementwise")
    """
    if how not in _HOW:
        raise ValueError(f"how must be one of {', '.join(map(repr, _HOW))}, not {how!r}.")
    _REGISTERED[cls] = how


def rule_of(site: Site) -> Rule | None:
    """The rule of a call's layer or operation; `None` if it has none."""
    cls = site.layer.cls
    if is_raw(site.layer.op):
        own = cls.__module__.startswith("keras.")
        return OPERATIONS.get(cls.__name__) if own else None
    if cls in _REGISTERED:
        return _HOW[_REGISTERED[cls]]
    return RULES.get(cls)


def demanded(site: Site) -> Layout | None:
    """The layout that a layer has to read for its data format to be the new one.

    Returns:
        The layout; `None` if the layer has no data format, has the new one already, or cannot have
        it: it reads a mask or several tensors, keeps a state, or has an activation over channels.
    """
    if len(site.inputs) != 1 or site.inputs[0].masked:
        return None
    if data_format_of(site) in (None, site.to) or site.config.get("stateful"):
        return None
    timed = site.layer.cls is layers.TimeDistributed
    layer = site.layer.recipe.layer if timed else site.layer.recipe
    functions = (getattr(layer, name, None) for name in ("activation", "recurrent_activation"))
    if not all(map(treats_numbers_alone, functions)):
        return None
    lead = int(timed or site.layer.cls in _RECURRENT)
    layout = moved(len(site.inputs[0].shape), site.to, lead)
    return None if layout == unchanged(len(layout)) else layout


def data_format_of(site: Site) -> Any:
    """The data format of a call's layer; `None` if it has none that can be another."""
    if site.layer.cls is layers.TimeDistributed:
        inner = site.layer.recipe.layer
        return inner.data_format if type(inner) in _SPATIAL else None
    return site.config.get("data_format") if rule_of(site) is _formatted else None


def keeps_places(site: Site) -> bool:
    """Whether a layer returns what it reads place by place, or a feature map of a feature map."""
    return site.layer.cls is layers.Dense or rule_of(site) is not None
