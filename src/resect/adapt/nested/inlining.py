"""Dissolves nested models: their calls become calls of the graph around them."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from resect.adapt.nested.dissolving import JOINED, Host
from resect.adapt.nested.naming import Key, is_opened, names_of, same_layer, staying
from resect.edits.rename import Rename
from resect.errors import EditError
from resect.graph import Graph, Layer
from resect.keras_graph.private import Functional
from resect.keras_graph.reading import read

_PLAIN_CALLS = (Functional.call, keras.Sequential.call)


class Inlining:
    """Dissolves some of the nested models of a graph.

    Args:
        graph: The outermost graph, complete.
        chosen: The models, by `same_layer`.
    """

    def __init__(self, graph: Graph, chosen: set[Key]) -> None:
        self.graph = graph
        self.chosen = chosen
        self.done: dict[int, Graph] = {}
        self.renamed: dict[Key, str] = {}

    def run(self) -> Graph:
        """The graph without them."""
        for _, nested in self.graph.walk():
            for layer in nested.layers.values():
                if self._is_chosen(layer) and not is_opened(layer):
                    _check(layer)
        _check_copies(self.graph, self.chosen)
        return self._with_one_name(self._host(self.graph))

    def _with_one_name(self, graph: Graph) -> Graph:
        """A layer that was renamed, renamed in the models that stay too: it has one name."""
        for path, nested in graph.walk() if self.renamed else ():
            for name, layer in nested.layers.items():
                new = self.renamed.get(same_layer(layer), name)
                if new != name and layer.origin != "new":
                    renamed = Rename((("/".join([*path, name]), new),)).apply(graph)
                    return self._with_one_name(renamed)
        return graph

    def _host(self, graph: Graph) -> Graph:
        """A graph that stays, the models in it dissolved or changed."""
        if id(graph) not in self.done:
            self.done[id(graph)] = self._changed(graph)
        return self.done[id(graph)]

    def _changed(self, graph: Graph) -> Graph:
        names = names_of(graph, self.chosen)
        stays = dict(staying(graph, self.chosen))
        layers: dict[str, Layer] = {}
        for key, layer in stays.items():
            inner = None if layer.graph is None else self._host(layer.graph)
            if layer.name != names[key] and layer.origin != "new":
                self.renamed[same_layer(layer)] = names[key]
            if inner is not layer.graph or layer.name != names[key]:
                layer = dataclasses.replace(layer, name=names[key], graph=inner)
            layers[layer.name] = layer
        dissolves = any(self._is_chosen(layer) for layer in graph.layers.values())
        if not dissolves:
            changed = any(layers[name] is not la for name, la in graph.layers.items())
            return graph.evolve(layers=layers) if changed else graph
        return Host(graph, self.chosen, names, layers).run()

    def _is_chosen(self, layer: Layer) -> bool:
        return layer.graph is not None and same_layer(layer) in self.chosen


# What cannot be dissolved


def _check(layer: Layer) -> None:
    """Refuses a nested model that is more than its graph.

    Raises:
        EditError: It is.
    """
    op = layer.op
    if type(op).call not in _PLAIN_CALLS:
        raise EditError(
            f"'{layer.name}' ({layer.kind}) has a call of its own: its graph is not all it does.",
            "Leave it as it is: flatten the others by name.",
            layer.name,
        )
    if op.activity_regularizer is not None:
        raise EditError(
            f"The nested model '{layer.name}' has an activity_regularizer, which belongs to none "
            "of its layers.",
            "Give it to the layer that makes the output.",
            layer.name,
        )
    own = {id(v) for other in _operations(read(op)) for v in getattr(other, "variables", ())}
    extra = [v.path for v in op.variables if id(v) not in own]
    if extra:
        raise EditError(
            f"The nested model '{layer.name}' has variables that none of its calls uses: "
            f"{', '.join(extra[:4])}.",
            "They would be lost: take them off it first.",
            layer.name,
        )


def _check_copies(graph: Graph, chosen: set[Key]) -> None:
    """A model that was put in is copied at each place; dissolved, it would be one and the same.

    Raises:
        EditError: One of its layers stands elsewhere too.
    """
    homes: dict[int, set[Key]] = {}
    dissolved: dict[int, str] = {}
    stack: list[tuple[Graph, Key, str]] = [(graph, (), "")]
    while stack:
        nested, home, name = stack.pop()
        for layer in nested.layers.values():
            homes.setdefault(id(layer.op), set()).add(home)
            if name:
                dissolved[id(layer.op)] = name
            if layer.graph is None:
                continue
            is_new = layer.origin == "new"
            gone = is_new and layer.part != JOINED and same_layer(layer) in chosen
            inner = ("new", home, layer.name) if is_new else home
            stack.append((layer.graph, inner, layer.name if gone else name))
    for key, name in dissolved.items():
        if len(homes[key]) > 1:
            raise EditError(
                f"'{name}' was put in, and its layers stand elsewhere too: they would become "
                "shared layers.",
                "Put a copy in: resect.clone(model).",
                name,
            )


def _operations(graph: Graph) -> list[Any]:
    return [
        layer.op
        for _, nested in graph.walk()
        for layer in nested.layers.values()
        if layer.graph is None
    ]
