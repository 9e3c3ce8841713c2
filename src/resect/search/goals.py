"""What is sought: numbers, which values of each are better, and what a variant may cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resect.errors import SurgeryError
from resect.keras_graph.training import is_compiled
from resect.training.directions import Better, direction_of
from resect.training.measures import Costs, Numbers

#: What a variant costs is known before it is trained.
COSTS = ("parameters", "multiply_adds", "latency")

#: How the number of an objective is called that returns just one.
VALUE = "value"


@dataclass(frozen=True)
class Goals:
    """What is sought.

    Attributes:
        better: By name, which values are better; the first is the one that counts most.
        limits: By name of a cost, the most that it may be.
    """

    better: Mapping[str, Better]
    limits: Mapping[str, float]

    @property
    def names(self) -> tuple[str, ...]:
        """What is sought."""
        return tuple(self.better)

    @property
    def qualities(self) -> tuple[str, ...]:
        """What is known only after training."""
        return tuple(name for name in self.better if name not in COSTS)

    def values(self, numbers: Numbers) -> list[float]:
        """What Optuna is told."""
        return [float(numbers[name]) for name in self.better]

    def cost(self, name: str, numbers: Numbers) -> float:
        """A number, such that less is better, and what is no number is worst."""
        value = float(numbers[name])
        if math.isnan(value):
            return math.inf
        return -value if self.better[name] == "higher" else value

    def exceeded(self, costs: Numbers) -> str:
        """Which limit a variant breaks, in words; `""` if none."""
        for name, most in self.limits.items():
            if not costs[name] <= most:
                return f"{name} {costs[name]:,.6g}, permitted {most:,.6g}"
        return ""

    def nan(self, numbers: Numbers) -> str:
        """Which number is none, in words; `""` if all are."""
        for name in self.better:
            if math.isnan(float(numbers[name])):
                return f"{name} is nan"
        return ""

    def front(self, points: Sequence[Numbers]) -> list[int]:
        """Positions of those that no other one beats: the Pareto front."""
        costs = [[self.cost(name, numbers) for name in self.better] for numbers in points]
        return [
            i
            for i, mine in enumerate(costs)
            if not any(_beats(other, mine) for other in costs) and math.inf not in mine
        ]

    def poor(self, mine: Numbers, others: Sequence[Numbers], enough: int) -> str:
        """Why training a variant is not gone on with, in words; `""` if it is.

        The median rule (Golovin et al., "Google Vizier: a service for black-box optimization",
        2017), among variants that cost no more: where cheapness is sought too, a variant is not
        stopped for being worse than a more expensive one.

        Args:
            mine: What it has come to so far, and what it costs.
            others: What others had come to after the same stage, and cost.
            enough: With how many to compare at least.
        """
        cheap = [name for name in self.better if name in COSTS]
        peers = [o for o in others if all(self.cost(n, o) <= self.cost(n, mine) for n in cheap)]
        if len(peers) < enough:
            return ""
        said = []
        for name in self.qualities:
            median = statistics.median(self.cost(name, peer) for peer in peers)
            if self.cost(name, mine) <= median:
                return ""
            typical = -median if self.better[name] == "higher" else median
            said.append(f"{name} {mine[name]:.4g}, median {typical:.4g}")
        return ", ".join(said)


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return list(one) != list(other) and all(a <= b for a, b in zip(one, other, strict=True))


def goals_of(goals: Any, limits: Any, numbers: Numbers | None, costs: Costs, model: Any) -> Goals:
    """What the user seeks, made definite.

    Args:
        goals: A name, several, or a mapping from names to `"lower"` and `"higher"`; `None`: the
            loss, or what the function returns.
        limits: By cost, the most: below 1 a fraction of the original's.
        numbers: What is measured, of the original; `None` where that is not known yet.
        costs: What the original costs.
        model: The original.

    Raises:
        SurgeryError: There is no such number, or nothing says which values of it are better.
        ValueError: The arguments have no meaning.
    """
    names = [VALUE] if numbers is None else list(numbers)
    known = {**known_costs(costs), **(numbers or {})}
    if goals is None:
        goals = "loss" if "loss" in names else names[0]
    named = [goals] if isinstance(goals, str) else goals
    if not isinstance(named, (Mapping, Sequence)) or not named:
        raise ValueError(
            'goals are names, ("loss", "parameters"), or say which values are better: '
            f'{{"accuracy": "higher", "parameters": "lower"}}; not {goals!r}.'
        )
    given = named if isinstance(named, Mapping) else dict.fromkeys(named)
    for name in given:
        if name not in known and (numbers is not None or name in COSTS):
            raise SurgeryError(_missing(name, costs), f"There are {', '.join([*names, *COSTS])}.")
    better: dict[str, Better] = {
        name: _better(name, how, costs, model) for name, how in given.items()
    }
    if all(name in COSTS for name in better):
        raise ValueError(
            f"Of {', '.join(better)} nothing depends on training: name a metric too, such as "
            f"{names[0]!r}."
        )
    return Goals(better, {name: _most(name, limits[name], known, costs) for name in limits or {}})


def known_costs(costs: Costs) -> dict[str, float]:
    """The costs that are known, by name."""
    found = {name: costs.of(name) for name in COSTS}
    return {name: float(value) for name, value in found.items() if value is not None}


def _better(name: str, how: Any, costs: Costs, model: Any) -> Better:
    if name == "multiply_adds":
        _require_counted(costs)
    if how is None and name in (*COSTS, VALUE):
        how = "lower"
    elif how is None and is_compiled(model):
        how = direction_of(name, model)
    if how is None:
        raise SurgeryError(
            f"Nothing says whether higher or lower values of '{name}' are better.",
            f'Say it: goals={{"{name}": "higher"}}.',
        )
    if how not in ("higher", "lower"):
        raise ValueError(f'{name} is to be "higher" or "lower", not {how!r}.')
    if name in COSTS and how == "higher":
        raise ValueError(f'More {name} cannot be a goal: leave it out, or say "lower".')
    return how


def _missing(name: str, costs: Costs) -> str:
    if name == "latency":
        return "The latency is not measured."
    if name == "multiply_adds" and costs.multiply_adds is None:
        return "The multiply-adds of the model cannot be counted."
    return f"There is no cost and no metric called '{name}'."


def _require_counted(costs: Costs) -> None:
    if costs.uncounted:
        raise SurgeryError(
            f"The multiply-adds of {', '.join(costs.uncounted)} cannot be counted.",
            "Give its class a rule with resect.cost.register, or seek fewer parameters.",
        )


def _most(name: str, value: Any, known: Numbers, costs: Costs) -> float:
    if name not in COSTS[:2]:
        raise ValueError(f"Limits are for {' and '.join(COSTS[:2])}, not for {name!r}.")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ValueError(f"The limit for {name!r} must be a number above 0, not {value!r}.")
    if name not in known:
        raise SurgeryError(_missing(name, costs), "Set a limit for its parameters.")
    if name == "multiply_adds":
        _require_counted(costs)
    return value * known[name] if value < 1 else float(value)
