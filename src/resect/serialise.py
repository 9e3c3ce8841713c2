"""Plans as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, cast

import keras

from resect.edits import EDITS, Edit, PerPlace
from resect.edits.base import is_layer
from resect.errors import SerializationError

_VERSION = 1


def dumps(edits: Sequence[Edit]) -> str:
    """Edits, pinned to their places, as JSON text.

    Raises:
        SerializationError: A layer has no configuration, or carries weights.
    """
    return json.dumps({"resect": _VERSION, "edits": [_edit(edit) for edit in edits]}, indent=2)


def loads(text: str) -> tuple[Edit, ...]:
    """The edits that `dumps` wrote.

    Raises:
        SerializationError: The text is no plan.
    """
    try:
        data = json.loads(text)
        return tuple(_loaded(entry) for entry in data["edits"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise SerializationError(
            f"This is not a plan: {type(error).__name__}: {error}.",
            "Pass the text that plan.to_json() returned.",
        ) from error


def _edit(edit: Edit) -> dict[str, Any]:
    fields = {
        field.name: _value(getattr(edit, field.name), edit)
        for field in dataclasses.fields(cast(Any, edit))
    }
    return {
        "edit": edit.verb,
        **{name: value for name, value in fields.items() if value is not None},
    }


def _value(value: Any, edit: Edit) -> Any:
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, PerPlace):
        return {
            "places": [[place, [_layer(la, edit) for la in chain]] for place, chain in value.layers]
        }
    if isinstance(value, (list, tuple)):
        return [_value(item, edit) for item in value]
    if is_layer(value):
        return {"layer": _layer(value, edit)}
    if hasattr(value, "get_config"):  # a regularizer, a policy, …
        return {"object": keras.saving.serialize_keras_object(value)}
    raise SerializationError(
        f"{value!r} in '{edit.describe()}' has no JSON form.", "Address layers by name."
    )


def _layer(layer: Any, edit: Edit) -> Any:
    if getattr(layer, "weights", None):
        raise SerializationError(
            f"The layer '{layer.name}' in '{edit.describe()}' carries weights, which JSON"
            " would lose.",
            "Save the edited model instead, or insert an unbuilt layer.",
            layer.name,
        )
    try:
        config = keras.saving.serialize_keras_object(layer)
        json.dumps(config)
    except Exception as error:
        raise SerializationError(
            f"The layer '{layer.name}' in '{edit.describe()}' has no configuration: {error}",
            "Give its class a get_config.",
            layer.name,
        ) from error
    return config


def _loaded(entry: dict[str, Any]) -> Edit:
    cls = EDITS.get(entry["edit"])
    if cls is None:
        raise SerializationError(
            f"No edit is called '{entry['edit']}'.", f"Known edits: {', '.join(EDITS)}."
        )
    fields = {name: _restored(value) for name, value in entry.items() if name != "edit"}
    return cls(**fields)


def _restored(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"places"}:
        return PerPlace(
            tuple((place, tuple(_layer_of(c) for c in chain)) for place, chain in value["places"])
        )
    if isinstance(value, dict) and set(value) == {"layer"}:
        return _layer_of(value["layer"])
    if isinstance(value, dict) and set(value) == {"object"}:
        return keras.saving.deserialize_keras_object(value["object"])
    if isinstance(value, list):
        return tuple(_restored(item) for item in value)
    return value


def _layer_of(config: Any) -> Any:
    return keras.saving.deserialize_keras_object(config)
