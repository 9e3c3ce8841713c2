"""What a method hands back, before costs are put beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from resect.cost import profile
from resect.cost.profile import Profile
from resect.errors import EditError
from resect.graph import Graph
from resect.importance.program import Program
from resect.importance.result import Importance, Method, Ranked, Similarity
from resect.importance.statistics import Estimate
from resect.importance.targets import Target


@dataclass(frozen=True)
class Row:
    """The importance of a target, or of several consecutive ones.

    Attributes:
        name: What it is called.
        ends: As of `Ranked`.
        found: The estimate.
        changes: As of `Ranked`.
        targets: What it is the importance of.
    """

    name: str
    ends: tuple[str, str]
    found: Estimate
    changes: Mapping[str, float] = field(default_factory=dict)
    targets: tuple[Target, ...] = ()


@dataclass(frozen=True)
class Measured:
    """What a method found.

    Attributes:
        rows: One for each target.
        sizes: Number of samples of each batch.
        shapes: By input, the shape of one sample.
        baseline: As of `Importance`.
        similarity: As of `Importance`.
        peak_bytes: As of `Importance`.
    """

    rows: Sequence[Row]
    sizes: Sequence[int]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    baseline: Mapping[str, float] = field(default_factory=dict)
    similarity: Similarity | None = None
    peak_bytes: int = 0


def sample_shapes(program: Program, inputs: Sequence[Any]) -> dict[str, tuple[int, ...]]:
    """The shape of one sample, by input."""
    pairs = zip(program.inputs, inputs, strict=True)
    return {ref.call.layer: tuple(array.shape[1:]) for ref, array in pairs if array is not None}


def with_costs(found: Measured, graph: Graph, method: Method) -> Importance:
    """The value that the user gets."""
    costs = _profile(graph, found.shapes)
    return Importance(
        title=f"{graph.kind} '{graph.name}'",
        method=method,
        rows=tuple(_ranked(row, costs) for row in found.rows),
        samples=sum(found.sizes),
        batches=len(found.sizes),
        baseline=dict(found.baseline),
        similarity=found.similarity,
        peak_bytes=found.peak_bytes,
    )


def _profile(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> Profile | None:
    try:
        return profile(graph, dict(shapes) or None)
    except EditError:  # something whose cost cannot be counted
        return None


def _ranked(row: Row, costs: Profile | None) -> Ranked:
    ranked = Ranked(row.name, row.ends, *row.found, row.changes)
    if costs is None:
        return ranked
    calls = tuple(call for target in row.targets for call in target.calls)
    part = [cost for cost in costs if _within(cost.name, calls)]
    return replace(
        ranked,
        parameters=sum(cost.parameters for cost in part),
        multiply_adds=sum(cost.multiply_adds or 0 for cost in part),
    )


def _within(name: str, calls: Sequence[str]) -> bool:
    """Whether a call is one of those, or lies in one; of models called again, all calls are."""
    every = re.sub(r"@\d+/", "/", name)
    return any(
        each == call or each.startswith(f"{call}/") for call in calls for each in (name, every)
    )
