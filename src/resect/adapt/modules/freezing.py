"""Everything frozen but what an adaptation has put in."""

from __future__ import annotations

from collections.abc import Container

import keras

from resect.adapt.base import Changed, change_layers, chosen_or_all
from resect.graph import Graph, Layer

FROZEN = Changed(lambda config: {**config, "trainable": False})


def operations(graph: Graph) -> frozenset[int]:
    """The identities of all operations of a graph, at any depth."""
    found = (layer.op for _, nested in graph.walk() for layer in nested.layers.values())
    return frozenset(id(operation) for operation in found)


def frozen(graph: Graph, which: Container[int]) -> Graph:
    """A graph in which layers are not trained.

    Args:
        graph: The outermost graph.
        which: The identities of the operations of the layers, wherever they stand.

    Raises:
        EditError: A layer has no configuration to be made anew from.
    """

    def how(layer: Layer) -> Changed | None:
        return FROZEN if id(layer.op) in which and _can_train(layer) else None

    return change_layers(graph, chosen_or_all(graph, None), how)


def _can_train(layer: Layer) -> bool:
    """Whether a layer has something that training moves: statistics of batches are moved too."""
    if not isinstance(layer.recipe, keras.Layer) or not layer.recipe.trainable:
        return False
    if isinstance(layer.recipe, keras.layers.BatchNormalization):
        return True
    if layer.origin == "new":
        return bool(layer.variables)
    return any(variable.trainable for variable in layer.op.variables)
