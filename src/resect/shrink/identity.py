"""What makes two requests the same one: the model, the data and the arguments."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from resect.keras_graph.training import compiled_with, is_compiled
from resect.shrink.values import Values, values_of
from resect.verbs import read


def model_identity(model: Any) -> dict[str, Any]:
    """A model as JSON: what it is, and digests of its graph and its values."""
    values = values_of(model)
    found: dict[str, Any] = {
        "graph": _digest(_drawing(model)),
        "weights": _digest(_bytes(values)),
    }
    if is_compiled(model):
        found["optimizer"] = _unnamed(plain(model.optimizer))
        found["loss"] = _unnamed(plain(compiled_with(model, "loss")))
        for argument in ("loss_weights", "metrics", "weighted_metrics"):
            found[argument] = plain(compiled_with(model, argument))
    return found


def _drawing(model: Any) -> list[bytes]:
    """The graph as text, without the name of the model: Keras counts it up in every session."""
    return [line.encode() for line in str(read(model)).splitlines()[1:]]


def _bytes(values: Values) -> list[bytes]:
    arrays = [*values.arrays, *values.optimizer]
    shapes = repr([array.shape for array in arrays])
    return [repr(values.paths).encode(), shapes.encode(), *(_array(a) for a in arrays)]


def _array(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def _digest(parts: Sequence[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def _unnamed(value: Any) -> Any:
    """Without the names of optimizers and losses: Keras counts them up in every session."""
    if isinstance(value, list):
        return [_unnamed(item) for item in value]
    if isinstance(value, dict):
        return {key: _unnamed(item) for key, item in value.items() if key != "name"}
    return value


def plain(value: Any) -> Any:
    """An object as JSON, the same in every process: no addresses in memory."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, keras.Variable) or keras.ops.is_tensor(value):
        return np.asarray(keras.ops.convert_to_numpy(value)).tolist()
    if isinstance(value, np.generic):
        return value.item()
    config = getattr(value, "get_config", None)
    if config is not None and not isinstance(value, type):
        return {"class": type(value).__name__, **plain(config())}
    return getattr(value, "__qualname__", type(value).__qualname__)
