"""A search by several workers, some of which are killed, is the search of one process."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path

import pytest

import resect
from resect.parallel import local
from resect.search import FineTune
from tests.search import models
from tests.search.test_storage import assert_same
from tests.shrink import models as shrinking

pytest.importorskip("optuna")
pytest.importorskip("loky")
pytestmark = [pytest.mark.nobackend, pytest.mark.slow]


@pytest.fixture(autouse=True, scope="module")
def _nothing_stays():
    yield
    local.let_go()


class Deadly(models.Counting):
    """An objective whose worker dies once, in the middle of a stage, and for some variants always.

    Args:
        folder: Where it is written down that one has died.
        deadly: The rate that no worker survives; where there are no workers it is an error.
    """

    def __init__(self, folder: Path, deadly: float) -> None:
        super().__init__()
        self.folder, self.deadly, self.parent = folder, deadly, os.getpid()

    def __call__(self, model, stage):
        numbers = super().__call__(model, stage)
        here, once = os.getpid() == self.parent, self.folder / "died"
        if models.rate_of(model) == self.deadly:
            self._end(here)
        if stage == 1 and not here and not once.exists():
            once.touch()
            self._end(here)
        return numbers

    def _end(self, here: bool) -> None:
        if here:
            raise RuntimeError("no worker survives it")
        os.kill(os.getpid(), signal.SIGKILL)


def search(objective, **options):
    options = dict(goals={"off": "lower", "parameters": "lower"}, trials=4, patience=2) | options
    options |= dict(at_once=2, keep="all", sampler="random")
    return resect.search(models.bare(), models.SPACE, objective, **options)


def test_processes_one_of_which_is_killed(tmp_path):
    objective = Deadly(tmp_path, 0.5)
    here = search(objective, storage=None)
    there = search(objective, storage=tmp_path / "study.sqlite", executor="processes")
    assert (tmp_path / "died").exists()
    assert_same(here, there)
    (dead,) = {trial.why for trial in there if trial.kind == "failed"}
    assert "WorkerError: The worker died while it did this job, 3 times" in dead


def test_a_cluster_one_of_whose_workers_is_killed(tmp_path):
    distributed = pytest.importorskip("distributed")
    dask = pytest.importorskip("dask")
    objective = Deadly(tmp_path, math.inf)
    here = search(objective, storage=None)
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, protocol="tcp://", dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert client.scheduler.address.startswith("tcp://")
        there = search(objective, storage=None, executor=client.get_executor())
    assert (tmp_path / "died").exists()
    assert_same(here, there)


def test_training_by_workers_is_training_here():
    model, data = shrinking.classifier(), shrinking.data(64)
    options = dict(data=data, trials=2, at_once=2, sampler="random", storage=None, keep="all")
    here = resect.search(model, models.SPACE[1], FineTune(4), **options)
    there = resect.search(model, models.SPACE[1], FineTune(4), executor="processes", **options)
    assert_same(here, there)
