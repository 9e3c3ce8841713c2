"""What a model costs: parameters, multiply-adds, memory and time.

    rules            count rules, by layer class; `register` adds one
    equations        the size of an einsum
    layer_rules      the rules for Keras's layers
    operation_rules  the rules for raw operations
    shapes           shapes without unknown axes
    profile          costs as values, and how they print
    counting         goes through a graph and counts
    latency          measures how long a prediction takes

The counts are of inference, for the shapes that are given.
"""

from __future__ import annotations

from typing import Any

from resect.cost import layer_rules, operation_rules
from resect.cost.counting import Count, count_graph
from resect.cost.latency import measure
from resect.cost.profile import Cost, Latency, Profile
from resect.cost.rules import Called, register
from resect.cost.shapes import bytes_of, input_specs
from resect.graph import Graph
from resect.verbs import read

__all__ = ["Called", "Cost", "Latency", "Profile", "layer_rules", "operation_rules", "profile"]
__all__ += ["register"]


def profile(
    model: Any, input_shape: Any = None, *, batch_size: int = 1, latency: bool = False
) -> Profile:
    """Counts what a model costs, call by call.

    Multiply-adds are those of matrix products and convolutions, in layers, in operations between
    layers and inside layers that are made of others; element-wise arithmetic, normalisation and
    pooling count as nothing, as in papers. A layer without a rule is looked into, by running its
    `call` on symbolic tensors. What cannot be counted is named in `uncounted` and left out.

    Parameters are counted once, at the first call that uses them, and arithmetic at every call.

    Args:
        model: A Keras model, or its `Graph`.
        input_shape: Shape of one sample, needed where the model leaves an axis open. For several
            inputs a list or a dict by name; a single shape is for all of them.
        batch_size: Number of samples.
        latency: Whether to measure the time of a prediction too: the median of 20 runs of
            `model.predict_on_batch` on the present backend, compiled and warm. Of the whole model
            only: called one by one, layers take longer than they do within it.

    Returns:
        The costs. Print them: they are a table.

    Raises:
        ReadError: The model cannot be read as a graph.
        TypeError: Latency of a graph.
        ShapeError: An axis of an input, or of something computed from it, is not known.

    Example:

    >>> import keras, resect
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, name="d")], name="mlp")
    >>> print(resect.profile(model).table())  # doctest: +ELLIPSIS
    Sequential 'mlp'
    <BLANKLINE>
    call  class  output shape  parameters  multiply-adds  activations
    d     Dense  (1, 8)                40             32         32 B
    ...
    """
    if latency and isinstance(model, Graph):
        raise TypeError("Time is measured on a model: pass the model, not its graph.")
    graph = model if isinstance(model, Graph) else read(model)
    given = input_specs(graph, input_shape, batch_size)
    count = Count()
    peak = count_graph(graph, dict(given), count) + bytes_of(list(given.values()))
    return Profile(
        title=f"{graph.kind} '{graph.name}'",
        batch=next((spec.shape[0] or 0 for spec in given.values() if spec.shape), batch_size),
        input_shapes=tuple((ref.call.layer, spec.shape) for ref, spec in given.items()),
        rows=tuple(count.rows),
        peak_bytes=peak,
        latency=measure(graph.model, graph, given) if latency else None,
    )
