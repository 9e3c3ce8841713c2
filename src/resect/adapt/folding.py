"""The arithmetic of folding: a scale and a shift of channels, taken in by kernel and bias."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from keras import layers

from resect.graph import Layer

Arrays = Mapping[str, Any]
Side = Literal["before", "behind"]
BEFORE: Side = "before"
AFTER: Side = "behind"


@dataclass(frozen=True, eq=False)
class Statistics:
    """What a normalisation does in inference: `scale * x + shift`, channel by channel.

    Attributes:
        norm: The layer; its variables are read when they are needed.
        axis: Its axis, counted from the front.
        rank: Rank of its input.
        epsilon: What is added to the variance.
    """

    norm: Any
    axis: int
    rank: int
    epsilon: float

    @classmethod
    def of(cls, layer: Layer, rank: int) -> Statistics:
        """Those of a layer of a graph."""
        settings = layer.recipe
        return cls(layer.op, settings.axis % rank, rank, settings.epsilon)

    def values(self) -> tuple[np.ndarray, np.ndarray]:
        """Scale and shift, `(channels,)` each, in float64."""
        norm = self.norm
        scale = 1 / np.sqrt(_array(norm.moving_variance) + self.epsilon)
        if norm.scale:
            scale = _array(norm.gamma) * scale
        shift = -_array(norm.moving_mean) * scale
        return scale, shift + _array(norm.beta) if norm.center else shift


@dataclass(frozen=True, eq=False)
class Folded:
    """How a layer takes a scale and a shift in.

    Attributes:
        names: The variables that get other values.
        how: From its old arrays, the scale and the shift to the new arrays.
        statistics: Where scale and shift come from.
    """

    names: tuple[str, ...]
    how: Callable[[dict[str, np.ndarray], np.ndarray, np.ndarray], dict[str, Any]]
    statistics: Statistics

    def values(self, old: Arrays) -> dict[str, Any]:
        """The new values of a layer's variables, of the dtypes that they had."""
        wide = {name: np.asarray(value, "float64") for name, value in old.items()}
        new = self.how(wide, *self.statistics.values())
        dtype = np.asarray(old[self.names[0]]).dtype
        return {name: np.asarray(new[name]).astype(dtype) for name in self.names}


def folded(side: Side, layer: Layer, statistics: Statistics) -> Folded | str:
    """How a layer takes in the normalisation behind it or before it; or why it cannot.

    Args:
        side: Where the layer stands: before the normalisation, or behind it.
        layer: The layer.
        statistics: What the normalisation does.
    """
    op, title = layer.recipe, f"'{layer.name}' ({layer.kind}) {side} it"
    table = _BEFORE if side == BEFORE else _AFTER
    if layer.cls not in table:
        return f"{title} cannot take it in"
    if getattr(layer.op, "quantization_mode", None) is not None:
        return f"{title} is quantized"
    if getattr(layer.op, "lora_enabled", False) or getattr(layer.op, "lora_rank", None):
        return f"{title} has LoRA weights"
    if side == BEFORE and op.activation is not keras.activations.linear:
        return f"{title} has an activation"
    if statistics.axis != (axis := _channel_axis(op, statistics.rank)):
        return f"its axis is {statistics.axis}, and the channels of '{layer.name}' are axis {axis}"
    if side == AFTER and not _is_unpadded(op):
        return f"{title} pads its input"
    names, how = table[layer.cls]
    return Folded((*names, "bias"), lambda old, s, t: how(op, old, s, t), statistics)


def _channel_axis(op: Any, rank: int) -> int:
    return 1 if getattr(op, "data_format", "") == "channels_first" else rank - 1


def _is_unpadded(op: Any) -> bool:
    """Whether every output sees the same number of inputs, so that a shift stays one."""
    kernel = getattr(op, "kernel_size", ())
    return isinstance(op, layers.Dense) or op.padding == "valid" or set(kernel) == {1}


def _array(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable.value), "float64")


def _bias(old: Mapping[str, np.ndarray]) -> Any:
    return old.get("bias", 0.0)


# Into the layer before: its outputs are scaled and shifted


def _outputs_last(name: str) -> Any:
    def how(op: Any, old: Any, scale: np.ndarray, shift: np.ndarray) -> dict[str, Any]:
        return {name: old[name] * scale, "bias": _bias(old) * scale + shift}

    return how


def _transposed(op: Any, old: Any, scale: np.ndarray, shift: np.ndarray) -> dict[str, Any]:
    """The kernel is `(..., filters, channels)`."""
    return {"kernel": old["kernel"] * scale[:, None], "bias": _bias(old) * scale + shift}


def _depthwise(op: Any, old: Any, scale: np.ndarray, shift: np.ndarray) -> dict[str, Any]:
    """The kernel is `(..., channels, multiplier)`, the outputs that, flat."""
    factor = scale.reshape(old["kernel"].shape[-2:])
    return {"kernel": old["kernel"] * factor, "bias": _bias(old) * scale + shift}


# Into the layer behind: its inputs are scaled and shifted


def _into_inputs(op: Any, old: Any, scale: np.ndarray, shift: np.ndarray) -> dict[str, Any]:
    """The kernel is `(..., channels of a group, filters)`, the filters group by group."""
    kernel = old["kernel"]
    groups, filters = getattr(op, "groups", 1), kernel.shape[-1]

    def spread(values: np.ndarray) -> np.ndarray:
        """`(channels,)` to `(channels of a group, filters)`."""
        return np.repeat(values.reshape(groups, -1).T, filters // groups, axis=-1)

    axes = tuple(range(kernel.ndim - 1))
    bias = _bias(old) + (kernel * spread(shift)).sum(axes)
    return {"kernel": kernel * spread(scale), "bias": bias}


def _into_depthwise(op: Any, old: Any, scale: np.ndarray, shift: np.ndarray) -> dict[str, Any]:
    kernel = old["kernel"]
    added = (kernel * shift[:, None]).sum(tuple(range(kernel.ndim - 2)))
    return {"kernel": kernel * scale[:, None], "bias": _bias(old) + added.ravel()}


def _into_separable(op: Any, old: Any, scale: np.ndarray, shift: np.ndarray) -> dict[str, Any]:
    kernel, pointwise = old["depthwise_kernel"], old["pointwise_kernel"]
    added = (kernel * shift[:, None]).sum(tuple(range(kernel.ndim - 2))).ravel()
    mixed = added @ pointwise.reshape(pointwise.shape[-2:])
    return {"depthwise_kernel": kernel * scale[:, None], "bias": _bias(old) + mixed}


_How = tuple[tuple[str, ...], Callable[..., dict[str, Any]]]
_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)

_BEFORE: dict[type, _How] = {
    layers.Dense: (("kernel",), _outputs_last("kernel")),
    **{cls: (("kernel",), _outputs_last("kernel")) for cls in _CONVOLUTIONS},
    **dict.fromkeys(_TRANSPOSED, (("kernel",), _transposed)),
    **dict.fromkeys(_DEPTHWISE, (("kernel",), _depthwise)),
    **{cls: (("pointwise_kernel",), _outputs_last("pointwise_kernel")) for cls in _SEPARABLE},
}
_AFTER: dict[type, _How] = {
    layers.Dense: (("kernel",), _into_inputs),
    **dict.fromkeys(_CONVOLUTIONS, (("kernel",), _into_inputs)),
    **dict.fromkeys(_DEPTHWISE, (("kernel",), _into_depthwise)),
    **dict.fromkeys(_SEPARABLE, (("depthwise_kernel",), _into_separable)),
}
