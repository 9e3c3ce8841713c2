"""The sweep gives the numbers of the naive loop."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import resect
from tests.importance import models


def assert_as_naive(model, data, batch_size, *, blocks=None, memory=2**30):
    found = resect.importance(model, data, blocks=blocks, batch_size=batch_size, memory=memory)
    expected = models.reference(model, None, data, batch_size)
    assert found.baseline == pytest.approx(expected, rel=1e-5, abs=1e-5)
    for row in found:
        changed = models.reference(model, row.ends, data, batch_size)
        difference = {name: changed[name] - expected[name] for name in expected}
        assert row.changes == pytest.approx(difference, rel=1e-4, abs=2e-5), row.name
        assert row.score == pytest.approx(difference["loss"], rel=1e-4, abs=2e-5)
    return found


@pytest.mark.parametrize("make", [models.residual_mlp, models.resnet, models.transformer])
def test_the_numbers_are_those_of_the_naive_loop(make):
    model = make()
    found = assert_as_naive(model, models.data_of(model, 19), 8)
    assert len(found) > 2


@pytest.mark.parametrize("names", [True, False])
def test_several_outputs_masks_weights_and_regularisers(names):
    model = models.two_outputs(names)
    x, y = models.data_of(model, 10)
    assert_as_naive(model, (x, y), 4)
    one = np.linspace(0, 2, 10).astype("float32")
    every = np.linspace(3, 1, 50).reshape(10, 5).astype("float32")
    weights = {"one": one, "every": every} if names else [one, every]
    assert_as_naive(model, (x, y, weights), 4)


def test_sample_weights():
    model = models.resnet()
    x, y = models.data_of(model, 9)
    assert_as_naive(model, (x, y, np.linspace(0, 3, 9).astype("float32")), 4)


@pytest.mark.parametrize("calls", [1, 2])
def test_blocks_of_nested_models_go_from_every_call(calls):
    model = models.nested(calls)
    found = assert_as_naive(model, models.data_of(model, 8), 4)
    assert found[0].name == "body/inner_add_0"


def test_a_metric_with_a_number_for_each_class():
    model = models.residual_mlp(2)
    model.compile(loss="mse", metrics=[keras.metrics.F1Score(average=None)], **models.EAGERLY)
    x, y = models.data_of(model, 8)
    y = (y > 0).astype("float32")
    found = resect.importance(model, (x, y), batch_size=4)
    for row in [None, *found]:
        smaller = resect.collapse(model, *row.ends) if row else model
        expected = smaller.evaluate(x, y, verbose=0, return_dict=True)["f1_score"]
        changes = row.changes if row else dict.fromkeys(found.baseline, 0)
        ours = [found.baseline[f"f1_score[{i}]"] + changes[f"f1_score[{i}]"] for i in range(3)]
        assert ours == pytest.approx([float(each) for each in expected], abs=1e-6)


def test_a_small_budget_runs_variants_one_by_one():
    model = models.residual_mlp()
    data = models.data_of(model, 12)
    roomy = assert_as_naive(model, data, 4)
    tight = assert_as_naive(model, data, 4, memory=700)
    assert tight.peak_bytes <= 700 < roomy.peak_bytes
