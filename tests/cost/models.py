"""Models on which counters of the backends count little but multiply-adds."""

from __future__ import annotations

import keras
from keras import layers, ops


def perceptron() -> keras.Model:
    x = inputs = keras.Input((256,), name="x")
    for i, units in enumerate((512, 384, 10)):
        x = layers.Dense(units, name=f"dense_{i}")(x)
    return keras.Model(inputs, x, name="perceptron")


def network() -> keras.Model:
    """Convolutions of every kind, without padding, which JAX does not count."""
    x = image = keras.Input((20, 20, 16), name="image")
    x = layers.Conv2D(64, 3, strides=2, name="strided")(x)
    x = layers.Conv2D(64, 1, name="point")(x)
    x = layers.Conv2D(64, 3, groups=4, name="grouped")(x)
    x = layers.Dense(64, name="positions")(x)
    return keras.Model(image, x, name="network")


def transformer() -> keras.Model:
    """Attention of a layer, and of operations between layers."""
    x = tokens = keras.Input((24, 96), name="tokens")
    x = layers.MultiHeadAttention(4, 32, name="attention")(x, x)
    scores = ops.matmul(x, ops.transpose(x, (0, 2, 1)))
    x = ops.einsum("bqk,bkd->bqd", scores, x)
    x = layers.EinsumDense("abc,cd->abd", output_shape=(None, 384), name="up")(x)
    return keras.Model(tokens, layers.Dense(96, name="down")(x), name="transformer")


def recurrent() -> keras.Model:
    x = steps = keras.Input((6, 16), name="steps")
    x = layers.Bidirectional(layers.LSTM(12, return_sequences=True), name="both")(x)
    x = layers.GRU(8, return_sequences=True, name="gru")(x)
    x = layers.TimeDistributed(layers.Dense(5), name="each")(x)
    return keras.Model(steps, layers.LSTM(7, name="last")(x), name="recurrent")


class Gated(keras.layers.Layer):
    """A layer of a user's own, made of layers, an operation and a weight."""

    def build(self, shape):
        self.inner = layers.Dense(48, activation="relu")
        self.inner.build(shape)
        self.kernel = self.add_weight(shape=(48, shape[-1]), name="kernel")

    def call(self, x):
        return x + ops.matmul(self.inner(x), self.kernel)


def custom() -> keras.Model:
    x = inputs = keras.Input((9, 32), name="x")
    x = Gated(name="gated")(x)
    return keras.Model(inputs, x, name="custom")
