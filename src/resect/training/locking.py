"""One at a time in a folder."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

from resect.errors import SurgeryError

_NAME = ".lock"
_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_mine: set[Path] = set()
_changing = threading.Lock()


class Lock:
    """Keeps others out of a folder, until it is released or the process ends, however it ends.

    Of other processes the system knows, in which a lock belongs to a process and not to those that
    it forks; of this one, a set. A folder that cannot be written to needs no lock.

    Args:
        folder: The folder.

    Raises:
        SurgeryError: Somebody else is at it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._file: Any = None
        with _changing:
            if self._folder in _mine:
                raise _taken(folder)
            _mine.add(self._folder)
        try:
            self._take(folder)
        except BaseException:
            self.release()
            raise

    def _take(self, folder: Path) -> None:
        try:
            self._file = (folder / _NAME).open("a+b")
        except OSError:
            return
        try:
            _lock(self._file)
        except OSError as error:
            if error.errno in _HELD:
                raise _taken(folder) from error  # otherwise the file system has no locks

    def release(self) -> None:
        """Lets others in."""
        if self._file is not None:
            self._file.close()  # which ends the lock
            self._file = None
        with _changing:
            _mine.discard(self._folder)


def _lock(file: Any) -> None:
    if os.name == "nt":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
    else:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _taken(folder: Path) -> SurgeryError:
    return SurgeryError(
        f"Somebody else is at work in the folder '{folder}'.",
        "Wait for it to end, or name another folder.",
    )
