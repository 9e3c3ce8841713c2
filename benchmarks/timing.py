"""Timing, and one row of the table."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        work: What was measured.
        resect: What resect took, with its unit.
        against: What it is compared with, and what that took.
        ratio: The comparison in a number; `None` if there is none.
        bar: What the ratio has to be.
        met: Whether it is; `None` if nothing was asked.
    """

    work: str
    resect: str
    against: str
    ratio: float | None = None
    bar: str = ""
    met: bool | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}x"
        met = {None: "", True: "met", False: "MISSED"}[self.met]
        return self.work, self.resect, self.against, ratio, f"{self.bar} {met}".strip()


def medians(
    runs: int, *works: Callable[[], Any], after: Callable[[], Any] | None = None
) -> list[float]:
    """Seconds that each piece of work takes: the median of several runs, after one to warm up.

    The pieces take turns, so that what else the machine does falls on all of them.

    Args:
        runs: How many runs count.
        works: The pieces.
        after: Called, untimed, after each run.
    """
    times: list[list[float]] = [[] for _ in works]
    for run in range(runs + 1):
        for work, taken in zip(works, times, strict=True):
            gc.collect()
            begin = time.perf_counter()
            result = work()
            seconds = time.perf_counter() - begin
            del result
            if after is not None:
                after()
            if run:
                taken.append(seconds)
    return [statistics.median(taken) for taken in times]


def shown(seconds: float) -> str:
    """Seconds for reading."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
