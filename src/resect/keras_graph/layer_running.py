"""Runs the `call` of a layer where Keras would ask for nothing but shapes."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

from resect.keras_graph import private


@contextlib.contextmanager
def running(layer: Any, own: list[tuple[Any, Any]]) -> Iterator[list[Exception]]:
    """Lets a layer run its `call` on symbolic tensors, and what is called in it be recorded.

    Args:
        layer: The layer.
        own: Gets the outputs, each with the mask that it has before the layer hands masks on.

    Yields:
        What `call` has raised, which Keras would dress up.
    """
    errors: list[Exception] = []
    made: list[tuple[Any, Any]] = []

    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            outputs = layer.call(*args, **kwargs)
        except Exception as error:
            errors.append(error)
            raise
        leaves: list[Any] = keras.tree.flatten(outputs)
        tensors = [leaf for leaf in leaves if keras.backend.is_keras_tensor(leaf)]
        made.extend((tensor, tensor._keras_history) for tensor in tensors)
        own[:] = [(tensor, private.get_keras_mask(tensor)) for tensor in tensors]
        return outputs

    vars(layer)["symbolic_call"] = run
    parts = layer._flatten_layers(include_self=False)
    for part in parts:
        vars(part)["symbolic_call"] = _without_unknown(part)
    try:
        yield errors
    finally:
        for part in (layer, *parts):
            del vars(part)["symbolic_call"]
        for tensor, history in made:  # Keras has recorded the layer itself as what made them
            tensor._keras_history = history


def _without_unknown(part: Any) -> Callable[..., Any]:
    """A symbolic call that is not told of arguments that are `None` anyway.

    KerasHub's attention is always called with a `cache`, for which Keras has no symbolic call.
    """
    symbolic_call = type(part).symbolic_call.__get__(part)

    def run(*args: Any, **kwargs: Any) -> Any:
        return symbolic_call(*args, **known_arguments(part, kwargs))

    return run


def known_arguments(operation: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call, without those that are `None` and unknown to its symbolic call."""
    parameters = inspect.signature(operation.compute_output_spec).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(kwargs)
    return {name: v for name, v in kwargs.items() if v is not None or name in parameters}


def without_training(operation: Any, args: Any, kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """The arguments of a call without `training`, however it was given."""
    names = list(inspect.signature(operation.call).parameters)
    kwargs = {name: value for name, value in kwargs.items() if name != "training"}
    place = names.index("training") if "training" in names else len(args)
    later = dict(zip(names[place + 1 :], args[place + 1 :], strict=False))
    return args[:place], {**later, **kwargs}
