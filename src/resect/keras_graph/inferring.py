"""Completes an edited graph: the shapes of what changed, and which layers still fit.

Keras itself is asked, on layers that have variables with a shape and no value. What no edit has
touched is taken over as it was recorded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from resect.errors import Problem
from resect.graph import Call, Graph, Layer, Node, Ref, Spec, VariableSpec
from resect.keras_graph.asking import Asker, MisfitError, Outcome, WeightsMisfitError
from resect.keras_graph.making import from_config, new_layer
from resect.keras_graph.projecting import projection
from resect.keras_graph.state import variable_specs
from resect.options import OnMismatch


@dataclass
class Inferred:
    """What came of completing a graph.

    Attributes:
        graph: The graph, every spec known.
        problems: Layers that cannot take what they would be given.
        notes: What was done about the others: layers that start afresh, projections put in.
    """

    graph: Graph
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def infer(graph: Graph, on_mismatch: OnMismatch = "raise") -> Inferred:
    """Completes the specs of a graph, nested graphs first.

    Args:
        graph: An edited graph, in topological order.
        on_mismatch: What happens to a layer of the source whose weights do not fit any more:
            `"raise"` reports it, `"reinit"` lets it start afresh, `"adapt"` puts a projection in
            front of it.
    """
    return _Inference(graph, on_mismatch).run()


class _Inference:
    def __init__(self, graph: Graph, on_mismatch: OnMismatch) -> None:
        self.graph = graph
        self.on_mismatch: OnMismatch = on_mismatch
        self.layers: dict[str, Layer] = dict(graph.layers)
        self.nodes: dict[Call, Node] = {}
        self.ask = Asker(graph, self._spec)
        self.rebuilt: set[str] = set()
        self.projections: dict[tuple[Ref, Spec], Ref] = {}
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.unknown: set[Call] = set()  # what a problem leaves unknown: no further problems
        self.broken: set[str] = set()  # nested models with problems

    def run(self) -> Inferred:
        self._nested()
        for node in self.graph.nodes.values():
            self._visit(node)
        self._check_outputs(None, self.graph.output_refs)
        changed = any(self.nodes.get(c) is not n for c, n in self.graph.nodes.items())
        if changed or any(self.layers[n] is not la for n, la in self.graph.layers.items()):
            graph = self.graph.evolve(nodes=self.nodes, layers=self.layers)
        else:
            graph = self.graph
        return Inferred(graph, self.problems, self.notes)

    def _nested(self) -> None:
        for name, layer in self.graph.layers.items():
            if layer.graph is None or not layer.graph.edited:
                continue
            inner = infer(layer.graph, self.on_mismatch)
            self.problems += [
                dataclasses.replace(p, node=f"{name}/{p.node}") for p in inner.problems
            ]
            self.notes += [f"{name}/{note}" for note in inner.notes]
            if inner.problems:
                self.broken.add(name)
            if inner.graph is not layer.graph:
                self.layers[name] = dataclasses.replace(layer, graph=inner.graph)

    def _spec(self, ref: Ref) -> Spec:
        outputs = self.nodes[ref.call].outputs
        assert outputs is not None
        return outputs[ref.output]

    def _current(self, node: Node) -> tuple[Spec, ...]:
        return tuple(self._spec(ref) for ref in node.inputs)

    def _visit(self, node: Node) -> None:
        layer = self.layers[node.call.layer]
        blind = layer.name in self.broken or any(ref.call in self.unknown for ref in node.inputs)
        if blind or not self._check_outputs(node.call, node.inputs):
            self.nodes[node.call] = node
            self.unknown.add(node.call)
            return
        if self.graph.is_input(node.call) or self._is_known(node, layer):
            self.nodes[node.call] = self._with_masks(node)
            return
        try:
            self._complete(node, layer)
        except MisfitError as misfit:
            self._misfit(node, layer, misfit)

    def _check_outputs(self, reader: Call | None, wanted: Sequence[Ref]) -> bool:
        """Reports tensors that are read and that their calls do not return any more."""
        for ref in wanted:
            outputs = self.nodes[ref.call].outputs
            if ref.call not in self.unknown and len(outputs or ()) <= ref.output:
                who = "The model" if reader is None else self.graph.title(reader)
                self.problems.append(
                    Problem(
                        "MultipleOutputsError",
                        self.graph.label(ref.call),
                        f"{who} reads output {ref.output} of {self.graph.title(ref.call)}, "
                        f"which returns {len(outputs or ())} now.",
                        "Put a layer there that returns as many tensors, or remove what reads "
                        "them first.",
                    )
                )
                return False
        return True

    def _with_masks(self, node: Node) -> Node:
        """A call that is known, handing on the mask that its input has now.

        What a layer handed on when it was recorded it still hands on; a mask that it made itself
        is still made.
        """
        if not (node.seen and node.outputs) or node.seen[0].mask == self._current(node)[0].mask:
            return node
        before, now = node.seen[0].mask, self._current(node)[0].mask
        outputs = tuple(s._replace(mask=now) if s.mask == before else s for s in node.outputs)
        if before is None and not getattr(
            self.layers[node.call.layer].op, "supports_masking", False
        ):
            outputs = node.outputs
        return dataclasses.replace(node, outputs=outputs, seen=self._current(node))

    def _is_known(self, node: Node, layer: Layer) -> bool:
        if node.outputs is None:
            return False
        if layer.graph is not None and layer.graph.edited:
            inner = tuple(layer.graph.spec(ref) for ref in layer.graph.output_refs)
            if len(inner) != len(node.outputs) or not _same(inner, node.outputs):
                return False
        return _same(node.seen, self._current(node))

    def _complete(self, node: Node, layer: Layer) -> None:
        """Asks Keras for the outputs of a call, and keeps what it says."""
        current = self._current(node)
        if layer.graph is not None:
            outcome = Outcome(self._nested_outputs(node, layer, layer.graph))
        elif layer.origin in ("new", "reinit"):
            outcome = Outcome(self._made_outputs(node, layer))
        else:
            outcome = self.ask.kept_outputs(node, layer)
        if outcome.skeleton is not None:
            self._keep(layer, outcome.skeleton)
        self.nodes[node.call] = dataclasses.replace(
            node, outputs=outcome.outputs, seen=current, tensors=()
        )

    def _keep(self, layer: Layer, skeleton: Any) -> None:
        """Keeps a layer as it is built for what it is given; all its calls must agree on that."""
        if layer.name in self.rebuilt:
            first = self.layers[layer.name].skeleton
            if variable_specs(first) != variable_specs(skeleton):
                raise MisfitError("another call of it would need weights of other shapes.")
            return
        self.rebuilt.add(layer.name)
        specs = None if layer.change is None else variable_specs(skeleton)
        self.layers[layer.name] = dataclasses.replace(
            layer, origin="rebuilt", skeleton=skeleton, variables=specs
        )

    def _made_outputs(self, node: Node, layer: Layer) -> tuple[Spec, ...]:
        """The outputs of a layer that is not the source's."""
        outputs = self.ask.made_outputs(node, layer, lambda: _template_copy(layer))
        if layer.variables is None:
            specs = variable_specs(self.ask.made[layer.name])
            self.layers[layer.name] = dataclasses.replace(layer, variables=specs)
            if layer.template is not None:
                self._note_carried(layer, specs)
        return outputs

    def _note_carried(self, layer: Layer, specs: tuple[VariableSpec, ...]) -> None:
        held = {(v.name, v.shape) for v in variable_specs(layer.template)}
        left = tuple(v for v in specs if (v.name, v.shape) not in held)
        if specs and not left:
            self.notes.append(
                f"{layer.name} takes over the weights of the {layer.kind} it replaces"
            )
        elif specs:
            self.notes.append(
                f"{layer.name} does not take over {_shapes(left)}: other shapes before"
            )

    def _nested_outputs(self, node: Node, layer: Layer, inner: Graph) -> tuple[Spec, ...]:
        """The outputs of a nested model, its graph run on the specs that it is given now."""
        current = self._current(node)
        wanted = [inner.spec(ref) for ref in inner.input_refs]
        for given, expected in zip(current, wanted, strict=False):
            if not _compatible(given, expected):
                raise MisfitError(f"The nested model takes {expected} and would be given {given}.")
        if all(g.shape == w.shape for g, w in zip(current, wanted, strict=False)):
            return tuple(inner.spec(ref) for ref in inner.output_refs)
        given_nodes = {
            ref.call: dataclasses.replace(inner.nodes[ref.call], outputs=(spec,))
            for ref, spec in zip(inner.input_refs, current, strict=False)
        }
        result = infer(inner.evolve(nodes={**inner.nodes, **given_nodes}), "raise")
        if result.problems:
            raise MisfitError(result.problems[0].reason)
        return tuple(result.graph.spec(ref) for ref in inner.output_refs)

    # What happens to a call that does not fit

    def _misfit(self, node: Node, layer: Layer, why: MisfitError) -> None:
        if layer.origin == "kept" and self.on_mismatch == "adapt" and self._adapt(node, layer):
            return
        ours = layer.origin in ("kept", "rebuilt")
        if ours and self.on_mismatch == "reinit" and self._reinitialise(node, layer):
            return
        self._report(node, layer, why)
        self.nodes[node.call] = node  # go on as if it fitted, to find what else is wrong
        if node.outputs is None:
            self.unknown.add(node.call)

    def _reinitialise(self, node: Node, layer: Layer) -> bool:
        if not isinstance(layer.op, keras.Layer) or not variable_specs(layer.op):
            return False
        if layer.graph is not None or self.ask.strings_changed(node):
            return False
        if layer.change is not None and layer.change.built is not None:
            return False
        try:
            afresh = dataclasses.replace(layer, origin="reinit", variables=None)
            outputs = self.ask.made_outputs(
                node, afresh, lambda: from_config(layer.recipe, layer.name)
            )
            for other in self.graph.calls_of(layer.name):  # its other calls get the new weights
                if other in self.nodes and other != node.call:
                    self._complete(self.nodes[other], afresh)
        except (MisfitError, NotImplementedError, TypeError):
            self.ask.made.pop(layer.name, None)
            return False
        specs = variable_specs(self.ask.made[layer.name])
        self.layers[layer.name] = dataclasses.replace(afresh, variables=specs)
        self.nodes[node.call] = dataclasses.replace(
            node, outputs=outputs, seen=self._current(node), tensors=()
        )
        was, now = _shapes(variable_specs(layer.op)), _shapes(specs)
        self.notes.append(f"{layer.name} starts afresh: its weights {was} become {now}")
        return True

    def _adapt(self, node: Node, layer: Layer) -> bool:
        """Puts a projection on every input that changed, so that all weights stay."""
        mapping: dict[Ref, Ref] = {}
        for ref, before in zip(node.inputs, node.seen, strict=True):
            now = self._spec(ref)
            if now.same_type(before):
                continue
            target = self._project(ref, now, before)
            if target is None:
                return False
            mapping[ref] = target
        adapted = node.substitute(mapping)
        if not mapping or not _same(adapted and self._current(adapted), node.seen):
            return False
        self.nodes[node.call] = adapted
        return True

    def _project(self, ref: Ref, now: Spec, before: Spec) -> Ref | None:
        key = (ref, before)
        if key not in self.projections:
            base = f"{ref.call.layer}_projection"
            name = self.graph.free_name(base, taken=self.layers)
            template = projection(now, before, name)
            if template is None:
                return None
            layer = Layer(name, template, type(template), origin="new")
            self.layers[name] = layer
            self._visit(Node(Call(name), (ref,)))
            self.projections[key] = Ref(Call(name))
            self.notes.append(f"{name} is inserted: it projects {now} to {before}")
        return self.projections[key]

    def _report(self, node: Node, layer: Layer, why: MisfitError) -> None:
        was = ", ".join(map(str, node.seen)) or "?"
        now = ", ".join(map(str, self._current(node)))
        fed = ", ".join(f"'{ref.call.layer}'" for ref in dict.fromkeys(node.inputs))
        label = self.graph.label(node.call)
        if layer.origin == "new":
            reason = f"'{label}' ({layer.kind}) cannot take {now} from {fed}: {why}"
            repair = "Change its configuration, or insert it elsewhere."
        else:
            reason = (
                f"'{label}' ({layer.kind}) was fed {was} and would be fed {now} from {fed}: {why}"
            )
            repair = self._repair(node, isinstance(why, WeightsMisfitError))
        self.problems.append(Problem("ShapeError", label, reason, repair))

    def _repair(self, node: Node, weights_misfit: bool) -> str:
        """What could be done about a misfit; only what has a chance is suggested."""
        if self.on_mismatch != "raise":
            return f'on_mismatch="{self.on_mismatch}" cannot help here: edit what feeds it too.'
        ways = []
        if weights_misfit:
            ways.append('let such layers start afresh with on_mismatch="reinit"')
        changed = [
            (now, before)
            for now, before in zip(self._current(node), node.seen, strict=True)
            if not now.same_type(before)
        ]
        if changed and all(projection(now, before, "projection") for now, before in changed):
            ways.append('have a projection inserted with on_mismatch="adapt"')
        said = ", or ".join(ways) or "edit what feeds it too"
        return f"{said[0].upper()}{said[1:]}."


def _same(one: Sequence[Spec], other: Sequence[Spec]) -> bool:
    return len(one) == len(other) and all(a.same_type(b) for a, b in zip(one, other, strict=True))


def _compatible(given: Spec, expected: Spec) -> bool:
    return len(given.shape) == len(expected.shape) and all(
        a is None or b is None or a == b for a, b in zip(given.shape, expected.shape, strict=True)
    )


def _template_copy(layer: Layer) -> Any:
    from resect.keras_graph.writing import copy_model

    if layer.origin == "reinit":
        return from_config(layer.recipe, layer.name)
    return new_layer(layer, "share", copy_model)


def _shapes(variables: tuple[VariableSpec, ...]) -> str:
    return ", ".join(f"{v.name} {v.shape}" for v in variables)
