"""What must hold of every model of the zoo.

Four checks, each of them a series of trials: the model written back as it is, cut at every place,
every residual block collapsed, the head swapped. A trial passes, is refused (resect says why) or
fails.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import keras
import numpy as np

import resect
from resect.check import fold, problems
from resect.cut import bytes_per_sample
from resect.edits import Collapse, Edit, Head, Tail
from resect.errors import SurgeryError, VerificationError, raise_all
from resect.graph import Call, Graph, Ref
from resect.keras_graph.private import maker_of
from resect.keras_graph.snapshots import Snapshot
from resect.select import Place
from zoo.entry import Entry
from zoo.randomise import outputs_of

#: What is tried, and how: calling it returns if the trial passed and raises if not.
Trial = tuple[str, Callable[[], None]]


@dataclass(frozen=True)
class Effort:
    """How much is tried.

    Attributes:
        cuts: At how many cuts the two halves are written and run; the others are checked as graphs.
        blocks: How many collapsed blocks are written and verified; the others are checked as plans.
        reload: Whether the model with the new head is saved and loaded too.
    """

    cuts: int | None = 8
    blocks: int | None = 3
    reload: bool = True


class Case:
    """A model of the zoo, what it was fed and what it returned."""

    def __init__(self, entry: Entry) -> None:
        self.model = entry.make()
        self.graph = resect.read(self.model)
        self.inputs = entry.inputs(self.model)
        self.outputs = outputs_of(self.model, self.inputs)
        self.snapshot = Snapshot.of(self.model)

    def inputs_of(self, graph: Graph) -> Any:
        """The inputs that an edited graph still takes."""
        values = zip(self.graph.input_refs, keras.tree.flatten(self.inputs), strict=True)
        by_name = {ref.call.layer: value for ref, value in values}
        return resect.graph.map_refs(lambda ref: by_name[ref.call.layer], graph.inputs)


@dataclass
class Tally:
    """What came of a check.

    Attributes:
        passed: Number of trials that passed.
        refused: Trials that resect refused: what was tried, and the error in a line.
        failed: Trials that went wrong, likewise.
        unsound: Trials that mean nothing, because a layer of the model is not what it says it is.
    """

    passed: int = 0
    refused: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    unsound: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = (
            (self.passed, "pass"),
            (len(self.refused), "refuse"),
            (len(self.failed), "fail"),
            (len(self.unsound), "n/a"),
        )
        return ", ".join(f"{count} {word}" for count, word in counts if count) or "none"


class UnsoundError(Exception):
    """A layer of the model returns something else than it declares."""


def run(trials: Iterable[Trial]) -> Tally:
    """Runs every trial, whatever became of the others."""
    tally = Tally()
    for name, trial in trials:
        try:
            trial()
        except UnsoundError as error:
            tally.unsound.append(f"{name}: {error}")
        except VerificationError as error:
            tally.failed.append(f"{name}: {_in_a_line(error)}")
        except SurgeryError as error:
            tally.refused.append(f"{name}: {_in_a_line(error)}")
        except Exception as error:
            tally.failed.append(f"{name}: {_in_a_line(error)}")
        else:
            tally.passed += 1
    return tally


def _in_a_line(error: Exception) -> str:
    reason = error.problem.reason if isinstance(error, SurgeryError) else str(error)
    return f"{type(error).__name__}: {next(iter(reason.splitlines()), '')}"


# The model as it is


def unchanged(case: Case, effort: Effort) -> Iterator[Trial]:
    """A plan without edits reproduces the model."""
    yield "no edit", partial(_unchanged, case)


def _unchanged(case: Case) -> None:
    model, copy = case.model, resect.plan(case.model).apply()
    assert type(copy) is type(model), f"a {type(copy).__name__}"
    assert [v.path for v in copy.variables] == [v.path for v in model.variables], "other variables"
    assert _config(copy) == _config(model), "another configuration"
    _assert_equal(outputs_of(copy, case.inputs), case.outputs)
    assert not case.snapshot.changes(), f"the source has changed: {case.snapshot.changes()[0]}"


def _config(model: keras.Model) -> str:
    return json.dumps(keras.saving.serialize_keras_object(model), sort_keys=True, default=str)


# Every cut


def cuts(case: Case, effort: Effort) -> Iterator[Trial]:
    """`tail(head(x))` is what the model computes, wherever it is cut."""
    places = [
        place
        for place in resect.select().find(case.graph)
        if _has_something_behind(case.graph, place)
    ]
    written = set(_spread(places, effort.cuts))
    for place in places:
        at = place.spelling(case.graph)
        yield f"split at {at}", partial(_split if place in written else _cut, case, at)


def _has_something_behind(graph: Graph, place: Place) -> bool:
    """Whether anything, in its model or one around that, reads what the call returns."""
    levels = [
        *((place.path[:i], Call(name)) for i, name in enumerate(place.path)),
        (place.path, place.call),
    ]
    return any(graph.at(path).consumers(call) for path, call in levels)


def _split(case: Case, at: str) -> None:
    _cut(case, at)
    head, tail = resect.split(case.model, at)
    between = outputs_of(head, case.inputs)
    _assert_as_declared(head, between)
    _assert_equal(outputs_of(tail, between), case.outputs)


def _assert_as_declared(model: keras.Model, outputs: Any) -> None:
    for declared, output in zip(model.outputs, keras.tree.flatten(outputs), strict=True):
        sizes = zip(declared.shape, output.shape, strict=False)
        alike = len(declared.shape) == output.ndim and all(a in (None, b) for a, b in sizes)
        if not alike or declared.dtype != str(output.dtype):
            layer = maker_of(declared)
            raise UnsoundError(
                f"{layer.name} declares {declared.shape} {declared.dtype} "
                f"and returns {output.shape} {output.dtype}"
            )


def _cut(case: Case, at: str) -> None:
    graph = case.graph
    head, tail = _edited(graph, Head(at)), _edited(graph, Tail(at))
    _assert_complete(head)
    _assert_complete(tail)
    out = [head.spec(ref) for ref in head.output_refs]
    into = [tail.spec(ref) for ref in tail.input_refs]
    assert len(out) == len(into), f"{len(out)} tensors leave the head, {len(into)} enter the tail"
    assert all(map(type(out[0]).same_type, out, into)), (
        "other tensors enter the tail than leave the head"
    )
    (place,) = resect.select(at).find(graph)
    if place.path:
        return
    calls = {call for call in graph.nodes if not graph.is_input(call)}
    assert graph.ancestors([place.call]) <= head.nodes.keys(), "the head misses a call"
    assert graph.descendants(graph.consumers(place.call)) <= tail.nodes.keys(), (
        "the tail misses a call"
    )
    assert calls <= head.nodes.keys() | tail.nodes.keys(), "a call is in neither half"
    sides = (
        graph.ancestors([place.call]),
        set(graph.nodes) - graph.descendants(graph.consumers(place.call)),
    )
    least = min(_bytes_across(graph, side) for side in sides)
    assert sum(map(bytes_per_sample, out)) <= least, f"{least} bytes would do"


def _bytes_across(graph: Graph, head: set[Call]) -> int:
    """Bytes per sample that cross a cut, for a set of calls as the head."""
    head = head | {ref.call for ref in graph.input_refs}
    read = {ref for call, node in graph.nodes.items() if call not in head for ref in node.inputs}
    crossing = {ref for ref in read | set(graph.output_refs) if ref.call in head}
    return sum(bytes_per_sample(graph.spec(ref)) for ref in crossing)


# Every residual block


def blocks(case: Case, effort: Effort) -> Iterator[Trial]:
    """Every `x + f(x)` becomes `x`."""
    found = list(residual_blocks(case.graph))
    written = set(_spread(found, effort.blocks))
    for start, end in found:
        collapse = Collapse(start.spelling(case.graph), end.spelling(case.graph))
        trial = _collapse if (start, end) in written else _plan_collapse
        yield collapse.describe(), partial(trial, case, collapse)


def residual_blocks(graph: Graph) -> Iterator[tuple[Place, Place]]:
    """Pairs of calls: one returns `x`, the other `x + f(x)` or another merge of the two.

    The merge reads tensors of one shape and returns one of that shape, and each of the others that
    it reads depends on the first.
    """
    seen: set[int] = set()
    for path, nested in graph.walk():
        if id(nested.model) in seen:
            continue
        seen.add(id(nested.model))
        for call, node in nested.nodes.items():
            for ref in _dominating(nested, node.data_inputs, nested.refs_of(call)):
                yield Place(path, ref.call), Place(path, call)


def _dominating(graph: Graph, read: tuple[Ref, ...], returned: tuple[Ref, ...]) -> Iterator[Ref]:
    alike = {graph.spec(ref)[:2] for ref in (*read, *returned)}
    if len(read) < 2 or len(alike) != 1:
        return
    for ref in read:
        others = [other.call for other in read if other != ref]
        single = len(graph.refs_of(ref.call)) == 1
        if single and all(
            ref.call != other and ref.call in graph.ancestors([other]) for other in others
        ):
            yield ref


def _plan_collapse(case: Case, collapse: Collapse) -> None:
    _assert_complete(_edited(case.graph, collapse))


def _collapse(case: Case, collapse: Collapse) -> None:
    plan = resect.plan(case.model).then(collapse)
    new = plan.apply()
    resect.verify(
        case.model, new, plan=plan, inputs=case.inputs_of(plan.result), training=False, reload=False
    )


# The head


def head(case: Case, effort: Effort) -> Iterator[Trial]:
    """The last layer off and a new one on."""
    yield "new head", partial(_new_head, case, effort)


def _new_head(case: Case, effort: Effort) -> None:
    new_head = keras.layers.Dense(3, name="new_head")
    plan = resect.plan(case.model)
    last = case.graph.output_refs[0].call
    if len(case.graph.output_refs) == 1 and len(case.graph.nodes[last].data_inputs) == 1:
        plan = plan.pop()
    else:  # several outputs, or a merge: the model up to what the first of them reads first
        plan = plan.truncate(end=case.graph.label(case.graph.nodes[last].data_inputs[0].call))
    plan = plan.append(new_head)
    new = plan.apply()
    assert new.outputs[0].shape[-1] == 3, f"its output is {new.outputs[0].shape}"
    inputs = case.inputs_of(plan.result)
    verify = partial(resect.verify, case.model, new, plan=plan, inputs=inputs, training=False)
    verify(reload=False)
    if not effort.reload:
        return
    try:
        verify(reload=True)
    except VerificationError:
        if (why := _why_not_reloaded(case.model)) is None:
            raise
        raise UnsoundError(f"Keras does not load a plain model of its layers: {why}") from None


def _why_not_reloaded(model: keras.Model) -> str | None:
    """Why Keras, without resect, cannot save and load the layers of a model in a plain Functional.

    Some of KerasHub's it cannot: their configuration leaves out what only the backbone knows.
    """
    plain = keras.Model(model.input, model.output)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.keras"
        try:
            plain.save(path)
            keras.saving.load_model(path, compile=False, safe_mode=False)
        except Exception as error:  # whatever it is that a get_config gets wrong
            return _in_a_line(error)
    return None


CHECKS: dict[str, Callable[[Case, Effort], Iterator[Trial]]] = {
    "no-op": unchanged,
    "cuts": cuts,
    "blocks": blocks,
    "new head": head,
}


def untouched(case: Case) -> Iterator[Trial]:
    """After all that, the source is what it was."""

    def trial() -> None:
        changes = case.snapshot.changes()
        assert not changes, "; ".join(changes[:3])

    yield "source", trial


# What they share


def _edited(graph: Graph, edit: Edit) -> Graph:
    steps = fold(graph, [edit])
    raise_all(problems(steps))
    return steps[-1].after


def _assert_complete(graph: Graph) -> None:
    """Everything that is read is made before, and its shape is known."""
    for _, nested in graph.walk():
        made: set[Ref] = set()
        for call, node in nested.nodes.items():
            assert made.issuperset(node.inputs), f"{nested.label(call)} reads what is not there"
            assert node.outputs is not None, f"{nested.label(call)} has no shape"
            made.update(nested.refs_of(call))
        assert made.issuperset(nested.output_refs), "an output is not there"


def _assert_equal(found: Any, expected: Any) -> None:
    """Bit-equal, NaNs included."""
    keras.tree.assert_same_structure(found, expected)
    for one, other in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
        assert one.dtype == other.dtype, f"{one.dtype} instead of {other.dtype}"
        assert one.shape == other.shape, f"{one.shape} instead of {other.shape}"
        if one.tobytes() != other.tobytes():
            worst = np.max(np.abs(one.astype("float64") - other.astype("float64")))
            raise AssertionError(f"outputs differ by up to {worst:.2g}")


def _spread(items: list[Any], count: int | None) -> list[Any]:
    """`count` of the items, evenly spaced, the first and the last among them; `None` for all."""
    if count is None or len(items) <= count:
        return items
    return [items[round(i)] for i in np.linspace(0, len(items) - 1, count)]
