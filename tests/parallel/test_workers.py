"""What reaches the processes of this machine, and that the numbers are those of this one."""

from __future__ import annotations

import dataclasses
import os

import keras
import numpy as np
import pytest

import resect
from resect.errors import SurgeryError, WorkerError
from resect.parallel import Serial, Shipped, local, run
from resect.parallel.settings import THREADS, Settings, environment
from tests.common import assert_equal, data_for, stateful_mlp, trained, weights_of
from tests.importance import models

pytest.importorskip("loky")
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def _few_processes():
    """One thread each, so that all tests can use the same processes; none stays."""
    with pytest.MonkeyPatch.context() as patch:
        for name in THREADS:
            patch.setenv(name, "1")
        yield
        local.let_go()


def here_and_there(function, jobs):
    """What a function returns in this process, and in another."""
    for executor in (Serial(), None):
        yield [o.result() for o in run(function, jobs, executor=executor, workers=1)]


def test_keras_is_set_as_here():
    def settings(_):
        config = keras.config
        names = keras.layers.Dense(1).name, keras.layers.Dense(1).name
        return (
            keras.backend.backend(),
            config.floatx(),
            config.epsilon(),
            config.image_data_format(),
            config.dtype_policy().name,
            names,
        )

    before = keras.config.image_data_format()
    keras.config.set_dtype_policy("mixed_bfloat16")
    keras.config.set_image_data_format("channels_first")
    keras.config.set_epsilon(1e-5)
    try:
        here, there = here_and_there(settings, [0])
        (again,) = run(settings, [0], workers=1)  # the same process, with fresh names
    finally:
        keras.config.set_dtype_policy("float32")
        keras.config.set_image_data_format(before)
        keras.config.set_epsilon(1e-7)
    assert here == there == [again.value]


def test_each_worker_gets_its_share_of_the_cores(monkeypatch):
    assert environment(4) == {"KERAS_BACKEND": keras.backend.backend()}  # the user has said
    monkeypatch.delenv("NPROC")
    monkeypatch.setattr("resect.parallel.settings.cores", lambda: 8)
    assert environment(2)["NPROC"] == "4"
    assert environment(32)["NPROC"] == "1"


def test_a_worker_that_is_another_says_so():
    settings = Settings.of_this_process()
    for name, repair in {"backend": "KERAS_BACKEND=x", "keras": "keras==x"}.items():
        with pytest.raises(WorkerError, match=f"has {name} .* where it is x.\n.*{repair}"):
            dataclasses.replace(settings, **{name: "x"}).require_same()


def test_training_there_is_training_here():
    factor = 2.0

    class Times(keras.layers.Layer):
        def call(self, x):
            return x * factor

    model = stateful_mlp()
    model = trained(
        keras.Sequential([*model.layers, Times(name="times")]),
        loss=lambda y, p: keras.ops.mean(keras.ops.abs(y - p)) * factor,
    )
    shipped, (x, y) = Shipped(model), data_for(model)
    many = np.tile(x, (2**14, 1))  # so large that it travels apart

    def train(steps):
        mine = resect.clone(shipped.model())
        keras.utils.set_random_seed(0)
        for _ in range(steps):
            mine.train_on_batch(many[: len(x)], y)
        return weights_of(mine), id(shipped.model()), os.getpid()

    here, there = here_and_there(train, [1, 2])
    for (one, *_), (other, _, pid) in zip(here, there, strict=True):
        assert_equal(one, other)
        assert pid != os.getpid()
    assert there[0][1:] == there[1][1:]  # loaded once


def test_models_and_errors_come_back():
    model = stateful_mlp()

    class TakesTwo(Exception):  # which pickle cannot make again
        def __init__(self, one, two):
            super().__init__(f"{one} {two}")

    def work(job):
        if job == 0:
            return resect.pop(model)
        if job == 1:
            raise TakesTwo("no", "way")
        return lambda: (n for n in range(job))

    found = {outcome.job: outcome for outcome in run(work, [0, 1, 2], workers=1)}
    assert_equal(weights_of(found[0].value), weights_of(resect.pop(model)))
    assert isinstance(found[1].error, WorkerError)
    assert "TakesTwo: no way" in str(found[1].error)
    assert list(found[2].value()) == [0, 1]


def test_what_cannot_travel_is_an_outcome_or_refused():
    (outcome,) = run(lambda job: job, [(n for n in range(2))], workers=1)
    assert isinstance(outcome.error, WorkerError)
    assert outcome.attempts == 0
    (outcome,) = run(lambda job: (n for n in range(job)), [2], workers=1)
    assert "returned cannot travel" in str(outcome.error)


def test_ablation_in_shares_is_the_ablation():
    model = models.residual_mlp()
    data = models.data_of(model, 19)
    whole = resect.importance(model, data, batch_size=8)
    for found in (
        resect.importance(model, data, batch_size=8, workers=2),
        resect.importance(model, data, batch_size=8, executor=Serial()),
    ):
        assert [row.name for row in found] == [row.name for row in whole]
        assert (found.samples, found.batches) == (whole.samples, whole.batches)
        assert found.baseline == pytest.approx(whole.baseline, rel=1e-6)
        for one, other in zip(found, whole, strict=True):
            assert one.changes == pytest.approx(other.changes, rel=1e-4, abs=1e-6)
            assert (one.ends, one.parameters) == (other.ends, other.parameters)


def test_data_that_cannot_travel_and_methods_with_one_pass():
    model = models.residual_mlp()
    x, y = models.data_of(model, 8)
    with pytest.raises(SurgeryError, match=r"generator cannot be sent to workers"):
        resect.importance(model, ((x, y) for _ in range(2)), workers=2)
    with pytest.raises(ValueError, match='"influence" takes one pass'):
        resect.importance(model, (x, y), "influence", executor=Serial())
