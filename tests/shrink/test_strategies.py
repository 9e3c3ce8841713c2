"""Which blocks go, in which order, and when it ends."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import keras
import pytest
from keras import layers

import resect
from resect.errors import NoMatchError, SurgeryError, TargetError
from resect.keras_graph.snapshots import Snapshot
from resect.shrink.paths import places
from resect.shrink.work import Work
from tests.common import assert_close, assert_equal, predictions, randomise, weights_of
from tests.importance import models as others
from tests.shrink import models


def bare(scales=models.SCALES, **options):
    """A model that is not compiled, in random order: nothing is measured, so it is fast."""
    model = models.classifier(scales, compiled=False)
    return model, shrink(model, models.features(), method="random", **options)


def shrink(model, given=None, **options):
    options = {"target": {"parameters": 0.6}, **options}
    return resect.shrink(model, models.data() if given is None else given, **options)


def test_greedy_takes_what_importance_ranks_last_each_time():
    model, given = models.classifier(), models.data()
    found = shrink(model, given)
    now, order = model, []
    for step in found.steps[1:]:
        ranked = resect.importance(now, given).sorted()
        order.append(ranked[0].name)
        assert step.score == pytest.approx(ranked[0].score, rel=1e-4, abs=1e-6)
        assert [name for name, _ in step.rivals] == [row.name for row in ranked]
        now = resect.collapse(now, *ranked[0].ends)
        assert step.after == pytest.approx(models.numbers(now, given), rel=1e-5)
    assert found.removed == tuple(order)
    assert_equal(weights_of(found.model), weights_of(now))


def test_one_shot_ranks_once():
    model, given = models.classifier(), models.data()
    found = shrink(model, given, strategy="one-shot")
    ranked = [row.name for row in resect.importance(model, given).sorted()]
    assert list(found.removed) == ranked[: len(found) - 1]


@pytest.mark.parametrize("strategy", ["greedy", "one-shot", "beam"])
def test_it_ends_as_soon_as_the_target_is_reached(strategy):
    model, found = bare(target={"parameters": 0.6, "multiply_adds": 100}, strategy=strategy)
    assert found.ended == "reached"
    *_, almost, last = found.steps
    assert last.parameters <= 0.6 * model.count_params()
    assert last.multiply_adds <= 100 < almost.multiply_adds
    assert found.model.count_params() == last.parameters


def test_a_target_that_is_met_already_removes_nothing():
    _, found = bare(target={"parameters": 10**6})
    assert len(found) == 1
    assert found.removed == ()


def test_every_step_can_be_gone_back_to_and_the_source_is_untouched():
    model = models.classifier()
    before = Snapshot.of(model)
    found = shrink(model, recover="fit", method="random")
    assert before.changes() == []
    assert_equal(weights_of(found.at(0)), weights_of(model))
    assert_close(predictions(found.at(0)), predictions(model))
    for step in found:
        again = found.at(step.number)
        assert again.count_params() == step.parameters
        assert models.numbers(again, models.data()) == pytest.approx(dict(step.after), rel=1e-5)
    with pytest.raises(IndexError, match="no step 9"):
        found.at(9)


def test_the_plan_says_the_same_and_goes_through_json():
    model, found = bare()
    assert_equal(weights_of(found.plan.apply()), weights_of(found.model))
    again = resect.Plan.from_json(model, found.plan.to_json())
    assert str(again.result) == str(resect.read(found.model))


def test_a_permitted_drop_alone_goes_on_for_as_long_as_it_holds():
    model, given = models.classifier(), models.data()
    start = models.numbers(model, given)
    found = shrink(model, given, target={"loss": 0.05}, tries=4)
    assert 1 < len(found) < 5
    assert all(step.after["loss"] <= start["loss"] + 0.05 for step in found)
    rest = resect.importance(found.model, given)
    assert all(row.score + found[-1].after["loss"] > start["loss"] + 0.05 for row in rest)
    assert "no more holds" in found.ended


def test_a_removal_that_breaks_a_drop_is_passed_over_for_the_next():
    model, given = models.classifier(), models.data()
    scores = resect.importance(model, given)

    def order(seed):  # that in which blocks would be taken
        _, found = bare(target={"parameters": 0.9}, seed=seed)
        return [name for name, _ in found[1].rivals[:2]]

    seed = next(s for s in range(20) if scores[order(s)[0]].score > scores[order(s)[1]].score)
    first, second = order(seed)
    limit = (scores[first].score + scores[second].score) / 2
    options = {"target": {"parameters": 0.9, "loss": limit}, "method": "random", "seed": seed}
    found = shrink(model, given, **options)
    assert found[1].name == second
    assert found[1].rejected[0][0] == first
    assert f"tried for step 1 and kept: {first}, loss is worse by" in str(found)


@pytest.mark.parametrize("strategy", ["greedy", "one-shot", "beam"])
def test_a_target_out_of_reach_is_an_error_that_holds_the_result(strategy):
    with pytest.raises(TargetError, match="no block is left that could go") as error:
        bare(target={"parameters": 1}, strategy=strategy)
    found = error.value.result
    assert len(found.removed) == 4
    assert found.model.count_params() == 21
    model = models.classifier()
    options = {"target": {"parameters": 0.1, "loss": 0}, "strategy": strategy}
    with pytest.raises(TargetError, match=r"no more holds: without .*, loss is worse by") as error:
        shrink(model, method="random", **options)
    assert error.value.result.removed == ()


def test_beam_finds_the_best_pair_where_all_are_tried():
    model, given = models.classifier((0.9, 0.05, 0.5)), models.data()
    names = [row.name for row in resect.importance(model, given)]
    losses = {}
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            smaller = model
            for name in (one, other):
                block = resect.blocks(smaller).level("block")[name]
                smaller = resect.collapse(smaller, *block.ends)
            losses[one, other] = models.numbers(smaller, given)["loss"]
    found = shrink(model, given, strategy="beam", width=3, target={"parameters": 63})
    assert tuple(sorted(found.removed)) == min(losses, key=losses.__getitem__)
    assert found[-1].after["loss"] == pytest.approx(min(losses.values()), rel=1e-5)


def test_beam_tries_a_set_of_blocks_once(monkeypatch):

    tried = []
    original = Work.attempt

    def counted(self, job):
        tried.append(places(self.plan_of((*job.path, job.ends)).result))
        return original(self, job)

    monkeypatch.setattr(Work, "attempt", counted)
    bare(strategy="beam", width=4)
    assert len(tried) == len(set(tried)) == 4 + 6


def test_ties_go_by_the_order_of_the_model():
    model = models.classifier((0.0, 0.0, 0.0))  # no block adds anything
    found = shrink(model, target={"parameters": 25})
    assert found.removed == ("block_0", "block_1", "block_2")


def test_chosen_blocks_are_all_that_goes():
    with pytest.raises(TargetError) as error:
        bare(target={"parameters": 1}, blocks=["block_0", "block_3"])
    assert set(error.value.result.removed) == {"block_0", "block_3"}


def test_a_block_that_goes_with_another_one_is_passed_over():
    model = models.classifier(compiled=False)
    every = resect.blocks(model)
    inner = every.level("block")["block_1"]
    chosen = [inner, *every.level("call").collapsible().where(lambda b: b.end == "inner_1")]
    assert len(chosen) == 2
    for strategy in ("greedy", "one-shot"):
        options = {"method": "random", "blocks": chosen, "strategy": strategy}
        with pytest.raises(TargetError) as error:
            shrink(model, models.features(), target={"parameters": 1}, **options)
        found = error.value.result
        assert len(found.removed) in (1, 2)
        assert "block_1" in found.removed


def test_blocks_in_nested_models_and_of_shared_layers():
    model = others.nested()
    x, y = others.data_of(model, 8)
    found = shrink(model, (x, y), target={"parameters": 0.7})
    assert all(name.startswith(("body/", "outer")) for name in found.removed)
    assert_equal(weights_of(found.plan.apply()), weights_of(found.model))


def test_calls_of_a_shared_layer_are_counted_anew_and_meant_all_the_same():
    x = features = keras.Input((4,), name="features")
    same = layers.Dense(4, activation="tanh", name="same")
    for i in range(3):
        x = layers.Add(name=f"add_{i}")([x, layers.Rescaling(0.5 + i, name=f"s_{i}")(same(x))])
    model = randomise(keras.Model(features, layers.Dense(2, name="logits")(x), name="albert"))
    model.compile(loss="mse", **others.EAGERLY)
    given = others.data_of(model, 12)
    with pytest.raises(TargetError) as error:
        shrink(model, given, target={"parameters": 1})
    found = error.value.result
    assert sorted(found.removed) == ["add_0", "add_1", "add_2"]
    now = model
    for step in found.steps[1:]:
        now = resect.collapse(now, *resect.blocks(now).level("block")[step.name].ends)
        assert models.numbers(now, given)["loss"] == pytest.approx(step.after["loss"], rel=1e-5)


def test_models_that_are_not_compiled():
    model = models.classifier()
    given = models.data()
    plain = keras.Model(model.inputs, model.outputs, name="plain")
    found = shrink(plain, given[0], method="influence")
    assert found[1].after == {}
    assert found.model.count_params() == found[-1].parameters
    shrink(plain, given[0], method="influence", strategy="beam")
    with pytest.raises(SurgeryError, match="not compiled"):
        shrink(plain, given)
    with pytest.raises(SurgeryError, match="not compiled"):
        shrink(plain, given, method="influence", recover="fit")
    with pytest.raises(SurgeryError, match="no metric called 'loss'"):
        shrink(plain, given, method="influence", target={"loss": 0.1})


def test_several_outputs():
    model = others.two_outputs()
    given = others.data_of(model, 12)
    with pytest.raises(TargetError) as error:
        shrink(model, given, target={"parameters": 1}, recover="distill")
    assert len(error.value.result.removed) == 3


def test_a_model_without_blocks_is_refused():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    model.compile(loss="mse")
    with pytest.raises(NoMatchError, match="no blocks"):
        shrink(model, models.data())


def test_latency_is_measured_only_where_it_is_asked_for():
    assert bare()[1][0].latency is None
    assert bare(target={"latency_seconds": 1000.0})[1][0].latency > 0


def test_random_order_is_the_same_for_the_same_seed():
    orders = [bare(seed=seed)[1].removed for seed in range(4)]
    assert orders[0] == bare(seed=0)[1].removed
    assert len(set(orders)) > 1


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_beam_by_other_processes_gives_the_same_result_bit_by_bit(backend):
    pytest.importorskip("cloudpickle")
    if backend != "torch":
        pytest.skip("JAX and TensorFlow do not survive a fork, and other processes start slowly")
    given = models.data()
    options = {"strategy": "beam", "width": 2, "recover": "distill", "batch_size": 8}
    here = shrink(models.classifier(), given, **options)
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(2, mp_context=fork) as executor:
        there = shrink(models.classifier(), given, executor=executor, **options)
    assert here.to_json() == there.to_json()
    assert_equal(weights_of(here.model), weights_of(there.model))
