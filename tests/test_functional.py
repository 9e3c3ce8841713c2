"""Subclassed models become graphs that can be edited, or are refused at the line that stops it."""

from __future__ import annotations

import inspect
import linecache
import re
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import resect
from resect.errors import TraceError, UnbuiltError
from tests.common import assert_close, assert_equal, slots, weights_of
from tests.kinds import KINDS, Kind, outputs_of, select
from tests.surgery import Source

TRACEABLE = select(having=["traceable"])
UNTRACEABLE = select(having=["untraceable"])
each_traceable = pytest.mark.parametrize("kind", TRACEABLE, ids=lambda kind: kind.name)


def compiled(kind: Kind, steps: int = 2) -> keras.Model:
    """A model of that kind, trained for a few steps."""
    model = kind.make()
    model.compile("adam", loss_for(kind, model))
    return step(model, kind, steps)


def loss_for(kind: Kind, model: keras.Model) -> Any:
    return keras.tree.map_structure(lambda _: "mse", outputs_of(model, kind.inputs(model)))


def step(model: Any, kind: Kind, steps: int = 1) -> Any:
    """The model after some steps on the inputs of its kind."""
    inputs = kind.inputs(model if isinstance(model, resect.Graph) else kind.make())
    targets = keras.tree.map_structure(np.zeros_like, outputs_of(model, inputs))
    keras.utils.set_random_seed(1)  # PyTorch's dropout draws from its global generator
    for _ in range(steps):
        model.train_on_batch(inputs, targets)
    return model


# What can be traced


@each_traceable
def test_a_trace_computes_the_same_with_the_same_weights(kind):
    model = kind.make()
    before = Source.of(model)

    new = resect.functional(model)

    before.assert_untouched()
    assert type(new).__name__ == "Functional"
    assert new.name == model.name
    inputs = kind.inputs(model)
    expected, found = outputs_of(model, inputs), outputs_of(new, inputs)
    keras.tree.assert_same_structure(expected, found)
    assert_equal(keras.tree.flatten(found), keras.tree.flatten(expected))
    mine = {id(v) for v in model.variables}
    assert new.weights
    assert all(id(v) in mine for v in new.variables)


@each_traceable
def test_a_trace_adds_no_calls_to_the_layers_of_the_model(kind):
    model = kind.make()
    calls = [
        (la.name, list(la._inbound_nodes), list(la._outbound_nodes)) for la in layers_of(model)
    ]
    for _ in range(3):
        resect.functional(model)
        resect.read(model)
    after = [
        (la.name, list(la._inbound_nodes), list(la._outbound_nodes)) for la in layers_of(model)
    ]
    assert after == calls
    assert not {id(la) for la in layers_of(resect.functional(model))} & {
        id(la) for la in layers_of(model) if not isinstance(la, keras.Model)
    }


def calls_of(model: Any) -> list[Any]:
    return [(list(la._inbound_nodes), list(la._outbound_nodes)) for la in layers_of(model)]


def layers_of(model: Any) -> list[Any]:
    return list(model._flatten_layers(include_self=False))


@each_traceable
def test_a_copied_trace_is_independent(kind):
    model = kind.make()
    expected = weights_of(model)
    new = resect.functional(model, weights="copy")
    assert not {id(v) for v in model.variables} & {id(v) for v in new.variables}
    assert_equal(
        keras.tree.flatten(outputs_of(new, kind.inputs(model))),
        keras.tree.flatten(outputs_of(model, kind.inputs(model))),
    )
    for variable in new.trainable_variables:
        variable.assign(variable.value + 1)
    assert_equal(weights_of(model), expected)


@pytest.mark.parametrize(
    "kind", [KINDS["subclassed_simple"], KINDS["subclassed_dict_io"]], ids=lambda kind: kind.name
)
def test_training_goes_on_in_the_trace(kind):
    model = compiled(kind)
    new = resect.functional(model, weights="copy")

    assert new.compiled
    assert int(new.optimizer.iterations) == 2
    assert_equal(sorted_values(slots(new.optimizer)), sorted_values(slots(model.optimizer)))
    step(new, kind)
    step(model, kind)
    assert_close(
        outputs_of(new, kind.inputs(model)), outputs_of(model, kind.inputs(model)), tolerance=1e-4
    )


def test_a_call_without_training_does_not_train_its_layers_and_its_trace_does():
    """In Keras `fit` tells only those models that it trains whose `call` takes `training`.

    A Functional model takes it, and hands it on: batch normalization starts to collect statistics.
    """
    kind = KINDS["subclassed_loop"]
    model = kind.make()
    new = resect.functional(model, weights="copy")
    means = []
    for each in (model, new):
        each.compile(keras.optimizers.SGD(0.0), "mse")
        before = each.get_layer("norm").get_weights()[2]
        step(each, kind)
        means.append(np.abs(each.get_layer("norm").get_weights()[2] - before).max() > 0)
    assert means == [False, True]


def sorted_values(found: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [found[path] for path in sorted(found)]


def test_a_trace_with_shared_weights_trains_the_model():
    kind = KINDS["subclassed_simple"]
    model = compiled(kind)
    before = weights_of(model)
    new = step(resect.functional(model), kind)
    assert not np.array_equal(weights_of(model)[0], before[0])
    assert_close(outputs_of(new, kind.inputs(model)), outputs_of(model, kind.inputs(model)))


def test_a_subclassed_model_can_be_edited_like_any_other():
    kind = KINDS["subclassed_loop"]
    model = compiled(kind)
    before = Source.of(model)
    plan = (
        resect.plan(model)
        .remove("block_1")
        .insert(layers.Dropout(0.5, name="more"), after=resect.select(name="norm@*"))
        .replace("logits", layers.Dense(5, name="classes"))
    )
    new = plan.apply()
    before.assert_untouched()
    assert new.output_shape == (None, 5)
    resect.verify(model, new, plan=plan)
    step(new, kind)
    head, tail = resect.split(model, "block_1")
    inputs = kind.inputs(model)
    assert_close(outputs_of(tail, outputs_of(head, inputs)), outputs_of(model, inputs))


def test_an_edited_trace_prints_and_replays():
    model = KINDS["subclassed_simple"].make()
    plan = resect.plan(model).remove("dropout")
    assert "removed  dropout      Dropout" in str(plan)
    assert resect.Plan.from_json(model, plan.to_json()).apply().count_params()
    assert str(resect.read(model)).startswith("Functional 'subclassed_simple'\n")


def test_a_model_with_a_graph_is_cloned():
    model = KINDS["functional_chain"].make()
    for weights in ("copy", "share"):
        new = resect.functional(model, weights=weights)
        assert new is not model
        assert type(new) is type(model)
        shared = {id(v) for v in model.variables} == {id(v) for v in new.variables}
        assert shared == (weights == "share")


class OpenEnded(keras.Model):
    """Takes inputs of any length."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = layers.Dense(3, name="dense")

    def call(self, x: Any) -> Any:
        return ops.max(self.dense(x), axis=1)


def test_inputs_can_be_given():
    model = OpenEnded(name="open_ended")
    model(np.zeros((2, 5, 4), "float32"))
    assert resect.functional(model).input_shape == (None, 5, 4)
    wider = resect.functional(model, inputs=keras.Input((None, 4), name="sequence"))
    assert wider.input_shape == (None, None, 4)
    assert wider.input.name == "sequence"
    long = np.random.default_rng(0).normal(size=(2, 9, 4)).astype("float32")
    assert_close(outputs_of(wider, long), outputs_of(model, long))


# What cannot: the line that stops it

STOPS = {
    "subclassed_branching": "if ops.sum(x) > 0:",
    "subclassed_numpy": "ops.convert_to_numpy(x)",
    "subclassed_add_loss": "self.add_loss(",
    "subclassed_if_training": "if training:",
    "subclassed_variable_update": "self.calls.assign(",
    "subclassed_own_weight": "self.table",
    "subclassed_batch_size": "def call(",
    "subclassed_random": "if training else x",
}


def line_named_by(error: TraceError) -> str:
    """The line of code that an error points at."""
    match = re.match(r"(?:Cannot .*\n\s*)?(\S+\.py):(\d+): ", str(error))
    assert match, f"no file and line in: {error}"
    return linecache.getline(match[1], int(match[2]))


def refused(model: Any) -> TraceError:
    """The error that a model is refused with, by every verb alike."""
    before = Source.of(model)
    with pytest.raises(TraceError) as caught:
        resect.functional(model)
    with pytest.raises(TraceError) as again:
        resect.pop(model)
    before.assert_untouched()
    assert str(caught.value) in str(again.value)
    assert caught.value.problem.repair
    return caught.value


@pytest.mark.parametrize("kind", UNTRACEABLE, ids=lambda kind: kind.name)
def test_what_cannot_be_traced_is_refused_at_its_line(kind):
    error = refused(kind.make())
    assert STOPS[kind.name] in line_named_by(error)


def test_every_untraceable_kind_has_its_line():
    every = {name for name, kind in KINDS.items() if "untraceable" in kind.tags}
    assert every == set(STOPS)


class Base(keras.Model):
    """Two layers for `call` to use."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = layers.Dense(3, name="dense")
        self.norm = layers.BatchNormalization(name="norm")
        self.dropout = layers.Dropout(0.5, name="dropout")
        self.norm.build((None, 3))
        self.dropout.build((None, 3))


class ClipsInTraining(Base):
    def call(self, x: Any, training: bool | None = None) -> Any:
        return ops.clip(self.dense(x), 0.0, 0.1 if training else 6.0)


class OtherAxisInTraining(Base):
    def call(self, x: Any, training: bool | None = None) -> Any:
        return ops.softmax(self.dense(x), axis=0 if training else -1)


class OtherOrderInTraining(Base):
    def call(self, x: Any, training: bool | None = None) -> Any:
        x = self.dense(x)
        y = self.norm(x)
        return ops.subtract(x, y) if training else ops.subtract(y, x)


class OtherConstantInTraining(Base):
    def call(self, x: Any, training: bool | None = None) -> Any:
        scale = np.float32([1, 2, 3]) if training else np.float32([3, 2, 1])
        return ops.multiply(self.dense(x), scale)


class NormalizationThatNeverTrains(Base):
    def call(self, x: Any) -> Any:
        return self.norm(self.dense(x), training=False)


class DropoutThatNeverRests(Base):
    def call(self, x: Any) -> Any:
        return self.dropout(self.dense(x), training=True)


class CountsItsCalls(Base):
    calls = 0

    def call(self, x: Any) -> Any:
        self.calls += 1
        return self.dense(x) * float(self.calls)


class UsesTheKernel(Base):
    def call(self, x: Any) -> Any:
        x = self.dense(x)
        return ops.matmul(x, ops.matmul(ops.transpose(self.dense.kernel), self.dense.kernel))


class ReturnsAConstant(Base):
    def call(self, x: Any) -> Any:
        self.dense(x)
        return np.ones((2, 3))


MODES = (
    ClipsInTraining,
    OtherAxisInTraining,
    OtherOrderInTraining,
    OtherConstantInTraining,
)


def built(cls: type) -> keras.Model:
    model = cls(name="net")
    model(np.random.default_rng(0).normal(size=(2, 4)).astype("float32"))
    return model


@pytest.mark.parametrize("cls", MODES)
def test_another_way_in_training_is_found(cls):
    error = refused(built(cls))
    assert "takes another way in training mode" in str(error)
    assert re.search(r"if training else", line_named_by(error))


@pytest.mark.parametrize(
    ("cls", "layer", "mode"),
    [
        (NormalizationThatNeverTrains, "norm", False),
        (DropoutThatNeverRests, "dropout", True),
    ],
)
def test_a_layer_whose_mode_is_fixed_is_found(cls, layer, mode):
    """Keras would override the fixed mode in a Functional model, and so train the layer."""
    error = refused(built(cls))
    assert f"always calls '{layer}' with training={mode}" in str(error)
    assert f"training={mode}" in line_named_by(error)


@pytest.mark.parametrize("cls", [CountsItsCalls, UsesTheKernel, ReturnsAConstant])
def test_what_a_trace_would_freeze_is_found(cls):
    error = refused(built(cls))
    first = inspect.getsourcelines(cls)[1]
    match = re.match(r"\S+:(\d+): ", str(error))
    assert match
    assert first < int(match[1]) <= first + 8


def test_an_unbuilt_model_is_refused():
    with pytest.raises(UnbuiltError, match=r"'net' has not been built.*\nCall it once on a batch"):
        resect.functional(OpenEnded(name="net"))


def test_several_arguments_are_refused():
    class TwoArguments(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="two")
            self.dense = layers.Dense(3)

        def call(self, left: Any, right: Any) -> Any:
            return self.dense(left + right)

    model = TwoArguments()
    model(np.zeros((2, 4), "float32"), np.zeros((2, 4), "float32"))
    with pytest.raises(
        TraceError, match=r"\.py:\d+: TwoArguments\.call takes 2 tensors: left, right"
    ):
        resect.functional(model)


def test_a_model_within_a_model_stays_whole():
    model = KINDS["subclassed_inside"].make()
    plan = resect.plan(model).insert(layers.ReLU(), before="head")
    assert plan.find("simple") == ("simple",)
    with pytest.raises(resect.errors.NoMatchError):
        plan.find("simple/hidden")
    resect.verify(model, plan.apply(), plan=plan)
