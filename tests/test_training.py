"""The compile configuration goes along, and the result trains at once."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import resect
from tests.common import (
    assert_equal,
    data_for,
    mlp,
    predictions,
    slots,
    stateful_mlp,
    train,
    trained,
    two_heads,
    weights_of,
)
from tests.surgery import Source
from zoo.randomise import randomise

DROPOUT = {"layer": layers.Dropout(0.25), "after": "hidden"}


def logs_of(model: Any) -> dict[str, float]:
    """Losses and metrics on the model's data."""
    inputs, targets = data_for(model)
    return model.evaluate(inputs, targets, verbose=0, return_dict=True)


def absolute(y_true: Any, y_pred: Any) -> Any:
    """A loss, or metric, that no registry knows."""
    return keras.ops.mean(keras.ops.abs(keras.ops.subtract(y_true, y_pred)), axis=-1)


class Cubed(keras.losses.Loss):
    """A loss that no registry knows and no configuration describes."""

    def __init__(self, power: Any) -> None:
        super().__init__()
        self.power = power

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.ops.mean(keras.ops.abs(y_true - y_pred) ** self.power, axis=-1)


class Largest(keras.metrics.Metric):
    """A metric with state, and without a configuration."""

    def __init__(self, scale: float) -> None:
        super().__init__(name="largest")
        self.scale = scale
        self.value = self.add_variable((), "zeros", name="value")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        largest = keras.ops.max(keras.ops.abs(keras.ops.subtract(y_true, y_pred))) * self.scale
        self.value.assign(keras.ops.maximum(self.value, largest))

    def result(self) -> Any:
        return keras.ops.convert_to_tensor(self.value)


# Losses


@pytest.mark.parametrize(
    "loss",
    ["mae", absolute, lambda y, p: absolute(y, p) * 3, keras.losses.Huber(0.5), Cubed(lambda: 3)],
    ids=["name", "function", "lambda", "object", "own class"],
)
def test_a_loss_is_carried_as_it_is(loss):
    if isinstance(loss, Cubed):
        loss.power = 3
    model = trained(mlp(), loss=loss)
    before = Source.of(model)
    new = resect.insert(model, **DROPOUT)
    assert new.loss is loss
    found = logs_of(new)
    before.assert_untouched()
    assert found == pytest.approx(logs_of(model), rel=1e-5)
    train(new)


@pytest.mark.parametrize("form", ["list", "dict"])
def test_losses_and_weights_per_output(form):
    names = ("first", "second")
    options: dict[str, Any] = {"loss": ["mse", absolute], "loss_weights": [0.3, 2.0]}
    options["metrics"] = [["mae"], [Largest(2.0)]]
    if form == "dict":
        options = {key: dict(zip(names, value, strict=True)) for key, value in options.items()}
    model = trained(two_heads(), **options)
    new = resect.insert(model, **DROPOUT)
    found = logs_of(new)
    assert found == pytest.approx(logs_of(model), rel=1e-5)
    assert set(found) >= {"loss", "first_loss", "second_loss", "first_mae", "second_largest"}
    assert found["loss"] == pytest.approx(0.3 * found["first_loss"] + 2 * found["second_loss"])
    train(new)


def test_a_dict_of_losses_follows_an_output_that_is_renamed():
    model = two_heads()
    options = {
        "loss": {"first": "mse", "second": "mae"},
        "loss_weights": {"first": 1.0, "second": 3.0},
    }
    trained(model, **options, metrics={"second": ["mse"]})
    expected = logs_of(model)

    new = resect.rename(model, {"second": "other"})

    assert new.output_names == ["first", "other"]
    assert new.loss == {"first": "mse", "other": "mae"}
    assert model.loss == options["loss"]
    found = logs_of(new)
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert found["other_mse"] == pytest.approx(expected["second_mse"], rel=1e-5)
    train(new)


def test_a_dict_of_losses_follows_an_output_that_is_replaced_or_extended():
    model = trained(two_heads(), loss={"first": "mse", "second": "mae"})
    replaced = resect.replace(model, "second", layers.Dense(4, name="other"))
    assert replaced.loss == {"first": "mse", "other": "mae"}
    extended = resect.insert(model, layers.Softmax(name="probabilities"), after="second")
    assert extended.loss == {"first": "mse", "probabilities": "mae"}
    for each in (replaced, extended):
        train(each)


# Metrics


def test_metrics_are_carried_and_never_shared():
    mine = Largest(2.0)
    model = trained(
        mlp(), metrics=["mae", absolute, keras.metrics.MeanSquaredError(name="squared"), mine]
    )
    before = [np.array(keras.ops.convert_to_numpy(v.value)) for v in model.metrics_variables]
    assert float(mine.result()) > 0

    new = resect.insert(model, **DROPOUT)

    ids = [{id(v) for v in each.metrics_variables} for each in (model, new)]
    assert ids[0].isdisjoint(ids[1])
    assert not {id(m) for m in model.metrics} & {id(m) for m in new.metrics}
    own = new._compile_config.config["metrics"][-1]
    assert (type(own), own.scale, float(own.result())) == (Largest, 2.0, 0.0)
    found = logs_of(new)
    after = [np.array(keras.ops.convert_to_numpy(v.value)) for v in model.metrics_variables]
    assert_equal(before, after)
    assert found == pytest.approx(logs_of(model), rel=1e-5)
    assert set(found) == {"loss", "mae", "absolute", "squared", "largest"}


def test_weighted_metrics_are_carried():
    model = trained(mlp(), weighted_metrics=["mae"], metrics=["mae"])
    new = resect.insert(model, **DROPOUT)
    inputs, targets = data_for(model)
    weights = np.arange(len(inputs), dtype="float32")
    logs = []
    for each in (model, new):
        each.reset_metrics()
        found = each.test_on_batch(inputs, targets, sample_weight=weights, return_dict=True)
        logs.append({name: float(value) for name, value in found.items()})
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)
    assert logs[0]["mae"] != pytest.approx(logs[0]["weighted_mae"])


# How the steps run


@pytest.mark.parametrize(("jit", "eager"), [(True, False), (False, True), (False, False)])
def test_how_it_runs_is_carried(jit, eager, backend):
    model = mlp()
    model.compile("adam", "mse", jit_compile=jit, run_eagerly=eager)
    new = resect.insert(model, **DROPOUT)
    assert (new.jit_compile, new.run_eagerly) == (jit, eager)
    if not (jit and backend == "torch"):  # which would need a C++ compiler
        train(new)


def test_steps_per_execution_is_carried(backend):
    steps = 1 if backend == "torch" else 2  # Keras: not supported on torch
    model = mlp()
    model.compile("adam", "mse", steps_per_execution=steps)
    new = resect.insert(model, **DROPOUT)
    assert new.steps_per_execution == steps
    inputs, targets = data_for(new, batch=8)
    new.fit(inputs, targets, batch_size=2, verbose=0)
    assert int(new.optimizer.iterations) == 4


def test_an_uncompiled_model_stays_uncompiled():
    assert not resect.clone(mlp()).compiled
    assert "compile state" not in str(resect.plan(mlp()).pop())


def test_a_model_without_a_loss_may_be_compiled_too():
    model = mlp()
    model.compile(optimizer=None)
    assert resect.pop(model).compiled


# Fitting goes on


def test_fit_evaluate_and_predict_go_on_at_once():
    model = trained(stateful_mlp(), keras.optimizers.Adam(0.03), metrics=["mae"], run_eagerly=False)
    before = Source.of(model)
    new = resect.insert(model, layers.Dense(5, name="more"), after="norm")
    inputs, targets = data_for(new, batch=8)
    history = new.fit(
        inputs, targets, batch_size=4, epochs=8, verbose=0, validation_split=0.25
    ).history
    assert min(history["loss"][1:]) < history["loss"][0]
    assert {"mae", "val_loss", "val_mae"} <= set(history)
    assert new.predict(inputs, verbose=0).shape == (8, 3)
    before.assert_untouched()
    train(model)


def test_a_result_can_be_edited_and_trained_again_and_again():
    model = trained(mlp())
    for number in range(3):
        model = train(resect.insert(model, layers.Dense(8, name=f"more_{number}"), after="hidden"))
    assert int(model.optimizer.iterations) == 5
    names = [layer.name for layer in model.layers]
    assert names == ["hidden", "more_2", "more_1", "more_0", "middle", "logits"]


def test_a_saved_result_trains_on_where_it_was(tmp_path):
    model = trained(mlp(), keras.optimizers.AdamW(decaying()))
    new = train(resect.insert(model, layers.Dropout(0.0), after="hidden"))
    new.save(tmp_path / "new.keras")
    loaded = keras.saving.load_model(tmp_path / "new.keras")
    mine, theirs = slots(new.optimizer), slots(loaded.optimizer)
    assert_equal(list(mine.values()), list(theirs.values()))
    assert_equal(weights_of(train(loaded)), weights_of(train(new)))


def decaying() -> Any:
    return keras.optimizers.schedules.ExponentialDecay(0.01, decay_steps=2, decay_rate=0.5)


# What is frozen stays frozen


def frozen_mlp() -> keras.Model:
    """One layer frozen, one batch normalization that keeps its statistics, one frozen bias."""
    model = stateful_mlp()
    model.get_layer("norm").trainable = False
    model.get_layer("hidden").bias.trainable = False
    return model


def test_what_is_frozen_stays_frozen():
    model = trained(frozen_mlp(), "adam")
    new = resect.insert(model, layers.Dense(5, name="more"), after="norm")
    frozen = ["hidden/bias", "norm/gamma", "norm/beta"]
    assert not new.get_layer("norm").trainable
    trainable = [v.path for v in new.trainable_variables]
    assert sorted(trainable) == [
        "hidden/kernel", "logits/bias", "logits/kernel", "more/bias", "more/kernel",
    ]  # fmt: skip
    before = {v.path: np.array(keras.ops.convert_to_numpy(v.value)) for v in new.variables}
    train(new)
    after = {v.path: np.array(keras.ops.convert_to_numpy(v.value)) for v in new.variables}
    for path in (*frozen, "norm/moving_mean", "norm/moving_variance"):
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)
    for path in trainable:
        assert np.abs(after[path] - before[path]).max() > 0, path


def test_a_layer_that_was_frozen_after_training_is_frozen_in_what_is_made_from_it():
    """Keras wants `compile` to be called after freezing; the result was, so it trains at once."""
    model = trained(mlp())
    model.get_layer("hidden").trainable = False
    new = resect.insert(model, **DROPOUT)
    kept = {k: v for k, v in slots(model.optimizer).items() if "hidden" not in k}
    assert slots(new.optimizer).keys() == kept.keys()
    assert_equal(list(slots(new.optimizer).values()), list(kept.values()))
    frozen = new.get_layer("hidden").get_weights()
    train(new)
    assert_equal(new.get_layer("hidden").get_weights(), frozen)


def test_a_model_that_is_frozen_as_a_whole():
    model = mlp()
    model.trainable = False
    new = resect.pop(model)
    assert not new.trainable
    assert new.trainable_variables == []
    new.trainable = True
    assert len(new.trainable_variables) == 4


# Where compile state has no meaning


def test_another_number_of_outputs_is_not_compiled_and_the_plan_says_so():
    model = trained(two_heads())
    plan = resect.plan(model).truncate(end="first")
    assert "note: compile state: not carried, it has 1 outputs now, and had 2" in str(plan)
    assert not plan.apply().compiled


def test_the_head_of_a_split_is_not_compiled_and_its_tail_is():
    model = trained(mlp())
    head, tail = resect.split(model, "middle")
    assert not head.compiled
    assert tail.compiled
    assert "compile state: not carried, the head of a split has no loss" in str(
        resect.plan(model).head("middle")
    )
    train(tail)


# Half precision


def test_automatic_loss_scaling_is_carried():
    features = keras.Input((4,), name="features")
    dense = layers.Dense(3, name="dense", dtype="mixed_float16")
    hidden = layers.Dense(5, name="hidden", dtype="mixed_float16")
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = randomise(keras.Model(features, dense(hidden(features)), name="half"))
    finally:
        keras.config.set_dtype_policy(policy)
    trained(model, keras.optimizers.Adam(0.01))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)

    twin = resect.clone(model)
    assert isinstance(twin.optimizer, keras.optimizers.LossScaleOptimizer)
    assert isinstance(twin.optimizer.inner_optimizer, keras.optimizers.Adam)
    assert slots(twin.optimizer).keys() == slots(model.optimizer).keys()
    assert_equal(list(slots(twin.optimizer).values()), list(slots(model.optimizer).values()))
    train(resect.insert(model, layers.Dropout(0.1, dtype="mixed_float16"), after="hidden"))
    assert_equal(weights_of(train(twin)), weights_of(train(model)))


def test_loss_scaling_that_was_declined_stays_declined():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = mlp()
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile("adam", "mse", auto_scale_loss=False)
    assert isinstance(resect.clone(model).optimizer, keras.optimizers.Adam)


def test_predictions_do_not_depend_on_being_compiled():
    model = mlp()
    expected = predictions(resect.pop(model))
    np.testing.assert_array_equal(predictions(resect.pop(trained(model, steps=0))), expected)
