"""A real scheduler, workers in processes of their own, TCP between them."""

from __future__ import annotations

import pytest

from resect.parallel import run
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


def test_a_client_is_no_executor(client):
    with pytest.raises(TypeError, match=r"client\.get_executor\(\)"):
        run(square, [], executor=client)
