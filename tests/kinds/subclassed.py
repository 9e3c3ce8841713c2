"""Subclassed models: some that can be traced into a graph, and one for every reason why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tests.kinds.registry import PLAIN, kind

TRACEABLE = PLAIN | {"subclassed", "traceable"}
UNTRACEABLE = PLAIN | {"subclassed", "untraceable"}

registered = keras.saving.register_keras_serializable(package="kinds")


def _features(model: keras.Model, batch: int = 2, seed: int = 0) -> Any:
    """Four features per sample: a subclassed model has no symbolic inputs to read shapes from."""
    return np.random.default_rng(seed).standard_normal((batch, 4)).astype("float32")


def _pair(model: keras.Model, batch: int = 2, seed: int = 0) -> Any:
    return {"right": _features(model, batch, seed), "left": _features(model, batch, seed + 1)}


def _built(model: keras.Model, feed: Callable[..., Any] = _features) -> keras.Model:
    model(feed(model))
    return model


# --- models that can be traced -------------------------------------------------------------------


@registered
class Simple(keras.Model):
    """Three layers, one after the other."""

    def __init__(self, width: int = 5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden = layers.Dense(width, activation="relu", name="hidden")
        self.dropout = layers.Dropout(0.1, name="dropout")
        self.logits = layers.Dense(3, name="logits")

    def call(self, x: Any, training: bool | None = None) -> Any:
        return self.logits(self.dropout(self.hidden(x), training=training))


@kind("subclassed_simple", tags=TRACEABLE, inputs=_features)
def simple() -> keras.Model:
    """A chain of layers in `call`."""
    return _built(Simple(name="subclassed_simple"))


@registered
class Looped(keras.Model):
    """A list of residual blocks."""

    def __init__(self, depth: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.blocks = [
            layers.Dense(4, activation="relu", name=f"block_{index}") for index in range(depth)
        ]
        self.norm = layers.BatchNormalization(name="norm")
        self.logits = layers.Dense(3, name="logits")

    def call(self, x: Any) -> Any:
        for block in self.blocks:
            x = x + block(self.norm(x))
        return self.logits(ops.relu(x))


@kind("subclassed_loop", tags=TRACEABLE | {"shared", "raw_ops"}, inputs=_features)
def loop() -> keras.Model:
    """A loop over a list of layers, with operations and a shared layer."""
    return _built(Looped(name="subclassed_loop"))


@registered
class Structured(keras.Model):
    """Takes and returns a dict."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.left_dense = layers.Dense(5, name="left_dense")
        self.right_dense = layers.Dense(5, name="right_dense")
        self.logits = layers.Dense(3, name="logits")

    def call(self, inputs: dict[str, Any]) -> dict[str, Any]:
        left, right = self.left_dense(inputs["left"]), self.right_dense(inputs["right"])
        return {"sum": self.logits(left + right), "parts": (left, right)}


@kind("subclassed_dict_io", tags=TRACEABLE | {"multi_io"}, inputs=_pair)
def dict_io() -> keras.Model:
    """Inputs in a dict, outputs in a tuple within a dict."""
    return _built(Structured(name="subclassed_dict_io"), _pair)


@registered
class Composed(keras.Model):
    """Models of all three styles within a subclassed one."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        features = keras.Input((4,), name="stem_features")
        self.stem = keras.Model(features, layers.Dense(4, name="stem_dense")(features), name="stem")
        self.middle = Simple(name="middle")
        self.head = keras.Sequential(
            [layers.Dense(3, name="head_dense"), layers.Softmax(name="softmax")], name="head"
        )

    def call(self, x: Any) -> Any:
        return self.head(self.middle(self.stem(x)))


@kind("subclassed_composed", tags=TRACEABLE | {"nested"}, inputs=_features)
def composed() -> keras.Model:
    """A Functional, a `Sequential` and a subclassed model within a subclassed one."""
    return _built(Composed(name="subclassed_composed"))


@registered
class Autoencoder(keras.Model):
    """A model with layers that `call` does not use."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.encoder = layers.Dense(3, name="encoder")
        self.decoder = layers.Dense(4, name="decoder")
        self.encoder.build((None, 4))
        self.decoder.build((None, 3))

    def call(self, x: Any) -> Any:
        return self.encoder(x)


@kind("subclassed_unused_layer", tags=TRACEABLE - {"trains"}, inputs=_features)
def unused_layer() -> keras.Model:
    """A layer with weights that `call` does not use."""
    return _built(Autoencoder(name="subclassed_unused_layer"))


@kind("subclassed_inside", tags=PLAIN | {"nested"})
def inside() -> keras.Model:
    """A Functional model with a subclassed one among its layers, which stays whole."""
    features = keras.Input((4,), name="features")
    x = Simple(name="simple")(layers.Dense(4, activation="tanh", name="stem")(features))
    return keras.Model(features, layers.Dense(2, name="head")(x), name="subclassed_inside")


# --- models that cannot --------------------------------------------------------------------------


@registered
class Branching(keras.Model):
    """Decides by the values of a tensor."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = layers.Dense(3, name="dense")

    def call(self, x: Any) -> Any:
        x = self.dense(x)
        if ops.sum(x) > 0:
            return x
        return -x


TRAINING_TRACES = {
    "jax": "Keras: on JAX, training traces even an eager model, to build its metrics."
}


def _eager(model: keras.Model) -> keras.Model:
    """Builds the model on arrays and has `predict` and `fit` run it eagerly."""
    _built(model)
    model.compile(optimizer="sgd", loss="mse", run_eagerly=True)
    return model


@kind(
    "subclassed_branching",
    tags=UNTRACEABLE - {"saves"} | {"eager"},
    inputs=_features,
    untrained=TRAINING_TRACES,
)
def branching() -> keras.Model:
    """An `if` on a tensor."""
    model = Branching(name="subclassed_branching")
    model.dense.build((None, 4))
    return _eager(model)


@registered
class ThroughNumpy(keras.Model):
    """Leaves the graph for numpy."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = layers.Dense(3, name="dense")

    def call(self, x: Any) -> Any:
        order = np.argsort(np.asarray(ops.convert_to_numpy(x)), axis=-1).astype("float32")
        return self.dense(ops.convert_to_tensor(order))


@kind(
    "subclassed_numpy",
    tags=UNTRACEABLE - {"saves"} | {"eager"},
    inputs=_features,
    untrained=TRAINING_TRACES,
)
def through_numpy() -> keras.Model:
    """numpy in the middle of `call`."""
    model = ThroughNumpy(name="subclassed_numpy")
    model.dense.build((None, 4))
    return _eager(model)


@registered
class AddingLoss(keras.Model):
    """Adds a loss on an inner tensor."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden = layers.Dense(5, name="hidden")
        self.logits = layers.Dense(3, name="logits")

    def call(self, x: Any) -> Any:
        x = self.hidden(x)
        self.add_loss(0.01 * ops.mean(x**2))
        return self.logits(x)


@kind("subclassed_add_loss", tags=UNTRACEABLE, inputs=_features)
def adding_loss() -> keras.Model:
    """`add_loss` in `call`: a graph would lose it."""
    return _built(AddingLoss(name="subclassed_add_loss"))


@registered
class TwoModes(keras.Model):
    """Does something else in training than in inference."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden = layers.Dense(4, activation="relu", name="hidden")
        self.extra = layers.Dense(4, name="extra")
        self.logits = layers.Dense(3, name="logits")
        self.extra.build((None, 4))

    def call(self, x: Any, training: bool | None = None) -> Any:
        x = self.hidden(x)
        if training:
            x = x + self.extra(x)
        return self.logits(x)


@kind("subclassed_if_training", tags=UNTRACEABLE, inputs=_features)
def if_training() -> keras.Model:
    """`if training:` with another graph in each branch."""
    return _built(TwoModes(name="subclassed_if_training"))


@registered
class Counting(keras.Model):
    """Updates a variable of its own with every call."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = layers.Dense(3, name="dense")
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x: Any) -> Any:
        self.calls.assign(self.calls + 1.0)
        return self.dense(x)


@kind("subclassed_variable_update", tags=UNTRACEABLE | {"stateful"}, inputs=_features)
def variable_update() -> keras.Model:
    """A variable that `call` updates: a trace would update it once, and never again."""
    return _built(Counting(name="subclassed_variable_update"))


@registered
class OwnWeight(keras.Model):
    """Multiplies by a weight that belongs to no layer."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = self.add_weight(shape=(4, 5), initializer="glorot_uniform", name="table")
        self.logits = layers.Dense(3, name="logits")

    def call(self, x: Any) -> Any:
        return self.logits(ops.matmul(x, self.table))


@kind("subclassed_own_weight", tags=UNTRACEABLE, inputs=_features)
def own_weight() -> keras.Model:
    """A weight of the model itself as an operand: in a graph it would be an untracked constant."""
    return _built(OwnWeight(name="subclassed_own_weight"))


@registered
class FixedBatch(keras.Model):
    """Reads the batch size as a number."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, name="dense")
        self.logits = layers.Dense(3, name="logits")

    def call(self, x: Any) -> Any:
        batch = x.shape[0]
        x = ops.reshape(self.dense(x), (batch * 2, 2) if batch else (-1, 2))
        return self.logits(ops.reshape(x, (-1, 4)) / float(batch or 1))


@kind("subclassed_batch_size", tags=UNTRACEABLE, inputs=_features)
def batch_size() -> keras.Model:
    """The batch size read with `x.shape[0]`: a trace sees None and takes the other branch."""
    return _built(FixedBatch(name="subclassed_batch_size"))


@registered
class Noisy(keras.Model):
    """Draws random numbers in training."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = layers.Dense(3, name="dense")
        self.seed_generator = keras.random.SeedGenerator(3)

    def call(self, x: Any, training: bool | None = None) -> Any:
        x = self.dense(x)
        return x + keras.random.normal(ops.shape(x), seed=self.seed_generator) if training else x


@kind("subclassed_random", tags=UNTRACEABLE | {"random"}, inputs=_features)
def noisy() -> keras.Model:
    """Random numbers from a seed generator of the model itself, in training only."""
    return _built(Noisy(name="subclassed_random"))
