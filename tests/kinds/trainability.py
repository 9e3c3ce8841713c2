"""Models of which some part does not train: a layer, a variable, a nested model or all of it."""

from __future__ import annotations

import keras
from keras import layers

from tests.kinds.registry import PLAIN, kind

FROZEN = PLAIN | {"frozen"}


def _classifier(name: str) -> keras.Model:
    x = features = keras.Input((4,), name="features")
    x = layers.Dense(5, activation="relu", name="dense_1")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Dense(5, activation="relu", name="dense_2")(x)
    return keras.Model(features, layers.Dense(3, name="logits")(x), name=name)


@kind("frozen_layers", tags=FROZEN)
def frozen_layers() -> keras.Model:
    """Two layers with `trainable = False`, one of them a batch normalisation."""
    model = _classifier("frozen_layers")
    for name in ("dense_1", "bn"):
        model.get_layer(name).trainable = False
    return model


@kind("frozen_variable", tags=FROZEN)
def frozen_variable() -> keras.Model:
    """Single variables with `trainable = False` in layers that train."""
    model = _classifier("frozen_variable")
    model.get_layer("dense_1").bias.trainable = False
    model.get_layer("bn").gamma.trainable = False
    return model


@kind("frozen_model", tags=FROZEN - {"trains"})
def frozen_model() -> keras.Model:
    """A model with `trainable = False` as a whole."""
    model = _classifier("frozen_model")
    model.trainable = False
    return model


@kind("frozen_all_but_one", tags=FROZEN - {"trains"})
def frozen_all_but_one() -> keras.Model:
    """A frozen model with one layer thawed again: the layer says yes, the model says no."""
    model = _classifier("frozen_all_but_one")
    model.trainable = False
    model.get_layer("logits").trainable = True
    return model


@kind("frozen_nested", tags=FROZEN | {"nested"})
def frozen_nested() -> keras.Model:
    """A frozen layer within a frozen model within a model that trains."""
    inner = _classifier("inner")
    inner.get_layer("dense_2").trainable = False
    outer_features = keras.Input((4,), name="outer_features")
    x = layers.Dense(4, name="stem")(outer_features)
    model = keras.Model(
        outer_features, layers.Dense(2, name="head")(inner(x)), name="frozen_nested"
    )
    inner.trainable = False
    return model


@kind("frozen_sublayer", tags=FROZEN)
def frozen_sublayer() -> keras.Model:
    """A frozen layer inside a composite layer, which its configuration does not mention."""
    sequence = keras.Input((5, 4), name="sequence")
    attention = layers.MultiHeadAttention(2, 3, name="attention")
    x = layers.Flatten(name="flatten")(attention(sequence, sequence))
    model = keras.Model(sequence, layers.Dense(3, name="logits")(x), name="frozen_sublayer")
    attention.key_dense.trainable = False
    return model


@kind("frozen_sequential", tags=FROZEN - {"trains"})
def frozen_sequential() -> keras.Model:
    """A `Sequential` with `trainable = False`."""
    model = keras.Sequential(
        [
            keras.Input((4,), name="features"),
            layers.Dense(5, name="dense"),
            layers.Dense(3, name="logits"),
        ],
        name="frozen_sequential",
    )
    model.trainable = False
    return model
