"""Puts other layers in the place of calls."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from typing import Any, ClassVar

from resect.edits.base import (
    Edit,
    PerPlace,
    call_parameters,
    in_each,
    is_raw,
    layers_text,
    quoted,
    spellings,
    templates,
)
from resect.errors import (
    EditError,
    InputLayerError,
)
from resect.graph import Call, Graph, Layer, Node, Ref, free_name, refs
from resect.keras_graph.making import template_layer
from resect.lookup import resolve
from resect.options import OnMismatch
from resect.select import Where


@dataclass(frozen=True)
class Replace(Edit):
    """Puts other layers in the place of calls.

    Args:
        where: The calls. The name of a shared layer means all its calls, which then share the new
            layer; `"shared@1"` means that call only.
        layer: A layer, a list of layers in a row, or a function that is given the old layer and
            returns either. A new layer of the same class takes over the weights that fit.
        on_mismatch: What happens to layers behind it whose weights do not fit any more.
    """

    verb: ClassVar[str] = "replace"
    where: Where
    layer: Any
    on_mismatch: OnMismatch = "raise"

    def describe(self) -> str:
        return f"replace {quoted(self.where)} by {layers_text(self.layer)}"

    def apply(self, graph: Graph) -> Graph:
        return in_each(graph, resolve(self.where, graph), self._replace)

    def pinned(self, graph: Graph) -> Edit:
        places = resolve(self.where, graph)
        table = []
        for place in places:
            old = graph.at(place.path).layer(place.call)
            spelling = place.spelling(graph)
            table.append((spelling, templates(self.layer, old.op, spelling)))
        return Replace(spellings(places, graph), PerPlace(tuple(table)), self.on_mismatch)

    def _replace(self, graph: Graph, calls: list[Call], path: tuple[str, ...]) -> Graph:
        layers: dict[str, Layer] = dict(graph.layers)
        nodes: dict[Call, Node] = dict(graph.nodes)
        mapping: dict[Ref, Ref] = {}
        for name in dict.fromkeys(call.layer for call in calls):
            chosen = [call for call in calls if call.layer == name]
            if len(chosen) == len(graph.calls_of(name)):
                del layers[name]
            chain = self._new_layers(graph, chosen[0], path, layers)
            for i, call in enumerate(chosen):
                old = nodes.pop(call)
                spelling = "/".join([*path, graph.label(call)])
                args, kwargs = _handed_on(old, graph.layer(call).op, chain[0].op, spelling)
                end = Call(chain[0].name, i)
                nodes[end] = Node(end, args, kwargs)
                for layer in chain[1:]:
                    nodes[Call(layer.name, i)] = Node(Call(layer.name, i), (Ref(end),))
                    end = Call(layer.name, i)
                mapping.update({ref: Ref(end, ref.output) for ref in graph.refs_of(call)})
        changed = graph.evolve(nodes=nodes, layers=layers)
        return changed.substitute(mapping).pruned().ordered()

    def _new_layers(
        self, graph: Graph, call: Call, path: tuple[str, ...], layers: dict[str, Layer]
    ) -> list[Layer]:
        """The layers that take the place of one, added to the table of layers."""
        if graph.is_input(call):
            raise InputLayerError(
                f"{graph.title(call)} is an input of the model.",
                "Cut it off with truncate(start=...), or insert after it.",
                graph.label(call),
            )
        old = graph.layer(call)
        chain = templates(self.layer, old.op, "/".join([*path, graph.label(call)]))
        added = []
        for template in chain:
            brings_weights = bool(getattr(template, "weights", ()))
            like = type(template) is old.cls and len(chain) == 1 and not brings_weights
            replaced = old.op if like and old.origin != "new" else None
            layer = template_layer(free_name(template.name, layers), template, replaced)
            layers[layer.name] = layer
            added.append(layer)
        return added


def _handed_on(
    node: Node, old: Any, template: Any, spelling: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call that go to the layer in its place.

    A constant in the call of a raw operation belongs to the operation: a layer in its place is
    given the tensors only.
    """
    if is_raw(old) and not is_raw(template):
        args = tuple(arg for arg in node.args if any(refs(arg)))
        kwargs = {key: value for key, value in node.kwargs.items() if any(refs(value))}
        node = dataclasses.replace(node, args=args, kwargs=kwargs)
    return node.args, accepted(node, template, spelling)


def accepted(node: Node, template: Any, spelling: str) -> dict[str, Any]:
    """The call's keyword arguments that the new layer takes.

    `training` and `mask` are left out where it does not know them, as Keras itself would.

    Raises:
        EditError: It does not take another argument of the call.
    """
    parameters = call_parameters(template)
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return dict(node.kwargs)
    accepted = {}
    for key, value in node.kwargs.items():
        if key in parameters:
            accepted[key] = value
        elif key not in ("training", "mask") and value is not None:
            raise EditError(
                f"'{spelling}' is called with {key}=..., which {type(template).__name__} does not "
                "take.",
                "Use a layer whose call takes it, or remove the call and insert the layer there.",
                spelling,
            )
    return accepted
