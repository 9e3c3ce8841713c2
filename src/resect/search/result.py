"""What a search came to, as a value, and how it prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, overload

from rich.table import Table

from resect.cost.profile import short
from resect.errors import SurgeryError
from resect.plan import Plan
from resect.search.goals import Goals
from resect.text import rendered
from resect.training.directions import Better
from resect.training.files import without_nan

Kind = Literal["done", "stopped", "repeated", "refused", "failed", "left"]
_KINDS: Mapping[str, str] = {
    "done": "trained to the end",
    "stopped": "stopped early",
    "failed": "failed",
    "repeated": "repeated, and not trained again",
    "refused": "refused before training",
    "left": "left",
}
_SHOWN = 12


@dataclass(frozen=True)
class Trial:
    """A variant that was tried; the original stands beside them as number −1.

    Attributes:
        number: Its number in Optuna's study.
        kind: What became of it: `"done"`; `"stopped"` early; `"failed"` in training; `"repeated"`,
            for it is the same graph as `same_as`; `"refused"`, for it cannot be made or breaks a
            limit; `"left"`, as a kill left it, and chosen anew.
        params: What it chose.
        numbers: What it came to in the end, and what it costs; empty where it did not get there.
        curve: What was measured after each stage.
        same_as: The trial whose graph it repeats.
        why: Why it was stopped, refused or failed.
        seconds: How long it was trained and measured.
    """

    number: int
    kind: Kind
    params: Mapping[str, Any]
    numbers: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[Mapping[str, float], ...] = ()
    same_as: int | None = None
    why: str = ""
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """`"original"`, or its number."""
        return "original" if self.number < 0 else str(self.number)

    def record(self) -> dict[str, Any]:
        """All of it as a flat dict."""
        found = asdict(self)
        numbers, params = found.pop("numbers"), found.pop("params")
        return {**found, **numbers, **{f"choice {name}": value for name, value in params.items()}}


@dataclass(frozen=True, eq=False)
class Trials(Sequence[Trial]):
    """Every variant that was tried. Print it: it is a table of the best.

    Attributes:
        title: Kind and name of the original.
        objective: How variants were trained and measured.
        better: By goal, which values are better; the first is the one that counts most.
        original: The original, trained and measured as the variants are.
        before: What the original measures as it was given; empty where a function is the objective.
        trials: The variants, in the order in which they were chosen.
        study: Optuna's study, for its own tools.
    """

    title: str
    objective: str
    better: Mapping[str, Better]
    original: Trial
    before: Mapping[str, float]
    trials: tuple[Trial, ...]
    study: Any = field(repr=False)
    make: Callable[[int], Any] = field(repr=False)
    planned: Callable[[int], Plan] = field(repr=False)

    @property
    def done(self) -> tuple[Trial, ...]:
        """The original, and the variants that were trained to the end."""
        return (self.original, *(trial for trial in self.trials if trial.kind == "done"))

    @property
    def front(self) -> tuple[Trial, ...]:
        """Those that no other one beats in all goals (Pareto), the best in the first goal first."""
        goals, done = Goals(self.better, {}), self.done
        found = [done[i] for i in goals.front([trial.numbers for trial in done])]
        return tuple(
            sorted(found, key=lambda trial: goals.cost(next(iter(self.better)), trial.numbers))
        )

    def best(self, goal: str | None = None) -> Trial:
        """The best in one goal, the original among them; of equal ones the smallest.

        Args:
            goal: Which; by default the first.

        Raises:
            ValueError: It is no goal of this search.
        """
        goal = next(iter(self.better)) if goal is None else goal
        if goal not in self.better:
            raise ValueError(f"{goal!r} is no goal here. The goals are {', '.join(self.better)}.")
        goals = Goals(self.better, {})
        return min(self.done, key=lambda t: (goals.cost(goal, t.numbers), t.numbers["parameters"]))

    def model(self, trial: Trial | int | None = None) -> Any:
        """A variant as it was trained, an independent model, compiled as the original.

        Args:
            trial: Which, or its number; by default the best.

        Raises:
            SurgeryError: What it holds was not kept, or it was not trained to the end.
        """
        found = self._found(trial)
        if found.kind == "repeated" and found.same_as is not None:
            found = self._found(found.same_as)
        if found.kind != "done":
            raise SurgeryError(
                f"Trial {found.number} was not trained to the end: {_KINDS[found.kind]}.",
                f"trials.plan({found.number}).apply() makes it as it would begin.",
            )
        return self.make(found.number)

    def plan(self, trial: Trial | int | None = None) -> Plan:
        """What a variant does to the original, as a plan.

        Args:
            trial: Which, or its number; by default the best.
        """
        return self.planned(self._found(trial).number)

    def _found(self, trial: Trial | int | None) -> Trial:
        if trial is None:
            return self.best()
        number = trial.number if isinstance(trial, Trial) else trial
        for each in (self.original, *self.trials):
            if each.number == number:
                return each
        raise IndexError(f"There is no trial {number}: there are {len(self.trials)}.")

    def records(self) -> list[dict[str, Any]]:
        """One flat dict a trial, the original first: `pandas.DataFrame(trials.records())`."""
        return [trial.record() for trial in (self.original, *self.trials)]

    def to_json(self) -> str:
        """All of it as JSON; what is no finite number is `null`."""
        found: dict[str, Any] = {"title": self.title, "objective": self.objective}
        found |= {"goals": dict(self.better), "before": dict(self.before)}
        found["trials"] = [asdict(trial) for trial in (self.original, *self.trials)]
        return json.dumps(without_nan(found), indent=2, allow_nan=False)

    def plot(self, x: str | None = None, y: str | None = None, *, ax: Any = None) -> Any:
        """Draws every variant that was trained to the end, and the front of those none beats.

        Args:
            x: What goes to the right; by default the first cost that is a goal, or the parameters.
            y: What goes up; by default the first goal.
            ax: Matplotlib's axes to draw on; new ones by default.

        Returns:
            The axes.

        Raises:
            ValueError: There is no such number, or nothing says which values of it are better.
            ImportError: Matplotlib is not installed.
        """
        from resect.plots import pareto

        costs = ("parameters", "multiply_adds", "latency")
        x = x or next((name for name in self.better if name in costs), "parameters")
        y = y or next(iter(self.better))
        known = {**dict.fromkeys(costs, "lower"), **self.better}
        for name in (x, y):
            if name not in known or name not in self.original.numbers:
                raise ValueError(f"{name!r} cannot be drawn. There are {', '.join(known)}.")
        points = [(trial.numbers[x], trial.numbers[y]) for trial in self.done]
        names = [trial.name for trial in self.done]
        better: Any = (known[x], known[y])
        titled = [name.replace("_", "-") for name in (x, y)]
        return pareto(
            points, x=titled[0], y=titled[1], names=names, better=better, ax=ax, title=self.title
        )

    def __len__(self) -> int:
        return len(self.trials)

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.trials)

    @overload
    def __getitem__(self, item: int) -> Trial: ...
    @overload
    def __getitem__(self, item: slice) -> Sequence[Trial]: ...
    def __getitem__(self, item: int | slice) -> Trial | Sequence[Trial]:
        return self.trials[item]

    def __str__(self) -> str:
        return self.table()

    def table(self, most: int = _SHOWN) -> str:
        """The original and the best variants as text, the best in the first goal first.

        Args:
            most: How many variants are shown; those on the front always are.
        """
        goals, front = Goals(self.better, {}), self.front
        first = next(iter(self.better))
        ranked = sorted(self.done, key=lambda trial: goals.cost(first, trial.numbers))
        shown = [
            trial
            for i, trial in enumerate(ranked)
            if i < most or trial in front or trial.number < 0
        ]
        table = Table(box=None, pad_edge=False)
        for column in ("", "trial"):
            table.add_column(column)
        names = [*self.better, *(n for n in self.original.numbers if n not in self.better)]
        for name in names:
            table.add_column(name.replace("_", "-"), justify="right")
        table.add_column("choices")
        for trial in shown:
            cells = [_cell(name, trial.numbers[name]) for name in names]
            mark = "*" if trial in front else ""
            table.add_row(mark, trial.name, *cells, "" if trial.number < 0 else said(trial.params))
        rest = len(ranked) - len(shown)
        more = [f"… {rest} more"] if rest else []
        sought = ", ".join(f"{name} ({how})" for name, how in self.better.items())
        heading = f"{self.title}: {self.objective}; sought: {sought}"
        marked = "* no other one beats it" if len(self.better) > 1 else "* the best"
        return "\n".join(
            [heading, "", rendered(table, width=200), *more, "", marked, self._counts()]
        )

    def _counts(self) -> str:
        kinds = [trial.kind for trial in self.trials]
        counts = [f"{kinds.count(k)} {text}" for k, text in _KINDS.items() if k in kinds]
        return f"{len(self)} trials: {', '.join(counts) or 'none'}"


def said(params: Mapping[str, Any]) -> str:
    """Choices in words, without those that choose nothing."""
    return ", ".join(f"{name}={value}" for name, value in params.items() if value) or "nothing"


def _cell(name: str, value: float) -> str:
    if name == "parameters":
        return f"{int(value):,}"
    if name == "multiply_adds":
        return short(int(value))
    return f"{1000 * value:.3g} ms" if name == "latency" else f"{value:.4g}"
