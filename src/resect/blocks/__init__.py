"""Blocks: the regions of a model with one tensor in and one tensor out.

    dominators   where a graph narrows to a single vertex; numbers only
    forks        where only some of the ways that part meet again
    flow         the tensors of a graph as vertices; its regions
    naming       what the names of layers say about which of them belong together
    facts        what is known of each region
    tree         regions become blocks, paths and stages
    block        blocks as values, and how they print

Data flows downwards, and each module imports only from those above it, and from the engine.
"""

from __future__ import annotations

from typing import Any

from resect.blocks.block import Block, Blocks
from resect.blocks.tree import tree_of
from resect.graph import Graph
from resect.lookup import resolve
from resect.select import Where, output_of
from resect.verbs import read

__all__ = ["Block", "Blocks", "blocks"]


def blocks(model: Any, *, side: Where = None) -> Blocks:
    """Finds every region of a model with one tensor in and one tensor out.

    All that a region computes from goes in through one tensor, and all that the rest of the model
    has from it comes out through one, so that `resect.collapse(model, *block.ends)` makes a wire
    of it. That tensor may be read elsewhere too, by a long skip connection. Beside it a region may
    read *side tensors*, which do not count: what layers are given as masks (an argument `mask` or
    `..._mask`), model inputs of dtype bool or whose names end in `mask`, what `side` names, and
    everything that is computed from nothing else. So the padding mask that every layer of an
    encoder reads does not hide its layers.

    Regions make a tree, from single calls to stages:

    - `"call"`: a single call with one tensor in and one out.
    - `"branch"`: ways that part at one tensor and meet in another.
    - `"path"`: several calls in a row on one of those ways.
    - `"block"`: what papers call a block, and never inside another one. The outermost branches
      with weights, unless several of them stand in a row within a longer skip connection; layers
      that are made of several layers, such as a `TransformerEncoder`; and consecutive calls whose
      names begin alike up to a number (`block_1_`, `conv2_block1_`), without which a block that has
      no skip connection could not be told from its neighbours.
    - `"stage"`: consecutive blocks that return one shape, of which the first may change it; and a
      skip connection around several blocks.
    - `"model"`: a call of a nested model, with its blocks inside.

    Dominators take one pass over the graph, so the time is near-linear in its size.

    Args:
        model: A Keras model, or its `Graph`.
        side: Calls whose outputs are side tensors too, such as a time embedding that every block
            reads, or an encoder's output that every layer of a decoder attends to.

    Returns:
        The blocks, each before those inside it. `.level("block")` selects what papers call blocks,
        `.collapsible()` what can become a wire with no change of shape. Print it: it is a tree.

    Raises:
        ReadError: The model cannot be read as a graph.
        NoMatchError: `side` matches nothing.

    Example:

    >>> import keras, resect
    >>> x = inputs = keras.Input((4,), name="x")
    >>> for i in range(2):
    ...     y = keras.layers.Dense(8, activation="relu", name=f"up_{i}")(x)
    ...     x = keras.layers.Add(name=f"add_{i}")([x, keras.layers.Dense(4, name=f"down_{i}")(y)])
    >>> model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(x), name="mlp")
    >>> found = resect.blocks(model).level("block")
    >>> found.names
    ('add_0', 'add_1')
    >>> found[1].ends, found[1].calls
    (('add_0', 'add_1'), ('up_1', 'down_1', 'add_1'))
    >>> shorter = resect.collapse(model, *found[1].ends)
    >>> [layer.name for layer in shorter.layers]
    ['x', 'up_0', 'down_0', 'add_0', 'logits']
    """
    graph = model if isinstance(model, Graph) else read(model)
    named = side if isinstance(side, (list, tuple)) else () if side is None else (side,)
    tree = tree_of(graph, [(p, output_of(where)) for where in named for p in resolve(where, graph)])
    found = tuple(inner for block in tree for inner in block.walk())
    return Blocks(f"{graph.kind} '{graph.name}'", found, tree)
