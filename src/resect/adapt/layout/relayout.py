"""Takes a graph to another data format, keeping account of the layout of every tensor.

Each tensor of the old graph has versions in the new one: the same numbers, in one layout or
another. A call reads the version it needs; where there is none yet, a `Permute` makes it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import keras

from resect.adapt.layout.answers import answer_of, constants_in, refs_in_order
from resect.adapt.layout.decisions import Decisions, Nested
from resect.adapt.layout.layouts import (
    Answer,
    Layout,
    Site,
    between,
    inverse,
    is_row,
    moved,
    moves,
    same_of,
    shape_in,
    then,
    unchanged,
    updated,
)
from resect.adapt.layout.rules import data_format_of, demanded, keeps_places
from resect.adapt.layout.wants import order_of, reshapes, site_of, wanted
from resect.edits.base import is_raw
from resect.graph import Call, Graph, Layer, Node, Ref, map_refs, refs
from resect.keras_graph.making import identity_layer, resized_input, template_layer


def relayout(
    graph: Graph,
    decisions: Decisions,
    inputs: Collection[Ref] | None = None,
    outputs: Collection[Ref] | None = None,
) -> Graph:
    """The graph of a model in another data format; the same graph if nothing changes.

    Args:
        graph: The outermost graph.
        decisions: Says which data format; what is decided for each layer is kept there.
        inputs: The inputs that may come in another layout; `None` for all.
        outputs: Likewise.

    Raises:
        EditError: A shared layer would have to become two different ones.
    """
    wants = wanted(graph, (), decisions.to)
    given = []
    for ref in graph.input_refs:
        want, same = wants.get(ref), same_of(graph, ref)
        free = (inputs is None or ref in inputs) and want in moves(len(same), decisions.to)
        given.append(want if free and want is not None else same)
    outer = graph.output_refs if outputs is None else outputs
    return _Walk(decisions, graph, wants).run(given, outer)[0]


class _Walk:
    """Goes through the calls of one graph."""

    def __init__(self, decisions: Decisions, graph: Graph, wants: dict[Ref, Layout]) -> None:
        self.decisions = decisions
        self.graph = graph
        self.wants = wants
        self.nodes: dict[Call, Node] = {}
        self.layers: dict[str, Layer] = dict(graph.layers)
        self.versions: dict[Ref, dict[Layout, Ref]] = {}
        self.natural: dict[Ref, Layout] = {}
        self.changed = False

    def run(
        self, given: Sequence[Layout], outputs: Collection[Ref] | None
    ) -> tuple[Graph, list[Layout]]:
        """The converted graph, and the layouts of its outputs.

        Args:
            given: The layouts of its inputs.
            outputs: Of the outermost model, the outputs that may change.
        """
        by_input = dict(zip(self.graph.input_refs, given, strict=True))
        for call, node in self.graph.nodes.items():
            if self.graph.is_input(call):
                self._input(Ref(call), by_input[Ref(call)])
            else:
                self._visit(call, node)
        returned = [self._returned(ref, outputs) for ref in self.graph.output_refs]
        found = dict(zip(self.graph.output_refs, returned, strict=True))
        wired = {ref: self._output(ref, layout) for ref, layout in found.items()}
        if not self.changed:
            return self.graph, returned
        new = self.graph.evolve(
            nodes=self.nodes,
            layers=self.layers,
            outputs=map_refs(lambda ref: wired[ref], self.graph.outputs),
        )
        return new.pruned().ordered(), returned

    def _returned(self, ref: Ref, outputs: Collection[Ref] | None) -> Layout:
        """The layout of an output: of a nested model any, of the outermost the new or the old."""
        layout, same = self.natural.get(ref, self._main(ref)), same_of(self.graph, ref)
        if outputs is None:
            return layout
        new = ref in outputs and layout in moves(len(layout), self.decisions.to)
        return layout if new else same

    # Versions of a tensor

    def _main(self, ref: Ref) -> Layout:
        return next(iter(self.versions[ref]))

    def _read(self, ref: Ref, want: Layout | None = None) -> Ref:
        want = same_of(self.graph, ref) if want is None else want
        versions = self.versions[ref]
        if want not in versions:
            have, tensor = next(iter(versions.items()))
            versions[want] = self._permuted(tensor, between(have, want))
        return versions[want]

    def _permuted(self, tensor: Ref, axes: Layout) -> Ref:
        name = self._free(f"{tensor.call.layer}_permute")
        layer = template_layer(name, keras.layers.Permute(axes[1:], name=name))
        return self._added(layer, tensor)

    def _added(self, layer: Layer, tensor: Ref) -> Ref:
        self.changed = True
        self.layers[layer.name] = layer
        self.nodes[Call(layer.name)] = Node(Call(layer.name), (tensor,))
        return Ref(Call(layer.name))

    def _free(self, name: str) -> str:
        return self.graph.free_name(name, self.layers)

    def _output(self, ref: Ref, layout: Layout) -> Ref:
        tensor = self._read(ref, layout)
        if self.graph.is_input(tensor.call) and tensor != ref:  # a Permute that is not needed now
            return self._added(identity_layer(self._free(ref.call.layer)), tensor)
        return tensor

    # Calls

    def _input(self, ref: Ref, layout: Layout) -> None:
        layer, node = self.graph.layer(ref.call), self.graph.nodes[ref.call]
        spec = self.graph.spec(ref)
        if layout != unchanged(len(layout)):
            spec = spec._replace(shape=shape_in(layout, spec.shape))
            layer, node = resized_input(layer, spec.shape), Node(ref.call, outputs=(spec,))
            self.changed = True
        self.layers[ref.call.layer], self.nodes[ref.call] = layer, node
        self.versions[ref] = {layout: ref}

    def _visit(self, call: Call, node: Node) -> None:
        site = site_of(self.graph, call, self.decisions.to)
        if site.layer.graph is not None:
            self._nested(call, node, site.layer.graph)
        elif (order := order_of(site)) is not None and not site.inputs[0].masked:
            self._transposes(call, node, order)
        elif reshapes(site) and not site.inputs[0].masked:
            self._reshapes(site)
        else:
            title = self.graph.title(call)
            layout = self.decisions.layout(site, title, lambda: self._chosen(site))
            answer = None if layout is None else answer_of(site, layout)
            if layout is None or answer is None:
                self._stays(site)
            else:
                self._becomes(site, layout, answer)

    def _chosen(self, site: Site) -> Layout | None:
        """The layout that a call should read: what it demands, or what there is."""
        if (layout := demanded(site)) is not None:
            return layout
        mains = (self._main(ref) for ref in site.node.inputs)
        return next((layout for layout in mains if layout != unchanged(len(layout))), None)

    def _stays(self, site: Site) -> None:
        """A call that reads what it always read."""
        node = site.node
        args, kwargs = map_refs(self._read, (node.args, dict(node.kwargs)))
        self.nodes[node.call] = dataclasses.replace(node, args=args, kwargs=kwargs)
        for ref in self.graph.refs_of(node.call):
            layout = same_of(self.graph, ref)
            self.versions[ref] = {layout: ref}
            if (home := self._home(site)) is not None and len(home) == len(layout):
                self.natural[ref] = home

    def _home(self, site: Site) -> Layout | None:
        """The layout in which a feature map that is computed in the old one would be given out."""
        inputs = site.node.data_inputs
        if data_format_of(site) == site.to:
            return unchanged(len(site.inputs[0].shape))
        if not inputs or not keeps_places(site):
            return None
        main = self._main(inputs[0])
        return self.natural.get(inputs[0], None if main == unchanged(len(main)) else main)

    def _becomes(self, site: Site, layout: Layout, answer: Answer) -> None:
        """A call that reads another layout."""
        node, self.changed = site.node, True
        read = map_refs(lambda ref: self._read(ref, layout), (node.args, dict(node.kwargs)))
        args, kwargs = constants_in(layout, read) or read
        self._put(site, answer, args, kwargs)

    def _put(self, site: Site, answer: Answer, args: Any, kwargs: Any) -> None:
        call = site.node.call
        self.layers[call.layer] = self.decisions.layer(site, answer)
        self.nodes[call] = Node(call, args, kwargs, None, site.node.seen)
        for ref, layout in zip(self.graph.refs_of(call), answer.outputs, strict=True):
            self.versions[ref] = {layout: ref}

    def _nested(self, call: Call, node: Node, inner: Graph) -> None:
        layer, given = self.graph.layer(call), refs(node.args)
        outputs = self.graph.refs_of(call)
        if any(self.graph.spec(ref).masked for ref in node.inputs) or len(given) != len(
            inner.input_refs
        ):
            what = self.decisions.untouched(layer, inner, self.graph.title(call))
        else:
            what = self.decisions.nested(layer, inner, lambda: self._inside(inner, given, outputs))
        wanted = iter(what.given)
        args = map_refs(lambda ref: ref, node.args)
        if len(given) == len(what.given):
            args = refs_in_order(node.args, lambda ref: self._read(ref, next(wanted)))
        kwargs = map_refs(self._read, dict(node.kwargs))
        if what.graph is inner:
            self.nodes[call] = dataclasses.replace(node, args=args, kwargs=kwargs)
        else:
            self.changed = True
            self.layers[call.layer] = dataclasses.replace(layer, graph=what.graph)
            self.nodes[call] = Node(call, args, kwargs, None, node.seen)
        self.versions |= {r: {lay: r} for r, lay in zip(outputs, what.returned, strict=True)}

    def _inside(self, inner: Graph, given: Sequence[Ref], outputs: Sequence[Ref]) -> Nested:
        """A nested model, for what it is given and what is wanted of it here."""
        wants = wanted(inner, [self.wants.get(ref) for ref in outputs], self.decisions.to)
        pairs = zip(inner.input_refs, given, strict=True)
        found = [wants.get(ref, self._main(outer)) for ref, outer in pairs]
        new, returned = _Walk(self.decisions, inner, wants).run(found, None)
        return Nested(tuple(found), new, tuple(returned))

    def _transposes(self, call: Call, node: Node, order: Layout) -> None:
        """A call that transposes: what it reads is a version of what it returns."""
        (source,), (ref,) = node.inputs, self.graph.refs_of(call)
        found = {then(inverse(order), lay): t for lay, t in self.versions[source].items()}
        same, site = unchanged(len(order)), site_of(self.graph, call, self.decisions.to)
        if same not in found:
            layout = self._main(source)
            if layout == same or self.graph.is_shared(call.layer):
                args = map_refs(self._read, node.args)
                self.nodes[call] = dataclasses.replace(node, args=args)
            else:
                axes = between(next(iter(found)), same)
                raw = is_raw(site.layer.op)
                config = updated(axes=axes) if raw else updated(dims=axes[1:])
                args = map_refs(lambda r: self._read(r, layout), node.args)
                self._put(site, Answer((same,), config), args, {})
                self.changed = True
            found = {same: ref, **found}
        want = self.wants.get(ref, same)
        first = want if want in found else same
        self.versions[ref] = {first: found[first], **found}
        new = moved(len(order), self.decisions.to)
        if source in self.natural and new in found:
            self.natural[ref] = new

    def _reshapes(self, site: Site) -> None:
        """A Reshape: of a vector the order of the axes does not matter."""
        (source,), (ref,) = site.node.inputs, self.graph.refs_of(site.node.call)
        layout, same = self._main(source), same_of(self.graph, ref)
        if not is_row(site.inputs[0].shape):
            layout = same_of(self.graph, source)
        want = self.wants.get(ref, same)
        if not is_row(site.outputs[0].shape) or self.graph.is_shared(site.layer.name):
            want = same
        config = None
        if want != same:
            shape = shape_in(want, (None, *site.config["target_shape"]))[1:]
            config = updated(target_shape=shape)
        elif layout == same_of(self.graph, source):
            self._stays(site)
            return
        self._becomes(site, layout, Answer((want,), config))
