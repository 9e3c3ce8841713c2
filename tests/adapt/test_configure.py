"""Other settings in some layers: dropout rates, regularizers, dtype policies, trainable flags."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import resect
from resect.adapt import Configure
from resect.errors import CopyError, EditError, NoMatchError, ShapeError
from tests.common import (
    assert_close,
    assert_equal,
    cnn,
    mlp,
    nested,
    predictions,
    primed,
    randomise,
    train,
    trained,
)
from tests.surgery import assert_surgery


def with_dropout() -> keras.Sequential:
    stack = [
        keras.Input((200,), name="features"),
        layers.Dropout(0.5, name="early"),
        layers.Dense(64, activation="relu", name="hidden"),
        layers.Dropout(0.5, name="late"),
        layers.Dense(3, name="logits"),
    ]
    return randomise(keras.Sequential(stack, name="dropped"))


def settings(where: Any, **values: Any) -> Configure:
    return Configure(where, tuple(values.items()))


def test_a_dropout_rate_drops_as_much_as_it_says():
    model = with_dropout()
    new = resect.adapt.configure(model, layers.Dropout, rate=0.2)
    dropped = [np.mean(np.asarray(_called(new, "early", seed)) == 0) for seed in range(20)]
    assert np.mean(dropped) == pytest.approx(0.2, abs=0.03)
    assert [new.get_layer(name).rate for name in ("early", "late")] == [0.2, 0.2]
    assert model.get_layer("early").rate == 0.5
    np.testing.assert_array_equal(predictions(new), predictions(model))


def _called(model: keras.Model, name: str, seed: int) -> Any:
    keras.utils.set_random_seed(seed)
    ones = np.ones((4, 200), "float32")
    return keras.ops.convert_to_numpy(model.get_layer(name)(ones, training=True))


def test_a_setting_is_a_step_of_a_plan():
    assert_surgery(
        trained(with_dropout()),
        settings("late", rate=0.1),
        """
        Sequential 'dropped'
          features  InputLayer  (None, 200)
          early     Dropout     (None, 200)  <- features
          hidden    Dense       (None, 64)   <- early
          late      Dropout     (None, 64)   <- hidden
          logits    Dense       (None, 3)    <- late
          -> logits
        """,
    )


@pytest.mark.parametrize("weights", ["copy", "share"])
def test_nested_layers_are_reached_and_weights_stay(weights):
    assert_surgery(nested(), settings(layers.Dense, activation="gelu"), weights=weights)


def test_a_regularizer_has_its_loss_also_after_reloading(tmp_path):
    model = cnn()
    new = resect.adapt.configure(
        model, layers.Conv2D, kernel_regularizer=keras.regularizers.L2(0.01)
    )
    kernels = [keras.ops.convert_to_numpy(new.get_layer(n).kernel) for n in ("conv_1", "conv_2")]
    expected = [0.01 * np.sum(np.square(kernel)) for kernel in kernels]
    new.save(tmp_path / "model.keras")
    for each in (new, keras.saving.load_model(tmp_path / "model.keras")):
        losses = [float(keras.ops.convert_to_numpy(loss)) for loss in each.losses]
        np.testing.assert_allclose(sorted(losses), sorted(expected), rtol=1e-5)
    assert model.losses == []


def test_a_regularizer_that_is_taken_off_has_no_loss():
    model = resect.adapt.configure(mlp(), "hidden", kernel_regularizer="l2")
    assert len(model.losses) == 1
    assert resect.adapt.configure(model, "hidden", kernel_regularizer=None).losses == []


def test_a_dtype_policy_changes_what_is_computed_and_not_what_is_held():
    model = mlp()
    new = assert_surgery(model, settings("*", dtype="mixed_bfloat16"), training=False)
    assert {layer.compute_dtype for layer in new.layers} == {"bfloat16"}
    assert {variable.dtype for variable in new.weights} == {"float32"}
    assert_close(predictions(new).astype("float32"), predictions(model), 0.1)


def test_layers_are_frozen_and_thawed():
    model = mlp()
    frozen = resect.adapt.configure(model, ["hidden", "middle"], trainable=False)
    assert [len(layer.trainable_variables) for layer in frozen.layers] == [0, 0, 2]
    assert len(model.trainable_variables) == 6
    thawed = resect.adapt.configure(frozen, "middle", trainable=True)
    assert [len(layer.trainable_variables) for layer in thawed.layers] == [0, 2, 2]


def test_the_optimizer_goes_on_with_the_slots_of_the_layers_that_were_changed():
    model = trained(mlp(), "adam", steps=3)
    new = assert_surgery(model, settings("middle", activation="tanh"))
    assert int(new.optimizer.iterations) == 3


def test_a_plan_with_settings_is_saved_and_loaded_again():
    model = mlp()
    plan = resect.plan(model).then(
        settings(layers.Dense, kernel_regularizer=keras.regularizers.L1(0.1), activation="relu")
    )
    again = resect.Plan.from_json(model, plan.to_json())
    assert str(again.result) == str(plan.result)
    assert len(again.apply().losses) == 3


def test_a_plan_says_what_is_changed():
    text = str(resect.plan(mlp()).then(settings("middle", activation="tanh")))
    assert "configure 'middle': activation='tanh'" in text
    assert "changed  middle" in text


@pytest.mark.parametrize("name", ["attention", "drop", "noise"])
def test_a_rate_that_was_zero(name):
    """It needs a seed, which the layer did not have; what it had keeps its place beside that."""
    x = inputs = keras.Input((4, 6))
    x = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = layers.GaussianNoise(0.0, name="noise")(layers.Dropout(0.0, name="drop")(x))
    model = primed(randomise(keras.Model(inputs, x, name="net")))
    setting = {"attention": "dropout", "drop": "rate", "noise": "stddev"}[name]
    new = resect.adapt.configure(model, name, **{setting: 0.5})
    assert_equal(new.get_weights(), model.get_weights())
    assert_close(predictions(new), predictions(model))
    ones = np.ones((2, 4, 6), "float32")
    noisy = keras.ops.convert_to_numpy(new(ones, training=True))
    assert not np.allclose(noisy, keras.ops.convert_to_numpy(new(ones, training=False)))
    train(new)


@pytest.mark.parametrize(
    ("where", "values", "error", "message"),
    [
        ("middle", {"rate": 0.1}, EditError, r"'middle' \(Dense\) has no setting 'rate'"),
        ("middle", {"name": "other"}, EditError, "Use resect.rename"),
        (
            "middle",
            {"activation": "grelu"},
            EditError,
            "made anew .* identifier: grelu",
        ),
        ("middle", {"units": 5}, ShapeError, r"its kernel is \(8, 8\) and would have to be"),
        ("middle", {"use_bias": False}, ShapeError, "other variables"),
        ("nothing", {"rate": 0.1}, NoMatchError, "'nothing' matches nothing"),
    ],
)
def test_what_is_refused(where, values, error, message):
    with pytest.raises(error, match=message):
        resect.adapt.configure(mlp(), where, **values)


def test_shared_variables_keep_their_rules():
    with pytest.raises(CopyError, match="would get another regularizer, there too"):
        resect.adapt.configure(mlp(), "middle", weights="share", kernel_regularizer="l2")
    with pytest.raises(CopyError, match="would get trainable=False"):
        resect.adapt.configure(mlp(), "middle", weights="share", trainable=False)


def test_what_no_configuration_says_stays():
    """An alpha of LoRA that is not its rank, and bins that were adapted."""
    numbers = np.random.default_rng(0).normal(size=(50, 1)).astype("float32")
    bins = layers.Discretization(num_bins=4, name="bins")
    bins.adapt(numbers)
    stack = [keras.Input((1,)), bins, layers.Dense(3, name="dense")]
    model = randomise(keras.Sequential(stack, name="adapted"))
    dense = model.get_layer("dense")
    dense.enable_lora(2, lora_alpha=7)
    for variable in dense.variables:
        variable.assign(np.random.default_rng(1).normal(size=variable.shape))
    for where, setting in (("bins", {"epsilon": 0.02}), ("dense", {"trainable": False})):
        new = resect.adapt.configure(model, where, **setting)
        np.testing.assert_array_equal(
            *(keras.ops.convert_to_numpy(each(numbers[:5])) for each in (new, model))
        )
    assert new.get_layer("dense").lora_alpha == 7


def test_an_operation_has_no_settings():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(3, name="dense")(inputs)[:, 1:])
    with pytest.raises(EditError, match=r"has no setting 'trainable'.*\n.*leaves those out"):
        resect.adapt.configure(model, "*", trainable=False)
    where = resect.select(name="*", cls=keras.Layer)
    assert not resect.adapt.configure(model, where, trainable=False).trainable_variables


class Derived(layers.Dense):
    """Its configuration says what follows from its arguments, which its constructor refuses."""

    def get_config(self):
        return {**super().get_config(), "twice": 2 * self.units}


def test_a_configuration_that_says_more_than_the_class_takes():
    model = randomise(keras.Sequential([keras.Input((4,)), Derived(3, name="own")]))
    frozen = resect.adapt.configure(model, "own", trainable=False)
    assert not frozen.trainable_variables
    np.testing.assert_array_equal(predictions(frozen), predictions(model))
    with pytest.raises(EditError, match=r"'own' .* made anew"):
        resect.adapt.configure(model, "own", twice=8)
