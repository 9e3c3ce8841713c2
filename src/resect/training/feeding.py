"""Data as people have it, given to `fit` and `evaluate` in an order that can be repeated."""

from __future__ import annotations

import functools
import hashlib
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from resect.errors import SurgeryError
from resect.importance.data import Batch, batches, require_end


@dataclass(frozen=True)
class Data:
    """Data that can be gone through any number of times.

    Attributes:
        given: As the user gave it: arrays in a tuple, a list of batches, a `tf.data.Dataset`, a
            PyTorch `DataLoader`, a `keras.utils.PyDataset`.
        batch_size: Number of samples in a batch, where it is arrays.
    """

    given: Any
    batch_size: int

    def feed(self, order: int | None = None) -> Any:
        """What `fit` and `evaluate` take.

        Args:
            order: A seed: arrays are shuffled by it. `None`: as they are. Other data comes in the
                order in which it comes.
        """
        if isinstance(self.given, tuple):
            rng = None if order is None else np.random.default_rng(order)
            return Slices(Batch(*self.given), self.batch_size, rng)
        if isinstance(self.given, list):
            return Listed(self.given)
        return self.given

    def batches(self) -> Iterator[Batch]:
        """Its batches as arrays."""
        return batches(self.given, self.batch_size)

    def description(self) -> dict[str, Any]:
        """What makes it this data: for arrays all of it, for loaders its first batch's shapes."""
        arrays = self.given if isinstance(self.given, tuple) else next(self.batches())
        leaves = [np.asarray(a) for a in keras.tree.flatten(tuple(arrays)) if a is not None]
        found: dict[str, Any] = {
            "kind": type(self.given).__name__,
            "shapes": [[*array.shape] for array in leaves],
            "dtypes": [str(array.dtype) for array in leaves],
        }
        if isinstance(self.given, tuple):
            digest = hashlib.sha256()
            for array in leaves:
                plain = array.tolist() if array.dtype == object else array
                digest.update(repr(plain).encode() if array.dtype == object else array.tobytes())
            found["content"] = digest.hexdigest()
        return found


def data_of(given: Any, batch_size: int, what: str) -> Data:
    """Data, if it can be gone through more than once.

    Args:
        given: As the user gave it.
        batch_size: Of arrays.
        what: The name of the argument.

    Raises:
        SurgeryError: It is an iterator, or no data.
    """
    if hasattr(given, "__next__"):
        raise SurgeryError(
            f"{what} is a {type(given).__name__}, which is exhausted after one pass, and every "
            "step needs all of it.",
            "Give a list of its batches, a PyDataset, a tf.data.Dataset or a DataLoader.",
        )
    if hasattr(given, "shape") or isinstance(given, Mapping):
        given = (given,)
    if isinstance(given, tuple):
        given = tuple(_mapped(_array, part) for part in given)
    elif isinstance(given, Sequence) and not isinstance(given, keras.utils.PyDataset):
        given = [_item(item) for item in given]
    elif not _is_known(given):
        raise SurgeryError(
            f"{what} is a {type(given).__name__}, which Keras does not train on.",
            "Give arrays as a tuple (x, y), a list of batches, a tf.data.Dataset, a DataLoader or "
            "a PyDataset.",
        )
    require_end(given, what)
    data = Data(given, batch_size)
    next(data.batches())  # says what is wrong with it
    return data


def _item(item: Any) -> tuple[Any, ...]:
    """A batch of a list as a tuple, also one that a DataLoader has collated to a list."""
    if isinstance(item, list) and all(hasattr(part, "shape") for part in item) and len(item) < 4:
        return tuple(item)
    return item if isinstance(item, tuple) else (item,)


def _is_known(given: Any) -> bool:
    names = {f"{cls.__module__.split('.')[0]}.{cls.__name__}" for cls in type(given).__mro__}
    return isinstance(given, keras.utils.PyDataset) or bool(
        names & {"tensorflow.DatasetV2", "torch.DataLoader"}
    )


class Slices(keras.utils.PyDataset):
    """Arrays, batch by batch.

    Args:
        arrays: The arrays.
        batch_size: Number of samples in a batch; the last one may be smaller.
        rng: Draws the order; `None`: as it is.
    """

    def __init__(self, arrays: Batch, batch_size: int, rng: np.random.Generator | None) -> None:
        super().__init__()
        self.arrays, self.size = arrays, batch_size
        self.order = np.arange(arrays.size) if rng is None else rng.permutation(arrays.size)

    def shuffle(self, order: int) -> None:
        """Draws another order from a seed."""
        self.order = np.random.default_rng(order).permutation(self.arrays.size)

    def __len__(self) -> int:
        return -(-self.arrays.size // self.size)

    def __getitem__(self, index: int) -> Any:
        chosen = self.order[index * self.size : (index + 1) * self.size]
        parts = [_mapped(lambda array: array[chosen], part) for part in self.arrays]
        return _trimmed(parts)


class Listed(keras.utils.PyDataset):
    """A list of batches."""

    def __init__(self, items: Sequence[tuple[Any, ...]]) -> None:
        super().__init__()
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return _trimmed([_mapped(lambda a: np.array(_array(a)), p) for p in self.items[index]])


def _trimmed(parts: list[Any]) -> tuple[Any, ...]:
    """Without what is not there at the end: Keras tells by the length what is meant."""
    while len(parts) > 1 and parts[-1] is None:
        parts.pop()
    return tuple(parts)


def _mapped(function: Any, structure: Any) -> Any:
    if structure is None:
        return None
    return keras.tree.map_structure(lambda a: None if a is None else function(a), structure)


def _array(value: Any) -> np.ndarray:
    if keras.ops.is_tensor(value):
        return np.asarray(keras.ops.convert_to_numpy(value))
    array = value.numpy() if hasattr(value, "numpy") else np.asarray(value)
    return array.astype(keras.config.floatx()) if array.dtype == np.float64 else array


def plainly(model: Any, method: str) -> Any:
    """`fit` or `evaluate` of a model, on data for its inputs.

    Those of KerasHub's tasks preprocess first, and take no `PyDataset`.
    """
    task = hasattr(model, "preprocess_samples")
    return functools.partial(getattr(keras.Model if task else type(model), method), model)


def seeded(*seeds: int) -> int:
    """Sets every global seed to one made of several, and returns it.

    PyTorch's too on the other backends, where a `DataLoader` draws its order from it.
    """
    seed = int(np.random.SeedSequence(seeds).generate_state(1)[0]) % 2**31
    keras.utils.set_random_seed(seed)
    random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
    return seed
