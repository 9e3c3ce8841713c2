"""What runs in the process that does a job.

Everything that comes back is bytes, made here: so no executor ever has to pickle a value or an
exception of the user, and none can break on one.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import pickle
import threading
import traceback
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from resect.errors import WorkerError
from resect.parallel.parcels import Good, brought, packed, unpacked
from resect.parallel.settings import PROCESS, Settings
from resect.parallel.shipped import Shipped

#: How many models a process keeps for jobs to come, as bytes.
KEPT = 4


class Task(NamedTuple):
    """What is sent.

    Attributes:
        settings: Keras as it is set where the job was given.
        nested: Whether it was given from within a job.
        function: The parcel with the function.
        job: The parcel with the job.
        places: Where each good is, by content hash: a path, or which of the goods beside the task.
        number: What no other task has.
    """

    settings: Settings
    nested: bool
    function: bytes
    job: bytes
    places: Mapping[str, str | int]
    number: str


class Done(NamedTuple):
    """What comes back.

    Attributes:
        data: The parcel with the value or the error.
        failed: Whether it is an error.
        goods: What the parcel needs.
        trace: Where the error came from.
    """

    data: bytes
    failed: bool
    goods: Mapping[str, Any]
    trace: str = ""


_one_at_a_time = threading.RLock()
_within = threading.local()
_kept: OrderedDict[str, Shipped] = OrderedDict()


def within_a_job() -> bool:
    """Whether this thread is doing a job."""
    return bool(getattr(_within, "job", False))


def perform(task: bytes, goods: Sequence[Any]) -> bytes:
    """Does a job. One at a time in a process: Keras's global state is shared by all threads."""
    order = Task(*pickle.loads(task))
    with contextlib.nullcontext() if order.nested else _one_at_a_time:
        return pickle.dumps(tuple(_performed(order, goods)))


def _performed(order: Task, goods: Sequence[Any]) -> Done:
    outer, _within.job = within_a_job(), True
    try:
        if order.settings.process != PROCESS:
            order.settings.require_same()
            order.settings.apply()
            _leave_what_is_loaded()
        with contextlib.ExitStack() as stack:
            held = {name: _held(name, place, goods) for name, place in order.places.items()}
            for each in held.values():
                if isinstance(each, Shipped):
                    stack.enter_context(each.scope())
            function = unpacked(order.function, _giver(held, "function"))
            value = function(unpacked(order.job, _giver(held, "job")))
            return Done(*_sent(value, f"What {_name(function)} returned"))
    except BaseException as error:  # SystemExit too: the job's end, not the worker's
        return _failed(error)
    finally:
        _within.job = outer
        if order.settings.process != PROCESS:
            gc.collect()  # models are full of cycles


@functools.cache
def _leave_what_is_loaded() -> None:
    """The backend's own objects are many, and stay: collections need not look at them each time."""
    gc.freeze()


def _sent(value: Any, what: str) -> tuple[bytes, bool, Mapping[str, Any]]:
    parcel = packed(value, what)
    return parcel.data, False, parcel.goods


def _failed(error: BaseException) -> Done:
    trace = "".join(traceback.format_exception(error))
    try:
        parcel = packed(error, "The error")
        unpacked(parcel.data, brought(parcel.goods))
    except Exception:  # an exception that cannot be pickled, or not be made again
        text = f"{type(error).__name__}: {error}"
        parcel = packed(WorkerError(text, "The exception itself cannot travel."), "The error")
    return Done(parcel.data, True, parcel.goods, trace)


def _giver(held: Mapping[str, Any], which: str) -> Good:
    """Gives goods to what a parcel holds: models that are kept here, and arrays of its own."""

    def good(kind: str, name: str, number: int) -> Any:
        found = held[name]
        if kind == "model":
            return found.kept(f"{which} {number}")
        if kind == "shipped":
            return found
        if isinstance(found, str):
            return np.load(found, mmap_mode="c").view(np.ndarray)  # processes share the memory
        return found.copy()

    return good


def _held(name: str, place: str | int, goods: Sequence[Any]) -> Any:
    """A good: an array, or the path of its file; or a model, of which some are kept here."""
    if isinstance(place, str) and place.endswith(".npy"):
        return place
    if name not in _kept:
        if isinstance(place, str):
            with open(place, "rb") as file:
                found = pickle.load(file)
        else:
            found = goods[place]
        if isinstance(found, np.ndarray):
            return found
        _kept[name] = pickle.loads(found) if isinstance(found, bytes) else found
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
    _kept.move_to_end(name)
    return _kept[name]


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", None) or type(function).__name__
