"""Whether a layer that was made again is like the one that it stands for.

Configurations need not say all that a layer of the user's own computes with. What they leave out
shows in attributes that have other values.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from resect.keras_graph.state import OF_EVERY_LAYER

_LIBRARIES = ("keras.", "keras_hub.")
#: What training and the like leave on a model.
_OF_EVERY_MODEL = {
    "compiled", "distribute_reduction_method", "distribute_strategy", "history", "jit_compile",
    "loss", "optimizer", "predict_function", "run_eagerly", "steps_per_execution",
    "stop_evaluating", "stop_predicting", "stop_training", "test_function", "train_function",
}  # fmt: skip
#: How deep containers and objects are looked into.
_DEPTH = 6


def unlike(layer: Any, other: Any) -> Iterator[str]:
    """The attributes of a layer that another one, made of its configuration, does not have so.

    Layers, variables and generators of random numbers are for others to compare. Of Keras's own
    layers, whose configurations say all, only what was put on them besides is looked at.
    """
    own = not type(layer).__module__.startswith(_LIBRARIES)
    for name, value in vars(layer).items():
        if name in OF_EVERY_LAYER or name.startswith("__"):
            continue
        if isinstance(layer, keras.Model) and (name.startswith("_") or name in _OF_EVERY_MODEL):
            continue
        if name not in vars(other):
            if (own and not name.startswith("_")) or isinstance(value, types.FunctionType):
                yield name
        elif own and not _alike(value, vars(other)[name], _DEPTH):
            yield name


def _alike(one: Any, other: Any, depth: int) -> bool:
    if one is other or not depth or _is_elsewhere(one):
        return True
    if isinstance(one, types.MethodType) and isinstance(other, types.MethodType):
        return one.__func__ is other.__func__ or _alike(one.__func__, other.__func__, depth)
    if isinstance(one, types.FunctionType) and isinstance(other, types.FunctionType):
        return one.__code__ == other.__code__ and _alike(_bound(one), _bound(other), depth - 1)
    if keras.ops.is_tensor(one) or isinstance(one, (np.ndarray, np.generic)):
        return _same_array(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = list(one) == list(other)
        return keys and all(_alike(one[key], other[key], depth - 1) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(_alike(a, b, depth - 1) for a, b in pairs)
    if type(one) is not type(other):
        return bool(one == other) if _is_plain(one) and _is_plain(other) else False
    if _is_plain(one):
        return one == other or repr(one) == repr(other)
    if isinstance(one, type):
        return one.__qualname__ == other.__qualname__
    return _alike(getattr(one, "__dict__", None), getattr(other, "__dict__", None), depth - 1)


def _is_plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, complex, str, bytes, frozenset, set, type(None)))


def _is_elsewhere(value: Any) -> bool:
    known = (keras.Layer, keras.Variable, keras.random.SeedGenerator, keras.metrics.Metric)
    return isinstance(value, known)


def _bound(function: Any) -> tuple[Any, ...]:
    """What a function computes with besides its arguments and globals."""
    cells = function.__closure__ or ()
    return function.__defaults__, tuple(cell.cell_contents for cell in cells)


def _same_array(one: Any, other: Any) -> bool:
    try:
        a, b = (np.asarray(keras.ops.convert_to_numpy(each)) for each in (one, other))
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    except Exception:  # the other is nothing of the kind
        return False
