"""Which layers a graph has once models in it are dissolved, and their names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from resect.graph import Graph, Layer, free_name

Key = tuple[Any, ...]


#: The `part` of a layer whose call is to be dissolved begins so; its `graph` is that of one call.
OPENED = "opened"


def is_opened(layer: Layer) -> bool:
    """Whether a layer with a graph is no nested model, but a call of a layer that was traced."""
    return layer.part.startswith(OPENED)


def same_layer(layer: Layer) -> Key:
    """What is equal for a layer wherever it stands."""
    return ("layer", id(layer.op), layer.part)


class Found(NamedTuple):
    """A layer, and where it was found.

    Attributes:
        key: What tells it from others.
        layer: The layer.
        path: The names of the models that lead to it.
    """

    key: Key
    layer: Layer
    path: tuple[str, ...]


def _layers(
    graph: Graph, chosen: set[Key], path: tuple[str, ...] = (), owner: Key = ()
) -> Iterator[Found]:
    """The layers of a graph and of the models in it that are dissolved, their inputs left out."""
    inputs = {ref.call.layer for ref in graph.input_refs} if path else set()
    for name, layer in graph.layers.items():
        key = key_of(layer, name, owner)
        if layer.graph is not None and same_layer(layer) in chosen:
            yield from _layers(layer.graph, chosen, (*path, name), key)
        elif name not in inputs:
            yield Found(key, layer, path)


def key_of(layer: Layer, name: str, owner: Key) -> Key:
    """What tells a layer from others; one that is new is known by where it was put."""
    return ("new", owner, name) if layer.origin == "new" else same_layer(layer)


def staying(graph: Graph, chosen: set[Key]) -> Iterator[tuple[Key, Layer]]:
    """Every layer that there will be, once."""
    seen: set[Key] = set()
    for found in _outer_first(graph, chosen):
        if found.key not in seen:
            seen.add(found.key)
            yield found.key, found.layer


def _outer_first(graph: Graph, chosen: set[Key]) -> list[Found]:
    return sorted(_layers(graph, chosen), key=lambda found: bool(found.path))


def names_of(graph: Graph, chosen: set[Key]) -> dict[Key, str]:
    """A name for each layer: its own, or with its path where that is taken by another."""
    found = _outer_first(graph, chosen)
    wanted: dict[str, set[Key]] = {}
    for each in found:
        wanted.setdefault(each.layer.name, set()).add(each.key)
    names: dict[Key, str] = {}
    taken = set(wanted)
    for each in found:
        if each.key in names:
            continue
        name = each.layer.name
        if each.path and len(wanted[name]) > 1:
            # PyTorch takes no name with a dot, and models of Keras's applications have one.
            prefix = "_".join(each.path).replace(".", "_")
            name = free_name(f"{prefix}_{name}", taken)
            taken.add(name)
        names[each.key] = name
    return names
