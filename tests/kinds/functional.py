"""Models written with the functional API, without anything special among their layers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tests.kinds.registry import PLAIN, kind, needs
from zoo.randomise import inputs_for


@kind("functional_chain")
def chain() -> keras.Model:
    """A chain of layers."""
    x = features = keras.Input((4,), name="features")
    x = layers.Dense(6, activation="relu", name="dense_1")(x)
    x = layers.Dense(5, activation="tanh", name="dense_2")(x)
    x = layers.Dropout(0.2, name="dropout")(x)
    x = layers.Dense(3, name="logits")(x)
    return keras.Model(features, x, name="functional_chain")


@kind("functional_residual")
def residual() -> keras.Model:
    """Residual blocks: two identity skips, and one with a projection."""

    def block(x: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
        skip = x if x.shape[-1] == filters else layers.Conv2D(filters, 1, name=f"{name}_project")(x)
        x = layers.Conv2D(filters, 3, padding="same", name=f"{name}_conv")(x)
        x = layers.BatchNormalization(name=f"{name}_bn")(x)
        x = layers.Activation("relu", name=f"{name}_relu")(x)
        return layers.Add(name=f"{name}_add")([skip, x])

    image = keras.Input((6, 6, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="stem")(image)
    for index, filters in enumerate((4, 5, 5), start=1):
        x = block(x, filters, f"block_{index}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(3, name="logits")(x), name="functional_residual")


@kind("functional_multi_io_list", tags=PLAIN | {"multi_io"})
def multi_io_list() -> keras.Model:
    """Two inputs and two outputs, in lists."""
    left, right = keras.Input((4,), name="left"), keras.Input((3,), name="right")
    joined = layers.Concatenate(name="concat")(
        [
            layers.Dense(5, activation="relu", name="left_dense")(left),
            layers.Dense(4, name="right_dense")(right),
        ]
    )
    outputs = [layers.Dense(3, name="first")(joined), layers.Dense(2, name="second")(joined)]
    return keras.Model([left, right], outputs, name="functional_multi_io_list")


@kind("functional_multi_io_dict", tags=PLAIN | {"multi_io"})
def multi_io_dict() -> keras.Model:
    """Two inputs and three outputs, in dicts whose keys are not in sorted order."""
    inputs = {"width": keras.Input((4,), name="width"), "height": keras.Input((3,), name="height")}
    wide = layers.Dense(5, activation="relu", name="width_dense")(inputs["width"])
    high = layers.Dense(5, name="height_dense")(inputs["height"])
    both = layers.Multiply(name="multiply")([wide, high])
    outputs = {
        "weight": layers.Dense(3, name="weight")(both),
        "shape": layers.Dense(2, name="shape")(wide),
        "other": layers.Dense(1, name="other")(high),
    }
    return keras.Model(inputs, outputs, name="functional_multi_io_dict")


@kind("functional_nested_structure", tags=PLAIN | {"multi_io"})
def nested_structure() -> keras.Model:
    """Inputs and outputs in lists within dicts."""
    inputs = {
        "pair": [keras.Input((3,), name="one"), keras.Input((3,), name="two")],
        "last": keras.Input((4,), name="last"),
    }
    summed = layers.Add(name="add")(inputs["pair"])
    last = layers.Dense(3, name="last_dense")(inputs["last"])
    outputs = {
        "z": [
            layers.Dense(2, name="sum_dense")(summed),
            layers.Average(name="average")([summed, last]),
        ],
        "a": last,
    }
    return keras.Model(inputs, outputs, name="functional_nested_structure")


@kind("functional_inner_output", tags=PLAIN | {"multi_io"})
def inner_output() -> keras.Model:
    """Outputs from the middle of a chain, one of them listed twice."""
    features = keras.Input((4,), name="features")
    hidden = layers.Dense(5, activation="relu", name="hidden")(features)
    logits = layers.Dense(3, name="logits")(hidden)
    return keras.Model(features, [hidden, logits, hidden], name="functional_inner_output")


@kind("functional_input_as_output", tags=PLAIN | {"multi_io"})
def input_as_output() -> keras.Model:
    """An input that is also an output, next to a computed one."""
    features = keras.Input((4,), name="features")
    return keras.Model(
        features,
        [features, layers.Dense(3, name="logits")(features)],
        name="functional_input_as_output",
    )


@kind(
    "functional_unused_input",
    tags=PLAIN | {"multi_io"},
    unsupported=needs("3.14", "every input must be connected to an output."),
)
def unused_input() -> keras.Model:
    """An input that no output depends on."""
    features, ignored = keras.Input((4,), name="features"), keras.Input((2,), name="ignored")
    return keras.Model(
        [features, ignored],
        layers.Dense(3, name="logits")(features),
        name="functional_unused_input",
    )


@kind("functional_single_in_list")
def single_in_list() -> keras.Model:
    """One input and one output, each in a list of one."""
    features = keras.Input((4,), name="features")
    hidden = layers.Dense(5, activation="relu", name="dense")(features)
    return keras.Model(
        [features], [layers.Dense(3, name="logits")(hidden)], name="functional_single_in_list"
    )


@kind("functional_merges")
def merges() -> keras.Model:
    """Every merge layer."""
    features = keras.Input((4,), name="features")
    one, two = layers.Dense(5, name="one")(features), layers.Dense(5, name="two")(features)
    merged = [
        merge([one, two])
        for merge in (
            layers.Add(name="add"),
            layers.Subtract(name="subtract"),
            layers.Multiply(name="multiply"),
            layers.Average(name="average"),
            layers.Maximum(name="maximum"),
            layers.Minimum(name="minimum"),
            layers.Dot(axes=1, name="dot"),
        )
    ]
    x = layers.Concatenate(name="concat")(merged)
    return keras.Model(features, layers.Dense(3, name="logits")(x), name="functional_merges")


@keras.saving.register_keras_serializable(package="kinds")
class Classifier(keras.Model):
    """A subclass of Functional in the style of KerasHub: its configuration is its own arguments."""

    def __init__(self, width: int, classes: int, **kwargs: Any) -> None:
        stem = layers.Dense(width, activation="relu", name="stem")
        head = layers.Dense(classes, name="head")
        features = keras.Input((4,), name="features")
        super().__init__(features, head(stem(features)), **kwargs)
        self.stem = stem
        self.head = head
        self.width = width
        self.classes = classes

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, and not the graph."""
        return {
            "width": self.width,
            "classes": self.classes,
            "name": self.name,
            "trainable": self.trainable,
        }


@kind("functional_subclass")
def subclass() -> keras.Model:
    """A subclass of Functional with its own configuration and layers as attributes."""
    return Classifier(6, 3, name="functional_subclass")


@kind("batch_fixed")
def batch_fixed() -> keras.Model:
    """An input with a fixed batch size."""
    features = keras.Input((4,), batch_size=2, name="features")
    hidden = layers.Dense(5, activation="relu", name="dense")(features)
    return keras.Model(features, layers.Dense(3, name="logits")(hidden), name="batch_fixed")


@kind("open_shape")
def open_shape() -> keras.Model:
    """Images of any size."""
    image = keras.Input((None, None, 3), name="image")
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(3, name="logits")(x), name="open_shape")


@keras.saving.register_keras_serializable(package="kinds")
class AddIfPresent(layers.Layer):
    """Adds its second input to the first, if there is one."""

    def call(self, x: Any, extra: Any = None) -> Any:
        return x if extra is None else x + extra


def _without_extra(model: keras.Model, batch: int, seed: int) -> Any:
    features, _ = inputs_for(model, batch, seed)
    return [features, None]


@kind(
    "optional_input",
    tags=PLAIN | {"multi_io"},
    inputs=_without_extra,
    unsaved=needs("3.13", "an optional input is not optional any more after loading."),
)
def optional_input() -> keras.Model:
    """An input that may be missing, and here is."""
    features, extra = (
        keras.Input((4,), name="features"),
        keras.Input((4,), optional=True, name="extra"),
    )
    x = AddIfPresent(name="add_if_present")(features, extra)
    return keras.Model([features, extra], layers.Dense(3, name="logits")(x), name="optional_input")


def _sparse(model: keras.Model, batch: int, seed: int) -> Any:
    dense = inputs_for(model, batch, seed)
    dense = np.where(dense > 0, dense, 0).astype("float32")
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.sparse.from_dense(dense)
    from jax.experimental import sparse

    return sparse.BCOO.fromdense(dense, n_batch=0)


@kind(
    "sparse_input",
    inputs=_sparse,
    unsupported={"torch": "Keras: sparse inputs are not supported with the torch backend."},
)
def sparse_input() -> keras.Model:
    """A sparse input."""
    features = keras.Input((6,), sparse=True, name="features")
    hidden = layers.Dense(5, activation="relu", name="dense")(features)
    return keras.Model(features, layers.Dense(3, name="logits")(hidden), name="sparse_input")


@kind("deep_chain")
def deep_chain() -> keras.Model:
    """A hundred layers in a row: deep enough to show quadratic or recursive walks."""
    x = features = keras.Input((4,), name="features")
    for index in range(100):
        x = layers.Activation("tanh" if index % 10 else "linear", name=f"activation_{index}")(x)
    return keras.Model(features, layers.Dense(3, name="logits")(x), name="deep_chain")


@kind("layer_with_call_arguments")
def layer_with_call_arguments() -> keras.Model:
    """Tensors and plain values given to a layer by keyword."""
    features = keras.Input((4,), name="features")
    extra = layers.Dense(4, name="extra")(features)
    x = AddIfPresent(name="add_if_present")(features, extra=extra)
    x = layers.BatchNormalization(name="bn")(x, training=False)
    return keras.Model(features, ops.relu(x), name="layer_with_call_arguments")
