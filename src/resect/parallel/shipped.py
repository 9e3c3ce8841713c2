"""A model as a value that travels."""

from __future__ import annotations

import hashlib
import tempfile
from collections import OrderedDict
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from resect.errors import SurgeryError

#: How many models a process keeps.
KEPT = 4

_models: OrderedDict[str, Any] = OrderedDict()


@dataclass(frozen=True, init=False, repr=False)
class Shipped:
    """A model as a value that can be pickled, and brought back in another process.

    Args:
        model: A Keras model.

    Attributes:
        name: The model's name.
        digest: A hash of the content.

    Example:

    >>> import keras, resect
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="small")
    >>> shipped = resect.parallel.Shipped(model)
    >>> shipped.model().name
    'small'
    """

    name: str
    digest: str
    data: bytes = field(compare=False)

    def __init__(self, model: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            model.save(path)
            data = path.read_bytes()
        values = dict(name=model.name, digest=hashlib.sha256(data).hexdigest(), data=data)
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"Shipped('{self.name}', {len(self.data):,} bytes)"

    def model(self) -> Any:
        """The model, in this process: the same object each time, while it is as it came."""
        if self.digest not in _models:
            with tempfile.TemporaryDirectory() as folder, self.scope():
                path = Path(folder) / "model.keras"
                path.write_bytes(self.data)
                _models[self.digest] = keras.saving.load_model(path, safe_mode=False)
            while len(_models) > KEPT:
                _models.popitem(last=False)
        _models.move_to_end(self.digest)
        return _models[self.digest]

    def scope(self) -> AbstractContextManager[Any]:
        """Within it, Keras knows the classes and functions that the model is made of."""
        return keras.saving.custom_object_scope({})


def cloudpickle() -> Any:
    """The library that pickles functions and classes by value.

    Raises:
        SurgeryError: It is not installed.
    """
    try:
        import cloudpickle
    except ImportError as error:
        raise SurgeryError(
            "What is sent to other processes is pickled by cloudpickle, which is not installed.",
            'pip install "resect[parallel]"',
        ) from error
    return cloudpickle
