"""More words in an embedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from resect.adapt.base import Changed, as_float, change_layers, chosen_or_all, initialised
from resect.adapt.rules import Rule, rule_of
from resect.edits.base import Edit, quoted, spellings
from resect.errors import AmbiguousError, EditError
from resect.graph import Graph, Layer
from resect.lookup import resolve
from resect.options import Weights
from resect.plan import plan
from resect.select import Place, Where


@dataclass(frozen=True)
class Vocabulary(Edit):
    """Gives an embedding more words.

    Args:
        n: How many it is to have.
        where: The layers; the one that has a vocabulary without.
        new: What new words start at: `"initializer"` or `"mean"`.
    """

    verb: ClassVar[str] = "vocabulary"
    n: int
    where: Where = None
    new: str = "initializer"

    def __post_init__(self) -> None:
        if self.new not in ("initializer", "mean"):
            raise ValueError(f'new must be "initializer" or "mean", not {self.new!r}.')

    def describe(self) -> str:
        where = "" if self.where is None else f" in {quoted(self.where)}"
        return f"have {self.n} words{where}"

    def pinned(self, graph: Graph) -> Edit:
        return Vocabulary(self.n, spellings(self._places(graph), graph), self.new)

    def apply(self, graph: Graph) -> Graph:
        return change_layers(graph, self._places(graph), self._changed)

    def _places(self, graph: Graph) -> tuple[Place, ...]:
        if self.where is not None:
            return resolve(self.where, graph)
        places = chosen_or_all(graph, None)
        found = {
            id(layer.op): place
            for place in places
            if (layer := graph.at(place.path).layer(place.call)).graph is None
            and getattr(rule_of(layer.cls), "vocabulary", "")
        }
        if len(found) != 1:
            spelled = ", ".join(f"'{place.spelling(graph)}'" for place in found.values())
            raise (AmbiguousError if found else EditError)(
                f"The model has {len(found)} layers with a vocabulary: {spelled or 'none'}.",
                "Say which with where=."
                if found
                else "Give the class of a layer that has one a rule with resect.adapt.register.",
            )
        return tuple(found.values())

    def _changed(self, layer: Layer) -> Changed:
        rule = rule_of(layer.cls)
        if rule is None or not rule.vocabulary:
            raise EditError(
                f"'{layer.name}' ({layer.kind}) has no vocabulary that resect knows of.",
                "Name an embedding, or give its class a rule with resect.adapt.register.",
                layer.name,
            )
        had = layer.recipe.get_config()[rule.vocabulary]
        if self.n < had:
            raise EditError(
                f"'{layer.name}' ({layer.kind}) has {had} words, and would have {self.n}: some ids "
                "would mean nothing.",
                f"Give n={had} or more.",
                layer.name,
            )
        return Changed(lambda old: {**old, rule.vocabulary: self.n}, self._values(layer, rule))

    def _values(self, layer: Layer, rule: Rule) -> dict[str, Any]:
        config = layer.recipe.get_config()
        initializer = config.get("embeddings_initializer") or "uniform"
        return {name: self._rows(name, axis, initializer) for name, axis in rule.words.items()}

    def _rows(
        self, name: str, axis: int, initializer: Any
    ) -> Callable[[Mapping[str, Any]], np.ndarray]:
        """From the old values of a variable to the new: the old words, then new ones."""

        def value(old: Mapping[str, Any]) -> np.ndarray:
            known = as_float(old[name])
            shape = list(known.shape)
            shape[axis] = self.n - known.shape[axis]
            fresh = initialised(initializer, tuple(shape))
            if self.new == "mean":
                fresh[:] = known.mean(axis=axis, keepdims=True)
            return np.concatenate([known, fresh], axis=axis)

        return value


def vocabulary(
    model: Any,
    n: int,
    where: Where = None,
    *,
    new: str = "initializer",
    weights: Weights = "copy",
) -> Any:
    """The model with more words in its vocabulary.

    An embedding that is the output layer too (`ReversibleEmbedding`) grows in both places, and
    returns logits for the new words. KerasHub's `TokenAndPositionEmbedding` grows in its words.
    Where a model is to stay what its class makes it, `reconfigure(model, vocabulary_size=n)` asks
    the class.

    Preserved: everything that is computed from old ids, the logits of old words included.
    Not preserved: the optimizer's slots of the embedding start afresh.

    Args:
        model: A built Keras model.
        n: How many words it is to have.
        where: The embedding, where the model has several.
        new: What new words start at: `"initializer"`, as the layer initialises them, or `"mean"`,
            the mean of the old ones.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model.

    Raises:
        EditError: Fewer words than there are, or a layer without a vocabulary.
        AmbiguousError: Several embeddings, and `where` does not say which.

    Example:

    >>> import keras, resect
    >>> stack = [keras.Input((None,), dtype="int32"), keras.layers.Embedding(100, 8, name="words")]
    >>> resect.adapt.vocabulary(keras.Sequential(stack), 120).get_layer("words").input_dim
    120
    """
    return plan(model).then(Vocabulary(n, where, new)).apply(weights=weights)
