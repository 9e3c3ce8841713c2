"""Puts the sublayers of composite layers into the graph of the model around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import keras

from resect.adapt.nested.opening import composite, opened
from resect.edits.base import Edit, quoted, spellings
from resect.errors import EditError
from resect.graph import Graph
from resect.keras_graph.reading import sublayers
from resect.lookup import resolve
from resect.options import Weights
from resect.plan import plan
from resect.select import Where


@dataclass(frozen=True)
class Inline(Edit):
    """Puts the sublayers of composite layers into the graph around them.

    Args:
        where: The composite layers.
        depth: How many levels of layers within layers are opened.
    """

    verb: ClassVar[str] = "inline"
    where: Where
    depth: int = 1

    def describe(self) -> str:
        deep = "" if self.depth == 1 else f", {self.depth} levels deep"
        return f"inline {quoted(self.where)}{deep}"

    def pinned(self, graph: Graph) -> Edit:
        return Inline(spellings(resolve(self.where, graph), graph), self.depth)

    def apply(self, graph: Graph) -> Graph:
        if self.depth < 1:
            raise EditError(f"depth={self.depth} opens nothing.", "Say depth=1 or more.")
        chosen = {}
        for place in resolve(self.where, graph):
            layer = composite(graph, place)
            chosen[id(layer)] = layer
        for _ in range(self.depth):
            if not chosen:
                break
            graph = opened(graph, chosen)
            chosen = _within(graph, chosen)
        return graph


def _within(graph: Graph, chosen: dict[int, Any]) -> dict[int, Any]:
    """The layers in some that were opened, which are composite themselves and not Keras's own."""
    parts = {id(part) for layer in chosen.values() for part in sublayers(layer)}
    return {
        id(layer.op): layer.op
        for _, nested in graph.walk()
        for layer in nested.layers.values()
        if id(layer.op) in parts and layer.graph is None and _is_composite(layer.op)
    }


def _is_composite(layer: Any) -> bool:
    own = type(layer).__module__.split(".")[0] != keras.__name__
    return own and bool(sublayers(layer))


def inline(model: Any, where: Where, *, depth: int = 1, weights: Weights = "copy") -> Any:
    """A model in whose graph composite layers are replaced by what they are made of.

    A transformer block, or a block of one's own that calls layers and `keras.ops`, is one opaque
    call in a graph. Opened, its sublayers and operations are calls like any other, which further
    edits reach. Its `call` is traced on symbolic tensors, once for each call, with the arguments
    that the call has recorded; the trace is run beside the layer before it is believed.

    A layer that is called several times becomes shared sublayers with as many calls. Sublayers keep
    their names; only where two layers would have one name, that of the inner one is preceded by
    the name of the block that it lay in: `block_3_dense`.

    A mask that comes with a tensor, and that the block handed on, is given as an argument to what
    heeds it, since raw operations drop masks.

    Preserved: what the model computes, in inference and in training mode; weights, trainable flags,
    optimizer slots, state.
    Not preserved: the blocks as objects, and what they can do beside their `call`.

    Args:
        model: A built Keras model.
        where: The composite layers, at any depth. Each is opened wherever it is called.
        depth: How many levels of layers within layers are opened: at 2, blocks within these blocks
            too. Below the first level Keras's own layers, such as `MultiHeadAttention`, stay whole.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model.

    Raises:
        NoMatchError: `where` matches nothing.
        EditError: There is a nested model (use `flatten`), a raw operation, a layer that an earlier
            edit has made or changed, one with an `activity_regularizer`, a quantized one, or one
            with weights that its calls do not use.
        MaskError: A mask would be lost, and would matter.
        TraceError: A `call` cannot be traced, or would do something else in a graph: it branches on
            `training`, updates a variable, computes with a weight outside a layer. Names the file
            and the line.

    Example:

    >>> import keras, resect
    >>> class Block(keras.Layer):
    ...     def __init__(self, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.inner = keras.layers.Dense(8, activation="relu", name="inner")
    ...         self.outer = keras.layers.Dense(4, name="outer")
    ...
    ...     def call(self, x):
    ...         return x + self.outer(self.inner(x))
    >>> stack = [keras.Input((4,), name="x"), Block(name="block")]
    >>> new = resect.adapt.inline(keras.Sequential(stack), "block")
    >>> list(resect.read(new).layers)
    ['x', 'inner', 'outer', 'add']
    """
    return plan(model).then(Inline(where, depth)).apply(weights=weights)
