"""The state of layers: which variables there are, and how one layer takes over another's."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Container
from typing import Any

import keras
import numpy as np

from resect.graph import VariableSpec
from resect.keras_graph import private
from resect.keras_graph.values import copied_tensor


def variable_specs(operation: Any) -> tuple[VariableSpec, ...]:
    """Names, shapes and dtypes of the weights of a layer."""
    return tuple(
        VariableSpec(*_key(v), str(keras.backend.standardize_dtype(v._dtype)))
        for v in getattr(operation, "weights", ())
    )


def key_of(variable: Any, keys: Container[str]) -> str | None:
    """The key that means a variable: its name, or an end of its path; `None` if none does."""
    parts = [*variable.path.split("/")[:-1], variable.name]
    ends = ("/".join(parts[-length:]) for length in range(1, len(parts) + 1))
    return next((end for end in ends if end in keys), None)


def path_ends(layer: Any) -> dict[int, str]:
    """By the identity of a variable, the shortest end of its path that no other variable has."""
    paths = {id(v): [*v.path.split("/")[:-1], v.name] for v in layer.variables}
    found = {}
    for key, parts in paths.items():
        others = [path for other, path in paths.items() if other != key]
        length = next(
            n
            for n in range(1, len(parts) + 1)
            if n == len(parts) or all(path[-n:] != parts[-n:] for path in others)
        )
        found[key] = "/".join(parts[-length:])
    return found


def carry_state(old: Any, new: Any) -> tuple[list[tuple[Any, Any]], list[Any]]:
    """Gives a built layer the whole state of another of its class and configuration.

    Returns:
        As `carry_variables`.
    """
    carried, left = carry_variables(old, new)
    for source, target in carried:
        target._path = source._path
    carry_flags(old, new)
    return carried, left


def carry_variables(old: Any, new: Any) -> tuple[list[tuple[Any, Any]], list[Any]]:
    """Gives a built layer the values of another wherever a variable's name and shape agree.

    Returns:
        The pairs of variables that were carried, and the variables of `new` that were not.
    """
    carried = matching_variables(getattr(old, "variables", []), getattr(new, "variables", []))
    for source, target in carried:
        target.assign(copied_tensor(source.value))
        target.trainable = source.trainable
    taken = {id(target) for _, target in carried}
    return carried, [v for v in getattr(new, "variables", []) if id(v) not in taken]


def matching_variables(theirs: list[Any], mine: list[Any]) -> list[tuple[Any, Any]]:
    """Pairs of the variables of two layers by name and shape, in order where several agree."""
    by_key: dict[Any, list[Any]] = {}
    for variable in reversed(theirs):
        by_key.setdefault(_key(variable), []).append(variable)
    return [(left.pop(), v) for v in mine if (left := by_key.get(_key(v)))]


def carry_flags(old: Any, new: Any) -> None:
    """What is no variable: `trainable` of every part, vocabularies, finalised statistics.

    A layer whose configuration was changed may have other parts: the whole is carried then.
    """
    if not isinstance(old, keras.Layer):
        return
    parts, new_parts = old._flatten_layers(), new._flatten_layers()
    alike = [type(part) for part in parts] == [type(part) for part in new_parts]
    for part, new_part in zip(parts, new_parts, strict=True) if alike else [(old, new)]:
        new_part._trainable = part._trainable
        if type(part) is type(new_part):
            _carry_assets(part, new_part)


def carry_unrecorded(old: Any, new: Any, reference: Any) -> None:
    """Carries settings that no configuration says: an alpha of LoRA, bins that were adapted.

    They show as numbers, words and lists of such that differ from those of a layer that was made
    from the configuration alone. What the new layer has otherwise, it has for another input shape
    or another configuration.

    Args:
        old: The layer of the source.
        new: The layer in its place.
        reference: A layer made from the configuration of `old`, built as it is.
    """
    if not isinstance(old, keras.Layer):
        return
    triples = [layer._flatten_layers() for layer in (old, new, reference)]
    if len({tuple(map(type, parts)) for parts in triples}) != 1:
        triples = [[old], [new], [reference]]
    for part, new_part, plain in zip(*triples, strict=True):
        for name, value in list(vars(part).items()):
            if name in OF_EVERY_LAYER or not is_setting(value) or name not in vars(plain):
                continue
            if name.startswith("lora_") and not _has_factors(new_part):
                continue
            said = vars(plain)[name]
            now = vars(new_part).get(name)
            if differ(said, value) and (new_part is plain or not differ(now, said)):
                setattr(new_part, name, list(value) if isinstance(value, list) else value)


def _has_factors(layer: Any) -> bool:
    """Whether a layer has variables of LoRA."""
    return any(variable.name.startswith("lora_") for variable in layer.variables)


#: Attributes that every layer has.
OF_EVERY_LAYER = frozenset(vars(keras.layers.Layer()))


def is_setting(value: Any) -> bool:
    """Whether an attribute is a number, a word, an array or a list of such."""
    if isinstance(value, (list, tuple)):
        return all(map(is_setting, value))
    return value is None or isinstance(value, (bool, int, float, str, np.ndarray))


def differ(one: Any, other: Any) -> bool:
    """Whether two settings are not the same."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return not np.array_equal(one, other)
    return bool(one != other)


def _key(variable: Any) -> tuple[str, tuple[int, ...]]:
    return variable.name, tuple(int(size) for size in variable._shape)


def _carry_assets(layer: Any, new: Any) -> None:
    """State that is not a variable."""
    if hasattr(layer, "save_assets") and hasattr(layer, "load_assets"):
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            new.load_assets(folder)
    if isinstance(new, keras.layers.Normalization):
        new.finalize_state()


def build_like(layer: Any, new: Any) -> None:
    """Builds a re-created layer, sublayers first: their state may only be made there."""
    if not isinstance(layer, keras.Layer):
        return
    if layer.built and not new.built:
        for old_part, new_part in zip(layer._layers, new._layers, strict=False):
            build_like(old_part, new_part)
        new.build_from_config(layer.get_build_config() or {})


def reference(layer: Any) -> Any:
    """What the configuration of a layer alone makes of it, without values; `None` if nothing."""
    if not isinstance(layer, keras.Layer):
        return None
    with private.uninitialised_variables():
        try:
            new = type(layer).from_config(layer.get_config())
            build_like(layer, new)
        except Exception:  # a layer of the user's own: there is nothing to compare with
            return None
    return new


def title(layer: Any) -> str:
    """A layer as error messages name it."""
    return f"'{layer.name}' ({type(layer).__name__})"


# The states of stateful recurrent layers, which Keras does not count among the variables


def needs_batch_size(layer: Any) -> bool:
    """Whether a built layer is stateful and does not know for how many sequences at once."""
    return _is_stateful(layer) and _batch_size(layer) is None


def carry_states(old: Any, new: Any, copied: Callable[[Any], Any]) -> None:
    """Gives a stateful layer the states of another, or states that are zero.

    Args:
        old: A layer of the source.
        new: What it has become; built, without states of its own.
        copied: Makes a copy of a value, or shares it.
    """
    if "states" not in vars(old) or "states" not in vars(new):
        return
    if not _is_stateful(new):
        vars(new)["states"], new._expected_batch_size = None, None
        return
    size, held = _batch_size(new), keras.tree.flatten(vars(old)["states"])
    if held and held[0] is not None and held[0].shape[0] == size:
        vars(new)["states"] = copied(old.states)
    else:
        new._create_state_variables(size)
    new._expected_batch_size = size


def _is_stateful(layer: Any) -> bool:
    return "states" in vars(layer) and bool(getattr(layer, "stateful", False))


def _batch_size(layer: Any) -> int | None:
    """The batch size that a layer was built for."""
    shapes = list((getattr(layer, "_build_shapes_dict", None) or {}).values())
    return shapes[0][0] if shapes and shapes[0] else None
