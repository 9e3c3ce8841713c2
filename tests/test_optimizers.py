"""The optimizer goes on: with all it knows of each variable that stays, and of no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import optimizers as opt

import resect
from tests.common import (
    assert_equal,
    data_for,
    mlp,
    slots,
    stateful_mlp,
    train,
    trained,
    weights_of,
)
from tests.surgery import Source


def _decaying() -> Any:
    return opt.schedules.ExponentialDecay(0.01, decay_steps=2, decay_rate=0.5)


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: opt.SGD(0.01),
    "sgd_momentum": lambda: opt.SGD(0.01, momentum=0.9, nesterov=True),
    "adam": lambda: opt.Adam(0.01),
    "adam_amsgrad_clipped": lambda: opt.Adam(0.01, amsgrad=True, clipnorm=0.5),
    "adamw_scheduled": lambda: opt.AdamW(_decaying(), weight_decay=0.01),
    "rmsprop_centered": lambda: opt.RMSprop(0.01, centered=True, momentum=0.5),
    "lion": lambda: opt.Lion(0.01),
    "adafactor": lambda: opt.Adafactor(0.01),
    "nadam": lambda: opt.Nadam(0.01),
    "loss_scale": lambda: opt.LossScaleOptimizer(opt.Adam(0.01), initial_scale=8.0),
    "averaged": lambda: opt.Adam(0.01, use_ema=True, ema_momentum=0.8),
    "accumulating": lambda: opt.Adam(0.01, gradient_accumulation_steps=2),
    "muon": lambda: opt.Muon(0.01),
    "schedule_free": lambda: opt.ScheduleFreeAdamW(0.01),
}
# Those that TensorFlow runs as it would by default: it costs a second each.
IN_GRAPHS = ("adam", "adamw_scheduled", "loss_scale", "averaged", "accumulating")
_MISSING = {"muon": "Muon", "schedule_free": "ScheduleFreeAdamW"}


def _case(name: str) -> Any:
    cls = _MISSING.get(name)
    lacks = cls is not None and not hasattr(opt, cls)
    return pytest.param(name, marks=pytest.mark.skipif(lacks, reason=f"this Keras has no {cls}"))


each_optimizer = pytest.mark.parametrize("name", [_case(name) for name in OPTIMIZERS])


def assert_same_slots(one: Any, other: Any) -> None:
    """Two optimizers remember the same, bit by bit."""
    mine, theirs = slots(one), slots(other)
    assert mine.keys() == theirs.keys()
    for path in mine:
        np.testing.assert_array_equal(mine[path], theirs[path], err_msg=path)


@each_optimizer
def test_a_clone_trains_on_exactly_as_the_original_would(name):
    eagerly = keras.backend.backend() == "tensorflow" and name not in IN_GRAPHS
    model = trained(stateful_mlp(), OPTIMIZERS[name](), steps=3, run_eagerly=eagerly)
    before = Source.of(model)

    twin = resect.clone(model)

    assert type(twin.optimizer) is type(model.optimizer)
    assert twin.optimizer.get_config() == model.optimizer.get_config()
    assert_same_slots(twin.optimizer, model.optimizer)
    train(twin, steps=2)
    before.assert_untouched()
    train(model, steps=2)
    assert_equal(weights_of(twin), weights_of(model))
    assert_same_slots(twin.optimizer, model.optimizer)


@each_optimizer
def test_after_an_edit_what_stays_keeps_its_slots_and_what_is_new_has_fresh_ones(name):
    model = trained(stateful_mlp(), OPTIMIZERS[name](), steps=3)
    before = Source.of(model)

    new = (
        resect.plan(model)
        .insert(keras.layers.Dropout(0.5, name="more"), after="norm")
        .pop()
        .append(keras.layers.Dense(3, name="classes"))
        .apply()
    )

    before.assert_untouched()
    fresh = OPTIMIZERS[name]()
    fresh.build(new.trainable_variables)
    was, unused, now = slots(model.optimizer), slots(fresh), slots(new.optimizer)
    assert now.keys() == unused.keys()
    for path in now:
        if "moving_average of classes" not in path:
            expected = unused if "classes" in path else was
            np.testing.assert_array_equal(now[path], expected[path], err_msg=path)
    train(new)


def test_the_moving_average_of_a_new_layer_starts_at_its_weights():
    """From zero, where Keras leaves it, the average would soon overwrite the layer."""
    model = trained(mlp(), opt.SGD(0.0, use_ema=True, ema_momentum=0.9), steps=2)
    new = resect.append(resect.pop(model), keras.layers.Dense(3, name="classes"))
    weights = weights_of(new)
    train(new, steps=2)  # with a learning rate of zero
    new.optimizer.finalize_variable_values(new.trainable_variables)
    for one, other in zip(weights_of(new), weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_slots_are_not_those_of_the_original():
    """Training either goes on as if the other were not there: no array is in both."""
    model = trained(mlp(), opt.Adam(0.01))
    twin = resect.clone(model)
    mine = {id(v) for v in model.optimizer.variables}
    assert not mine & {id(v) for v in twin.optimizer.variables}
    for one, other in zip(model.optimizer.variables, twin.optimizer.variables, strict=True):
        before = np.array(keras.ops.convert_to_numpy(other.value))
        one.assign(one.value + 1)
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(other.value), before)


# The trap: the moments of a layer that is gone, on a new layer of the same shape


def moments(model: Any, layer: str) -> list[np.ndarray]:
    """Adam's moments of the kernel of a layer, found by identity."""
    optimizer, kernel = model.optimizer, model.get_layer(layer).kernel
    at = [v is kernel for v in optimizer._trainable_variables].index(True)
    found = (optimizer._momentums[at], optimizer._velocities[at])
    return [np.array(keras.ops.convert_to_numpy(v.value)) for v in found]


def without_gradients(model: Any) -> Any:
    """One step on samples that weigh nothing: moments that are zero stay zero."""
    inputs, targets = data_for(model)
    model.train_on_batch(inputs, targets, sample_weight=np.zeros(len(inputs), "float32"))
    return model


def test_a_new_layer_of_the_same_shape_starts_with_moments_of_zero():
    model = trained(mlp(), opt.Adam(0.01))
    assert all(np.abs(moment).max() > 0 for moment in moments(model, "logits"))

    new = resect.append(resect.pop(model), keras.layers.Dense(3, name="classes"))
    assert not any(moment.any() for moment in moments(new, "classes"))
    without_gradients(new)

    assert not any(moment.any() for moment in moments(new, "classes"))
    decayed = [moment.any() for moment in moments(new, "hidden")]
    assert decayed == [True, True]


def test_with_plain_keras_it_inherits_those_of_the_layer_that_was_popped():
    """The test above without resect: not a promise of Keras, but a reason for all this."""
    model = trained(mlp(), opt.Adam(0.01))
    model.pop()
    model.add(keras.layers.Dense(3, name="logits"))
    try:
        without_gradients(model)
    except (KeyError, ValueError):  # "Unknown variable": PyTorch, and TensorFlow in some orders
        return
    at = len(model.optimizer._trainable_variables) - 2
    assert model.optimizer._trainable_variables[at] is not model.get_layer("logits").kernel
    inherited = np.array(keras.ops.convert_to_numpy(model.optimizer._momentums[at].value))
    assert np.abs(inherited).max() > 0


def test_a_replacement_that_takes_the_weights_over_takes_their_slots_too():
    model = trained(mlp(), opt.Adam(0.01))
    new = resect.replace(model, "middle", keras.layers.Dense(8, "tanh", name="middle"))
    for name in ("hidden", "middle", "logits"):
        assert_equal(moments(new, name), moments(model, name))


def test_a_layer_that_starts_afresh_has_fresh_slots():
    model = trained(mlp(), opt.Adam(0.01))
    new = resect.replace(model, "middle", keras.layers.Dense(5, name="wide"), on_mismatch="reinit")
    assert not any(moment.any() for moment in moments(new, "logits"))
    assert_equal(moments(new, "hidden"), moments(model, "hidden"))


# What the optimizer is told from outside


def test_a_learning_rate_that_was_changed_since_stays_changed():
    model = trained(mlp(), opt.Adam(0.01))
    model.optimizer.learning_rate = 0.25
    new = resect.pop(model)
    assert float(new.optimizer.learning_rate) == 0.25
    new.optimizer.learning_rate = 0.5
    assert float(model.optimizer.learning_rate) == 0.25


def test_variables_without_weight_decay_stay_without_it():
    model = mlp()
    optimizer = opt.AdamW(0.01, weight_decay=10.0)
    optimizer.exclude_from_weight_decay(
        var_list=[model.get_layer("logits").kernel], var_names=["bias"]
    )
    model.compile(optimizer, "mse")  # carried before the first step, and after it
    early = resect.insert(model, keras.layers.Dropout(0.5, name="drop"), after="hidden")
    train(model)
    late = resect.insert(model, keras.layers.Dropout(0.5, name="drop"), after="hidden")
    for each in (early, late):
        decays = {v.path: each.optimizer._use_weight_decay(v) for v in each.trainable_variables}
        assert [path for path, does in decays.items() if does] == [
            "mlp/hidden/kernel",
            "mlp/middle/kernel",
        ]


class Sawtooth(opt.schedules.LearningRateSchedule):
    """A schedule that no registry knows and no configuration describes."""

    def __call__(self, step: Any) -> Any:
        return 0.01 + 0.001 * keras.ops.cast(step % 3, "float32")


class Halved(opt.SGD):
    """An optimizer that no registry knows."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(gradient, variable, learning_rate / 2)


@pytest.mark.parametrize("schedule", [Sawtooth(), lambda: 0.02], ids=["class", "function"])
def test_a_schedule_and_an_optimizer_of_the_users_own(schedule):
    model = trained(mlp(), Halved(schedule, momentum=0.9), steps=3)
    twin = resect.clone(model)
    assert isinstance(twin.optimizer, Halved)
    assert twin.optimizer._learning_rate is schedule
    assert_equal(weights_of(train(twin)), weights_of(train(model)))


def test_an_optimizer_that_has_not_started_yet():
    model = mlp()
    model.compile(opt.AdamW(0.03), "mse")
    new = resect.pop(model)
    assert float(new.optimizer.learning_rate) == np.float32(0.03)
    assert new.optimizer is not model.optimizer
    train(new)
    assert int(new.optimizer.iterations) == 1
    assert int(model.optimizer.iterations) == 0
    train(model)


class Hoarder(opt.SGD):
    """An optimizer that keeps a variable where nobody would look for it."""

    def build(self, variables: Any) -> None:
        super().build(variables)
        self.hidden = ({"sum": self.add_variable((), name="sum")},)


def test_an_optimizer_whose_state_cannot_be_found_is_refused():
    model = trained(mlp(), Hoarder(0.01))
    before = Source.of(model)
    with pytest.raises(resect.errors.CopyError, match=r"Hoarder keeps .*sum in a way that resect"):
        resect.clone(model)
    before.assert_untouched()


@pytest.mark.skipif(not hasattr(opt, "MultiOptimizer"), reason="this Keras has no MultiOptimizer")
def test_several_optimizers_for_several_variables():
    chosen = opt.OptimizerMap(opt.Adam(0.01), {".*bias": opt.SGD(0.01, momentum=0.9)})
    model = trained(mlp(), opt.MultiOptimizer(chosen), steps=3)
    twin = resect.clone(model)
    values = [
        [np.array(keras.ops.convert_to_numpy(v.value)) for v in each.optimizer.variables]
        for each in (model, twin)
    ]
    assert_equal(*values)
    assert sum(bool(np.abs(value).max()) for value in values[0]) > 9
    assert_equal(weights_of(train(twin)), weights_of(train(model)))
