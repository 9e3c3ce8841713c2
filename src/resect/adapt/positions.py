"""Position embeddings of vision transformers, resized with the grid of patches."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from resect.adapt.base import Changed, as_float, change_layers
from resect.adapt.rules import Positions, rule_of
from resect.edits.base import is_raw
from resect.errors import EditError
from resect.graph import Call, Graph, Layer, Spec
from resect.keras_graph.inferring import infer
from resect.keras_graph.making import completed
from resect.keras_graph.reading import sublayers
from resect.select import Place

# Layers of KerasHub that take the first of their positions: the axis of the length they are given.
_SEQUENCES = {"PositionEmbedding": -2, "TokenAndPositionEmbedding": -1}
_POSITION = re.compile(r"(^|_)pos(ition\w*)?(_|$)|(^|_)positions?_")


def with_positions(old: Graph, new: Graph) -> Graph:
    """A graph in which position embeddings have the grid of the image that they are given.

    Args:
        old: The graph before its input was resized.
        new: The graph after.

    Raises:
        EditError: A layer that is given another size has position embeddings and no rule, or fewer
            positions than it would need.
    """
    for path, before in old.walk():
        done: set[str] = set()
        while True:  # what is changed may give others another size
            found = _with_rule(before, infer(new.at(path)).graph, done)
            if found is None:
                break
            call, changed = found
            new = change_layers(new, [Place(path, call)], lambda _, changed=changed: changed)
    return new


def _with_rule(old: Graph, new: Graph, done: set[str]) -> tuple[Call, Changed | None] | None:
    """The first call with a rule that is given another size, and what its layer becomes.

    Args:
        old: The graph before.
        new: The graph after, complete.
        done: Layers that were seen to; more are put in.
    """
    for call, spec in _resized(old, new):
        layer = new.layer(call)
        if layer.name in done:
            continue
        done.add(layer.name)
        rule = rule_of(layer.cls)
        if rule is not None and rule.positions is not None:
            return call, _changed(layer, rule.positions, spec)
        _check_fixed(layer, spec)
    return None


def _resized(old: Graph, new: Graph) -> Iterator[tuple[Call, Spec]]:
    """The calls that are given another shape than before, with what they are given."""
    for call, node in new.nodes.items():
        layer = new.layer(call)
        if layer.graph is not None or is_raw(layer.op) or new.is_input(call):
            continue
        if call not in old.nodes or any(new.nodes[r.call].outputs is None for r in node.inputs):
            continue
        for ref, was in zip(node.inputs, old.nodes[call].inputs, strict=False):
            if new.spec(ref).shape != old.spec(was).shape:
                yield call, new.spec(ref)
                break


def _check_fixed(layer: Layer, spec: Spec) -> None:
    """Refuses a layer with position embeddings, of which nothing is known.

    Raises:
        EditError: It has some.
    """
    axis = _SEQUENCES.get(layer.kind)
    length = getattr(layer.op, "sequence_length", None)
    if axis is not None and length is not None:
        wanted = spec.shape[axis]
        if wanted is not None and wanted > length:
            raise EditError(
                f"'{layer.name}' ({layer.kind}) has {length} positions, and would need {wanted}.",
                "Stay below that length.",
                layer.name,
            )
        return
    if rule_of(layer.cls) is None and (where := _positions_of(layer.op)):
        raise EditError(
            f"'{layer.name}' ({layer.kind}) has position embeddings ('{where}') and would be given "
            f"{spec}: resect does not know what they become.",
            "Give its class a rule: resect.adapt.register(cls, Rule(positions=Positions(...))).",
            layer.name,
        )


def _positions_of(layer: Any) -> str:
    """What looks like position embeddings in a layer of one's own or of KerasHub."""
    for part in (layer, *sublayers(layer)):
        if type(part).__module__.split(".")[0] == keras.__name__:
            continue
        for name, value in vars(part).items():
            held = getattr(value, "weights", None) or isinstance(value, keras.Variable)
            if held and _POSITION.search(name):
                return name
        for variable in part.weights:
            inner = variable.path.removeprefix(f"{part.path}/").split("/")
            if any(map(_POSITION.search, inner)):
                return variable.path
    return ""


def _changed(layer: Layer, rule: Positions, spec: Spec) -> Changed | None:
    """A layer with a grid of the size of an image; `None` where it has that size."""
    config = completed(layer.op, layer.op.get_config())
    _check_format(layer)
    patch, was, size = _pair(config[rule.patch]), _pair(config[rule.size]), _size(layer, spec)
    if size == was:
        return None
    if isinstance(config[rule.size], int) and size[0] != size[1]:
        raise EditError(
            f"'{layer.name}' ({layer.kind}) takes square images only, not {size}.",
            "Give a square shape.",
            layer.name,
        )
    before, after = (tuple(n // p for n, p in zip(s, patch, strict=True)) for s in (was, size))
    value: Any = size[0] if isinstance(config[rule.size], int) else size

    def resize(old: Mapping[str, Any]) -> np.ndarray:
        return resized(as_float(old[rule.embeddings]), before, after)

    values: dict[str, Any] = {rule.embeddings: resize}
    if rule.ids:
        count = after[0] * after[1] - before[0] * before[1]
        values[rule.ids] = lambda old: _counted(old[rule.ids], count)
    return Changed(lambda found: {**completed(layer.op, found), rule.size: value}, values)


def _check_format(layer: Layer) -> None:
    """Refuses a layer that would be made anew with another order of the axes."""
    order = getattr(layer.op, "data_format", None)
    known = "data_format" in layer.op.get_config()
    if order not in (None, keras.config.image_data_format()) and not known:
        raise EditError(
            f"'{layer.name}' ({layer.kind}) does not say in its configuration that its images are "
            f"{order}.",
            f"Set it while you edit: keras.config.set_image_data_format({order!r}).",
            layer.name,
        )


def _counted(ids: Any, more: int) -> np.ndarray:
    return np.arange(np.size(ids) + more, dtype=np.asarray(ids).dtype)[None]


def _size(layer: Layer, spec: Spec) -> tuple[int, int]:
    first = getattr(layer.op, "data_format", None) == "channels_first"
    height, width = spec.shape[2:4] if first else spec.shape[1:3]
    if height is None or width is None:
        raise EditError(
            f"'{layer.name}' ({layer.kind}) has position embeddings, and cannot take images of any "
            "size.",
            "Give the height and the width.",
            layer.name,
        )
    return height, width


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    height, width = value[:2]
    return int(height), int(width)


# Interpolation


def resized(embeddings: np.ndarray, before: Sequence[int], after: Sequence[int]) -> np.ndarray:
    """Position embeddings of another grid, by bicubic interpolation (Dosovitskiy et al. 2021, 3.2).

    Pixels are taken by their centres, with Keys's cubic kernel (a = -0.5); where the grid shrinks,
    the kernel is widened, against aliasing. What stands before the grid, for a class token, stays.

    Args:
        embeddings: Array of the shape `(..., tokens + height * width, channels)`.
        before: Height and width of the grid.
        after: Height and width that it is to have.

    Raises:
        EditError: The grid does not fit the array.
    """
    tokens = embeddings.shape[-2] - before[0] * before[1]
    if tokens < 0:
        raise EditError(
            f"{embeddings.shape[-2]} position embeddings are no grid of {before[0]} x {before[1]}.",
            "Correct the rule of the layer's class.",
        )
    lead, channels = embeddings.shape[:-2], embeddings.shape[-1]
    grid = embeddings[..., tokens:, :].reshape(*lead, *before, channels).astype("float64")
    rows, columns = (_weights(n, m) for n, m in zip(before, after, strict=True))
    grid = np.einsum("ih,jw,...hwc->...ijc", rows, columns, grid)
    flat = grid.reshape(*lead, after[0] * after[1], channels).astype(embeddings.dtype)
    return np.concatenate([embeddings[..., :tokens, :], flat], axis=-2)


def _weights(before: int, after: int) -> np.ndarray:
    """How much each of `before` points counts in each of `after` points: `(after, before)`."""
    scale = before / after
    width = max(scale, 1.0)
    centres = (np.arange(after) + 0.5) * scale - 0.5
    weights = _cubic((np.arange(before)[None] - centres[:, None]) / width)
    return weights / weights.sum(axis=1, keepdims=True)


def _cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1.0
    far = -0.5 * x**3 + 2.5 * x**2 - 4.0 * x + 2.0
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
