"""Data as people have it, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from resect.errors import SurgeryError
from resect.graph import Graph
from resect.importance.backends import as_numpy


class Batch(NamedTuple):
    """Inputs, targets and sample weights, as NumPy arrays in their structure; `None`: none."""

    x: Any
    y: Any = None
    weight: Any = None

    @property
    def size(self) -> int:
        """Number of samples."""
        return next(len(array) for array in keras.tree.flatten(self.x) if array is not None)


def batches(data: Any, batch_size: int) -> Iterator[Batch]:
    """One batch after the other, never all at once.

    Args:
        data: A tuple `(x,)`, `(x, y)` or `(x, y, sample_weight)` of arrays, or of lists and dicts
            of them; a `keras.utils.PyDataset`; or what gives batches when iterated over: a
            `tf.data.Dataset`, a PyTorch `DataLoader`, a list or generator of such tuples.
        batch_size: Of arrays: number of samples in a batch, the last one may be smaller.

    Raises:
        SurgeryError: The data has no samples, or no end, or is none of these.
    """
    require_end(data, "data")
    count = 0
    for item in _items(data, batch_size):
        count += 1
        yield item
    if not count:
        raise SurgeryError("The data has no batches.", "Give at least one sample.")


def require_end(data: Any, what: str) -> None:
    """Raises for a `tf.data.Dataset` that goes on for ever.

    Args:
        data: The data.
        what: The name of the argument.

    Raises:
        SurgeryError: It does.
    """
    cardinality: Any = getattr(data, "cardinality", None)
    if cardinality is not None and int(cardinality()) == -1:
        raise SurgeryError(
            f"{what} is a {type(data).__name__} without an end, and all of it is gone through.",
            f"Leave out repeat(), or take so many batches: {what}.take(100).",
        )


def _items(data: Any, batch_size: int) -> Iterator[Batch]:
    if isinstance(data, keras.utils.PyDataset):
        yield from (_batch(data[i]) for i in range(_length(data)))
    elif isinstance(data, tuple) and not hasattr(data, "_asdict"):
        yield from _slices(Batch(*_mapped(_rows_of, data)), batch_size)
    elif hasattr(data, "shape") or isinstance(data, Mapping):
        yield from _slices(Batch(_mapped(_rows_of, data)), batch_size)
    elif isinstance(data, Iterable):
        yield from (_batch(item) for item in data)
    else:
        raise SurgeryError(
            f"{type(data).__name__} is no data that can be measured with.",
            "Give arrays as a tuple (x, y), a tf.data.Dataset, a DataLoader or a PyDataset.",
        )


def _length(data: Any) -> int:
    count = data.num_batches if hasattr(data, "num_batches") else len(data)
    if count is None:
        raise SurgeryError(
            "The PyDataset has no end.", "Give it a length: measures go through it once."
        )
    return count


def _batch(item: Any) -> Batch:
    if isinstance(item, list) and all(hasattr(part, "shape") for part in item) and len(item) < 4:
        item = tuple(item)  # a DataLoader collates tuples to lists
    return Batch(*_arrays(keras.utils.unpack_x_y_sample_weight(item)))


def _slices(data: Batch, batch_size: int) -> Iterator[Batch]:
    sizes = {len(array) for array in keras.tree.flatten(data) if array is not None}
    if len(sizes) > 1:
        raise SurgeryError(
            f"The arrays have different numbers of samples: {', '.join(map(str, sorted(sizes)))}.",
            "Give one target, and one weight, for every sample.",
        )
    for begin in range(0, data.size, batch_size):
        part = slice(begin, begin + batch_size)
        yield Batch(*_arrays(_mapped(lambda array: array[part], tuple(data))))  # noqa: B023


def _mapped(function: Any, structure: Any) -> Any:
    return keras.tree.map_structure(lambda a: None if a is None else function(a), structure)


def _rows_of(value: Any) -> Any:
    """What slices can be taken of, which are read only when they are needed: no copy of it all."""
    sliced = isinstance(value, np.ndarray) or keras.ops.is_tensor(value)
    return value if sliced else _array(value)


def _arrays(structure: Any) -> Any:
    return _mapped(_array, structure)


def _array(value: Any) -> np.ndarray:
    if keras.ops.is_tensor(value):
        array = as_numpy(value)
    else:
        array = value.numpy() if hasattr(value, "numpy") else np.asarray(value)
    return array.astype(keras.config.floatx()) if array.dtype == np.float64 else array


def flat_inputs(graph: Graph, x: Any) -> list[Any]:
    """Inputs in the order of a model's, however they are given.

    Raises:
        SurgeryError: They are not those of the model.
    """
    names = [ref.call.layer for ref in graph.input_refs]
    if isinstance(x, Mapping) and not isinstance(graph.inputs, Mapping):
        missing = [name for name in names if name not in x]
        if not missing:
            return [x[name] for name in names]
        raise SurgeryError(
            f"The data has no input '{missing[0]}'.", f"It has {', '.join(map(str, x))}."
        )
    if isinstance(x, Mapping):
        x = {key: x[key] for key in graph.inputs if key in x}
    found = keras.tree.flatten(x)
    if len(found) != len(names):
        raise SurgeryError(
            f"The data has {len(found)} inputs, and the model takes {len(names)}.",
            f"Give one array for each of {', '.join(names)}.",
        )
    return found
