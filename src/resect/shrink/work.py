"""What is slow: measuring, ranking, cutting and recovering. None of it remembers anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from functools import cached_property
from typing import Any

import numpy as np

from resect.blocks import Block
from resect.importance import Method, importance
from resect.plan import Plan
from resect.select import Place
from resect.shrink.paths import Ends, Path, candidates, longer, spellings
from resect.training.feeding import Data, seeded
from resect.training.measures import Costs, Numbers, Shapes, costs_of, numbers_of
from resect.training.recovery import recovered
from resect.training.values import Values, give, values_of
from resect.verbs import collapse, read


@dataclass(frozen=True)
class Candidate:
    """A block that could go, and what it is worth.

    Attributes:
        name: The block's name.
        ends: What `resect.collapse` takes.
        score: Its importance.
        low: Lower end of the confidence interval.
        high: Upper end.
    """

    name: str
    ends: Ends
    score: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Attempt:
    """What became of a model without one more block.

    Attributes:
        before: Loss and metrics as it was cut.
        after: After recovery; the same where there was none.
        costs: What it costs.
    """

    before: Numbers
    after: Numbers
    costs: Costs


@dataclass(frozen=True)
class Job:
    """A removal to be tried.

    Attributes:
        path: What is gone already.
        values: What the model without that holds; `None` for what the original does.
        ends: The block.
        seed: What tells its training from that of others of that length.
        recover: Whether it recovers.
    """

    path: Path
    values: Values | None
    ends: Ends
    seed: int = 0
    recover: bool = True


@dataclass(frozen=True)
class Work:
    """What is asked for, as far as a worker has to know.

    Attributes:
        model: The original, which is left as it is.
        data: What importance is measured on, and recovery trains on.
        validation: What every step is measured on.
        recover: How models recover.
        method: How importance is measured; `"random"` for none.
        chosen: The calls of each block that may go, as places of the original; `None`: whatever
            is a block.
        seed: What every order and every draw is made from.
        measured: Whether the model has a loss on the validation data.
        latency: Whether time is measured.
        shapes: By input, the shape of a sample.
    """

    model: Any
    data: Data
    validation: Data
    recover: Any
    method: Method | str
    chosen: Sequence[frozenset[Place]] | None
    seed: int
    measured: bool
    latency: bool
    shapes: Shapes

    @cached_property
    def plan(self) -> Plan:
        """The plan that does nothing."""
        return Plan(self.model)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "plan"}

    def plan_of(self, path: Path) -> Plan:
        """The removals of a path, as a plan on the original."""
        return longer(self.plan, path)

    def model_at(self, path: Path, values: Values | None) -> Any:
        """An independent model: the plan, applied to the original, with those values.

        However it was reached, and in which process: nothing else of what recovery did stays.
        """
        new = self.plan_of(path).apply()
        return new if values is None else give(new, values)

    def start(self) -> tuple[Costs, dict[str, float]]:
        """What the original costs, and its loss and metrics."""
        return self._costs(self.model), self._numbers(self.plan.apply())

    def attempt(self, job: Job) -> tuple[Attempt, Values]:
        """Takes a block out of a model, recovers and measures."""
        path = (*job.path, job.ends)
        parent = self.model_at(job.path, job.values)
        spelled = spellings(self.plan_of(job.path).result, read(parent))
        model = collapse(parent, *(spelled[end] for end in job.ends))
        costs, before = self._costs(model), self._numbers(model)
        if not job.recover or self.recover is None:
            return Attempt(before, before, costs), values_of(model)
        values, after = self._recovered(model, path, job.seed)
        return Attempt(before, after, costs), values

    def recovery(self, path: Path, values: Values | None) -> tuple[Values, dict[str, float]]:
        """What a model holds after recovery, and its loss and metrics."""
        model = self.model_at(path, values)
        self._numbers(model)  # builds what the loss needs outside of compiled functions
        return self._recovered(model, path, 0)

    def ranked(self, path: Path, values: Values | None) -> list[Candidate]:
        """The blocks of a model that could go, the least important first."""
        found = candidates(self.plan_of(path), self.chosen)
        if not found:
            return []
        if self.method == "random":
            scores = np.random.default_rng([self.seed, len(path)]).random(len(found))
            rows = [Candidate(b.name, b.ends, float(s)) for b, s in zip(found, scores, strict=True)]
        else:
            rows = self._measured(found, path, values)
        return sorted(rows, key=lambda row: math.inf if row.score != row.score else row.score)

    def _measured(
        self, found: Sequence[Block], path: Path, values: Values | None
    ) -> list[Candidate]:
        """What blocks are worth, in the order of the model."""
        model = self.model_at(path, values)
        spelled = spellings(self.plan_of(path).result, read(model))
        there = [changed(b, start=spelled[b.start], end=spelled[b.end]) for b in found]
        seeded(self.seed, len(path))
        method: Any = self.method
        size = self.data.batch_size
        ranked = importance(model, self.data.given, method, blocks=there, batch_size=size)
        return [
            Candidate(block.name, block.ends, row.score, row.low, row.high)
            for block, row in zip(found, ranked, strict=True)
        ]

    def _recovered(self, model: Any, path: Path, seed: int) -> tuple[Values, dict[str, float]]:
        drawn = seeded(self.seed, len(path), seed)
        values = recovered(self.recover, model, self.model, self.data, drawn)
        if callable(self.recover):  # which may have compiled it in another way
            model = self.model_at(path, values)
        return values, self._numbers(model)

    def _costs(self, model: Any) -> Costs:
        return costs_of(model, self.shapes, self.latency)

    def _numbers(self, model: Any) -> dict[str, float]:
        return numbers_of(model, self.validation, self.measured)
