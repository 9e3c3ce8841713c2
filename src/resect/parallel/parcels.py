"""A function and a job as bytes; what is large or a model travels apart, and once.

A parcel is a pickle in which large arrays and models are left out. Each of those is a *good*, known
by a hash of its content, so that a worker which has it already need not be given it again. What are
two objects here are two objects there, however equal: one may be changed without the other.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections import Counter
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

#: Gives what was left out of a parcel: by `"model"`, `"array"` or `"shipped"`, its content hash,
#: and its number among equal ones.
Good = Callable[[str, str, int], Any]


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


def unpacked(data: bytes, good: Good) -> Any:
    """What a parcel holds.

    Args:
        data: The pickle.
        good: Gives what was left out.
    """
    return _Unpickler(io.BytesIO(data), good).load()


def brought(goods: Mapping[str, Any]) -> Good:
    """Gives goods that came for one parcel alone."""

    def good(kind: str, name: str, number: int) -> Any:
        found = goods[name]
        if kind == "model":
            return found.fresh()
        return found.copy() if kind == "array" and number else found

    return good


def _pickler(buffer: io.BytesIO) -> Any:
    class Packer(pickler()):
        def __init__(self) -> None:
            super().__init__(buffer)
            self.goods: dict[str, Any] = {}
            self._seen: dict[int, tuple[Any, tuple[str, str, int]]] = {}
            self._equal: Counter[tuple[str, str]] = Counter()

        def persistent_id(self, obj: Any) -> tuple[str, str, int] | None:
            if id(obj) in self._seen:
                return self._seen[id(obj)][1]
            kind, good = _good(obj)
            if not kind:
                return None
            name = good.digest if isinstance(good, Shipped) else _digest(good)
            self.goods[name] = good
            found = kind, name, self._equal[kind, name]
            self._equal[kind, name] += 1
            self._seen[id(obj)] = obj, found  # the object too: its id must stay its own
            return found

    return Packer()


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, good: Good) -> None:
        super().__init__(file)
        self._good = good
        self._found: dict[tuple[str, str, int], Any] = {}

    def persistent_load(self, pid: tuple[str, str, int]) -> Any:
        if pid not in self._found:
            self._found[pid] = self._good(*pid)
        return self._found[pid]


def _good(value: Any) -> tuple[str, Any]:
    """What of a value travels apart, and how it stands for the value; `""` if nothing does."""
    if isinstance(value, Shipped):
        return "shipped", value
    if isinstance(value, keras.Model):
        return "model", Shipped(value)
    if type(value) is np.ndarray and value.nbytes >= LARGE and _is_plain(value.dtype):
        return "array", value
    return "", None


def _is_plain(dtype: np.dtype) -> bool:
    """Whether a file of NumPy's says all of a dtype: of bfloat16 and its like it does not."""
    return dtype.isbuiltin == 1 and not dtype.hasobject


def _digest(array: np.ndarray) -> str:
    found = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    found.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
    return found.hexdigest()
