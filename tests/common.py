"""What the tests of behaviour share: small models, their data, and what a model is at a moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from zoo.randomise import inputs_for, outputs_of, randomise

# Models: tiny, with fixed names and random, non-trivial weights


def mlp() -> keras.Sequential:
    """Three dense layers, the first two alike: `hidden`, `middle`, `logits`."""
    stack = [
        keras.Input((6,), name="features"),
        layers.Dense(8, activation="relu", name="hidden"),
        layers.Dense(8, activation="relu", name="middle"),
        layers.Dense(3, name="logits"),
    ]
    return randomise(keras.Sequential(stack, name="mlp"))


def functional_mlp() -> keras.Model:
    """The layers of `mlp`, as a Functional model."""
    x = features = keras.Input((6,), name="features")
    x = layers.Dense(8, activation="relu", name="hidden")(x)
    x = layers.Dense(8, activation="relu", name="middle")(x)
    x = layers.Dense(3, name="logits")(x)
    return randomise(keras.Model(features, x, name="mlp"))


def cnn() -> keras.Sequential:
    """Two blocks of Conv and Pool, then a small head."""
    stack = [
        keras.Input((8, 8, 1), name="image"),
        layers.Conv2D(3, 3, padding="same", activation="relu", name="conv_1"),
        layers.MaxPooling2D(name="pool_1"),
        layers.Conv2D(4, 3, padding="same", activation="relu", name="conv_2"),
        layers.MaxPooling2D(name="pool_2"),
        layers.Flatten(name="flatten"),
        layers.Dense(6, activation="relu", name="dense"),
        layers.Dense(3, name="logits"),
    ]
    return randomise(keras.Sequential(stack, name="cnn"))


def stateful_mlp() -> keras.Model:
    """Dense layers with batch statistics and a seeded dropout between them."""
    x = features = keras.Input((6,), name="features")
    x = layers.Dense(5, name="hidden")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Dropout(0.3, seed=7, name="dropout")(x)
    x = layers.Dense(3, name="logits")(x)
    return randomise(keras.Model(features, x, name="stateful_mlp"))


def two_branches() -> keras.Model:
    """One layer, `shared`, called in two branches that meet again."""
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    shared = layers.Dense(5, activation="tanh", name="shared")
    x = layers.Concatenate(name="concat")([shared(left), shared(right)])
    outputs = layers.Dense(3, name="logits")(x)
    return randomise(keras.Model([left, right], outputs, name="two_branches"))


def residual() -> keras.Model:
    """A residual block between two dense layers."""
    features = keras.Input((4,), name="features")
    stem = layers.Dense(5, name="stem")(features)
    x = layers.Dense(5, activation="relu", name="branch")(stem)
    x = layers.Add(name="add")([stem, x])
    return randomise(keras.Model(features, layers.Dense(3, name="logits")(x), name="residual"))


def two_heads() -> keras.Model:
    """Two outputs, `first` and `second`."""
    features = keras.Input((6,), name="features")
    x = layers.Dense(5, activation="relu", name="hidden")(features)
    heads = [layers.Dense(3, name="first")(x), layers.Dense(2, name="second")(x)]
    return randomise(keras.Model(features, heads, name="two_heads"))


def nested() -> keras.Model:
    """A Functional `backbone` with two layers, and a head."""
    inner = keras.Input((4,), name="inner_features")
    x = layers.Dense(5, activation="relu", name="dense_1")(inner)
    backbone = keras.Model(inner, layers.Dense(5, name="dense_2")(x), name="backbone")
    features = keras.Input((4,), name="features")
    logits = layers.Dense(3, name="logits")(backbone(features))
    return randomise(keras.Model(features, logits, name="classifier"))


# Data and training


def data_for(model: Any, batch: int = 4, seed: int = 0) -> tuple[Any, Any]:
    """Random inputs and targets in the structure of the model."""
    rng = np.random.default_rng(seed + 100)
    outputs = model.outputs if len(model.outputs) > 1 else model.outputs[0]

    def target(tensor: Any) -> np.ndarray:
        return rng.normal(size=(batch, *tensor.shape[1:])).astype("float32")

    return inputs_for(model, batch, seed), keras.tree.map_structure(target, outputs)


def trained(model: Any, optimizer: Any = "adam", steps: int = 2, **options: Any) -> Any:
    """The model, compiled and trained for a few steps.

    On TensorFlow eagerly: building a `tf.function` is most of what a tiny model costs there.
    """
    eagerly = keras.backend.backend() == "tensorflow"
    model.compile(**{"optimizer": optimizer, "loss": "mse", "run_eagerly": eagerly, **options})
    return train(model, steps)


def primed(model: Any) -> Any:
    """The model called, compiled, and its optimizer as after some training: cheaper than that."""
    predictions(model)
    model.compile("adam", "mse", run_eagerly=keras.backend.backend() == "tensorflow")
    model.optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(5)
    for variable in model.optimizer.variables:
        shape = tuple(variable.shape)
        noise = np.abs(rng.normal(size=shape)) if shape else 3
        variable.assign(np.asarray(noise, keras.backend.standardize_dtype(variable.dtype)))
    return model


def train(model: Any, steps: int = 1, seed: int = 0) -> Any:
    """The model after a few more steps, the same ones each time."""
    inputs, targets = data_for(model, seed=seed)
    keras.utils.set_random_seed(seed)  # PyTorch's dropout draws from its global generator
    for _ in range(steps):
        model.train_on_batch(inputs, targets)
    return model


def predictions(model: Any, seed: int = 0) -> Any:
    """What a model computes from its random inputs."""
    return outputs_of(model, data_for(model, seed=seed)[0])


# What a model is


def weights_of(model: Any) -> list[np.ndarray]:
    """Copies of all variables, seeds included."""
    return [np.array(keras.ops.convert_to_numpy(v.value)) for v in model.variables]


def slots(optimizer: Any) -> dict[str, np.ndarray]:
    """All that an optimizer remembers: `"_iterations"`, `"_momentums of hidden/kernel"`, ..."""
    found = dict(_slots(optimizer))
    assert len(found) == len(optimizer.variables), "an optimizer that keeps its slots elsewhere"
    return {name: np.array(keras.ops.convert_to_numpy(v.value)) for name, v in found.items()}


def _slots(optimizer: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    trainable = optimizer._trainable_variables
    for name, value in vars(optimizer).items():
        if name in ("_variables", "_trainable_variables"):
            continue
        if isinstance(value, keras.Variable):
            yield prefix + name, value
        elif isinstance(value, list) and len(value) == len(trainable):
            for variable, slot in zip(trainable, value, strict=True):
                if isinstance(slot, keras.Variable):
                    yield f"{prefix}{name} of {variable.path}", slot
        elif isinstance(value, dict):  # by path: Muon in older releases
            for path in [variable.path for variable in trainable]:
                if isinstance(value.get(path), keras.Variable):
                    yield f"{prefix}{name} of {path}", value[path]
    if hasattr(optimizer, "inner_optimizer"):
        yield from _slots(optimizer.inner_optimizer, "inner ")


def assert_equal(ones: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> None:
    """Two lists of arrays are the same, bit by bit."""
    for one, other in zip(ones, others, strict=True):
        np.testing.assert_array_equal(one, other)


def assert_close(one: Any, other: Any, tolerance: float = 1e-5) -> None:
    """Two structures of arrays are equal but for the order of sums."""
    keras.tree.assert_same_structure(one, other)
    for a, b in zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
