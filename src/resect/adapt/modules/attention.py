"""Attention over channels and positions, put behind calls: squeeze-and-excitation and CBAM.

Both multiply a map by gates. Here a gate is `2 * sigmoid(z)`, and the layer that makes `z` starts
at zero: the gate is 1 and the model computes what it did. In the papers it is `sigmoid(z)`, which
would halve every map of a trained network; training finds the factor in the layers behind anyway.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import keras
from keras import layers

from resect.adapt.modules.placing import (
    DataFormat,
    Putting,
    channels_at,
    data_format_at,
    pinned_places,
    policy_for,
    put_behind,
)
from resect.edits.base import Edit, quoted
from resect.graph import Graph, Ref
from resect.keras_graph.private import maker_of
from resect.options import Weights
from resect.plan import plan
from resect.select import Where

_CONVOLUTIONS: tuple[Any, ...] = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_AVERAGES: tuple[Any, ...] = (
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
)
_MAXIMA: tuple[Any, ...] = (
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
)


@dataclass(frozen=True)
class SqueezeExcite(Edit):
    """Puts squeeze-and-excitation behind calls.

    Args:
        where: The calls.
        ratio: By how much the channels are squeezed.
        data_format: Where the channels are, if the layers before do not say so.
    """

    verb: ClassVar[str] = "squeeze_excite"
    where: Where
    ratio: int = 16
    data_format: DataFormat | None = None

    def __post_init__(self) -> None:
        _check_ratio(self.ratio)

    def describe(self) -> str:
        return f"put squeeze-and-excitation (ratio {self.ratio}) after {quoted(self.where)}"

    def pinned(self, graph: Graph) -> Edit:
        return dataclasses.replace(self, where=pinned_places(graph, self.where))

    def apply(self, graph: Graph) -> Graph:
        return put_behind(graph, self.where, "se", self._module)

    def _module(self, put: Putting, x: Ref) -> Ref:
        at = _Map(put, x, self.data_format)
        gate = put(at.pooling(_AVERAGES, "pool"), x)
        gate = put(at.squeezing(self.ratio), gate)
        gate = put(at.zero_dense("excite", activation="sigmoid"), gate)
        return at.scaled(put, x, put(at.broadcast("reshape"), gate), "")


@dataclass(frozen=True)
class Cbam(Edit):
    """Puts a convolutional block attention module behind calls.

    Args:
        where: The calls.
        ratio: By how much the channels are squeezed.
        kernel_size: Of the convolution over positions.
        data_format: Where the channels are, if the layers before do not say so.
    """

    verb: ClassVar[str] = "cbam"
    where: Where
    ratio: int = 16
    kernel_size: int = 7
    data_format: DataFormat | None = None

    def __post_init__(self) -> None:
        _check_ratio(self.ratio)
        if self.kernel_size < 1:
            raise ValueError(f"kernel_size must be at least 1, not {self.kernel_size}.")

    def describe(self) -> str:
        sizes = f"ratio {self.ratio}, kernel {self.kernel_size}"
        return f"put convolutional block attention ({sizes}) after {quoted(self.where)}"

    def pinned(self, graph: Graph) -> Edit:
        return dataclasses.replace(self, where=pinned_places(graph, self.where))

    def apply(self, graph: Graph) -> Graph:
        return put_behind(graph, self.where, "cbam", self._module)

    def _module(self, put: Putting, x: Ref) -> Ref:
        at = _Map(put, x, self.data_format)
        return self._over_positions(put, self._over_channels(put, x, at), at)

    def _over_channels(self, put: Putting, x: Ref, at: _Map) -> Ref:
        squeeze, excite = at.squeezing(self.ratio), at.zero_dense("excite")
        pools = [at.pooling(_AVERAGES, "average"), at.pooling(_MAXIMA, "maximum")]
        gates = [put(excite, put(squeeze, put(pool, x))) for pool in pools]
        gate = put(layers.Add(name="sum", dtype=at.dtype), gates)
        gate = put(layers.Activation("sigmoid", name="channels", dtype=at.dtype), gate)
        return at.scaled(put, x, put(at.broadcast("reshape"), gate), "channel_")

    def _over_positions(self, put: Putting, x: Ref, at: _Map) -> Ref:
        seen = [put(at.over_channels(name), x) for name in ("mean", "max")]
        gate = put(layers.Concatenate(at.axis, name="concat", dtype=at.dtype), seen)
        last, first = at.moved()
        gate = gate if last is None else put(last, gate)
        gate = put(at.zero_convolution(self.kernel_size, "positions"), gate)
        gate = gate if first is None else put(first, gate)
        return at.scaled(put, x, gate, "position_")


def _check_ratio(ratio: int) -> None:
    if ratio < 1:
        raise ValueError(f"ratio must be at least 1, not {ratio}.")


class _Map:
    """The layers that fit a map with channels, each an unbuilt template.

    Args:
        put: The module in the making.
        x: The map.
        data_format: Where its channels are; `None` to find out.
    """

    def __init__(self, put: Putting, x: Ref, data_format: DataFormat | None) -> None:
        found = data_format or data_format_at(put.graph, put.call)
        self.data_format = found or cast(DataFormat, keras.config.image_data_format())
        self.channels = channels_at(put, x, self.data_format)
        self.dtype = policy_for(put, x)
        self.spec = put.spec(x)
        self.spatial = len(self.spec.shape) - 2
        self.is_last = self.data_format == "channels_last"
        self.axis = -1 if self.is_last else 1

    def pooling(self, classes: tuple[Any, ...], name: str) -> Any:
        """From the map to `(batch, channels)`."""
        cls = classes[self.spatial - 1]
        return cls(data_format=self.data_format, name=name, dtype=self.dtype)

    def squeezing(self, ratio: int) -> Any:
        """From the channels to fewer."""
        units = max(1, self.channels // ratio)
        return layers.Dense(units, activation="relu", name="squeeze", dtype=self.dtype)

    def zero_dense(self, name: str, **options: Any) -> Any:
        """Back to all channels, at first to zero."""
        zeros = {"kernel_initializer": "zeros", "dtype": self.dtype, **options}
        return layers.Dense(self.channels, name=name, **zeros)

    def zero_convolution(self, size: int, name: str) -> Any:
        """From `(batch, ..., 2)` to `(batch, ..., 1)`, a gate that at first is a half."""
        return _CONVOLUTIONS[self.spatial - 1](
            1, size, padding="same", data_format="channels_last", activation="sigmoid",
            kernel_initializer="zeros", name=name, dtype=self.dtype,
        )  # fmt: skip

    def broadcast(self, name: str) -> Any:
        """From `(batch, channels)` to a shape that multiplies the map."""
        ones = (1,) * self.spatial
        shape = (*ones, self.channels) if self.is_last else (self.channels, *ones)
        return layers.Reshape(shape, name=name, dtype=self.dtype)

    def over_channels(self, name: str) -> Any:
        """The mean or the maximum over the channels, as a raw operation."""
        tensor = keras.KerasTensor(self.spec.shape, self.spec.dtype)
        function = getattr(keras.ops, name)
        operation = maker_of(function(tensor, axis=self.axis, keepdims=True))
        operation.name = name
        return operation

    def moved(self) -> tuple[Any, Any]:
        """What puts the channels last and what puts them first again, where they are first.

        TensorFlow has no convolution for channels in front on a CPU.
        """
        if self.is_last:
            return None, None
        axes = range(2, self.spatial + 2)
        back = (self.spatial + 1, *range(1, self.spatial + 1))
        last = layers.Permute((*axes, 1), name="last", dtype=self.dtype)
        return last, layers.Permute(back, name="first", dtype=self.dtype)

    def scaled(self, put: Putting, x: Ref, gate: Ref, name: str) -> Ref:
        """The map times twice the gate."""
        twice = put(layers.Rescaling(2.0, name=f"{name}gate", dtype=self.dtype), gate)
        return put(layers.Multiply(name=f"{name}scale", dtype=self.dtype), [x, twice])


def squeeze_excite(
    model: Any,
    where: Where,
    *,
    ratio: int = 16,
    data_format: DataFormat | None = None,
    weights: Weights = "copy",
) -> Any:
    """A model with squeeze-and-excitation behind some calls.

    From Hu, Shen and Sun, "Squeeze-and-Excitation Networks" (2018): each channel is multiplied by a
    gate that two dense layers compute from the averages of all channels. Here the gate is
    `2 * sigmoid(z)` where the paper has `sigmoid(z)`, and the layer that computes `z` starts at
    zero: every gate is 1, and the new model computes what the old one did until it is trained.

    Preserved: what the model computes, in inference and in training mode, until it is trained; all
    weights, the compile state and the optimizer's slots. The new layers are stock Keras layers, and
    start with fresh slots.

    Args:
        model: A built Keras model.
        where: The calls behind which it is put, at any depth, with outputs
            `(batch, height, width, channels)` or with one or three spatial axes.
        ratio: The first dense layer has `channels // ratio` units, and at least one.
        data_format: `"channels_last"` or `"channels_first"`; as the layers before say by default.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model.

    Raises:
        NoMatchError: `where` matches nothing.
        AmbiguousError: `where` names a shared layer, and not which of its calls.
        EditError: What a call returns is no map with channels.

    Example:

    >>> import keras, resect
    >>> stack = [keras.Input((8, 8, 3)), keras.layers.Conv2D(32, 3, name="conv")]
    >>> new = resect.adapt.squeeze_excite(keras.Sequential(stack), "conv", ratio=8)
    >>> new.get_layer("conv_se_squeeze").units
    4
    """
    edit = SqueezeExcite(where, ratio, data_format)
    return plan(model).then(edit).apply(weights=weights)


def cbam(
    model: Any,
    where: Where,
    *,
    ratio: int = 16,
    kernel_size: int = 7,
    data_format: DataFormat | None = None,
    weights: Weights = "copy",
) -> Any:
    """A model with convolutional block attention behind some calls.

    From Woo et al., "CBAM: Convolutional Block Attention Module" (2018): first a gate for each
    channel, from its average and its maximum through the same two dense layers; then a gate for
    each position, from the mean and the maximum over the channels through a convolution. Here each
    gate is `2 * sigmoid(z)` where the paper has `sigmoid(z)`, and the layers that compute `z` start
    at zero: every gate is 1, and the new model computes what the old one did until it is trained.

    Preserved: what the model computes, in inference and in training mode, until it is trained; all
    weights, the compile state and the optimizer's slots. The new layers are stock Keras layers and
    operations, and start with fresh slots.

    Args:
        model: A built Keras model.
        where: The calls behind which it is put, at any depth, with outputs
            `(batch, height, width, channels)` or with one or three spatial axes.
        ratio: The first dense layer has `channels // ratio` units, and at least one.
        kernel_size: Of the convolution over positions.
        data_format: `"channels_last"` or `"channels_first"`; as the layers before say by default.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model.

    Raises:
        NoMatchError: `where` matches nothing.
        AmbiguousError: `where` names a shared layer, and not which of its calls.
        EditError: What a call returns is no map with channels.

    Example:

    >>> import keras, resect
    >>> stack = [keras.Input((8, 8, 3)), keras.layers.Conv2D(32, 3, name="conv")]
    >>> new = resect.adapt.cbam(keras.Sequential(stack), "conv")
    >>> tuple(new.get_layer("conv_cbam_positions").kernel.shape)
    (7, 7, 2, 1)
    """
    edit = Cbam(where, ratio, kernel_size, data_format)
    return plan(model).then(edit).apply(weights=weights)
