"""Layers that users write, and what they leave out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from tests.kinds.registry import kind


@keras.saving.register_keras_serializable(package="kinds")
class Scale(layers.Layer):
    """Multiplies by a weight per feature; written as the guide teaches it."""

    def __init__(self, start: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.start = start

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.scale = self.add_weight(
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(self.start),
            name="scale",
        )

    def call(self, x: Any) -> Any:
        return x * self.scale

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "start": self.start}


@keras.saving.register_keras_serializable(package="kinds")
class ResidualBlock(layers.Layer):
    """A composite layer without `build` or `get_config`: Keras works both out."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.expand = layers.Dense(2 * width, activation="relu", name="expand")
        self.norm = layers.BatchNormalization(name="norm")
        self.contract = layers.Dense(width, name="contract")

    def call(self, x: Any, training: bool | None = None) -> Any:
        return x + self.contract(self.norm(self.expand(x), training=training))


@keras.saving.register_keras_serializable(package="kinds")
class BuiltResidualBlock(ResidualBlock):
    """A composite layer that builds its parts, as the guide advises."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.expand.build(input_shape)
        hidden_shape = self.expand.compute_output_shape(input_shape)
        self.norm.build(hidden_shape)
        self.contract.build(hidden_shape)


class Apply(layers.Layer):
    """Applies a function. Without `get_config`, and with such an argument, it cannot be saved."""

    def __init__(self, function: Callable[[Any], Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.function = function
        self.dense = layers.Dense(4, name="inner_dense")

    def call(self, x: Any) -> Any:
        return self.function(self.dense(x))


@keras.saving.register_keras_serializable(package="kinds")
class RunningMean(layers.Layer):
    """Subtracts a running mean, which training updates."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.mean = self.add_weight(
            shape=(input_shape[-1],), initializer="zeros", trainable=False, name="mean"
        )

    def call(self, x: Any, training: bool | None = None) -> Any:
        if training:
            self.mean.assign(0.9 * self.mean + 0.1 * ops.mean(x, axis=0))
        return x - self.mean


@keras.saving.register_keras_serializable(package="kinds")
class SplitInTwo(layers.Layer):
    """Returns a dict of two tensors."""

    def call(self, x: Any) -> dict[str, Any]:
        return {"right": x[:, 2:], "left": x[:, :2]}


@keras.saving.register_keras_serializable(package="kinds")
class Penalty(layers.Layer):
    """Passes its input on and adds a loss."""

    def call(self, x: Any) -> Any:
        self.add_loss(0.01 * ops.mean(x**2))
        return x


@kind("custom_layer_with_config")
def with_config() -> keras.Model:
    """A layer with its own weight and `get_config`."""
    features = keras.Input((4,), name="features")
    x = Scale(0.5, name="scale")(features)
    return keras.Model(features, layers.Dense(3, name="logits")(x), name="custom_layer_with_config")


@kind("custom_layer_composite")
def composite() -> keras.Model:
    """A layer of layers, twice."""
    features = keras.Input((4,), name="features")
    x = BuiltResidualBlock(4, name="block_1")(features)
    x = BuiltResidualBlock(4, name="block_2")(x)
    return keras.Model(features, layers.Dense(3, name="logits")(x), name="custom_layer_composite")


@kind("custom_layer_without_build", load_warning=r"`build\(\)` was called on layer 'block'")
def without_build() -> keras.Model:
    """A layer of layers with neither `build` nor `get_config`: its first call builds them."""
    features = keras.Input((4,), name="features")
    x = ResidualBlock(4, name="block")(features)
    return keras.Model(
        features, layers.Dense(3, name="logits")(x), name="custom_layer_without_build"
    )


@kind("custom_layer_without_config", tags={"trains"})
def without_config() -> keras.Model:
    """A layer whose configuration Keras cannot know, so the model cannot be saved."""
    features = keras.Input((4,), name="features")
    x = Apply(lambda tensor: ops.tanh(tensor), name="apply")(features)
    return keras.Model(
        features, layers.Dense(3, name="logits")(x), name="custom_layer_without_config"
    )


@kind("custom_layer_with_state")
def with_state() -> keras.Model:
    """A layer that updates its own variable while training."""
    features = keras.Input((4,), name="features")
    x = RunningMean(name="running_mean")(features)
    return keras.Model(features, layers.Dense(3, name="logits")(x), name="custom_layer_with_state")


@kind("custom_layer_dict_output")
def dict_output() -> keras.Model:
    """A layer that returns a dict."""
    features = keras.Input((4,), name="features")
    halves = SplitInTwo(name="split")(layers.Dense(4, name="dense")(features))
    x = layers.Multiply(name="multiply")([halves["left"], halves["right"]])
    return keras.Model(features, layers.Dense(3, name="logits")(x), name="custom_layer_dict_output")


@kind("custom_layer_add_loss")
def add_loss() -> keras.Model:
    """A layer that adds a loss of its own."""
    features = keras.Input((4,), name="features")
    x = Penalty(name="penalty")(layers.Dense(4, name="dense")(features))
    return keras.Model(features, layers.Dense(3, name="logits")(x), name="custom_layer_add_loss")
