"""What shrinking goes on for, and what it may cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from resect.errors import SurgeryError
from resect.training.directions import Better, direction_of
from resect.training.measures import Costs, Numbers

_NUMBERS = (int, float, np.integer, np.floating)

COSTS = ("parameters", "multiply_adds", "latency", "latency_seconds")


@dataclass(frozen=True)
class Drop:
    """By how much a metric may get worse.

    Args:
        by: The most, in units of the metric.
        better: Which values of it are better; by default found out from its class.

    Example:

    >>> Drop(0.5, better="higher")
    Drop(by=0.5, better='higher')
    """

    by: float
    better: Better | None = None


@dataclass(frozen=True)
class Goals:
    """A target, made definite for one model.

    Attributes:
        costs: By name, what may be left at most: numbers, and seconds.
        drops: By metric, what may be lost.
        start: Loss and metrics of the original.
    """

    costs: Mapping[str, float]
    drops: Mapping[str, Drop]
    start: Numbers

    def reached(self, costs: Costs) -> bool:
        """Whether all costs are as low as they are to be; never, where none was named."""
        if not self.costs:
            return False
        found = {name: costs.of(name) for name in self.costs}
        return all(v is not None and v <= self.costs[name] for name, v in found.items())

    def broken(self, numbers: Numbers) -> str:
        """Which permitted drop is exceeded, in words; `""` if none is."""
        for name, drop in self.drops.items():
            lost = self.loss_of(name, numbers, drop)
            if not lost <= drop.by + 1e-12:  # neither is NaN
                return f"{name} is worse by {lost:.4g}, permitted {drop.by:g}"
        return ""

    def loss_of(self, name: str, numbers: Numbers, drop: Drop) -> float:
        """By how much a metric is worse than at the start."""
        change = numbers[name] - self.start[name]
        return -change if drop.better == "higher" else change

    def __str__(self) -> str:
        said = [f"{name} at most {most:.6g}" for name, most in self.costs.items()]
        said += [f"{name} worse by at most {drop.by:g}" for name, drop in self.drops.items()]
        return ", ".join(said)


def checked(target: Any) -> dict[str, Any]:
    """A target as it was given, if it means something.

    Raises:
        ValueError: It does not.
    """
    if not isinstance(target, Mapping) or not target:
        raise ValueError(
            f'A target is a mapping such as {{"parameters": 0.6}} or {{"loss": 0.05}}, not '
            f"{target!r}."
        )
    for name, value in target.items():
        number = value.by if isinstance(value, Drop) else value
        if isinstance(number, bool) or not isinstance(number, _NUMBERS) or not number >= 0:
            raise ValueError(f"The target for {name!r} must be a number from 0 on, not {value!r}.")
        if name in COSTS and (isinstance(value, Drop) or number == 0):
            raise ValueError(f"The target for {name!r} must be a number above 0, not {value!r}.")
        if name == "latency" and number >= 1:
            raise ValueError(
                f"The target for 'latency' is a fraction of the original's, not {value!r}: for an "
                "absolute time say 'latency_seconds'."
            )
    return {name: _native(value) for name, value in target.items()}


def _native(value: Any) -> Any:
    """A number as Python's own, which JSON knows."""
    if isinstance(value, Drop):
        return Drop(float(value.by), value.better)
    return value if isinstance(value, int) else float(value)


def goals_of(target: Mapping[str, Any], costs: Costs, numbers: Numbers, model: Any) -> Goals:
    """A target, made definite.

    Args:
        target: As the user gave it.
        costs: Of the original.
        numbers: Loss and metrics of the original; empty where they cannot be measured.
        model: The original.

    Raises:
        SurgeryError: The model has no such cost or metric, or nothing says which values of the
            metric are better.
    """
    most = {name: _most(name, target[name], costs) for name in COSTS if name in target}
    named = {name: value for name, value in target.items() if name not in COSTS}
    drops = {name: _drop(name, value, numbers, model) for name, value in named.items()}
    return Goals(most, drops, numbers)


def _most(name: str, value: float, costs: Costs) -> float:
    if name == "multiply_adds" and costs.uncounted:
        raise SurgeryError(
            f"The multiply-adds of {', '.join(costs.uncounted)} cannot be counted, so nothing says "
            "when the target is reached.",
            "Give its class a rule with resect.cost.register, or set a target for parameters.",
        )
    found = costs.of(name)
    if found is None:
        raise SurgeryError(
            f"The {name} of the model cannot be counted.", "Set a target for its parameters."
        )
    return value * found if value < 1 and name != "latency_seconds" else value


def _drop(name: str, value: Any, numbers: Numbers, model: Any) -> Drop:
    if name not in numbers:
        known = [*COSTS, *numbers]
        why = "" if numbers else " The model is not compiled, or the data has no targets."
        raise SurgeryError(
            f"There is no cost and no metric called '{name}'.{why}",
            f"There are {', '.join(known)}.",
        )
    drop = value if isinstance(value, Drop) else Drop(float(value))
    if drop.better not in ("higher", "lower", None):
        raise ValueError(f'better must be "higher" or "lower", not {drop.better!r}.')
    better = drop.better or direction_of(name, model)
    if better is None:
        raise SurgeryError(
            f"Nothing says whether higher or lower values of '{name}' are better.",
            f'Say it: target={{"{name}": Drop({drop.by:g}, better="higher")}}, after "from '
            'resect.shrink import Drop".',
        )
    return Drop(drop.by, better)
