"""Pickles with models, layers, losses and optimizers in them, and with a user's own classes.

Keras pickles a model as it saves it, and loses with it what saving loses; losses, metrics and
optimizers it does not pickle at all. What a worker may not be able to import is pickled by value
beside its name, and the name is tried first.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import importlib
import io
import os
import pickle
import sys
import types
from collections.abc import Mapping
from typing import Any

import keras

from resect.errors import CopyError, SurgeryError
from resect.keras_graph.blueprints import (
    Blueprint,
    blueprint_of,
    made,
    parts_of,
    quiet,
    variables_in_order,
    variables_of,
)
from resect.keras_graph.compilations import (
    Compilation,
    compilation_of,
    compiled,
    metric_arguments,
)

#: The most bytes that a function or class by value may take beside its name.
BY_VALUE = 2**20


def dumped(value: Any) -> bytes:
    """Anything as bytes.

    Raises:
        CopyError: A model or layer in it cannot travel.
    """
    buffer = io.BytesIO()
    pickler()(buffer).dump(value)
    return buffer.getvalue()


def dumped_layer(layer: Any) -> bytes:
    """A layer or model as bytes, with its compile configuration and optimizer.

    Raises:
        CopyError: It cannot travel; the message names the part.
    """
    blueprint = blueprint_of(layer)
    variables = [v for own in variables_of(parts_of(layer)) for v in own]
    compilation = compilation_of(layer, variables) if isinstance(layer, keras.Model) else None
    try:
        return dumped((blueprint, compilation))
    except SurgeryError:
        raise
    except Exception as error:
        part, reason = _culprit(blueprint, compilation, error)
        raise CopyError(
            f"{part} cannot be pickled: {reason}",
            "Keep locks, open files and the like outside, or make them where they are used.",
            layer.name,
        ) from error


def loaded_layer(data: bytes) -> Any:
    """The layer or model that was dumped, in this process."""
    return assembled(*pickle.loads(data))


def assembled(blueprint: Blueprint, compilation: Compilation | None) -> Any:
    """The layer or model that a blueprint describes, compiled."""
    layer = made(blueprint)
    if compilation is not None:
        with quiet(), keras.saving.custom_object_scope(dict(blueprint.objects)):
            compiled(layer, compilation, variables_in_order(blueprint, layer))
    return layer


def _culprit(
    blueprint: Blueprint, compilation: Compilation | None, error: Exception
) -> tuple[str, str]:
    """Which part cannot be pickled, and why."""
    named = {f"Its '{name}'": value for name, value in blueprint.objects.items()}
    if compilation is not None:
        arguments = compilation.arguments.items()
        named |= {f"compile's {name}={value!r}": value for name, value in arguments}
        named |= {"The optimizer": compilation.optimizer}
    for part, value in named.items():
        try:
            dumped(value)
        except Exception as found:
            return part, f"{type(found).__name__}: {found}"
    return "It", f"{type(error).__name__}: {error}"


@functools.cache
def pickler() -> type:
    """The class of picklers; cloudpickle is imported here."""

    class Pickler(cloudpickle().Pickler):
        def __init__(self, buffer: io.BytesIO) -> None:
            super().__init__(buffer, protocol=pickle.HIGHEST_PROTOCOL)

        def reducer_override(self, obj: Any) -> Any:
            found = _reduced(obj)
            return super().reducer_override(obj) if found is NotImplemented else found

    return Pickler


def _reduced(value: Any) -> Any:
    if isinstance(value, keras.Layer):
        return loaded_layer, (dumped_layer(value),)
    if isinstance(value, keras.metrics.Metric):
        return _metric, metric_arguments(value)
    if isinstance(value, keras.optimizers.Optimizer):
        return _optimizer, (type(value), value.get_config())
    if isinstance(value, keras.Loss):
        return copyreg.__newobj__, (type(value),), dict(vars(value))  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(value, keras.Variable):
        raise CopyError(
            f"The variable {value.path} cannot travel by itself.",
            "Send the model that it belongs to, or keras.ops.convert_to_numpy(variable).",
        )
    if isinstance(value, (types.FunctionType, type)) and _is_local(value):
        return _by_name_or_value(value)
    return NotImplemented


def _metric(kind: Any, config: Mapping[str, Any], function: Any) -> Any:
    return kind.from_config(dict(config)) if function is None else kind(function, **config)


def _optimizer(kind: Any, config: Mapping[str, Any]) -> Any:
    return kind.from_config(dict(config))


# Functions and classes


def _is_local(value: Any) -> bool:
    """Whether a function or class has a name, in a module that a worker may not have."""
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    if module is None or module.__name__.split(".")[0] in ("__main__", "resect", "builtins"):
        return False
    path = getattr(module, "__file__", None) or ""
    return _is_own(path) and _named(module, value.__qualname__) is value


@functools.cache
def _is_own(path: str) -> bool:
    """Whether a file is neither of an installed package nor of Python's library."""
    parts = path.replace("\\", "/").split("/")
    library = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return bool(path) and not {"site-packages", "dist-packages", library} & set(parts)


def own_modules_changed(since: float) -> bool:
    """Whether the file of a module of the user's own was written after a time.

    A process that has imported it goes on with what it was.
    """
    for module in tuple(sys.modules.values()):
        path = getattr(module, "__file__", None) or ""
        with contextlib.suppress(OSError):
            if _is_own(path) and os.stat(path).st_mtime > since:
                return True
    return False


def _named(module: Any, name: str) -> Any:
    for part in name.split("."):
        module = getattr(module, part, None)
    return module


def _by_name_or_value(value: Any) -> Any:
    library, module = cloudpickle(), sys.modules[value.__module__]
    registered = module.__name__ in library.list_registry_pickle_by_value()
    if registered:
        return NotImplemented
    library.register_pickle_by_value(module)
    try:
        data = library.dumps(value)
    except Exception:  # what it refers to cannot be pickled: its name must do
        data = b""
    finally:
        library.unregister_pickle_by_value(module)
    kept = data if len(data) <= BY_VALUE else b""
    return _found, (module.__name__, value.__qualname__, kept)


def _found(module: str, name: str, data: bytes) -> Any:
    try:
        found = _named(importlib.import_module(module), name)
    except ImportError:
        if not data:
            raise
        found = None
    return pickle.loads(data) if found is None and data else found


def cloudpickle() -> Any:
    """The library that pickles functions and classes by value.

    Raises:
        SurgeryError: It is not installed.
    """
    try:
        import cloudpickle
    except ImportError as error:
        raise SurgeryError(
            "What is sent to other processes is pickled by cloudpickle, which is not installed.",
            'pip install "resect[parallel]"',
        ) from error
    return cloudpickle
