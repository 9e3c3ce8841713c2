"""Another number of classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np

from resect.adapt.base import Changed, as_float, change_layers, initialised, producer
from resect.adapt.rules import rule_of, treats_channels_alike
from resect.edits.base import Edit, only_output, quoted
from resect.errors import EditError
from resect.graph import Graph, Layer
from resect.lookup import resolve_one
from resect.options import Weights
from resect.plan import plan
from resect.select import Place, Where

# Behind the layer whose outputs are the classes: what leaves the classes what they are.
_BEHIND = (
    keras.layers.Activation, keras.layers.Softmax, keras.layers.Flatten,
    keras.layers.GlobalAveragePooling1D, keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling1D, keras.layers.GlobalMaxPooling2D,
)  # fmt: skip
_OPERATIONS = {"Softmax", "LogSoftmax", "Sigmoid", "LogSigmoid"}


@dataclass(frozen=True)
class Classes(Edit):
    """Gives the model another number of classes.

    Args:
        n: How many; as many as `keep` without.
        keep: The old classes that stay, by index, in their new order; all of them without.
        at: The layer whose outputs are the classes; the last one that can be without.
    """

    verb: ClassVar[str] = "classes"
    n: int | None = None
    keep: tuple[int, ...] | None = None
    at: Where = None

    def __post_init__(self) -> None:
        if self.n is None and self.keep is None:
            raise TypeError("classes needs n, keep or both.")

    def describe(self) -> str:
        total = len(self.keep or ()) if self.n is None else self.n
        kept = "" if self.keep is None else f", keeping {', '.join(map(str, self.keep))}"
        where = "" if self.at is None else f" at {quoted(self.at)}"
        return f"have {total} classes{where}{kept}"

    def pinned(self, graph: Graph) -> Edit:
        return Classes(self.n, self.keep, self._head(graph).spelling(graph))

    def apply(self, graph: Graph) -> Graph:
        head = self._head(graph)
        layer = graph.at(head.path).layer(head.call)
        had = self._had(graph, head, layer)
        kept = self._kept(layer, had)
        total = len(kept) if self.n is None else self.n
        changed = change_layers(graph, [head], lambda la: _widened(la, kept, total))
        return _reshaped(changed, head, had, total)

    def _head(self, graph: Graph) -> Place:
        """The layer whose outputs are the classes."""
        if self.at is not None:
            return resolve_one(self.at, graph)
        ref = only_output(graph, "give other classes to", "say which with at=")
        place = producer(graph, ref)
        while True:
            nested = graph.at(place.path)
            layer = nested.layer(place.call)
            if rule_of(layer.cls) is not None or not _is_behind(layer):
                return place
            (ref,) = nested.nodes[place.call].data_inputs
            inner = producer(nested, ref)
            place = Place((*place.path, *inner.path), inner.call)

    def _had(self, graph: Graph, head: Place, layer: Layer) -> int:
        rule = rule_of(layer.cls)
        if rule is None or not rule.units:
            raise EditError(
                f"'{head.spelling(graph)}' ({layer.kind}) makes the classes, and resect does not "
                "know which axes of its weights they are.",
                "Give its class a rule with resect.adapt.register, or say at=.",
                head.spelling(graph),
            )
        return int(layer.recipe.get_config()[rule.units])

    def _kept(self, layer: Layer, had: int) -> tuple[int, ...]:
        if self.keep is None and self.n is not None and self.n < had:
            raise EditError(
                f"'{layer.name}' ({layer.kind}) has {had} classes, and only {self.n} can stay.",
                "Say which: keep=[...].",
                layer.name,
            )
        kept = tuple(range(had)) if self.keep is None else self.keep
        wrong = [index for index in kept if not 0 <= index < had]
        if wrong or len(set(kept)) != len(kept) or not kept:
            raise EditError(
                f"keep={list(kept)} does not name different classes among the {had} that "
                f"'{layer.name}' ({layer.kind}) has.",
                f"Give each index from 0 to {had - 1} at most once.",
                layer.name,
            )
        if self.n is not None and self.n < len(kept):
            raise EditError(
                f"{len(kept)} classes are kept, and there would be {self.n}.",
                "Give a larger n, or keep fewer.",
                layer.name,
            )
        return kept


def _is_behind(layer: Layer) -> bool:
    if not issubclass(layer.cls, keras.Layer):
        return layer.kind in _OPERATIONS
    return layer.cls in (*_BEHIND, keras.layers.Reshape) or treats_channels_alike(layer.recipe)


def _widened(layer: Layer, kept: tuple[int, ...], total: int) -> Changed:
    rule = rule_of(layer.cls)
    assert rule is not None
    config = layer.recipe.get_config()
    values = {
        name: _columns(name, axis, kept, total, config.get(f"{name}_initializer"))
        for name, axis in rule.outputs.items()
    }
    return Changed(lambda old: {**old, rule.units: total}, values)


def _columns(
    name: str, axis: int, kept: tuple[int, ...], total: int, initializer: Any
) -> Callable[[Mapping[str, Any]], Any]:
    """From the old values of a variable to the new: the kept columns, then fresh ones."""

    def value(old: Mapping[str, Any]) -> Any:
        stay = np.take(as_float(old[name]), kept, axis=axis)
        if total == len(kept):
            return stay
        shape = list(stay.shape)
        shape[axis] = total
        new = initialised(initializer, tuple(shape)).astype(stay.dtype)
        where = [slice(None)] * new.ndim
        where[axis] = slice(0, len(kept))
        new[tuple(where)] = stay
        return new

    return value


def _reshaped(graph: Graph, head: Place, had: int, total: int) -> Graph:
    """The `Reshape` layers behind the head, with the new number of classes."""
    nested = graph.at(head.path)
    behind = [
        Place(head.path, call)
        for call in nested.descendants([head.call])
        if nested.layer(call).cls is keras.layers.Reshape
    ]

    def changed(layer: Layer) -> Changed | None:
        shape = layer.recipe.get_config()["target_shape"]
        if not shape or shape[-1] != had:
            return None
        return Changed(lambda old: {**old, "target_shape": [*shape[:-1], total]})

    return change_layers(graph, behind, changed) if behind and had != total else graph


def classes(
    model: Any,
    n: int | None = None,
    *,
    keep: Sequence[int] | None = None,
    at: Where = None,
    weights: Weights = "copy",
) -> Any:
    """The model with another number of classes.

    The old classes keep their weights, and stand first; new ones start as their layer initialises
    them. The layer whose outputs are the classes is found behind activations, pooling and
    reshaping, also in a nested model.

    Preserved: the logits of the classes that stay, bit by bit but for the order of sums.
    Not preserved: probabilities, which are over other classes now; the optimizer's slots of the
    layer that was changed start afresh.

    Args:
        model: A built Keras model.
        n: How many classes it is to have.
        keep: Which of the old classes stay, in their new order; all by default.
        at: The layer whose outputs are the classes, where it is not the last.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model.

    Raises:
        EditError: Fewer classes than there are, and nothing says which stay; or a layer that has
            no rule.
        AmbiguousError: Several outputs, and `at` does not say which.

    Example:

    >>> import keras, resect
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(10, name="logits")])
    >>> resect.adapt.classes(model, 12).output_shape
    (None, 12)
    >>> resect.adapt.classes(model, keep=[3, 7]).output_shape
    (None, 2)
    """
    kept = None if keep is None else tuple(keep)
    return plan(model).then(Classes(n, kept, at)).apply(weights=weights)
