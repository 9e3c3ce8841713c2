"""A small compiled model with blocks of different worth, and data for it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from tests.common import randomise
from tests.importance.models import EAGERLY

SCALES = (0.9, 0.05, 0.5, 0.2)


def classifier(
    scales: tuple[float, ...] = SCALES, optimizer: Any = "adam", compiled: bool = True
) -> keras.Model:
    """Dense blocks `block_0`, ...: what each adds is scaled, so the second is worth least."""
    x = features = keras.Input((6,), name="features")
    for i, scale in enumerate(scales):
        y = layers.Dense(6, activation="tanh", name=f"inner_{i}")(x)
        y = layers.Dropout(0.1, seed=i, name=f"dropout_{i}")(y)
        y = layers.Rescaling(scale, name=f"scale_{i}")(y)
        x = layers.Add(name=f"block_{i}")([x, y])
    model = randomise(keras.Model(features, layers.Dense(3, name="logits")(x), name="classifier"))
    if not compiled:
        return model
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], **EAGERLY)
    return model


def features(count: int = 24, seed: int = 0) -> np.ndarray:
    """Inputs for it."""
    return np.random.default_rng(seed).normal(size=(count, 6)).astype("float32")


def data(count: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features, and the classes that `classifier` says they are: every block is worth something."""
    x = features(count, seed)
    return x, np.asarray(classifier().predict_on_batch(x)).argmax(axis=-1)


def numbers(model: Any, given: Any) -> dict[str, float]:
    """What `evaluate` says."""
    found = model.evaluate(*given, batch_size=32, verbose=0, return_dict=True)
    return {name: float(value) for name, value in found.items()}
