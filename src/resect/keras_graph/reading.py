"""Reads a Keras model as a `Graph`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import keras

from resect.errors import NotAModelError, ReadError, UnbuiltError
from resect.graph import Call, Graph, Layer, Node, Ref, Spec
from resect.keras_graph import private

# A Functional is either: `keras.Model(inputs, outputs)` or the subclass that a user made of it.
_PLAIN = {
    private.Function: "Functional",
    private.Functional: "Functional",
    keras.Sequential: "Sequential",
}


def read(model: Any) -> Graph:
    """The graph of a Functional or Sequential model, nested models included.

    Nothing is called and nothing is copied: the graph refers to the model's own layers.

    Args:
        model: A built `keras.Sequential`, a Functional model or a subclass of one.

    Returns:
        The graph. Raw operations are calls like any other.

    Raises:
        NotAModelError: Not a Keras 3 model.
        UnbuiltError: A Sequential that has not seen an input shape.
        ReadError: A subclassed model, which has no graph of its own: `resect.functional` traces it.
    """
    return _Reader().graph(model)


def has_graph(model: Any) -> bool:
    """Whether Keras keeps a graph of this model."""
    if isinstance(model, keras.Sequential):
        return model._functional is not None
    return isinstance(model, private.Function)


def parts_of(layer: Any) -> list[Any]:
    """A layer and the layers that it is made of, at any depth; a raw operation has none."""
    return layer._flatten_layers() if isinstance(layer, keras.Layer) else []


def sublayers(layer: Any) -> list[Any]:
    """The layers that a layer is made of, at any depth."""
    return parts_of(layer)[1:]


def call_lists_of(layer: Any) -> list[tuple[list[Any], int]]:
    """The lists of calls of a layer and all its parts, each with its present length."""
    parts = [layer, *sublayers(layer)]
    return [(calls, len(calls)) for part in parts for calls in private.call_lists(part)]


def _function_of(model: Any) -> Any:
    """The object that holds the nodes of a model."""
    if isinstance(model, keras.Sequential):
        if model._functional is None:
            raise _no_sequential_graph(model)
        return model._functional
    if isinstance(model, private.Function):
        return model
    if isinstance(model, keras.Model):
        raise ReadError(
            f"{type(model).__name__} '{model.name}' is a subclassed model: its layers are wired in "
            "Python, and Keras keeps no graph of them.",
            "Trace it first: resect.functional(model, inputs=keras.Input(...)).",
            model.name,
        )
    raise not_a_model(model)


def _no_sequential_graph(model: Any) -> ReadError:
    if not model.built:
        return UnbuiltError(
            f"Sequential '{model.name}' has not been built: it does not know its input shape.",
            "Start it with keras.Input(shape), or call model.build((None, ...)) first.",
            model.name,
        )
    return ReadError(
        f"Sequential '{model.name}' is built, but Keras could not infer the shapes in it and keeps "
        "no graph.",
        "Give its custom layers a compute_output_shape, or start it with keras.Input(shape).",
        model.name,
    )


def not_a_model(model: Any) -> NotAModelError:
    """The error for what is no Keras model, with what to do about it."""
    kind, origin = type(model).__qualname__, type(model).__module__.split(".")[0]
    if origin not in ("builtins", "keras"):
        kind = f"{type(model).__module__}.{kind}"
    repair = "Pass a keras.Model, such as keras.saving.load_model(path) returns."
    if origin == "torch":
        repair = "A torch.nn.Module has no Keras graph: wrap or rebuild it in Keras 3 first."
    elif origin in ("tf_keras", "tensorflow"):
        repair = (
            "It belongs to Keras 2 (tf_keras): save it, and load it with Keras 3's "
            "keras.saving.load_model."
        )
    elif isinstance(model, (str, bytes)) or hasattr(model, "__fspath__"):
        repair = f"Load it first: keras.saving.load_model({model!r})."
    elif isinstance(model, keras.Layer):
        repair = "Put the layer into a model: keras.Sequential([keras.Input(shape), layer])."
    return NotAModelError(f"A Keras 3 model is needed, and this is a {kind}.", repair)


class _Reader:
    """Reads a model and its nested models, each nested model once."""

    def __init__(self) -> None:
        self._graphs: dict[int, Graph] = {}

    def graph(self, model: Any) -> Graph:
        if id(model) not in self._graphs:
            self._graphs[id(model)] = self._read(model)
        return self._graphs[id(model)]

    def _read(self, model: Any) -> Graph:
        function = _function_of(model)
        return self._build(model, function, _recorded(function))

    def _build(self, model: Any, function: Any, recorded: list[tuple[Call, Any]]) -> Graph:
        refs = {
            id(tensor): Ref(call, i) for call, n in recorded for i, tensor in enumerate(n.outputs)
        }
        specs = {id(t): spec for _, n in recorded for t, spec in self._specs(n, refs)}

        def as_refs(structure: Any) -> Any:
            kind = type(structure)  # the common kinds by hand: Keras's own walk takes its time
            if kind is tuple or kind is list:
                return kind([as_refs(item) for item in structure])
            if kind is dict:
                return {key: as_refs(item) for key, item in structure.items()}
            if kind is keras.KerasTensor or structure is None or kind is bool:
                return refs.get(id(structure), structure)
            return keras.tree.map_structure(lambda leaf: refs.get(id(leaf), leaf), structure)

        nodes = {}
        for call, n in recorded:
            args, kwargs = as_refs(n.arguments.args), as_refs(n.arguments.kwargs)
            nodes[call] = Node(
                call=call,
                args=args,
                kwargs=kwargs,
                outputs=tuple(specs[id(tensor)] for tensor in n.outputs),
                seen=tuple(specs[id(tensor)] for tensor in n.input_tensors),
                tensors=tuple(n.outputs),
            )
        layers = {}
        for call, n in recorded:
            if call.layer not in layers:
                layers[call.layer] = self._layer(n.operation)
        return Graph(
            name=model.name,
            kind=_PLAIN.get(type(model), type(model).__name__),
            layers=layers,
            nodes=nodes,
            inputs=as_refs(function._inputs_struct),
            outputs=as_refs(function._outputs_struct),
            model=model,
        ).ordered()

    def _specs(self, node: Any, refs: Mapping[int, Ref]) -> list[tuple[Any, Spec]]:
        """The outputs of a call and their specs.

        A nested model hands on the masks of its own outputs at run time, unrecorded.
        """
        operation = node.operation
        sparse = isinstance(operation, private.InputLayer) and bool(operation.sparse)
        specs = [(tensor, spec_of(tensor, refs, sparse=sparse)) for tensor in node.outputs]
        if not _is_nested(operation):
            return specs
        inner = self.graph(operation)
        return [
            (tensor, spec._replace(mask=True) if inner.spec(ref).masked else spec)
            for (tensor, spec), ref in zip(specs, inner.output_refs, strict=True)
        ]

    def _layer(self, operation: Any) -> Layer:
        return Layer(
            name=operation.name,
            op=operation,
            cls=type(operation),
            graph=self.graph(operation) if _is_nested(operation) else None,
        )


def _recorded(function: Any) -> list[tuple[Call, Any]]:
    """Keras's nodes of a model in topological order, as calls.

    A layer may have been called outside this model too: its calls in it are numbered afresh.
    """
    by_depth = function._nodes_by_depth
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    own = {id(node) for node in nodes}
    number_of: dict[int, int] = {}
    for operation in {id(n.operation): n.operation for n in nodes}.values():
        calls = (id(n) for n in operation._inbound_nodes if id(n) in own)
        number_of.update({key: i for i, key in enumerate(calls)})
    return [(Call(n.operation.name, number_of[id(n)]), n) for n in nodes]


def recorded_tensors(
    model: Any, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Call, int, Any]]:
    """Every symbolic tensor of a model and of those nested in it, without making a graph.

    Yields:
        The path of layer names that leads to its model, the call that makes it, which of the
        outputs of that it is, and the tensor.
    """
    waiting = [(path, model)]
    while waiting:
        path, model = waiting.pop()
        nested: dict[str, Any] = {}
        for call, node in _recorded(_function_of(model)):
            yield from ((path, call, i, tensor) for i, tensor in enumerate(node.outputs))
            if _is_nested(node.operation):
                nested[call.layer] = node.operation
        waiting += [((*path, name), inner) for name, inner in nested.items()]


def _is_nested(operation: Any) -> bool:
    return isinstance(operation, keras.Model) and has_graph(operation)


def spec_of(tensor: Any, refs: Mapping[int, Ref] | None = None, *, sparse: bool = False) -> Spec:
    """The spec of a Keras tensor.

    Keras marks dense tensors as sparse too (`x * 2.0`), so its mark is not asked.

    Args:
        tensor: A `KerasTensor`.
        refs: Which tensor of the graph a `KerasTensor` is, by its identity.
        sparse: Whether it comes from a sparse input.
    """
    mask = private.get_keras_mask(tensor)
    known: Ref | Literal[True] | None = None if mask is None else (refs or {}).get(id(mask), True)
    return Spec(tuple(tensor.shape), str(tensor.dtype), sparse, known)
