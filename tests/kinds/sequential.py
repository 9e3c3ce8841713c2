"""Chains written as `keras.Sequential`."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from tests.kinds.registry import PLAIN, kind


@kind("sequential_mlp")
def mlp() -> keras.Model:
    """A `Sequential` of dense layers."""
    return keras.Sequential(
        [
            keras.Input((4,), name="features"),
            layers.Dense(6, activation="relu", name="dense_1"),
            layers.Dense(5, activation="tanh", name="dense_2"),
            layers.Dense(3, activation="softmax", name="logits"),
        ],
        name="sequential_mlp",
    )


@kind("sequential_cnn")
def cnn() -> keras.Model:
    """A `Sequential` of convolution, batch normalisation and pooling blocks."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv_1"),
            layers.BatchNormalization(name="bn_1"),
            layers.ReLU(name="relu_1"),
            layers.MaxPooling2D(name="pool_1"),
            layers.Conv2D(5, 3, padding="same", use_bias=False, name="conv_2"),
            layers.BatchNormalization(name="bn_2"),
            layers.ReLU(name="relu_2"),
            layers.Flatten(name="flatten"),
            layers.Dense(3, name="logits"),
        ],
        name="sequential_cnn",
    )


@kind("sequential_no_input")
def no_input() -> keras.Model:
    """A `Sequential` without an `Input`, built by its first call."""
    model = keras.Sequential(
        [layers.Dense(6, activation="relu", name="dense_1"), layers.Dense(3, name="logits")],
        name="sequential_no_input",
    )
    model(np.zeros((1, 4), "float32"))
    return model


@kind("sequential_single")
def single() -> keras.Model:
    """A `Sequential` of a single layer: the smallest model there is."""
    return keras.Sequential(
        [keras.Input((4,), name="features"), layers.Dense(3, name="logits")],
        name="sequential_single",
    )


@kind("sequential_nested", tags=PLAIN | {"nested"})
def nested() -> keras.Model:
    """A `Sequential` with a `Sequential` and a Functional model among its layers."""
    features = keras.Input((6,), name="block_features")
    block = keras.Model(
        features,
        layers.Add(name="block_add")([features, layers.Dense(6, name="block_dense")(features)]),
        name="block",
    )
    stem = keras.Sequential(
        [
            keras.Input((4,), name="stem_features"),
            layers.Dense(6, activation="relu", name="stem_dense"),
        ],
        name="stem",
    )
    return keras.Sequential(
        [keras.Input((4,), name="features"), stem, block, layers.Dense(3, name="logits")],
        name="sequential_nested",
    )


@kind("activation_layers")
def activation_layers() -> keras.Model:
    """Activations as layers, with and without weights and arguments."""
    return keras.Sequential(
        [
            keras.Input((4,), name="features"),
            layers.Dense(6, name="dense_1"),
            layers.LeakyReLU(negative_slope=0.2, name="leaky_relu"),
            layers.Dense(6, name="dense_2"),
            layers.PReLU(name="prelu"),
            layers.Dense(6, name="dense_3"),
            layers.ReLU(max_value=6.0, name="relu6"),
            layers.Dense(6, name="dense_4"),
            layers.ELU(alpha=0.5, name="elu"),
            layers.Dense(3, name="dense_5"),
            layers.Activation("silu", name="silu"),
            layers.Softmax(name="softmax"),
        ],
        name="activation_layers",
    )


@kind("regularized")
def regularized() -> keras.Model:
    """Weight and activity regularizers, constraints and an `ActivityRegularization` layer."""
    return keras.Sequential(
        [
            keras.Input((4,), name="features"),
            layers.Dense(
                6,
                kernel_regularizer=keras.regularizers.L2(0.01),
                kernel_constraint=keras.constraints.MaxNorm(3.0),
                name="dense_1",
            ),
            layers.Dense(
                5,
                activity_regularizer=keras.regularizers.L1(0.01),
                activation="relu",
                name="dense_2",
            ),
            layers.ActivityRegularization(l2=0.1, name="activity"),
            layers.Dense(3, name="logits"),
        ],
        name="regularized",
    )


@kind("normalizations")
def normalizations() -> keras.Model:
    """Every common normalisation layer in a row."""
    return keras.Sequential(
        [
            keras.Input((4, 4, 4), name="image"),
            layers.BatchNormalization(name="batch_norm"),
            layers.GroupNormalization(2, name="group_norm"),
            layers.LayerNormalization(name="layer_norm"),
            layers.UnitNormalization(name="unit_norm"),
            layers.SpectralNormalization(layers.Conv2D(3, 3, name="conv"), name="spectral_norm"),
            layers.GlobalMaxPooling2D(name="pool"),
        ],
        name="normalizations",
    )
