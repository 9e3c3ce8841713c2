"""Puts layers in: in the middle, behind the output, behind the input."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from resect.edits.base import (
    Edit,
    PerPlace,
    Site,
    in_each,
    layers_text,
    only_input,
    only_output,
    quoted,
    same_path,
    single_input,
    single_output,
    spelled,
    spellings,
    templates,
)
from resect.errors import (
    AmbiguousError,
    InputLayerError,
    NoMatchError,
)
from resect.graph import Call, Graph, Layer, Node, Ref, free_name, map_refs
from resect.keras_graph.making import template_layer
from resect.lookup import resolve_calls, resolve_one
from resect.options import OnMismatch
from resect.select import Place, Where, output_of


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
            where[name] = spelled(self.after, spellings(places, graph))
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
class Append(Edit):
    """Puts layers behind the model's output.

    Args:
        layer: A layer, a list of layers in a row, or a function of the `Site`.
    """

    verb: ClassVar[str] = "append"
    layer: Any

    def describe(self) -> str:
        return f"append {layers_text(self.layer)}"

    def insertion(self, graph: Graph) -> Insert:
        """The insertion that it comes to."""
        last = only_output(graph, "append to", "insert after the one you mean")
        return Insert(self.layer, after=graph.tensor_label(last))

    def pinned(self, graph: Graph) -> Edit:
        return self.insertion(graph).pinned(graph)

    def apply(self, graph: Graph) -> Graph:
        return self.insertion(graph).apply(graph)


@dataclass(frozen=True)
class Prepend(Edit):
    """Puts layers between the model's input and whatever reads it.

    Args:
        layer: A layer, a list of layers in a row, or a function of the `Site`.
        on_mismatch: What happens to layers whose weights do not fit any more.
    """

    verb: ClassVar[str] = "prepend"
    layer: Any
    on_mismatch: OnMismatch = "raise"

    def describe(self) -> str:
        return f"prepend {layers_text(self.layer)}"

    def insertion(self, graph: Graph) -> Insert:
        """The insertion that it comes to."""
        repair = "Insert after the one you mean: insert(model, layer, after=name)."
        first = graph.label(only_input(graph, None, repair).call)
        return Insert(self.layer, after=first, on_mismatch=self.on_mismatch)

    def pinned(self, graph: Graph) -> Edit:
        return self.insertion(graph).pinned(graph)

    def apply(self, graph: Graph) -> Graph:
        return self.insertion(graph).apply(graph)


def _chain(
    templates_: tuple[Any, ...], ref: Ref, other: Ref | None, taken: set[str], layers: list[Layer]
) -> tuple[list[Node], Ref]:
    """New layers in a row that read a tensor; their names are taken, the layers added."""
    nodes: list[Node] = []
    for template in templates_:
        name = free_name(template.name, taken)
        taken.add(name)
        args = (ref,) if other is None or nodes else ([ref, other],)
        layers.append(template_layer(name, template))
        nodes.append(Node(Call(name), args))
        ref = Ref(Call(name))
    return nodes, ref
