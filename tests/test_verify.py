"""`verify` proves what is right, and finds what is wrong."""

from __future__ import annotations

import importlib
import textwrap
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import resect
from resect import oracle
from resect.errors import VerificationError
from resect.keras_graph import writing
from tests.common import mlp, residual, stateful_mlp, trained, two_heads
from tests.surgery import Source

plan_module = importlib.import_module("resect.plan")  # `resect.plan` itself is the function


def failures(model: Any, new: Any, **options: Any) -> list[str]:
    """The reasons that `verify` gives."""
    before = Source.of(model)
    with pytest.raises(VerificationError) as caught:
        resect.verify(model, new, **options)
    before.assert_untouched()
    assert all(problem.code == "VerificationError" for problem in caught.value.problems)
    return [problem.reason for problem in caught.value.problems]


def add_to(variable: Any, amount: float) -> None:
    variable.assign(variable.value + amount)


# What is right


def test_a_report_prints_what_was_checked():
    model = mlp()
    plan = resect.plan(model).insert(layers.ReLU(name="act"), after="hidden")
    report = resect.verify(model, plan.apply(), plan=plan)
    assert report.passed
    assert str(report) == textwrap.dedent("""
        check                               measured
        shapes as planned               ok  5 tensors
        inference equals the graph      ok  largest difference 0
        training mode equals the graph  ok  largest difference 0
        saved and loaded again          ok  largest difference 0
        source untouched                ok  nothing changed
    """).strip("\n")


def test_what_is_not_asked_for_is_not_checked():
    model = mlp()
    report = resect.verify(model, resect.clone(model), training=False, reload=False)
    assert [check.name for check in report.checks] == [
        "shapes as planned",
        "inference equals the graph",
        "source untouched",
    ]


@pytest.mark.parametrize("weights", ["copy", "share"])
def test_either_kind_of_weights_is_proved(weights):
    model = trained(stateful_mlp())
    plan = resect.plan(model).insert(layers.Dense(5), after="norm").remove("dropout")
    before = Source.of(model)
    assert resect.verify(model, plan.apply(weights), plan=plan).passed
    before.assert_untouched()


def test_inputs_can_be_given():
    model = mlp()
    new = resect.clone(model)
    zeros = np.zeros((2, 6), "float32")
    assert resect.verify(model, new, inputs=zeros).passed
    add_to(new.get_layer("hidden").kernel, 1.0)
    assert resect.verify(model, new, inputs=zeros).passed  # zeros do not reach a kernel
    assert failures(model, new)


def test_verifying_leaves_both_models_as_they_are():
    model = trained(stateful_mlp())
    plan = resect.plan(model).insert(layers.BatchNormalization(), after="hidden")
    new = plan.apply()
    before = Source.of(model), Source.of(new)
    resect.verify(model, new, plan=plan)
    for each in before:
        each.assert_untouched()


# What is wrong


@pytest.mark.parametrize("layer", ["hidden", "logits"])
def test_a_changed_weight_is_found(layer):
    model = mlp()
    plan = resect.plan(model).remove("middle")
    new = plan.apply()
    add_to(new.get_layer(layer).kernel, 0.01)
    inference, training, *others = failures(model, new, plan=plan)
    assert inference.startswith("inference equals the graph: largest difference 0.")
    assert training.startswith("training mode equals the graph: largest difference 0.")
    assert others == []


def test_the_tolerance_is_the_users():
    model = mlp()
    new = resect.clone(model)
    add_to(new.get_layer("logits").bias, 1e-4)
    assert failures(model, new)
    assert resect.verify(model, new, tolerance=1e-2).passed


def test_layers_in_the_wrong_order_are_found():
    """The same layers, names and shapes; only the wiring is another."""
    model = mlp()
    hidden, middle, logits = (layers.Dense.from_config(la.get_config()) for la in model.layers)
    features = keras.Input((6,), name="features")
    swapped = resect.clone(model)
    wrong = keras.Sequential([features, hidden, middle, logits], name="mlp")
    weights = swapped.get_weights()
    weights[1], weights[3] = weights[3], weights[1]  # the biases of two layers
    wrong.set_weights(weights)
    assert failures(model, wrong)[0].startswith("inference equals the graph")


def test_a_connection_that_was_dropped_is_found():
    model = residual()
    new = resect.clone(model)
    stem, branch, logits = (new.get_layer(name) for name in ("stem", "branch", "logits"))
    features = keras.Input((4,), name="features")
    x = stem(features)
    x = new.get_layer("add")([branch(x), branch(x)])
    wrong = keras.Model(features, logits(x), name="residual")
    assert failures(model, wrong)[0].startswith("shapes as planned: branch")


def test_an_operation_that_was_dropped_is_found():
    features = keras.Input((4,), name="features")
    dense = layers.Dense(3, name="dense")
    model = keras.Model(features, ops.negative(dense(features)), name="net")
    features = keras.Input((4,), name="features")
    wrong = keras.Model(features, resect.clone(model).get_layer("dense")(features), name="net")
    (reason,) = failures(model, wrong)
    assert "negative" in reason
    assert "written nothing" in reason


def test_a_layer_that_differs_only_in_training_is_found():
    model = stateful_mlp()
    new = resect.clone(model)
    new.get_layer("dropout").rate = 0.9
    (reason,) = failures(model, new)
    assert reason.startswith("training mode equals the graph")


@keras.saving.register_keras_serializable(package="verify")
class Forgetful(keras.Layer):
    """Says less about itself than there is to say."""

    def __init__(self, factor: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x: Any) -> Any:
        return x * self.factor

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}


def test_a_model_that_does_not_come_back_from_disk_is_found():
    features = keras.Input((4,), name="features")
    x = Forgetful(3.0, name="forgetful")(layers.Dense(3, name="dense")(features))
    model = keras.Model(features, x, name="net")
    (reason,) = failures(model, resect.clone(model))
    assert reason.startswith("saved and loaded again")


def test_a_model_that_cannot_be_saved_is_found():
    features = keras.Input((4,), name="features")
    model = keras.Model(features, Unsaveable(name="unsaveable")(features), name="net")
    (reason,) = failures(model, resect.clone(model))
    assert reason == "saved and loaded again: NotImplementedError: no configuration"
    assert resect.verify(model, resect.clone(model), reload=False).passed


class Unsaveable(layers.Dense):
    """Says nothing about itself."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(2, **kwargs)

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError("no configuration")


def test_another_number_of_outputs_is_found():
    model = two_heads()
    wrong = resect.truncate(model, end="first")
    assert failures(model, wrong)


def test_the_result_of_another_plan_is_found():
    model = mlp()
    plan = resect.plan(model).insert(layers.ReLU(name="act"), after="hidden")
    (reason,) = failures(model, resect.pop(model), plan=plan)
    assert reason == (
        "shapes as planned: act:0: planned (None, 8) float32, written nothing; "
        "logits:0: planned (None, 3) float32, written nothing"
    )


def test_a_source_that_changes_meanwhile_is_found(monkeypatch):
    model = mlp()
    new = resect.clone(model)
    run = oracle.run_model

    def clumsy(*args: Any, **kwargs: Any) -> Any:
        add_to(model.get_layer("logits").bias, 1.0)
        return run(*args, **kwargs)

    monkeypatch.setattr(oracle, "run_model", clumsy)
    with pytest.raises(VerificationError, match=r"source untouched: .*logits/bias has"):
        resect.verify(model, new, training=False, reload=False)


# What every apply checks by itself


def test_apply_refuses_a_model_with_a_wrong_value(monkeypatch):
    model = mlp()
    write = writing.write

    def clumsy(*args: Any, **kwargs: Any) -> Any:
        written = write(*args, **kwargs)
        add_to(written.pairs[0][1], 1e-6)
        return written

    monkeypatch.setattr(plan_module, "write", clumsy)
    message = r"variables bit-equal: mlp/hidden/kernel\nPlease report this"
    with pytest.raises(VerificationError, match=message):
        resect.pop(model)


def test_apply_refuses_to_have_touched_the_source(monkeypatch):
    model = mlp()
    write = writing.write

    def clumsy(*args: Any, **kwargs: Any) -> Any:
        model.get_layer("hidden")(keras.Input((6,)))
        model.get_layer("middle").trainable = False
        return write(*args, **kwargs)

    monkeypatch.setattr(plan_module, "write", clumsy)
    with pytest.raises(VerificationError) as caught:
        resect.pop(model)
    assert "hidden has other call nodes" in str(caught.value)
    assert "middle has another trainable flag" in str(caught.value)


def test_apply_refuses_shapes_that_were_not_planned(monkeypatch):
    model = mlp()
    other = resect.pop(model)
    write = writing.write

    def clumsy(*args: Any, **kwargs: Any) -> Any:
        written = write(*args, **kwargs)
        written.model = other
        return written

    monkeypatch.setattr(plan_module, "write", clumsy)
    with pytest.raises(VerificationError, match="shapes as planned: logits:0: planned"):
        resect.clone(model)


def test_the_oracle_shares_nothing_with_the_writer(monkeypatch):
    """It evaluates a graph that was never written."""

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the oracle has written a model")

    model = mlp()
    plan = resect.plan(model).remove("middle")
    graph = plan.result
    monkeypatch.setattr(writing, "write", never)
    inputs = oracle.random_inputs(graph)
    x = model.get_layer("logits")(model.get_layer("hidden")(inputs))
    np.testing.assert_allclose(oracle.evaluate(graph, inputs), ops.convert_to_numpy(x), rtol=1e-6)
