"""What became of a job, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        job: The job, the very object that was given.
        value: What the function returned; `None` where it did not.
        error: What the function raised, or a `WorkerError` if the job's workers died; `None` where
            there is a value.
        attempts: How often the job was begun.

    Example:

    >>> import resect
    >>> outcome = resect.parallel.Outcome(3, value=9)
    >>> outcome.result()
    9
    >>> print(outcome)
    3: 9
    >>> print(resect.parallel.Outcome(3, error=ValueError("no"), attempts=2))
    3: ValueError: no (after 2 attempts)
    """

    job: Any
    value: Any = None
    error: BaseException | None = None
    attempts: int = 1

    @property
    def failed(self) -> bool:
        """Whether there is an error."""
        return self.error is not None

    def result(self) -> Any:
        """The value.

        Raises:
            BaseException: The error, if there is one.
        """
        if self.error is not None:
            raise self.error
        return self.value

    def __str__(self) -> str:
        found = self.value if self.error is None else f"{type(self.error).__name__}: {self.error}"
        often = "" if self.attempts == 1 else f" (after {self.attempts} attempts)"
        return f"{self.job}: {found}{often}"
