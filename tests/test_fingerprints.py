"""Equal fingerprints mean that one compiled function serves both layers: never when they differ."""

from __future__ import annotations

from collections import namedtuple

import keras
import numpy as np
import pytest
from keras import layers, ops

import resect
from resect.importance.backends import compiles
from resect.keras_graph.fingerprints import fingerprint
from tests.common import randomise
from tests.importance import models

compiled = pytest.mark.skipif(not compiles(), reason="PyTorch compiles nothing, so shares nothing")


def built(layer, shape=(None, 4)):
    """The layer with its variables."""
    x = keras.Input(shape[1:])
    layer(*[x] * (2 if isinstance(layer, layers.MultiHeadAttention) else 1))
    return layer


def alike(one, other):
    return fingerprint(one) == fingerprint(other)


class Own(keras.Layer):
    """A layer of the user's: it has a variable, and what it is given as attributes."""

    def __init__(self, name=None, **attributes):
        super().__init__(name=name)
        vars(self).update(attributes)

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1],), name="kernel")

    def call(self, x):
        return x * self.kernel


# Alike


@compiled
@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.Dense(3, activation="relu", kernel_regularizer="l2"),
        lambda: layers.Dense(3, kernel_initializer="zeros"),
        lambda: layers.BatchNormalization(),
        lambda: layers.Dropout(0.2),
        lambda: Own(rates=[1, 2.5], table={"a": (1, None)}, kinds={1, 2}),
        lambda: layers.TimeDistributed(layers.Dense(3)),
        lambda: layers.MultiHeadAttention(2, 4, dropout=0.1),
    ],
)
def test_layers_of_one_configuration_are_alike(make):
    assert alike(*(built(make(), (None, 3, 4)) for _ in range(2)))


@compiled
def test_names_and_what_only_training_needs_do_not_matter():
    one = built(layers.Dense(3, name="one", kernel_initializer="ones"))
    other = built(layers.Dense(3, name="other", kernel_regularizer="l1", trainable=False))
    assert alike(one, other)


@compiled
def test_raw_operations_are_alike():
    def operation(axis):
        return ops.sum(keras.Input((3, 4)), axis=axis)._keras_history.operation

    assert alike(operation(1), operation(1))
    assert not alike(operation(1), operation(2))


@compiled
def test_cycles_come_to_an_end():
    def parent():
        layer = built(Own())
        vars(layer)["itself"] = {"me": [layer]}
        return layer

    assert alike(parent(), parent())
    other = built(Own())
    vars(other)["itself"] = {"me": [built(Own())]}
    assert not alike(parent(), other)


# Different


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: layers.Dense(3), lambda: layers.Dense(4)),
        (lambda: layers.Dense(3), lambda: layers.Dense(3, use_bias=False)),
        (lambda: layers.Dense(3), lambda: layers.Dense(3, activation="relu")),
        (lambda: layers.Dense(3), lambda: layers.Dense(3, activity_regularizer="l2")),
        (lambda: layers.Dense(3), lambda: layers.Dense(3, dtype="mixed_float16")),
        (lambda: layers.Dense(3), lambda: layers.Dense(3, dtype="bfloat16")),
        (lambda: layers.Dense(3), lambda: layers.Dense(3, lora_rank=2)),
        (lambda: layers.Dense(4), lambda: layers.EinsumDense("ab,bc->ac", 4, bias_axes="c")),
        (lambda: layers.LeakyReLU(0.1), lambda: layers.LeakyReLU(0.2)),
        (lambda: layers.Rescaling(0.0), lambda: layers.Rescaling(-0.0)),
        (lambda: layers.Lambda(lambda x: x), lambda: layers.Lambda(lambda x: -x)),
        (lambda: Own(rates=[1, 2]), lambda: Own(rates=[2, 1])),
        (lambda: Own(rates=[1, 2]), lambda: Own(rates=(1, 2))),
        (lambda: Own(rate=1), lambda: Own(rate=1.0)),
        (lambda: Own(rate=1), lambda: Own(rate=True)),
        (lambda: Own(rate=np.float32(1)), lambda: Own(rate=np.float64(1))),
        (lambda: Own(table={"a": 1}), lambda: Own(table={"b": 1})),
        (lambda: Own(table=np.zeros(3)), lambda: Own(table=np.array([0.0, 0.0, -0.0]))),
        (lambda: Own(table=np.zeros(2)), lambda: Own(table=np.zeros((1, 2)))),
        (lambda: Own(of=_Pair(1, 2)), lambda: Own(of=_Other(1, 2))),
        (lambda: Own(parts={layers.ReLU()}), lambda: Own(parts={layers.ReLU(), layers.ReLU()})),
        (lambda: Own(part=slice(0, 2)), lambda: Own(part=slice(0, 3))),
    ],
)
def test_what_differs_is_different(one, other):
    assert not alike(built(one()), built(other()))


_Pair = namedtuple("_Pair", "a b")
_Other = namedtuple("_Other", "b a")


def test_shapes_of_variables_differ():
    assert not alike(built(layers.Dense(3)), built(layers.Dense(3), (None, 5)))


def test_attributes_that_are_changed_by_hand_count():
    for name, value in (("activation", ops.tanh), ("use_bias", False), ("call", lambda x: x)):
        layer = built(layers.Dense(3))
        setattr(layer, name, value)
        assert not alike(built(layers.Dense(3)), layer), name
    quantised = built(layers.Dense(4))
    quantised.quantize("int8")
    assert not alike(built(layers.Dense(4)), quantised)


class Slotted(Own):
    """Keeps a number where `vars` does not show it."""

    __slots__ = ("scale",)

    def call(self, x):
        return x * self.kernel * self.scale


def test_slots_count():
    one, other = built_with_scale(1.0), built_with_scale(2.0)
    assert "scale" not in vars(one)
    assert not alike(one, other)


def built_with_scale(scale):
    layer = Slotted()
    object.__setattr__(layer, "scale", scale)
    return built(layer)


def _decorated(function):
    def run(self, x):
        return function(self, x)

    return run


def _helped(layer, x):
    return layer.out_constraint * x


class ByName(Own):
    """Computes with what has no bearing on Keras's own layers."""

    def call(self, x):
        return x * len(self.name)


class ByTrainable(Own):
    """Likewise."""

    @_decorated
    def call(self, x):
        return x * getattr(self, "trainable")  # noqa: B009


class ByConstraint(Own):
    """Likewise, in a function that its method calls."""

    def call(self, x):
        return _helped(self, x)


def test_what_a_layer_of_the_users_own_reads_counts():
    assert not alike(ByName("one"), ByName("three"))
    one, other = ByTrainable(), ByTrainable()
    other.trainable = False
    assert not alike(one, other)
    assert not alike(ByConstraint(out_constraint=2), ByConstraint(out_constraint=3))


class Uncast(keras.Layer):
    """Its variable keeps its dtype within a layer of mixed precision, or does not."""

    def __init__(self, autocast):
        super().__init__(dtype="mixed_float16")
        self.kernel = self.add_weight(shape=(4,), autocast=autocast)

    def call(self, x):
        return ops.cast(x * self.kernel, "float32")


def test_variables_that_are_not_cast_are_different():
    assert not alike(Uncast(True), Uncast(False))


def test_two_variables_are_not_one_that_is_shared():
    def pair(shared):
        first, second = keras.Layer(), keras.Layer()
        for layer in (first, second):
            layer.kernel = keras.Variable(np.ones(4))
        if shared:
            second.kernel = first.kernel
        return first, second

    def together(pair):
        seen = {}
        return [fingerprint(layer, seen) for layer in pair]

    assert together(pair(True)) != together(pair(False))
    if compiles():
        assert together(pair(True)) == together(pair(True))
        assert together(pair(False)) == together(pair(False))


def test_variables_that_a_layer_does_not_own_are_constants():
    def reading(variable):
        layer = built(Own())
        vars(layer)["other"] = variable
        return layer

    one, other = keras.Variable(np.ones(4)), keras.Variable(np.ones(4))
    assert not alike(reading(one), reading(other))
    if compiles():
        assert alike(reading(one), reading(one))


# What comes of it


def test_constants_in_the_graph_are_those_of_their_block():
    x = features = keras.Input((4,), name="features")
    for i in range(3):
        constant = keras.Variable(np.full(4, 1.0 + i, "float32"))
        y = layers.Dense(4, activation="tanh", name=f"inner_{i}")(x)
        x = layers.Add(name=f"add_{i}")([x, ops.multiply(y, constant)])
    model = randomise(keras.Model(features, layers.Dense(2, name="logits")(x), name="net"))
    _as_naive(model)


def test_blocks_that_differ_by_hand_keep_what_they_are():
    x = features = keras.Input((4,), name="features")
    for i in range(3):
        y = built_with_scale(1.0 + i)(layers.Dense(4, name=f"inner_{i}")(x))
        x = layers.Add(name=f"add_{i}")([x, y])
    model = randomise(keras.Model(features, layers.Dense(2, name="logits")(x), name="net"))
    found = _measured(model)
    changed = {row.name: round(row.score, 3) for row in found}
    assert len(set(changed.values())) == 3
    assert found.baseline["loss"] == pytest.approx(
        model.evaluate(*models.data_of(model, 8), verbose=0), rel=1e-5
    )


def _measured(model):
    model.compile(loss="mse", **models.EAGERLY)
    return resect.importance(model, models.data_of(model, 8), batch_size=4)


def _as_naive(model):
    found = _measured(model)
    data = models.data_of(model, 8)
    base = models.reference(model, None, data, 4)["loss"]
    assert found.baseline["loss"] == pytest.approx(base, rel=1e-5)
    for row in found:
        expected = models.reference(model, row.ends, data, 4)["loss"]
        assert row.score == pytest.approx(expected - base, rel=1e-4, abs=1e-5), row.name
