"""The verbs: each builds a plan of one edit and applies it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from resect.graph import Graph
from resect.keras_graph import training
from resect.keras_graph.reading import not_a_model
from resect.keras_graph.snapshots import Snapshot
from resect.keras_graph.tracing import trace
from resect.keras_graph.writing import write
from resect.options import OnMismatch, Weights, check_weights
from resect.plan import Plan
from resect.select import Where
from resect.verify import same_function, structural


def read(model: Any) -> Graph:
    """The graph of a model. Print it: it is a drawing.

    Args:
        model: A built Keras model.

    Returns:
        The graph, immutable.

    Raises:
        ReadError: The model cannot be read as a graph.

    Example:

    >>> import keras, resect
    >>> model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2, name="d")])
    >>> print(resect.read(model))  # doctest: +ELLIPSIS
    Sequential '...'
      x  InputLayer  (None, 4)
      d  Dense       (None, 2)  <- x
      -> d
    """
    return Plan(model).source


def clone(model: Any, *, weights: Weights = "copy") -> Any:
    """An exact, independent copy: weights, state, compile configuration and optimizer.

    Args:
        model: A built Keras model.
        weights: `"copy"`, or `"share"` for the same variables in another model.

    Returns:
        A model of the same class.

    Example:

    >>> import keras, resect
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> twin = resect.clone(model)
    >>> bool((twin.layers[0].kernel.numpy() == model.layers[0].kernel.numpy()).all())
    True
    """
    return Plan(model).apply(weights)


def pop(model: Any, n: int = 1, *, weights: Weights = "copy") -> Any:
    """Takes the last `n` layers off.

    Args:
        model: A built Keras model with one output.
        n: How many.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model, compiled as the source is.

    Raises:
        EmptyResultError: Nothing would be left.
        MergeError: The last call has several inputs: remove it, saying which one to keep.

    Example:

    >>> import keras, resect
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)])
    >>> resect.pop(model).output_shape
    (None, 8)
    """
    return Plan(model).pop(n).apply(weights)


def remove(
    model: Any,
    where: Where,
    *,
    keep: Where = None,
    on_mismatch: OnMismatch = "raise",
    weights: Weights = "copy",
) -> Any:
    """Takes layers out of the middle; their neighbours are reconnected.

    Args:
        model: A built Keras model.
        where: Which; the name of a shared layer means all of its calls.
        keep: For a call with several inputs: which of the calls that feed it goes on.
        on_mismatch: When a kept layer's weights do not fit the shape that it would now see:
            `"raise"`, `"reinit"` (that layer starts afresh) or `"adapt"` (a projection is put in).
        weights: `"copy"` or `"share"`.

    Returns:
        A new model, compiled as the source is.

    Raises:
        NoMatchError: Nothing matches.
        ShapeError: Weights do not fit any more.
        MergeError: Several inputs, and no `keep`.

    Example:

    >>> import keras, resect
    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dropout(0.5, name="drop")]
    ... )
    >>> [layer.name for layer in resect.remove(model, "drop").layers]  # doctest: +ELLIPSIS
    ['dense...']
    """
    return Plan(model).remove(where, keep=keep, on_mismatch=on_mismatch).apply(weights)


def truncate(
    model: Any, *, start: Where = None, end: Where = None, weights: Weights = "copy"
) -> Any:
    """The model from a layer on, up to a layer, or both; the ends stay.

    Args:
        model: A built Keras model.
        start: The first call that stays. What it reads becomes the input; every other tensor from
            before it that the rest needs becomes an input too.
        end: The last call that stays; its output becomes the output.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model.

    Raises:
        CutError: An output does not depend on `start`.
        MaskError: The cut goes through an implicit mask.

    Example:

    >>> import keras, resect
    >>> layers = [keras.layers.Dense(n, name=f"d{n}") for n in (8, 4, 2)]
    >>> model = keras.Sequential([keras.Input((16,)), *layers])
    >>> resect.truncate(model, start="d4").input_shape
    (None, 8)
    >>> resect.truncate(model, end="d4").output_shape
    (None, 4)
    """
    return Plan(model).truncate(start=start, end=end).apply(weights)


def split(model: Any, at: Where, *, weights: Weights = "copy") -> tuple[Any, Any]:
    """Cuts a model in two: `tail(head(x)) == model(x)`, at any cut.

    The head holds all that `at` needs, the tail all that needs `at`; what is neither goes to the
    side that makes the boundary smallest, in bytes per sample.

    Args:
        model: A built Keras model.
        at: The last call of the head.
        weights: `"copy"` or `"share"`.

    Returns:
        The head, whose outputs are the tensors that cross the cut, and the tail, whose inputs they
        are, in the same order.

    Raises:
        EmptyResultError: Nothing lies behind `at`.
        MaskError: The cut goes through an implicit mask.

    Example:

    >>> import keras, resect
    >>> layers = [keras.layers.Dense(n, name=f"d{n}") for n in (8, 4, 2)]
    >>> head, tail = resect.split(keras.Sequential([keras.Input((16,)), *layers]), "d8")
    >>> head.output_shape == tail.input_shape
    True
    """
    plan = Plan(model)
    return plan.head(at).apply(weights), plan.tail(at).apply(weights)


def insert(
    model: Any,
    layer: Any,
    *,
    after: Where = None,
    before: Where = None,
    between: tuple[Where, Where] | None = None,
    merge_with: Where = None,
    on_mismatch: OnMismatch = "raise",
    weights: Weights = "copy",
) -> Any:
    """Puts layers in, after or before calls or on the edge between two.

    Args:
        model: A built Keras model.
        layer: A layer (copied for each place, under a fresh name), a list of layers in a row, or a
            function that is given the place (a `resect.Site`) and returns either.
        after: Calls whose output it reads.
        before: Calls whose one input it goes into.
        between: Two calls: only the edge from the first to the second.
        merge_with: A call whose output it reads as well, as `layer([here, there])`.
        on_mismatch: As in `remove`, for the layers behind it.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model, compiled as the source is.

    Example:

    >>> import keras, resect
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)])
    >>> new = resect.insert(model, keras.layers.Dropout(0.5), after=keras.layers.Dense)
    >>> [type(layer).__name__ for layer in new.layers]
    ['Dense', 'Dropout', 'Dense', 'Dropout']
    """
    plan = Plan(model).insert(
        layer,
        after=after,
        before=before,
        between=between,
        merge_with=merge_with,
        on_mismatch=on_mismatch,
    )
    return plan.apply(weights)


def replace(
    model: Any,
    where: Where,
    layer: Any,
    *,
    on_mismatch: OnMismatch = "raise",
    weights: Weights = "copy",
) -> Any:
    """Puts other layers in the place of some.

    Args:
        model: A built Keras model.
        where: Which; the name of a shared layer means all its calls, `"shared@1"` its second.
        layer: A layer, a list of layers in a row, or a function that is given the old layer and
            returns either. One of the same class takes over the weights that fit.
        on_mismatch: As in `remove`, for the layers behind it.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model, compiled as the source is.

    Example:

    >>> import keras, resect
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.ReLU(name="act")])
    >>> new = resect.replace(model, "act", keras.layers.Activation("silu", name="act"))
    >>> new.layers[0].activation.__name__
    'silu'
    """
    return Plan(model).replace(where, layer, on_mismatch=on_mismatch).apply(weights)


def append(model: Any, layer: Any, *, weights: Weights = "copy") -> Any:
    """Puts layers behind the model's one output.

    Args:
        model: A built Keras model.
        layer: A layer, a list of layers in a row, or a function of the `resect.Site`.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model, compiled as the source is.

    Example:

    >>> import keras, resect
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
    >>> resect.append(model, keras.layers.Dense(5)).output_shape
    (None, 5)
    """
    return Plan(model).append(layer).apply(weights)


def prepend(
    model: Any, layer: Any, *, on_mismatch: OnMismatch = "raise", weights: Weights = "copy"
) -> Any:
    """Puts layers between the model's one input and whatever reads it.

    Args:
        model: A built Keras model.
        layer: A layer, a list of layers in a row, or a function of the `resect.Site`.
        on_mismatch: As in `remove`.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model, compiled as the source is.

    Example:

    >>> import keras, resect
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
    >>> [type(la).__name__ for la in resect.prepend(model, keras.layers.Rescaling(2.0)).layers]
    ['Rescaling', 'Dense']
    """
    return Plan(model).prepend(layer, on_mismatch=on_mismatch).apply(weights)


def collapse(
    model: Any,
    start: Where,
    end: Where,
    *,
    on_mismatch: OnMismatch = "raise",
    weights: Weights = "copy",
) -> Any:
    """Turns the region between two places into a wire.

    Whatever read the output of `end` reads the output of `start`, and what nothing needs any more
    goes. `start` stays, `end` goes.

    Args:
        model: A built Keras model.
        start: A call before the region.
        end: The last call of the region.
        on_mismatch: As in `remove`.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model, compiled as the source is.

    Example:

    >>> import keras, resect
    >>> layers = [keras.layers.Dense(8, name=f"d{i}") for i in range(4)]
    >>> model = keras.Sequential([keras.Input((8,)), *layers])
    >>> [layer.name for layer in resect.collapse(model, "d0", "d2").layers]
    ['d0', 'd3']
    """
    return Plan(model).collapse(start, end, on_mismatch=on_mismatch).apply(weights)


def rename(model: Any, names: Mapping[str, str], *, weights: Weights = "copy") -> Any:
    """Gives layers other names.

    Args:
        model: A built Keras model.
        names: New names by address.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model, compiled as the source is.

    Raises:
        NameClashError: Two layers would have one name.

    Example:

    >>> import keras, resect
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, name="dense")])
    >>> resect.rename(model, {"dense": "logits"}).layers[0].name
    'logits'
    """
    return Plan(model).rename(names).apply(weights)


def functional(model: Any, inputs: Any = None, *, weights: Weights = "share") -> Any:
    """An equal Functional model of a subclassed one, with the same weights.

    `call` is traced on symbolic inputs, and the result is compared with the model itself.

    Args:
        model: A built subclassed model; one that has a graph already is cloned.
        inputs: Structure of `keras.Input` tensors as `call` takes it; by default tensors of the
            shapes that the model was built with, in Keras's default float type.
        weights: `"share"` for the model's own variables, `"copy"` for an independent model.

    Returns:
        A Functional model, compiled as the source is.

    Raises:
        TraceError: `call` cannot be traced, or a trace would not be exact; names file and line.
        UnbuiltError: The model has no weights yet.

    Example:

    >>> import keras, numpy as np, resect
    >>> class Net(keras.Model):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.dense = keras.layers.Dense(2)
    ...
    ...     def call(self, x):
    ...         return keras.ops.relu(self.dense(x))
    >>> net = Net()
    >>> _ = net(np.ones((1, 4)))
    >>> type(resect.functional(net)).__name__
    'Functional'
    """
    check_weights(weights)
    if not isinstance(model, keras.Model):
        raise not_a_model(model)
    before = Snapshot.of(model, values=False)
    graph = trace(model, inputs)
    written = write(graph, weights)
    structural(graph, written.model, written.pairs, before)
    same_function(model, graph, written.model)
    if training.is_compiled(model):
        training.carry(model, written.model, written.pairs)
    return written.model
