"""The layers of a model that hold variables, in an order that does not depend on the rest."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from typing import Any

import keras

from resect.aligning import Unit
from resect.errors import CopyError, UnbuiltError
from resect.graph import Call, Graph, VariableSpec
from resect.keras_graph import training
from resect.keras_graph.reading import has_graph, not_a_model, read
from resect.keras_graph.values import copied_tensor
from resect.keras_graph.writing import copy_layer, write

_Found = Iterator[tuple[tuple[str, ...], tuple[bool, ...], Any]]


def units_of(model: Any) -> tuple[Unit, ...]:
    """The layers and parts of layers that hold variables of their own.

    A model with a graph is walked from its outputs back, so that a layer more or less in one branch
    moves nothing in another; other models, and the parts of a layer, are in the order in which they
    were made.

    Raises:
        NotAModelError: Not a Keras model.
        UnbuiltError: It has layers without variables yet.
    """
    return tuple(
        Unit(path, given, _kind(layer), specs, layer)
        for path, given, layer in all_layers(model)
        if (specs := tuple(map(_spec, own_variables(layer))))
    )


def all_layers(model: Any) -> list[tuple[tuple[str, ...], tuple[bool, ...], Any]]:
    """Every layer and part of a layer once: its path, which names in it were chosen, itself.

    Raises:
        NotAModelError: Not a Keras model.
        UnbuiltError: It has layers without variables yet.
    """
    if not isinstance(model, keras.Model):
        raise not_a_model(model)
    found = list(_walk(model, (), (), {id(model)}))
    unbuilt = [layer.name for _, _, layer in found if not layer.built]
    if not model.built or (unbuilt and not has_graph(model)):
        which = f"its {unbuilt[0]!r}" if unbuilt else "it"
        raise UnbuiltError(
            f"{type(model).__name__} '{model.name}' is not built: {which} has no variables yet.",
            "Call it once, on inputs of the shape that it is for.",
            model.name,
        )
    return [((), (), model), *found]


def _walk(layer: Any, path: tuple[str, ...], given: tuple[bool, ...], seen: set[int]) -> _Found:
    inside = list(layer._layers)
    if isinstance(layer, keras.Model) and has_graph(layer):
        inside = [*_in_order(read(layer)), *inside]
    names = {part.name for part in inside}
    for part in inside:
        if id(part) in seen or not isinstance(part, keras.Layer):
            continue
        seen.add(id(part))
        automatic = is_automatic(part.name, snake_case(type(part).__name__), names)
        here = (*path, part.name), (*given, not automatic)
        yield *here, part
        yield from _walk(part, *here, seen)


def _in_order(graph: Graph) -> Iterator[Any]:
    """The operations of a graph, each behind what it reads, branch by branch."""
    done: set[Call] = set()
    stack = [ref.call for ref in reversed(graph.output_refs)]
    while stack:
        call = stack[-1]
        waiting = [r.call for r in graph.nodes[call].inputs if r.call not in done]
        if call in done or not waiting:
            if call not in done:
                done.add(call)
                yield graph.layer(call).op
            stack.pop()
        else:
            stack.extend(reversed(waiting))


def own_variables(layer: Any) -> list[Any]:
    """The variables of a layer itself, without those of its parts and of its random numbers."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def _spec(variable: Any) -> VariableSpec:
    shape = tuple(int(size) for size in variable._shape)
    return VariableSpec(variable.name, shape, str(variable.dtype))


def _kind(layer: Any) -> str:
    mode = getattr(layer, "quantization_mode", None)
    return type(layer).__name__ + (f" {mode}" if mode else "")


def is_automatic(name: str, snake: str, beside: Container[str]) -> bool:
    """Whether Keras may have given a layer its name: that of its class, perhaps with a number.

    Keras counts `block`, `block_1`, ...; whoever has a `block_0` has counted by hand.

    Args:
        name: Its name.
        snake: That of its class in snake case.
        beside: The names of the layers beside it.
    """
    return re.fullmatch(rf"{re.escape(snake)}(_\d+)?", name) is not None and (
        f"{snake}_0" not in beside
    )


def snake_case(name: str) -> str:
    """The name of a class as Keras names layers after it."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def independent_copy(model: Any) -> Any:
    """A copy of any built model, also of one without a graph; compiled as it is.

    Raises:
        CopyError: It holds something that can be neither copied nor re-created.
    """
    try:
        written = write(read(model)) if has_graph(model) else copy_layer(model)
    except CopyError as error:
        raise error.asking(f"Cannot copy {type(model).__name__} '{model.name}'.") from error
    new, pairs = written.model, written.pairs
    if training.is_compiled(model):
        training.carry(model, new, pairs)
    return new


def give(source: Any, target: Any) -> None:
    """Gives a layer the values of the own variables of another, one by one in order."""
    pairs = zip(own_variables(source), own_variables(target), strict=True)
    for variable, other in pairs:
        other.assign(copied_tensor(variable.value))
    if isinstance(target, keras.layers.Normalization):
        target.finalize_state()
