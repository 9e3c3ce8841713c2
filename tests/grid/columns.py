"""The columns of the grid: every edit, made at or next to a place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras

import resect
from resect.graph import Call, Graph, Spec
from resect.select import Place

Build = Callable[[resect.Plan, str], resect.Plan]


@dataclass(frozen=True)
class Column:
    """An edit.

    Attributes:
        name: How tests and tables call it.
        build: Adds the edit to a plan, given the address of a place.
        weights: `"copy"` or `"share"`.
        thorough: Whether the result runs in training mode too, and is saved and loaded. That takes
            most of the time, so it is done for one edit of each sort.
    """

    name: str
    build: Build
    weights: str = "copy"
    thorough: bool = False


COLUMNS: dict[str, Column] = {}


def _column(
    name: str, *, weights: str = "copy", thorough: bool = False
) -> Callable[[Build], Build]:
    def register(build: Build) -> Build:
        COLUMNS[name] = Column(name, build, weights, thorough)
        return build

    return register


@_column("clone", thorough=True)
def _clone(plan: resect.Plan, at: str) -> resect.Plan:
    return plan


@_column("clone share", weights="share")
def _clone_share(plan: resect.Plan, at: str) -> resect.Plan:
    return plan


@_column("pop")
def _pop(plan: resect.Plan, at: str) -> resect.Plan:
    return plan.pop()


@_column("remove", thorough=True)
def _remove(plan: resect.Plan, at: str) -> resect.Plan:
    return plan.remove(at, keep=_kept_input(plan, at))


@_column("remove reinit")
def _remove_reinit(plan: resect.Plan, at: str) -> resect.Plan:
    return plan.remove(at, keep=_kept_input(plan, at), on_mismatch="reinit")


@_column("remove adapt")
def _remove_adapt(plan: resect.Plan, at: str) -> resect.Plan:
    return plan.remove(at, keep=_kept_input(plan, at), on_mismatch="adapt")


@_column("truncate start")
def _truncate_start(plan: resect.Plan, at: str) -> resect.Plan:
    return plan.truncate(start=at)


@_column("truncate end", thorough=True)
def _truncate_end(plan: resect.Plan, at: str) -> resect.Plan:
    return plan.truncate(end=at)


@_column("split: head")
def _head(plan: resect.Plan, at: str) -> resect.Plan:
    return plan.head(at)


@_column("split: tail", thorough=True)
def _tail(plan: resect.Plan, at: str) -> resect.Plan:
    return plan.tail(at)


@_column("insert after", thorough=True)
def _insert_after(plan: resect.Plan, at: str) -> resect.Plan:
    return plan.insert(inserted, after=at)


@_column("insert before")
def _insert_before(plan: resect.Plan, at: str) -> resect.Plan:
    return plan.insert(inserted, before=at)


@_column("insert between")
def _insert_between(plan: resect.Plan, at: str) -> resect.Plan:
    place, graph = _found(plan, at)
    first = graph.nodes[place.call].data_inputs[0]
    named = "/".join([*place.path, graph.tensor_label(first)])
    return plan.insert(inserted, between=(named, at))


@_column("replace", thorough=True)
def _replace(plan: resect.Plan, at: str) -> resect.Plan:
    place, graph = _found(plan, at)
    return plan.replace(at, _another(graph, place.call))


@_column("replace by the same class")
def _replace_same(plan: resect.Plan, at: str) -> resect.Plan:
    return plan.replace(at, _same)


@_column("append")
def _append(plan: resect.Plan, at: str) -> resect.Plan:
    return plan.append(inserted)


@_column("prepend")
def _prepend(plan: resect.Plan, at: str) -> resect.Plan:
    return plan.prepend(inserted)


@_column("collapse", thorough=True)
def _collapse(plan: resect.Plan, at: str) -> resect.Plan:
    place, graph = _found(plan, at)
    start, end = _region(graph, place.call)
    return plan.collapse(_spelled(plan, place, start), _spelled(plan, place, end))


@_column("rename")
def _rename(plan: resect.Plan, at: str) -> resect.Plan:
    return plan.rename({at: "renamed"})


# Layers to put in


def inserted(site: resect.Site) -> Any:
    """A layer with weights where there are features to mix, the identity elsewhere."""
    if "float" not in site.dtype or len(site.shape) < 2 or site.shape[-1] is None:
        return keras.layers.Identity(name="inserted")
    return keras.layers.Dense(site.shape[-1], dtype=_policy(site.dtype), name="inserted")


def _same(old: Any) -> Any:
    """A fresh layer of the same configuration; the old one, to be copied, if that is no use.

    A fresh lookup has no vocabulary.
    """
    try:
        return old if hasattr(old, "get_vocabulary") else type(old).from_config(old.get_config())
    except (NotImplementedError, TypeError, ValueError):
        return old


def _another(graph: Graph, call: Call) -> Any:
    """Something of another class that returns a tensor of the same shape.

    Merges become another merge. Where there are several outputs, or no numbers, only a layer of
    the same class will do.
    """
    node = graph.nodes[call]
    inputs, outputs = [graph.spec(ref) for ref in node.inputs], node.outputs or ()
    out = outputs[0]
    known = None not in out.shape[1:] and all(None not in spec.shape[1:] for spec in inputs)
    if len(outputs) != 1 or "float" not in out.dtype:
        return _same
    if len(inputs) > 1:
        merges = len(node.args) == 1 and isinstance(node.args[0], list)
        equal = all(spec.same_type(out) for spec in inputs)
        return keras.layers.Average(name="replacement") if merges and equal else _same
    if inputs[0].same_type(out):
        return keras.layers.Activation("tanh", dtype=_policy(out.dtype), name="replacement")
    if not known or "float" not in inputs[0].dtype:
        return _same
    policy = _policy(out.dtype)
    return [
        keras.layers.Flatten(dtype=policy, name="replacement_flatten"),
        keras.layers.Dense(math.prod(out.shape[1:]), dtype=policy, name="replacement_dense"),
        keras.layers.Reshape(out.shape[1:], dtype=policy, name="replacement"),
    ]


def _policy(dtype: str) -> str:
    return f"mixed_{dtype}" if dtype in ("float16", "bfloat16") else dtype


# Places


def _found(plan: resect.Plan, at: str) -> tuple[Place, Graph]:
    place = plan.places(at)[0]
    return place, plan.source.at(place.path)


def _spelled(plan: resect.Plan, beside: Place, call: Call) -> str:
    return Place(beside.path, call).spelling(plan.source)


def _kept_input(plan: resect.Plan, at: str) -> str | None:
    """Of a call with several inputs, the last that has the shape of the output."""
    place, graph = _found(plan, at)
    node = graph.nodes[place.call]
    if len(node.data_inputs) < 2:
        return None
    alike = [ref for ref in node.data_inputs if graph.spec(ref).same_type((node.outputs or ())[0])]
    return graph.tensor_label((alike or node.data_inputs)[-1])


def _region(graph: Graph, call: Call) -> tuple[Call, Call]:
    """The smallest region around a call whose two ends have one shape; the call alone if none."""
    order = {each: position for position, each in enumerate(graph.nodes)}
    regions = sorted(_regions(graph, call), key=lambda ends: order[ends[1]] - order[ends[0]])
    return regions[0] if regions else (graph.nodes[call].inputs[0].call, call)


def _regions(graph: Graph, call: Call) -> Iterator[tuple[Call, Call]]:
    starts = [each for each in graph.ancestors([call]) if each != call and _one_output(graph, each)]
    for end in graph.descendants([call]):
        spec = _one_output(graph, end)
        if spec is not None:
            yield from (
                (start, end)
                for start in starts
                if spec.same_type(graph.nodes[start].outputs[0])  # type: ignore[index]
            )


def _one_output(graph: Graph, call: Call) -> Spec | None:
    outputs = graph.nodes[call].outputs or ()
    return outputs[0] if len(outputs) == 1 else None
