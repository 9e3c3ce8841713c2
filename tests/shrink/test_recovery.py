"""Fine-tuning, distillation and functions of one's own."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import resect
from resect.errors import SurgeryError
from resect.keras_graph.snapshots import Snapshot
from resect.shrink import Distill, FineTune
from resect.training.distilling import Soft, kinds_of
from resect.training.recovery import recovered
from resect.training.values import values_of
from tests.common import assert_equal, randomise, slots, weights_of
from tests.importance.models import EAGERLY
from tests.shrink import models

TARGET = {"parameters": 0.6}
OPTIONS: dict = {"target": TARGET, "method": "random"}


@pytest.mark.parametrize("recover", ["fit", "distill"])
def test_recovery_makes_the_loss_smaller_and_leaves_the_source_alone(recover):
    model, given = models.classifier(optimizer=keras.optimizers.Adam(0.01)), models.data()
    before = Snapshot.of(model)
    kind = {"fit": FineTune, "distill": Distill}[recover]
    found = resect.shrink(model, given, **OPTIONS, recover=kind(epochs=5))
    assert all(step.after["loss"] < step.before["loss"] for step in found.steps[1:])
    assert before.changes() == []
    assert len(found) == 3


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    given = models.data(40)

    def run(seed):
        options = {**OPTIONS, "target": {"parameters": 0.8}, "recover": "fit", "seed": seed}
        return weights_of(resect.shrink(models.classifier(), given, **options).model)

    one, same, other = run(0), run(0), run(1)
    assert_equal(one, same)
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_optimizer_goes_on_where_it_was():
    model, given = models.classifier(), models.data()
    model.fit(*given, batch_size=8, verbose=0)  # 3 steps
    found = resect.shrink(model, given, **OPTIONS, recover=FineTune(epochs=2), batch_size=8)
    counts = [int(slots(found.at(k).optimizer)["_iterations"]) for k in range(3)]
    assert counts == [3, 9, 15]
    momenta = [value for name, value in slots(found.model.optimizer).items() if "kernel" in name]
    assert all(np.abs(value).max() > 0 for value in momenta)


def test_a_learning_rate_is_for_the_recovery_only():
    model, given = models.classifier(), models.data()
    none = FineTune(learning_rate=1e-12)
    found = resect.shrink(model, given, **OPTIONS, recover=none)
    for old, new in zip(weights_of(found.plan.apply()), weights_of(found.model), strict=True):
        if old.dtype == "float32":
            np.testing.assert_allclose(old, new, atol=1e-6)
    assert float(found.model.optimizer.learning_rate) == pytest.approx(1e-3)


def test_a_schedule_goes_on_and_no_other_rate_can_be_set():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.01, 0.0])
    model = models.classifier(optimizer=keras.optimizers.SGD(schedule))
    given = models.data()
    found = resect.shrink(model, given, **OPTIONS, recover="fit", batch_size=8)
    assert found[1].after["loss"] != found[1].before["loss"]
    assert found[2].after["loss"] == found[2].before["loss"]  # the rate is 0 from step 3 on
    with pytest.raises(SurgeryError, match="follows a schedule"):
        resect.shrink(model, given, **OPTIONS, recover=FineTune(learning_rate=0.1))


# Functions of one's own


def test_a_function_may_compile_the_model_as_it_likes():
    model, given = models.classifier(), models.data()
    seen = []

    def recover(it, original):
        seen.append(type(it.optimizer).__name__)
        assert_equal(weights_of(original), weights_of(model))
        assert original is not model
        original.set_weights([0 * w for w in original.get_weights()])
        it.compile("sgd", "mse", metrics=[], **EAGERLY)  # Keras keeps metrics otherwise
        it.fit(given[0], keras.ops.one_hot(given[1], 3), epochs=1, verbose=0)

    found = resect.shrink(model, given, **OPTIONS, recover=recover)
    assert seen == ["Adam", "Adam"]  # each step begins as the original is compiled
    assert type(found.model.optimizer).__name__ == "Adam"
    assert found[2].after == pytest.approx(models.numbers(found.model, given))
    assert found[2].after["loss"] != found[2].before["loss"]


def test_a_function_may_return_a_model_with_the_same_layers():
    def recover(it):
        new = resect.clone(it)
        new.set_weights([w + 1 for w in new.get_weights()])
        return new

    model = models.classifier()
    found = resect.shrink(model, models.data(), **OPTIONS, recover=recover)
    old, new = found.plan.apply().get_weights(), found.model.get_weights()
    assert_equal([w + 1 + 1 for w in old], new)


@pytest.mark.parametrize(
    ("recover", "message"),
    [
        (lambda model: resect.pop(model), "has other variables than .* first of all logits/kernel"),
        (lambda model: "done", "returned str, which is no model"),
    ],
)
def test_a_function_that_returns_something_else_is_refused(recover, message):
    with pytest.raises(SurgeryError, match=message):
        resect.shrink(models.classifier(), models.data(), **OPTIONS, recover=recover)


# Distillation


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def kl(p, q):
    return (p * (np.log(p) - np.log(q))).sum(axis=-1)


def test_the_soft_loss_is_that_of_the_paper():
    rng = np.random.default_rng(0)
    t, s = (rng.normal(0, 2, (5, 4)).astype("float32") for _ in range(2))
    expected = 9 * kl(softmax(t / 3), softmax(s / 3)).mean()
    logits = Soft(("logits", False), 3.0)(t, s)
    assert float(logits) == pytest.approx(expected, rel=1e-4)
    probabilities = Soft(("probabilities", False), 3.0)(softmax(t), softmax(s))
    assert float(probabilities) == pytest.approx(expected, rel=1e-4)
    pairs = [np.stack([sigmoid(z / 3), 1 - sigmoid(z / 3)], axis=-1) for z in (t, s)]
    expected = 9 * kl(*pairs).mean()
    assert float(Soft(("logits", True), 3.0)(t, s)) == pytest.approx(expected, rel=1e-4)
    binary = Soft(("probabilities", True), 3.0)(sigmoid(t), sigmoid(s))
    assert float(binary) == pytest.approx(expected, rel=1e-3)
    values = Soft(("values", False), 3.0)(t, s)
    assert float(values) == pytest.approx(((t - s) ** 2).mean(), rel=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_loss_of_distillation_is_both_parts_and_all_that_layers_add(alpha):
    """One step of plain gradient descent, against the gradient written by hand."""
    x = inputs = keras.Input((3,), name="x")
    x = layers.Dense(2, name="logits", kernel_regularizer=keras.regularizers.L2(0.1))(x)
    model = randomise(keras.Model(inputs, x, name="linear"))
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), loss, **EAGERLY)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(4, 3)).astype("float32"), np.eye(2, dtype="float32")[[0, 1, 1, 0]]
    weight = np.array([1, 2, 0.5, 1], "float32")
    pupil = resect.clone(model)
    pupil.set_weights([w + 0.3 * (i + 1) for i, w in enumerate(pupil.get_weights())])
    kernel, bias = pupil.get_weights()
    from resect.training.feeding import Data

    pupil.evaluate(x, y, verbose=0)
    recovered(Distill(alpha=alpha, temperature=2.0), pupil, model, Data((x, y, weight), 4), 0)

    teacher = x @ model.get_weights()[0] + model.get_weights()[1]
    now = x @ kernel + bias
    hard = softmax(now) - y
    soft = 2 * (softmax(now / 2) - softmax(teacher / 2))  # T² times the derivative, which has 1/T
    slope = (alpha * soft + (1 - alpha) * hard) * weight[:, None] / 4
    expected = kernel - 0.5 * (x.T @ slope + 0.2 * kernel)
    np.testing.assert_allclose(pupil.get_weights()[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(pupil.get_weights()[1], bias - 0.5 * slope.sum(axis=0), rtol=1e-4)


def test_the_pupil_and_its_optimizer_are_all_that_distillation_changes():
    model, given = models.classifier(), models.data()
    before = Snapshot.of(model)
    found = resect.shrink(model, given, **OPTIONS, recover=Distill(alpha=1.0), batch_size=8)
    assert before.changes() == []
    assert found.model.trainable
    assert all(v.trainable for v in found.model.trainable_variables)
    paths = list(values_of(found.model).paths)
    assert paths == list(values_of(found.plan.apply()).paths)
    assert int(slots(found.model.optimizer)["_iterations"]) == 2 * 3


@pytest.mark.parametrize(
    ("loss", "units", "kind"),
    [
        ("sparse_categorical_crossentropy", 3, ("probabilities", False)),
        (keras.losses.CategoricalCrossentropy(from_logits=True), 3, ("logits", False)),
        ("binary_crossentropy", 3, ("probabilities", True)),
        ("mse", 1, ("values", False)),
        (keras.losses.Huber(), 3, ("values", False)),
        (keras.losses.mean_absolute_error, 3, ("values", False)),
    ],
)
def test_the_loss_says_what_an_output_is(loss, units, kind):
    model = keras.Sequential([keras.Input((2,)), layers.Dense(units)])
    model.compile("sgd", loss)
    assert kinds_of(model, None) == [kind]


def test_an_output_that_the_loss_says_nothing_of_is_refused_until_it_is_said():
    model = models.classifier()
    model.compile("sgd", lambda y, p: keras.ops.mean(p**2, axis=-1), **EAGERLY)
    given = models.data()
    with pytest.raises(SurgeryError, match=r'Distill\(outputs="logits"\)'):
        resect.shrink(model, given, **OPTIONS, recover="distill")
    resect.shrink(model, given, **OPTIONS, recover=Distill(outputs="logits"))


@pytest.mark.parametrize(
    "recover", ["tune", 3, Distill, FineTune(learning_rate=0.0), FineTune(epochs=0)]
)
def test_what_is_no_way_to_recover_is_refused(recover):
    with pytest.raises(ValueError, match=r"recover must|learning_rate must|epochs must"):
        resect.shrink(models.classifier(), models.data(), **OPTIONS, recover=recover)
    with pytest.raises(ValueError, match="alpha must lie between 0 and 1"):
        Distill(alpha=2)
