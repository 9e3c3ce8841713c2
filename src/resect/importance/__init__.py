"""Which blocks of a model earn their place.

    data            batches of arrays, datasets and loaders
    program         a graph as a row of steps, cut into segments
    targets         what is measured
    backends        what differs between backends
    execution       runs segments on the source's own layers
    scores          loss and metrics of several variants
    sweep           every model with one block bypassed, at half the arithmetic
    ablation        what a bypassed block changes
    shares          the same, on several workers
    representations influence, angular distance and CKA
    taylor          a first-order estimate
    measured        what a method found; costs beside it
    statistics      means over batches, and how sure they are
    result          importance as a value, and how it prints

The layers that are run are those of the source; nothing of it changes.
"""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any

from resect.graph import Graph
from resect.importance.ablation import ablation
from resect.importance.measured import with_costs
from resect.importance.program import program_of
from resect.importance.representations import angular, cka, influence
from resect.importance.result import MEANINGS, Importance, Method, Ranked, Similarity
from resect.importance.shares import shared_ablation
from resect.importance.targets import targets_of
from resect.importance.taylor import taylor
from resect.verbs import read

__all__ = ["Importance", "Method", "Ranked", "Similarity", "importance"]

MEMORY = 2**30


def importance(
    model: Any,
    data: Any,
    method: Method = "ablation",
    *,
    blocks: Any = None,
    batch_size: int = 32,
    memory: int = MEMORY,
    span: int = 1,
    executor: Executor | None = None,
    workers: int | None = None,
) -> Importance:
    """Measures what the blocks of a model are worth, on data.

    `"ablation"` bypasses one block at a time and tells how the loss and the metrics that the model
    is compiled with change. The numbers are those of `resect.collapse(model, *block.ends)` and its
    `evaluate`, without making any of those models: up to its block each agrees with the original,
    and behind it several run at once, so all of it takes about half the arithmetic, and one
    compilation (Veit, Wilber and Belongie, "Residual networks behave like ensembles of relatively
    shallow networks", 2016, who took single blocks out).

    `"influence"` is 1 − the cosine of the angle between what enters a block and what leaves it, at
    every position and averaged (Men et al., "ShortGPT: layers in large language models are more
    redundant than you expect", 2024).

    `"angular"` is that angle, in halves of a full turn, across `span` blocks in a row (Gromov et
    al., "The unreasonable ineffectiveness of the deeper layers", 2024; the paper takes the last
    position, this takes all). `similarity` holds it for every number of blocks in a row.

    `"taylor"` estimates the change of the loss from one backward pass: the gradient of the loss at
    what leaves the block, times what enters less what leaves (Molchanov et al., "Importance
    estimation for neural network pruning", 2019, there for weights). It is signed: what would
    lower the loss is negative.

    `"cka"` is 1 − the linear centred kernel alignment of what enters and what leaves, estimated
    without bias batch by batch (Kornblith et al., "Similarity of neural network representations
    revisited", 2019; Nguyen, Raghu and Kornblith, "Do wide and deep networks learn the same
    things?", 2021). `similarity` holds it for all places.

    Positions that a mask leaves out do not count: Keras's own masks, and inputs of shape
    `(batch, positions)` whose names end in `mask`. Samples count by their weights. In a nested
    model that is called several times, `"ablation"` and `"taylor"` mean all calls, the others the
    first. Only `"ablation"` and `"taylor"` need targets and a compiled model.

    Args:
        model: A Keras model, or its `Graph`.
        data: `(x, y)` or `(x, y, sample_weight)` as arrays, a `tf.data.Dataset`, a PyTorch
            `DataLoader`, a `keras.utils.PyDataset`, or anything that gives batches.
        method: How importance is measured.
        blocks: What is measured: blocks of `resect.blocks`, or addresses of the calls that end
            them. By default all blocks that papers call blocks and that keep the shape.
        batch_size: Number of samples in a batch, where the data is arrays.
        memory: The most bytes of activations that are held between blocks; what a block needs while
            it runs comes on top. How many variants run together depends on it. For `"ablation"`.
        span: Number of blocks in a row, for `"angular"`.
        executor: What divides the blocks among its workers, for `"ablation"`: as of
            `resect.parallel.run`. Each worker may hold `memory`.
        workers: Among how many. Without `executor`, that many processes of this machine.

    Returns:
        The blocks with their importance. Print it: it is a table, the least important block first.

    Raises:
        ReadError: The model cannot be read as a graph.
        NoMatchError: There are no blocks to measure.
        ShapeError: One of the chosen blocks changes the shape of what goes in.
        SurgeryError: The model is not compiled, or its class computes its loss in its own way; the
            data does not fit, cannot be sent to workers, or the memory does not suffice.

    Example:

    >>> import keras, numpy as np, resect
    >>> x = inputs = keras.Input((4,), name="x")
    >>> for i in range(3):
    ...     y = keras.layers.Dense(4, activation="relu", name=f"inner_{i}")(x)
    ...     x = keras.layers.Add(name=f"add_{i}")([x, y])
    >>> model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(x), name="mlp")
    >>> model.compile(loss="mse")
    >>> data = np.ones((8, 4), "float32"), np.zeros((8, 2), "float32")
    >>> found = resect.importance(model, data)
    >>> [row.name for row in found]
    ['add_0', 'add_1', 'add_2']
    >>> smaller = resect.collapse(model, *found.sorted()[0].ends)
    """
    graph = model if isinstance(model, Graph) else read(model)
    program = program_of(graph)
    targets = targets_of(program, blocks)
    if method not in MEANINGS:
        listed = ", ".join(repr(each) for each in MEANINGS)
        raise ValueError(f"{method!r} is no method. The methods are {listed}.")
    divided = executor is not None or workers is not None
    if divided and method != "ablation":
        raise ValueError(
            f'"{method}" takes one pass over the data, for all blocks together: there is nothing '
            'to divide. Leave out executor and workers; they are for "ablation".'
        )
    if divided:
        found = shared_ablation(program, targets, data, batch_size, memory, executor, workers)
    elif method == "ablation":
        found = ablation(program, targets, data, batch_size, memory)
    elif method == "influence":
        found = influence(program, targets, data, batch_size)
    elif method == "angular":
        found = angular(program, targets, data, batch_size, span)
    elif method == "taylor":
        found = taylor(program, targets, data, batch_size)
    else:
        found = cka(program, targets, data, batch_size)
    return with_costs(found, graph, method)
