"""What each layer of a head becomes when the head is applied at every position of a map."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import keras
import numpy as np
from keras import layers

from resect.errors import EditError
from resect.graph import Call, Graph, Layer


@dataclass(frozen=True)
class Flat:
    """A vector `(height * width * channels)` that becomes a window of a map.

    Attributes:
        height: Height of the window.
        width: Width of the window.
        channels: Channels of the map.
    """

    height: int
    width: int
    channels: int

    @property
    def is_point(self) -> bool:
        """Whether the window is one position."""
        return self.height == self.width == 1


State = Literal["map", "fixed"] | Flat
"""What a tensor is: a map of the image, part of a head, or neither."""


@dataclass(frozen=True)
class Changes:
    """What a layer becomes.

    Attributes:
        cls: Its class.
        settings: What is another in its configuration.
        kernel: The new shape of its kernel.
        dropped: Settings of the old class that the new one does not have.
        goes: Whether its calls go.
    """

    cls: type
    settings: tuple[tuple[str, Any], ...] = ()
    kernel: tuple[int, ...] | None = None
    dropped: tuple[str, ...] = ()
    goes: bool = False

    def config(self, old: dict[str, Any]) -> dict[str, Any]:
        """The new configuration."""
        return {k: v for k, v in old.items() if k not in self.dropped} | dict(self.settings)

    def values(self) -> Mapping[str, Callable[[Mapping[str, Any]], Any]]:
        """How its variables come to their values."""
        shape = self.kernel
        if shape is None:
            return {}
        return {"kernel": lambda old: np.reshape(old["kernel"], shape)}


_POOLING: dict[type, type] = {
    layers.GlobalAveragePooling2D: layers.AveragePooling2D,
    layers.GlobalMaxPooling2D: layers.MaxPooling2D,
}
# What is the same at every position, and for every element of a vector.
_ELEMENTWISE = (
    layers.Dropout, layers.AlphaDropout, layers.GaussianDropout, layers.GaussianNoise,
    layers.ActivityRegularization, layers.Identity, layers.Rescaling,
    layers.ReLU, layers.LeakyReLU, layers.ELU,
    layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum,
)  # fmt: skip
# What is the same at every position, along the channels.
_ALONG_CHANNELS = (
    layers.BatchNormalization, layers.LayerNormalization, layers.Softmax, layers.Concatenate,
)  # fmt: skip
_MIXING = ("softmax", "log_softmax", "sparsemax", "glu")
# What only makes sense for one size of the image.
_SIZED = (layers.Reshape, layers.Flatten, layers.Resizing, layers.CenterCrop, layers.RandomCrop)

_SIZED_OPERATIONS = ("Reshape", "BroadcastTo", "Ravel", "Resize")


def is_start(layer: Layer) -> bool:
    """Whether a layer makes a vector of a map, as a head does at its start."""
    return layer.cls in _POOLING or layer.cls is layers.Flatten


def why_sized(layer: Layer) -> str:
    """Why a layer that reads a map needs its size; `""` if it does not."""
    if getattr(layer.recipe, "data_format", None) == "channels_first":
        return "has its channels first, and only channels_last is supported"
    raw = not issubclass(layer.cls, keras.Layer) and layer.kind in _SIZED_OPERATIONS
    return "needs an image of one size" if raw or layer.cls in _SIZED else ""


def of_start(graph: Graph, call: Call) -> tuple[Changes, Flat]:
    """What becomes of the layer at which a head starts.

    Raises:
        EditError: It is of another layout, or the size of the map is not known.
    """
    layer, ref = graph.layer(call), graph.nodes[call].data_inputs[0]
    height, width, channels = graph.spec(ref).shape[1:]
    if getattr(layer.recipe, "data_format", None) == "channels_first":
        _refuse(graph, call, "has its channels first", "Only channels_last is supported.")
    if height is None or width is None or channels is None:
        _refuse(
            graph, call, f"reads {graph.spec(ref)}, whose size is not known",
            "Build the model for images of one size: that is what its head is for.",
        )  # fmt: skip
    if layer.cls is layers.Flatten:
        return Changes(layer.cls, goes=True), Flat(height, width, channels)
    settings = (("pool_size", (height, width)), ("strides", 1), ("padding", "valid"))
    return Changes(_POOLING[layer.cls], settings, dropped=("keepdims",)), Flat(1, 1, channels)


def of_head(graph: Graph, call: Call, read: list[State]) -> tuple[Changes | None, Flat]:
    """What becomes of a layer of a head; `None` if it stays what it is.

    Args:
        graph: The graph.
        call: A call that reads a head.
        read: What it reads.

    Raises:
        EditError: It would not do the same at every position.
    """
    layer, first = graph.layer(call), read[0]
    windows = [state for state in read if isinstance(state, Flat)]
    if len(windows) < len(read) or len({(w.height, w.width) for w in windows}) > 1:
        _refuse(graph, call, "reads what is not of the head, too")
    assert isinstance(first, Flat)
    if layer.cls is layers.Dense:
        return _dense(graph, call, first)
    if _passes_on(graph, call, layer, first):
        return Changes(layer.cls, goes=True), first
    if layer.cls in _ELEMENTWISE:
        if getattr(layer.recipe, "noise_shape", None) is not None:
            _refuse(graph, call, "has a noise_shape, which is that of a vector")
        return None, first
    activation = getattr(getattr(layer.recipe, "activation", None), "__name__", "softmax")
    if layer.cls is layers.Activation and (first.is_point or activation not in _MIXING):
        return None, first
    if layer.cls in _ALONG_CHANNELS and first.is_point:
        return _along_channels(graph, call, windows)
    if layer.cls is layers.Conv2D and set(layer.recipe.kernel_size) == {1} and first.is_point:
        return None, Flat(1, 1, layer.recipe.filters)
    where = "" if first.is_point else " between Flatten and Dense"
    return _refuse(graph, call, f"would not do the same at every position{where}")


def _passes_on(graph: Graph, call: Call, layer: Layer, state: Flat) -> bool:
    """Whether a layer makes a vector of what is one already, or of a map of one position."""
    if layer.cls is layers.Flatten:
        return True
    shape = graph.nodes[call].outputs
    return (
        layer.cls is layers.Reshape
        and state.is_point
        and bool(shape)
        and (math.prod(size or 0 for size in shape[0].shape[1:]) == shape[0].shape[-1])
    )


def _along_channels(graph: Graph, call: Call, windows: list[Flat]) -> tuple[Changes | None, Flat]:
    layer = graph.layer(call)
    rank = len(graph.spec(graph.nodes[call].data_inputs[0]).shape)
    axis = layer.recipe.axis
    axis = axis[0] if isinstance(axis, (list, tuple)) and len(axis) == 1 else axis
    if not isinstance(axis, int) or axis % rank != rank - 1:
        _refuse(graph, call, f"works along axis {axis}, not along the channels")
    merged = layer.cls is layers.Concatenate
    channels = sum(w.channels for w in windows) if merged else windows[0].channels
    changes = None if axis == -1 else Changes(layer.cls, (("axis", -1),))
    return changes, Flat(1, 1, channels)


_NOT_OF_CONVOLUTIONS = ("units", "lora_rank", "lora_alpha", "quantization_config")


def _dense(graph: Graph, call: Call, window: Flat) -> tuple[Changes, Flat]:
    layer = graph.layer(call)
    op, dense = layer.op, layer.recipe
    if getattr(op, "quantization_mode", None) is not None or getattr(op, "lora_enabled", False):
        _refuse(graph, call, "is quantized or has LoRA weights")
    orthogonal = isinstance(dense.kernel_regularizer, keras.regularizers.OrthogonalRegularizer)
    if dense.kernel_constraint is not None or orthogonal:
        _refuse(
            graph, call, "has a constraint or regularizer for the axes of its kernel",
            "Take it off: resect.adapt.configure(model, name, kernel_constraint=None).",
        )  # fmt: skip
    kernel = (window.height, window.width, window.channels, dense.units)
    settings = (
        ("filters", dense.units),
        ("kernel_size", kernel[:2]),
        ("strides", 1),
        ("padding", "valid"),
        ("data_format", "channels_last"),
    )
    changes = Changes(layers.Conv2D, settings, kernel, dropped=_NOT_OF_CONVOLUTIONS)
    return changes, Flat(1, 1, dense.units)


def _refuse(
    graph: Graph,
    call: Call,
    why: str,
    repair: str = "Replace it, or cut it off first: a head is Flatten or global pooling, Dense "
    "layers, activations, dropout and normalization.",
) -> NoReturn:
    raise EditError(f"{graph.title(call)} {why}.", repair, graph.label(call))
