"""Why is a layer not overwritten when I assign `model.layers[0] = ...`?"""

from __future__ import annotations

import keras
import numpy as np
import pytest

import resect
from tests.common import (
    assert_close,
    assert_equal,
    cnn,
    data_for,
    functional_mlp,
    mlp,
    predictions,
    primed,
    train,
    two_branches,
)
from tests.surgery import Source


def test_the_question():
    model = mlp()
    expected = predictions(model)
    model.layers[0] = keras.layers.Dense(8, name="hidden")
    np.testing.assert_array_equal(predictions(model), expected)  # nothing has happened


@pytest.mark.parametrize("build", [mlp, functional_mlp])
def test_another_layer_in_its_place(build):
    model = primed(build())
    before = Source.of(model)

    plan = resect.plan(model).replace("middle", keras.layers.Dense(8, "tanh", name="other"))
    new = plan.apply()

    before.assert_untouched()
    assert type(new) is type(model)
    assert [layer.name for layer in new.layers if layer.weights] == ["hidden", "other", "logits"]
    for name in ("hidden", "logits"):
        assert_equal(new.get_layer(name).get_weights(), model.get_layer(name).get_weights())
    resect.verify(model, new, plan=plan)
    train(new)


@pytest.mark.parametrize("build", [mlp, functional_mlp])
def test_another_activation_with_the_weights_that_fit(build):
    model = build()
    new = resect.replace(model, "middle", keras.layers.Dense(8, "tanh", name="middle"))

    middle = new.get_layer("middle")
    assert middle.activation is keras.activations.tanh
    assert_equal(middle.get_weights(), model.get_layer("middle").get_weights())
    hidden = model.get_layer("hidden")(data_for(model)[0])
    kernel, bias = model.get_layer("middle").get_weights()
    activated = keras.ops.tanh(keras.ops.add(keras.ops.matmul(hidden, kernel), bias))
    expected = model.get_layer("logits")(activated)
    assert_close(predictions(new), keras.ops.convert_to_numpy(expected))


def test_weights_that_do_not_fit_are_named():
    model = mlp()
    plan = resect.plan(model).replace(
        "hidden", keras.layers.Dense(8, use_bias=False, name="hidden")
    )
    assert "hidden takes over the weights of the Dense it replaces" in str(plan)
    plan = resect.plan(model).replace(
        "middle", keras.layers.Dense(5, name="middle"), on_mismatch="reinit"
    )
    assert "middle does not take over kernel (8, 5), bias (5,): other shapes before" in str(plan)
    assert "logits starts afresh: its weights kernel (8, 3), bias (3,) become kernel (5, 3)" in str(
        plan
    )
    resect.verify(model, plan.apply(), plan=plan)


def test_another_number_of_classes():
    model = primed(cnn())
    plan = resect.plan(model).replace("logits", keras.layers.Dense(5, name="logits"))
    new = plan.apply()
    assert new.output_shape == (None, 5)
    assert isinstance(new, keras.Sequential)
    resect.verify(model, new, plan=plan)
    train(new)


@pytest.mark.parametrize("where", [0, "hidden", keras.layers.Dense])
def test_a_function_of_the_old_layer(where):
    def wider(old: keras.layers.Dense) -> keras.layers.Dense:
        return keras.layers.Dense(old.units, activation="silu", name=old.name)

    model = mlp()
    new = resect.replace(model, where, wider)
    changed = [la.name for la in new.layers if la.activation is keras.activations.silu]
    assert changed == (
        ["hidden", "middle", "logits"] if where is keras.layers.Dense else ["hidden"]
    )


def test_both_calls_of_a_shared_layer():
    model = primed(two_branches())
    plan = resect.plan(model).replace("shared", keras.layers.Dense(5, name="other"))
    new = plan.apply()

    names = [layer.name for layer in new.layers]
    assert names.count("other") == 1
    assert "shared" not in names
    assert len(new.get_layer("other")._inbound_nodes) == 2
    resect.verify(model, new, plan=plan)
    train(new)


@pytest.mark.parametrize("number", [0, 1])
def test_one_call_of_a_shared_layer(number):
    model = primed(two_branches())
    before = Source.of(model)
    plan = resect.plan(model).replace(f"shared@{number}", keras.layers.Dense(5, name="other"))
    new = plan.apply()

    before.assert_untouched()
    assert_equal(new.get_layer("shared").get_weights(), model.get_layer("shared").get_weights())
    resect.verify(model, new, plan=plan)

    left, right = data_for(model)[0]
    branches = [model.get_layer("shared")(left), model.get_layer("shared")(right)]
    branches[number] = new.get_layer("other")((left, right)[number])
    expected = model.get_layer("logits")(keras.ops.concatenate(branches, axis=-1))
    assert_close(predictions(new), keras.ops.convert_to_numpy(expected))
    train(new)
