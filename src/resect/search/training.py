"""How a variant is trained and measured, stage by stage.

Between two stages nothing lives on but arrays, so that any process can go on with a variant, and a
search that was killed goes on like one that was not. A process that comes to do the next stage of
the variant that it has just trained takes the model that it has: the arrays are the same.
"""

from __future__ import annotations

import inspect
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from resect.edits import Edit
from resect.errors import SurgeryError
from resect.parallel import Shipped
from resect.plan import Plan
from resect.search.goals import VALUE
from resect.training.feeding import Data, seeded
from resect.training.identity import code_of
from resect.training.measures import Costs, Numbers, Shapes, costs_of, numbers_of
from resect.training.recovery import Before, Distill, FineTune, described, recovered, recovery_of
from resect.training.values import Values, give, reseed, values_of

#: A function of the model, and of the number of the stage if it has such an argument.
Objective = Callable[..., Any]


@dataclass(frozen=True)
class Stage:
    """What became of a variant in a stage.

    Attributes:
        numbers: What was measured at its end.
        values: What the model holds.
        costs: What it costs; measured in the first stage.
        seconds: How long it took.
    """

    numbers: Numbers
    values: Values
    costs: Costs | None
    seconds: float


@dataclass(frozen=True)
class Training:
    """Training with what the model is compiled with, measured as `evaluate` does.

    Attributes:
        how: The training; its epochs are those of all stages.
        ends: The number of epochs after each stage.
        data: What it trains on.
        validation: What is measured on.
    """

    how: FineTune | Distill
    ends: tuple[int, ...]
    data: Data
    validation: Data

    def stage(self, model: Any, original: Any, number: int, seed: int) -> tuple[Values, Numbers]:
        before = self.ends[number - 1] if number else 0
        how = replace(self.how, epochs=self.ends[number] - before)
        numbers_of(model, self.validation, True)  # builds the loss outside of compiled functions
        values = recovered(how, model, original, self.data, seed)
        return values, numbers_of(model, self.validation, True)

    def described(self) -> Any:
        return {
            **described(self.how),
            "ends": list(self.ends),
            "data": self.data.description(),
            "validation": self.validation.description(),
            "batch_size": self.data.batch_size,
        }

    def __str__(self) -> str:
        return str(self.how)


@dataclass(frozen=True)
class Custom:
    """A function of the user's.

    Attributes:
        function: Trains a model and returns a number, or several by name.
        ends: One for each stage.
    """

    function: Objective
    ends: tuple[int, ...]

    def stage(self, model: Any, original: Any, number: int, seed: int) -> tuple[Values, Numbers]:
        del original
        reseed(model, seed)
        before = Before.of(model)
        seeded(seed)
        given = {"stage": number} if takes_stage(self.function) else {}
        numbers = _numbers(self.function(model, **given), self.function)
        return before.left(model), numbers

    def described(self) -> Any:
        found = {"kind": described(self.function), "ends": list(self.ends)}
        return {**found, "code": code_of(self.function)}

    def __str__(self) -> str:
        return described(self.function)


def takes_stage(function: Any) -> bool:
    """Whether a function is to be called stage by stage."""
    return "stage" in inspect.signature(function).parameters


def _numbers(found: Any, function: Any) -> dict[str, float]:
    given = found if isinstance(found, Mapping) else {VALUE: found}
    try:
        numbers = {str(name): float(value) for name, value in given.items()}
    except (TypeError, ValueError):
        numbers = {}
    if not numbers:
        raise SurgeryError(
            f"The objective {described(function)} returned {found!r}.",
            "Return a number, or a dict of numbers by name.",
        )
    return numbers


def training_of(
    objective: Any, model: Any, data: Data | None, validation: Data | None, stages: int
) -> Training | Custom:
    """What the user asked for, if it has a meaning.

    Raises:
        ValueError: It is no objective, or the arguments do not go together.
        SurgeryError: The model or the data is not made for it.
    """
    if isinstance(objective, (FineTune, Distill)) or objective in ("fit", "distill"):
        if data is None:
            raise ValueError(f"objective={objective!r} trains: say on what, data=(x, y).")
        how = recovery_of(objective, model, data, "objective")
        assert isinstance(how, (FineTune, Distill))
        return Training(how, ends_of(how.epochs, stages), data, validation or data)
    if isinstance(objective, (str, type)) or not callable(objective):
        raise ValueError(
            'objective must be "fit", "distill", FineTune(...), Distill(...) or a function of a '
            f"model that trains it and returns a number, not {objective!r}."
        )
    if data is not None or validation is not None:
        raise ValueError("A function that is the objective has its own data: leave out the rest.")
    count = stages if takes_stage(objective) else 1
    return Custom(objective, tuple(range(1, count + 1)))


def ends_of(epochs: int, stages: int) -> tuple[int, ...]:
    """The number of epochs after each stage: about three times those after the one before.

    Example:

    >>> ends_of(10, 3), ends_of(2, 3)
    ((1, 3, 10), (1, 2))
    """
    return tuple(sorted({max(1, epochs // 3**number) for number in range(stages)}))


@dataclass(frozen=True)
class Job:
    """A stage of a variant.

    Attributes:
        trial: The number of the trial.
        edits: What is changed in the original.
        stage: The number of the stage, from 0.
        values: What the model holds after the stage before; `None` before the first.
    """

    trial: int
    edits: tuple[Edit, ...]
    stage: int
    values: Values | None


@dataclass(frozen=True)
class Work:
    """What is done with every variant.

    Attributes:
        original: The original: a model, or a `Shipped` one.
        training: How it is trained and measured.
        seed: What every draw is made from: the same for all variants, so that they differ in
            nothing but what was changed.
        shapes: By input, the shape of a sample; empty where only the model says.
        latency: Whether time is measured.
        token: What no other search has.
    """

    original: Any
    training: Training | Custom
    seed: int
    shapes: Shapes
    latency: bool
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def model(self) -> Any:
        """The original, in this process."""
        return self.original.model() if isinstance(self.original, Shipped) else self.original

    def __call__(self, job: Job) -> Stage:
        """Does a stage."""
        begin = time.perf_counter()
        model = self._going_on(job)
        costs = None if job.stage else self.costs(model)
        original = self.model  # which may have to be loaded first, and that draws numbers
        drawn = seeded(self.seed, job.stage + 1)
        values, numbers = self.training.stage(model, original, job.stage, drawn)
        if isinstance(self.training, Training) and job.stage + 1 < len(self.training.ends):
            _alive[:] = [((self.token, job.trial, job.stage), model)]
        return Stage(numbers, values, costs, time.perf_counter() - begin)

    def variant(self, edits: tuple[Edit, ...], values: Values | None) -> Any:
        """A variant, with those values."""
        plan = Plan(self.model, edits)
        seeded(self.seed, 0)  # new layers begin alike in every variant, and in every process
        model = plan.apply()
        if values is None:
            return model
        # Keras counts names up: what is new may have been called otherwise where it was trained.
        return give(model, replace(values, paths=values_of(model).paths))

    def costs(self, model: Any) -> Costs:
        """What a variant costs."""
        return costs_of(model, self.shapes, self.latency)

    def _going_on(self, job: Job) -> Any:
        kept = _alive.pop() if _alive else (None, None)
        if kept[0] == (self.token, job.trial, job.stage - 1):
            return kept[1]
        return self.variant(job.edits, job.values)


#: The variant that this process has trained last, if it is to be gone on with.
_alive: list[tuple[tuple[str, int, int], Any]] = []
