"""Evaluates an edited graph directly, on the layers of the source: an oracle for the writer.

It shares no code with the writer and makes no model: it walks the graph and calls the source's own
layers on real tensors. Inside a stateless scope nothing of the source changes: batch statistics,
seeds and recurrent states are updated in the scope and forgotten with it.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from resect.graph import Call, Graph, Layer, Ref, Spec, map_refs
from resect.keras_graph.reading import has_graph, read


def evaluate(graph: Graph, inputs: Any, *, new: Any = None, training: bool = False) -> Any:
    """What an edited graph computes.

    Args:
        graph: A complete graph.
        inputs: Arrays in the structure of the graph's inputs.
        new: The model that was written from it: asked only for the layers that the source does not
            have (inserted ones and ones that started afresh).
        training: Whether to run in training mode.

    Returns:
        Arrays in the structure of the graph's outputs.
    """
    with _repeatable():
        run = _Outermost(lambda: _run(graph, keras.tree.flatten(inputs), new, training))
        outputs = run(training=training)
        values = [keras.ops.convert_to_numpy(tensor) for tensor in outputs]
    packed = iter(values)
    by_ref = {ref: next(packed) for ref in graph.output_refs}
    return map_refs(by_ref.__getitem__, graph.outputs)


def run_model(model: Any, inputs: Any, *, training: bool = False) -> Any:
    """What a model computes, leaving nothing behind on it."""
    with _repeatable():
        outputs = model(inputs, training=training)
        return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)


class _Outermost(keras.Layer):
    """Stands for the model, inside which layers are called.

    A layer that takes no `training` argument hands on the one of the call around it.
    """

    def __init__(self, run: Callable[[], list[Any]]) -> None:
        super().__init__(autocast=False)
        self._run = run
        self.built = True

    def call(self, training: bool = False) -> list[Any]:
        return self._run()


@contextlib.contextmanager
def _repeatable() -> Iterator[None]:
    """Nothing is updated, and random numbers are the same each time.

    PyTorch draws them from a generator of its own, whatever seeds the layers have.
    """
    with contextlib.ExitStack() as stack:
        if keras.backend.backend() == "torch":
            import torch

            stack.enter_context(torch.random.fork_rng())
            torch.manual_seed(0)
        stack.enter_context(keras.StatelessScope())
        yield


def random_inputs(graph: Graph, *, like: Graph | None = None, batch: int = 2, seed: int = 0) -> Any:
    """Random arrays of the shapes and dtypes that a graph takes, in its structure.

    Axes of unknown length get the length that they have in `like`, where an input has the same name
    and rank there, or else 4; integers stay below the size of the embeddings that read them, and
    below 2 where nothing says more.
    """
    rng = np.random.default_rng(seed)
    known = {} if like is None else {r.call: like.spec(r).shape for r in like.input_refs}

    def array(ref: Ref) -> Any:
        spec = graph.spec(ref)
        lengths = known.get(ref.call, spec.shape)
        if len(lengths) != len(spec.shape):
            lengths = spec.shape
        shape = tuple(
            axis if axis is not None else (batch if i == 0 else lengths[i] or 4)
            for i, axis in enumerate(spec.shape)
        )
        if spec.dtype == "string":
            return np.asarray(rng.choice(["one", "two", "three"], shape))
        if spec.dtype == "bool":
            return rng.random(shape) < 0.8
        if "int" in spec.dtype:
            return rng.integers(0, _limit(graph, ref), shape).astype(spec.dtype)
        values = rng.normal(size=shape)
        return values.astype("float32" if spec.dtype == "bfloat16" else spec.dtype)

    return map_refs(array, graph.inputs)


def as_taken(model: Any, inputs: Any) -> Any:
    """Inputs in the structure that a loaded model takes: Keras 3.10 loads one as a list of one."""
    if isinstance(model, keras.Sequential) or not has_graph(model):
        return inputs
    graph = read(model)
    given = dict(zip(graph.input_refs, keras.tree.flatten(inputs), strict=True))
    return map_refs(given.__getitem__, graph.inputs)


def _limit(graph: Graph, ref: Ref) -> int:
    """The smallest vocabulary among the layers that read a tensor of integers."""
    sizes = []
    for call in graph.readers(ref):
        layer = graph.layer(call)
        for name in ("input_dim", "vocabulary_size", "num_tokens", "sequence_length"):
            size = getattr(layer.op, name, None)
            if isinstance(size, int) and size > 0:
                sizes.append(size)
                break
        if layer.graph is not None:
            position = graph.nodes[call].inputs.index(ref)
            sizes.append(_limit(layer.graph, layer.graph.input_refs[position]))
    return min(sizes, default=2)


def _run(graph: Graph, inputs: list[Any], new: Any, training: bool) -> list[Any]:
    tensors: dict[Ref, Any] = {}
    for ref, value in zip(graph.input_refs, inputs, strict=True):
        spec = graph.spec(ref)
        tensors[ref] = value
        if value is not None:
            value = keras.ops.convert_to_tensor(value, dtype=spec.dtype, sparse=spec.sparse)
            tensors[ref] = _of_rank(value, spec)
    for call in _order(graph, new):
        node = graph.nodes[call]
        if graph.is_input(call):
            continue
        args, kwargs = map_refs(tensors.__getitem__, (node.args, dict(node.kwargs)))
        layer = graph.layer(call)
        outputs = _evaluate_call(layer, args, kwargs, _counterpart(new, call), training)
        tensors.update(zip(graph.refs_of(call), outputs, strict=False))
    return [tensors[ref] for ref in graph.output_refs]


def _of_rank(value: Any, spec: Spec) -> Any:
    """With a last axis of one added or dropped where the input has another rank, as Keras does."""
    rank, wanted = len(value.shape), len(spec.shape)
    if rank == wanted + 1 and value.shape[-1] == 1:
        return keras.ops.squeeze(value, axis=-1)
    if rank == wanted - 1 and spec.shape[-1] == 1:
        return keras.ops.expand_dims(value, axis=-1)
    return value


def _order(graph: Graph, new: Any) -> list[Call]:
    """The order in which the written model makes its calls: it matters to PyTorch's dropout."""
    if new is None:
        return list(graph.nodes)
    written = read(new)
    planned = {made: call for call, made in graph.made.items()}
    order = [planned.get(call) for call in written.nodes]
    if None in order or len(order) != len(graph.nodes):
        return list(graph.nodes)
    return [call for call in order if call is not None]


def _evaluate_call(
    layer: Layer, args: Any, kwargs: dict[str, Any], made: Any, training: bool
) -> list[Any]:
    if layer.graph is not None and layer.origin != "new":
        first = args[0] if args else next(iter(kwargs.values()))
        return _run(layer.graph, keras.tree.flatten(first), made, training)
    operation = layer.op
    remade = layer.origin == "rebuilt" and (layer.change is not None or not operation.weights)
    if layer.origin in ("new", "reinit") or remade:
        operation = made
    if isinstance(operation, keras.Layer):
        kwargs = {**kwargs, "training": training}
        if "training" not in inspect.signature(operation.call).parameters:
            kwargs.pop("training")
    return keras.tree.flatten(operation(*args, **kwargs))


def _counterpart(new: Any, call: Call) -> Any:
    """The layer of that name in the written model."""
    if new is None:
        return None
    return next((op for op in _operations(new) if op.name == call.layer), None)


def _operations(model: Any) -> list[Any]:
    return model.layers if isinstance(model, keras.Sequential) else model.operations
