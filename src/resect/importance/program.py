"""A graph as a row of steps, those of nested models among them, cut into segments.

Nested models are opened, so that a wire past a block inside of one is a wire like any other. Every
value keeps a `Ref`, whose call is named by the whole path of calls that leads to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from resect.graph import Call, Graph, Ref, Spec, map_refs, refs


@dataclass(frozen=True, eq=False)
class Step:
    """One call of a layer or operation.

    Attributes:
        operation: What is called; `None` where a nested model converts an input.
        args: Positional arguments; every tensor among them is a `Ref`.
        kwargs: Keyword arguments, likewise.
        outputs: The values that it makes.
        spec: What an input is converted to.
    """

    operation: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Ref, ...]
    spec: Spec | None = None

    @cached_property
    def inputs(self) -> tuple[Ref, ...]:
        """Every value that it reads, each once."""
        return tuple(dict.fromkeys(refs(self.args) + refs(dict(self.kwargs))))


@dataclass(frozen=True, eq=False)
class Program:
    """The steps of a model, in the order of its graph.

    Attributes:
        graph: The graph that it was made from.
        steps: The steps.
        inputs: The values that go in, flat.
        outputs: Structure of the values that come out.
        places: Where a tensor of a graph is, by the model that it lies in: once for each call of
            that model.
        specs: What is known of each value.
    """

    graph: Graph
    steps: tuple[Step, ...]
    inputs: tuple[Ref, ...]
    outputs: Any
    places: Mapping[tuple[Any, Ref], tuple[Ref, ...]]
    specs: Mapping[Ref, Spec]

    @cached_property
    def position(self) -> dict[Ref, int]:
        """The number of the step that makes each value; -1 for those that go in."""
        found = dict.fromkeys(self.inputs, -1)
        found.update({ref: i for i, step in enumerate(self.steps) for ref in step.outputs})
        return found

    @cached_property
    def last_read(self) -> dict[Ref, int]:
        """The number of the last step that reads each value; one too many for what comes out."""
        found = {ref: i for i, step in enumerate(self.steps) for ref in step.inputs}
        return found | dict.fromkeys(refs(self.outputs), len(self.steps))

    def found_at(self, path: tuple[str, ...], ref: Ref) -> tuple[Ref, ...]:
        """The values of a tensor of the model at a path, one for each call of that model."""
        return self.places[_model_at(self.graph, path), ref]

    def needed(self, wires: Mapping[Ref, Ref]) -> list[Step]:
        """The steps that are left where some values are replaced by others."""
        waiting = [wires.get(ref, ref) for ref in refs(self.outputs)]
        found: dict[int, Step] = {}
        while waiting:
            position = self.position[waiting.pop()]
            if position >= 0 and position not in found:
                step = found[position] = self.steps[position]
                waiting += [wires.get(ref, ref) for ref in step.inputs]
        return [found[i] for i in sorted(found)]


def _model_at(graph: Graph, path: tuple[str, ...]) -> Any:
    if not path:
        return None
    layer = graph.at(path[:-1]).layers[path[-1]]
    return id(layer.op), layer.part


def program_of(graph: Graph) -> Program:
    """The steps of a graph as it was read."""
    maker = _Maker()
    inputs = tuple(graph.input_refs)
    known = maker.unroll(graph, None, "", dict(zip(inputs, inputs, strict=True)))
    outputs = map_refs(known.__getitem__, graph.outputs)
    places = {key: tuple(found) for key, found in maker.places.items()}
    return Program(graph, tuple(maker.steps), inputs, outputs, places, maker.specs)


@dataclass
class _Maker:
    steps: list[Step] = field(default_factory=list)
    places: dict[tuple[Any, Ref], list[Ref]] = field(default_factory=dict)
    specs: dict[Ref, Spec] = field(default_factory=dict)

    def unroll(self, graph: Graph, model: Any, path: str, known: dict[Ref, Ref]) -> dict[Ref, Ref]:
        """Adds the steps of a graph whose inputs are known; returns where all its tensors are."""
        for call in graph.nodes:
            if not graph.is_input(call):
                self._call(graph, call, path, known)
        for ref, value in known.items():
            self.places.setdefault((model, ref), []).append(value)
            self.specs.setdefault(value, graph.spec(ref))
        return known

    def _call(self, graph: Graph, call: Call, path: str, known: dict[Ref, Ref]) -> None:
        node, layer = graph.nodes[call], graph.layer(call)
        here = Call(f"{path}{call.layer}", call.number)
        args, kwargs = map_refs(known.__getitem__, (node.args, dict(node.kwargs)))
        if layer.graph is None:
            outputs = tuple(Ref(here, ref.output) for ref in graph.refs_of(call))
            self.steps.append(Step(layer.op, args, kwargs, outputs))
            known.update(zip(graph.refs_of(call), outputs, strict=True))
            return
        given = refs(args[:1]) or refs(kwargs)
        read = refs(node.args[:1]) or refs(dict(node.kwargs))
        inside = f"{here.layer}@{here.number}/"
        pairs = zip(layer.graph.input_refs, given, read, strict=True)
        entered = {
            own: self._entered(layer.graph.spec(own), graph.spec(outer), value, inside, own)
            for own, value, outer in pairs
        }
        inner = self.unroll(layer.graph, (id(layer.op), layer.part), inside, entered)
        returned = [inner[ref] for ref in layer.graph.output_refs]
        known.update(zip(graph.refs_of(call), returned, strict=True))

    def _entered(self, wanted: Spec, spec: Spec, value: Ref, path: str, own: Ref) -> Ref:
        """The value as a nested model takes it: of that dtype and rank."""
        if wanted.dtype == spec.dtype and len(wanted.shape) == len(spec.shape):
            return value
        made = Ref(Call(f"{path}{own.call.layer}", own.call.number), own.output)
        self.steps.append(Step(None, (value,), {}, (made,), wanted))
        return made


# Segments


@dataclass(frozen=True, eq=False)
class Segment:
    """Steps that run at once: from some values to others.

    Attributes:
        steps: The steps.
        inputs: The values that it reads.
        outputs: Those of the values that it makes that something needs later.
        kept: All values that something needs after it.
        kept_by_all: Those of them that a model with a bypassed block needs too.
    """

    steps: tuple[Step, ...]
    inputs: tuple[Ref, ...]
    outputs: tuple[Ref, ...]
    kept: frozenset[Ref]
    kept_by_all: frozenset[Ref]


def cut(
    program: Program, ends: Iterable[int], needed: Mapping[Ref, int] | None = None
) -> list[Segment]:
    """The segments of a program.

    Args:
        program: The program.
        ends: Numbers of the steps that a segment ends with.
        needed: Values that are needed later than by the steps that read them, each with the number
            of a step until which it is.
    """
    until = dict(program.last_read)
    for ref, position in (needed or {}).items():
        until[ref] = max(until.get(ref, -1), position)
    last = len(program.steps)
    borders = [-1, *sorted({*ends, last - 1} - {-1})]
    return [
        _segment(program, begin + 1, end + 1, until) for begin, end in itertools.pairwise(borders)
    ]


def _segment(program: Program, begin: int, end: int, until: Mapping[Ref, int]) -> Segment:
    steps = program.steps[begin:end]
    made = [ref for step in steps for ref in step.outputs]
    own = set(made)
    read = dict.fromkeys(ref for step in steps for ref in step.inputs if ref not in own)
    inputs = sorted(read, key=lambda ref: program.position[ref])
    position = program.position
    kept = {ref for ref, last in until.items() if last >= end and position[ref] < end}
    lasting = {ref for ref, last in program.last_read.items() if last >= end} & kept
    outputs = tuple(ref for ref in made if ref in kept)
    return Segment(steps, tuple(inputs), outputs, frozenset(kept), frozenset(lasting))


def bypassed(program: Program, wires: Mapping[Ref, Ref]) -> Segment:
    """All that is left of a program where some values are replaced by others, as one segment."""

    def wired(ref: Ref) -> Ref:
        return wires.get(ref, ref)

    steps = tuple(
        replace(step, args=map_refs(wired, step.args), kwargs=map_refs(wired, dict(step.kwargs)))
        for step in program.needed(wires)
    )
    made = {ref for step in steps for ref in step.outputs}
    outputs = tuple(r for r in dict.fromkeys(map(wired, refs(program.outputs))) if r in made)
    return Segment(steps, program.inputs, outputs, frozenset(), frozenset())


def numbered(segment: Segment) -> tuple[Sequence[Any], dict[Ref, int]]:
    """The wiring of a segment, its values numbered in the order in which they appear."""
    number: dict[Ref, int] = {}

    def of(ref: Ref) -> tuple[str, int]:
        return "value", number.setdefault(ref, len(number))

    for ref in segment.inputs:
        of(ref)
    wiring: list[Any] = [
        (map_refs(of, (step.args, dict(step.kwargs))), tuple(of(ref) for ref in step.outputs))
        for step in segment.steps
    ]
    wiring.append(tuple(of(ref) for ref in segment.outputs))
    return wiring, number
