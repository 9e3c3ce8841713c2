"""The workers of a Dask scheduler.

What is large becomes a task of its own: the scheduler keeps it, workers that have it give it to
those that need it, and where the only one that had it dies, it is made again.
"""

from __future__ import annotations

import contextlib
import pickle
import warnings
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from typing import Any

import keras
import numpy as np

from resect.parallel.parcels import Parcel
from resect.parallel.pools import Pool, Uses, starter, task


def is_dask(executor: Any) -> bool:
    """Whether an executor is that of a Dask client."""
    module = type(executor).__module__.split(".")[0]
    return module == "distributed" and isinstance(executor, Executor)


class Cluster(Pool):
    """The workers of a Dask scheduler.

    Args:
        executor: A client's `get_executor()`.
        workers: How many jobs may be in flight; `None`: as many as there are workers.
    """

    def __init__(self, executor: Any, workers: int | None) -> None:
        self.executor, self.workers = executor, workers
        self.client = executor._client
        self._goods: dict[str, Any] = {}
        self._running: dict[Future[bytes], tuple[Parcel, Parcel]] = {}
        self._uses = Uses()
        self._start = starter()

    def capacity(self) -> int:
        return self.workers or max(1, len(self.client.nthreads()))

    def submit(self, function: Parcel, job: Parcel) -> Future[bytes]:
        self._settle()
        goods = {**function.goods, **job.goods}
        places = {name: i for i, name in enumerate(goods)}
        futures = [self._sent(name, good) for name, good in goods.items()]
        order = task(function, job, places)
        with _large_is_right():
            future = self.executor.submit(self._start, keras.backend.backend(), order, *futures)
        self._running[future] = function, job
        self._uses.begin(job)
        return future

    def _settle(self) -> None:
        """Lets go of what only jobs needed that have ended."""
        for future in [each for each in self._running if each.done()]:
            function, job = self._running.pop(future)
            for name in self._uses.end(job, function):
                self._goods.pop(name, None)

    def _sent(self, name: str, good: Any) -> Any:
        if name not in self._goods:
            plain = good if isinstance(good, np.ndarray) else pickle.dumps(good)
            with _large_is_right():
                self._goods[name] = self.client.submit(_giver(), plain, key=f"resect-{name}")
        return self._goods[name]

    def lost(self, error: BaseException) -> bool:
        return type(error).__name__ == "KilledWorker" or super().lost(error)

    def final(self, error: BaseException) -> bool:
        return type(error).__name__ == "KilledWorker"  # the scheduler has tried again by itself

    def close(self) -> None:
        for future in tuple(self._running):
            future.cancel()
        self._goods.clear()


@contextlib.contextmanager
def _large_is_right() -> Iterator[None]:
    """Without Dask's advice against sending what is large: it is sent once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sending large graph")
        yield


def _giver() -> Any:
    """A function that gives what it is given, pickled by value as that of `starter`."""
    return lambda good: good
