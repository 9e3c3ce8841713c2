"""A trace of a layer's call, run beside the layer: outputs, masks and updated variables."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from resect import oracle
from resect.adapt.nested.training_argument import takes_training
from resect.errors import EditError, TraceError
from resect.graph import Graph, Node, Ref, map_refs
from resect.keras_graph import private
from resect.keras_graph.layer_tracing import TracedCall, without_training
from resect.keras_graph.symbolic import place_of_call

#: What axes of unknown length are tried as.
_LENGTHS = (4, 8, 16, 32, 7)
_TOLERANCE = 1e-5

Found = dict[str, Any]


def check_same(layer: Any, node: Node, traced: TracedCall) -> None:
    """Runs a layer and the trace of its call on one batch, in both modes.

    Args:
        layer: The layer.
        node: The call.
        traced: Its trace.

    Raises:
        EditError: The layer itself does not run on random tensors.
        TraceError: They differ, or the trace does not run.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a mask is dropped has been said
        arrays, expected = _first_run(layer, node, traced)
        for training in (False, True):
            if training:
                expected = _run(_of_layer(layer, node, traced), arrays, layer, training)
            try:
                found = _run(_of_trace(traced), arrays, layer, training)
            except Exception as error:
                raise _not_same(layer, f"does not run: {type(error).__name__}: {error}") from error
            if (what := _difference(expected, found)) is not None:
                mode = "training mode" if training else "inference"
                raise _not_same(layer, f"has other {what} in {mode}")


def _not_same(layer: Any, what: str) -> TraceError:
    return TraceError(
        f"{place_of_call(layer)}: {type(layer).__name__}.call was traced, but the trace {what}.",
        "Write call so that it does the same whenever it is called, with keras.ops and layers.",
        layer.name,
    )


def _first_run(layer: Any, node: Node, traced: TracedCall) -> tuple[list[Any], Found]:
    """Random arrays that the layer takes, and what it makes of them."""
    first: Exception | None = None
    for length in _LENGTHS:
        arrays = keras.tree.flatten(oracle.random_inputs(_sized(traced.graph, length)))
        try:
            return arrays, _run(_of_layer(layer, node, traced), arrays, layer, False)
        except Exception as error:
            first = first or error
    raise EditError(
        f"'{layer.name}' ({type(layer).__name__}) does not run on random tensors, by which its "
        f"trace is checked: {type(first).__name__}: {first}",
        "Leave it as it is.",
        layer.name,
    ) from first


def _sized(graph: Graph, length: int) -> Graph:
    """The graph with inputs whose axes all have a length."""
    nodes = dict(graph.nodes)
    for ref in graph.input_refs:
        spec = graph.spec(ref)
        shape = tuple(length if i and n is None else n for i, n in enumerate(spec.shape))
        outputs = (spec._replace(shape=shape),)
        nodes[ref.call] = dataclasses.replace(nodes[ref.call], outputs=outputs)
    return graph.evolve(nodes=nodes)


class _Once(keras.Layer):
    """Stands for the model around: a layer that is not told the mode takes its mode."""

    def __init__(self, run: Callable[[list[Any], bool], Found]) -> None:
        super().__init__(autocast=False, name="around")
        self._run = run
        self.built = True

    def call(self, inputs: list[Any], training: bool = False) -> Found:
        return self._run(inputs, training)


def _run(
    run: Callable[[list[Any], bool], list[Any]], arrays: list[Any], layer: Any, training: bool
) -> Found:
    def everything(inputs: list[Any], training: bool) -> Found:
        outputs = run(inputs, training)
        return {
            "outputs": outputs,
            "masks": {str(i): m for i, t in enumerate(outputs) if (m := _mask(t)) is not None},
            "updates": [keras.ops.convert_to_tensor(v) for v in layer.variables],
        }

    return oracle.run_model(_Once(everything), arrays, training=training)


def _mask(tensor: Any) -> Any:
    return private.get_keras_mask(tensor)


def _attached(inputs: list[Any], traced: TracedCall) -> list[Any]:
    """The tensors with their masks."""
    specs = [traced.graph.spec(ref) for ref in traced.graph.input_refs]
    tensors = [
        keras.ops.convert_to_tensor(tensor, dtype=spec.dtype)
        for tensor, spec in zip(inputs, specs, strict=True)
    ]
    for i, mask in traced.masked.items():
        private.set_keras_mask(tensors[i], tensors[mask])
    return tensors


def _of_layer(layer: Any, node: Node, traced: TracedCall) -> Callable[..., list[Any]]:
    def run(inputs: list[Any], training: bool) -> list[Any]:
        tensors = dict(zip(traced.given, _attached(inputs, traced), strict=True))
        args, kwargs = without_training(layer, node.args, node.kwargs)
        args, kwargs = map_refs(tensors.__getitem__, (args, kwargs))
        mode = {"training": training} if takes_training(layer) else {}
        return keras.tree.flatten(layer(*args, **kwargs, **mode))

    return run


def _of_trace(traced: TracedCall) -> Callable[..., list[Any]]:
    graph = traced.graph
    count = len(graph.output_refs) - len(traced.masks)

    def run(inputs: list[Any], training: bool) -> list[Any]:
        tensors: dict[Ref, Any] = dict(
            zip(graph.input_refs, _attached(inputs, traced), strict=True)
        )
        for call, node in graph.nodes.items():
            if graph.is_input(call):
                continue
            operation = graph.layer(call).op
            args, kwargs = map_refs(tensors.__getitem__, (node.args, dict(node.kwargs)))
            mode = {"training": training} if takes_training(operation) else {}
            outputs = keras.tree.flatten(operation(*args, **kwargs, **mode))
            tensors.update(zip(graph.refs_of(call), outputs, strict=True))
        return _with_masks([tensors[ref] for ref in graph.output_refs], count, traced.masks)

    return run


def _with_masks(tensors: list[Any], count: int, masks: Mapping[int, int]) -> list[Any]:
    """The outputs of the call, with the masks that the trace has found for them."""
    for i, mask in masks.items():
        private.set_keras_mask(tensors[i], tensors[mask])
    return tensors[:count]


def _difference(expected: Found, found: Found) -> str | None:
    """What differs between two runs, `None` if nothing does."""
    for what, value in expected.items():
        ones, others = keras.tree.flatten(value), keras.tree.flatten(found[what])
        if len(ones) != len(others) or not all(map(_close, ones, others)):
            return what
    return None


def _close(one: Any, other: Any) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind in "OSUT":
        return bool((one == other).all())
    one, other = np.asarray(one, "float64"), np.asarray(other, "float64")
    scale = max(1.0, float(np.max(np.abs(np.nan_to_num(one)), initial=0.0)))
    return np.allclose(one, other, rtol=0.0, atol=_TOLERANCE * scale, equal_nan=True)
