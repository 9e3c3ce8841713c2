"""What all edits share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from resect.errors import (
    AmbiguousError,
    EditError,
    EmptyResultError,
    InputLayerError,
    MergeError,
    MultipleOutputsError,
    NestedError,
)
from resect.graph import Call, Graph, Ref, Spec
from resect.lookup import resolve_one
from resect.select import Place, Where, output_of


class Edit:
    """A change of a graph, as a frozen value: a pure function from one graph to another.

    An edit says what it wants (`describe`), does it (`apply`), and can be pinned to the places it
    means in a given graph (`pinned`), which is the form that is saved. Where what it makes cannot
    be trained with the loss of the source, `uncompiled` says why.
    """

    verb: ClassVar[str]
    uncompiled: ClassVar[str] = ""
    on_mismatch: Any = "raise"

    def apply(self, graph: Graph) -> Graph:
        """The edited graph; the specs of what changed may be unknown."""
        raise NotImplementedError

    def describe(self) -> str:
        """What is asked, in a few words: `remove 'dense_1'`."""
        raise NotImplementedError

    def pinned(self, graph: Graph) -> Edit:
        """The same edit with its places, and the layers it puts there, spelled out."""
        raise NotImplementedError

    def notes(self, graph: Graph) -> tuple[str, ...]:
        """What a plan should say of it: what it leaves alone, and why."""
        return ()


@dataclass(frozen=True)
class Site:
    """A place as an insertion's factory sees it.

    Attributes:
        name: The user's spelling of the call that is inserted after or before.
        layer: The layer that is called there.
        inputs: Specs of the tensors that go into the call: `.shape` and `.dtype` of each.
        outputs: Specs of the tensors that come out of it.
        tensor: Spec of the tensor that the inserted layer will read.
    """

    name: str
    layer: Any
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    tensor: Spec

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Shape of the tensor that the inserted layer will read."""
        return self.tensor.shape

    @property
    def dtype(self) -> str:
        """Dtype of the tensor that the inserted layer will read."""
        return self.tensor.dtype


@dataclass(frozen=True)
class PerPlace:
    """A factory that is a table: which layers go where."""

    layers: tuple[tuple[str, tuple[Any, ...]], ...]

    def at(self, spelling: str) -> tuple[Any, ...]:
        """The layers for a place."""
        return dict(self.layers)[spelling]


def is_layer(value: Any) -> bool:
    """Whether a value is a layer or an operation, rather than a function that makes one."""
    return hasattr(value, "get_config") and hasattr(value, "name") and not isinstance(value, type)


def is_raw(operation: Any) -> bool:
    """Whether an operation is no layer, but a function of `keras.ops`."""
    return not hasattr(operation, "weights")


def templates(value: Any, argument: Any, spelling: str) -> tuple[Any, ...]:
    """The layers that a user's `layer` argument stands for at a place.

    Args:
        value: A layer, a list of layers, or a factory of either.
        argument: What a factory is given.
        spelling: The user's spelling of the place.

    Raises:
        EditError: It is none of these.
    """
    if isinstance(value, PerPlace):
        return value.at(spelling)
    made = value
    if not is_layer(value) and not isinstance(value, (list, tuple, type)) and callable(value):
        made = value(argument)
    chain = tuple(made) if isinstance(made, (list, tuple)) else (made,)
    for layer in chain:
        if not is_layer(layer):
            got = f"the class {layer.__name__}" if isinstance(layer, type) else repr(layer)
            raise EditError(
                f"A layer, a list of layers or a function that returns one is needed, not {got}.",
                "Pass an instance, such as keras.layers.Dropout(0.5). To take a layer out, "
                "use remove.",
                spelling,
            )
    if not chain:
        raise EditError("An empty list of layers.", "To take a layer out, use remove.", spelling)
    return chain


def by_path(places: Iterable[Place]) -> dict[tuple[str, ...], list[Call]]:
    """The calls of each nested model, the innermost models first."""
    grouped: dict[tuple[str, ...], list[Call]] = {}
    for place in places:
        grouped.setdefault(place.path, []).append(place.call)
    return {path: grouped[path] for path in sorted(grouped, key=len, reverse=True)}


def in_each(graph: Graph, places: Iterable[Place], change: Callable[..., Graph]) -> Graph:
    """Changes the graph of every model that holds some of the places.

    Args:
        graph: The outermost graph.
        places: Places at any depth.
        change: Called with the graph of a model, the calls in it and its path.
    """
    for path, calls in by_path(places).items():
        nested = graph.at(path)
        present = [call for call in calls if call in nested.nodes]
        graph = graph.with_nested(path, change(nested, present, path))
    return graph


def same_path(graph: Graph, *places: Place) -> tuple[str, ...]:
    """The one model that all the places lie in.

    Raises:
        NestedError: They lie in different ones.
    """
    paths = {place.path for place in places}
    if len(paths) > 1:
        spelled = " and ".join(f"'{place.spelling(graph)}'" for place in places)
        raise NestedError(
            f"{spelled} lie in different models.", "Name two places of the same model."
        )
    return paths.pop()


def single_output(
    graph: Graph, call: Call, where: Where = None, how: str = "Say which one is meant: {several}."
) -> Ref:
    """The one tensor that a call returns, or the one of several that is used.

    Args:
        graph: The graph of the model.
        call: The call.
        where: The address that it was found by, which may say which output is meant.
        how: How to choose one.

    Raises:
        MultipleOutputsError: Several are used.
    """
    outputs, meant = graph.refs_of(call), output_of(where)
    if meant is not None and len(outputs) > 1:
        return outputs[meant]
    used = [ref for ref in outputs if graph.readers(ref) or ref in graph.output_refs]
    if len(outputs) == 1 or len(used) == 1:
        return next(iter(used or outputs))
    several = " or ".join(f"'{graph.tensor_label(ref)}'" for ref in used or outputs)
    raise MultipleOutputsError(
        f"{graph.title(call)} returns {len(outputs)} tensors, and the edit needs one.",
        how.format(several=several),
        graph.label(call),
    )


def single_input(graph: Graph, call: Call, how: str) -> Ref:
    """The one tensor that goes into a call, masks and recurrent states aside.

    Raises:
        MergeError: Several go in. `how` says how to choose.
    """
    inputs = graph.nodes[call].data_inputs
    if len(inputs) != 1:
        shown = ", ".join(f"'{graph.tensor_label(ref)}' {graph.spec(ref)}" for ref in inputs)
        raise MergeError(
            f"{graph.title(call)} reads {len(inputs)} tensors: {shown or 'none'}.",
            how.format(first=graph.tensor_label(inputs[0])) if inputs else "Choose another place.",
            graph.label(call),
        )
    return inputs[0]


def not_empty(graph: Graph) -> Graph:
    """The graph, if a call is left in it.

    Raises:
        EmptyResultError: Only inputs are left.
    """
    if all(graph.is_input(call) for call in graph.nodes):
        raise EmptyResultError(
            f"Nothing would be left of {graph.kind} '{graph.name}': its inputs would be its "
            "outputs.",
            "Keep at least one layer.",
        )
    return graph


def call_parameters(operation: Any) -> dict[str, inspect.Parameter]:
    """The parameters of a layer's `call`."""
    return dict(inspect.signature(operation.call).parameters)


def spelled(where: Where, spelling: Any) -> Any:
    """An address spelled out, with the output that it means."""
    output = output_of(where)
    return spelling if output is None else f"{spelling}:{output}"


def quoted(where: Any) -> str:
    """An address as it is shown in a description."""
    if isinstance(where, type):
        return f"every {where.__name__}"
    if isinstance(where, (list, tuple)):
        return ", ".join(quoted(part) for part in where)
    if is_layer(where):
        return repr(where.name)
    return repr(where)


def layers_text(value: Any) -> str:
    """The layers of an edit as they are shown in a description."""
    if isinstance(value, PerPlace):
        made = {layer for _, chain in value.layers for layer in chain}
        return " or ".join(sorted({type(layer).__name__ for layer in made}))
    if isinstance(value, (list, tuple)):
        return ", ".join(layers_text(layer) for layer in value) or "an empty list"
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if is_layer(value):
        return type(value).__name__
    return "what a function returns" if callable(value) else repr(value)


def only_input(graph: Graph, at: Where, repair: str) -> Ref:
    """The input of a model that is meant: the only one, or the one that is named.

    Args:
        graph: The graph of the model.
        at: The address of the input; `None` where there is only one.
        repair: What to do where there are several and none is named.

    Raises:
        AmbiguousError: There are several.
        InputLayerError: What is named is no input.
    """
    if at is not None:
        place = resolve_one(at, graph)
        if place.path or not graph.is_input(place.call):
            raise InputLayerError(
                f"'{place.spelling(graph)}' is no input of the model.",
                f"Its inputs are {_listed(graph, graph.input_refs)}.",
                place.spelling(graph),
            )
        return Ref(place.call)
    if len(graph.input_refs) != 1:
        raise AmbiguousError(
            f"The model has {len(graph.input_refs)} inputs: {_listed(graph, graph.input_refs)}.",
            repair,
        )
    return graph.input_refs[0]


def _listed(graph: Graph, tensors: Iterable[Ref]) -> str:
    return ", ".join(f"'{graph.tensor_label(ref)}'" for ref in tensors)


def only_output(graph: Graph, what: str, repair: str) -> Ref:
    """The one output of a model.

    Args:
        graph: The graph of the model.
        what: What was to be done to it: `"pop"`.
        repair: What to do instead where there are several.

    Raises:
        AmbiguousError: There are several.
    """
    outputs = set(graph.output_refs)
    if len(outputs) != 1:
        raise AmbiguousError(
            f"The model has {len(outputs)} outputs to {what}: {_listed(graph, graph.output_refs)}.",
            f"{repair.capitalize()}.",
        )
    return outputs.pop()


def spellings(places: tuple[Place, ...], graph: Graph) -> Any:
    """Places as an address: a name, or several."""
    names = tuple(dict.fromkeys(place.spelling(graph) for place in places))
    return names[0] if len(names) == 1 else names
