"""Residual sums: which of the two tensors that are added is the branch, and which the shortcut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import keras

from resect.adapt.calls import model_key
from resect.graph import Call, Graph, Ref
from resect.keras_graph.private import maker_of
from resect.select import Place

_RAW_ADD = type(maker_of(keras.ops.add(keras.KerasTensor((1,)), keras.KerasTensor((1,)))))


class Branch(NamedTuple):
    """The branch of a residual sum.

    Attributes:
        ref: The tensor that the branch ends with.
        fork: The call at which it parts from the shortcut.
        calls: The calls in it.
    """

    ref: Ref
    fork: Call
    calls: frozenset[Call]


class NoBranchError(Exception):
    """A call that is no sum of a branch and a shortcut; says why."""


class AmbiguousBranchError(NoBranchError):
    """A sum of two branches of which neither is the shortcut."""


def is_sum(graph: Graph, call: Call) -> bool:
    """Whether a call adds: an `Add` layer or the operation `+`."""
    return issubclass(graph.layer(call).cls, (keras.layers.Add, _RAW_ADD))


def branch_of(graph: Graph, call: Call) -> Branch:
    """The branch of a residual sum.

    From the last call that both tensors come through, the branch is the way that has more layers
    with weights on it, and if none has, more calls; the other is the shortcut.

    Args:
        graph: The graph of the model that the sum is in.
        call: The sum.

    Raises:
        AmbiguousBranchError: Both ways have as many.
        NoBranchError: It is no sum of two tensors, or they have nothing in common.
    """
    refs = graph.nodes[call].data_inputs
    if not is_sum(graph, call):
        raise NoBranchError("it does not add")
    if len(refs) != 2:
        raise NoBranchError(f"it adds {len(refs)} different tensors, not a branch to a shortcut")
    one, other = (graph.ancestors([ref.call]) for ref in refs)
    fork = _fork(graph, [ref.call for ref in refs], one & other)
    if fork is None:
        raise NoBranchError("what it adds does not come from one tensor")
    work = [_work(graph, ref.call, fork) for ref in refs]
    if work[0] == work[1]:
        labels = " and ".join(f"'{graph.tensor_label(ref)}'" for ref in refs)
        raise AmbiguousBranchError(
            f"{labels} are equally far from '{graph.label(fork)}': either could be the branch"
        )
    branch = refs[0] if work[0] > work[1] else refs[1]
    calls = graph.ancestors([branch.call]) & (graph.descendants([fork]) - {fork})
    return Branch(branch, fork, frozenset(calls))


def leaks(graph: Graph, call: Call, branch: Branch) -> Call | None:
    """A call outside that reads something inside a branch: no residual block has one."""
    for inner in branch.calls:
        for reader in graph.consumers(inner):
            if reader not in branch.calls and reader != call:
                return reader
    return None


def sums(graph: Graph, path: tuple[str, ...] = (), seen: set[int] | None = None) -> Iterator[Place]:
    """All sums in the order in which data flows, those of a nested model where it is first called.

    Args:
        graph: The graph of a model.
        path: Where it is nested.
        seen: The models that have been looked into.
    """
    seen = set() if seen is None else seen
    for call in graph.nodes:
        inner = graph.layer(call).graph
        if is_sum(graph, call):
            yield Place(path, call)
        elif inner is not None and model_key(inner) not in seen:
            seen.add(model_key(inner))
            yield from sums(inner, (*path, call.layer), seen)


def _fork(graph: Graph, ends: list[Call], common: set[Call]) -> Call | None:
    """The last call that every way to both ends comes through; `None` if there is none.

    What only one of the ends needs cannot be on every way, so it is looked for among what both do:
    backwards, until a single call is left that all the rest hangs on.
    """
    order = {call: i for i, call in enumerate(graph.nodes)}
    waiting = dict.fromkeys(ends)
    while waiting:
        last = max(waiting, key=order.__getitem__)
        if len(waiting) == 1 and last in common:
            return last
        waiting.pop(last)
        if graph.is_input(last) or not graph.nodes[last].data_inputs:
            return None  # another way leads to the beginning
        waiting.update(dict.fromkeys(ref.call for ref in graph.nodes[last].data_inputs))
    return None


def _work(graph: Graph, end: Call, fork: Call) -> tuple[int, int]:
    """On the way with the most: the layers with weights, and the calls, between two calls."""
    between = graph.ancestors([end]) & graph.descendants([fork])
    most: dict[Call, tuple[int, int]] = {fork: (0, 0)}
    for call in graph.nodes:
        if call not in between or call == fork:
            continue
        before = [most[r.call] for r in graph.nodes[call].data_inputs if r.call in most]
        weighs, calls = max(before, default=(0, 0))
        most[call] = (weighs + _has_weights(graph, call), calls + 1)
    return most[end]


def _has_weights(graph: Graph, call: Call) -> int:
    layer = graph.layer(call)
    if layer.origin == "new" and layer.variables is not None:
        return int(bool(layer.variables))
    return int(bool(getattr(layer.op, "weights", ())))
