"""Gives layers other names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from resect.edits.base import (
    Edit,
)
from resect.errors import (
    NameClashError,
)
from resect.graph import Call, Graph, Layer, Ref, map_refs
from resect.lookup import resolve


@dataclass(frozen=True)
class Rename(Edit):
    """Gives layers other names.

    Args:
        names: Pairs of an address and the new name.
    """

    verb: ClassVar[str] = "rename"
    names: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, names: Mapping[str, str]) -> Rename:
        """From a mapping of old names to new ones."""
        return cls(tuple(names.items()))

    def describe(self) -> str:
        return "rename " + ", ".join(f"{old!r} to {new!r}" for old, new in self.names)

    def pinned(self, graph: Graph) -> Edit:
        return self

    def apply(self, graph: Graph) -> Graph:
        found = [
            (place, graph.at(place.path).layer(place.call), new)
            for old, new in self.names
            for place in resolve(old, graph)
        ]
        paths = sorted((path for path, _ in graph.walk()), key=len, reverse=True)
        for path in paths:  # inner models first: their paths end when an outer one is renamed
            names: dict[str, str] = {}
            for place, layer, new in found:
                own = [place.call.layer] if path == place.path else []
                names |= dict.fromkeys(own or _same_layer(graph.at(path), layer), new)
            if names:
                graph = graph.with_nested(path, _renamed(graph.at(path), names))
        return graph


def _same_layer(graph: Graph, layer: Layer) -> list[str]:
    """The name of a layer in another graph that it stands in too: one layer has one name."""
    if layer.origin == "new":
        return []
    return [
        name
        for name, other in graph.layers.items()
        if other.op is layer.op and other.part == layer.part
    ]


def _renamed(graph: Graph, names: Mapping[str, str]) -> Graph:
    after = [names.get(name, name) for name in graph.layers]
    clashing = sorted({name for name in after if after.count(name) > 1})
    if clashing:
        raise NameClashError(
            f"Two layers would be called '{clashing[0]}'.", "Choose another name.", clashing[0]
        )
    for new in names.values():
        if "/" in new or not new:
            raise NameClashError(
                f"{new!r} cannot be the name of a layer.", "Leave the slash out.", new
            )

    def call(old: Call) -> Call:
        return Call(names.get(old.layer, old.layer), old.number)

    def moved(structure: Any) -> Any:
        return map_refs(lambda r: Ref(call(r.call), r.output), structure)

    nodes = {}
    for old, node in graph.nodes.items():
        args, kwargs = moved((node.args, dict(node.kwargs)))
        nodes[call(old)] = dataclasses.replace(node, call=call(old), args=args, kwargs=kwargs)
    layers = {}
    for old_name, layer in graph.layers.items():
        name = names.get(old_name, old_name)
        layers[name] = layer if name == old_name else dataclasses.replace(layer, name=name)
    return graph.evolve(
        nodes=nodes, layers=layers, inputs=moved(graph.inputs), outputs=moved(graph.outputs)
    )
