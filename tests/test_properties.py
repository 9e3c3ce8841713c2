"""Random models and random edits: the oracle agrees, or the plan is refused with problems."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st

import resect
from resect import oracle
from zoo.randomise import outputs_of, randomise

layers = keras.layers
WIDTH = 3

fast = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


KINDS = ("dense", "bn", "double", "relu", "add", "shared", "drop", "nested")


@dataclass(frozen=True)
class Recipe:
    """What Hypothesis draws: `build` makes a model of it, all of its tensors `(batch, 3)`."""

    inputs: int
    steps: tuple[tuple[str, int, int, Recipe | None], ...]
    two_outputs: bool


@st.composite
def recipes(draw: st.DrawFn, depth: int = 0) -> Recipe:
    steps = []
    for _ in range(draw(st.integers(1, 3 if depth else 6))):
        kind = draw(st.sampled_from(KINDS[:-1] if depth == 2 else KINDS))
        inner = draw(recipes(depth + 1)) if kind == "nested" else None
        steps.append((kind, draw(st.integers(0, 9)), draw(st.integers(0, 9)), inner))
    inputs = 1 if depth else draw(st.integers(1, 2))
    return Recipe(inputs, tuple(steps), not depth and draw(st.booleans()))


@dataclass
class Builder:
    """Builds models from recipes, under names that say where a layer was made."""

    shared: list[Any] = field(default_factory=list)
    made: int = 0

    def model(self, recipe: Recipe, name: str) -> keras.Model:
        inputs = [keras.Input((WIDTH,), name=self.name("in")) for _ in range(recipe.inputs)]
        tensors, read = list(inputs), set()
        for kind, i, j, inner in recipe.steps:
            x, y = tensors[i % len(tensors)], tensors[j % len(tensors)]
            read |= {id(x), id(y)} if kind == "add" else {id(x)}
            tensors.append(self.call(kind, x, y, j, inner))
        ends = [t for t in tensors if id(t) not in read]  # no input is left over
        merged = ends[0] if len(ends) == 1 else layers.Add(name=self.name("sum"))(ends)
        outputs = [merged, tensors[-1]] if recipe.two_outputs else merged
        return keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs, name=name)

    def call(self, kind: str, x: Any, y: Any, number: int, inner: Recipe | None) -> Any:
        if inner is not None:
            return Builder(made=100 * self.made).model(inner, self.name("inner"))(x)
        if kind == "add":
            return layers.Add(name=self.name("add"))([x, y])
        if kind == "shared":
            if number % 2 or not self.shared:
                self.shared.append(layers.Dense(WIDTH, name=self.name("shared")))
            return self.shared[number % len(self.shared)](x)
        simple = {
            "dense": lambda: layers.Dense(WIDTH, activation="tanh", name=self.name("dense"))(x),
            "bn": lambda: layers.BatchNormalization(name=self.name("bn"))(x),
            "drop": lambda: layers.Dropout(0.3, seed=1, name=self.name("drop"))(x),
            "double": lambda: x * 2.0,
            "relu": lambda: keras.ops.relu(x),
        }
        return simple[kind]()

    def name(self, kind: str) -> str:
        self.made += 1
        return f"{kind}_{self.made}"


def build(recipe: Recipe) -> keras.Model:
    keras.utils.clear_session(free_memory=False)
    return randomise(Builder().model(recipe, "random"), seed=0)


def places(graph: resect.Graph) -> list[str]:
    """Every call that is no input, at any depth, in the user's spelling."""
    return [place.spelling(graph) for place in resect.select().find(graph)]


EDITS = {
    "remove": lambda plan, a, b: plan.remove(a),
    "insert": lambda plan, a, b: plan.insert(layers.Dense(WIDTH, name="new"), after=a),
    "before": lambda plan, a, b: plan.insert(layers.Dropout(0.2, seed=3, name="new"), before=a),
    "everywhere": lambda plan, a, b: plan.insert(
        layers.LayerNormalization(name="ln"), after=layers.Dense
    ),
    "replace": lambda plan, a, b: plan.replace(a, layers.Dense(WIDTH, name="swapped")),
    "factory": lambda plan, a, b: plan.replace(a, lambda old: layers.ReLU(name=f"{old.name}_r")),
    "merge": lambda plan, a, b: plan.insert(layers.Add(name="skip"), after=a, merge_with=b),
    "collapse": lambda plan, a, b: plan.collapse(b, a),
    "end": lambda plan, a, b: plan.truncate(end=a),
    "start": lambda plan, a, b: plan.truncate(start=a),
    "append": lambda plan, a, b: plan.append(layers.Dense(2, name="head")),
    "rename": lambda plan, a, b: plan.rename({a.split("@")[0]: "renamed"}),
    "pop": lambda plan, a, b: plan.pop(),
}


def edited(plan: resect.Plan, data: st.DataObject) -> resect.Plan:
    """A random plan of up to three edits that can be made; those that cannot are refused."""
    for _ in range(data.draw(st.integers(1, 3))):
        spelled = places(plan.result)
        a, b = data.draw(st.sampled_from(spelled)), data.draw(st.sampled_from(spelled))
        longer = EDITS[data.draw(st.sampled_from(sorted(EDITS)))](plan, a, b)
        if longer.check():
            with pytest.raises(resect.SurgeryError):
                longer.apply()
        else:
            plan = longer
    return plan


def verified(plan: resect.Plan) -> Any:
    new = plan.apply()
    resect.verify(plan.model, new, plan=plan, reload=False)
    return new


@fast
@given(recipes())
def test_a_plan_without_edits_changes_nothing(recipe: Recipe) -> None:
    model = build(recipe)
    note(str(resect.read(model)))
    new = resect.clone(model)
    assert str(resect.read(new)) == str(resect.read(model))
    assert new.get_config() == model.get_config()
    inputs = oracle.random_inputs(resect.read(model))
    for a, b in zip(
        keras.tree.flatten(outputs_of(model, inputs)),
        keras.tree.flatten(outputs_of(new, inputs)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@fast
@given(recipes(), st.data())
def test_every_plan_is_right_or_refused(recipe: Recipe, data: st.DataObject) -> None:
    model = build(recipe)
    plan = edited(resect.plan(model), data)
    note(str(plan))
    verified(plan)
    replayed = resect.Plan.from_json(model, plan.to_json())
    assert replayed.to_json() == plan.to_json()
    assert str(replayed.result) == str(plan.result)


@fast
@given(recipes(), st.data())
def test_removing_what_was_inserted_is_no_change(recipe: Recipe, data: st.DataObject) -> None:
    model = build(recipe)
    graph = resect.read(model)
    where = data.draw(st.sampled_from(places(graph)))
    plan = resect.plan(model).insert(layers.Dense(WIDTH, name="new"), after=where)
    assume(not plan.check())
    path = "/".join([*where.split("/")[:-1], "new"])
    assert str(plan.remove(path).result) == str(graph)


@fast
@given(recipes(), st.data())
def test_a_model_cut_in_two_is_the_model(recipe: Recipe, data: st.DataObject) -> None:
    model = build(recipe)
    graph = resect.read(model)
    at = data.draw(st.sampled_from(places(graph)))
    note(f"{graph}\nat {at}")
    if problems := resect.plan(model).head(at).check():
        assert {problem.code for problem in problems} <= {"EmptyResultError", "AmbiguousError"}
        return
    head, tail = resect.split(model, at)
    inputs = oracle.random_inputs(graph)
    found = tail(head(inputs))
    expected = outputs_of(model, inputs)
    for a, b in zip(keras.tree.flatten(expected), keras.tree.flatten(found), strict=True):
        np.testing.assert_allclose(a, keras.ops.convert_to_numpy(b), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [layers.ReLU, layers.Dropout, layers.Identity, layers.Flatten])
def test_a_layer_of_one_tensor_does_not_take_the_place_of_a_merge(layer: Any) -> None:
    # Found by the property above: ReLU answers two shapes with two shapes, Identity returns both.
    inputs = keras.Input((WIDTH,))
    hidden = layers.Dense(WIDTH)(inputs)
    model = keras.Model(inputs, layers.Add(name="add")([inputs, hidden]))
    swapped = layer(0.5) if layer is layers.Dropout else layer()
    with pytest.raises(resect.errors.ShapeError, match="cannot take"):
        resect.replace(model, "add", swapped)
