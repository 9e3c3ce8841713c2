"""A real scheduler, workers in processes of their own, TCP between them."""

from __future__ import annotations

import numpy as np
import pytest

import resect
from resect.parallel import Shipped, run
from tests.common import assert_equal, functional_mlp, train, trained, weights_of
from tests.importance import models
from tests.parallel.jobs import square
from tests.parallel.test_killed import ENDS, assert_as_serial, jobs_of

distributed = pytest.importorskip("distributed")
dask = pytest.importorskip("dask")
pytestmark = [pytest.mark.nobackend, pytest.mark.slow]


@pytest.fixture(scope="module")
def client():
    settings = {"distributed.scheduler.allowed-failures": 1}
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            protocol="tcp://",
            dashboard_address=None,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_workers_are_killed_and_every_job_is_accounted_for(client, tmp_path):
    assert client.scheduler.address.startswith("tcp://")
    jobs = jobs_of(tmp_path / "jobs", ENDS)
    found = list(run(square, jobs, executor=client.get_executor()))
    assert_as_serial(found, tmp_path, exact=False)


def test_an_ablation_on_the_cluster_is_the_ablation(client):
    model = models.residual_mlp()
    x, y = models.data_of(model, 2**14)  # x so large that it travels apart
    x = np.tile(x, (1, 4))[:, :5]
    here = resect.importance(model, (x, y), batch_size=2**12)
    there = resect.importance(model, (x, y), batch_size=2**12, executor=client.get_executor())
    assert [row.name for row in there] == [row.name for row in here]
    for one, other in zip(there, here, strict=True):
        assert one.changes == pytest.approx(other.changes, rel=1e-4, abs=1e-6)


def test_models_and_large_arrays_go_to_each_worker_once(client):
    model, many = trained(functional_mlp()), np.arange(2**19, dtype="float32")
    shipped = Shipped(model)

    def work(job):
        many[job] = -1  # which no other job sees
        mine = resect.clone(shipped.model())
        return [float(many.min()), int((many < 0).sum())], weights_of(train(mine))

    expected = weights_of(train(resect.clone(model)))
    for outcome in run(work, range(1, 6), executor=client.get_executor()):
        found, weights = outcome.result()
        assert found == [-1.0, 1]
        assert_equal(weights, expected)


def test_a_client_is_no_executor(client):
    with pytest.raises(TypeError, match=r"client\.get_executor\(\)"):
        run(square, [], executor=client)
