"""What a model is worth and what it costs, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from resect.cost import profile
from resect.errors import EditError, SurgeryError
from resect.importance.data import batches, flat_inputs
from resect.keras_graph.scoring import why_not_scored
from resect.keras_graph.training import is_compiled
from resect.training.feeding import Data, plainly
from resect.verbs import read

Numbers = Mapping[str, float]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Costs:
    """What a model costs.

    Attributes:
        parameters: Number of weights.
        multiply_adds: Of one sample; `None` where they cannot be counted.
        latency: Seconds of one prediction; `None` where it is not measured.
        uncounted: The calls whose multiply-adds nobody counts.
    """

    parameters: int
    multiply_adds: int | None
    latency: float | None = None
    uncounted: tuple[str, ...] = ()

    def of(self, name: str) -> float | None:
        """The cost of that name."""
        return getattr(self, name.removesuffix("_seconds"))


def costs_of(model: Any, shapes: Shapes, latency: bool) -> Costs:
    """What a model costs.

    Args:
        model: The model.
        shapes: By input, the shape of one sample.
        latency: Whether to measure the time.
    """
    try:
        found = profile(model, dict(shapes) or None, latency=latency)
    except EditError:  # something whose shape is not known
        if latency:
            raise
        return Costs(int(model.count_params()), None)
    time = None if found.latency is None else found.latency.median
    return Costs(found.parameters, found.multiply_adds, time, found.uncounted)


def shapes_in(model: Any, data: Any, batch_size: int) -> dict[str, tuple[int, ...]]:
    """By input, the shape of one sample.

    Raises:
        SurgeryError: The data is none, or does not fit the model.
    """
    graph = read(model)
    first = next(batches(data, batch_size))
    pairs = zip(graph.input_refs, flat_inputs(graph, first.x), strict=True)
    return {ref.call.layer: tuple(array.shape[1:]) for ref, array in pairs if array is not None}


def why_not_measured(model: Any, data: Any, batch_size: int) -> tuple[str, str] | None:
    """Why a model has no loss and no metrics on data, and what to do; `None` if it has."""
    why = why_not_scored(model)
    if why is not None:
        return why
    if model.loss is not None and next(batches(data, batch_size)).y is None:
        return "The data has no targets, so there is no loss.", "Give the data as (x, y)."
    return None


def is_measured(model: Any, data: Any, batch_size: int) -> bool:
    """Whether a model has a loss on data."""
    return is_compiled(model) and why_not_measured(model, data, batch_size) is None


def numbers_of(model: Any, data: Data, measured: bool) -> dict[str, float]:
    """Loss and metrics of a model, as `evaluate` says them; none where it has none.

    Raises:
        SurgeryError: A metric is not one number.
    """
    if not measured:
        return {}
    found = plainly(model, "evaluate")(data.feed(), verbose=0, return_dict=True)
    for name, value in found.items():
        if np.ndim(value):
            raise SurgeryError(
                f"The metric '{name}' gives {np.size(value)} numbers, and one is needed to tell "
                "which model is better.",
                'Have it give their mean, as with F1Score(average="macro"), or leave it out.',
            )
    return {name: float(value) for name, value in found.items()}
