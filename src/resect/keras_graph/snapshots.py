"""Remembers what a model is, to show afterwards that nothing of it has changed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from resect.keras_graph.fingerprints import ONLY_TRAINING, fingerprint
from resect.keras_graph.reading import has_graph

#: The dtypes that TensorFlow shows the memory of.
_BUFFERED = {"float16", "float32", "float64", "int8", "uint8", "int32", "int64", "bool"}


@dataclass
class Snapshot:
    """A model as it was.

    Attributes:
        model: The model.
        calls: Number of recorded calls of each layer and operation.
        flags: `trainable` of each layer and variable.
        values: The values of all variables, the optimizer's included; only if asked for.
    """

    model: Any
    calls: list[tuple[Any, int, int]]
    flags: list[tuple[Any, bool]]
    values: list[tuple[Any, np.ndarray]]

    @classmethod
    def of(cls, model: Any, *, values: bool = True) -> Snapshot:
        """A snapshot; without `values` only of the structure, which costs next to nothing."""
        operations = list(_operations(model))
        layers = model._flatten_layers()
        variables = list(model.variables)
        optimizer = getattr(model, "optimizer", None)
        if optimizer is not None:
            variables += list(optimizer.variables)
        return cls(
            model,
            [(op, len(op._inbound_nodes), len(op._outbound_nodes)) for op in operations],
            [(la, la.trainable) for la in layers] + [(v, v.trainable) for v in model.variables],
            [(v, _array(v).copy()) for v in variables] if values else [],
        )

    def structure_changes(self) -> list[str]:
        """What has changed in calls and flags, in words."""
        found = [
            f"{op.name} has other call nodes"
            for op, inbound, outbound in self.calls
            if (len(op._inbound_nodes), len(op._outbound_nodes)) != (inbound, outbound)
        ]
        found += [
            f"{o.name} has another trainable flag" for o, was in self.flags if o.trainable != was
        ]
        return found

    def changes(self) -> list[str]:
        """What has changed, in words."""
        found = self.structure_changes()
        found += [
            f"{v.path} has another value" for v, was in self.values if not _same(_array(v), was)
        ]
        return found


def imprint(model: Any) -> tuple[Any, ...]:
    """What is equal as long as nothing of a model has changed; small, unlike a snapshot.

    It holds identities of objects, so it means something only as long as the model lives.
    """
    optimizer = getattr(model, "optimizer", None)
    layers = list(model._flatten_layers())
    found = hashlib.blake2b()
    states = [
        s for s in keras.tree.flatten([vars(la).get("states") for la in layers]) if s is not None
    ]
    for variable in [
        *model.variables,
        *states,
        *(() if optimizer is None else optimizer.variables),
    ]:
        found.update(_bits(_array(variable)).data)
    flags = [layer.trainable for layer in layers]
    flags += [variable.trainable for variable in model.variables]
    seen: dict[int, int] = {}
    others = [
        (layer.name, fingerprint(layer, seen), _of_training(layer))
        for layer in layers
        if not isinstance(layer, keras.Model)  # they remember what was compiled
    ]
    compilation = id(getattr(model, "_compile_config", None))
    return found.digest(), tuple(flags), tuple(others), compilation


def _of_training(layer: Any) -> tuple[int, ...]:
    """Identities of what a fingerprint passes over: it is about inference."""
    return tuple(id(value) for name, value in vars(layer).items() if name.endswith(ONLY_TRAINING))


def same_value(one: Any, other: Any) -> bool:
    """Whether two variables hold the same bits."""
    return _same(_array(one), _array(other))


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.__array_interface__ == b.__array_interface__:  # one and the same memory
        return True
    return bool(np.array_equal(_bits(a), _bits(b)))


def _bits(array: np.ndarray) -> np.ndarray:
    """The bits as unsigned integers, as wide as they may be: comparing them takes least memory."""
    width = array.dtype.itemsize if array.dtype.itemsize in (1, 2, 4, 8) else 1
    return np.ascontiguousarray(array).reshape(-1).view(f"u{width}")


def _array(variable: Any) -> np.ndarray:
    """The value as an array, where possible a view of it: Keras itself makes a copy."""
    value = variable.value
    backend = keras.backend.backend()
    if backend == "jax":
        return np.asarray(value)
    if backend == "tensorflow" and value.dtype.name in _BUFFERED and "CPU" in value.device:
        return np.asarray(memoryview(value.value() if hasattr(value, "value") else value))
    return np.asarray(keras.ops.convert_to_numpy(value))


def _operations(model: Any) -> Any:
    if not has_graph(model):
        return model._flatten_layers()
    function: Any = model._functional if isinstance(model, keras.Sequential) else model
    return [*function.operations, *model._flatten_layers(include_self=False)]
