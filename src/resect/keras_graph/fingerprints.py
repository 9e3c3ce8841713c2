"""What makes two layers compute the same, given the same variables.

Layers of one fingerprint can be run by one compiled function that takes their variables as
arguments. It is found by looking through attributes, not from the configuration, which need not say
all: names and what only matters in training are passed over, and whatever is not known to be alike
counts as different. So two layers of one fingerprint are alike, and two that are alike may have
different ones, which costs a compilation.
"""

from __future__ import annotations

import types
from collections.abc import Hashable
from typing import Any

import keras
import numpy as np

from resect.keras_graph.private import FRESH_LISTS

# What does not bear on the result in inference: names, bookkeeping, the two methods that Keras
# wraps in each layer, and whether something is trained.
_PASSED_OVER = FRESH_LISTS | {
    "name", "_name", "_path", "_parent_path", "build", "quantize", "_tracker", "_lock",
    "_auto_config", "_call_context_args", "_call_signature", "_trainable", "trainable", "_called",
    "_build_shapes_dict", "_metrics", "_saved_model_inputs_spec", "_saved_model_arg_spec",
    "_obj_reference_counts_dict", "_self_setattr_tracking", "_loss_tracker",
    "_self_unconditional_checkpoint_dependencies", "_self_unconditional_dependency_names",
    "_self_update_uid", "_self_saveable_object_factories", "_self_name_based_restores",
}  # fmt: skip
_ONLY_TRAINING = ("_initializer", "_constraint", "_regularizer")
_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)
_KNOWN = ("keras.", "keras_hub.")


def fingerprint(operation: Any, seen: dict[int, int] | None = None) -> Hashable:
    """Equal for operations that compute the same, given the same variables in the same order.

    Args:
        operation: A layer or a raw operation.
        seen: Numbers of the objects met so far, when several operations are looked at together.
    """
    return _of(operation, {} if seen is None else seen)


def _of(value: Any, seen: dict[int, int]) -> Hashable:
    if isinstance(value, _PLAIN):
        return type(value).__name__, value if value == value else "nan"
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType, type, np.ufunc)):
        return "is", id(value)
    if id(value) in seen:
        return "seen", seen[id(value)]
    seen[id(value)] = len(seen)
    if isinstance(value, types.MethodType):
        return "method", id(value.__func__), _of(value.__self__, seen)
    if isinstance(value, keras.Variable):
        return "variable", tuple(value.shape), str(value.dtype)
    if isinstance(value, np.ndarray):
        plain = value.dtype != object
        return "array", value.shape, str(value.dtype), value.tobytes() if plain else id(value)
    if isinstance(value, (tuple, list)):
        return "sequence", tuple(_of(item, seen) for item in value)
    if isinstance(value, dict):
        return "dict", tuple((_of(k, seen), _of(v, seen)) for k, v in value.items())
    if isinstance(value, (set, frozenset)):
        return "set", frozenset(_of(item, seen) for item in value)
    if type(value).__module__.startswith(_KNOWN) or isinstance(value, keras.Layer):
        return type(value).__name__, id(type(value)), _attributes(value, seen)
    return "is", id(value)


def _attributes(value: Any, seen: dict[int, int]) -> Hashable:
    own = getattr(value, "__dict__", None)
    if own is None:
        return id(value)
    return tuple(
        (name, _of(own[name], seen))
        for name in sorted(own)
        if name not in _PASSED_OVER
        and (name == "activity_regularizer" or not name.endswith(_ONLY_TRAINING))
    )
