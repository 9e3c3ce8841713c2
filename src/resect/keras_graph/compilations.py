"""A compile configuration and its optimizer as data, and a model compiled like that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from resect.errors import CopyError
from resect.keras_graph.blueprints import as_array
from resect.keras_graph.training import inner_optimizers, is_compiled, settings_of


@dataclass(frozen=True)
class OptimizerState:
    """An optimizer as data.

    Attributes:
        kind: Its class.
        settings: Its configuration, a schedule in it as the object that it is.
        inner: The optimizer that it wraps.
        trained: Which of the model's variables it trains; `None` if it is not built.
        values: The values of its variables.
        excluded: Which of the model's variables have no weight decay, and by which patterns.
    """

    kind: type
    settings: Mapping[str, Any]
    inner: OptimizerState | None
    trained: tuple[int, ...] | None
    values: tuple[np.ndarray, ...]
    excluded: tuple[tuple[int, ...], Any] | None


@dataclass(frozen=True)
class Compilation:
    """What `compile` was given.

    Attributes:
        arguments: Everything but the optimizer.
        optimizer: The optimizer that was given; `None` for none.
        state: The optimizer that the model has: in mixed precision, Keras wraps what it is given.
    """

    arguments: Mapping[str, Any]
    optimizer: OptimizerState | None
    state: OptimizerState | None


def compilation_of(model: Any, variables: Sequence[Any]) -> Compilation | None:
    """The compile configuration of a model; `None` if it is not compiled.

    Args:
        model: The model.
        variables: Its variables, in an order that is the same for its copy.
    """
    if not is_compiled(model):
        return None
    raw = dict(model._compile_config.config)
    given = raw.pop("optimizer")
    places = {id(variable): i for i, variable in enumerate(variables)}
    now = model.optimizer
    state = None if now is None else _state(now, places)
    asked = state if given is now else None if given is None else _state(given, places)
    return Compilation(raw, asked, state)


def compiled(model: Any, compilation: Compilation, variables: Sequence[Any]) -> None:
    """Compiles a model, and continues the optimizer.

    Args:
        model: The model.
        compilation: What to compile it with.
        variables: Its variables, in the order of those that the compilation was made with.
    """
    optimizer = None if compilation.optimizer is None else _made(compilation.optimizer)
    wrapped = compilation.state is not compilation.optimizer
    model.compile(optimizer=optimizer, **compilation.arguments, auto_scale_loss=wrapped)
    if compilation.state is not None:
        _continue(model.optimizer, compilation.state, variables)


def _state(optimizer: Any, places: Mapping[int, int]) -> OptimizerState:
    settings = settings_of(optimizer)
    inner = None
    if getattr(optimizer, "inner_optimizer", None) is not None:
        inner = _state(optimizer.inner_optimizer, places)
        settings.pop("inner_optimizer", None)
    trained = None
    if optimizer.built:
        source = inner_optimizers(optimizer)[0] if inner else optimizer
        trained = _places(source._trainable_variables, places, optimizer)
    excluded = getattr(optimizer, "_exclude_from_weight_decay", None)
    found = None
    if excluded is not None:
        keys = [i for i, v in enumerate(_variables(optimizer)) if optimizer._var_key(v) in excluded]
        named = _places([_variables(optimizer)[i] for i in keys], places, optimizer)
        found = named, getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    values = tuple(map(as_array, optimizer.variables)) if optimizer.built else ()
    return OptimizerState(type(optimizer), settings, inner, trained, values, found)


def _variables(optimizer: Any) -> list[Any]:
    return list(getattr(optimizer, "_trainable_variables", ()))


def _places(trained: Sequence[Any], places: Mapping[int, int], optimizer: Any) -> tuple[int, ...]:
    if any(id(variable) not in places for variable in trained):
        raise CopyError(
            f"The optimizer {type(optimizer).__name__} trains variables that are not the model's.",
            "Compile the model with an optimizer of its own.",
            optimizer.name,
        )
    return tuple(places[id(variable)] for variable in trained)


def _made(state: OptimizerState) -> Any:
    settings = dict(state.settings)
    if state.inner is not None:
        return state.kind(**settings, inner_optimizer=_made(state.inner))
    kind: Any = state.kind
    return kind.from_config(settings)


def _continue(optimizer: Any, state: OptimizerState, variables: Sequence[Any]) -> None:
    if state.trained is not None:
        if not optimizer.built:
            optimizer.build([variables[i] for i in state.trained])
        _fill(optimizer, state)
    if state.excluded is not None:
        places, pattern = state.excluded
        optimizer._exclude_from_weight_decay_pattern = pattern
        optimizer._exclude_from_weight_decay = {optimizer._var_key(variables[i]) for i in places}
    if state.inner is not None:
        _continue(optimizer.inner_optimizer, state.inner, variables)


def _fill(optimizer: Any, state: OptimizerState) -> None:
    shapes = [tuple(v.shape) for v in optimizer.variables]
    if shapes != [array.shape for array in state.values]:
        raise CopyError(
            f"The optimizer {state.kind.__name__}, made again from its configuration, has other "
            "variables.",
            "Give its class a get_config that describes it.",
            optimizer.name,
        )
    for variable, array in zip(optimizer.variables, state.values, strict=True):
        variable.assign(array)


def metric_arguments(metric: Any) -> tuple[Any, Mapping[str, Any], Any]:
    """How to make a metric again: its class, its configuration, and the function that it wraps."""
    if type(metric) is keras.metrics.MeanMetricWrapper:
        extra = {"name": metric.name, "dtype": metric.dtype, **metric._fn_kwargs}
        return type(metric), extra, metric._fn
    return type(metric), metric.get_config(), None
