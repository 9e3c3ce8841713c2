"""Two models, and nothing between them: the source outlives whatever is made of it, unharmed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import resect
from tests.common import (
    assert_equal,
    cnn,
    data_for,
    mlp,
    nested,
    predictions,
    residual,
    slots,
    stateful_mlp,
    train,
    trained,
    two_branches,
    weights_of,
)
from tests.surgery import Source

EDITS: dict[str, Callable[..., Any]] = {
    "clone": resect.clone,
    "pop": resect.pop,
    "insert": lambda model, **kw: resect.insert(model, layers.Dropout(0.2), after=0, **kw),
    "truncate": lambda model, **kw: resect.truncate(model, start=1, **kw),
    "append": lambda model, **kw: resect.append(model, layers.Dense(2, name="more"), **kw),
}
each_edit = pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
BUILDERS = (mlp, stateful_mlp, nested)
each_build = pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)


def storages(model: Any) -> set[int]:
    """Where the variables of a model, and those of its optimizer, keep their values."""
    variables = [*model.variables, *getattr(model.optimizer, "variables", [])]
    backend = keras.backend.backend()
    if backend == "torch":
        return {v.value.data_ptr() for v in variables if v.value.numel()}
    if backend == "jax":
        return {v.value.unsafe_buffer_pointer() for v in variables}
    return {id(v.value) for v in variables}


@each_edit
def test_no_value_is_kept_in_two_models(edit):
    model = trained(stateful_mlp())
    new = edit(model)
    assert storages(model).isdisjoint(storages(new))
    assert not {id(v) for v in model.variables} & {id(v) for v in new.variables}


@each_build
def test_training_the_result_leaves_the_source_as_it_was_and_alive(build):
    """JAX hands the buffers of a model to its training step, which destroys them."""
    model = trained(build())
    expected, before = predictions(model), Source.of(model)
    new = resect.clone(model)
    inputs, targets = data_for(new)
    new.fit(inputs, targets, epochs=2, verbose=0)
    before.assert_untouched()
    assert_equal([predictions(model)], [expected])
    train(model)


@each_build
def test_training_the_source_leaves_the_result_as_it_was_and_alive(build):
    model = trained(build())
    new = resect.clone(model)
    expected, before, remembered = predictions(new), weights_of(new), slots(new.optimizer)
    inputs, targets = data_for(model)
    model.fit(inputs, targets, epochs=2, verbose=0)
    assert_equal(weights_of(new), before)
    assert_equal(list(slots(new.optimizer).values()), list(remembered.values()))
    assert_equal([predictions(new)], [expected])
    train(new)


def test_training_two_results_side_by_side():
    model = trained(mlp())
    before = Source.of(model)
    one, other = resect.clone(model), resect.pop(model)
    for _ in range(2):
        train(one)
        train(other)
    before.assert_untouched()
    assert one.output_shape == (None, 3)
    predictions(model)


def test_the_source_may_go():
    """A result holds on to nothing of the model that it was made from."""
    model = trained(stateful_mlp(), metrics=["mae"])
    inputs, targets = data_for(model)
    model.fit(inputs, targets, verbose=0)
    new = [edit(model) for edit in EDITS.values()]
    source = weakref.ref(model)
    parts = [weakref.ref(part) for part in (*model.layers, *model.variables, model.optimizer)]

    del model
    gc.collect()

    assert source() is None
    assert [part() for part in parts if part() is not None] == []
    train(new[0])


@each_edit
def test_a_result_may_go(edit):
    model = trained(stateful_mlp(), metrics=["mae"])
    new = edit(model)
    train(new)
    refs = [weakref.ref(part) for part in (new, *new.layers, *new.variables, new.optimizer)]

    del new
    keras.utils.clear_session(free_memory=False)
    gc.collect()

    assert [ref() for ref in refs if ref() is not None] == []
    train(model)


def test_a_plan_that_was_not_applied_may_go():
    model = mlp()
    plan = resect.plan(model).insert(layers.Dense(8), after="hidden").remove("middle")
    str(plan)
    made = [weakref.ref(la.op) for la in plan.result.layers.values() if la.origin == "new"]
    del plan
    gc.collect()
    assert [ref() for ref in made if ref() is not None] == []


def calls(model: Any) -> list[tuple[int, int]]:
    """Recorded calls of every operation, raw ones included."""
    found = []
    for _, graph in resect.read(model).walk():
        for layer in graph.layers.values():
            found.append((len(layer.op._inbound_nodes), len(layer.op._outbound_nodes)))
    return found


@pytest.mark.parametrize("build", [cnn, two_branches, nested])
def test_dozens_of_edits_leave_no_trace(build):
    """Small models, so that a leak of even one object in each edit would show."""
    model = build()
    before, expected = Source.of(model), calls(model)
    graph = resect.read(model)
    first = next(graph.label(call) for call in graph.nodes if graph.layer(call).op.weights)
    objects = []
    for round_ in range(2):
        for _ in range(3 if round_ == 0 else 10):
            resect.clone(model)
            resect.pop(model)
            resect.insert(model, layers.Dropout(0.1), after=first)
            resect.replace(model, first, lambda old: type(old).from_config(old.get_config()))
            resect.truncate(model, end=first, weights="share")
            str(resect.plan(model).insert(layers.Dropout(0.1), after=first))
        keras.utils.clear_session(free_memory=False)
        gc.collect()
        objects.append(len(gc.get_objects()))
    before.assert_untouched()
    assert calls(model) == expected
    assert objects[1] - objects[0] < 30, "sixty edits have left something behind"


@pytest.mark.slow
def test_a_thousand_edits_leave_no_trace():
    stack = [keras.Input((2,), name="features"), layers.Dense(2, name="dense"), layers.ReLU()]
    model = keras.Sequential(stack)
    before, expected = Source.of(model), calls(model)
    resect.pop(model)
    gc.collect()
    objects = len(gc.get_objects())
    for _ in range(1000):
        resect.pop(model)
    gc.collect()
    assert len(gc.get_objects()) - objects < 100
    assert calls(model) == expected
    before.assert_untouched()


# Shared weights


@each_edit
def test_shared_weights_are_the_same_variables(edit):
    model = stateful_mlp()
    before = Source.of(model)
    new = edit(model, weights="share")
    mine = {id(v) for v in model.variables}
    kept = [v for layer in new.layers if layer.name in names(model) for v in layer.variables]
    assert kept
    assert all(id(v) in mine for v in kept)
    before.assert_untouched()


def names(model: Any) -> set[str]:
    return {layer.name for layer in model.layers if not isinstance(layer, layers.InputLayer)}


def test_models_that_share_their_weights_train_together():
    model = trained(mlp(), "sgd")
    body = resect.pop(model, weights="share")
    before = weights_of(model)
    expected = predictions(body)

    train(body)  # the source learns with it

    after = weights_of(model)
    changed = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert changed == [True, True, True, True, False, False]
    assert_equal(weights_of(body), after[:4])

    train(model)  # and the other way round
    assert_equal(weights_of(body), weights_of(model)[:4])
    assert not np.array_equal(predictions(body), expected)


def test_a_model_with_shared_weights_has_an_optimizer_of_its_own():
    model = trained(mlp(), "adam")
    twin = resect.clone(model, weights="share")
    assert twin.optimizer is not model.optimizer
    mine = {id(v) for v in model.optimizer.variables}
    assert not mine & {id(v) for v in twin.optimizer.variables}
    before = slots(model.optimizer)
    assert_equal(list(slots(twin.optimizer).values()), list(before.values()))
    train(twin)
    assert_equal(list(slots(model.optimizer).values()), list(before.values()))


def test_a_shared_edit_adds_no_calls_to_the_layers_of_the_source():
    model = residual()
    before, expected = Source.of(model), calls(model)
    plan = resect.plan(model).insert(layers.Dropout(0.2), after="stem")
    new = plan.apply("share")
    assert calls(model) == expected
    assert new.get_layer("stem") is not model.get_layer("stem")
    before.assert_untouched()
    resect.verify(model, new, plan=plan)


def test_what_is_inserted_stays_a_template():
    """The layer that is passed in is neither built nor called, and may be passed in twice."""
    layer = layers.Dense(8, name="more")
    one = resect.insert(mlp(), layer, after="hidden")
    two = resect.insert(one, layer, after="hidden")
    assert not layer.built
    assert layer._inbound_nodes == []
    assert {"more", "more_1"} <= names(two)
    assert not np.array_equal(
        two.get_layer("more").get_weights()[0], two.get_layer("more_1").get_weights()[0]
    )


def test_a_layer_with_weights_is_inserted_with_them_and_independently():
    layer = layers.Dense(8, name="more")
    layer.build((None, 8))
    kernel = np.array(keras.ops.convert_to_numpy(layer.kernel))
    new = trained(resect.insert(mlp(), layer, after="hidden"), steps=0)
    assert_equal([new.get_layer("more").get_weights()[0]], [kernel])
    train(new)
    assert_equal([layer.get_weights()[0]], [kernel])


class Bags(layers.Layer):
    """A layer with a container of each kind."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tags, self.fixed = {"a", "b"}, frozenset({1, 2})
        self.order, self.table = [3, 1, 2], {"one": [1], "two": (2,)}
        self.parts = [layers.Dense(3, name="part")]

    def call(self, inputs: Any) -> Any:
        return self.parts[0](inputs)


@pytest.mark.parametrize("weights", ["copy", "share"])
def test_a_copy_has_containers_of_its_own(weights: Any):
    source = Bags(name="bags")
    model = keras.Sequential([keras.Input((3,)), source], name="bagged")
    new = resect.clone(model, weights=weights).get_layer("bags")
    assert (new.tags, new.fixed) == ({"a", "b"}, frozenset({1, 2}))
    new.tags.add("c")
    new.order.append(4)
    new.table["one"].append(2)
    assert (source.tags, source.order, source.table["one"]) == ({"a", "b"}, [3, 1, 2], [1])
    assert new.parts is not source.parts
    assert new.parts[0] is not source.parts[0]
