"""Edits of single calls: remove, insert, replace, rename."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from resect.edits.base import (
    Edit,
    PerPlace,
    Site,
    call_parameters,
    in_each,
    is_raw,
    layers_text,
    not_empty,
    quoted,
    same_path,
    single_input,
    single_output,
    spelled,
    templates,
)
from resect.errors import (
    AmbiguousError,
    EditError,
    InputLayerError,
    MergeError,
    NameClashError,
    NoMatchError,
)
from resect.graph import Call, Graph, Layer, Node, Ref, map_refs, refs
from resect.keras_graph.making import template_layer
from resect.options import OnMismatch
from resect.select import (
    Place,
    Where,
    as_selection,
    output_of,
    resolve,
    resolve_calls,
    resolve_one,
)


@dataclass(frozen=True)
class Remove(Edit):
    """Takes calls out; what read their output reads their input instead.

    Args:
        where: The calls; the name of a shared layer means all of its calls.
        keep: For calls with several inputs: which of the producers goes on.
        on_mismatch: What happens to layers whose weights do not fit any more.
    """

    verb: ClassVar[str] = "remove"
    where: Where
    keep: Where = None
    on_mismatch: OnMismatch = "raise"

    def describe(self) -> str:
        kept = "" if self.keep is None else f", keeping {quoted(self.keep)}"
        return f"remove {quoted(self.where)}{kept}"

    def apply(self, graph: Graph) -> Graph:
        return in_each(graph, resolve(self.where, graph), self._remove)

    def pinned(self, graph: Graph) -> Edit:
        places = resolve(self.where, graph)
        return Remove(_spellings(places, graph), self._pinned_keep(places, graph), self.on_mismatch)

    def _pinned_keep(self, places: tuple[Place, ...], graph: Graph) -> Where:
        if self.keep is None or isinstance(self.keep, str):
            return self.keep
        kept: dict[str, None] = {}
        for place in places:
            nested = graph.at(place.path)
            if len(nested.nodes[place.call].data_inputs) > 1:
                goes_on = self._goes_on(nested, place.call, place.path)
                kept[nested.tensor_label(goes_on)] = None
        return tuple(kept) or None

    def _remove(self, graph: Graph, calls: list[Call], path: tuple[str, ...]) -> Graph:
        instead: dict[Ref, Ref] = {}
        for call in calls:
            if graph.is_input(call):
                raise InputLayerError(
                    f"{graph.title(call)} is an input of the model.",
                    "Cut the front off with truncate(start=...), or insert after it.",
                    graph.label(call),
                )
            how = "Remove or replace what reads them first."
            instead[single_output(graph, call, how=how)] = self._goes_on(graph, call, path)
        mapping = {ref: _followed(ref, instead) for ref in instead}
        return not_empty(graph.substitute(mapping).pruned().ordered())

    def _goes_on(self, graph: Graph, call: Call, path: tuple[str, ...]) -> Ref:
        """The input that takes the place of a call's output."""
        inputs = graph.nodes[call].data_inputs
        if self.keep is None or len(inputs) == 1:
            how = 'Say which one goes on: keep="{first}".'
            return single_input(graph, call, how)
        selection, meant = as_selection(self.keep), output_of(self.keep)
        kept = [r for r in inputs if selection.matches(Place((), r.call), graph)]
        if len(kept) > 1 and meant is not None:
            kept = [ref for ref in kept if ref.output == meant]
        if len(kept) != 1:
            shown = ", ".join(f"'{graph.tensor_label(ref)}'" for ref in inputs)
            raise MergeError(
                f"keep={self.keep!r} matches {len(kept)} of the inputs of {graph.title(call)}: "
                f"{shown}.",
                f"Say which one goes on: keep='{graph.tensor_label((kept or inputs)[0])}'.",
                graph.label(call),
            )
        return kept[0]


@dataclass(frozen=True)
class Insert(Edit):
    """Puts layers in: after calls, before calls, or on the edge between two.

    Args:
        layer: A layer (copied for each place), a list of layers in a row, or a function that is
            given the `Site` and returns either.
        after: Calls whose output it reads; whatever read that reads the new layer.
        before: Calls whose one input it replaces.
        between: Two calls: only the edge from the first to the second.
        merge_with: A call whose output the new layer reads too, as `layer([here, there])`: with
            `Add()`, a residual connection.
        on_mismatch: What happens to layers whose weights do not fit any more.
    """

    verb: ClassVar[str] = "insert"
    layer: Any
    after: Where = None
    before: Where = None
    between: tuple[Where, Where] | None = None
    merge_with: Where = None
    on_mismatch: OnMismatch = "raise"

    def __post_init__(self) -> None:
        given = [n for n in ("after", "before", "between") if getattr(self, n) is not None]
        if len(given) != 1:
            raise TypeError(
                f"insert needs exactly one of after, before and between; given: {given or 'none'}."
            )

    def describe(self) -> str:
        if self.between is not None:
            where = f"between {quoted(self.between[0])} and {quoted(self.between[1])}"
        elif self.after is not None:
            where = f"after {quoted(self.after)}"
        else:
            where = f"before {quoted(self.before)}"
        merged = "" if self.merge_with is None else f", merged with {quoted(self.merge_with)}"
        return f"insert {layers_text(self.layer)} {where}{merged}"

    def places(self, graph: Graph) -> tuple[Place, ...]:
        """The calls after or before which something is inserted."""
        if self.between is not None:
            return (resolve_one(self.between[1], graph),)
        return resolve_calls(self.after if self.after is not None else self.before, graph)

    def apply(self, graph: Graph) -> Graph:
        root = graph
        return in_each(graph, self.places(graph), lambda g, c, p: self._insert(g, c, p, root))

    def pinned(self, graph: Graph) -> Edit:
        places = self.places(graph)
        table = []
        for place in places:
            nested = graph.at(place.path)
            site = self._site(nested, place, self._edge(nested, place.call, graph)[0], graph)
            table.append((site.name, templates(self.layer, site, site.name)))
        where: dict[str, Any] = {"layer": PerPlace(tuple(table))}
        if self.between is not None:
            source = resolve_one(self.between[0], graph).spelling(graph)
            where["between"] = (spelled(self.between[0], source), places[0].spelling(graph))
        else:
            name = "after" if self.after is not None else "before"
            where[name] = spelled(self.after, _spellings(places, graph))
        if self.merge_with is not None:
            other = resolve_one(self.merge_with, graph).spelling(graph)
            where["merge_with"] = spelled(self.merge_with, other)
        return dataclasses.replace(self, **where)

    def _insert(self, graph: Graph, calls: list[Call], path: tuple[str, ...], root: Graph) -> Graph:
        layers: list[Layer] = []
        nodes: list[Node] = []
        everywhere: dict[Ref, Ref] = {}
        at_call: dict[Call, dict[Ref, Ref]] = {}
        other = self._other(graph, path, root)
        taken = set(graph.layers)
        for call in calls:
            ref, only = self._edge(graph, call, root)
            site = self._site(graph, Place(path, call), ref, root)
            chain = templates(self.layer, site, site.name)
            made, end = _chain(chain, ref, other, taken, layers)
            nodes += made
            if only is None:
                everywhere[ref] = end
            else:
                at_call.setdefault(only, {})[ref] = end
        rewired = {
            call: node.substitute({**everywhere, **at_call.get(call, {})})
            for call, node in graph.nodes.items()
        }
        outputs = map_refs(lambda r: everywhere.get(r, r), graph.outputs)
        return graph.evolve(nodes=rewired, outputs=outputs).add(nodes, layers).ordered()

    def _edge(self, graph: Graph, call: Call, root: Graph) -> tuple[Ref, Call | None]:
        """The tensor that the new layer reads, and the one reader to rewire (`None` for all)."""
        if self.after is not None:
            return single_output(graph, call, self.after), None
        if self.before is not None:
            if graph.is_input(call):
                raise InputLayerError(
                    f"{graph.title(call)} is an input: nothing comes before it.",
                    "Insert after it, or use prepend.",
                    graph.label(call),
                )
            how = 'Name the edge: between=("{first}", "' + graph.label(call) + '").'
            return single_input(graph, call, how), call
        assert self.between is not None
        source = resolve_one(self.between[0], root)
        same_path(root, source, resolve_one(self.between[1], root))
        found = [r for r in dict.fromkeys(graph.nodes[call].inputs) if r.call == source.call]
        meant = output_of(self.between[0])
        if len(found) > 1 and meant is not None:
            found = [ref for ref in found if ref.output == meant]
        if len(found) != 1:
            which = " or ".join(f"'{graph.tensor_label(ref)}'" for ref in found)
            raise (AmbiguousError if found else NoMatchError)(
                f"{graph.title(call)} reads {len(found)} tensors of {graph.title(source.call)}.",
                f"Say which one: {which}."
                if found
                else "Name two calls of which the second reads the first.",
                graph.label(call),
            )
        return found[0], call

    def _site(self, graph: Graph, place: Place, ref: Ref, root: Graph) -> Site:
        node = graph.nodes[place.call]
        return Site(
            name="/".join([*place.path, graph.label(place.call)]),
            layer=graph.layer(place.call).op,
            inputs=tuple(graph.spec(r) for r in node.inputs),
            outputs=node.outputs or (),
            tensor=graph.spec(ref),
        )

    def _other(self, graph: Graph, path: tuple[str, ...], root: Graph) -> Ref | None:
        if self.merge_with is None:
            return None
        other = resolve_one(self.merge_with, root)
        if other.path != path:
            same_path(root, other, Place(path, next(iter(graph.nodes))))
        return single_output(graph, other.call, self.merge_with)


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
        return Replace(_spellings(places, graph), PerPlace(tuple(table)), self.on_mismatch)

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
            layer = template_layer(_free(template.name, layers), template, replaced)
            layers[layer.name] = layer
            added.append(layer)
        return added


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


def _chain(
    templates_: tuple[Any, ...], ref: Ref, other: Ref | None, taken: set[str], layers: list[Layer]
) -> tuple[list[Node], Ref]:
    """New layers in a row that read a tensor; their names are taken, the layers added."""
    nodes: list[Node] = []
    for template in templates_:
        name = _free(template.name, taken)
        taken.add(name)
        args = (ref,) if other is None or nodes else ([ref, other],)
        layers.append(template_layer(name, template))
        nodes.append(Node(Call(name), args))
        ref = Ref(Call(name))
    return nodes, ref


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


def _followed(ref: Ref, instead: Mapping[Ref, Ref]) -> Ref:
    while ref in instead:
        ref = instead[ref]
    return ref


def _free(name: str, taken: Container[str]) -> str:
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    return candidate


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
    return node.args, _accepted(node, template, spelling)


def _accepted(node: Node, template: Any, spelling: str) -> dict[str, Any]:
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


def _spellings(places: tuple[Place, ...], graph: Graph) -> Any:
    names = tuple(dict.fromkeys(place.spelling(graph) for place in places))
    return names[0] if len(names) == 1 else names
