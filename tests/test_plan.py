"""A plan can be read before anything happens: printed, checked, compared, saved and replayed."""

from __future__ import annotations

import json
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import keras
import pytest
from keras import layers

import resect
from resect import Plan, first, select
from resect.edits import EDITS, Insert, PerPlace, Remove, Replace
from resect.errors import (
    MergeError,
    NoMatchError,
    PlanError,
    SerializationError,
    ShapeError,
)
from tests.common import (
    assert_equal,
    cnn,
    mlp,
    nested,
    predictions,
    residual,
    trained,
    two_branches,
)
from tests.surgery import Source

# Printed


def golden(text: str) -> str:
    return textwrap.dedent(text).strip("\n")


def test_a_plan_prints_layer_by_layer():
    plan = (
        resect.plan(trained(mlp(), steps=1))
        .remove("middle")
        .insert(layers.Dropout(0.25, name="drop"), after="hidden")
        .append(layers.Softmax(name="softmax"))
        .rename({"hidden": "body"})
    )
    assert str(plan) == golden("""
        Plan for Sequential 'mlp'
          1. remove 'middle'
          2. insert Dropout after 'hidden'
          3. append Softmax
          4. rename 'hidden' to 'body'

                  layer           class       output shape  parameters
                  features        InputLayer  (None, 6)
        renamed   hidden -> body  Dense       (None, 8)             56
        removed   middle          Dense       (None, 8)            -72
        inserted  drop            Dropout     (None, 8)
                  logits          Dense       (None, 3)             27
        inserted  softmax         Softmax     (None, 3)

                    before      after
        calls       3           4
        parameters  155         83
        bytes       620 B       332 B
        class       Sequential  Sequential
        note: compile state: carried
    """)


def test_a_new_layer_in_the_place_of_one_of_its_name_is_one_row():
    plan = resect.plan(mlp()).replace("logits", layers.EinsumDense("ab,bc->ac", 5, name="logits"))
    (row,) = (line for line in str(plan).splitlines() if line.startswith("replaced"))
    assert (
        " ".join(row.split())
        == "replaced logits Dense -> EinsumDense (None, 3) -> (None, 5) 27 -> 40"
    )
    assert "inserted" not in str(plan)
    assert "removed" not in str(plan)


def test_a_long_plan_prints_what_changes_and_its_neighbours():
    x = features = keras.Input((4,), name="features")
    for number in range(30):
        x = layers.Dense(4, name=f"dense_{number}")(x)
    plan = resect.plan(keras.Model(features, x, name="long")).remove("dense_10")
    shown = str(plan)
    assert "removed  dense_10  " in shown
    assert "dense_9 " in shown
    assert "dense_11 " in shown
    assert "dense_20" not in shown
    assert "… 8 kept" in shown
    assert "… 16 kept" in shown


def test_layers_that_start_afresh_and_projections_are_told():
    model = residual()
    wide = layers.Dense(7, name="wide")
    afresh = resect.plan(model).insert(wide, between=("add", "logits"), on_mismatch="reinit")
    assert "re-initialised  logits" in str(afresh)
    assert "18 -> 24" in str(afresh)
    adapted = resect.plan(model).insert(wide, between=("add", "logits"), on_mismatch="adapt")
    assert "note: wide_projection is inserted: it projects (None, 7) to (None, 5)" in str(adapted)


def test_what_a_plan_prints_is_what_apply_makes():
    plan = (
        resect.plan(cnn())
        .insert(layers.BatchNormalization(), after=layers.Conv2D)
        .remove("dense", on_mismatch="reinit")
    )
    text, new = str(plan), plan.apply()
    assert (
        f"parameters  265  {new.count_params():>6}" in " ".join(text.split("  "))
        or str(new.count_params()) in text
    )
    for layer in new.layers:
        assert layer.name in text
        assert str(tuple(layer.output.shape)) in text


def test_printing_and_checking_change_nothing():
    model = trained(mlp())
    before = Source.of(model)
    plan = resect.plan(model).insert(layers.Dense(8), after="hidden").pop()
    assert plan.check() == ()
    assert str(plan)
    before.assert_untouched()


# Checked


def test_check_finds_everything_that_is_wrong():
    model = residual()
    before = Source.of(model)
    plan = (
        resect.plan(model)
        .remove("nothing")
        .remove("add")
        .insert(layers.Dense(7, name="wide"), after="stem")
        .insert(layers.Dropout(0.5), after="branch")  # this one is right
    )
    problems = plan.check()
    assert [(p.code, p.node) for p in problems] == [
        ("NoMatchError", "nothing"),
        ("MergeError", "add"),
        ("ShapeError", "branch"),
        ("ShapeError", "add"),
    ]
    assert all(problem.reason and problem.repair for problem in problems)
    assert [problem.request for problem in problems] == [
        "Cannot remove 'nothing'.",
        "Cannot remove 'add'.",
        "Cannot insert Dense after 'stem'.",
        "Cannot insert Dense after 'stem'.",
    ]
    assert "It cannot be applied (4 problems):" in str(plan)

    with pytest.raises(PlanError) as caught:
        plan.apply()
    assert caught.value.problems == problems
    assert all(problem.reason.splitlines()[0] in str(caught.value) for problem in problems)
    assert any("1. remove 'nothing'" in note for note in caught.value.__notes__)
    before.assert_untouched()


def test_problems_of_one_kind_are_raised_as_that_kind():
    plan = resect.plan(residual()).remove("no").remove("none")
    with pytest.raises(NoMatchError) as caught:
        plan.apply()
    assert len(caught.value.problems) == 2
    assert len(resect.plan(residual()).remove("add").check()) == 1
    with pytest.raises(MergeError):
        resect.plan(residual()).remove("add").apply()


def test_a_plan_that_goes_wrong_half_way_can_be_repaired():
    model = residual()
    plan = resect.plan(model).insert(layers.Dense(7), between=("add", "logits"))
    with pytest.raises(ShapeError):
        plan.apply()
    assert plan.pop().check()  # the first edit is still wrong
    fixed = resect.plan(model).insert(layers.Dense(5), between=("add", "logits"))
    resect.verify(model, fixed.apply(), plan=fixed)


# Compared


def test_plans_and_edits_are_values():
    model = mlp()
    one, other = resect.plan(model).pop(), resect.plan(model).pop()
    assert one == other
    assert hash(one.edits) == hash(other.edits)
    assert one != resect.plan(model).pop(2)
    assert one != resect.plan(mlp()).pop()
    assert Remove("a") == Remove("a") != Remove("b")
    assert resect.plan(model).then(Remove("middle")) == resect.plan(model).remove("middle")


def test_adding_an_edit_leaves_the_shorter_plan_as_it_was():
    start = resect.plan(mlp()).remove("middle")
    longer = start.pop()
    assert (len(start.edits), len(longer.edits)) == (1, 2)
    assert start.apply().output_shape == (None, 3)
    assert longer.apply().output_shape == (None, 8)


def test_a_plan_can_be_applied_again_and_again():
    model = mlp()
    plan = resect.plan(model).insert(layers.Dense(8, name="more"), after="hidden")
    one, other = plan.apply(), plan.apply()
    assert not {id(v) for v in one.variables} & {id(v) for v in other.variables}
    for new in (one, other):
        resect.verify(model, new, plan=plan)


def test_an_empty_plan_is_a_clone():
    model = trained(mlp())
    plan = resect.plan(model)
    new = plan.apply()
    assert_equal([predictions(new)], [predictions(model)])
    resect.verify(model, new, plan=plan)


# Saved


def site_dropout(site: resect.Site) -> Any:
    return layers.Dropout(0.1 * site.shape[-1] / 10, name=f"{site.layer.name}_drop")


PLANS: dict[str, tuple[Callable[[], Any], Callable[[Plan], Plan]]] = {
    "pop": (mlp, lambda p: p.pop(2)),
    "remove": (mlp, lambda p: p.remove("middle")),
    "remove_selection": (mlp, lambda p: p.remove(select(layers.Dense)[1].expect(1))),
    "remove_keep": (residual, lambda p: p.remove("add", keep="stem")),
    "remove_keep_selection": (residual, lambda p: p.remove("add", keep=select(name="s*"))),
    "remove_reinit": (cnn, lambda p: p.remove("dense", on_mismatch="reinit")),
    "remove_nested": (nested, lambda p: p.remove("backbone/dense_2")),
    "remove_call": (two_branches, lambda p: p.remove("shared@1", on_mismatch="reinit")),
    "truncate_start": (cnn, lambda p: p.truncate(start="conv_2")),
    "truncate_both": (cnn, lambda p: p.truncate(start=1, end=-2)),
    "head": (residual, lambda p: p.head("branch")),
    "tail": (residual, lambda p: p.tail(select(layers.Dense)[1])),
    "insert": (mlp, lambda p: p.insert(layers.Dropout(0.5), after="hidden")),
    "insert_at_class": (mlp, lambda p: p.insert(layers.Dropout(0.5), after=layers.Dense)),
    "insert_factory": (mlp, lambda p: p.insert(site_dropout, after=first(2))),
    "insert_list": (mlp, lambda p: p.insert([layers.Dense(4), layers.Dense(8)], before=-1)),
    "insert_between": (residual, lambda p: p.insert(layers.ReLU(), between=("stem", "add"))),
    "insert_merge": (mlp, lambda p: p.insert(layers.Add(), after="middle", merge_with=0)),
    "insert_nested": (nested, lambda p: p.insert(layers.ReLU(), after="backbone/dense_1")),
    "replace": (mlp, lambda p: p.replace("middle", layers.Dense(8, "tanh", name="other"))),
    "replace_factory": (
        cnn,
        lambda p: p.replace(
            layers.MaxPooling2D, lambda old: layers.AveragePooling2D(old.pool_size)
        ),
    ),
    "replace_call": (two_branches, lambda p: p.replace("shared@1", layers.Dense(5))),
    "append": (mlp, lambda p: p.append([layers.ReLU(), layers.Dense(2)])),
    "append_factory": (mlp, lambda p: p.append(lambda site: layers.Dense(site.shape[-1]))),
    "prepend": (mlp, lambda p: p.prepend(layers.Rescaling(2.0))),
    "prepend_adapt": (mlp, lambda p: p.prepend(layers.Dense(4), on_mismatch="adapt")),
    "collapse": (residual, lambda p: p.collapse(0, layers.Add)),
    "rename": (mlp, lambda p: p.rename({"hidden": "body", "logits": "head"})),
    "drop_unused_inputs": (
        two_branches,
        lambda p: p.remove("concat", keep="shared@0", on_mismatch="reinit").drop_unused_inputs(),
    ),
    "several": (
        cnn,
        lambda p: (
            p.insert(layers.BatchNormalization(), after=layers.Conv2D)
            .remove(select(layers.MaxPooling2D)[0], on_mismatch="reinit")
            .replace(-1, layers.Dense(5, name="classes"))
            .rename({"classes": "logits"})
        ),
    ),
}


def test_every_kind_of_edit_is_among_them():
    used = {edit.verb for build, add in PLANS.values() for edit in add(Plan(build())).edits}
    adaptations = {
        verb for verb, cls in EDITS.items() if cls.__module__.startswith("resect.adapt.")
    }
    assert used == set(EDITS) - adaptations  # tests/adapt/test_saved.py has those


@pytest.mark.parametrize("name", PLANS)
def test_json_round_trip(name):
    build, add = PLANS[name]
    model = build()
    plan = add(resect.plan(model))
    text = plan.to_json()
    loaded = Plan.from_json(model, text)

    assert loaded.check() == ()
    assert loaded.to_json() == text
    assert str(loaded.result) == str(plan.result)
    made = []
    for each in (plan, loaded):
        keras.utils.set_random_seed(3)  # new layers start at random
        made.append(predictions(each.apply()))
    assert_equal(keras.tree.flatten(made[0]), keras.tree.flatten(made[1]))


@pytest.mark.parametrize("name", ["several", "insert_factory", "remove_selection"])
def test_a_plan_replays_on_a_like_model(name):
    build, add = PLANS[name]
    text = add(resect.plan(build())).to_json()
    other = build()
    other.set_weights([value * 2 for value in other.get_weights()])
    plan = Plan.from_json(other, text)
    resect.verify(other, plan.apply(), plan=plan)


def test_replayed_on_another_model_it_says_what_is_missing():
    text = resect.plan(mlp()).remove("middle").to_json()
    with pytest.raises(NoMatchError, match="'middle' matches nothing in Sequential 'cnn'"):
        Plan.from_json(cnn(), text).apply()


def test_json_spells_out_what_selections_and_factories_meant():
    plan = resect.plan(mlp()).insert(site_dropout, after=select(layers.Dense)[:2])
    (entry,) = json.loads(plan.to_json())["edits"]
    assert entry["edit"] == "insert"
    assert entry["after"] == ["hidden", "middle"]
    places = entry["layer"]["places"]
    assert [(place, chain[0]["config"]["name"]) for place, chain in places] == [
        ("hidden", "hidden_drop"),
        ("middle", "middle_drop"),
    ]


def test_pinned_insertions_and_replacements_hold_their_layers():
    model = mlp()
    graph = resect.read(model)
    inserted = Insert(site_dropout, after=layers.Dense).pinned(graph)
    assert isinstance(inserted, Insert)
    assert isinstance(inserted.layer, PerPlace)
    assert inserted.after == ("hidden", "middle", "logits")
    assert [type(la) for la in inserted.layer.at("middle")] == [layers.Dropout]
    replaced = Replace("mid*", lambda old: layers.Dense(old.units)).pinned(graph)
    assert isinstance(replaced, Replace)
    assert replaced.where == "middle"
    assert [la.units for la in replaced.layer.at("middle")] == [8]
    assert str(replaced.apply(graph)).count("Dense") == 3


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"edits": [{"edit": "explode"}]}', "null"])
def test_what_is_no_plan_is_refused(text):
    with pytest.raises(SerializationError, match=r"not a plan|No edit is called 'explode'"):
        Plan.from_json(mlp(), text)


def test_check_finds_every_layer_that_cannot_be_copied():
    inputs = keras.Input((4,))
    x = Locked(name="one")(inputs)
    x = keras.layers.Dense(3, name="dense")(x)
    model = keras.Model(inputs, Locked(name="two")(x), name="locked_in")
    model.compile(Unrepeatable(0.1), "mse")
    before = Source.of(model)
    plan = resect.plan(model).rename({"dense": "fc"})
    problems = plan.check()
    assert [(p.code, p.node) for p in problems] == [
        ("CopyError", "one"),
        ("CopyError", "two"),
        ("CopyError", ""),
    ]
    assert "Unrepeatable" in problems[2].reason
    with pytest.raises(resect.errors.CopyError) as caught:
        plan.apply()
    assert caught.value.problems == problems
    assert resect.plan(model).remove("one").remove("two").check() == problems[2:]
    before.assert_untouched()


class Locked(keras.layers.Layer):
    """Holds what cannot be copied, and has no configuration."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lock = threading.Lock()

    def call(self, x: Any) -> Any:
        return x

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError("no configuration")


class Unrepeatable(keras.optimizers.SGD):
    """Has no configuration either."""

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError("no configuration")
