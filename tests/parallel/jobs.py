"""Jobs that end in every way there is."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """A number, and how its worker ends: `"well"`, `"raises"`, `"dies once"`, `"dies always"`."""

    number: int
    folder: str
    end: str = "well"


def square(job: Job) -> int:
    """The square of the number, if it comes to that."""
    seen = Path(job.folder) / f"{job.number}"
    again = seen.exists()
    seen.touch()
    if job.end == "raises":
        raise ValueError(f"{job.number} is not liked")
    if job.end == "dies always" or (job.end == "dies once" and not again):
        os.kill(os.getpid(), signal.SIGKILL)
    return job.number**2


def linger(job: Job) -> None:
    """Says which process does it, and does not come back."""
    part = Path(job.folder) / f"{job.number}.part"
    part.write_text(str(os.getpid()))
    part.rename(Path(job.folder) / f"{job.number}.pid")
    time.sleep(3600)


def wait_for(path: Path) -> str:
    """What is in a file, as soon as there is one."""
    while not path.exists():
        time.sleep(0.05)
    return path.read_text()


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has asked for its end yet does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
