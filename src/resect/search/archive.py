"""What is known of the trials of a search, and the models that they came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from resect.edits import Edit
from resect.errors import SurgeryError
from resect.plan import Plan
from resect.search.goals import Goals, known_costs
from resect.search.space import Space, variant_key
from resect.search.storage import Memory, Notebook, Record, library
from resect.search.training import Stage, Work
from resect.training.measures import Costs
from resect.training.values import Values

#: The number of the original, beside those of the trials.
ORIGINAL = -1


class Archive:
    """What is known of the trials of a search.

    Args:
        work: How a variant is made, from the original in this process.
        space: What may differ.
        notebook: Where trials are kept.
        values: Where what models hold is kept.
    """

    def __init__(self, work: Work, space: Space, notebook: Notebook, values: Memory) -> None:
        self.work, self.space, self.notebook, self.values = work, space, notebook, values
        self.root = Plan(work.model)
        self._plans: dict[int, Plan] = {}

    def records(self, numbers: Sequence[int]) -> list[Record]:
        """Some trials as they are written down."""
        records = {record.number: record for record in self.notebook.records()}
        return [records[number] for number in numbers]

    def progress(self, number: int) -> Mapping[str, Any]:
        """How far a trial has come, or the original."""
        return self.notebook.original if number == ORIGINAL else self.records([number])[0].progress

    def numbers(self, number: int) -> dict[str, float]:
        """What a trial has come to, and what it costs."""
        return numbers_of(self.progress(number))

    def is_done(self, number: int) -> bool:
        """Whether a trial, or the original, was trained to the end."""
        return number == ORIGINAL or self.records([number])[0].kind == "done"

    def edits(self, number: int) -> tuple[Edit, ...]:
        """The edits of a trial."""
        return self.plan(number).edits

    def plan(self, number: int) -> Plan:
        """What a trial does to the original.

        Raises:
            SurgeryError: The space comes to something else now than it did then.
        """
        if number == ORIGINAL:
            return self.root
        if number not in self._plans:
            (record,) = self.records([number])
            self._plans[number] = self._replayed(record)
        return self._plans[number]

    def _replayed(self, record: Record) -> Plan:
        plan = self.space.plan(library().trial.FixedTrial(dict(record.params)), self.root)
        key = record.notes.get("key")
        if key and variant_key(plan.result, record.params) != key:
            raise SurgeryError(
                f"Trial {record.number} comes to another model than when it was made: the space is "
                "not what it was.",
                "Search with the same space, or in another study: study=..., storage=...",
            )
        return plan

    def remember(self, number: int, plan: Plan) -> None:
        """Keeps a plan, so that it need not be made again."""
        self._plans[number] = plan

    def note(self, number: int, stage: int, found: Stage) -> None:
        """Writes down what has become of a trial, or of the original, in a stage."""
        before = self.progress(number)
        name = "original" if number == ORIGINAL else f"{number:05d}"
        file = f"{name}-{stage}"
        progress = {  # one value, so that all of it is written down or nothing
            "curve": [*before.get("curve", ()), dict(found.numbers)],
            "costs": before["costs"] if found.costs is None else asdict(found.costs),
            "seconds": before.get("seconds", 0.0) + found.seconds,
            "file": file,
            "sha256": self.values.keep(file, found.values),
        }
        if number == ORIGINAL:
            self.notebook.note_original(key=variant_key(self.root.result, {}), **progress)
        else:
            self.notebook.note(number, progress=progress)

    # What models hold

    def kept(self, notes: Mapping[str, Any]) -> Values | None:
        """What a model held after the last stage that is written down."""
        return self.values.get(notes["file"], notes["sha256"]) if notes.get("file") else None

    def model(self, number: int) -> Any:
        """A trial's model, as it was trained.

        Raises:
            SurgeryError: What it holds was not kept.
        """
        values = self.kept(self.progress(number))
        if values is None:
            which = "the original" if number == ORIGINAL else f"trial {number}"
            raise SurgeryError(
                f"What {which} came to was not kept, or its file is gone or damaged.",
                'Search with keep="all", which keeps every variant, not only those that no other '
                "one beats; and with a folder for them: values=...",
            )
        return self.work.variant(self.edits(number), values)

    def forget(self, goals: Goals | None) -> None:
        """Lets go of what nobody will ask for: of earlier stages, and of what others beat.

        Args:
            goals: What is sought; `None` where everything is kept.
        """
        over = [r.progress for r in self.notebook.records() if r.kind == "done"]
        every = [self.notebook.original, *over]
        if goals is not None:
            front = set(goals.front([numbers_of(each) for each in every]))
            every = [each for i, each in enumerate(every) if i in front or not i]
        self.values.forget(but={each["file"] for each in every})


def numbers_of(progress: Mapping[str, Any], stage: int = -1) -> dict[str, float]:
    """What a trial had come to after a stage, and what it costs."""
    return {**progress["curve"][stage], **known_costs(costs_from(progress["costs"]))}


def costs_from(entry: Mapping[str, Any]) -> Costs:
    """Costs as they are written down."""
    return Costs(**{**entry, "uncounted": tuple(entry["uncounted"])})
