"""Workers are killed in the middle, and every job is accounted for."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from resect.errors import WorkerError
from resect.parallel import Serial, local, run
from tests.parallel.jobs import Job, is_alive, linger, square, wait_for

pytest.importorskip("loky")
pytestmark = [pytest.mark.nobackend, pytest.mark.slow]

ENDS = {2: "dies once", 4: "raises", 5: "dies always"}


@pytest.fixture(autouse=True, scope="module")
def _nothing_stays():
    yield
    local.let_go()


def jobs_of(folder: Path, ends: dict[int, str]) -> list[Job]:
    folder.mkdir()
    return [Job(n, str(folder), ends.get(n, "well")) for n in range(8)]


def assert_as_serial(found, folder: Path, *, exact: bool):
    """All jobs once, with the numbers that one process gives, and errors where they belong."""
    expected = {
        outcome.job.number: outcome
        for outcome in run(square, jobs_of(folder / "serial", {4: "raises"}), executor=Serial())
    }
    by_number = {outcome.job.number: outcome for outcome in found}
    assert sorted(by_number) == sorted(expected)
    assert len(found) == len(expected)
    dead = by_number.pop(5)
    assert isinstance(dead.error, WorkerError)
    assert "died" in str(dead.error)
    for number, outcome in by_number.items():
        assert outcome.value == expected[number].value
        assert type(outcome.error) is type(expected[number].error)
    assert str(by_number[4].error) == "4 is not liked"
    assert any("not liked" in note for note in by_number[4].error.__notes__)
    if exact:
        assert dead.attempts == 2
        assert {n: o.attempts for n, o in by_number.items() if o.attempts != 1} == {2: 2}


def test_processes_of_this_machine(tmp_path):
    jobs = jobs_of(tmp_path / "jobs", ENDS)
    found = list(run(square, jobs, workers=2, attempts=2))
    assert_as_serial(found, tmp_path, exact=True)


def test_leaving_ends_what_is_running(tmp_path):
    tmp_path = tmp_path / "jobs"

    def jobs():
        yield from jobs_of(tmp_path, {})[:2]
        raise AssertionError("there is no room for a third")

    def interrupted():
        for job in jobs_of(tmp_path, {})[:1]:
            yield job
            pids.append(int(wait_for(tmp_path / "0.pid")))
            assert is_alive(pids[0])
            raise KeyboardInterrupt

    pids: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        list(run(linger, interrupted(), workers=2))
    assert not is_alive(pids[0])


class Broken(concurrent.futures.Executor):
    """A pool whose only process dies of its first job, and which is broken from then on."""

    def __init__(self):
        self._max_workers = 1
        self.ended = False

    def submit(self, fn, /, *args, **kwargs):
        if self.ended:
            raise BrokenProcessPool("a process died")
        self.ended = True
        future = concurrent.futures.Future()
        future.set_exception(BrokenProcessPool("a process died"))
        return future


def test_a_pool_that_is_broken_says_so(tmp_path):
    outcomes = run(square, jobs_of(tmp_path / "jobs", {}), executor=Broken())
    begun = next(outcomes)
    assert begun.job.number == 0
    assert isinstance(begun.error, WorkerError)
    with pytest.raises(WorkerError, match="executor=None"):
        next(outcomes)


def test_threads(tmp_path):
    jobs = jobs_of(tmp_path / "jobs", {4: "raises"})
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        found = {o.job.number: o for o in run(square, jobs, executor=executor)}
    assert [found[n].value for n in range(8)] == [0, 1, 4, 9, None, 25, 36, 49]


def test_a_process_that_is_killed_while_it_waits_is_replaced():
    def process(_):
        return os.getpid()

    (first,) = run(process, [0], workers=1)
    os.kill(first.value, signal.SIGKILL)
    while is_alive(first.value):
        time.sleep(0.05)
    time.sleep(0.5)  # until loky knows
    (second,) = run(process, [0], workers=1)
    assert second.value != first.value
