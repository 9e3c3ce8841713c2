"""A function and a job as bytes; what is large or a model travels apart, and once.

A parcel is a pickle in which large arrays and models are left out. Each of those is a *good*, known
by a hash of its content, so that a worker which has it already need not be given it again.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from resect.errors import SurgeryError, WorkerError
from resect.parallel.dumping import pickler
from resect.parallel.shipped import Shipped

#: The bytes from which on an array travels apart.
LARGE = 2**20


@dataclass(frozen=True)
class Parcel:
    """Something as bytes.

    Attributes:
        data: The pickle.
        goods: What was left out of it, by content hash: a NumPy array or a `Shipped`.
    """

    data: bytes
    goods: Mapping[str, Any] = field(default_factory=dict)


def packed(value: Any, what: str) -> Parcel:
    """Makes a parcel.

    Args:
        value: Anything that can be pickled, models in it or not.
        what: What it is, for the message.

    Raises:
        WorkerError: Something in it cannot be pickled.
        CopyError: A model in it cannot travel.
    """
    buffer = io.BytesIO()
    pickler = _pickler(buffer)
    try:
        pickler.dump(value)
    except SurgeryError:
        raise
    except Exception as error:
        raise WorkerError(
            f"{what} cannot travel to another process: {type(error).__name__}: {error}",
            "Give it what it needs as arrays, numbers, text or a model; open files, datasets and "
            "generators inside the function, or use executor=resect.parallel.Serial().",
        ) from error
    return Parcel(buffer.getvalue(), pickler.goods)


def unpacked(data: bytes, good: Callable[[str], Any]) -> Any:
    """What a parcel holds.

    Args:
        data: The pickle.
        good: Gives what was left out, by content hash.
    """
    return _Unpickler(io.BytesIO(data), good).load()


def _pickler(buffer: io.BytesIO) -> Any:
    class Packer(pickler()):
        def __init__(self) -> None:
            super().__init__(buffer)
            self.goods: dict[str, Any] = {}
            self._seen: dict[int, tuple[Any, tuple[str, str]]] = {}

        def persistent_id(self, obj: Any) -> tuple[str, str] | None:
            if id(obj) in self._seen:
                return self._seen[id(obj)][1]
            kind, good = _good(obj)
            if not kind:
                return None
            name = good.digest if isinstance(good, Shipped) else _digest(good)
            self.goods[name] = good
            self._seen[id(obj)] = obj, (kind, name)  # the object too: its id must stay its own
            return kind, name

    return Packer()


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, good: Callable[[str], Any]) -> None:
        super().__init__(file)
        self._good = good

    def persistent_load(self, pid: tuple[str, str]) -> Any:
        kind, name = pid
        found = self._good(name)
        return found.model() if kind == "model" else found


def _good(value: Any) -> tuple[str, Any]:
    """What of a value travels apart, and how it stands for the value; `""` if nothing does."""
    if isinstance(value, Shipped):
        return "shipped", value
    if isinstance(value, keras.Model):
        return "model", Shipped(value)
    if type(value) is np.ndarray and value.nbytes >= LARGE and not value.dtype.hasobject:
        return "array", value
    return "", None


def _digest(array: np.ndarray) -> str:
    found = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    found.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
    return found.hexdigest()
