"""Folds a plan's edits over its graph, and finds everything that is wrong with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from resect.edits import Edit
from resect.errors import Problem, SurgeryError
from resect.graph import Call, Graph, Layer
from resect.keras_graph.inferring import infer
from resect.keras_graph.passing import all_passed_on
from resect.keras_graph.state import key_of


@dataclass(frozen=True)
class Step:
    """What one edit of a plan does.

    Attributes:
        edit: The edit.
        before: The graph that it sees.
        after: The graph that it leaves; the same where it cannot be done.
        problems: What is wrong with it.
        notes: What it does that it was not asked in so many words.
        pinned: The edit with its places and its layers spelled out. This is what is done, and what
            is saved: a function that makes layers is called once.
    """

    edit: Edit
    before: Graph
    after: Graph
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    pinned: Edit | None = None


def fold(graph: Graph, edits: Sequence[Edit]) -> tuple[Step, ...]:
    """The steps of a plan: each edit sees the graph that the one before it left.

    An edit that cannot be done is passed over, so that what is wrong with the others is found too.
    """
    steps: list[Step] = []
    for edit in edits:
        step = _step(graph, edit)
        steps.append(step)
        graph = step.after
    if steps and not any(step.problems for step in steps):
        steps[-1] = dataclasses.replace(
            steps[-1], problems=(*_unused_inputs(steps), *_untied(steps), *_torn(steps))
        )
    return tuple(steps)


def problems(steps: Sequence[Step]) -> tuple[Problem, ...]:
    """Every problem of every step."""
    return tuple(problem for step in steps for problem in step.problems)


def _step(graph: Graph, edit: Edit) -> Step:
    try:
        pinned = edit.pinned(graph)
        own = edit.notes(graph)
        inferred = infer(all_passed_on(pinned.apply(graph)), edit.on_mismatch)
    except SurgeryError as error:
        return Step(edit, graph, graph, problems=error.asking(_request(edit)).problems)
    if inferred.problems:
        asked = [dataclasses.replace(p, request=_request(edit)) for p in inferred.problems]
        return Step(edit, graph, graph, problems=tuple(asked), pinned=pinned)
    return Step(edit, graph, inferred.graph, notes=(*own, *inferred.notes), pinned=pinned)


def _request(edit: Edit) -> str:
    return f"Cannot {edit.describe()}."


def _unused_inputs(steps: Sequence[Step]) -> tuple[Problem, ...]:
    """Inputs of the result that nothing uses, unless nothing used them before either."""
    source, result = steps[0].before, steps[-1].after
    found = []
    for ref in result.input_refs:
        if _is_used(result, ref.call) or not _is_used(source, ref.call):
            continue
        label = result.label(ref.call)
        found.append(
            Problem(
                "UnusedInputError",
                label,
                f"Nothing would use the input '{label}' any more.",
                "Keep a layer that reads it, or drop it too: plan.drop_unused_inputs().",
                _request(steps[-1].edit),
            )
        )
    return tuple(found)


def _untied(steps: Sequence[Step]) -> tuple[Problem, ...]:
    """Layers that get variables of their own in the place of some that others use too."""
    layers = {
        (id(layer.op), layer.name): layer
        for _, graph in steps[-1].after.walk()
        for layer in graph.layers.values()
        if layer.graph is None and layer.origin != "new"
    }
    replaced = [(layer, v) for layer in layers.values() for v in _replaced(layer)]
    if not replaced:
        return ()
    gone = {(id(layer.op), id(variable)) for layer, variable in replaced}
    holders = {
        id(variable): layer.name
        for layer in layers.values()
        for variable in getattr(layer.op, "variables", ())
        if (id(layer.op), id(variable)) not in gone
    }
    return tuple(
        Problem(
            "CopyError",
            layer.name,
            f"'{layer.name}' would {'be changed' if layer.change else 'start afresh'}, but "
            f"'{holders[id(variable)]}' uses its {variable.name} too, and they would be untied.",
            "Edit both in the same way, or keep the shape that they are fed.",
            _request(steps[-1].edit),
        )
        for layer, variable in replaced
        if id(variable) in holders
    )


def _torn(steps: Sequence[Step]) -> tuple[Problem, ...]:
    """Changed layers that stand at several depths and would have other weights in each."""
    first: dict[int, Layer] = {}
    found = []
    for path, graph in steps[-1].after.walk():
        for layer in graph.layers.values():
            if layer.change is None or layer.variables is None:
                continue
            other = first.setdefault(id(layer.op), layer)
            if other.variables != layer.variables:
                found.append(
                    Problem(
                        "ShapeError",
                        "/".join([*path, layer.name]),
                        f"'{layer.name}' ({layer.kind}) is called in several models, and would "
                        "need weights of other shapes in each.",
                        "Give it in each of them what has the same shape.",
                        _request(steps[-1].edit),
                    )
                )
    return tuple(found)


def _replaced(layer: Layer) -> list[Any]:
    """The variables of a layer of the source that do not live on in it."""
    variables = getattr(layer.op, "variables", [])
    if layer.origin == "reinit":
        return list(variables)
    values = {} if layer.change is None else layer.change.values
    return [variable for variable in variables if key_of(variable, values) is not None]


def _is_used(graph: Graph, call: Call) -> bool:
    if call not in graph.nodes:
        return True
    outputs = {ref.call for ref in graph.output_refs}
    return call in outputs or bool(graph.consumers(call))
