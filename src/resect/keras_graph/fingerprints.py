"""What makes two layers compute the same, given the same variables.

Layers of one fingerprint can be run by one compiled function that takes their variables as
arguments. It is found by looking through attributes, not from the configuration, which need not say
all: names and what only matters in training are passed over, and whatever is not known to be alike
counts as different. So two layers of one fingerprint are alike, and two that are alike may have
different ones, which costs a compilation. A fingerprint holds identities of objects, so it means
something only as long as the layers live.
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Hashable, Iterator
from typing import Any

import keras
import numpy as np

from resect.keras_graph.private import FRESH_LISTS, TRACKED

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
ONLY_TRAINING = ("_initializer", "_constraint", "_regularizer")
_PLAIN = (bool, int, str, bytes, type(None))
_CONTAINERS = frozenset({list, tuple, dict, set, frozenset}) | TRACKED
_KNOWN = ("keras.", "keras_hub.")
_LIBRARIES = (*_KNOWN, "builtins", "jax.", "numpy.", "tensorflow.", "torch.")
# Methods of a layer that do not run when it is called.
_BEFORE = {"__init__", "build", "get_config", "from_config"}


def fingerprint(operation: Any, seen: dict[int, int] | None = None) -> Hashable:
    """Equal for operations that compute the same, given the same variables in the same order.

    Args:
        operation: A layer or a raw operation, or what it is called with.
        seen: Numbers of the objects met so far, when several operations are looked at together.
    """
    given = frozenset(id(variable) for variable in getattr(operation, "variables", ()))
    return _Look({} if seen is None else seen, given).of(operation)


class _Look:
    """Looks through an operation.

    Args:
        seen: Numbers of the objects met so far.
        given: The variables that are passed to what is compiled; others are constants in it.
    """

    def __init__(self, seen: dict[int, int], given: frozenset[int]) -> None:
        self._seen, self._given = seen, given

    def of(self, value: Any) -> Hashable:
        """What is to be equal for two values that do the same."""
        if type(value) in _PLAIN:
            return type(value), value
        if isinstance(value, (float, complex, np.generic)):
            return type(value), _bits(value)
        if isinstance(value, (types.FunctionType, types.BuiltinFunctionType, type, np.ufunc)):
            return "is", id(value)
        if id(value) in self._seen:
            return "seen", self._seen[id(value)]
        if isinstance(value, keras.Variable) and id(value) not in self._given:
            return "is", id(value)
        self._seen[id(value)] = len(self._seen)
        return self._within(value)

    def _within(self, value: Any) -> Hashable:
        if isinstance(value, types.MethodType):
            return "method", id(value.__func__), self.of(value.__self__)
        if isinstance(value, keras.Variable):
            autocast = getattr(value, "_autocast", None)
            return type(value), tuple(value.shape), str(value.dtype), autocast
        if type(value) is np.ndarray and not value.dtype.hasobject:
            return "array", value.shape, str(value.dtype), value.tobytes()
        if isinstance(value, slice):
            return slice, self.of(value.start), self.of(value.stop), self.of(value.step)
        if type(value) in _CONTAINERS or _is_named_tuple(value):
            return self._contained(value)
        if type(value).__module__.startswith(_KNOWN) or isinstance(value, keras.Layer):
            return type(value), self._attributes(value)
        return "is", id(value)

    def _contained(self, value: Any) -> Hashable:
        if isinstance(value, dict):
            items = tuple((self.of(k), self.of(v)) for k, v in value.items())
            return type(value), items
        if not isinstance(value, (set, frozenset)):
            return type(value), tuple(self.of(item) for item in value)
        if all(type(item) in _PLAIN for item in value):
            return type(value), frozenset((type(item), item) for item in value)
        return "is", id(value)  # its items come in no order in which to number them

    def _attributes(self, value: Any) -> Hashable:
        own = dict(_slots(value)) | getattr(value, "__dict__", {})
        read = _read_when_called(type(value))
        return tuple(
            (name, self.of(own[name]))
            for name in sorted(own)
            if not _only_matters_before(name) or {name, name.lstrip("_")} & read
        )


def _bits(value: Any) -> Hashable:
    """A number, such that −0 is not 0, and what is no number is itself."""
    if isinstance(value, np.generic):
        return str(value.dtype), value.tobytes() if not value.dtype.hasobject else id(value)
    return repr(value)


def _is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields") and not hasattr(value, "__dict__")


def _slots(value: Any) -> Iterator[tuple[str, Any]]:
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)


def _only_matters_before(name: str) -> bool:
    ends = name != "activity_regularizer" and name.endswith(ONLY_TRAINING)
    return ends or name in _PASSED_OVER


@functools.cache
def _read_when_called(cls: Any) -> frozenset[str]:
    """The names that methods of a class mention, Keras's own left out: they may bear on the result.

    Nothing keeps a layer of the user's from computing with its name, or with a constraint.
    """
    found: set[str] = set()
    looked: set[Any] = set()
    for base in cls.__mro__:
        if not _is_library(base):
            for name, member in vars(base).items():
                if name not in _BEFORE:
                    _mention(member, found, looked)
    return frozenset(found)


def _mention(member: Any, found: set[str], looked: set[Any]) -> None:
    """Adds the names in a function, in those within it and in those that it calls by name."""
    for each in ("fget", "func", "__func__", "__wrapped__"):
        if getattr(member, each, None) is not None:
            _mention(getattr(member, each), found, looked)
    if not isinstance(member, types.FunctionType) or member in looked or _is_library(member):
        return
    looked.add(member)
    names = set(_names(member.__code__))
    found |= names
    for other in [*(member.__globals__.get(name) for name in names), *_enclosed(member)]:
        if isinstance(other, types.FunctionType):
            _mention(other, found, looked)


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
        elif isinstance(constant, str):
            yield constant


def _enclosed(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # of a name that has no value yet
            yield cell.cell_contents


def _is_library(thing: Any) -> bool:
    return (thing.__module__ or "").startswith(_LIBRARIES)
