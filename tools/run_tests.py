"""Runs the test suite once per backend, each in a process of its own, and sums up.

    python -m tools.run_tests --backends "jax torch" --jobs 2 -- -x tests/test_plan.py

What follows `--` goes to pytest. Tests marked `nobackend` run with the first backend only. The exit
status is 0 if every backend passed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

BACKENDS = ("jax", "tensorflow", "torch")

#: pytest's exit status when nothing was left to run, as when all that was asked for is `nobackend`.
NOTHING_TO_RUN = 5

#: pytest's last line, such as `=== 2 failed, 40 passed in 61.20s (0:01:01) ===`.
COUNTS = re.compile(r"^=* ?((?:\d+ [a-z ]+, )*\d+ [a-z ]+|no tests ran) in [\d.]+s")
COLOUR = re.compile(r"\x1b\[[\d;]*m")


@dataclass(frozen=True)
class Outcome:
    """How one backend's run ended."""

    backend: str
    status: int
    counts: str
    seconds: float

    @property
    def ok(self) -> bool:
        return self.status in (0, NOTHING_TO_RUN)

    def __str__(self) -> str:
        word = "ok" if self.ok else "FAILED"
        return f"{self.backend:<12}{word:<8}{self.seconds:7.0f} s   {self.counts}"


class Runner:
    """Starts the processes, shows what they print, and stops them when interrupted.

    Args:
        pytest_args: Arguments for pytest.
        label: Whether to put the backend's name in front of each line.
    """

    def __init__(self, pytest_args: Sequence[str], label: bool) -> None:
        self.pytest_args = pytest_args
        self.label = label
        self.processes: list[subprocess.Popen[str]] = []
        self._printing = threading.Lock()

    def run(self, backend: str, first: bool) -> Outcome:
        """Runs the suite on one backend, to the end."""
        command = [sys.executable, "-m", "pytest"]
        command += [] if first else ["--skip-nobackend"]
        command += ["--color=yes"] if sys.stdout.isatty() else []
        begin = time.monotonic()
        process = subprocess.Popen(
            [*command, *self.pytest_args],
            env={**os.environ, "KERAS_BACKEND": backend, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self.processes.append(process)
        counts = self._show(process, f"[{backend}] " if self.label else "")
        return Outcome(backend, process.wait(), counts, time.monotonic() - begin)

    def stop(self) -> None:
        """Ends what is still running."""
        for process in self.processes:
            process.terminate()

    def _show(self, process: subprocess.Popen[str], prefix: str) -> str:
        assert process.stdout is not None
        counts = "no summary: pytest did not reach its end"
        for line in process.stdout:
            with self._printing:
                print(prefix + line, end="", flush=True)
            if found := COUNTS.match(COLOUR.sub("", line)):
                counts = found[1]
        return counts


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--backends", default=" ".join(BACKENDS), help="names, between spaces")
    parser.add_argument("--jobs", type=int, default=1, help="how many backends run side by side")
    parser.add_argument("pytest_args", nargs="*", help="arguments for pytest, after --")
    options = parser.parse_args(argv)
    options.backends = options.backends.replace(",", " ").split()
    if not options.backends or not set(options.backends) <= set(BACKENDS):
        parser.error(f"--backends takes some of: {' '.join(BACKENDS)}")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Runs, sums up, and returns the exit status."""
    options = parse(argv)
    jobs = min(options.jobs, len(options.backends))
    runner = Runner(options.pytest_args, label=jobs > 1)
    with ThreadPoolExecutor(jobs) as pool:
        futures = [
            pool.submit(runner.run, backend, first=backend == options.backends[0])
            for backend in options.backends
        ]
        try:
            outcomes = [future.result() for future in futures]
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            runner.stop()
            return 130
    print("\n" + "\n".join(map(str, outcomes)))
    nothing = all(outcome.status == NOTHING_TO_RUN for outcome in outcomes)
    return int(nothing or not all(outcome.ok for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
