"""Runs the test suite once per backend, one after the other, and sums up.

    python -m tools.run_tests --backends "jax torch" --jobs 2 -- -x tests/test_plan.py

With several jobs the tests of a backend are divided among that many processes. What follows `--`
goes to pytest. Tests marked `nobackend` run with the first backend only. The exit status is 0 if
every backend passed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
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


def run(backend: str, first: bool, jobs: int, pytest_args: Sequence[str]) -> Outcome:
    """Runs the suite on one backend, to the end, and shows what it prints."""
    command = [sys.executable, "-m", "pytest"]
    command += [] if first else ["--skip-nobackend"]
    command += ["--color=yes"] if sys.stdout.isatty() else []
    # Each process begins with a stretch of the suite, so tests of one file share their fixtures;
    # the first that is done takes tests from the end of another's stretch.
    command += ["-n", str(jobs), "--dist", "worksteal"] if jobs > 1 else []
    begin = time.monotonic()
    process = subprocess.Popen(
        [*command, *pytest_args],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        counts = _show(process)
        status = process.wait()
    except KeyboardInterrupt:
        process.terminate()
        raise
    return Outcome(backend, status, counts, time.monotonic() - begin)


def _show(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    counts = "no summary: pytest did not reach its end"
    for line in process.stdout:
        print(line, end="", flush=True)
        if found := COUNTS.match(COLOUR.sub("", line)):
            counts = found[1]
    return counts


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--backends", default=" ".join(BACKENDS), help="names, between spaces")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes share the tests")
    parser.add_argument("pytest_args", nargs="*", help="arguments for pytest, after --")
    options = parser.parse_args(argv)
    options.backends = options.backends.replace(",", " ").split()
    if not options.backends or not set(options.backends) <= set(BACKENDS):
        parser.error(f"--backends takes some of: {' '.join(BACKENDS)}")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Runs, sums up, and returns the exit status."""
    options = parse(argv)
    outcomes = []
    try:
        for backend in options.backends:
            print(f"\n=== {backend}", flush=True)
            first = backend == options.backends[0]
            outcomes.append(run(backend, first, options.jobs, options.pytest_args))
    except KeyboardInterrupt:
        return 130
    print("\n" + "\n".join(map(str, outcomes)))
    nothing = all(outcome.status == NOTHING_TO_RUN for outcome in outcomes)
    return int(nothing or not all(outcome.ok for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
