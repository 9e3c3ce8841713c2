"""Writes a `Graph` as a Keras model.

Layers are copied (or made), the recorded calls are written down as Keras's own nodes, and a plain
Keras model is put around them. Only layers that the source does not have are really called.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import keras

from resect.errors import CopyError, Problem
from resect.graph import Graph, Layer, Node, Ref, map_refs, refs
from resect.keras_graph import private
from resect.keras_graph.copying import Copier
from resect.keras_graph.making import from_config, new_layer
from resect.keras_graph.passing import check_inputs_are_read
from resect.keras_graph.reading import read
from resect.keras_graph.state import carry_variables
from resect.options import Weights

# What a model keeps of its source beside its graph.
_CARRIED = (
    "_trainable", "_dtype_policy", "_path", "_parent_path", "autocast", "supports_jit", "_called",
    "_remat_mode", "activity_regularizer", "_manual_input_spec", "_convert_input_args",
    "_allow_non_tensor_positional_args", "_supports_masking",
)  # fmt: skip


@dataclass
class Written:
    """A model that was written from a graph.

    Attributes:
        model: The Keras model.
        pairs: Every variable of the source that lives on, with the variable that stands for it.
    """

    model: Any
    pairs: list[tuple[Any, Any]]


def write(graph: Graph, weights: Weights = "copy") -> Written:
    """The Keras model that a graph describes.

    Args:
        graph: A complete graph, such as `infer` returns.
        weights: `"copy"` for independent variables, `"share"` for the source's own.

    Raises:
        CopyError: A layer that can be neither copied nor re-created.
    """
    writer = _Writer(weights)
    with private.deep_recursion(_size(graph)):
        model = writer.model(graph)
    _check_ties(writer)
    return Written(model, writer.pairs())


def copy_problems(graph: Graph, weights: Weights = "copy") -> tuple[Problem, ...]:
    """What `write` would refuse to copy, all of it, found without copying a value.

    Args:
        graph: A complete graph.
        weights: As for `write`.
    """
    found: list[Problem] = []
    copier = Copier(weights, lambda model: model, values=False)
    for path, nested in graph.walk():
        for layer in nested.layers.values():
            if layer.origin not in ("kept", "rebuilt") or layer.graph is not None:
                continue
            try:
                if layer.origin == "rebuilt":  # under its own name: a rename reaches variables
                    copier.rebuilt(layer.op, layer.skeleton, layer.op.name, layer.change)
                else:
                    copier.layer(layer.op)
            except CopyError as error:
                node = "/".join([*path, layer.name])
                found += [replace(problem, node=node) for problem in error.problems]
    return tuple(found)


def _check_ties(writer: _Writer) -> None:
    """Variables that layers share must still be shared.

    Raises:
        CopyError: A layer that starts afresh would leave the others with the old variable.
    """
    heirs: dict[int, Any] = {}
    for old, new in writer.copier.variables:
        if heirs.setdefault(id(old), new) is not new:
            raise _untied(old)
    for layer in writer.afresh:
        for variable in layer.variables:
            if id(variable) in heirs:
                raise _untied(variable)


def _untied(variable: Any) -> CopyError:
    return CopyError(
        f"The variable '{variable.path}' belongs to several layers, and they would be untied.",
        "Edit all layers that share it in the same way.",
        variable.path,
    )


def copy_model(model: Any, name: str | None = None) -> Any:
    """An independent copy of a nested or inserted model, under another name if one is given."""
    graph = read(model)
    return write(graph if name is None else graph.evolve(name=name, edited=False)).model


def copy_layer(layer: Any) -> Written:
    """An independent copy of any layer, also of a model that Keras keeps no graph of.

    Raises:
        CopyError: It can be neither copied nor re-created.
    """
    writer = _Writer("copy")
    return Written(writer.copier.layer(layer), writer.pairs())


def result_kind(graph: Graph) -> str:
    """The class of the model that a graph will be written as.

    A Sequential stays one while it is a chain of layers; a subclass of Functional stays itself
    while its structure is unchanged.
    """
    if not graph.edited:
        return graph.kind
    if isinstance(graph.model, keras.Sequential):
        return graph.kind if is_chain(graph) else "Functional"
    return "Functional"


def is_chain(graph: Graph) -> bool:
    """Whether a Sequential can say what the graph says.

    Each layer reads only the one before it; masks may be recorded where Keras would hand on the
    same mask by itself.
    """
    if len(graph.input_refs) != 1 or len(graph.output_refs) != 1:
        return False
    if not all(isinstance(ends, (Ref, list)) for ends in (graph.inputs, graph.outputs)):
        return False
    previous, masks = graph.input_refs[0], set()
    operations = []
    for call, node in graph.nodes.items():
        if graph.is_input(call):
            continue
        if not issubclass(graph.layer(call).cls, keras.Layer):
            operations.append(call)
            continue
        if not _is_link(graph, node, previous):
            return False
        masks.update(refs(node.kwargs.get("mask")))
        previous = Ref(call)
    making_masks = graph.ancestors(ref.call for ref in masks)
    return (
        previous == graph.output_refs[0]
        and len(graph.nodes) > 1
        and all(call in making_masks for call in operations)
    )


def _is_link(graph: Graph, node: Node, previous: Ref) -> bool:
    """Whether a call reads the one before it and nothing else, but for the mask of that."""
    if graph.is_shared(node.call.layer) or len(node.outputs or ()) != 1:
        return False
    if node.args != (previous,) or set(node.kwargs) - {"training", "mask"}:
        return False
    mask = node.kwargs.get("mask")
    return mask is None or mask == graph.spec(previous).mask


def _size(graph: Graph) -> int:
    return sum(len(nested) for _, nested in graph.walk())


class _Writer:
    def __init__(self, weights: Weights) -> None:
        self.weights: Weights = weights
        self.copier = Copier(weights, lambda model: self.nested(model, read(model)))
        self.afresh: list[Any] = []  # layers of the source that start afresh
        self.inherited: list[tuple[Any, Any]] = []  # by layers in the place of their like
        self._made: dict[tuple[int, str], Any] = {}

    # Models

    def nested(self, source: Any, graph: Graph, part: str = "") -> Any:
        """The model in the place of a nested one, made once."""
        key = (id(source), part)
        if key not in self._made:
            self._made[key] = self.model(graph)
            self.copier.remember(source, self._made[key])
        return self._made[key]

    def model(self, graph: Graph) -> Any:
        """A model with its nested models."""
        check_inputs_are_read(graph)
        tensors: dict[Ref, Any] = {}
        layers: dict[str, Any] = {}
        for call, node in graph.nodes.items():
            if call.layer not in layers:
                layers[call.layer] = self._layer(graph.layer(call))
            outputs = self._call(graph, node, layers[call.layer], tensors)
            tensors.update({Ref(call, i): tensor for i, tensor in enumerate(outputs)})
            for old, new in zip(node.tensors, outputs, strict=False):
                self.copier.remember(old, new)
        inputs = map_refs(tensors.__getitem__, graph.inputs)
        outputs = map_refs(tensors.__getitem__, graph.outputs)
        kind = result_kind(graph)
        if isinstance(graph.model, keras.Sequential) and kind != "Functional":
            chain = [layer for layer in layers.values() if isinstance(layer, keras.Layer)]
            return self._sequential(graph, inputs, outputs, chain)
        if kind != "Functional":
            return self._subclass(graph, inputs, outputs)
        return self._functional(graph, inputs, outputs)

    def _functional(self, graph: Graph, inputs: Any, outputs: Any) -> Any:
        model = keras.Model(inputs, outputs, name=graph.name)
        plain = type(graph.model) is private.Functional and not graph.edited
        self._carry_model(graph.model, model, attributes=plain)
        return model

    def _subclass(self, graph: Graph, inputs: Any, outputs: Any) -> Any:
        """A subclass of Functional, unchanged: its constructor is not run, its graph is given."""
        model = keras.Layer.__new__(type(graph.model))
        self.copier.remember(graph.model, model)
        try:
            private.Functional.__init__(model, inputs, outputs, name=graph.name)
            self._carry_model(graph.model, model, attributes=True)
            self._order_layers(graph.model, model)
        except CopyError as error:
            raise CopyError(
                f"{graph.kind} '{graph.name}' cannot be copied as it is: {error.problem.reason}",
                "An edited copy of it becomes a plain Functional model, which can be written.",
                graph.name,
            ) from error
        return model

    def _sequential(self, graph: Graph, inputs: Any, outputs: Any, layers: list[Any]) -> Any:
        model = keras.Layer.__new__(type(graph.model))
        self.copier.remember(graph.model, model)
        keras.Sequential.__init__(model, name=graph.name)
        model._layers.extend(layers)
        flat_in, flat_out = keras.tree.flatten(inputs)[0], keras.tree.flatten(outputs)[0]
        model._functional = private.Functional(flat_in, flat_out)
        model._build_shapes_dict = {"input_shape": layers[0].batch_shape}
        model.built = True
        self._carry_model(graph.model, model, attributes=True)
        if hasattr(model, "_post_build"):
            model._post_build()
        return model

    def _carry_model(self, source: Any, model: Any, *, attributes: bool) -> None:
        """What a model has beside its graph: flags, policies and the attributes of a subclass."""
        if source is None:
            return
        for name in _CARRIED:
            if name in vars(source):
                vars(model)[name] = self.copier.attribute(vars(source)[name])
        if not attributes:
            return
        left_out = private.FRESH_LISTS | private.COMPILED_ONLY | set(private.UNCOMPILED)
        for name, value in _attributes(source).items():
            known = name in vars(model) or name in getattr(model, "_modules", {})
            if not (known or name in left_out or name.startswith("_self_")):
                setattr(model, name, self.copier.attribute(value))

    def _order_layers(self, source: Any, model: Any) -> None:
        """A constructor may track layers before the graph does: so does its copy.

        The variables are in that order.
        """
        order = {id(self.copier.attribute(layer)): i for i, layer in enumerate(source._layers)}
        list.sort(model._layers, key=lambda layer: order.get(id(layer), len(order)))

    # Layers

    def _layer(self, layer: Layer) -> Any:
        if layer.graph is not None:
            graph = layer.graph.evolve(name=layer.name, edited=layer.graph.edited)
            if layer.origin == "new":  # the same template may be put in at several places
                return _Writer(self.weights).model(graph)
            return self.nested(layer.op, graph, layer.part)
        if layer.origin == "kept":
            return self.copier.layer(layer.op, layer.name)
        if layer.origin == "new":
            return new_layer(layer, self.weights, copy_model)
        if layer.origin == "rebuilt":
            return self.copier.rebuilt(layer.op, layer.skeleton, layer.name, layer.change)
        self.afresh.append(layer.op)
        return from_config(layer.recipe, layer.name)

    def _call(self, graph: Graph, node: Node, operation: Any, tensors: dict[Ref, Any]) -> list[Any]:
        """One call: written down where the source recorded it, really made where it did not."""
        layer = graph.layer(node.call)
        if graph.is_input(node.call) and isinstance(operation, private.InputLayer):
            return [_input_tensor(operation, node)]
        args, kwargs = map_refs(tensors.__getitem__, (node.args, dict(node.kwargs)))
        if layer.origin in ("kept", "rebuilt"):
            return self._record(graph, node, operation, args, kwargs)
        outputs = keras.tree.flatten(operation(*args, **kwargs))
        if node.call == graph.calls_of(node.call.layer)[0]:
            self._fill(layer, operation)
        return outputs

    def _record(
        self, graph: Graph, node: Node, operation: Any, args: Any, kwargs: Any
    ) -> list[Any]:
        outputs = [
            keras.KerasTensor(spec.shape, spec.dtype, sparse=_sparse(node, i), name=_name(node, i))
            for i, spec in enumerate(node.outputs or ())
        ]
        private.Node(operation, args, kwargs, outputs)
        if isinstance(operation, keras.Layer):
            self._mask(node, operation, args, kwargs, outputs)
        return outputs

    def _mask(self, node: Node, operation: Any, args: Any, kwargs: Any, outputs: list[Any]) -> None:
        """Gives symbolic outputs the masks that Keras would give them, for later calls."""
        first = args[0] if args else next(iter(kwargs.values()), None)
        previous = kwargs.get("mask")
        had = any(spec.masked for spec in node.outputs or ())
        if previous is None:
            previous = _masks(first)
        if not had and previous is None:
            return
        has = any(mask is not None for mask in keras.tree.flatten(previous))
        if (had or has) and operation.supports_masking:
            operation._set_mask_metadata(first, outputs, previous)

    def _fill(self, layer: Layer, operation: Any) -> None:
        """Gives a layer in the place of its like the values that fit."""
        if layer.template is not None:
            pairs, _ = carry_variables(layer.template, operation)
            self.inherited.extend(pairs)

    def pairs(self) -> list[tuple[Any, Any]]:
        """Each variable that lives on, with what stands for it.

        That is its copy; only where there is none, the variable that took its value over.
        """
        copied = {id(old) for old, _ in self.copier.variables}
        inherited = {id(old): (old, new) for old, new in self.inherited if id(old) not in copied}
        return [*self.copier.variables, *inherited.values()]


def _input_tensor(operation: Any, node: Node) -> Any:
    """The tensor of an input layer that was copied, as if it had been made by `keras.Input`."""
    if operation._inbound_nodes:
        return operation._inbound_nodes[0].outputs[0]
    assert node.outputs is not None
    spec = node.outputs[0]
    tensor = keras.KerasTensor(spec.shape, spec.dtype, sparse=operation.sparse, name=operation.name)
    operation._input_tensor = tensor
    private.Node(operation, (), {}, tensor)
    return tensor


def _masks(structure: Any) -> Any:
    """The masks that Keras knows of symbolic tensors, in their structure."""
    if type(structure) is keras.KerasTensor:  # nearly always, and the walk takes its time
        return private.get_keras_mask(structure)
    return keras.tree.map_structure(private.get_keras_mask, structure)


def _sparse(node: Node, index: int) -> bool:
    return bool(node.tensors[index].sparse) if node.tensors else False


def _name(node: Node, index: int) -> str | None:
    return node.tensors[index].name if node.tensors else None


def _attributes(source: Any) -> dict[str, Any]:
    modules = {k: v for k, v in vars(source).get("_modules", {}).items() if k != "_torch_params"}
    return {**vars(source), **modules}
