"""Exact copies of layers, without re-running their constructors.

A constructor only knows what `get_config` remembers. What a trained layer has become (built,
quantized, LoRA-adapted, frozen in parts, with a vocabulary) is in its attributes, so those are
copied, one by one and by their type: variables by value (or shared), sublayers as copies, Keras's
own containers as themselves, functions that refer to the layer as functions that refer to its
copy. An attribute of a type that is not known to be copyable makes the copy fall back on
`from_config` and the layer's values; where that fails too, the layer is refused.

Every object is copied once per `Copier`: sharing inside and between layers survives.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import enum
import functools
import inspect
import operator
import re
import types
from collections.abc import Callable, Container, Mapping
from typing import Any

import keras
import numpy as np

from resect.errors import CopyError, SurgeryError
from resect.graph import Change
from resect.keras_graph import private
from resect.keras_graph.reading import parts_of
from resect.keras_graph.state import (
    carry_flags,
    carry_state,
    carry_unrecorded,
    matching_variables,
)
from resect.keras_graph.values import (
    copied_tensor,
    copied_variable,
    is_backend_tensor,
    is_tracking_reference,
    made_variable,
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

_How = Callable[["Copier", Any], Any]


class _NotCopyableError(Exception):
    """An attribute of a type that is not known to be copyable."""


class Copier:
    """Copies layers, each object once.

    Args:
        weights: `"copy"` gives every variable a value of its own; `"share"` keeps the variables.
        model: Called for a model with a graph of its own: returns its copy.
        values: `False` for a rehearsal, which shows what can be copied: the copies hold the
            source's own variables, and must not be used.

    Attributes:
        variables: Pairs of a variable of the source and the variable that stands for it.
    """

    def __init__(
        self, weights: Weights, model: Callable[[Any], Any], *, values: bool = True
    ) -> None:
        self.weights = weights
        self.values = values
        self.variables: list[tuple[Any, Any]] = []
        self._model = model
        self._memo: dict[int, Any] = {}
        self._rebuilt: dict[int, Any] = {}
        self._copiers: dict[type, _How] = {}
        self._layouts: dict[tuple[Any, ...], list[tuple[str, _How]]] = {}
        self._sources: list[Any] = []  # keeps every source alive: the memo goes by identity

    def layer(self, layer: Any, name: str | None = None) -> Any:
        """A copy of a layer or operation, under a new name if one is given.

        Raises:
            CopyError: It can be neither copied nor re-created.
        """
        if id(layer) in self._memo:
            return self._named(self._memo[id(layer)], name)
        mark, pairs = len(self._sources), len(self.variables)
        try:
            new = self._attributes(layer)
        except _NotCopyableError as stopped:
            for source in self._sources[mark:]:
                self._memo.pop(id(source), None)
            del self._sources[mark:], self.variables[pairs:]
            new = self._from_config(layer, str(stopped))
        return self._named(new, name)

    def rebuilt(self, layer: Any, skeleton: Any, name: str, change: Change | None = None) -> Any:
        """A copy of a layer as it is built for another input shape, around the same variables.

        Args:
            layer: The layer of the source.
            skeleton: A layer of the same configuration, or of the changed one, built for the other
                shape without values.
            name: Its name.
            change: What else is changed; some of its variables may get other values.

        Raises:
            CopyError: It holds something that cannot be copied.
        """
        if id(layer) in self._rebuilt:  # it stands in several graphs
            return self._named(self._rebuilt[id(layer)], name)
        values = {} if change is None else change.values
        kept, hollow = _without(layer, values), _without(skeleton, values)
        for source, target in matching_variables(kept, hollow):
            self.remember(target, self._value(source))
            if change is not None and self.values:
                self._set_rules(layer, target, self._memo[id(target)])
        if values and self.values:
            self._revalue(layer, skeleton, values)
        try:
            new = self._attributes(skeleton)
        except _NotCopyableError as stopped:
            raise CopyError(
                f"{_title(layer)} holds {stopped}, so it cannot be rebuilt for another shape.",
                "Keep that object outside the layer.",
                layer.name,
            ) from None
        self._rebuilt[id(layer)] = new
        carry_flags(layer, new)
        if (reference := _reference(layer)) is not None:
            carry_unrecorded(layer, new, reference)
        if change is not None and change.template.trainable != layer.trainable:
            self._set_trainable(layer, new, change.template.trainable)
        for part, new_part in zip(parts_of(layer), parts_of(new), strict=change is None):
            if getattr(part, "states", None) is not None:
                vars(new_part)["states"] = self._value(part.states)
        new._path = layer._path
        self._named(new, name)
        if hasattr(new, "_track_variables"):  # PyTorch: not done while there are no values
            for part in new._flatten_layers():
                part._track_variables()
        return new

    def _set_rules(self, layer: Any, hollow: Any, variable: Any) -> None:
        """Gives a variable the regularizer and the constraint of the changed configuration."""
        for name in ("regularizer", "constraint"):
            rule = getattr(hollow, name, None)
            if _config_of(rule) == _config_of(getattr(variable, name, None)):
                continue
            if self.weights == "share":
                raise _not_shared(layer, f"its {variable.name} would get another {name}")
            setattr(variable, name, rule)

    def _set_trainable(self, layer: Any, new: Any, trainable: bool) -> None:
        if self.weights == "share" and layer.variables:
            raise _not_shared(layer, f"its variables would get trainable={trainable}")
        new.trainable = trainable

    def _revalue(self, layer: Any, skeleton: Any, values: Mapping[str, Any]) -> None:
        """Makes the variables of a changed layer that do not simply keep their values."""
        old = {v.name: np.asarray(keras.ops.convert_to_numpy(v.value)) for v in layer.variables}
        paths = {v.name: v._path for v in layer.variables}
        trainable = {v.name: v.trainable for v in layer.variables}
        for variable in skeleton.variables:
            if variable.name not in values:
                continue
            how = values[variable.name]
            value = None if how is None else how(old)
            if value is not None and value.shape != tuple(variable.shape):
                raise CopyError(
                    f"{_title(layer)} was to get a {variable.name} of the shape {value.shape}, and "
                    f"needs {tuple(variable.shape)}.",
                    "If its class has a rule of yours, correct the axes in it.",
                    layer.name,
                )
            new = made_variable(variable, value)
            new._path = paths.get(variable.name, f"{layer.path}/{variable.name}")
            new.trainable = trainable.get(variable.name, variable.trainable)
            self.remember(variable, new)

    def _named(self, layer: Any, name: str | None) -> Any:
        """A copy under a name, which the paths of its own variables say too."""
        old = layer.name
        if name is None or name == old:
            return layer
        layer.name = name
        if getattr(layer, "_auto_config", None) is not None and "name" in layer._auto_config.config:
            layer._auto_config.config["name"] = name
        parts = (getattr(layer, "_path", None) or "").split("/")
        if parts[-1] == old:
            layer._path = "/".join([*parts[:-1], name])
            own = layer.variables if self.weights == "copy" else []
            for variable in own:
                path = variable._path.split("/")
                if path[: len(parts)] == parts:
                    variable._path = "/".join([*parts[:-1], name, *path[len(parts) :]])
        return layer

    def remember(self, source: Any, new: Any) -> None:
        """Makes `new` the copy of `source` from now on."""
        self._memo[id(source)] = new
        self._sources.append(source)

    def attribute(self, value: Any) -> Any:
        """A copy of the value of an attribute.

        Raises:
            CopyError: It is of a type that is not known to be copyable.
        """
        try:
            return self._value(value)
        except _NotCopyableError as stopped:
            raise CopyError(f"It holds {stopped}, which cannot be copied.") from None

    # Attributes, by type

    def _attributes(self, source: Any) -> Any:
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
            return Copier._emptied
        if is_trainer and key in private.UNCOMPILED:
            return lambda _, __: private.UNCOMPILED[key]
        if is_trainer and key in private.COMPILED_ONLY:
            return lambda _, __: _ABSENT
        if key == "_modules":
            return Copier._torch_modules
        return None if type(value) in _ATOMIC_EXACT else self._copier(value)

    def _emptied(self, value: Any) -> Any:
        return self._with_tracker(value, _empty(type(value)))

    def _torch_modules(self, value: Any) -> Any:
        return self._dict({k: v for k, v in value.items() if k != "_torch_params"})

    def _value(self, value: Any) -> Any:
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
                self._copiers[kind] = Copier._constant
        return self._copiers[kind]

    def _constant(self, value: Any) -> Any:
        return value

    def _tensor(self, value: Any) -> Any:
        return copied_tensor(value)

    def _tracking_reference(self, value: Any) -> Any:
        return type(value)(value.name, self._value(value.ref))

    def _unknown(self, value: Any) -> Any:
        raise _NotCopyableError(f"a {type(value).__module__}.{type(value).__qualname__}")

    def _layer(self, value: Any) -> Any:
        return self._model(value) if isinstance(value, private.Function) else self.layer(value)

    def _sequential(self, value: Any) -> Any:
        return self._model(value) if value._functional is not None else self.layer(value)

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
            new.__dict__[key] = item if type(item) in _ATOMIC_EXACT else self._value(item)
        return new

    def _tracker(self, value: Any) -> Any:
        new = private.Tracker({}, value.exclusions)
        self.remember(value, new)
        for name, (test, store) in value.config.items():
            copied, stored = self._value(store), value.stored_ids[name]
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
            return kind([self._value(item) for item in value])
        new = _empty(kind)
        self.remember(value, new)
        if value:
            list.extend(new, [self._value(item) for item in value])
        return new if kind is list else self._with_tracker(value, new)

    def _dict(self, value: Any) -> Any:
        kind = type(value)
        if _is_wrapper(kind):
            return kind({key: self._value(item) for key, item in value.items()})
        if issubclass(kind, collections.defaultdict):
            new: Any = collections.defaultdict(value.default_factory)
        else:
            new = _empty(kind)
        self.remember(value, new)
        for key, item in value.items():
            copied = item if type(item) in _ATOMIC_EXACT else self._value(item)
            dict.__setitem__(new, key if type(key) is str else self._value(key), copied)
        return new if kind is dict else self._with_tracker(value, new)

    def _set(self, value: Any) -> Any:
        new = _empty(type(value))
        set.update(new, [self._value(item) for item in value])
        return self._with_tracker(value, new)

    def _frozenset(self, value: Any) -> Any:
        return type(value)(self._value(item) for item in value)

    def _with_tracker(self, value: Any, new: Any) -> Any:
        tracker = getattr(value, "tracker", _ABSENT)
        if tracker is not _ABSENT:
            new.tracker = tracker if tracker is None else self._value(tracker)
        return new

    def _tuple(self, value: Any) -> Any:
        items = [self._value(item) for item in value]
        if all(map(operator.is_, items, value)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)

    def _method(self, value: Any) -> Any:
        return types.MethodType(value.__func__, self._value(value.__self__))

    def _partial(self, value: Any) -> Any:
        keywords = {key: self._value(item) for key, item in value.keywords.items()}
        return functools.partial(self._value(value.func), *self._tuple(value.args), **keywords)

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
        new.__dict__.update({key: self._value(item) for key, item in vars(value).items()})
        return new

    def _cell(self, cell: Any) -> Any:
        if id(cell) in self._memo:
            return self._memo[id(cell)]
        try:
            content = cell.cell_contents
        except ValueError:  # a cell that was never filled
            return cell
        copied = self._value(content)
        new = cell if copied is content else types.CellType(copied)
        self.remember(cell, new)
        return new

    def _keras_tensor(self, value: Any) -> Any:
        new = keras.KerasTensor(value.shape, value.dtype, sparse=value.sparse, name=value.name)
        self.remember(value, new)
        return new

    # The fallback

    def _from_config(self, layer: Any, found: str) -> Any:
        """Re-creates a layer from its configuration and gives it the values of the source."""
        if self.weights == "share" and getattr(layer, "variables", ()):
            raise CopyError(
                f"{_title(layer)} holds {found}, so it cannot be copied around its variables.",
                'Use weights="copy".',
                layer.name,
            )
        if any(id(variable) in self._memo for variable in getattr(layer, "variables", ())):
            raise CopyError(
                f"{_title(layer)} holds {found}, so it must be re-created from its "
                "configuration, which would untie the variables that it shares with other layers.",
                "Keep that object outside the layer.",
                layer.name,
            )
        try:
            new = type(layer).from_config(layer.get_config())
            _build_like(layer, new)
            pairs, left = carry_state(layer, new)
            carry_unrecorded(layer, new, new)
            if left or len(pairs) != len(getattr(layer, "variables", ())):
                raise CopyError(
                    f"{_title(layer)} re-created from its configuration has other variables.",
                    "Give the class a get_config that describes it.",
                    layer.name,
                )
        except SurgeryError:
            raise
        except Exception as error:
            raise CopyError(
                f"{_title(layer)} holds {found}, which cannot be copied, and re-creating it "
                f"from its configuration failed: {type(error).__name__}: {_first_sentence(error)}",
                "Give the class a get_config that describes it, or keep that object outside it.",
                layer.name,
            ) from error
        self.variables.extend(pairs)
        for old, fresh in pairs:
            self.remember(old, fresh)
        self.remember(layer, new)
        return new


_COPIERS: list[tuple[Any, Callable[[Copier, Any], Any]]] = [
    (_ATOMIC, lambda _, value: value),
    (keras.Variable, Copier._variable),
    (private.Tracker, Copier._tracker),
    (keras.Sequential, Copier._sequential),
    (keras.Operation, Copier._layer),
    (keras.KerasTensor, Copier._keras_tensor),
    (list, Copier._list),
    (dict, Copier._dict),
    (set, Copier._set),
    (frozenset, Copier._frozenset),
    (tuple, Copier._tuple),
    (types.MethodType, Copier._method),
    (types.FunctionType, Copier._function),
    (functools.partial, Copier._partial),
    (np.ndarray, lambda _, value: value.copy()),
    ((np.random.Generator, np.random.RandomState), lambda _, value: copy.deepcopy(value)),
]


def _other_copier(value: Any) -> _How:
    kind = type(value)
    if is_backend_tensor(value):
        return Copier._tensor
    if is_tracking_reference(value):
        return Copier._tracking_reference
    if isinstance(value, _SETTINGS) or _is_plain_keras(kind) or dataclasses.is_dataclass(kind):
        return Copier._settings
    return Copier._unknown


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


def _not_shared(layer: Any, why: str) -> CopyError:
    return CopyError(
        f"{_title(layer)} cannot be changed around the variables of the source: {why}, there too.",
        'Use weights="copy".',
        layer.name,
    )


def _config_of(rule: Any) -> Any:
    """What tells one regularizer or constraint from another."""
    if rule is None or not hasattr(rule, "get_config"):
        return rule
    return type(rule), rule.get_config()


def _without(layer: Any, names: Container[str]) -> list[Any]:
    """The variables of a layer, but for some."""
    return [v for v in getattr(layer, "variables", ()) if v.name not in names]


def _build_like(layer: Any, new: Any) -> None:
    """Builds a re-created layer, sublayers first: their state may only be made there."""
    if not isinstance(layer, keras.Layer):
        return
    if layer.built and not new.built:
        for old_part, new_part in zip(layer._layers, new._layers, strict=False):
            _build_like(old_part, new_part)
        new.build_from_config(layer.get_build_config() or {})


def _reference(layer: Any) -> Any:
    """What the configuration of a layer alone makes of it, without values; `None` if nothing."""
    if not isinstance(layer, keras.Layer):
        return None
    with private.uninitialised_variables():
        try:
            new = type(layer).from_config(layer.get_config())
            _build_like(layer, new)
        except Exception:  # a layer of the user's own: there is nothing to compare with
            return None
    return new


def _title(layer: Any) -> str:
    return f"'{layer.name}' ({type(layer).__name__})"


def _first_sentence(error: BaseException) -> str:
    return " ".join(str(error).split()).partition(". ")[0]
