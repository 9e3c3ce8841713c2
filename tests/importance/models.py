"""Small compiled models with blocks, and data for them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from tests.blocks.models import attention_layer, small_resnet
from tests.common import randomise

EAGERLY = {"run_eagerly": keras.backend.backend() == "tensorflow"}


def residual_mlp(depth: int = 4, width: int = 5) -> keras.Model:
    """Dense blocks in a row: `add_0`, `add_1`, ..."""
    x = features = keras.Input((width,), name="features")
    x = layers.Dense(width, name="stem")(x)
    for i in range(depth):
        y = layers.Dense(width, activation="tanh", name=f"inner_{i}")(x)
        x = layers.Add(name=f"add_{i}")([x, y])
    model = randomise(keras.Model(features, layers.Dense(3, name="logits")(x), name="mlp"))
    model.compile(loss="mse", metrics=["mae"], **EAGERLY)
    return model


def resnet() -> keras.Model:
    """Residual convolutions, for classes."""
    model = small_resnet()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, metrics=["accuracy"], weighted_metrics=["accuracy"], **EAGERLY)
    return model


def transformer(depth: int = 4) -> keras.Model:
    """Embedded words, padding masked, a prediction for every word."""
    x = words = keras.Input((6,), dtype="int32", name="words")
    x = layers.Embedding(11, 8, mask_zero=True, name="embedding")(x)
    for i in range(depth):
        x = attention_layer(x, f"layer_{i}")
    model = randomise(keras.Model(words, layers.Dense(4, name="tags")(x), name="tagger"))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, metrics=["accuracy"], **EAGERLY)
    return model


def two_outputs(names: bool = True) -> keras.Model:
    """Two outputs, in a dict, one of them masked, with losses and metrics of their own."""
    x = features = keras.Input((5, 4), name="features")
    x = layers.Masking(name="masking")(x)
    taps = []
    for i in range(3):
        y = layers.Dense(4, activation="tanh", kernel_regularizer="l2", name=f"inner_{i}")(x)
        x = layers.Add(name=f"add_{i}")([x, y])
        taps.append(x)
    every = layers.Dense(2, name="every")(taps[1])
    # Before Keras 3.12, on PyTorch, the pooling writes into what it reads: no other may read it.
    pooled = layers.GlobalAveragePooling1D(name="pool")(layers.Dense(4, name="mix")(x))
    one = layers.Dense(1, name="one")(pooled)
    model = keras.Model(features, {"one": one, "every": every} if names else [one, every])
    losses: Any = {"one": "mse", "every": "mae"}
    randomise(model).compile(
        loss=losses,
        loss_weights={"one": 0.5, "every": 2.0},
        metrics={"one": ["mae"]},
        weighted_metrics={"every": ["mse"]},
        **EAGERLY,
    )
    return model


def nested(calls: int = 2) -> keras.Model:
    """A model with two blocks, called several times within another."""
    inner = x = keras.Input((4,), name="inner")
    for i in range(2):
        y = layers.Dense(4, activation="tanh", name=f"dense_{i}")(x)
        x = layers.Add(name=f"inner_add_{i}")([x, y])
    body = keras.Model(inner, x, name="body")
    x = features = keras.Input((4,), name="features")
    for _ in range(calls):
        x = body(x)
    x = layers.Add(name="outer")([x, layers.Dense(4, name="dense")(x)])
    model = keras.Model(features, layers.Dense(2, name="logits")(x), name="outer_model")
    randomise(model).compile(loss="mse", **EAGERLY)
    return model


def data_of(model: Any, count: int, seed: int = 0) -> tuple[Any, Any]:
    """Inputs and targets; words with padding, and features with masked steps."""
    rng = np.random.default_rng(seed)
    shape = model.inputs[0].shape[1:]
    if model.inputs[0].dtype == "int32":
        x = rng.integers(1, 11, (count, *shape)).astype("int32")
        x[np.arange(shape[0]) >= rng.integers(2, shape[0] + 1, (count, 1))] = 0
    else:
        x = rng.normal(size=(count, *shape)).astype("float32")
        if len(shape) == 2:
            x[np.arange(shape[0]) >= rng.integers(2, shape[0] + 1, (count, 1))] = 0
    sparse = isinstance(model.loss, keras.losses.SparseCategoricalCrossentropy)

    def target(tensor: Any) -> Any:
        if sparse:
            return rng.integers(0, tensor.shape[-1], (count, *tensor.shape[1:-1]))
        return rng.normal(size=(count, *tensor.shape[1:])).astype("float32")

    outputs = model.output
    return x, keras.tree.map_structure(target, outputs)


def reference(model: Any, ends: Any, data: Any, batch_size: int) -> dict[str, float]:
    """Loss and metrics, by the loop that one would write."""
    import resect

    bypassed = model if ends is None else resect.collapse(model, *ends)
    data = keras.tree.map_structure(np.copy, data)  # on PyTorch, Keras 3.10 writes into the weights
    found = bypassed.evaluate(
        *data[:2],
        sample_weight=data[2] if len(data) > 2 else None,
        batch_size=batch_size,
        verbose=0,
        return_dict=True,
    )
    return {name: float(value) for name, value in found.items()}
