"""One search: trials in rounds, stage by stage, each written down.

The trials of a round are chosen before any of it is trained, and what has become of them is judged
when all have come as far. So what is tried, and what is stopped, depends on how many trials a round
has, and not on which worker was when done with what: a search on a cluster, and one that was killed
and gone on with, come to the same as one process that does everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np

from resect import check, parallel
from resect.errors import SurgeryError
from resect.plan import Plan
from resect.search.archive import ORIGINAL, Archive, numbers_of
from resect.search.goals import Goals, known_costs
from resect.search.space import variant_key
from resect.search.storage import Record
from resect.search.training import Job, Work
from resect.training.values import Values

#: How many proposals in a row that bring nothing new end a search.
EXHAUSTED = 50


@dataclass(frozen=True)
class Rules:
    """How a search goes.

    Attributes:
        trials: The most variants that are trained.
        at_once: The number of trials of a round.
        sampler: From a seed to one of Optuna's samplers.
        pruner: `None`: no variant is stopped. `"median"`, or one of Optuna's pruners.
        patience: With how many others a variant is compared at least, before it is stopped.
        keep_all: Whether what every variant holds is kept, and not only of those on the front.
    """

    trials: int
    at_once: int
    sampler: Any
    pruner: Any
    patience: int
    keep_all: bool


class Session:
    """One search.

    Args:
        work: How a variant is trained and measured, by whichever process.
        archive: What is known of trials.
        goals: What is sought.
        rules: How it goes.
        executor: Where stages are done.
    """

    def __init__(
        self, work: Work, archive: Archive, goals: Goals, rules: Rules, executor: Executor | None
    ) -> None:
        self.work, self.archive, self.notebook = work, archive, archive.notebook
        self.goals, self.rules, self.executor = goals, rules, executor

    def run(self) -> None:
        """Trains the original, and then variants until there are enough."""
        self._train_original()
        self._settle()
        while numbers := self._round():
            for stage in range(len(self.work.training.ends)):
                self._train(numbers, stage)
                self._judge(numbers, stage)
            self._settle()
            self._forget()
        self._forget()

    def _forget(self) -> None:
        self.archive.forget(None if self.rules.keep_all else self.goals)

    # The original

    def _train_original(self) -> None:
        while not self._original_is_done():
            notes = self.notebook.original
            job = Job(ORIGINAL, (), len(notes.get("curve", ())), self.archive.kept(notes))
            (outcome,) = parallel.run(self.work, [job], executor=self.executor)
            self.archive.note(ORIGINAL, job.stage, outcome.result())
        missing = [n for n in self.goals.names if n not in self.archive.numbers(ORIGINAL)]
        if missing:
            raise SurgeryError(
                f"The objective returned no '{missing[0]}', and the goals name it.",
                f"It returned {', '.join(self.notebook.original['curve'][-1])}.",
            )

    def _original_is_done(self) -> bool:
        notes, stages = self.notebook.original, len(self.work.training.ends)
        done = len(notes.get("curve", ()))
        if 0 < done < stages and self.archive.kept(notes) is None:
            self.notebook.note_original(curve=[])  # its file is gone: once more from the start
        return done == stages

    # Rounds

    def _round(self) -> list[int]:
        """The trials that are to be trained: those that were left, or new ones; none at the end."""
        records = self.notebook.records()
        running = [r for r in records if not r.over and "key" in r.notes]
        for record in records:
            if not record.over and record not in running:
                self.notebook.end(record.number, "left")
        number = max((r.notes.get("round", 0) for r in records), default=0) + (not running)
        mine = [r for r in records if r.notes.get("round") == number and _counts(r)]
        begun = any(record.over or record.curve for record in mine)
        new = [] if begun else self._asked(number, len(mine))
        return [record.number for record in mine if not record.over] + new

    def _asked(self, round_number: int, have: int) -> list[int]:
        """New trials, until the round is full, all are trained, or nothing new is proposed."""
        trained = sum(_counts(record) for record in self.notebook.records())
        wanted = min(self.rules.at_once - have, self.rules.trials - trained)
        found: list[int] = []
        in_vain = 0
        while len(found) < wanted and in_vain < EXHAUSTED:
            trial = self._ask(round_number)
            in_vain = in_vain + 1 if trial is None else 0
            found += [] if trial is None else [trial]
        if not found and wanted > 0 and not trained:
            self._require_some()
        return found

    def _require_some(self) -> None:
        """Raises where nothing was ever proposed but what cannot be made."""
        whys = [record.notes["why"] for record in self.notebook.records() if "why" in record.notes]
        if whys:
            raise SurgeryError(
                f"None of {len(whys)} variants of the space can be made. The first: {whys[0]}",
                "Change the space, or the limits.",
            )

    def _ask(self, round_number: int) -> int | None:
        """One proposal; its number if it is a variant that is to be trained."""
        ordinal = sum(record.kind != "left" for record in self.notebook.records())
        trial = self.notebook.ask(self.rules.sampler, _seed(self.work.seed, ordinal))
        try:
            plan = self.archive.space.plan(trial, self.archive.root)
        except BaseException:
            self.notebook.end(trial.number, "left")
            raise
        sound = not check.problems(plan.steps)
        key = variant_key(plan.result, trial.params) if sound else ""
        same = self._known(key)
        why = "" if same is not None else self._why_not(plan)
        self.archive.remember(trial.number, plan)
        if why:
            self.notebook.note(trial.number, round=round_number, why=why, key="")
            self.notebook.end(trial.number, "refused")
        elif same is not None:
            self.notebook.note(trial.number, round=round_number, same_as=same, key=key)
            self._repeat(trial.number, same)
        else:
            self.notebook.note(trial.number, round=round_number, key=key)
            return trial.number
        return None

    def _why_not(self, plan: Plan) -> str:
        """Why a variant is not trained, in words; `""` if it is."""
        problems = plan.check()
        if problems or not self.goals.limits:
            return str(problems[0]) if problems else ""
        made = self.archive.work.variant(plan.edits, None)
        return self.goals.exceeded(known_costs(self.work.costs(made)))

    def _known(self, key: str) -> int | None:
        """Which trial has that graph already."""
        if not key:
            return None
        if key == self.notebook.original["key"]:
            return ORIGINAL
        for record in self.notebook.records():
            if record.notes.get("key") == key and _counts(record):
                return record.number
        return None

    # Stages

    def _train(self, numbers: Sequence[int], stage: int) -> None:
        """Does a stage of all trials that are to have it and have not."""
        jobs = self._jobs(numbers, stage)
        for outcome in parallel.run(self.work, jobs, executor=self.executor):
            number = outcome.job.trial
            if outcome.failed:
                error = outcome.error
                self.notebook.note(number, why=f"{type(error).__name__}: {error}")
                self.notebook.end(number, "failed")
            else:
                self.archive.note(number, stage, outcome.value)
                first = self.goals.qualities[0]
                self.notebook.report(number, stage, float(outcome.value.numbers[first]))

    def _jobs(self, numbers: Sequence[int], stage: int) -> Iterator[Job]:
        for record in self.archive.records(numbers):
            done = len(record.curve)
            if record.over or done > stage:
                continue
            values = self.archive.kept(record.progress) if done else None
            if stage and values is None:  # its file is gone: once more from the start, here
                values = self._again(record, stage)
            yield Job(record.number, self.archive.edits(record.number), stage, values)

    def _again(self, record: Record, stage: int) -> Values | None:
        """What a trial holds before a stage."""
        values: Values | None = None
        for earlier in range(stage):
            job = Job(record.number, self.archive.edits(record.number), earlier, values)
            values = self.archive.work(job).values
        return values

    def _judge(self, numbers: Sequence[int], stage: int) -> None:
        """Ends those that have come to the end, and those that come to nothing."""
        last = stage + 1 == len(self.work.training.ends)
        there = [
            r for r in self.archive.records(numbers) if not r.over and len(r.curve) == stage + 1
        ]
        for record, (kind, why) in [(record, self._verdict(record, stage)) for record in there]:
            if kind:
                self.notebook.note(record.number, why=why)
                self.notebook.end(record.number, kind)
            elif last:
                numbers_ = numbers_of(record.progress, stage)
                self.notebook.end(record.number, "done", self.goals.values(numbers_))

    def _verdict(self, record: Record, stage: int) -> tuple[str, str]:
        """What becomes of a trial after a stage, other than to go on, and why."""
        mine = numbers_of(record.progress, stage)
        if nan := self.goals.nan(mine):
            return "failed", f"{nan} after stage {stage + 1}"
        if self.rules.pruner is None or stage + 1 == len(self.work.training.ends):
            return "", ""
        if self.rules.pruner != "median":
            stopped = self.notebook.would_stop(self.rules.pruner, record.number)
            return ("stopped", type(self.rules.pruner).__name__) if stopped else ("", "")
        others = [
            numbers_of(other.progress, stage)
            for other in self.notebook.records()
            if other.number != record.number and len(other.curve) > stage
        ]
        others.append(numbers_of(self.notebook.original, stage))
        why = self.goals.poor(mine, others, self.rules.patience)
        return ("stopped", f"after stage {stage + 1}: {why}") if why else ("", "")

    def _settle(self) -> None:
        """Ends those of which it is known how they end: that repeat others, or that a kill left."""
        for record in self.notebook.records():
            if record.over:
                continue
            if "same_as" in record.notes:
                self._repeat(record.number, record.notes["same_as"])
            elif record.kind == "done":
                values = self.goals.values(numbers_of(record.progress))
                self.notebook.end(record.number, "done", values)
            elif record.kind or record.notes.get("key") == "":
                self.notebook.end(record.number, record.kind or "refused")

    def _repeat(self, number: int, same: int) -> None:
        kind = "done" if same == ORIGINAL else self.archive.records([same])[0].kind
        if kind == "done":
            values = self.goals.values(self.archive.numbers(same))
            self.notebook.end(number, "repeated", values)
        elif kind:
            self.notebook.end(number, "repeated")


def _counts(record: Record) -> bool:
    """Whether a trial is a variant that is trained, or was."""
    made = bool(record.notes.get("key")) and "same_as" not in record.notes
    return made and record.kind not in ("refused", "left")


def _seed(*seeds: int) -> int:
    return int(np.random.SeedSequence(seeds).generate_state(1)[0])
