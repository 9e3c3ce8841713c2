"""One request, and what is done for it: rankings, attempts, models."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from resect.blocks import Block, blocks
from resect.graph import Graph
from resect.importance import Method, importance
from resect.plan import Plan
from resect.select import Place
from resect.shrink.feeding import Data, seeded
from resect.shrink.goals import Goals
from resect.shrink.journal import Journal
from resect.shrink.measures import Costs, Shapes, costs_of, numbers_of
from resect.shrink.recovery import recovered
from resect.shrink.values import Values, give, values_of
from resect.verbs import collapse, read

Ends = tuple[str, str]


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

    before: Mapping[str, float]
    after: Mapping[str, float]
    costs: Costs


@dataclass(frozen=True)
class Node:
    """A model on the way: the original, and what has been taken out of it, in order.

    Attributes:
        path: The ends of the blocks that are gone.
        key: Where the journal has its values; `""` for those of the original.
    """

    path: tuple[Ends, ...] = ()
    key: str = ""


@dataclass
class Session:
    """One request.

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
        journal: What has been done.
        goals: The target; known once the original is measured.
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
    journal: Journal
    goals: Goals = field(init=False)

    @cached_property
    def plan(self) -> Plan:
        """The plan that does nothing."""
        return Plan(self.model)

    def plan_of(self, path: Sequence[Ends]) -> Plan:
        """The removals of a path, as a plan on the original."""
        plan = self.plan
        for ends in path:
            plan = plan.collapse(*ends)
        return plan

    # Models

    def model_at(self, node: Node) -> Any:
        """An independent model: the plan, applied to the original, with the values of the node.

        However it was reached, and in which process: nothing else of what recovery did stays.
        """
        new = self.plan_of(node.path).apply()
        return give(new, self.journal.values(node.key)) if node.key else new

    def left(self, path: Sequence[Ends]) -> frozenset[Place]:
        """The calls that are left of a model, whatever the order in which the others went."""
        return places(self.plan_of(path).result)

    def why_not(self, node: Node, ends: Ends) -> str:
        """Why a block cannot be taken out of a model, in words; `""` if it can."""
        problems = self.plan_of((*node.path, ends)).check()
        return problems[0].reason if problems else ""

    def still(self, node: Node, ends: Ends) -> Ends | None:
        """The ends of a block of the original after others have gone; `None` if it went too."""
        block = next(b for b in candidates(self.plan, self.chosen) if b.ends == ends)
        left = frozenset(block.places) & self.left(node.path)
        there = blocks(self.plan_of(node.path).result).collapsible()
        return next((each.ends for each in there if frozenset(each.places) == left), None)

    # What is slow, each done once

    def start(self) -> tuple[Costs, dict[str, float]]:
        """What the original costs, and its loss and metrics."""
        entry = self.journal.recall("original")
        if entry is None:
            costs, numbers = self._costs(self.model), self._numbers(self.plan.apply())
            entry = {"event": "original", "costs": asdict(costs), "numbers": numbers}
            self.journal.record("original", entry)
        return _costs(entry["costs"]), entry["numbers"]

    def ranking(self, node: Node) -> list[Candidate]:
        """The blocks of a model that could go, the least important first."""
        key = f"ranking {_said(node.path)}"
        entry = self.journal.recall(key)
        if entry is None:
            found = self._ranked(node)
            entry = {"event": "ranking", "blocks": [asdict(each) for each in found]}
            self.journal.record(key, entry)
        rows = [{**row, "ends": tuple(row["ends"])} for row in entry["blocks"]]
        return [Candidate(**row) for row in rows]

    def attempt(self, node: Node, ends: Ends, seed: int = 0, recover: bool = True) -> Attempt:
        """Takes a block out of a model, recovers and measures.

        Args:
            node: The model.
            ends: The block.
            seed: What tells its training from that of others of that length.
            recover: Whether it recovers.
        """
        key = self.key_of(node, ends)
        entry = self.journal.recall(key)
        if entry is None:
            entry, values = self._attempt(node, ends, seed, recover)
            self.journal.record(key, entry, values)
        return Attempt(entry["before"], entry["after"], _costs(entry["costs"]))

    def key_of(self, node: Node, ends: Ends) -> str:
        """Where the journal has an attempt."""
        return f"attempt {_said((*node.path, ends))}"

    def after(self, node: Node, ends: Ends) -> Node:
        """The model that an attempt has made."""
        return Node((*node.path, ends), self.key_of(node, ends))

    def recovery(self, node: Node) -> tuple[Node, dict[str, float]]:
        """The same model, recovered, and its loss and metrics."""
        key = f"recovery {_said(node.path)}"
        entry = self.journal.recall(key)
        if entry is None:
            model = self.model_at(node)
            self._numbers(model)  # builds what the loss needs outside of compiled functions
            values, model = self._recovered(model, node.path, (len(node.path), 0))
            entry = {"event": "recovery", "after": self._numbers(model)}
            self.journal.record(key, entry, values)
        return Node(node.path, key), entry["after"]

    # How

    def _costs(self, model: Any) -> Costs:
        return costs_of(model, self.shapes, self.latency)

    def _numbers(self, model: Any) -> dict[str, float]:
        return numbers_of(model, self.validation, self.measured)

    def _attempt(
        self, node: Node, ends: Ends, seed: int, recover: bool
    ) -> tuple[dict[str, Any], Values | None]:
        path = (*node.path, ends)
        parent = self.model_at(node)
        spelled = spellings(self.plan_of(node.path).result, read(parent))
        model = collapse(parent, *(spelled[end] for end in ends))
        entry: dict[str, Any] = {
            "event": "attempt",
            "path": path,
            "costs": asdict(self._costs(model)),
        }
        entry["before"] = entry["after"] = self._numbers(model)
        if recover and self.recover is not None:
            values, model = self._recovered(model, path, (len(path), seed))
            entry["after"] = self._numbers(model)
        else:
            values = values_of(model)
        return entry, None if self.goals.broken(entry["after"]) else values

    def _recovered(
        self, model: Any, path: Sequence[Ends], seeds: tuple[int, int]
    ) -> tuple[Values, Any]:
        """The values after recovery, and the model: as the original is compiled."""
        seed = seeded(self.seed, *seeds)
        values = recovered(self.recover, model, self.model, self.data, seed)
        if isinstance(self.recover, Callable):
            model = give(self.plan_of(path).apply(), values)
        return values, model

    def _ranked(self, node: Node) -> list[Candidate]:
        plan = self.plan_of(node.path)
        found = candidates(plan, self.chosen)
        if not found:
            return []
        if self.method == "random":
            scores = np.random.default_rng([self.seed, len(node.path)]).random(len(found))
            rows = [Candidate(b.name, b.ends, float(s)) for b, s in zip(found, scores, strict=True)]
        else:
            rows = self._measured(node, found)
        return sorted(rows, key=lambda row: math.inf if row.score != row.score else row.score)

    def _measured(self, node: Node, found: Sequence[Block]) -> list[Candidate]:
        """What blocks are worth, in the order of the model."""
        model = self.model_at(node)
        spelled = spellings(self.plan_of(node.path).result, read(model))
        there = [replace(b, start=spelled[b.start], end=spelled[b.end]) for b in found]
        seeded(self.seed, len(node.path))
        method: Any = self.method
        size = self.data.batch_size
        ranked = importance(model, self.data.given, method, blocks=there, batch_size=size)
        return [
            Candidate(block.name, block.ends, row.score, row.low, row.high)
            for block, row in zip(found, ranked, strict=True)
        ]


def candidates(plan: Plan, chosen: Sequence[frozenset[Place]] | None) -> list[Block]:
    """The blocks that may go from the result of a plan, in the order of the model.

    Args:
        plan: What is gone already.
        chosen: The calls of each block that may, in the original; what is left of it is meant. A
            block that is no longer one is left out.
    """
    every = blocks(plan.result)
    if chosen is None:
        found = list(every.level("block").collapsible())
    else:
        there = places(plan.result)
        left = {calls & there for calls in chosen}
        by_calls = {frozenset(b.places): b for b in every if b.collapsible}
        found = [block for calls, block in by_calls.items() if calls in left]
    return found


def places(graph: Graph) -> frozenset[Place]:
    """Every call of a graph and of the models in it."""
    return frozenset(Place(path, call) for path, inner in graph.walk() for call in inner.nodes)


def spellings(planned: Graph, made: Graph) -> dict[str, str]:
    """How the calls of a planned graph are spelled in the model that was made of it.

    Where calls of a shared layer have gone, those that are left are counted anew there.
    """
    return {
        Place(path, one).spelling(planned): Place(path, other).spelling(made)
        for path, inner in planned.walk()
        for name in inner.layers
        for one, other in zip(inner.calls_of(name), made.at(path).calls_of(name), strict=True)
    }


def _said(path: Sequence[Ends]) -> str:
    return ", ".join(f"{start} -> {end}" for start, end in path)


def _costs(entry: Mapping[str, Any]) -> Costs:
    return Costs(**{**entry, "uncounted": tuple(entry["uncounted"])})
