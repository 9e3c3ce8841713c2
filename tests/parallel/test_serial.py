"""Jobs in this process: what the loop promises, without other processes."""

from __future__ import annotations

import pytest

from resect.parallel import Serial, run

pytestmark = pytest.mark.nobackend


def test_outcomes_come_before_the_next_job_is_asked_for():
    seen: list[int] = []

    def jobs():
        for n in range(3):
            assert len(seen) == n
            yield n

    for outcome in run(lambda n: n * n, jobs(), executor=Serial()):
        seen.append(outcome.value)
    assert seen == [0, 1, 4]


def test_an_exception_is_an_outcome():
    good, bad = run(lambda n: 1 / n, [1, 0], executor=Serial())
    assert good.result() == 1
    assert bad.failed
    assert bad.attempts == 1
    with pytest.raises(ZeroDivisionError):
        bad.result()


def test_endless_jobs_are_pulled_one_by_one():
    def jobs():
        n = 0
        while True:
            yield n
            n += 1

    outcomes = run(lambda n: n, jobs(), executor=Serial())
    assert [next(outcomes).value for _ in range(3)] == [0, 1, 2]


def test_an_interrupt_goes_through():
    def interrupted(job):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run(interrupted, [1], executor=Serial()))


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"workers": 0}])
def test_numbers_are_at_least_one(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        run(abs, [1], executor=Serial(), **wrong)


def test_what_is_no_executor_is_refused():
    class Client:
        pass

    with pytest.raises(TypeError, match=r"client\.get_executor\(\)"):
        run(abs, [1], executor=Client())  # pyright: ignore[reportArgumentType]
