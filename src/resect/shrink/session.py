"""One request: each slow thing is done once, here or by workers, and written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field
from typing import Any

from resect import parallel
from resect.shrink.goals import Goals
from resect.shrink.journal import Journal
from resect.shrink.paths import Ends, Path, candidates, places, said, still
from resect.shrink.work import Attempt, Candidate, Job, Work
from resect.training.measures import Costs
from resect.training.values import Values, values_of


@dataclass(frozen=True)
class Node:
    """A model on the way: the original, and what has been taken out of it, in order.

    Attributes:
        path: The ends of the blocks that are gone.
        key: Where the journal has its values; `""` for those of the original.
    """

    path: Path = ()
    key: str = ""


@dataclass
class Session:
    """One request.

    Attributes:
        work: What is asked for.
        journal: What has been done.
        executor: Where attempts are made that do not depend on each other.
        goals: The target; known once the original is measured.
    """

    work: Work
    journal: Journal
    executor: Executor | None
    goals: Goals = field(init=False)

    # Models

    def model_at(self, node: Node) -> Any:
        """An independent model, as it was at a node."""
        return self.work.model_at(node.path, self._values(node))

    def _values(self, node: Node) -> Values | None:
        return self.journal.values(node.key) if node.key else None

    def left(self, node: Node, ends: Ends) -> frozenset:
        """What would be left of a model, whatever the order in which the rest went."""
        return places(self.work.plan_of((*node.path, ends)).result)

    def why_not(self, node: Node, ends: Ends) -> str:
        """Why a block cannot be taken out of a model, in words; `""` if it can."""
        problems = self.work.plan_of((*node.path, ends)).check()
        return problems[0].reason if problems else ""

    def still(self, node: Node, ends: Ends) -> Ends | None:
        """The ends of a block of the original after others have gone; `None` if it went too."""
        every = candidates(self.work.plan, self.work.chosen)
        block = next(block for block in every if block.ends == ends)
        return still(self.work.plan_of(node.path), block)

    # What is slow, each done once

    def start(self) -> tuple[Costs, dict[str, float]]:
        """What the original costs, and its loss and metrics."""
        entry = self.journal.recall("original")
        if entry is None:
            costs, numbers = self.work.start()
            entry = {"event": "original", "costs": asdict(costs), "numbers": numbers}
            self.journal.record("original", entry)
        return _costs(entry["costs"]), entry["numbers"]

    def ranking(self, node: Node) -> list[Candidate]:
        """The blocks of a model that could go, the least important first."""
        key = f"ranking {said(node.path)}"
        entry = self.journal.recall(key)
        if entry is None:
            found = self.work.ranked(node.path, self._values(node))
            entry = {"event": "ranking", "blocks": [asdict(each) for each in found]}
            self.journal.record(key, entry)
        rows = [{**row, "ends": tuple(row["ends"])} for row in entry["blocks"]]
        return [Candidate(**row) for row in rows]

    def attempt(self, node: Node, ends: Ends, seed: int = 0, recover: bool = True) -> Attempt:
        """Takes a block out of a model, recovers and measures: a `Job`."""
        key = key_of(node, ends)
        if self.journal.recall(key) is None:
            job = Job(node.path, self._values(node), ends, seed, recover)
            self._record(job, *self.work.attempt(job))
        return self._recalled(key)

    def attempts(self, wanted: Sequence[tuple[Node, Ends, int]]) -> list[Attempt]:
        """Several that do not depend on each other, by all workers.

        Jobs bring all values with them: they do not depend on what a worker has of the original.
        """
        jobs = (
            Job(node.path, self._values(node) or values_of(self.work.model), ends, seed)
            for node, ends, seed in wanted
            if self.journal.recall(key_of(node, ends)) is None
        )
        for outcome in parallel.run(self.work.attempt, jobs, executor=self.executor):
            self._record(outcome.job, *outcome.result())
        return [self._recalled(key_of(node, ends)) for node, ends, _ in wanted]

    def _record(self, job: Job, found: Attempt, values: Values) -> None:
        path = (*job.path, job.ends)
        entry = {"event": "attempt", "path": path, **asdict(found)}
        kept = None if self.goals.broken(found.after) else values
        self.journal.record(f"attempt {said(path)}", entry, kept)

    def _recalled(self, key: str) -> Attempt:
        entry = self.journal.entries[key]
        return Attempt(entry["before"], entry["after"], _costs(entry["costs"]))

    def recovery(self, node: Node) -> tuple[Node, dict[str, float]]:
        """The same model, recovered, and its loss and metrics."""
        key = f"recovery {said(node.path)}"
        entry = self.journal.recall(key)
        if entry is None:
            values, after = self.work.recovery(node.path, self._values(node))
            entry = {"event": "recovery", "after": after}
            self.journal.record(key, entry, values)
        return Node(node.path, key), entry["after"]


def key_of(node: Node, ends: Ends) -> str:
    """Where the journal has an attempt."""
    return f"attempt {said((*node.path, ends))}"


def without(node: Node, ends: Ends) -> Node:
    """The model that an attempt has made."""
    return Node((*node.path, ends), key_of(node, ends))


def _costs(entry: Mapping[str, Any]) -> Costs:
    return Costs(**{**entry, "uncounted": tuple(entry["uncounted"])})
