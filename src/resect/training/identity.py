"""What makes two requests the same one: the model, the data and the arguments."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import types
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from resect.keras_graph.reading import parts_of
from resect.keras_graph.training import compiled_with, is_compiled
from resect.training.values import SEED, Values, values_of
from resect.verbs import read


def model_identity(model: Any) -> dict[str, Any]:
    """A model as JSON: what it is, and digests of its graph, its configurations and its values.

    The states of random generators are none of it: a model that is loaded has others each time.
    """
    values = values_of(model)
    found: dict[str, Any] = {
        "graph": _digest(_drawing(model)),
        "layers": _digest(_configurations(model)),
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


def _configurations(model: Any) -> list[bytes]:
    """What the layers are set to: two models of one graph and equal weights may differ in that."""
    found = []
    for layer in parts_of(model):
        if isinstance(layer, keras.Model):  # the layers in it say it
            continue
        described: dict[str, Any] = {"class": type(layer).__qualname__}
        with contextlib.suppress(Exception):  # one without a configuration
            described["config"] = _unnamed(plain(layer.get_config()))
        described["functions"] = {
            name: plain(value)
            for name, value in sorted(vars(layer).items())
            if isinstance(value, types.FunctionType)
        }
        found.append(json.dumps(described, sort_keys=True).encode())
    return found


def _bytes(values: Values) -> list[bytes]:
    pairs = zip(values.paths, values.arrays, strict=True)
    arrays = [*(array for path, array in pairs if path != SEED), *values.optimizer]
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
    """Without what is another one in every session: names that Keras counts up, seeds it draws."""
    if isinstance(value, list):
        return [_unnamed(item) for item in value]
    if isinstance(value, dict):
        if value.get("class_name") == "__lambda__":
            return "lambda"  # as Keras writes it; it is looked at as a function
        return {key: _unnamed(item) for key, item in value.items() if key not in ("name", "seed")}
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
    name = getattr(value, "__qualname__", type(value).__qualname__)
    code = code_of(value)
    return f"{name} ({code})" if code else name


def code_of(function: Any) -> str:
    """What a function of the user's own does, as a digest; `""` for anything else.

    Of its code, the functions within it, its defaults, and the numbers and words that it encloses.
    """
    return _digest([json.dumps(_code(function, 4)).encode()])[:12] if _is_own(function) else ""


def _is_own(value: Any) -> bool:
    if isinstance(value, (functools.partial, types.MethodType)):
        return True
    return isinstance(value, types.FunctionType) and not value.__module__.startswith("keras.")


def _code(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return repr(value)
    if isinstance(value, types.CodeType):
        constants = [_code(each, depth) for each in value.co_consts]
        return [value.co_code.hex(), constants, value.co_names, value.co_varnames]
    if depth and isinstance(value, (tuple, list)):
        return [_code(item, depth - 1) for item in value]
    if depth and isinstance(value, Mapping):
        return [[str(key), _code(item, depth - 1)] for key, item in value.items()]
    if depth and isinstance(value, types.FunctionType) and _is_own(value):
        defaults = [value.__defaults__, value.__kwdefaults__]
        enclosed = [_enclosed(cell) for cell in value.__closure__ or ()]
        return [_code(each, depth - 1) for each in (value.__code__, *defaults, *enclosed)]
    if depth and isinstance(value, functools.partial):
        parts = (value.func, value.args, value.keywords)
        return [_code(each, depth - 1) for each in parts]
    if depth and isinstance(value, types.MethodType):
        return _code(value.__func__, depth - 1)
    return type(value).__qualname__


def _enclosed(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # of a name that has no value yet
        return None
