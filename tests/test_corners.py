"""Corners that the grid does not reach: orders, numbers and names of calls and of their outputs."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import resect
from resect.errors import AmbiguousError, MultipleOutputsError
from tests.surgery import assert_surgery
from zoo.randomise import randomise


def siamese() -> keras.Model:
    """One layer over two inputs, so that its calls do not depend on each other."""
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    shared = layers.Dense(4, activation="tanh", name="shared")
    out = layers.Subtract(name="minus")([shared(left), shared(right)])
    return randomise(keras.Model([left, right], out, name="siamese"))


def split_in_three() -> keras.Model:
    """An operation with three outputs, of which two are used."""
    x = keras.Input((6,), name="x")
    first, _, third = ops.split(layers.Dense(6, name="dense")(x), 3, axis=-1)
    out = layers.Dense(2, name="logits")(ops.multiply(first, third))
    return randomise(keras.Model(x, out, name="split_in_three"))


def two_depths() -> keras.Model:
    """A nested model, one layer of which the outer model calls itself; Keras cannot load such."""
    inner_x = keras.Input((4,), name="inner_x")
    y = layers.Dense(4, activation="tanh", name="first")(inner_x)
    inner = keras.Model(inner_x, layers.Dense(4, name="second")(y), name="inner")
    x = keras.Input((4,), name="x")
    return randomise(keras.Model(x, inner.get_layer("first")(inner(x)), name="two_depths"))


def test_a_call_comes_to_depend_on_a_later_one_of_the_same_layer() -> None:
    add = layers.Add(name="add")
    assert_surgery(
        siamese(), lambda plan: plan.insert(add, before="shared@0", merge_with="shared@1")
    )


def test_the_calls_that_are_left_keep_their_numbers_within_a_plan() -> None:
    x = keras.Input((4,), name="x")
    norm = layers.LayerNormalization(name="norm")
    y = norm(layers.Dense(4, name="b")(norm(layers.Dense(4, name="a")(norm(x)))))
    model = randomise(keras.Model(x, y, name="thrice"))
    new = assert_surgery(model, lambda plan: plan.remove("norm@0").remove("norm@2"))
    assert [layer.name for layer in new.layers] == ["x", "a", "norm", "b"]


def test_inner_and_outer_names_in_one_edit() -> None:
    model = two_depths()
    names = {"inner": "i", "inner/second": "s"}
    new = assert_surgery(model, lambda plan: plan.rename(names), reload=False)
    assert new.get_layer("i").get_layer("s")


@pytest.mark.parametrize("address", ["first", "inner/first"])
def test_a_layer_that_stands_at_two_depths_has_one_name(address: str) -> None:
    new = assert_surgery(two_depths(), lambda plan: plan.rename({address: "f"}), reload=False)
    assert new.get_layer("f") is new.get_layer("inner").get_layer("f")


@pytest.mark.parametrize(
    "edit",
    [
        lambda plan: plan.insert(layers.Dense(2, name="new"), after="split:2"),
        lambda plan: plan.insert(layers.Dense(2, name="new"), between=("split:2", "multiply")),
        lambda plan: plan.remove("multiply", keep="split:2"),
        lambda plan: plan.collapse("split:0", "multiply"),
    ],
)
def test_one_output_of_several_is_addressed_and_saved(edit: Any) -> None:
    model = split_in_three()
    plan = edit(resect.plan(model))
    assert_surgery(model, plan)
    again = resect.Plan.from_json(model, plan.to_json())
    assert str(again.result) == str(plan.result)


def test_which_output_is_asked_for() -> None:
    model = split_in_three()
    with pytest.raises(MultipleOutputsError, match=r"'split:0' or 'split:2'"):
        resect.insert(model, layers.Dense(2), after="split")
    with pytest.raises(AmbiguousError, match=r"'split:0' or 'split:2'"):
        resect.insert(model, layers.Dense(2), between=("split", "multiply"))


def test_a_layer_that_returns_fewer_tensors_is_refused_once() -> None:
    with pytest.raises(MultipleOutputsError) as refused:
        resect.replace(split_in_three(), "split", layers.Dense(2, name="new"))
    assert len(refused.value.problems) == 1
    assert "reads output 2 of 'new' (Dense), which returns 1 now." in str(refused.value)


def test_a_layer_that_cannot_be_made_is_the_only_problem() -> None:
    x = keras.Input((4,), name="x")
    y = layers.Dense(5, name="hidden")(x)
    model = randomise(keras.Model(x, layers.Dense(3, name="logits")(y)))
    with pytest.raises(resect.errors.ShapeError) as refused:
        resect.insert(model, layers.Reshape((7,), name="reshape"), after="hidden")
    assert [problem.node for problem in refused.value.problems] == ["reshape"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_stateful_layer_is_put_in_and_seen_from_another_shape(wrapped: bool) -> None:
    x = keras.Input(batch_shape=(2, 5, 3), name="x")
    recurrent: Any = layers.LSTM(4, stateful=True, return_sequences=True, name="lstm")
    if wrapped:
        recurrent = layers.Bidirectional(recurrent, name="both")
    y = layers.GlobalAveragePooling1D(name="pool")(recurrent(x))
    model = randomise(keras.Model(x, y, name="stateful"))
    more = layers.GRU(3, stateful=True, return_sequences=True, name="gru")
    longer = layers.ZeroPadding1D(1, name="pad")
    new = assert_surgery(model, lambda plan: plan.prepend([more, longer]))
    assert new.get_layer("gru").stateful
    assert new.get_layer(recurrent.name).stateful


def test_every_trace_of_a_model_names_its_operations_alike() -> None:
    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="net")
            self.dense = layers.Dense(4, name="add")

        def call(self, x: Any) -> Any:
            return ops.relu(self.dense(x) + x) + 1.0

    model = Net()
    model(ops.ones((2, 4)))
    drawings = {str(resect.plan(model).source) for _ in range(3)}
    assert len(drawings) == 1
    assert_surgery(randomise(model), lambda plan: plan.remove("add_2"), reload=False)


def test_a_nested_class_that_is_edited_becomes_functional_and_the_plan_says_so() -> None:
    @keras.saving.register_keras_serializable(package="corners")
    class Backbone(keras.Model):
        def __init__(self, **kwargs: Any) -> None:
            x = keras.Input((4,), name="backbone_x")
            super().__init__(x, layers.ReLU(name="relu")(layers.Dense(4, name="d")(x)), **kwargs)

    x = keras.Input((4,), name="x")
    model = randomise(keras.Model(x, layers.Dense(2, name="logits")(Backbone(name="b")(x))))
    plan = resect.plan(model).remove("b/relu")
    assert "Backbone 'b' becomes a plain Functional model" in plan.notes
    assert_surgery(model, plan)


def test_replaced_attention_with_a_dropout_keeps_each_weight_in_its_place():
    """It has a seed that the old one lacks, and three kernels of one shape beside it."""
    inputs = keras.Input((4, 6))
    attention = layers.MultiHeadAttention(2, 3, name="attention")
    model = randomise(keras.Model(inputs, attention(inputs, inputs)))
    noisy = layers.MultiHeadAttention(2, 3, dropout=0.5, name="attention")
    new = resect.replace(model, "attention", lambda old: noisy)
    for one, other in zip(new.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
