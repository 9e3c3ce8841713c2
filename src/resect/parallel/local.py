"""Processes of this machine, one for each job in flight.

A process pool whose worker dies is broken as a whole, and fails every job that it holds. So there
are as many pools of one process as there are workers: a death is the affair of the job that ran
there, and no other job is charged for it or begun again.
"""

from __future__ import annotations

import atexit
import contextlib
import pickle
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from resect.errors import SurgeryError
from resect.parallel.dumping import own_modules_changed
from resect.parallel.parcels import Parcel
from resect.parallel.pools import Pool, Uses, starter, task
from resect.parallel.settings import cores, environment

#: Seconds after which a worker without jobs goes.
IDLE = 120


class _Slot(NamedTuple):
    """A pool of one process.

    Attributes:
        environment: What it was started with.
        pool: The pool.
        since: When it was made, in seconds since the epoch.
    """

    environment: dict[str, str]
    pool: Any
    since: float


_idle: list[_Slot] = []


class Local(Pool):
    """Processes of this machine.

    Args:
        workers: How many; `None`: one for each core.

    Raises:
        SurgeryError: loky is not installed.
    """

    apart = True

    def __init__(self, workers: int | None) -> None:
        _loky()
        self.workers = workers or cores()
        self._environment = environment(self.workers)
        self._free: list[_Slot] = []
        self._busy: dict[Future[bytes], tuple[_Slot, Parcel, Parcel]] = {}
        self._uses = Uses()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._start = starter()

    def capacity(self) -> int:
        return self.workers

    def submit(self, function: Parcel, job: Parcel) -> Future[bytes]:
        self._settle()
        goods = {**function.goods, **job.goods}
        places = {name: self._stored(name, good) for name, good in goods.items()}
        order = task(function, job, places)
        slot, future = self._submitted(self._start, keras.backend.backend(), order)
        self._busy[future] = slot, function, job
        self._uses.begin(job)
        return future

    def _settle(self) -> None:
        """Takes back the processes whose jobs are done, if they live."""
        for future in [each for each in self._busy if each.done()]:
            slot, function, job = self._busy.pop(future)
            for name in self._uses.end(job, function):
                with contextlib.suppress(PermissionError):  # Windows, while it is mapped
                    self._path(name, job.goods[name]).unlink()
            broken = not future.cancelled() and self.lost(future.exception() or Exception())
            if broken:
                _end(slot)
            else:
                self._free.append(slot)

    def _submitted(self, *call: Any) -> tuple[_Slot, Future[bytes]]:
        """Has a process do something: one that waits for it and still lives, or else a new one."""
        for slot in self._waiting():
            try:
                return slot, slot.pool.submit(*call)
            except BrokenExecutor:  # it was killed while it had nothing to do
                _end(slot)
        pool = _loky().ProcessPoolExecutor(
            max_workers=1, timeout=IDLE, env=self._environment, initializer=_leave_interrupts
        )
        slot = _Slot(self._environment, pool, time.time())
        return slot, pool.submit(*call)

    def _waiting(self) -> Iterator[_Slot]:
        """Takes the processes without jobs, one by one."""
        while self._free:
            yield self._free.pop()
        for slot in [slot for slot in _idle if slot.environment == self._environment]:
            _idle.remove(slot)
            if own_modules_changed(slot.since):
                _end(slot)
            else:
                yield slot

    def _path(self, name: str, good: Any) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="resect-", ignore_cleanup_errors=True)
        ending = ".npy" if isinstance(good, np.ndarray) else ".pickle"
        return Path(self._folder.name) / (name + ending)

    def _stored(self, name: str, good: Any) -> str:
        """Where a good lies in a file."""
        path = self._path(name, good)
        if not path.exists():
            with path.open("wb") as file:
                if isinstance(good, np.ndarray):
                    np.save(file, good)
                else:
                    pickle.dump(good, file)
        return str(path)

    def close(self) -> None:
        self._settle()
        for slot, *_ in self._busy.values():
            _end(slot)
        self._busy.clear()
        _idle.extend(self._free)
        self._free.clear()
        if self._folder is not None:
            self._folder.cleanup()


def let_go() -> None:
    """Ends the processes that wait for jobs to come."""
    while _idle:
        _end(_idle.pop())


def _end(slot: _Slot) -> None:
    slot.pool.shutdown(wait=True, kill_workers=True)


atexit.register(let_go)


def _leave_interrupts() -> None:
    """Ctrl-C goes to all processes of a terminal; what then happens is for the first to say."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _loky() -> Any:
    try:
        import loky
    except ImportError as error:
        raise SurgeryError(
            "Processes need loky, which is not installed.",
            'pip install "resect[parallel]", or give executor=resect.parallel.Serial().',
        ) from error
    return loky
