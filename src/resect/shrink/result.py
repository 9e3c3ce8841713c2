"""What shrinking came to, as a value, and how it prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, overload

from rich.table import Table

from resect.cost.profile import short
from resect.plan import Plan
from resect.text import rendered
from resect.training.directions import Better
from resect.training.files import without_nan


@dataclass(frozen=True)
class Step:
    """One removal; step 0 is the original.

    Attributes:
        number: How many blocks are gone.
        name: The block that went; `""` for the original.
        ends: `plan.collapse(*ends)` took it out.
        score: Its importance when it went.
        low: Lower end of the 95 % confidence interval over batches; `nan` for a single batch.
        high: Upper end.
        before: Loss and metrics without it, before recovery.
        after: Loss and metrics after recovery.
        parameters: Number of weights that are left.
        multiply_adds: Of one sample; `None` where they cannot be counted.
        latency: Seconds of one prediction; `None` where it is not measured.
        rivals: The blocks that could have gone, each with its importance, the least first.
        rejected: The blocks that were tried before it and kept, each with the reason.
    """

    number: int
    name: str
    ends: tuple[str, str]
    score: float
    low: float
    high: float
    before: Mapping[str, float]
    after: Mapping[str, float]
    parameters: int
    multiply_adds: int | None
    latency: float | None = None
    rivals: tuple[tuple[str, float], ...] = ()
    rejected: tuple[tuple[str, str], ...] = ()

    def record(self) -> dict[str, Any]:
        """All of it as a flat dict."""
        found = asdict(self)
        found["start"], found["end"] = found.pop("ends")
        for when in ("before", "after"):
            found |= {f"{name} {when}": value for name, value in found.pop(when).items()}
        return found


@dataclass(frozen=True, eq=False)
class Shrunk(Sequence[Step]):
    """What was removed, in which order, why, and what it came to. Print it: it is a table.

    Attributes:
        title: Kind and name of the original.
        target: What was asked for.
        ended: Why it ended.
        method: How importance was measured.
        strategy: How the order was found.
        recovery: What each step recovered by; `""`: not at all.
        measured_on: `"validation"`, or `"data"`: what recovery has trained on too.
        steps: The original, and every removal.
        better: By metric, which values are better, where that is known.
        plan: The removals, as a plan on the original.
    """

    title: str
    target: str
    ended: str
    method: str
    strategy: str
    recovery: str
    measured_on: str
    steps: tuple[Step, ...]
    better: Mapping[str, Better]
    plan: Plan = field(repr=False)
    make: Callable[[int], Any] = field(repr=False)

    @property
    def removed(self) -> tuple[str, ...]:
        """Names of the blocks that are gone, in the order in which they went."""
        return tuple(step.name for step in self.steps[1:])

    @cached_property
    def model(self) -> Any:
        """The model after the last step."""
        return self.at(-1)

    def at(self, number: int) -> Any:
        """An independent model as it was after a step, recovered and compiled as the original.

        Args:
            number: How many blocks are gone; 0 is a copy of the original, negative counts from
                the end.

        Raises:
            IndexError: There are not so many steps.
        """
        steps = range(len(self.steps))
        if number not in steps and number + len(steps) not in steps:
            raise IndexError(f"There is no step {number}: {len(steps) - 1} blocks were removed.")
        return self.make(steps[number])

    def best(self, **permitted: float) -> Step:
        """The smallest model that is good enough: of the fewest parameters.

        Args:
            **permitted: By how much each metric may be worse than the original's:
                `best(accuracy=0.01)`.

        Raises:
            ValueError: There is no such metric, or nothing says which values of it are better.
        """
        for name in permitted:
            if name not in self.better:
                known = ", ".join(self.better) or "none"
                raise ValueError(
                    f"Nothing says which values of '{name}' are better. Known metrics: {known}."
                )
        good = [step for step in self.steps if self._is_good(step, permitted)]
        return min(good, key=lambda step: step.parameters)

    def _is_good(self, step: Step, permitted: Mapping[str, float]) -> bool:
        first = self.steps[0].after
        signs = {name: -1 if self.better[name] == "higher" else 1 for name in permitted}
        return all(
            signs[name] * (step.after[name] - first[name]) <= by + 1e-12
            for name, by in permitted.items()
        )

    def records(self) -> list[dict[str, Any]]:
        """One flat dict a step: `pandas.DataFrame(shrunk.records())`."""
        return [step.record() for step in self.steps]

    def to_json(self) -> str:
        """All of it as JSON, the plan included; what is no finite number is `null`."""
        names = ("title", "target", "ended", "method", "strategy", "recovery", "measured_on")
        found: dict[str, Any] = {name: getattr(self, name) for name in names}
        found["steps"] = self.records()
        found["plan"] = json.loads(self.plan.to_json())
        return json.dumps(without_nan(found), indent=2, allow_nan=False)

    def plot(self, x: str = "parameters", y: str | None = None, *, ax: Any = None) -> Any:
        """Draws every step, the way through them, and the front of those that no other one beats.

        Args:
            x: The cost: `"parameters"`, `"multiply_adds"` or `"latency"`.
            y: The metric; by default the first one beside the loss.
            ax: Matplotlib's axes to draw on; new ones by default.

        Returns:
            The axes.

        Raises:
            ValueError: There is no such metric, or nothing says which values of it are better; or
                the cost is not known.
            ImportError: Matplotlib is not installed.
        """
        from resect.plots import pareto

        names = [*self.steps[0].after]
        y = y or next((name for name in names if name != "loss"), "loss")
        if y not in self.better:
            raise ValueError(f"'{y}' cannot be drawn. Known metrics: {', '.join(self.better)}.")
        points = [(getattr(step, x), step.after[y]) for step in self.steps]
        if any(value is None for value, _ in points):
            raise ValueError(f"The {x} of these models is not known.")
        labels = ["original", *(f"− {name}" for name in self.removed)]
        better: Any = ("lower", self.better[y])
        steps = range(len(points))
        cost = {"latency": "latency, s"}.get(x, x.replace("_", "-"))
        return pareto(
            points, x=cost, y=y, names=labels, path=steps, better=better, ax=ax, title=self.title
        )

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    @overload
    def __getitem__(self, item: int) -> Step: ...
    @overload
    def __getitem__(self, item: slice) -> Sequence[Step]: ...
    def __getitem__(self, item: int | slice) -> Step | Sequence[Step]:
        return self.steps[item]

    def __str__(self) -> str:
        return self.table()

    def table(self) -> str:
        """The steps as text."""
        metrics = [*self.steps[0].after]
        table = Table(box=None, pad_edge=False)
        table.add_column("step", justify="right")
        table.add_column("removed")
        columns = [self.method, *(title for name in metrics for title in self._titles(name))]
        columns += ["parameters", "multiply-adds"]
        columns += ["latency"] if self.steps[0].latency is not None else []
        for column in columns:
            table.add_column(column, justify="right")
        for step in self.steps:
            table.add_row(*self._cells(step, metrics))
        kind = f"{self.strategy} by {self.method}"
        how = f"{kind}, {f'recovered by {self.recovery}' if self.recovery else 'not recovered'}"
        heading = f"{self.title}: {how}, measured on {self.measured_on}"
        rejected = [
            f"tried for step {step.number} and kept: {name}, {why}"
            for step in self.steps
            for name, why in step.rejected
        ]
        ended = f"target: {self.target}; {self.ended}"
        return "\n".join([heading, "", rendered(table, width=200), "", *rejected, ended])

    def _titles(self, name: str) -> tuple[str, ...]:
        return (f"{name} as cut", f"{name} recovered") if self.recovery else (name,)

    def _cells(self, step: Step, metrics: Sequence[str]) -> list[str]:
        score = "" if step.number == 0 else f"{step.score:.4g}"
        cells = [str(step.number), step.name, score]
        for name in metrics:
            if self.recovery:
                cells.append("" if step.number == 0 else f"{step.before[name]:.4g}")
            cells.append(f"{step.after[name]:.4g}")
        arithmetic = "?" if step.multiply_adds is None else short(step.multiply_adds)
        cells += [f"{step.parameters:,}", arithmetic]
        return cells if step.latency is None else [*cells, f"{1000 * step.latency:.3g} ms"]
