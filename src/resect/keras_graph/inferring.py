"""Completes an edited graph: the shapes of what changed, and which layers still fit.

Keras itself is asked, on layers that have variables with a shape and no value. What no edit has
touched is taken over as it was recorded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from resect.errors import Problem
from resect.graph import Call, Change, Graph, Layer, Node, Ref, Spec, VariableSpec, map_refs
from resect.keras_graph import private
from resect.keras_graph.copying import Copier
from resect.keras_graph.making import from_config, new_layer
from resect.keras_graph.projecting import projection
from resect.keras_graph.reading import spec_of
from resect.keras_graph.state import variable_specs
from resect.options import OnMismatch

# How messages of Keras begin before they come to the point.
_PREAMBLES = ("Exception encountered", "Arguments", "Could not automatically infer")


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


class _MisfitError(Exception):
    """A call that cannot take its inputs; says why."""


class _WeightsMisfitError(_MisfitError):
    """A call that could take its inputs, had its weights other shapes."""


@dataclass
class _Outcome:
    outputs: tuple[Spec, ...]
    skeleton: Any = None  # the layer as it is built for its new input shape


class _Inference:
    def __init__(self, graph: Graph, on_mismatch: OnMismatch) -> None:
        self.graph = graph
        self.on_mismatch: OnMismatch = on_mismatch
        self.layers: dict[str, Layer] = dict(graph.layers)
        self.nodes: dict[Call, Node] = {}
        self.rebuilt: set[str] = set()
        self.made: dict[str, Any] = {}  # skeletons of new and fresh layers, by name
        self.projections: dict[tuple[Ref, Spec], Ref] = {}
        self.masks: dict[int, Ref] = {}  # masks of symbolic tensors, by identity
        self.kept_alive: list[Any] = []
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
        except _MisfitError as misfit:
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
            outcome = _Outcome(self._nested_outputs(node, layer, layer.graph))
        elif layer.origin in ("new", "reinit"):
            outcome = _Outcome(self._made_outputs(node, layer))
        else:
            outcome = self._kept_outputs(node, layer)
        if outcome.skeleton is not None and layer.name not in self.rebuilt:
            self.rebuilt.add(layer.name)
            specs = None if layer.change is None else variable_specs(outcome.skeleton)
            self.layers[layer.name] = dataclasses.replace(
                layer, origin="rebuilt", skeleton=outcome.skeleton, variables=specs
            )
        self.nodes[node.call] = dataclasses.replace(
            node, outputs=outcome.outputs, seen=current, tensors=()
        )

    # The three ways to ask

    def _arguments(self, node: Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return map_refs(lambda r: self._symbolic(self._spec(r)), (node.args, dict(node.kwargs)))

    def _symbolic(self, spec: Spec) -> Any:
        tensor = keras.KerasTensor(spec.shape, dtype=spec.dtype, sparse=spec.sparse)
        if spec.mask is not None:
            mask = keras.KerasTensor(spec.shape[:2], dtype="bool")
            private.set_keras_mask(tensor, mask)
            if spec.mask is not True:
                self.masks[id(mask)] = spec.mask
                self.kept_alive.append(mask)
        return tensor

    def _specs(self, outputs: Any) -> tuple[Spec, ...]:
        return tuple(spec_of(tensor, self.masks) for tensor in keras.tree.flatten(outputs))

    def _made_outputs(self, node: Node, layer: Layer) -> tuple[Spec, ...]:
        """The outputs of a layer that is not the source's."""
        outputs = self._call_made(layer, lambda: _template_copy(layer), node)
        if layer.variables is None:
            specs = variable_specs(self.made[layer.name])
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

    def _call_made(self, layer: Layer, make: Any, node: Node) -> tuple[Spec, ...]:
        args, kwargs = self._arguments(node)
        with private.uninitialised_variables():
            if layer.name not in self.made:
                self.made[layer.name] = make()
            try:
                with _without_states(self.made[layer.name]):
                    outputs = self._specs(self.made[layer.name](*args, **kwargs))
            except Exception as error:
                raise _MisfitError(_reason(error)) from error
            if len(outputs) > 1 and any(isinstance(arg, (list, tuple)) for arg in args):
                self._check_merges(node, args, kwargs, len(outputs))
            return outputs

    def _check_merges(self, node: Node, args: Any, kwargs: Any, count: int) -> None:
        """Refuses a layer that takes one tensor, where it is given several.

        Some layers answer a list of shapes with a list of shapes, and fail when they run; others
        return the list, and all but its first tensor would be lost.
        """
        layer = self.made[node.call.layer]
        try:
            found = private.compute_output_spec(layer.call, *args, **kwargs)
        except Exception as error:
            raise _MisfitError(f"it takes one tensor. ({_reason(error)})") from error
        if len(keras.tree.flatten(found)) != count:
            raise _MisfitError("it takes one tensor.")
        wanted = {ref.output for ref in self.graph.output_refs if ref.call == node.call}
        wanted |= {i for i in range(count) if self.graph.readers(Ref(node.call, i))}
        if len(wanted) < count:
            raise _MisfitError(f"it returns {count} tensors, and {len(wanted)} would be used.")

    def _kept_outputs(self, node: Node, layer: Layer) -> _Outcome:
        """The outputs of a layer of the source that is given another shape or dtype."""
        if self._strings_changed(node):
            raise _MisfitError("strings and numbers are not the same to it.")
        args, kwargs = self._arguments(node)
        if not isinstance(layer.op, keras.Layer):
            try:
                with private.uninitialised_variables():
                    return _Outcome(
                        self._specs(_shadow(layer.op).compute_output_spec(*args, **kwargs))
                    )
            except Exception as error:
                raise _MisfitError(_reason(error)) from error
        fresh = self._fresh(layer)
        if fresh is None and layer.change is not None:
            raise _MisfitError("it cannot be made anew from its configuration.")
        if fresh is None:
            return self._shadow_outputs(layer, args, kwargs)
        with private.uninitialised_variables():
            try:
                with _without_states(fresh):
                    outputs = self._specs(fresh(*args, **kwargs))
            except Exception as error:
                raise _MisfitError(_reason(error)) from error
        if layer.change is not None:
            self._check_change(layer, layer.change, fresh)
            return _Outcome(outputs, fresh)
        misfit = _misfitting(variable_specs(layer.op), variable_specs(fresh))
        if misfit:
            raise _WeightsMisfitError(misfit)
        same = variable_specs(layer.op) == variable_specs(fresh)
        return _Outcome(outputs, fresh if same else None)

    def _check_change(self, layer: Layer, change: Change, fresh: Any) -> None:
        """Every variable of a changed layer must be accounted for, before and after.

        Raises:
            _MisfitError: One would be lost, or would start afresh unasked; or one that is to get
                another value is quantized, or not the only one of its name.
        """
        for specs in (variable_specs(layer.op), variable_specs(fresh)):
            chosen = [v for v in specs if v.name in change.values]
            if len({v.name for v in chosen}) != len(chosen):
                raise _MisfitError(f"several of its variables are called {chosen[0].name}.")
            for variable in chosen:
                if "float" not in variable.dtype:
                    raise _MisfitError(f"its {variable.name} is quantized ({variable.dtype}).")
        was = [v for v in variable_specs(layer.op) if v.name not in change.values]
        now = [v for v in variable_specs(fresh) if v.name not in change.values]
        if sorted(was) == sorted(now) and (was == now or len(set(was)) == len(was)):
            return
        if misfit := _misfitting(tuple(was), tuple(now)):
            raise _WeightsMisfitError(misfit)
        odd = sorted({v.name for v in {*was} ^ {*now}}) or [v.name for v in was]
        raise _MisfitError(
            f"a layer of its configuration has other variables ({', '.join(odd)}) than it has."
        )

    def _strings_changed(self, node: Node) -> bool:
        """Whether a call gets strings for numbers or numbers for strings, which Keras lets pass."""
        dtypes = zip(self._current(node), node.seen, strict=True)
        return any((now.dtype == "string") != (before.dtype == "string") for now, before in dtypes)

    def _fresh(self, layer: Layer) -> Any:
        """An unbuilt layer of the same configuration; `None` where there is no such thing."""
        with private.uninitialised_variables():
            try:
                return from_config(layer.recipe, layer.name)
            except Exception:  # no usable configuration: a copy of the built layer is asked
                return None

    def _shadow_outputs(self, layer: Layer, args: Any, kwargs: Any) -> _Outcome:
        with private.uninitialised_variables():
            try:
                return _Outcome(self._specs(_shadow(layer.op)(*args, **kwargs)))
            except Exception as error:
                raise _MisfitError(_reason(error)) from error

    def _nested_outputs(self, node: Node, layer: Layer, inner: Graph) -> tuple[Spec, ...]:
        """The outputs of a nested model, its graph run on the specs that it is given now."""
        current = self._current(node)
        wanted = [inner.spec(ref) for ref in inner.input_refs]
        for given, expected in zip(current, wanted, strict=False):
            if not _compatible(given, expected):
                raise _MisfitError(f"The nested model takes {expected} and would be given {given}.")
        if all(g.shape == w.shape for g, w in zip(current, wanted, strict=False)):
            return tuple(inner.spec(ref) for ref in inner.output_refs)
        given_nodes = {
            ref.call: dataclasses.replace(inner.nodes[ref.call], outputs=(spec,))
            for ref, spec in zip(inner.input_refs, current, strict=False)
        }
        result = infer(inner.evolve(nodes={**inner.nodes, **given_nodes}), "raise")
        if result.problems:
            raise _MisfitError(result.problems[0].reason)
        return tuple(result.graph.spec(ref) for ref in inner.output_refs)

    # What happens to a call that does not fit

    def _misfit(self, node: Node, layer: Layer, why: _MisfitError) -> None:
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
        if layer.graph is not None or self._strings_changed(node):
            return False
        try:
            afresh = dataclasses.replace(layer, origin="reinit", variables=None)
            outputs = self._call_made(afresh, lambda: from_config(layer.recipe, layer.name), node)
            for other in self.graph.calls_of(layer.name):  # its other calls get the new weights
                if other in self.nodes and other != node.call:
                    self._complete(self.nodes[other], afresh)
        except (_MisfitError, NotImplementedError, TypeError):
            self.made.pop(layer.name, None)
            return False
        specs = variable_specs(self.made[layer.name])
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

    def _report(self, node: Node, layer: Layer, why: _MisfitError) -> None:
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
            repair = self._repair(node, isinstance(why, _WeightsMisfitError))
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


@contextlib.contextmanager
def _without_states(operation: Any) -> Iterator[None]:
    """Keras cannot make the states of a recurrent layer while variables have no values."""
    parts = operation._flatten_layers() if isinstance(operation, keras.Layer) else ()
    stateful = [part for part in parts if getattr(part, "stateful", False)]
    for part in stateful:
        part.stateful = False
    try:
        yield
    finally:
        for part in stateful:
            part.stateful = True


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


def _shadow(operation: Any) -> Any:
    """A copy around the same variables: calling it leaves no calls on the source."""
    from resect.keras_graph.writing import copy_model

    return Copier("share", copy_model).layer(operation)


def _misfitting(was: tuple[VariableSpec, ...], now: tuple[VariableSpec, ...]) -> str:
    """Says which weights have another shape now; `""` if none has."""
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for variable in was:
        shapes.setdefault(variable.name, []).append(variable.shape)
    for variable in now:
        if variable.shape not in shapes.get(variable.name, [variable.shape]):
            held = " or ".join(map(str, shapes[variable.name]))
            return f"its {variable.name} is {held} and would have to be {variable.shape}."
    return ""


def _shapes(variables: tuple[VariableSpec, ...]) -> str:
    return ", ".join(f"{v.name} {v.shape}" for v in variables)


def _reason(error: BaseException) -> str:
    """The first sentence of what Keras said, without colours and its report of the arguments."""
    text = re.sub(r"\x1b\[\d+m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(_PREAMBLES)]
    said = (kept or lines or [type(error).__name__])[0]
    return said if said.endswith((".", "!", "?")) else f"{said}."
