"""Composite layers of one's own, that calls of sublayers and raw operations can be put for."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from tests.common import randomise

_registered = keras.saving.register_keras_serializable(package="resect_blocks")


@_registered
class Block(keras.Layer):
    """Normalization, two dense layers with dropout between them, and a skip connection."""

    def __init__(self, units: int, rate: float = 0.3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.rate = rate
        self.supports_masking = True
        self.norm = layers.LayerNormalization(dtype=self.dtype_policy, name="norm")
        self.inner = layers.Dense(2 * units, dtype=self.dtype_policy, name="inner")
        self.act = layers.Activation("relu", dtype=self.dtype_policy, name="act")
        self.drop = layers.Dropout(rate, seed=1, dtype=self.dtype_policy, name="drop")
        self.outer = layers.Dense(units, dtype=self.dtype_policy, name="outer")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units, "rate": self.rate}

    def build(self, shape: Any) -> None:
        wide = (*shape[:-1], 2 * self.units)
        self.norm.build(shape)
        self.inner.build(shape)
        self.act.build(wide)
        self.drop.build(wide)
        self.outer.build(wide)
        self.built = True

    def call(self, x: Any, training: bool | None = None) -> Any:
        y = self.act(self.inner(self.norm(x)))
        return x + self.outer(self.drop(y, training=training))


@_registered
class Attending(keras.Layer):
    """Attention, which sees the mask of what it reads, an LSTM, and batch statistics."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.supports_masking = True
        self.attend = layers.MultiHeadAttention(2, units // 2, name="attend")
        self.lstm = layers.LSTM(units, return_sequences=True, name="lstm")
        self.norm = layers.BatchNormalization(name="norm")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}

    def build(self, shape: Any) -> None:
        self.attend.build(shape, shape)
        self.lstm.build(shape)
        self.norm.build(shape)
        self.built = True

    def call(self, x: Any, mask: Any = None) -> Any:
        x = x + self.lstm(self.attend(x, x), mask=mask)
        return self.norm(x, mask=mask)


@_registered
class Stage(keras.Layer):
    """Two blocks, of which the second is called twice."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.first = Block(units, name="first")
        self.second = Block(units, name="second")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}

    def build(self, shape: Any) -> None:
        self.first.build(shape)
        self.second.build(shape)
        self.built = True

    def call(self, x: Any) -> dict[str, Any]:
        x = self.first(x)
        return {"sum": x + self.second(self.second(x)), "mean": ops.mean(x, axis=-1)}


def blocks(dtype: Any = None, rate: float = 0.3) -> keras.Model:
    """Two blocks between an input and a Dense."""
    x = features = keras.Input((4,), name="features")
    for name in ("one", "two"):
        x = Block(4, rate, dtype=dtype, name=name)(x)
    x = layers.Dense(3, name="logits")(x)
    return randomise(keras.Model(features, x, name="blocks"))


def masked(*stack: Any) -> keras.Model:
    """Layers behind an embedding that masks zeros, and a pooling that heeds the mask."""
    x = ids = keras.Input((6,), dtype="int32", name="ids")
    x = layers.Embedding(5, 4, mask_zero=True, name="words")(x)
    for layer in stack:
        x = layer(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return randomise(keras.Model(ids, x, name="masked"))
