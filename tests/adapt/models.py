"""Models of several kinds that adaptations are tried on."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tests.common import randomise


def images(model: Any, batch: int = 2, seed: int = 0) -> np.ndarray:
    """Random images of the size that a model takes."""
    shape = [size or 16 for size in model.inputs[0].shape[1:]]
    return np.random.default_rng(seed).normal(size=(batch, *shape)).astype("float32")


def run(model: Any, inputs: Any, training: bool = False) -> Any:
    """What a model computes, as arrays."""
    return keras.tree.map_structure(ops.convert_to_numpy, model(inputs, training=training))


def assert_near(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Two arrays are equal but for rounding, measured by the largest value."""
    assert found.shape == expected.shape
    scale = max(1.0, float(np.max(np.abs(expected))))
    assert float(np.max(np.abs(found - expected))) <= tolerance * scale


def layer_of(model: Any, path: str) -> Any:
    """A layer, at any depth: `"base/conv"`."""
    for name in path.split("/"):
        model = model.get_layer(name)
    return model


@functools.cache
def mobilenet() -> keras.Model:
    """A small MobileNetV2 with a softmax over ten classes."""
    return randomise(
        keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=10)
    )


@functools.cache
def resnet() -> keras.Model:
    """A ResNet50 on small images, without its top."""
    return randomise(
        keras.applications.ResNet50(
            input_shape=(32, 32, 3), weights=None, include_top=False, pooling="avg"
        )
    )


def transfer() -> keras.Model:
    """What transfer learning makes: a frozen base, called with `training=False`, and a head."""
    image = keras.Input((8, 8, 3), name="image")
    x = inner = keras.Input((8, 8, 3), name="inner")
    x = layers.Conv2D(4, 3, use_bias=False, name="conv")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Activation("relu", name="act")(x)
    base = keras.Model(inner, x, name="base")
    base.trainable = False
    x = layers.Rescaling(1 / 127.5, offset=-1, name="rescale")(image)
    x = base(x, training=False)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(0.3, name="drop")(x)
    x = layers.Dense(3, activation="softmax", name="classes")(x)
    return randomise(keras.Model(image, x, name="transfer"))


def language() -> keras.Model:
    """An embedding, a recurrent layer, and logits for every word from the same embedding."""
    ids = keras.Input((5,), dtype="int32", name="ids")
    embedding = layers.ReversibleEmbedding(11, 6, name="words")
    x = layers.GRU(6, return_sequences=True, name="gru")(embedding(ids))
    return randomise(keras.Model(ids, embedding(x, reverse=True), name="language"))
