"""Models with models among their layers."""

from __future__ import annotations

import keras
from keras import layers

from tests.kinds.registry import PLAIN, kind

NESTED = PLAIN | {"nested"}


def _encoder(name: str = "encoder", width: int = 5) -> keras.Model:
    """A small Functional model with a skip and a batch normalisation."""
    x = features = keras.Input((4,), name=f"{name}_features")
    x = layers.Dense(4, activation="relu", name=f"{name}_dense_1")(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    x = layers.Add(name=f"{name}_add")([x, features])
    return keras.Model(features, layers.Dense(width, name=f"{name}_dense_2")(x), name=name)


@kind("nested_functional", tags=NESTED)
def functional() -> keras.Model:
    """A Functional model inside another."""
    features = keras.Input((4,), name="features")
    x = layers.Dense(4, activation="tanh", name="stem")(features)
    x = _encoder()(x)
    return keras.Model(features, layers.Dense(3, name="logits")(x), name="nested_functional")


@kind("nested_sequential", tags=NESTED)
def sequential() -> keras.Model:
    """A `Sequential` inside a Functional model."""
    features = keras.Input((4,), name="features")
    head = keras.Sequential(
        [
            keras.Input((5,), name="head_features"),
            layers.Dense(4, activation="relu", name="head_dense"),
            layers.Dropout(0.1, name="head_dropout"),
            layers.Dense(3, name="head_logits"),
        ],
        name="head",
    )
    return keras.Model(
        features, head(layers.Dense(5, name="stem")(features)), name="nested_sequential"
    )


@kind("nested_two_levels", tags=NESTED)
def two_levels() -> keras.Model:
    """A model inside a model inside a model."""
    middle_features = keras.Input((4,), name="middle_features")
    x = _encoder("inner", width=4)(middle_features)
    middle = keras.Model(middle_features, layers.Dense(5, name="middle_dense")(x), name="middle")
    features = keras.Input((4,), name="features")
    return keras.Model(
        features, layers.Dense(3, name="logits")(middle(features)), name="nested_two_levels"
    )


@kind("nested_called_twice", tags=NESTED | {"shared", "multi_io"})
def called_twice() -> keras.Model:
    """An inner model called twice: a siamese network."""
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    encoder = _encoder()
    difference = layers.Subtract(name="subtract")([encoder(left), encoder(right)])
    return keras.Model(
        [left, right], layers.Dense(3, name="logits")(difference), name="nested_called_twice"
    )


@kind("nested_dict_io", tags=NESTED | {"multi_io"})
def dict_io() -> keras.Model:
    """An inner model with dicts for inputs and outputs, whose keys are not in sorted order."""
    inner_inputs = {"query": keras.Input((4,), name="query"), "key": keras.Input((4,), name="key")}
    query = layers.Dense(5, name="query_dense")(inner_inputs["query"])
    key = layers.Dense(5, name="key_dense")(inner_inputs["key"])
    inner_outputs = {
        "sum": layers.Add(name="inner_add")([query, key]),
        "product": layers.Multiply(name="mul")([query, key]),
    }
    inner = keras.Model(inner_inputs, inner_outputs, name="inner")
    features = keras.Input((4,), name="features")
    outputs = inner({"query": features, "key": layers.Dense(4, name="stem")(features)})
    x = layers.Concatenate(name="concat")([outputs["sum"], outputs["product"]])
    return keras.Model(features, layers.Dense(3, name="logits")(x), name="nested_dict_io")


@kind("nested_used_directly_too", tags=NESTED - {"saves"} | {"shared", "multi_io"})
def used_directly_too() -> keras.Model:
    """A layer of an inner model that the outer one calls too; Keras saves but cannot load it."""
    encoder = _encoder(width=4)
    features = keras.Input((4,), name="features")
    whole = encoder(features)
    part = encoder.get_layer("encoder_dense_1")(whole)
    return keras.Model(
        features, [layers.Dense(3, name="logits")(whole), part], name="nested_used_directly_too"
    )


@kind("nested_fine_tuned", tags=NESTED | {"frozen"})
def fine_tuned() -> keras.Model:
    """Transfer learning by the guide: a frozen base called with `training=False`, a new head."""
    base = _encoder("base")
    base.trainable = False
    features = keras.Input((4,), name="features")
    x = base(features, training=False)
    x = layers.Dropout(0.2, name="dropout")(x)
    return keras.Model(features, layers.Dense(3, name="logits")(x), name="nested_fine_tuned")


@kind("call_training_false", tags=NESTED)
def call_training_false() -> keras.Model:
    """A trainable base with batch normalisation that is called with `training=False`."""
    features = keras.Input((4,), name="features")
    x = _encoder("base")(features, training=False)
    return keras.Model(features, layers.Dense(3, name="logits")(x), name="call_training_false")
