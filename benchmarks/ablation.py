"""Every block of a 48-block model bypassed, one at a time, and the model evaluated without it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import keras
import numpy as np
from keras import layers

import resect
from benchmarks.timing import Row, shown

BLOCKS = 48
SIDE, SAMPLES, BATCH = 8, 128, 32
BARS = {"jax": 10.0, "tensorflow": 4.0, "torch": 1.7}


def rows(runs: int) -> Iterator[Row]:
    """The one row, measured once: the loop by hand takes minutes."""
    model, data = network(), samples()
    model.evaluate(*data, batch_size=BATCH, verbose=0)  # so that the libraries are warm
    begin = time.perf_counter()
    found = resect.importance(model, data, batch_size=BATCH)
    middle = time.perf_counter()
    by_hand = naive(model, data)
    end = time.perf_counter()
    ours, theirs = middle - begin, end - middle
    apart = max(
        abs(row.changes[name] - (numbers[name] - found.baseline[name]))
        for row, numbers in zip(found, by_hand, strict=True)
        for name in numbers
    )
    bar = BARS[keras.backend.backend()]
    yield Row(
        f"{BLOCKS} residual blocks: loss and accuracy without each",
        f"{shown(ours)} (the same numbers within {apart:.0e})",
        f"collapse and evaluate, one by one: {shown(theirs)}",
        theirs / ours,
        f"at least {bar:g}x",
        theirs / ours >= bar,
    )


def network() -> keras.Model:
    """Residual blocks of two convolutions each, compiled."""
    x = image = keras.Input((SIDE, SIDE, 3), name="image")
    x = layers.Conv2D(16, 3, padding="same", name="stem")(x)
    for i in range(BLOCKS):
        y = layers.Conv2D(16, 3, padding="same", use_bias=False, name=f"block_{i}_conv_1")(x)
        y = layers.BatchNormalization(name=f"block_{i}_norm_1")(y)
        y = layers.ReLU(name=f"block_{i}_relu")(y)
        y = layers.Conv2D(16, 3, padding="same", use_bias=False, name=f"block_{i}_conv_2")(y)
        y = layers.BatchNormalization(
            gamma_initializer=keras.initializers.Constant(0.2), name=f"block_{i}_norm_2"
        )(y)
        x = layers.Add(name=f"block_{i}_add")([x, y])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(image, layers.Dense(10, activation="softmax", name="classes")(x))
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def samples() -> tuple[np.ndarray, np.ndarray]:
    """Random images and classes."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(SAMPLES, SIDE, SIDE, 3)).astype("float32")
    return images, rng.integers(0, 10, SAMPLES)


def naive(model: keras.Model, data: tuple[np.ndarray, np.ndarray]) -> list[dict[str, float]]:
    """What one would write without the sweep."""
    found = []
    for block in resect.blocks(model).level("block").collapsible():
        bypassed = resect.collapse(model, *block.ends)
        found.append(bypassed.evaluate(*data, batch_size=BATCH, verbose=0, return_dict=True))
    return found
