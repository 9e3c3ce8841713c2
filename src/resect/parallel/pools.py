"""What an executor is to the loop that gives it jobs."""

from __future__ import annotations

import os
import pickle
import uuid
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from typing import Any

from resect.parallel.parcels import Parcel
from resect.parallel.settings import Settings
from resect.parallel.worker import Task, perform, within_a_job


class Pool(ABC):
    """Where jobs are done.

    Attributes:
        apart: Whether each job has a worker of its own, so that a death is that job's affair.
    """

    apart: bool = False

    @abstractmethod
    def capacity(self) -> int:
        """How many jobs may be in flight now."""

    @abstractmethod
    def submit(self, function: Parcel, job: Parcel) -> Future[bytes]:
        """Has a job done; the result is that of `worker.perform`.

        Raises:
            BrokenExecutor: There are no workers any more, and there will be none.
        """

    def lost(self, error: BaseException) -> bool:
        """Whether what a future raised means that a worker died, and not that a job failed."""
        return isinstance(error, (BrokenExecutor, CancelledError))

    def final(self, error: BaseException) -> bool:
        """Whether a job that was alone when its worker died is not to be tried again."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Ends; what is still running is ended too, as far as that can be done."""


class Uses:
    """Counts how many jobs in flight need each good."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()

    def begin(self, parcel: Parcel) -> None:
        """A job is submitted."""
        self._count.update(parcel.goods.keys())

    def end(self, parcel: Parcel, function: Parcel) -> list[str]:
        """A job has ended: the goods that no other needs, nor the function."""
        self._count.subtract(parcel.goods.keys())
        return [
            name for name in parcel.goods if not self._count[name] and name not in function.goods
        ]


class Given(Pool):
    """An executor that is somebody else's: threads, the standard library's processes, MPI.

    Args:
        executor: The executor.
        workers: How many workers it has; `None` to ask it.
    """

    def __init__(self, executor: Executor, workers: int | None) -> None:
        self.executor, self.workers = executor, workers
        self._running: set[Future[bytes]] = set()

    def capacity(self) -> int:
        found = self.workers or getattr(self.executor, "_max_workers", None)
        return found or os.cpu_count() or 1

    def submit(self, function: Parcel, job: Parcel) -> Future[bytes]:
        goods = {**function.goods, **job.goods}
        places = {name: i for i, name in enumerate(goods)}
        future = self.executor.submit(perform, task(function, job, places), tuple(goods.values()))
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return future

    def close(self) -> None:
        for future in tuple(self._running):
            future.cancel()


def task(function: Parcel, job: Parcel, places: Mapping[str, str | int]) -> bytes:
    """What is sent: never the same twice, since executors may take what is for what was."""
    sent = Task(
        Settings.of_this_process(),
        within_a_job(),
        function.data,
        job.data,
        dict(places),
        uuid.uuid4().hex,
    )
    return pickle.dumps(tuple(sent))


def starter() -> Any:
    """`worker.perform`, for workers that may not have imported Keras yet.

    Keras reads its backend as it is imported, and unpickling a function of this package imports it.
    So this one is pickled by value, which is what cloudpickle does to functions within functions.
    """

    def start(backend: str, order: bytes, *goods: Any) -> bytes:
        import os
        import sys

        if "keras" not in sys.modules:
            os.environ["KERAS_BACKEND"] = backend
        from resect.parallel.worker import perform

        return perform(order, goods)

    return start
