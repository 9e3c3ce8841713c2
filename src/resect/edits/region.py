"""Edits of whole regions: pop, truncate, collapse, the two sides of a cut, append and prepend."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from resect.cut import Cut, find_cut, head_graph, tail_graph
from resect.edits.base import (
    Edit,
    layers_text,
    not_empty,
    quoted,
    same_path,
    single_output,
    spelled,
)
from resect.edits.local import Insert, Remove
from resect.errors import AmbiguousError, CutError, EditError, MergeError
from resect.graph import Call, Graph, Layer, Node, Ref, map_refs, refs
from resect.options import OnMismatch
from resect.select import Place, Where, resolve_one


@dataclass(frozen=True)
class Pop(Edit):
    """Takes the last calls off.

    Args:
        n: How many.
    """

    verb: ClassVar[str] = "pop"
    n: int = 1

    def describe(self) -> str:
        return "pop the last layer" if self.n == 1 else f"pop the last {self.n} layers"

    def pinned(self, graph: Graph) -> Edit:
        return self

    def apply(self, graph: Graph) -> Graph:
        if self.n < 1:
            raise EditError(f"pop takes off at least one layer, not {self.n}.", "Give n=1 or more.")
        for _ in range(self.n):
            last = _only_output(graph, "pop", "remove the one you mean by name")
            graph = self._without(last, graph)
        return graph

    def _without(self, last: Ref, graph: Graph) -> Graph:
        try:
            return Remove(graph.label(last.call)).apply(graph)
        except MergeError as error:
            label = graph.label(last.call)
            raise MergeError(
                error.problem.reason,
                f'Remove it by name, and say which one goes on: remove("{label}", keep=...).',
                label,
            ) from error


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
        last = _only_output(graph, "append to", "insert after the one you mean")
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
        if len(graph.input_refs) != 1:
            names = ", ".join(f"'{graph.label(ref.call)}'" for ref in graph.input_refs)
            raise AmbiguousError(
                f"The model has {len(graph.input_refs)} inputs: {names}.",
                "Insert after the one you mean: insert(model, layer, after=name).",
            )
        first = graph.label(graph.input_refs[0].call)
        return Insert(self.layer, after=first, on_mismatch=self.on_mismatch)

    def pinned(self, graph: Graph) -> Edit:
        return self.insertion(graph).pinned(graph)

    def apply(self, graph: Graph) -> Graph:
        return self.insertion(graph).apply(graph)


@dataclass(frozen=True)
class Collapse(Edit):
    """Turns the region between two calls into a wire.

    Whatever read the output of `end` reads the output of `start`, and what nothing needs any more
    goes. `start` itself stays, `end` goes.

    Args:
        start: A call before the region.
        end: The last call of the region.
        on_mismatch: What happens to layers whose weights do not fit any more.
    """

    verb: ClassVar[str] = "collapse"
    start: Where
    end: Where
    on_mismatch: OnMismatch = "raise"

    def describe(self) -> str:
        return f"collapse {quoted(self.start)} to {quoted(self.end)}"

    def pinned(self, graph: Graph) -> Edit:
        start, end = resolve_one(self.start, graph), resolve_one(self.end, graph)
        ends = (spelled(self.start, start.spelling(graph)), spelled(self.end, end.spelling(graph)))
        return Collapse(*ends, self.on_mismatch)

    def apply(self, graph: Graph) -> Graph:
        start, end = resolve_one(self.start, graph), resolve_one(self.end, graph)
        path = same_path(graph, start, end)
        inner = graph.at(path)
        if start == end or start.call not in inner.ancestors([end.call]):
            raise CutError(
                f"{inner.title(end.call)} does not depend on {inner.title(start.call)}.",
                "Name the earlier place first.",
                end.spelling(graph),
            )
        wire = {
            single_output(inner, end.call, self.end): single_output(inner, start.call, self.start)
        }
        collapsed = not_empty(inner.substitute(wire).pruned().ordered())
        return graph.with_nested(path, collapsed)


@dataclass(frozen=True)
class Head(Edit):
    """The model up to a cut: the first half of `split`.

    Args:
        at: The last call of the head.
    """

    verb: ClassVar[str] = "head"
    at: Where

    def describe(self) -> str:
        return f"split at {quoted(self.at)} and keep the head"

    def pinned(self, graph: Graph) -> Edit:
        return Head(resolve_one(self.at, graph).spelling(graph))

    def apply(self, graph: Graph) -> Graph:
        graph, cut = _cut_after(graph, resolve_one(self.at, graph))
        tail_graph(graph, cut)  # refuses what cannot be put together again
        return head_graph(graph, cut).evolve(name=f"{graph.name}_head")


@dataclass(frozen=True)
class Tail(Edit):
    """The model from a cut on: the second half of `split`.

    Args:
        at: The last call of the head.
    """

    verb: ClassVar[str] = "tail"
    at: Where

    def describe(self) -> str:
        return f"split at {quoted(self.at)} and keep the tail"

    def pinned(self, graph: Graph) -> Edit:
        return Tail(resolve_one(self.at, graph).spelling(graph))

    def apply(self, graph: Graph) -> Graph:
        graph, cut = _cut_after(graph, resolve_one(self.at, graph))
        return tail_graph(graph, cut).evolve(name=f"{graph.name}_tail")


@dataclass(frozen=True)
class Truncate(Edit):
    """The model from one call on, up to another, or both; ends are inclusive.

    Args:
        start: The first call that stays. What it reads becomes an input, and so does every tensor
            from before it that the rest needs.
        end: The last call that stays. Its output is the output of the model; inputs that it does
            not need go.
    """

    verb: ClassVar[str] = "truncate"
    start: Where = None
    end: Where = None

    def __post_init__(self) -> None:
        if self.start is None and self.end is None:
            raise TypeError("truncate needs start, end or both.")

    def describe(self) -> str:
        start = "" if self.start is None else f" from {quoted(self.start)} on"
        end = "" if self.end is None else f" up to {quoted(self.end)}"
        return f"truncate{start}{end}"

    def pinned(self, graph: Graph) -> Edit:
        ends = {
            name: resolve_one(where, graph).spelling(graph)
            for name, where in (("start", self.start), ("end", self.end))
            if where is not None
        }
        return Truncate(**ends)

    def apply(self, graph: Graph) -> Graph:
        start = None if self.start is None else resolve_one(self.start, graph)
        if self.end is not None:
            graph = _ending(graph, resolve_one(self.end, graph))
        if start is None:
            return not_empty(graph)
        if start.path not in [path for path, _ in graph.walk()] or (
            start.call not in graph.at(start.path).nodes
        ):
            raise CutError(
                f"The end does not depend on the start '{start.call.layer}'.",
                "Name the earlier place as start.",
                start.call.layer,
            )
        return _starting(graph, start)


@dataclass(frozen=True)
class DropUnusedInputs(Edit):
    """Drops the inputs that no output needs."""

    verb: ClassVar[str] = "drop_unused_inputs"

    def describe(self) -> str:
        return "drop the inputs that nothing uses"

    def pinned(self, graph: Graph) -> Edit:
        return self

    def apply(self, graph: Graph) -> Graph:
        return _without_unused_inputs(graph)


def _only_output(graph: Graph, what: str, repair: str) -> Ref:
    outputs = set(graph.output_refs)
    if len(outputs) != 1:
        names = ", ".join(f"'{graph.tensor_label(ref)}'" for ref in graph.output_refs)
        raise AmbiguousError(
            f"The model has {len(outputs)} outputs to {what}: {names}.", f"{repair.capitalize()}."
        )
    return outputs.pop()


# Ends


def _ending(graph: Graph, end: Place) -> Graph:
    """The graph up to a call, which may lie in nested models."""
    if end.path:
        inner_place = Place(end.path[1:], end.call)
        owner = _called_once(graph, end.path[0])
        inner = graph.layers[owner.layer].graph
        assert inner is not None
        ended = _without_unused_inputs(_ending(inner, inner_place))
        used = [ref in ended.input_refs for ref in inner.input_refs]
        graph = _with_inputs(graph.with_nested((owner.layer,), ended), owner, used)
        node = graph.nodes[owner]
        outputs = tuple(ended.spec(ref) for ref in ended.output_refs)
        node = dataclasses.replace(node, outputs=outputs, tensors=())
        graph = graph.evolve(nodes={**graph.nodes, owner: node})
        end = Place((), owner)
    ends = graph.refs_of(end.call)
    outputs = ends[0] if len(ends) == 1 else list(ends)
    return _without_unused_inputs(graph.evolve(outputs=outputs).pruned())


def _with_inputs(graph: Graph, owner: Call, used: list[bool]) -> Graph:
    """Calls a nested model with those of its inputs that it still has."""
    if all(used):
        return graph
    node, inner = graph.nodes[owner], graph.layers[owner.layer].graph
    assert inner is not None
    given = [ref for ref, needed in zip(refs(node.args), used, strict=True) if needed]
    by_input = dict(zip(inner.input_refs, given, strict=True))
    args = (map_refs(by_input.__getitem__, inner.inputs),)
    seen = tuple(graph.spec(ref) for ref in given)
    kwargs = {k: v for k, v in node.kwargs.items() if k == "training"}
    node = dataclasses.replace(node, args=args, kwargs=kwargs, seen=seen)
    return graph.evolve(nodes={**graph.nodes, owner: node})


def _without_unused_inputs(graph: Graph) -> Graph:
    """Drops the inputs that no output needs."""
    needed = graph.ancestors(ref.call for ref in graph.output_refs)
    kept = {ref for ref in graph.input_refs if ref.call in needed}
    if len(kept) == len(graph.input_refs):
        return graph
    inputs = _kept(graph.inputs, kept)
    if isinstance(inputs, (list, tuple)) and len(inputs) == 1:
        inputs = inputs[0]
    return graph.evolve(inputs=inputs).pruned()


def _kept(structure: Any, kept: set[Ref]) -> Any:
    if isinstance(structure, Ref):
        return structure if structure in kept else None
    if isinstance(structure, dict):
        items = {key: _kept(item, kept) for key, item in structure.items()}
        return {key: item for key, item in items.items() if item is not None} or None
    items = [item for item in (_kept(item, kept) for item in structure) if item is not None]
    return items or None


# Starts


def _starting(graph: Graph, start: Place) -> Graph:
    """The graph from a call on, which may lie in nested models."""
    graph, call = _front(graph, start)
    if graph.is_input(call):
        return graph
    before = [ref.call for ref in graph.nodes[call].inputs]
    after = graph.descendants([call])
    for ref in graph.output_refs:
        if ref.call not in after:
            raise CutError(
                f"The output '{graph.tensor_label(ref)}' does not depend on '{graph.label(call)}': "
                "it would be cut off from every input.",
                "Split the model instead, which passes such outputs on, or truncate its end too.",
                graph.tensor_label(ref),
            )
    return tail_graph(graph, find_cut(graph, before, [call]))


def _front(graph: Graph, start: Place) -> tuple[Graph, Call]:
    """The call to start at, in a graph where it does not lie in a nested model any more."""
    if not start.path:
        return graph, start.call
    graph, owner, inner = _opened(graph, start)
    inner, call = _front(inner, Place(start.path[1:], start.call))
    before = [ref.call for ref in inner.nodes[call].inputs]
    if inner.is_input(call) or all(inner.is_input(c) for c in before):
        return graph.with_nested((owner.layer,), inner), owner
    graph, _ = _cut_nested(graph, owner, inner, find_cut(inner, before, [call]))
    return graph, Call(f"{owner.layer}_tail")


def _cut_after(graph: Graph, place: Place) -> tuple[Graph, Cut]:
    """The cut right after a call, in a graph where that call is not nested any more."""
    graph, call = _back(graph, place)
    return graph, find_cut(graph, [call], graph.consumers(call))


def _back(graph: Graph, place: Place) -> tuple[Graph, Call]:
    if not place.path:
        return graph, place.call
    graph, owner, inner = _opened(graph, place)
    inner, call = _back(inner, Place(place.path[1:], place.call))
    cut = find_cut(inner, [call], list(inner.consumers(call)))
    if not cut.tail:
        return graph, owner
    return _cut_nested(graph, owner, inner, cut)


def _opened(graph: Graph, place: Place) -> tuple[Graph, Call, Graph]:
    owner = _called_once(graph, place.path[0])
    inner = graph.layers[owner.layer].graph
    assert inner is not None
    return graph, owner, inner


def _called_once(graph: Graph, name: str) -> Call:
    calls = graph.calls_of(name)
    if len(calls) != 1:
        spelled = ", ".join(f"'{graph.label(call)}'" for call in calls)
        raise AmbiguousError(
            f"The nested model '{name}' is called {len(calls)} times ({spelled}): it cannot be cut "
            "in one of them and stay whole in the others.",
            "Cut at one of its calls instead.",
            name,
        )
    return calls[0]


def _cut_nested(graph: Graph, owner: Call, inner: Graph, cut: Cut) -> tuple[Graph, Call]:
    """Replaces the call of a nested model by calls of its two halves.

    Returns:
        The graph and the call of the first half.
    """
    layer, node = graph.layers[owner.layer], graph.nodes[owner]
    head = head_graph(inner, cut)
    tail = tail_graph(inner, cut)
    first = dataclasses.replace(layer, graph=head, part="head")
    name = f"{owner.layer}_tail"
    second = Layer(name, layer.op, layer.cls, graph=tail.evolve(name=name), part="tail")
    head_node = dataclasses.replace(
        node, outputs=tuple(inner.spec(ref) for ref in cut.boundary), tensors=()
    )
    passed = [Ref(owner, i) for i in range(len(cut.boundary))]
    kwargs = {k: v for k, v in node.kwargs.items() if k == "training"}
    call = Call(name)
    tail_node = Node(
        call,
        (passed[0] if len(passed) == 1 else passed,),
        kwargs,
        outputs=node.outputs,
        seen=tuple(inner.spec(ref) for ref in cut.boundary),
    )
    mapping = {ref: Ref(call, ref.output) for ref in graph.refs_of(owner)}
    rewired = graph.substitute(mapping)
    nodes = {**rewired.nodes, owner: head_node, call: tail_node}
    layers = {**rewired.layers, owner.layer: first, name: second}
    outputs = map_refs(lambda r: mapping.get(r, r), graph.outputs)
    return graph.evolve(nodes=nodes, layers=layers, outputs=outputs).ordered(), owner
