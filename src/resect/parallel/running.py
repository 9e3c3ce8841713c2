"""Jobs in, outcomes out, every job accounted for."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    wait,
)
from dataclasses import dataclass
from typing import Any

from resect.errors import SurgeryError, WorkerError
from resect.parallel.cluster import Cluster, is_dask
from resect.parallel.local import Local
from resect.parallel.outcome import Outcome
from resect.parallel.parcels import Parcel, brought, packed, unpacked
from resect.parallel.pools import Given, Pool
from resect.parallel.serial import Serial
from resect.parallel.worker import Done


def run(
    function: Callable[[Any], Any],
    jobs: Iterable[Any],
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    attempts: int = 3,
) -> Iterator[Outcome]:
    """Calls a function with each of several jobs, on several processes or machines.

    The jobs are pulled one by one, when there is a worker for the next and after all outcomes so
    far have been handed out: a generator of jobs can look at them to say what comes next.

    What the function raises is an outcome. A job whose worker died (killed, out of memory, crashed)
    is begun again, `attempts` times in all. Leaving the iteration, by `break`, an exception or
    Ctrl-C, ends what is running.

    Functions, jobs and values travel by cloudpickle: lambdas and what is defined in a notebook do.
    Models travel as by `Shipped`. Arrays of 1 MiB and more, and models, go to each worker once.

    Args:
        function: What to call, with one job.
        jobs: What to call it with; may be endless.
        executor: Where. `None`: processes of this machine. `Serial()`: here. Or any
            `concurrent.futures.Executor`, such as a Dask client's `client.get_executor()`.
        workers: How many jobs are in flight at most. By default as many as the executor has
            workers; for processes of this machine, one for each core.
        attempts: How often a job is begun at most, if its workers die.

    Yields:
        An `Outcome` for each job, in the order in which they end.

    Raises:
        SurgeryError: The library for this executor is not installed.
        WorkerError: The function cannot travel; or the executor is broken, and cannot be replaced.

    Example:

    >>> import resect
    >>> found = resect.parallel.run(lambda n: 1 / n, [2, 0], executor=resect.parallel.Serial())
    >>> for outcome in found:
    ...     print(outcome)
    2: 0.5
    0: ZeroDivisionError: division by zero
    """
    if attempts < 1 or (workers is not None and workers < 1):
        raise ValueError(f"attempts={attempts} and workers={workers} must be at least 1.")
    if executor is not None and not isinstance(executor, Executor):
        raise TypeError(
            f"{type(executor).__name__} is no concurrent.futures.Executor. Of a Dask client, give "
            "client.get_executor(); for none at all, resect.parallel.Serial()."
        )
    if isinstance(executor, Serial):
        return _here(function, jobs)
    name = getattr(function, "__qualname__", None) or type(function).__name__
    return _Loop(packed(function, name), iter(jobs), _pool(executor, workers), attempts).outcomes()


def _pool(executor: Executor | None, workers: int | None) -> Pool:
    if executor is None:
        return Local(workers)
    return Cluster(executor, workers) if is_dask(executor) else Given(executor, workers)


def capacity(executor: Executor | None = None, workers: int | None = None) -> int:
    """How many jobs `run` would have in flight now."""
    return 1 if isinstance(executor, Serial) else _pool(executor, workers).capacity()


def _here(function: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Outcome]:
    for job in jobs:
        try:
            outcome = Outcome(job, function(job))
        except Exception as error:
            outcome = Outcome(job, error=error)
        yield outcome


@dataclass
class _Try:
    """A job on its way: how often it was begun, and whether another was in flight at its loss."""

    job: Any
    parcel: Parcel
    begun: int = 0
    alone: bool = False


def _outcome(each: _Try, answer: bytes) -> Outcome:
    """What a worker's answer says, if it can be read here."""
    try:
        done = Done(*pickle.loads(answer))
        value = unpacked(done.data, brought(done.goods))
    except Exception as error:
        found = WorkerError(
            f"What the job returned cannot be made again here: {type(error).__name__}: {error}",
            "Return arrays, numbers, text or a model.",
        )
        found.__cause__ = error
        return Outcome(each.job, error=found, attempts=each.begun)
    if not done.failed:
        return Outcome(each.job, value, attempts=each.begun)
    value.add_note(f"In the worker:\n{done.trace}")
    return Outcome(each.job, error=value, attempts=each.begun)


class _Loop:
    """Gives a pool its jobs, and takes what becomes of them.

    Where jobs may share a worker, nobody can say which of them killed it: those that were in flight
    are begun again one at a time, so that only one that dies alone is charged with it.
    """

    def __init__(self, function: Parcel, jobs: Iterator[Any], pool: Pool, attempts: int) -> None:
        self.function, self.jobs, self.pool, self.attempts = function, jobs, pool, attempts
        self.running: dict[Future[bytes], _Try] = {}
        self.again: deque[_Try] = deque()
        self.suspects: deque[_Try] = deque()
        self.ended: list[Outcome] = []  # without having been in flight
        self.broken: BaseException | None = None

    def outcomes(self) -> Iterator[Outcome]:
        """The outcomes, as they come."""
        try:
            while True:
                while self.ended:
                    yield self.ended.pop(0)
                self._fill()
                if self.ended:
                    continue
                if self.running:
                    done, _ = wait(self.running, return_when=FIRST_COMPLETED)
                    crowd = len(self.running)
                    for future in done:
                        self._take(future, self.running.pop(future), crowd == 1)
                elif self.broken is not None:
                    raise self._no_workers() from self.broken
                else:
                    return
        finally:
            self.pool.close()

    def _fill(self) -> None:
        """Submits as much as there is room for."""
        while self.broken is None and not self.ended:
            room = 1 if self.suspects else self.pool.capacity()
            if len(self.running) >= room:
                return
            each = self._next()
            if each is not None:
                self._submit(each)
            elif not self.ended:
                return

    def _next(self) -> _Try | None:
        if self.suspects:
            return self.suspects.popleft()
        if self.again:
            return self.again.popleft()
        for job in self.jobs:
            try:
                return _Try(job, packed(job, "The job"))
            except SurgeryError as error:
                self.ended.append(Outcome(job, error=error, attempts=0))
                return None
        return None

    def _submit(self, each: _Try) -> None:
        try:
            future = self.pool.submit(self.function, each.parcel)
        except BrokenExecutor as error:
            self.broken = error
            for left in (each, *self.again, *self.suspects):
                self.ended.append(Outcome(left.job, error=self._no_workers(), attempts=left.begun))
            self.again.clear()
            self.suspects.clear()
            return
        each.begun += 1
        self.running[future] = each

    def _take(self, future: Future[bytes], each: _Try, alone: bool) -> None:
        error = CancelledError() if future.cancelled() else future.exception()
        if error is None:
            self.ended.append(_outcome(each, future.result()))
        elif self.pool.lost(error):
            self._lost(each, error, alone or self.pool.apart)
        else:
            self.ended.append(Outcome(each.job, error=error, attempts=each.begun))

    def _lost(self, each: _Try, error: BaseException, guilty: bool) -> None:
        if guilty and (each.begun >= self.attempts or self.pool.final(error)):
            found = WorkerError(
                f"The worker died while it did this job, {each.begun} times in a row.",
                "It may need more memory than there is, or crash Python. Try it with "
                "executor=resect.parallel.Serial().",
            )
            found.__cause__ = error
            self.ended.append(Outcome(each.job, error=found, attempts=each.begun))
        else:
            (self.again if self.pool.apart else self.suspects).append(each)

    def _no_workers(self) -> WorkerError:
        return WorkerError(
            f"The executor is broken: {self.broken}",
            "A pool of processes ends as a whole when one of them dies. executor=None (processes "
            "of this machine) and a Dask client's executor replace what has died.",
        )
