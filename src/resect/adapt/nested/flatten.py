"""Puts the layers of nested models into the graph of the model around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import keras

from resect.adapt.nested.inlining import Inlining, same_layer
from resect.edits.base import Edit, quoted, spellings
from resect.errors import EditError
from resect.graph import Graph, Layer
from resect.lookup import resolve
from resect.options import Weights
from resect.plan import plan
from resect.select import Place, Where


@dataclass(frozen=True)
class Flatten(Edit):
    """Puts the layers of nested models into the graph of the model around them.

    Args:
        where: The nested models; by default all of them, at any depth.
    """

    verb: ClassVar[str] = "flatten"
    where: Where = None

    def describe(self) -> str:
        return "flatten" if self.where is None else f"flatten {quoted(self.where)}"

    def pinned(self, graph: Graph) -> Edit:
        if self.where is None:
            return self
        return Flatten(spellings(resolve(self.where, graph), graph))

    def apply(self, graph: Graph) -> Graph:
        layers = [layer for _, g in graph.walk() for layer in g.layers.values() if layer.graph]
        if self.where is not None:
            layers = [_nested(graph, place) for place in resolve(self.where, graph)]
        if not layers:
            raise EditError(
                f"{graph.kind} '{graph.name}' has no nested model.",
                "There is nothing to flatten. A subclassed model inside has no graph of its own.",
            )
        return Inlining(graph, {same_layer(layer) for layer in layers}).run()


def _nested(graph: Graph, place: Place) -> Layer:
    """The nested model at a place."""
    within = graph.at(place.path)
    layer, spelling = within.layer(place.call), place.spelling(graph)
    if layer.graph is None:
        subclassed = isinstance(layer.op, keras.Model)
        what = "is a subclassed model without a graph" if subclassed else "is no nested model"
        raise EditError(
            f"'{spelling}' ({layer.kind}) {what}.",
            "It stays one layer."
            if subclassed
            else "Name the model that it lies in, or leave where out.",
            spelling,
        )
    return layer


def flatten(model: Any, where: Where = None, *, weights: Weights = "copy") -> Any:
    """A model without nested models: their layers stand in one graph.

    Sequential and Functional models, and subclasses of Functional that do not redefine `call`, are
    dissolved, at any depth. One that is called several times becomes shared layers with as many
    calls. Layers keep their names; only where two layers would have one name, that of the inner
    one is preceded by the names of the models that it lay in: `backbone_conv1`.

    What Keras does for a nested model is still done. A `training` argument that it was called with
    is recorded for each of its layers (as before, it counts only where the outer model is called
    without one: Keras overrides it in `fit`). Inputs of another dtype or rank are converted, by
    layers that are inserted for that. Each layer stays as frozen as it was: Keras asks the layer,
    not the model that it lies in.

    Models inside wrappers, such as `TimeDistributed(model)`, are not part of the graph and stay. So
    do subclassed models, which have no graph of their own.

    Preserved: what the model computes, in inference and in training mode; weights, trainable flags,
    optimizer slots. Calls that do not depend on each other may be made in another order, which is
    Keras's to choose: two calls of one layer then draw their random numbers, and update its running
    statistics, in that order (on PyTorch, dropout draws from one generator for all layers).
    Not preserved: the nested models as objects; layers that only outputs need that nothing reads.

    Args:
        model: A built Keras model.
        where: The nested models to dissolve, wherever they are called; by default all.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model. A `Sequential` stays one while it is a chain.

    Raises:
        NoMatchError: `where` matches nothing.
        EditError: There is no nested model; or one of them redefines `call`, has an
            `activity_regularizer` or variables outside its graph, is given sparse or constant
            inputs, or a call argument that cannot be handed on to a layer in it.
        MaskError: A mask would be lost, or is given explicitly and is not that of the input.

    Example:

    >>> import keras, resect
    >>> base = [keras.Input((4,)), keras.layers.Dense(8, name="hidden")]
    >>> head = keras.layers.Dense(2, name="logits")
    >>> model = keras.Sequential([keras.Input((4,)), keras.Sequential(base, name="base"), head])
    >>> [layer.name for layer in resect.adapt.flatten(model).layers]
    ['hidden', 'logits']
    """
    return plan(model).then(Flatten(where)).apply(weights=weights)
