"""What has been done so far: in memory, or in a folder that survives a kill at any moment.

Shrinking is a program whose slow parts (rankings, attempts) each have a key. What has been done
under a key is not done again: so to go on after a kill is to run the program once more.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from resect.errors import SurgeryError
from resect.training.files import differences, packed, unpacked
from resect.training.locking import Lock
from resect.training.values import Values

_HEADER, _LOG = "shrink.json", "log.jsonl"


class Journal:
    """What has been done, in memory."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, Any]] = {}
        self._values: dict[str, Values] = {}

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        """Lets others go on; what was recorded can still be read."""

    def recall(self, key: str) -> dict[str, Any] | None:
        """What was recorded under a key."""
        return self.entries.get(key)

    def record(self, key: str, entry: Mapping[str, Any], values: Values | None = None) -> None:
        """Keeps an entry, and the values of a model with it."""
        if values is not None:
            self._values[key] = values
        self.entries[key] = dict(entry)

    def values(self, key: str) -> Values:
        """The values that were recorded under a key."""
        return self._values[key]

    def forget(self, key: str) -> None:
        """Lets go of values that will not be asked for."""
        self._values.pop(key, None)


class FolderJournal(Journal):
    """What has been done, in a folder: a line of a log each, and a file with the values of a model.

    A file is written under another name, flushed to the disk and renamed before its line is
    written; the line is flushed before anything goes on. Half a line, and a line whose file is
    damaged, count as not written, and so does what comes after them.

    Args:
        folder: The folder; made if there is none.
        header: What was asked for, as JSON: another request in the same folder is refused.

    Raises:
        SurgeryError: The folder holds the results of another request, or somebody else is at it.
    """

    def __init__(self, folder: Any, header: Mapping[str, Any]) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(self.folder)
        try:
            self._read(header)
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _read(self, header: Mapping[str, Any]) -> None:
        for left in self.folder.glob("*.tmp"):
            left.unlink()
        self._open(json.loads(json.dumps(header)))
        sound = list(self._sound())
        self.entries = {entry.pop("key"): entry for entry, _ in sound}
        self._cut(sound[-1][1] if sound else 0)

    def _open(self, header: dict[str, Any]) -> None:
        path = self.folder / _HEADER
        if path.exists():
            found = list(differences(self._header(path), header))
            if found:
                raise SurgeryError(
                    f"The folder '{self.folder}' holds the steps of another request: "
                    f"{'; '.join(found)}.",
                    "Ask for the same again to go on with it, or name another folder.",
                )
        elif (self.folder / _LOG).exists():
            raise SurgeryError(
                f"The folder '{self.folder}' has a {_LOG} and no {_HEADER}, so nothing says what "
                "it is the log of.",
                "Name another folder.",
            )
        else:
            self._write(_HEADER, json.dumps(header, indent=2).encode())

    def _header(self, path: Path) -> Any:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SurgeryError(
                f"'{path}' is damaged, so nothing says what the folder holds: {error}",
                "Name another folder.",
            ) from error

    def _sound(self) -> Iterator[tuple[dict[str, Any], int]]:
        """The entries of the log that are whole, each with where its line ends."""
        path = self.folder / _LOG
        end = 0
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
            end += len(line)
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                entry = None
            if not isinstance(entry, dict) or "key" not in entry or not self._has_file(entry):
                return
            yield entry, end

    def _has_file(self, entry: Mapping[str, Any]) -> bool:
        if entry.get("file") is None:
            return True
        path = self.folder / entry["file"]
        return path.exists() and _digest(path.read_bytes()) == entry["sha256"]

    def _cut(self, end: int) -> None:
        """Takes off what was written by halves."""
        path = self.folder / _LOG
        if path.exists() and path.stat().st_size > end:
            with path.open("r+b") as file:
                file.truncate(end)
                os.fsync(file.fileno())

    def record(self, key: str, entry: Mapping[str, Any], values: Values | None = None) -> None:
        full: dict[str, Any] = {"key": key, **entry}
        if values is not None:
            data = packed(values)
            full["file"] = f"{len(self.entries):04d}.npz"
            full["sha256"] = _digest(data)
            self._write(full["file"], data)
        with (self.folder / _LOG).open("ab") as file:
            file.write(json.dumps(full).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._flush_folder()
        full = json.loads(json.dumps(full))  # as it will be read again
        self.entries[full.pop("key")] = full

    def values(self, key: str) -> Values:
        return unpacked((self.folder / self.entries[key]["file"]).read_bytes())

    def _write(self, name: str, data: bytes) -> None:
        part = self.folder / f"{name}.tmp"
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self.folder / name)
        self._flush_folder()

    def _flush_folder(self) -> None:
        if os.name == "nt":  # folders cannot be flushed there
            return
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
