"""Which layer of a model that was made anew is which of the old one, and what does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from resect.adapt.carried.fields import Groups, Part
from resect.adapt.rules import rule_of
from resect.errors import EditError, ShapeError
from resect.graph import map_refs
from resect.keras_graph.reading import has_graph, read
from resect.keras_graph.units import own_variables

# Fields that are carried from layer to layer, compared otherwise, or that mean nothing.
_CARRIED = ("name", "build_config", "seed", "shared_object_id", "trainable", "lora_rank")
_CARRIED += ("lora_alpha", "vocabulary", "input_mean", "mean", "variance", "dtype")
_CARRIED += ("quantization_config",)


def heirs(
    kept: Sequence[int | None], old: Groups, new: Groups, reinit: bool
) -> Iterator[tuple[Part, Part]]:
    """Each layer of the result with that of the source that it was."""
    origin: dict[int | None, int | None] = {None: None, **dict(enumerate(kept))}
    for block, parts in new.items():
        before = origin.get(block)
        if block is not None and before is None:
            continue
        had, parts = _comparable(old.get(before, []), parts)
        if _same_classes(had, parts):
            yield from zip(had, parts, strict=True)
        elif reinit:
            by_path = {(part.inner, type(part.layer)): part for part in had}
            keys = [(part, (part.inner, type(part.layer))) for part in parts]
            yield from ((by_path[key], part) for part, key in keys if key in by_path)
        else:
            raise EditError(
                _other_layers(had, parts),
                'With on_mismatch="reinit" those that have their path and class go on.',
            )


def _same_classes(ones: Sequence[Part], others: Sequence[Part]) -> bool:
    return [type(part.layer) for part in ones] == [type(part.layer) for part in others]


def _comparable(
    ones: Sequence[Part], others: Sequence[Part]
) -> tuple[Sequence[Part], Sequence[Part]]:
    """Layers of both sides: all of them, or those that matter.

    There may be an `Add` for each block that Keras named, so that it seems to stand in none; and
    KerasHub's preprocessors make some of their parts when they are first called.
    """
    for what in ("variables", "weights"):
        if not _same_classes(ones, others):
            ones, others = ([p for p in s if getattr(p.layer, what)] for s in (ones, others))
    return ones, others


def _other_layers(had: Sequence[Part], parts: Sequence[Part]) -> str:
    ones, others = ({part.inner: part.path for part in group} for group in (had, parts))
    gone = ["/".join(path) for inner, path in ones.items() if inner not in others]
    more = ["/".join(path) for inner, path in others.items() if inner not in ones]
    said = [
        f"{verb} {', '.join(map(repr, names[:4]))}"
        for verb, names in (("lose", gone), ("get", more))
        if names
    ]
    return f"With this configuration the model would {' and '.join(said) or 'be ordered anew'}."


def check_configured(model: Groups, plain: Groups) -> None:
    """Refuses a model in which layers are not what its configuration says.

    Args:
        model: The layers of the model.
        plain: The layers that its configuration alone makes.

    Raises:
        EditError: The model was changed after it was made.
    """
    for group, parts in model.items():
        parts, others = _comparable(parts, plain.get(group, []))
        if not _same_classes(parts, others):
            raise EditError(
                "The model has other layers than its configuration says: it was changed after it "
                "was made.",
                "Let its get_config say so, or edit the graph: resect.remove, resect.collapse.",
            )
        for part, other in zip(parts, others, strict=True):
            if fields := _differing(part.layer, other.layer):
                raise EditError(
                    f"'{'/'.join(part.path)}' has another {' and '.join(fields)} than the "
                    "configuration of the model says: it was changed after it was made.",
                    "Let the model's get_config say so, or edit the graph: resect.remove.",
                    part.layer.name,
                )


def _calls(model: Any) -> dict[int, list[str]]:
    """How each layer is called, but for the tensors: its other arguments."""
    found: dict[int, list[str]] = {}
    if has_graph(model):
        for _, graph in read(model).walk():
            for node in graph.nodes.values():
                said = repr(map_refs(lambda _: "tensor", (node.args, dict(node.kwargs))))
                found.setdefault(id(graph.layer(node.call).op), []).append(said)
    return found


def check_blocks(
    kept: Sequence[int | None], reference: tuple[Any, Groups], new: tuple[Any, Groups]
) -> None:
    """Refuses blocks that would do something else at their new place.

    Args:
        kept: For every block of the new model the old one that it is.
        reference: A model of the new configuration with the old blocks, and its layers.
        new: The new model, and its layers.

    Raises:
        EditError: The class gives a block other settings, or calls it otherwise, by its place.
    """
    had, has = _calls(reference[0]), _calls(new[0])
    for block, before in enumerate(kept):
        if before is None:
            continue
        ones, others = reference[1].get(before, []), new[1].get(block, [])
        for one, other in zip(ones, others, strict=False):
            fields = _differing(one.layer, other.layer)
            if had.get(id(one.layer)) != has.get(id(other.layer)):
                fields.append("arguments")
            if fields:
                raise EditError(
                    f"'{'/'.join(one.path)}' would become '{'/'.join(other.path)}', whose "
                    f"{', '.join(fields)} differ: the class decides it by the place.",
                    "Keep blocks whose places agree in that, or edit the graph: resect.remove.",
                    one.layer.name,
                )


def _differing(one: Any, other: Any) -> list[str]:
    """The fields in which the configurations of two layers differ, names left out."""
    if isinstance(one, keras.Model):
        return []
    try:
        configs = _plain(one.get_config()), _plain(other.get_config())
    except Exception:  # a layer of the user's own without one: its variables are compared
        return []
    found = [name for name in {**configs[0], **configs[1]} if not _same(*configs, name)]
    return found if _precision(one) == _precision(other) else [*found, "dtype"]


def _precision(layer: Any) -> tuple[Any, ...]:
    mode = getattr(layer, "quantization_mode", None)
    return layer.compute_dtype, layer.variable_dtype, mode


def _same(one: Mapping[str, Any], other: Mapping[str, Any], name: str) -> bool:
    return repr(one.get(name)) == repr(other.get(name))


def _plain(config: Any) -> Any:
    if isinstance(config, Mapping):
        return {key: _plain(value) for key, value in config.items() if key not in _CARRIED}
    if isinstance(config, (list, tuple)):
        return [_plain(item) for item in config]
    return config


def same_layout(old: Any, new: Any) -> bool:
    """Whether two layers have own variables of the same names, shapes and kinds of number."""
    return _layout(old) == _layout(new)


def _layout(layer: Any) -> list[tuple[str, tuple[int, ...], bool]]:
    return [
        (v.name.rpartition("_")[0] if v.name[-1:].isdigit() else v.name, tuple(v.shape), _wide(v))
        for v in own_variables(layer)
    ]


def _wide(variable: Any) -> bool:
    """Whether it holds floats, as weights that are not quantized do."""
    dtype = str(keras.backend.standardize_dtype(variable.dtype))
    return dtype.startswith(("float", "bfloat")) and not dtype.startswith("float8")


def carried_words(old: Any, new: Any) -> bool:
    """Puts old words into a vocabulary that has become larger; whether it has."""
    rule = rule_of(type(old))
    variables = list(zip(own_variables(old), own_variables(new), strict=False))
    if rule is None or not rule.words or len(own_variables(old)) != len(own_variables(new)):
        return False
    if not all(_is_wider(one, other, rule.words) for one, other in variables):
        return False
    for variable, other in variables:
        value, known = (np.array(keras.ops.convert_to_numpy(v)) for v in (other, variable))
        value[tuple(slice(size) for size in known.shape)] = known
        other.assign(value)
        other.trainable = variable.trainable
    return True


def _is_wider(old: Any, new: Any, words: Mapping[str, int]) -> bool:
    shape, wider = list(old.shape), list(new.shape)
    if old.name in words and _wide(old) and len(shape) == len(wider):
        axis = words[old.name]
        if shape[axis] <= wider[axis]:
            shape[axis] = wider[axis]
    return old.name == new.name and shape == wider


def misfit(old: Part, new: Part) -> str:
    """How the variables of a layer do not fit any more."""
    ones, others = (
        {v.name: f"{tuple(v.shape)} {v.dtype}" for v in own_variables(part.layer)}
        for part in (old, new)
    )
    differing = [name for name in {**ones, **others} if ones.get(name) != others.get(name)]
    said = [f"{n} {ones.get(n, 'nothing')} -> {others.get(n, 'nothing')}" for n in differing]
    return f"'{'/'.join(old.path)}' ({type(old.layer).__name__}): {', '.join(said)}"


def new_blocks(kept: Sequence[int | None], groups: Groups) -> Iterator[str]:
    """That there are blocks without weights."""
    for block, before in enumerate(kept):
        if before is None and groups.get(block):
            yield f"'{'/'.join(groups[block][0].path)}' is new: nothing says what its weights are"


def raise_misfits(found: Sequence[str]) -> None:
    """Raises what does not fit.

    Raises:
        ShapeError: Something does not.
    """
    if not found:
        return
    more = f"\n… and {len(found) - 8} more" if len(found) > 8 else ""
    raise ShapeError(
        "Weights do not fit, or are none:\n" + "\n".join(found[:8]) + more,
        'With on_mismatch="reinit" these start afresh; keep=[0, 1, 1] repeats a block.',
    )
