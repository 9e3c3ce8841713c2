"""The classes and functions that a configuration names, found on the objects that have them."""

from __future__ import annotations

import importlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from resect.errors import CopyError


class CustomObjects:
    """The classes and functions that layers are made of, by the names of their configurations.

    Args:
        layers: All layers of a model, and the model.

    Attributes:
        objects: Those that were asked for, by name.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self.objects: dict[str, Any] = {}
        self._known: dict[str, Any] = {}
        self._clashing: set[str] = set()
        self._lambdas: list[tuple[Any, Any]] = []
        for layer in layers:
            self._learn(type(layer))
            for value in vars(layer).values():
                self._look_at(value, 3)

    def _look_at(self, value: Any, depth: int) -> None:
        if isinstance(value, types.FunctionType):
            if value.__name__ == "<lambda>":
                written: Any = keras.saving.serialize_keras_object(value)
                self._lambdas.append((_code(written), value))
            else:
                self._learn(value)
        elif isinstance(value, type):
            self._learn(value)
        elif isinstance(value, (list, tuple, Mapping)) and depth:
            for each in value.values() if isinstance(value, Mapping) else value:
                self._look_at(each, depth - 1)
        elif hasattr(value, "get_config") and not isinstance(value, keras.Layer):
            self._learn(type(value))
            for each in getattr(value, "__dict__", {}).values() if depth else ():
                self._look_at(each, depth - 1)

    def _learn(self, found: Any) -> None:
        module = getattr(found, "__module__", None) or ""
        if module.split(".")[0] in ("keras", "builtins"):
            return
        name = keras.saving.get_registered_name(found)
        if self._known.setdefault(name, found) is not found:
            self._clashing.add(name)

    def named(self, config: Any) -> Any:
        """A configuration, in which every function without a name has got one.

        Raises:
            CopyError: It names something that is not found.
        """
        if isinstance(config, Mapping):
            if config.get("class_name") == "__lambda__":
                return self._function(config)
            if set(config) == {"value"} and self._is_lambda(config):  # an activation
                return self._function({"config": config})
            if "registered_name" in config and "class_name" in config:
                self._require(config)
            return {key: self.named(value) for key, value in config.items()}
        if isinstance(config, (list, tuple)):
            plain = tuple if isinstance(config, tuple) else list  # not one that tracks variables
            return plain(self.named(each) for each in config)
        return config

    def _is_lambda(self, config: Mapping[str, Any]) -> bool:
        written = config["value"]
        known = [code for code, _ in self._lambdas]
        return isinstance(written, (list, tuple)) and len(written) == 3 and written[0] in known

    def _function(self, config: Mapping[str, Any]) -> dict[str, Any]:
        for serialised, function in self._lambdas:
            if serialised == _code(config):
                name = f"lambda at {function.__code__.co_firstlineno} of {function.__module__}"
                while self.objects.get(name, function) is not function:
                    name += "'"
                self.objects[name] = function
                return {
                    "module": "resect",
                    "class_name": "function",
                    "config": name,
                    "registered_name": name,
                }
        raise CopyError(
            "A lambda in its configuration is not found on any of its layers.",
            "Give it a name: def activation(x): ...",
        )

    def _require(self, config: Mapping[str, Any]) -> None:
        """Remembers what an entry of a configuration names, unless any installed Keras knows it."""
        name, module = config["registered_name"], config.get("module") or ""
        if name is None or module.split(".")[0] in ("keras", "builtins"):
            return
        found = self._known.get(name) or keras.saving.get_registered_object(name)
        if found is None and module:
            attribute = config["class_name"]
            attribute = config["config"] if attribute == "function" else attribute
            found = _imported(module, str(attribute))
        if found is None:
            raise CopyError(
                f"Its configuration names '{name}' of {module or 'no module'}, which is not found.",
                "Register it: @keras.saving.register_keras_serializable().",
            )
        self.objects[name] = found
        if name in self._clashing:
            raise CopyError(
                f"Two different things in it are called '{name}'.",
                "Register one of them under a package: "
                "@keras.saving.register_keras_serializable(package=...).",
            )


def _code(config: Mapping[str, Any]) -> Any:
    """The compiled code in what Keras writes for a lambda, which `Lambda` writes in its own way."""
    written = config["config"]
    return written["code"] if "code" in written else written["value"][0]


def _imported(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
