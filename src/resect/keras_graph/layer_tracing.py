"""Traces one call of a layer into a graph of the calls of its sublayers.

The layer is called as Keras calls it, with its conversions, masks and scopes; only its `call` is
really run, where Keras would ask for nothing but shapes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from resect.errors import EditError, MaskError, UnbuiltError
from resect.graph import Graph, Layer, Node, Ref, Spec, free_name, map_refs
from resect.keras_graph import private
from resect.keras_graph.causal import symbolic_causal_masks
from resect.keras_graph.layer_running import known_arguments, running, without_training
from resect.keras_graph.reading import read
from resect.keras_graph.symbolic import (
    Subject,
    function_between,
    recorded,
    symbolic_run,
    unrecorded,
)
from resect.keras_graph.trace_checks import check_constants, check_training


@dataclass(frozen=True)
class TracedCall:
    """What a call of a layer does, as a graph of its own.

    Attributes:
        graph: The graph. Its outputs are those of the call, flat, then masks of some of them.
        given: What the inputs of the graph stand for, in their order: tensors of the graph around
            the call, masks among them.
        masked: By the number of an input, the number of the input that is its mask.
        masks: By the number of an output, the number of the output that is its mask.
    """

    graph: Graph
    given: tuple[Ref, ...]
    masked: Mapping[int, int]
    masks: Mapping[int, int]


def trace_call(layer: Any, node: Node, specs: Mapping[Ref, Spec]) -> TracedCall:
    """The graph of a call of a layer, on the layer's own sublayers.

    What it would get silently wrong is looked for and refused.

    Args:
        layer: A built layer.
        node: The call.
        specs: What is known of the tensors that it reads, and of their masks.

    Raises:
        EditError: The layer is quantized or regularizes its activity, or reads a sparse tensor.
        MaskError: It computes with a mask that the graph has no call for.
        TraceError: `call` cannot be traced, or not exactly; names the file and line.
        UnbuiltError: The layer, or one in it, has not been built.
    """
    _check(layer, node, specs)
    parts = [part.name for part in layer._flatten_layers()]
    with unrecorded(layer), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it drops a mask has been said
        with private.fresh_names(parts):
            symbols = _Symbols(node, specs)
            subject = Subject(layer, lambda training: _called(layer, node, symbols, training))
            outputs = keras.tree.flatten(symbolic_run(subject, False))
            masks = symbols.take_masks(outputs)
        check_constants(subject, outputs)
        check_training(subject)
        return _traced(layer, symbols, outputs, masks)


def _check(layer: Any, node: Node, specs: Mapping[Ref, Spec]) -> None:
    """Refuses a layer that does more than its `call`."""
    unbuilt = [part.name for part in layer._flatten_layers() if not part.built]
    if layer.name in unbuilt:
        raise UnbuiltError(
            f"'{layer.name}' ({type(layer).__name__}) has not been built.",
            "Call the model once on a batch of data.",
            layer.name,
        )
    why = ""
    if getattr(layer, "activity_regularizer", None) is not None:
        why = "has an activity_regularizer, which belongs to none of its sublayers"
    elif getattr(layer, "quantization_mode", None) is not None:
        why = "is quantized: it has another call than the one that can be traced"
    elif any(specs[ref].sparse for ref in node.inputs):
        why = "is given a sparse tensor"
    if why:
        raise EditError(
            f"'{layer.name}' ({type(layer).__name__}) {why}.", "Leave it as it is.", layer.name
        )


class _Symbols:
    """Symbolic tensors in the place of those that a call reads, and of their masks.

    Attributes:
        tensors: By the tensor that they stand for.
        masks: By the tensor whose mask they are.
        unknown: The tensors whose masks no call of the graph makes.
        own: The outputs of the last run, with the masks that they had in the layer's `call`.
    """

    def __init__(self, node: Node, specs: Mapping[Ref, Spec]) -> None:
        self.tensors: dict[Ref, Any] = {}
        self.masks: dict[Ref, Any] = {}
        self.unknown: set[Ref] = set()
        self.own: list[tuple[Any, Any]] = []
        for ref in node.inputs:
            self._tensor(ref, specs[ref])
        for ref in node.inputs:
            mask = specs[ref].mask
            if isinstance(mask, Ref):
                self.masks[ref] = self._tensor(mask, specs[mask])
            elif mask is not None and ref not in self.masks:
                self.masks[ref] = keras.Input(batch_shape=specs[ref].shape[:2], dtype="bool")
                self.unknown.add(ref)

    def _tensor(self, ref: Ref, spec: Spec) -> Any:
        if ref not in self.tensors:
            self.tensors[ref] = keras.Input(batch_shape=spec.shape, dtype=spec.dtype)
        return self.tensors[ref]

    def take_masks(self, outputs: list[Any]) -> list[Any]:
        """The masks that outputs have, which are left with those that their own calls gave them."""
        masks = [private.get_keras_mask(tensor) for tensor in outputs]
        for tensor, mask in self.own:
            private.set_keras_mask(tensor, mask)
        return masks

    def attach(self) -> None:
        """Gives the tensors their masks, and nothing else."""
        for ref, tensor in self.tensors.items():
            private.set_keras_mask(tensor, self.masks.get(ref))


def _called(layer: Any, node: Node, symbols: _Symbols, training: bool | None) -> Any:
    """The layer called on symbolic tensors, its `call` really run."""
    symbols.attach()
    args, kwargs = without_training(layer, node.args, node.kwargs)
    args, kwargs = map_refs(lambda ref: _cast(layer, symbols.tensors[ref]), (args, kwargs))
    if "training" in inspect.signature(layer.call).parameters:
        kwargs["training"] = training
    leaves = [t for t in keras.tree.flatten((args, kwargs)) if keras.backend.is_keras_tensor(t)]
    sequence = leaves[0] if leaves else None
    with symbolic_causal_masks(layer, sequence), running(layer, symbols.own) as errors:
        try:
            return layer(*args, **kwargs)
        except Exception:
            if errors:  # what was raised, before Keras dressed it up
                raise errors[0] from None
            raise


def _cast(layer: Any, tensor: Any) -> Any:
    """A tensor as the layer converts it: by a layer, which hands masks on as Keras does there."""
    convert = layer._convert_input_args and layer.autocast
    if not convert or "float" not in tensor.dtype or tensor.dtype == layer.input_dtype:
        return tensor
    return keras.layers.Identity(dtype=layer.input_dtype, name=f"{layer.name}_cast")(tensor)


# From what was recorded to a graph


def _traced(layer: Any, symbols: _Symbols, outputs: list[Any], masks: list[Any]) -> TracedCall:
    inputs: dict[int, Ref] = {id(tensor): ref for ref, tensor in symbols.tensors.items()}
    unknown = {id(symbols.masks[ref]) for ref in symbols.unknown}
    used = _sources(outputs)
    if unknown & used.keys():
        raise MaskError(
            f"'{layer.name}' ({type(layer).__name__}) computes with a mask for which the graph has "
            "no call.",
            "Give it the mask as an argument, or inline it before other edits.",
            layer.name,
        )
    known = {
        i: mask
        for i, mask in enumerate(masks)
        if mask is not None and _sources([mask]).keys() <= inputs.keys()
    }
    every = [*outputs, *known.values()]
    sources = _sources(every)
    if not sources.keys() <= inputs.keys():
        raise EditError(
            f"'{layer.name}' ({type(layer).__name__}) reads a tensor that it is not given.",
            "Leave it as it is.",
            layer.name,
        )
    places = {key: i for i, key in enumerate(inputs)}
    masked = {
        places[id(symbols.tensors[ref])]: places[id(mask)]
        for ref, mask in symbols.masks.items()
        if id(mask) in places
    }
    graph = _graph(layer.name, list(symbols.tensors.values()), every)
    numbers = {i: len(outputs) + j for j, i in enumerate(known)}
    return TracedCall(graph, tuple(inputs.values()), masked, numbers)


def _sources(tensors: list[Any]) -> dict[int, Any]:
    """The inputs that tensors depend on, and tensors of which nothing is recorded."""
    found: dict[int, Any] = {}
    nodes = recorded([tensor for tensor in tensors if private.maker_of(tensor) is not None])
    for tensor in [*tensors, *(t for node in nodes for t in node.input_tensors)]:
        maker = private.maker_of(tensor)
        if maker is None or isinstance(maker, private.InputLayer):
            found[id(tensor)] = tensor
    return found


def _graph(name: str, inputs: list[Any], outputs: list[Any]) -> Graph:
    nodes = recorded(outputs)
    operations = {id(node.operation): node.operation for node in nodes}.values()
    with _unique_names(list(operations)[::-1]), private.deep_recursion(len(nodes)):
        graph = read(function_between(inputs, outputs, name))
        layers = dict(graph.layers)
    own = {call: _moded(node, layers[call.layer]) for call, node in graph.nodes.items()}
    return graph.evolve(model=None, nodes=own, edited=True)


def _moded(node: Node, layer: Layer) -> Node:
    """A call that runs in the mode of the call around it: the one of the trace is taken off."""
    if not isinstance(layer.op, keras.Layer) or isinstance(layer.op, private.InputLayer):
        return node
    args, kwargs = without_training(layer.op, node.args, node.kwargs)
    return dataclasses.replace(node, args=args, kwargs=known_arguments(layer.op, kwargs))


@contextlib.contextmanager
def _unique_names(operations: list[Any]) -> Iterator[None]:
    """Sublayers that were given one name have different ones inside."""
    before = [(operation, operation.name) for operation in operations]
    taken = {name for _, name in before}
    seen: set[str] = set()
    rename: Callable[..., None] = object.__setattr__
    try:
        for operation, name in before:
            if name in seen:
                rename(operation, "name", free_name(name, taken))
                taken.add(operation.name)
            seen.add(name)
        yield
    finally:
        for operation, name in before:
            if operation.name != name:
                rename(operation, "name", name)
