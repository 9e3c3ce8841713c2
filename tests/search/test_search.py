"""What is tried, what is trained, what is found."""

from __future__ import annotations

import itertools
import json
import math

import keras
import numpy as np
import pytest

import resect
from resect.errors import NoMatchError, SurgeryError
from resect.keras_graph.snapshots import Snapshot
from resect.search import Activation, Distill, Dropout, FineTune, Remove, training
from tests.common import assert_equal, weights_of
from tests.search import models
from tests.shrink import models as shrinking

optuna = pytest.importorskip("optuna")


def search(model=None, space=None, objective=models.worth, **options):
    options = {"storage": None, "trials": 40, **options}
    return resect.search(model or models.bare(), space or models.SPACE, objective, **options)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_it_finds_the_best_variant(sampler):
    found = search(sampler=sampler)
    assert found.best().numbers["value"] == 0
    assert models.worth(found.model()) == 0
    assert models.worth(found.plan().apply()) == 0


def test_a_small_space_is_searched_to_its_end_and_nothing_is_tried_twice():
    objective = models.Counting()
    options = dict(goals={"off": "lower"}, stages=1, trials=100, sampler="random")
    found = search(objective=objective, **options)
    tried = [variant for variant, _ in objective.calls]
    # The original and 4 or 6 ways of removing one block or two, each with three rates.
    assert len(tried) == len(set(tried)) == 3 * (1 + 4 + 6)
    repeated = [trial for trial in found if trial.kind == "repeated"]
    assert repeated
    for trial in repeated:
        same = found.original if trial.same_as == -1 else found[trial.same_as]
        assert trial.numbers == same.numbers
        assert str(found.plan(trial).apply().get_config()) == str(
            found.plan(same).apply().get_config()
        )


def test_the_original_is_trained_as_the_variants_are_and_can_be_the_best():
    def objective(model):
        return -float(model.count_params())

    found = search(space=[Remove(at_most=1)], objective=objective, trials=3)
    assert found.best() is found.original
    for one, other in zip(found.model().weights, models.bare().weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert found.plan().edits == ()


def test_the_source_is_untouched_and_the_models_are_those_that_were_measured():
    model = models.bare()
    before = Snapshot.of(model)
    found = search(model, objective=models.Counting(), goals={"off": "lower"}, trials=8, keep="all")
    assert before.changes() == []
    for trial in found.done:
        made = found.model(trial)
        total = float(sum(np.abs(weight).sum() for weight in made.get_weights()))
        assert total == pytest.approx(trial.numbers["total"], rel=1e-6)
        assert made.count_params() == trial.numbers["parameters"]
        assert before.changes() == []


def test_several_goals_give_the_pareto_front():
    found = search(goals=("value", "parameters"), trials=20)
    points = {t.number: (t.numbers["value"], t.numbers["parameters"]) for t in found.done}
    beaten = {
        a
        for a, b in itertools.permutations(points, 2)
        if all(y <= x for x, y in zip(points[a], points[b], strict=True)) and points[a] != points[b]
    }
    assert {trial.number for trial in found.front} == set(points) - beaten
    values = [trial.numbers["value"] for trial in found.front]
    assert values == sorted(values)
    assert found.best("parameters").numbers["parameters"] == min(p for _, p in points.values())


def test_only_what_no_other_one_beats_is_kept():
    found = search(goals=("value", "parameters"), trials=12)
    front = {trial.number for trial in found.front}
    for trial in found.done:
        if trial.number in front or trial.number < 0:
            assert found.model(trial).count_params() == trial.numbers["parameters"]
        else:
            with pytest.raises(SurgeryError, match='keep="all"'):
                found.model(trial)


def test_limits_are_checked_before_anything_is_trained():
    objective = models.Counting()
    options = dict(goals={"off": "lower"}, limits={"parameters": 0.6}, trials=6)
    found = search(objective=objective, **options)
    most = 0.6 * found.original.numbers["parameters"]
    assert all(trial.numbers["parameters"] <= most for trial in found if trial.kind == "done")
    refused = [trial for trial in found if trial.kind == "refused"]
    assert refused
    assert "parameters" in refused[0].why
    original, *others = dict.fromkeys(variant for variant, _ in objective.calls)
    assert original.count("inner_") == 4
    assert all(variant.count("inner_") == 2 for variant in others)


def test_a_space_in_which_nothing_can_be_made_says_so():
    with pytest.raises(SurgeryError, match=r"None of \d+ variants.*parameters 189"):
        search(space=[Activation("tanh")], limits={"parameters": 0.5})


# Early stopping


def test_poor_variants_are_stopped_and_good_ones_are_not():
    def objective(model, stage):
        calls.append((stage, models.worth(model)))
        return {"off": models.worth(model)}

    calls: list[tuple[int, float]] = []
    found = search(objective=objective, goals={"off": "lower"}, sampler="random", patience=4)
    stopped = [trial for trial in found if trial.kind == "stopped"]
    assert stopped
    assert found.best().numbers["off"] == 0
    assert all("median" in trial.why for trial in stopped)
    assert sum(stage == 2 for stage, _ in calls) == len(found.done)
    assert sum(stage == 0 for stage, _ in calls) == len(found.done) + len(stopped)
    for trial in stopped:  # worse than half of those that had come as far before
        stage = len(trial.curve) - 1
        before = [t for t in (found.original, *found[: trial.number]) if len(t.curve) > stage]
        values = sorted(t.curve[stage]["off"] for t in before)
        assert trial.curve[stage]["off"] > values[(len(values) - 1) // 2]
    never = search(objective=objective, goals={"off": "lower"}, stop=None, trials=10)
    assert {trial.kind for trial in never} <= {"done", "repeated"}


def test_a_cheap_variant_is_not_stopped_for_being_worse_than_expensive_ones():
    def objective(model, stage):
        return {"off": -float(model.count_params())}  # less is worse

    options = dict(space=[Remove(at_most=2)], sampler="random", patience=1, trials=10)
    alone = search(objective=objective, goals={"off": "lower"}, **options)
    both = search(objective=objective, goals={"off": "lower", "parameters": "lower"}, **options)
    assert any(trial.kind == "stopped" for trial in alone)
    assert not any(trial.kind == "stopped" for trial in both)


def test_optunas_pruners():
    pruner = optuna.pruners.ThresholdPruner(upper=1.1)
    objective = models.Counting()
    found = search(objective=objective, goals={"off": "lower"}, stop=pruner, sampler="random")
    assert {t.why for t in found if t.kind == "stopped"} == {"ThresholdPruner"}
    assert all(t.curve[0]["off"] <= 1.1 for t in found.done[1:])
    with pytest.raises(ValueError, match=r"single goal.*median"):
        search(objective=objective, goals={"off": "lower", "parameters": "lower"}, stop=pruner)


# What goes wrong


def test_variants_that_fail_are_told_and_the_search_goes_on():
    def objective(model):
        rate = models.rate_of(model)
        if rate == 0.5:
            raise RuntimeError("too much")
        return math.nan if rate == 0.25 else models.worth(model)

    found = search(objective=objective, sampler="random", trials=20)
    json.loads(found.to_json(), parse_constant=pytest.fail)
    whys = {trial.why for trial in found if trial.kind == "failed"}
    assert whys == {"RuntimeError: too much", "value is nan after stage 1"}
    assert {models.rate_of(found.plan(t).apply()) for t in found.done} == {0.0}
    assert len(found.done) - 1 + sum(t.kind == "failed" for t in found) == 20


def test_an_objective_that_fails_on_the_original_is_an_error():
    def objective(model):
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        search(objective=objective)


def test_a_mistake_in_the_space_is_an_error():
    def wrong(trial, plan):
        return plan.apply()

    with pytest.raises(TypeError, match=r"wrong returned Functional"):
        search(space=wrong)
    with pytest.raises(NoMatchError, match=r"blok_\*'\) matches nothing"):
        search(space=Dropout("blok_*"))
    with pytest.raises(NoMatchError, match="no block that could go"):
        search(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), space=Remove())


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        (dict(trials=0), ValueError, "trials must be 1 or more, not 0"),
        (dict(space=[]), TypeError, "nothing to search"),
        (dict(space=Dropout), TypeError, "one or several choices"),
        (dict(objective="train"), ValueError, "objective must be"),
        (dict(objective="fit"), ValueError, r"say on what, data=\(x, y\)"),
        (dict(data=shrinking.data()), ValueError, "has its own data"),
        (dict(goals="latnecy"), SurgeryError, "whether higher or lower values of 'latnecy'"),
        (dict(goals={"value": "less"}), ValueError, '"higher" or "lower"'),
        (dict(goals="parameters"), ValueError, "nothing depends on training"),
        (dict(goals={"off": "lower"}), SurgeryError, "returned no 'off'.*\n.*It returned value"),
        (dict(limits={"loss": 1}), ValueError, "Limits are for parameters and multiply_adds"),
        (dict(limits={"parameters": 0}), ValueError, "above 0"),
        (dict(sampler="grid"), ValueError, 'sampler is "tpe", "random"'),
        (dict(stop="mean"), ValueError, 'stop must be "median"'),
        (dict(keep="some"), ValueError, "keep must be"),
        (
            dict(objective="fit", data=shrinking.data()),
            SurgeryError,
            "not compiled.*\n.*as objective",
        ),
        (dict(storage=3), TypeError, "storage is the path"),
        (dict(objective=lambda model: "good"), SurgeryError, "returned 'good'"),
    ],
)
def test_what_has_no_meaning_is_refused(options, error, match):
    space = options.pop("space", None)
    with pytest.raises(error, match=match):
        resect.search(
            models.bare(),
            models.SPACE if space is None else space,
            options.pop("objective", models.worth),
            **{"storage": None, **options},
        )


# Built-in training


def test_fit_is_what_one_would_do_by_hand():
    model, given = shrinking.classifier(), shrinking.data(64)
    validation = shrinking.data(32, seed=1)
    space = Dropout("block_1", rates=(0.0, 0.5))
    found = search(
        model, space, FineTune(epochs=3), data=given, validation=validation, trials=1, seed=5
    )
    assert found.before == pytest.approx(shrinking.numbers(model, validation), rel=1e-5)
    trial = found[0] if found[0].kind == "done" else found.original
    made = found.model(trial)
    assert shrinking.numbers(made, validation) == pytest.approx(
        {name: trial.numbers[name] for name in ("loss", "accuracy")}, rel=1e-5
    )
    assert int(made.optimizer.iterations) == 3 * 2
    assert len(trial.curve) == 2  # after 1 epoch and after 3
    assert list(found.better) == ["loss"]


@pytest.mark.parametrize("how", [FineTune(4), Distill(4)])
def test_a_model_that_goes_on_is_the_one_that_would_have_been_brought_back(how, monkeypatch):
    class Forgetful(list):
        def __setitem__(self, key, value):
            pass

    def run():
        space = Dropout("block_1", rates=(0.1, 0.5))
        options = dict(data=shrinking.data(64), trials=2, keep="all", sampler="random")
        found = search(shrinking.classifier(), space, how, **options)
        return found, [weights_of(found.model(trial)) for trial in found.done]

    alive, weights = run()
    monkeypatch.setattr(training, "_alive", Forgetful())
    anew, others = run()
    assert [trial.numbers for trial in alive] == [trial.numbers for trial in anew]
    for one, other in zip(weights, others, strict=True):
        assert_equal(one, other)


# What comes out


def test_table_records_and_json():
    found = search(goals=("value", "parameters"), trials=9)
    text = str(found)
    assert text.startswith("Functional 'classifier': function worth; sought: value (lower), ")
    assert "original" in text
    assert "* no other one beats it" in text
    assert f"{len(found)} trials: " in text
    assert len(found.records()) == len(found) + 1
    assert found.records()[0]["number"] == -1
    assert '"goals"' in found.to_json()
    assert found.study.best_trials


def test_a_picture():
    pytest.importorskip("matplotlib")
    found = search(goals=("value", "parameters"), trials=6)
    axes = found.plot()
    assert axes.get_xlabel().startswith("parameters")
    assert axes.get_ylabel().startswith("value")
    with pytest.raises(ValueError, match="'speed' cannot be drawn"):
        found.plot("speed")
