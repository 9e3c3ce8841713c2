"""Exact copies of objects, attribute by attribute and by type, without running constructors.

What a trained layer has become (built, quantized, LoRA-adapted, frozen in parts, with a
vocabulary) is in its attributes. Variables are copied by value (or shared), layers as the layers
that they are, Keras's own containers as themselves, functions that refer to a layer as functions
that refer to its copy. What is of a type that is not known to be copyable is not copied.

Every object is copied once: sharing inside and between layers survives.
"""

from __future__ import annotations

import abc
import collections
import copy
import dataclasses
import enum
import functools
import inspect
import operator
import re
import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from resect.errors import CopyError
from resect.keras_graph import private
from resect.keras_graph.values import (
    copied_tensor,
    copied_variable,
    is_backend_tensor,
    is_tracking_reference,
)
from resect.options import Weights

_ATOMIC: tuple[type, ...] = (
    str, int, float, bool, complex, bytes, type(None), type(Ellipsis), type, range, slice,
    types.ModuleType, types.BuiltinFunctionType, types.GenericAlias, np.dtype, np.generic,
    inspect.Signature, re.Pattern, enum.Enum, np.ufunc,
)  # fmt: skip
_ATOMIC_EXACT = frozenset({*_ATOMIC, keras.dtype_policies.DTypePolicy})

#: Stands for an attribute that a copy does not have.
_ABSENT = object()

# Objects that Keras calls and that hold nothing but settings: their attributes are copied even
# where the class is the user's.
_SETTINGS: tuple[type, ...] = (
    keras.Initializer,
    keras.Regularizer,
    keras.constraints.Constraint,
    keras.Quantizer,
    keras.Loss,
    keras.metrics.Metric,
    keras.random.SeedGenerator,
    keras.dtype_policies.DTypePolicy,
    keras.dtype_policies.DTypePolicyMap,
    keras.InputSpec,
    keras.optimizers.schedules.LearningRateSchedule,
)

# Of those, what describes a layer and is never written to: with the weights, a copy shares it.
_DESCRIPTIONS: tuple[type, ...] = (
    keras.Initializer,
    keras.Regularizer,
    keras.constraints.Constraint,
    keras.InputSpec,
)

_How = Callable[["Attributes", Any], Any]


class NotCopyableError(Exception):
    """An attribute of a type that is not known to be copyable."""


class Attributes(abc.ABC):
    """Copies objects, each once.

    Args:
        weights: `"copy"` gives every variable a value of its own; `"share"` keeps the variables.
        model: Copies a model with a graph of its own.
        values: `False` keeps the variables too, for a rehearsal.

    Attributes:
        variables: Pairs of a variable of the source and the variable that stands for it.
    """

    def __init__(
        self,
        weights: Weights,
        model: Callable[[Any], Any],
        *,
        values: bool = True,
    ) -> None:
        self.weights = weights
        self.values = values
        self.variables: list[tuple[Any, Any]] = []
        self._model = model
        self._memo: dict[int, Any] = {}
        self._copiers: dict[type, _How] = {}
        self._layouts: dict[tuple[Any, ...], list[tuple[str, _How]]] = {}
        self._sources: list[Any] = []  # keeps every source alive: the memo goes by identity

    @abc.abstractmethod
    def layer(self, layer: Any, name: str | None = None) -> Any:
        """A copy of a layer or operation, under a new name if one is given."""

    def remember(self, source: Any, new: Any) -> None:
        """Makes `new` the copy of `source` from now on."""
        self._memo[id(source)] = new
        self._sources.append(source)

    def remembered(self, source: Any) -> Any:
        """The copy of `source`, if there is one already; `None` if not."""
        return self._memo.get(id(source))

    def attribute(self, value: Any) -> Any:
        """A copy of the value of an attribute.

        Raises:
            CopyError: It is of a type that is not known to be copyable.
        """
        try:
            return self.value(value)
        except NotCopyableError as stopped:
            raise CopyError(f"It holds {stopped}, which cannot be copied.") from None

    def instance(self, source: Any) -> Any:
        """A copy of an object with all of its attributes, or no copy of anything in it.

        Raises:
            NotCopyableError: One of them is of a type that is not known to be copyable.
        """
        mark, pairs = len(self._sources), len(self.variables)
        try:
            return self._instance(source)
        except NotCopyableError:
            for each in self._sources[mark:]:
                self._memo.pop(id(each), None)
            del self._sources[mark:], self.variables[pairs:]
            raise

    def _instance(self, source: Any) -> Any:
        new = object.__new__(type(source))
        self.remember(source, new)
        target = new.__dict__
        target.update(vars(source))
        for key, how in self._layout(source):
            value = target[key]
            found = self._memo.get(id(value), _ABSENT)
            if found is _ABSENT:
                found = how(self, value)
            if found is _ABSENT:
                del target[key]
            else:
                target[key] = found
        if isinstance(source, keras.Layer):
            _track_for_torch(source, new)
        return new

    def _layout(self, source: Any) -> list[tuple[str, _How]]:
        """The attributes of an object that are not copied by reference, and how they are copied.

        That depends on nothing but names and types, and layers of one class are mostly alike.
        """
        attributes = vars(source)
        key = (type(source), tuple(attributes), tuple(map(type, attributes.values())))
        if key not in self._layouts:
            is_trainer = isinstance(source, keras.Model)
            found = [(k, self._attribute_copier(k, v, is_trainer)) for k, v in attributes.items()]
            self._layouts[key] = [(name, how) for name, how in found if how is not None]
        return self._layouts[key]

    def _attribute_copier(self, key: str, value: Any, is_trainer: bool) -> _How | None:
        """How an attribute is copied; `None` where the copy refers to the same object."""
        if key in private.FRESH_LISTS:
            return Attributes._emptied
        if is_trainer and key in private.UNCOMPILED:
            return lambda _, __: private.UNCOMPILED[key]
        if is_trainer and key in private.COMPILED_ONLY:
            return lambda _, __: _ABSENT
        if key == "_modules":
            return Attributes._torch_modules
        return None if type(value) in _ATOMIC_EXACT else self._copier(value)

    def _emptied(self, value: Any) -> Any:
        return self._with_tracker(value, _empty(type(value)))

    def _torch_modules(self, value: Any) -> Any:
        return self._dict({k: v for k, v in value.items() if k != "_torch_params"})

    def value(self, value: Any) -> Any:
        """A copy of anything.

        Raises:
            NotCopyableError: It is of a type that is not known to be copyable.
        """
        if type(value) in _ATOMIC_EXACT:
            return value
        if id(value) in self._memo:
            return self._memo[id(value)]
        return self._copier(value)(self, value)

    def _copier(self, value: Any) -> _How:
        kind = type(value)
        if kind not in self._copiers:
            known = (how for types_, how in _COPIERS if isinstance(value, types_))
            self._copiers[kind] = next(known, None) or _other_copier(value)
            if self.weights == "share" and issubclass(kind, _DESCRIPTIONS):
                self._copiers[kind] = Attributes._constant
        return self._copiers[kind]

    def _constant(self, value: Any) -> Any:
        return value

    def _tensor(self, value: Any) -> Any:
        return copied_tensor(value)

    def _tracking_reference(self, value: Any) -> Any:
        return type(value)(value.name, self.value(value.ref))

    def _unknown(self, value: Any) -> Any:
        raise NotCopyableError(f"a {type(value).__module__}.{type(value).__qualname__}")

    def _layer(self, value: Any) -> Any:
        return self._nested(value) if isinstance(value, private.Function) else self.layer(value)

    def _sequential(self, value: Any) -> Any:
        return self._nested(value) if value._functional is not None else self.layer(value)

    def _nested(self, value: Any) -> Any:
        new = self._model(value)
        self.remember(value, new)
        return new

    def _variable(self, value: Any) -> Any:
        keeps = self.weights == "share" or not self.values
        new = value if keeps else copied_variable(value)
        self.remember(value, new)
        self.variables.append((value, new))
        return new

    def _settings(self, value: Any) -> Any:
        if not hasattr(value, "__dict__"):
            return value
        new = object.__new__(type(value))
        self.remember(value, new)
        for key, item in vars(value).items():
            new.__dict__[key] = item if type(item) in _ATOMIC_EXACT else self.value(item)
        return new

    def _tracker(self, value: Any) -> Any:
        new = private.Tracker({}, value.exclusions)
        self.remember(value, new)
        for name, (test, store) in value.config.items():
            copied, stored = self.value(store), value.stored_ids[name]
            new.config[name] = (test, copied)
            new.stored_ids[name] = {
                id(its_copy)
                for item, its_copy in zip(store, copied, strict=True)
                if id(item) in stored
            }
        new.locked = value.locked
        new._lock_violation_msg = value._lock_violation_msg
        return new

    def _list(self, value: Any) -> Any:
        kind = type(value)
        if _is_wrapper(kind):
            return kind([self.value(item) for item in value])
        new = _empty(kind)
        self.remember(value, new)
        if value:
            list.extend(new, [self.value(item) for item in value])
        return new if kind is list else self._with_tracker(value, new)

    def _dict(self, value: Any) -> Any:
        kind = type(value)
        if _is_wrapper(kind):
            return kind({key: self.value(item) for key, item in value.items()})
        if issubclass(kind, collections.defaultdict):
            new: Any = collections.defaultdict(value.default_factory)
        else:
            new = _empty(kind)
        self.remember(value, new)
        for key, item in value.items():
            copied = item if type(item) in _ATOMIC_EXACT else self.value(item)
            dict.__setitem__(new, key if type(key) is str else self.value(key), copied)
        return new if kind is dict else self._with_tracker(value, new)

    def _set(self, value: Any) -> Any:
        new = _empty(type(value))
        set.update(new, [self.value(item) for item in value])
        return self._with_tracker(value, new)

    def _frozenset(self, value: Any) -> Any:
        return type(value)(self.value(item) for item in value)

    def _with_tracker(self, value: Any, new: Any) -> Any:
        tracker = getattr(value, "tracker", _ABSENT)
        if tracker is not _ABSENT:
            new.tracker = tracker if tracker is None else self.value(tracker)
        return new

    def _tuple(self, value: Any) -> Any:
        items = [self.value(item) for item in value]
        if all(map(operator.is_, items, value)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)

    def _method(self, value: Any) -> Any:
        return types.MethodType(value.__func__, self.value(value.__self__))

    def _partial(self, value: Any) -> Any:
        keywords = {key: self.value(item) for key, item in value.keywords.items()}
        return functools.partial(self.value(value.func), *self._tuple(value.args), **keywords)

    def _function(self, value: Any) -> Any:
        """A function that closes over the layer becomes one that closes over its copy."""
        if not value.__closure__:
            return value
        cells = [self._cell(cell) for cell in value.__closure__]
        if all(a is b for a, b in zip(cells, value.__closure__, strict=True)):
            return value
        new = types.FunctionType(
            value.__code__, value.__globals__, value.__name__, value.__defaults__, tuple(cells)
        )
        self.remember(value, new)
        new.__kwdefaults__ = value.__kwdefaults__
        new.__qualname__, new.__doc__ = value.__qualname__, value.__doc__
        new.__dict__.update({key: self.value(item) for key, item in vars(value).items()})
        return new

    def _cell(self, cell: Any) -> Any:
        if id(cell) in self._memo:
            return self._memo[id(cell)]
        try:
            content = cell.cell_contents
        except ValueError:  # a cell that was never filled
            return cell
        copied = self.value(content)
        new = cell if copied is content else types.CellType(copied)
        self.remember(cell, new)
        return new

    def _keras_tensor(self, value: Any) -> Any:
        new = keras.KerasTensor(value.shape, value.dtype, sparse=value.sparse, name=value.name)
        self.remember(value, new)
        return new


_COPIERS: list[tuple[Any, _How]] = [
    (_ATOMIC, lambda _, value: value),
    (keras.Variable, Attributes._variable),
    (private.Tracker, Attributes._tracker),
    (keras.Sequential, Attributes._sequential),
    (keras.Operation, Attributes._layer),
    (keras.KerasTensor, Attributes._keras_tensor),
    (list, Attributes._list),
    (dict, Attributes._dict),
    (set, Attributes._set),
    (frozenset, Attributes._frozenset),
    (tuple, Attributes._tuple),
    (types.MethodType, Attributes._method),
    (types.FunctionType, Attributes._function),
    (functools.partial, Attributes._partial),
    (np.ndarray, lambda _, value: value.copy()),
    ((np.random.Generator, np.random.RandomState), lambda _, value: copy.deepcopy(value)),
]


def _other_copier(value: Any) -> _How:
    kind = type(value)
    if is_backend_tensor(value):
        return Attributes._tensor
    if is_tracking_reference(value):
        return Attributes._tracking_reference
    if isinstance(value, _SETTINGS) or _is_plain_keras(kind) or dataclasses.is_dataclass(kind):
        return Attributes._settings
    return Attributes._unknown


def _empty(kind: Any) -> Any:
    """An empty container; Keras's own without their constructors, which take their time."""
    return kind.__new__(kind) if kind in private.TRACKED else kind()


@functools.cache
def _is_wrapper(kind: type) -> bool:
    """Whether a container is one of TensorFlow's, which are made around a plain one."""
    return kind.__module__.startswith("tensorflow.")


def _is_plain_keras(kind: type) -> bool:
    """Whether a class is Keras's own and keeps everything in its `__dict__`."""
    return kind.__module__.split(".")[0] in ("keras", "keras_hub") and not issubclass(
        kind, (keras.Optimizer, private.Node)
    )


def _track_for_torch(source: Any, new: Any) -> None:
    """PyTorch finds the parameters of a layer in a dict that must be made anew."""
    if "_torch_params" in vars(source).get("_modules", {}) and not private.in_stateless_scope():
        new._track_variables()
