"""The executor that needs no other process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Literal


class Serial(Executor):
    """Runs each job at once, in this process: nothing is pickled, and nothing else is needed.

    Example:

    >>> import resect
    >>> outcomes = resect.parallel.run(abs, [-1, -2], executor=resect.parallel.Serial())
    >>> [outcome.value for outcome in outcomes]
    [1, 2]
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Calls a function now. An interrupt goes through."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def executor_of(given: Executor | Literal["processes"] | None) -> Executor | None:
    """What `run` takes, where `None` means here: to `run` it means processes of this machine."""
    if given == "processes":
        return None
    return Serial() if given is None else given
