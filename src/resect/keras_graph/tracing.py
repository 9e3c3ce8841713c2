"""Traces the `call` of a subclassed model into a graph.

A trace runs `call` once on symbolic inputs and records what it calls. What a trace would get
silently wrong is looked for and refused: a branch on `training`, a variable that `call` updates, a
weight that turns into a constant, a result that differs from the model's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import keras

from resect.errors import TraceError, UnbuiltError
from resect.graph import Graph
from resect.keras_graph import private
from resect.keras_graph.passing import passed_on
from resect.keras_graph.reading import has_graph, not_a_model, read
from resect.keras_graph.symbolic import (
    Subject,
    function_between,
    place_of_call,
    recorded,
    symbolic_run,
    unrecorded,
)
from resect.keras_graph.trace_checks import check_constants, check_training


def trace(model: Any, inputs: Any = None) -> Graph:
    """The graph of a subclassed model, on the model's own layers.

    Args:
        model: A built subclassed `keras.Model`.
        inputs: Structure of `keras.Input` tensors as `call` takes it; by default tensors of the
            shapes that the model was built with, in Keras's default float type.

    Raises:
        NotAModelError: Not a Keras 3 model.
        TraceError: `call` cannot be traced, or not exactly; names the file and line.
        UnbuiltError: The model has no weights or no input shape yet.
    """
    if not isinstance(model, keras.Model):
        raise not_a_model(model)
    if has_graph(model) or isinstance(model, keras.Sequential):
        return read(model)
    _check_built(model)
    _check_arguments(model)
    with unrecorded(model):
        with private.fresh_names(_names(model, inputs)):  # every trace names its operations alike
            given = _default_inputs(model) if inputs is None else inputs
            subject = Subject(model, lambda training: _call(model, given, training))
            outputs = symbolic_run(subject, None)
        check_constants(subject, outputs)
        check_training(subject)
        return _graph(model, given, outputs)


def _names(model: Any, inputs: Any) -> list[str]:
    """The names that are in use before a trace."""
    flat = [] if inputs is None else keras.tree.flatten(inputs)
    given = [tensor._keras_history.operation.name for tensor in flat]
    return [*given, *(layer.name for layer in model._flatten_layers())]


def _check_built(model: Any) -> None:
    parts = model._flatten_layers(include_self=False)
    unbuilt = [layer.name for layer in parts if not layer.built]
    if not model.built or unbuilt:
        which = f" (nor have {', '.join(unbuilt[:4])})" if unbuilt else ""
        raise UnbuiltError(
            f"{type(model).__name__} '{model.name}' has not been built{which}: it has no weights.",
            "Call it once on a batch of data: model(batch).",
            model.name,
        )


def _check_arguments(model: Any) -> None:
    """Refuses a `call` that needs several arguments: a Functional model takes one structure."""
    parameters = inspect.signature(model.call).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind <= 1]
    if len(needed) > 1:
        raise _several_arguments(model, needed)


def _several_arguments(model: Any, names: Sequence[str]) -> TraceError:
    return TraceError(
        f"{place_of_call(model)}: {type(model).__name__}.call takes {len(names)} tensors: "
        f"{', '.join(names)}. A Functional model takes one structure.",
        "Let call take a list or a dict, and pass inputs=[keras.Input(...), ...].",
        model.name,
    )


def _default_inputs(model: Any) -> Any:
    shapes = model._build_shapes_dict
    if not shapes:
        raise UnbuiltError(
            f"{type(model).__name__} '{model.name}' does not say what shape its inputs have.",
            "Say it: resect.functional(model, inputs=keras.Input(shape)).",
            model.name,
        )
    if len(shapes) > 1:
        raise _several_arguments(model, [name.removesuffix("_shape") for name in shapes])
    return _inputs_like(next(iter(shapes.values())))


def _inputs_like(shape: Any, name: str | None = None) -> Any:
    """Symbolic inputs for a structure of shapes; those in a dict are named by its keys."""
    if isinstance(shape, dict):
        return {key: _inputs_like(item, key) for key, item in shape.items()}
    if all(size is None or isinstance(size, int) for size in shape):
        return keras.Input(batch_shape=(None, *shape[1:]), name=name)
    return [_inputs_like(item) for item in shape]


def _call(model: Any, inputs: Any, training: bool | None) -> Any:
    takes_training = "training" in inspect.signature(model.call).parameters
    return model.call(inputs, **({"training": training} if takes_training else {}))


def _graph(model: Any, inputs: Any, outputs: Any) -> Graph:
    """Reads the recorded calls, through a Functional that is thrown away."""
    with private.deep_recursion(len(recorded(outputs))):
        function = function_between(inputs, outputs, model.name)
    graph = read(function)
    return passed_on(graph.evolve(model=None, name=model.name, edited=True))
