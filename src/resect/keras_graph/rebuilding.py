"""Layers that go on with another shape or configuration, around the same variables."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import keras
import numpy as np

from resect.errors import CopyError
from resect.graph import Change
from resect.keras_graph.attributes import Attributes, NotCopyableError
from resect.keras_graph.reading import parts_of
from resect.keras_graph.state import (
    carry_flags,
    carry_states,
    carry_unrecorded,
    key_of,
    matching_variables,
    reference,
    title,
)
from resect.keras_graph.values import made_variable


def rebuild(copier: Attributes, layer: Any, skeleton: Any, change: Change | None = None) -> Any:
    """A copy of a layer as it is built for another input shape, around the same variables.

    Args:
        copier: Copies what the layer holds.
        layer: The layer of the source.
        skeleton: A layer of the same configuration, or of the changed one, built for the other
            shape without values.
        change: What else is changed; some of its variables may get other values.

    Raises:
        CopyError: It holds something that cannot be copied.
    """
    values = {} if change is None else change.values
    kept, hollow = _without(layer, values), _without(skeleton, values)
    for source, target in matching_variables(kept, hollow):
        copier.remember(target, copier.value(source))
        if change is not None and copier.values:
            _set_rules(copier, layer, target, copier.remembered(target))
        if change is not None and change.built is not None:
            _freeze(copier, layer, target, copier.remembered(target))
    if change is not None and values and copier.values:
        _revalue(copier, layer, skeleton, change)
    if copier.values:
        _initialise(copier, layer, skeleton)
    try:
        new = copier.instance(skeleton)
    except NotCopyableError as stopped:
        raise CopyError(
            f"{title(layer)} holds {stopped}, so it cannot be rebuilt for another shape.",
            "Keep that object outside the layer.",
            layer.name,
        ) from None
    carry_flags(layer, new)
    if (plain := reference(layer)) is not None:
        carry_unrecorded(layer, new, plain)
    if change is not None and change.template.trainable != layer.trainable:
        _set_trainable(copier, layer, new, change)
    for part, new_part in zip(parts_of(layer), parts_of(new), strict=change is None):
        carry_states(part, new_part, copier.value)
    new._path = layer._path
    if hasattr(new, "_track_variables"):  # PyTorch: not done while there are no values
        for part in new._flatten_layers():
            part._track_variables()
    return new


def _set_rules(copier: Attributes, layer: Any, hollow: Any, variable: Any) -> None:
    """Gives a variable the regularizer and the constraint of the changed configuration."""
    for name in ("regularizer", "constraint"):
        rule = getattr(hollow, name, None)
        if _config_of(rule) == _config_of(getattr(variable, name, None)):
            continue
        if copier.weights == "share":
            raise _not_shared(layer, f"its {variable.name} would get another {name}")
        setattr(variable, name, rule)


def _freeze(copier: Attributes, layer: Any, hollow: Any, variable: Any) -> None:
    """Freezes a variable if the changed layer, once it is built, does not train it."""
    if hollow.trainable or not variable.trainable:
        return
    if copier.weights == "share":
        raise _not_shared(layer, f"its {variable.name} would be frozen")
    if copier.values:
        variable.trainable = False


def _set_trainable(copier: Attributes, layer: Any, new: Any, change: Change) -> None:
    trainable = change.template.trainable
    if trainable and change.built is not None:  # for what is new in it; the rest stays frozen
        new._trainable = True
        return
    if copier.weights == "share" and layer.variables:
        raise _not_shared(layer, f"its variables would get trainable={trainable}")
    new.trainable = trainable


def _revalue(copier: Attributes, layer: Any, skeleton: Any, change: Change) -> None:
    """Makes the variables of a changed layer that do not simply keep their values."""
    values = change.values
    keyed = {key_of(v, values) or v.name: v for v in layer.variables}
    old = {k: np.asarray(keras.ops.convert_to_numpy(v.value)) for k, v in keyed.items()}
    for variable in skeleton.variables:
        key = key_of(variable, values)
        if key is None:
            continue
        how, was = values[key], keyed.get(key)
        value = None if how is None else how(old)
        if value is not None and value.shape != tuple(variable.shape):
            raise CopyError(
                f"{title(layer)} was to get a {variable.name} of the shape {value.shape}, and "
                f"needs {tuple(variable.shape)}.",
                "If its class has a rule of yours, correct the axes in it.",
                layer.name,
            )
        new = made_variable(variable, value)
        new._path = _path(layer, skeleton, variable) if was is None else was._path
        afresh = variable.trainable and change.template.trainable
        new.trainable = afresh if was is None else was.trainable
        if key in change.thawed:
            new.trainable = variable.trainable and layer.trainable
        copier.remember(variable, new)


def _initialise(copier: Attributes, layer: Any, skeleton: Any) -> None:
    """Gives a value to what only the skeleton has: the seed of a dropout whose rate was zero."""
    for variable in getattr(skeleton, "variables", ()):
        if variable._value is None and copier.remembered(variable) is None:
            new = made_variable(variable, None)
            new._path = _path(layer, skeleton, variable)
            copier.remember(variable, new)


def _path(layer: Any, skeleton: Any, variable: Any) -> str:
    """The path of a variable that the layer did not have."""
    below = variable.path.removeprefix(f"{skeleton.path}/")
    return f"{layer.path}/{below}" if layer.path else below


def _not_shared(layer: Any, why: str) -> CopyError:
    return CopyError(
        f"{title(layer)} cannot be changed around the variables of the source: {why}, there too.",
        'Use weights="copy".',
        layer.name,
    )


def _config_of(rule: Any) -> Any:
    """What tells one regularizer or constraint from another."""
    if rule is None or not hasattr(rule, "get_config"):
        return rule
    return type(rule), rule.get_config()


def _without(layer: Any, keys: Container[str]) -> list[Any]:
    """The variables of a layer, but for some."""
    return [v for v in getattr(layer, "variables", ()) if key_of(v, keys) is None]
