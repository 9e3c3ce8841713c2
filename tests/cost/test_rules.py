"""What each rule says, worked out by hand."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import keras
import pytest
from keras import layers, ops

import resect
from resect.cost.operation_rules import ELEMENTWISE as OPERATIONS

LAYERS = {
    "Dense": (layers.Dense(5), (4, 3), 4 * 3 * 5),
    "EinsumDense": (layers.EinsumDense("abc,cde->abde", (None, 2, 5)), (4, 3), 4 * 3 * 2 * 5),
    "Conv1D": (layers.Conv1D(5, 3), (8, 2), 6 * 3 * 2 * 5),
    "Conv1D causal": (layers.Conv1D(5, 3, padding="causal"), (8, 2), 8 * 3 * 2 * 5),
    "Conv2D": (layers.Conv2D(6, 3, strides=2, groups=2), (9, 9, 4), 16 * 9 * 2 * 6),
    "Conv3D": (layers.Conv3D(2, 2), (3, 3, 3, 4), 8 * 8 * 4 * 2),
    "DepthwiseConv2D": (
        layers.DepthwiseConv2D(3, depth_multiplier=2),
        (5, 5, 4),
        9 * 9 * 4 * 2,
    ),
    "SeparableConv2D": (
        layers.SeparableConv2D(5, 3, depth_multiplier=2),
        (5, 5, 4),
        9 * 8 * (9 + 5),
    ),
    "Conv2DTranspose": (layers.Conv2DTranspose(5, 3, strides=2), (4, 4, 2), 16 * 9 * 2 * 5),
    "SimpleRNN": (layers.SimpleRNN(5), (6, 3), 6 * (3 + 5) * 5),
    "GRU": (layers.GRU(5), (6, 3), 6 * (3 + 5) * 15),
    "LSTM": (layers.LSTM(5), (6, 3), 6 * (3 + 5) * 20),
    "stacked cells": (
        layers.RNN([layers.LSTMCell(5), layers.GRUCell(4)]),
        (6, 3),
        6 * ((3 + 5) * 20 + (5 + 4) * 12),
    ),
    "ConvLSTM2D": (
        layers.ConvLSTM2D(2, 3, padding="same", return_sequences=True),
        (4, 5, 5, 3),
        4 * 25 * 9 * (3 + 2) * 8,
    ),
    "Bidirectional": (layers.Bidirectional(layers.LSTM(5)), (6, 3), 2 * 6 * (3 + 5) * 20),
    "TimeDistributed": (
        layers.TimeDistributed(layers.Conv2D(5, 3)),
        (6, 4, 4, 2),
        6 * 4 * 9 * 2 * 5,
    ),
    "TimeDistributed of a model": (
        layers.TimeDistributed(keras.Sequential([keras.Input((3,)), layers.Dense(4)])),
        (6, 3),
        6 * 3 * 4,
    ),
    "Embedding": (layers.Embedding(9, 4), (6,), 0),
    "Resizing": (layers.Resizing(3, 3), (6, 6, 3), 0),
    "RandomFlip": (layers.RandomFlip(), (6, 6, 3), 0),
    "BatchNormalization": (layers.BatchNormalization(), (4, 4, 3), 0),
    "AveragePooling2D": (layers.AveragePooling2D(2), (4, 4, 3), 0),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer(name: str):
    layer, shape, expected = LAYERS[name]
    model = keras.Sequential([keras.Input(shape), type(layer).from_config(layer.get_config())])
    assert resect.profile(model).multiply_adds == expected
    assert not resect.profile(model).uncounted
    assert resect.profile(model, batch_size=3).multiply_adds == 3 * expected


ATTENTION: dict[str, tuple[Callable, tuple, tuple, int]] = {
    "MultiHeadAttention": (
        lambda q, v: layers.MultiHeadAttention(2, 3, value_dim=5)(q, v),
        (4, 6),
        (7, 8),
        2 * (4 * 6 * 3 + 7 * 8 * 3 + 7 * 8 * 5 + 4 * 5 * 6 + 4 * 7 * (3 + 5)),
    ),
    "a key of its own": (
        lambda q, v: layers.MultiHeadAttention(2, 3)(q, v, key=v),
        (4, 6),
        (7, 8),
        2 * (4 * 6 * 3 + 7 * 8 * 3 * 2 + 4 * 3 * 6 + 4 * 7 * 6),
    ),
    "an output of two axes": (
        lambda q, v: layers.MultiHeadAttention(2, 3, output_shape=(4, 5))(q, v),
        (4, 6),
        (7, 8),
        2 * (4 * 6 * 3 + 7 * 8 * 3 * 2 + 4 * 3 * 20 + 4 * 7 * 6),
    ),
    "attention over both axes": (
        lambda q, v: layers.MultiHeadAttention(2, 3)(q, v),
        (2, 4, 6),
        (2, 7, 8),
        2 * (8 * 6 * 3 + 14 * 8 * 3 * 2 + 8 * 3 * 6 + 8 * 14 * 6),
    ),
    "attention over the second axis": (
        lambda q, v: layers.MultiHeadAttention(2, 3, attention_axes=2)(q, v),
        (2, 4, 6),
        (2, 7, 8),
        2 * (8 * 6 * 3 + 14 * 8 * 3 * 2 + 8 * 3 * 6 + 2 * 4 * 7 * 6),
    ),
    "GroupQueryAttention": (
        lambda q, v: layers.GroupQueryAttention(3, 4, 2)(q, v),
        (4, 6),
        (7, 6),
        4 * (4 * 3 * 6 + 4 * 3 * 6 + 2 * 4 * 7 * 3) + 2 * (7 * 3 * (6 + 6)),
    ),
    "Attention": (lambda q, v: layers.Attention()([q, v]), (4, 6), (7, 6), 4 * 7 * 12),
    "AdditiveAttention": (
        lambda q, v: layers.AdditiveAttention()([q, v]),
        (4, 6),
        (7, 6),
        4 * 7 * 6,
    ),
    "Dot": (lambda q, v: layers.Dot(axes=2)([q, v]), (4, 6), (7, 6), 4 * 7 * 6),
    "matmul": (lambda q, v: ops.matmul(q, v), (4, 6), (6, 5), 4 * 6 * 5),
    "einsum": (lambda q, v: ops.einsum("bij,bkj->bik", q, v), (4, 6), (7, 6), 4 * 7 * 6),
    "einsum of an axis that only one has": (
        lambda q, v: ops.einsum("bij,bjk->bk", q, v),
        (4, 6),
        (6, 5),
        6 * 5,
    ),
    "einsum without a sum": (lambda q, v: ops.einsum("bi,bj->bij", q, v), (4,), (6,), 0),
    "einsum with its result implied": (
        lambda q, v: ops.einsum("...ij,jk", q, ops.sum(v, axis=0)),
        (4, 6),
        (6, 5),
        4 * 6 * 5,
    ),
    "dot with a number": (lambda q, v: ops.dot(q, 2.0) + v, (4,), (4,), 0),
    "tensordot": (
        lambda q, v: ops.tensordot(q, ops.sum(v, axis=0), axes=1),
        (4, 6),
        (6, 7),
        4 * 6 * 7,
    ),
    "dot_product_attention": (
        lambda q, v: ops.dot_product_attention(q, v, v),
        (4, 2, 6),
        (7, 2, 6),
        4 * 7 * 2 * 12,
    ),
    "multiply": (lambda q, v: ops.multiply(q, v), (4, 6), (4, 6), 0),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_two_tensors(name: str):
    call, one, other, expected = ATTENTION[name]
    inputs = [keras.Input(one), keras.Input(other)]
    found = resect.profile(keras.Model(inputs, call(*inputs)))
    assert not found.uncounted
    assert found.multiply_adds == expected


def test_convolution_of_operations():
    image = keras.Input((5, 5, 4))
    kernel, flat = keras.ops.ones((3, 3, 4, 6)), keras.ops.ones((3, 3, 4, 2))
    outputs = [ops.conv(image, kernel), ops.depthwise_conv(image, flat)]
    found = resect.profile(keras.Model(image, outputs))
    assert found.multiply_adds == 9 * 9 * 4 * 6 + 9 * 9 * 8


@pytest.mark.parametrize("attention", [layers.MultiHeadAttention, layers.GroupQueryAttention])
def test_a_gate_counts(attention: type):
    if "use_gate" not in inspect.signature(attention).parameters:
        pytest.skip("this Keras has no gates")
    sizes = (5, 3, 3) if attention is layers.GroupQueryAttention else (5, 3)  # 15 in all
    x = keras.Input((4, 6), name="x")
    made = [attention(*sizes, use_gate=gate)(x, x) for gate in (False, True)]
    counts = [resect.profile(keras.Model(x, y)).multiply_adds for y in made]
    assert counts[1] - counts[0] == 4 * 6 * 5 * 3


ADAPTED: dict[str, tuple[Callable, tuple, int, int]] = {
    # a layer, its input, what it takes with rank 2, and what it takes quantized, with rank 2
    "Dense": (lambda: layers.Dense(6), (5, 8), 5 * 48 + 8 * 2 * 6, 5 * (48 + 8 * 2 + 2 * 6)),
    "EinsumDense": (
        lambda: layers.EinsumDense("abc,cd->abd", output_shape=(None, 6)),
        (5, 8),
        5 * 48 + 8 * 2 * 6,
        5 * (48 + 8 * 2 + 2 * 6),
    ),
    "Embedding": (lambda: layers.Embedding(9, 4), (5,), 9 * 2 * 4, 5 * 2 * 4),
}


@pytest.mark.parametrize("name", ADAPTED)
def test_low_rank_adapters_count(name: str):
    make, shape, expected, quantized = ADAPTED[name]
    layer = make()
    model = keras.Sequential([keras.Input(shape), layer])
    layer.enable_lora(2)
    assert resect.profile(model).multiply_adds == expected
    layer = make()
    model = keras.Sequential([keras.Input(shape), layer])
    layer.quantize("int8")
    layer.enable_lora(2)
    assert resect.profile(model).multiply_adds == quantized


def test_low_rank_adapters_in_attention_count():
    x = keras.Input((4, 6), name="x")
    layer = layers.MultiHeadAttention(2, 3)
    model = keras.Model(x, layer(x, x))
    before = resect.profile(model).multiply_adds
    layer.query_dense.enable_lora(2)
    # the last axis of the kernel, (6, 2, 3), is that of the second matrix
    assert resect.profile(model).multiply_adds - before == 6 * 2 * 2 * 3


def test_quantized_contractions_of_another_batch():
    layer = layers.EinsumDense("abc,cde->abde", output_shape=(None, 2, 5))
    model = keras.Sequential([keras.Input((4, 6)), layer])
    layer.quantize("int8")
    assert resect.profile(model, batch_size=3).multiply_adds == 3 * 4 * 6 * 10


def test_an_einsum_of_three_tensors_is_listed():
    x = keras.Input((4,), name="x")
    model = keras.Model(x, ops.einsum("bi,bj,bk->b", x, x, x))
    found = resect.profile(model)
    assert found.uncounted == ("einsum (Einsum)",)
    assert found["einsum"].multiply_adds is None


def test_what_nobody_counts_is_listed():
    x = keras.Input((4, 4), name="x")
    model = keras.Model(x, layers.Dense(2, name="d")(ops.linalg.inv(x)))
    found = resect.profile(model)
    assert found.uncounted == ("inv (Inv)",)
    assert found.multiply_adds == 4 * 4 * 2
    assert "not counted   inv (Inv)" in str(found)


class Doubling(layers.Dense):
    """Changes what its class does, so that the rule of the class says nothing of it."""

    def call(self, inputs, training=None):
        return super().call(super().call(inputs))


class Opaque(layers.Layer):
    def call(self, x):
        if keras.ops.convert_to_numpy(x).sum() > 0:
            return x
        return -x

    def compute_output_shape(self, shape):
        return shape


def test_a_subclass_with_a_call_of_its_own_is_looked_into():
    model = keras.Sequential([keras.Input((4,)), Doubling(4)])
    assert resect.profile(model).multiply_adds == 2 * 4 * 4


def test_a_subclass_with_the_same_call_has_the_rule():
    class Same(layers.Dense):
        pass

    model = keras.Sequential([keras.Input((4,)), Same(3)])
    assert resect.profile(model).multiply_adds == 12


def test_a_layer_that_cannot_be_looked_into_is_listed_and_can_be_given_a_rule():
    model = keras.Sequential([keras.Input((4,)), Opaque(name="opaque")])
    assert resect.profile(model).uncounted == ("opaque (Opaque)",)

    class Known(Opaque):
        pass

    @resect.cost.register(Known)
    def known(called: resect.cost.Called) -> int:
        return 7 * called.shape[0]

    model = keras.Sequential([keras.Input((4,)), Known()])
    found = resect.profile(model, batch_size=2)
    assert (found.multiply_adds, found.uncounted) == (14, ())


def test_looking_into_a_layer_leaves_it_as_it_was():
    from tests.cost.models import custom

    model = custom()
    parts = model._flatten_layers()
    before = [(len(p._inbound_nodes), len(p._outbound_nodes)) for p in parts]
    values = [keras.ops.convert_to_numpy(v) for v in model.variables]
    assert resect.profile(model).multiply_adds == 9 * 32 * 48 * 2
    assert before == [(len(p._inbound_nodes), len(p._outbound_nodes)) for p in parts]
    for old, variable in zip(values, model.variables, strict=True):
        assert (old == keras.ops.convert_to_numpy(variable)).all()


@pytest.mark.nobackend
def test_names_of_operations_are_listed_once():
    names = OPERATIONS.split()
    assert len(names) == len(set(names))
