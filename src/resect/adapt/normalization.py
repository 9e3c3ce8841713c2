"""Group or layer normalization instead of batch normalization, or none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import keras

from resect.adapt.base import Changed, Config, change_layers, chosen_or_all
from resect.edits import Remove
from resect.edits.base import Edit, quoted, spellings
from resect.errors import EditError
from resect.graph import Graph, Layer
from resect.options import Weights
from resect.plan import plan
from resect.select import Place, Where

To = Literal["group", "layer"]

_SHARED = (
    "name", "trainable", "dtype", "axis", "epsilon", "center", "scale", "beta_initializer",
    "gamma_initializer", "beta_regularizer", "gamma_regularizer", "beta_constraint",
    "gamma_constraint",
)  # fmt: skip
_CLASSES: dict[str, Any] = {
    "group": keras.layers.GroupNormalization,
    "layer": keras.layers.LayerNormalization,
}
_STATISTICS = {"moving_mean": None, "moving_variance": None}


@dataclass(frozen=True)
class Normalization(Edit):
    """Replaces batch normalization.

    Args:
        to: `"group"`, `"layer"`, or `None` to take it out.
        where: The layers; every `BatchNormalization` without.
        groups: Of a group normalization, at most: as many as divide the channels.
    """

    verb: ClassVar[str] = "normalization"
    to: To | None = None
    where: Where = None
    groups: int = 32

    def __post_init__(self) -> None:
        if self.to is not None and self.to not in get_args(To):
            raise ValueError(f'to must be "group", "layer" or None, not {self.to!r}.')

    def describe(self) -> str:
        where = "" if self.where is None else f" in {quoted(self.where)}"
        if self.to is None:
            return f"take batch normalization out{where}"
        return f"replace batch normalization by {self.to} normalization{where}"

    def pinned(self, graph: Graph) -> Edit:
        return Normalization(self.to, spellings(self._places(graph), graph), self.groups)

    def apply(self, graph: Graph) -> Graph:
        places = self._places(graph)
        if self.to is None:
            return Remove(spellings(places, graph)).apply(graph)
        return change_layers(graph, places, self._changed)

    def _places(self, graph: Graph) -> tuple[Place, ...]:
        found = tuple(
            place
            for place in chosen_or_all(graph, self.where)
            if graph.at(place.path).layer(place.call).cls is keras.layers.BatchNormalization
        )
        if not found:
            raise EditError(
                f"There is no BatchNormalization in {quoted(self.where or graph.name)}.",
                "Nothing is to be done.",
            )
        return found

    def _changed(self, layer: Layer) -> Changed:
        assert self.to is not None

        def config(old: Config) -> Config:
            new = {key: old[key] for key in _SHARED}
            if self.to == "group":
                new["groups"] = math.gcd(self.groups, _channels(layer))
            return new

        return Changed(config, _STATISTICS, _CLASSES[self.to])


def _channels(layer: Layer) -> int:
    """The number of channels that a built batch normalization normalizes."""
    return int(layer.op.moving_mean.shape[0])


def normalization(
    model: Any,
    to: To | None,
    where: Where = None,
    *,
    groups: int = 32,
    weights: Weights = "copy",
) -> Any:
    """The model with another normalization than that by batches.

    For small batches, federated or differentially private training, and export.

    Preserved: the scale (`gamma`) and the offset (`beta`) of each normalization, and all other
    weights.
    Not preserved: what the model computes, which has to be trained again; the moving statistics.

    Args:
        model: A built Keras model.
        to: `"group"` (Wu and He, "Group Normalization", 2018), `"layer"` (over the channels), or
            `None` to take it out.
        where: Only these layers.
        groups: The most groups that channels are divided into; where they cannot be, the greatest
            number that divides both.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model.

    Raises:
        EditError: There is no `BatchNormalization`.
        NoMatchError: `where` matches nothing.

    Example:

    >>> import keras, resect
    >>> stack = [keras.Input((8,)), keras.layers.BatchNormalization(name="norm")]
    >>> new = resect.adapt.normalization(keras.Sequential(stack), "group", groups=4)
    >>> new.get_layer("norm").groups
    4
    """
    return plan(model).then(Normalization(to, where, groups)).apply(weights=weights)
