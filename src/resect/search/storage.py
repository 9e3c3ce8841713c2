"""Where a search is kept: Optuna's storage for the trials, and a folder for what models hold.

What a trial has come to is written down as attributes of it, each in a transaction of its own, and
the values of a model before the attribute that says that they are there. So whatever is killed
when, what can be read is true.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resect.errors import SurgeryError
from resect.search.goals import Goals
from resect.training.files import differences, packed, unpacked
from resect.training.locking import Lock
from resect.training.values import Values

#: Where a search is kept, where nothing else is said.
DEFAULT = "search.sqlite"
_REQUEST, _ORIGINAL = "request", "original"


def library() -> Any:
    """Optuna.

    Raises:
        SurgeryError: It is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise SurgeryError(
            "Searching is done by Optuna, which is not installed.", 'pip install "resect[search]"'
        ) from error
    return optuna


def storage_of(given: Any) -> tuple[Any, Path | None]:
    """Optuna's storage, and the SQLite file if it is one.

    Args:
        given: A path, a URL of a database, a storage of Optuna's, or `None` for memory.

    Raises:
        TypeError: It is none of these.
    """
    optuna = library()
    if given is None:
        return optuna.storages.InMemoryStorage(), None
    if isinstance(given, optuna.storages.BaseStorage):
        return given, None
    if not isinstance(given, (str, os.PathLike)):
        raise TypeError(
            "storage is the path of an SQLite file, the URL of a database, a storage of Optuna's "
            f"or None, not {given!r}."
        )
    if "://" in str(given):
        return optuna.storages.RDBStorage(str(given)), None
    path = Path(given).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    patient = {"connect_args": {"timeout": 60}}
    return optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs=patient), path


@dataclass(frozen=True)
class Record:
    """A trial as it is written down.

    Attributes:
        number: Its number.
        params: What it chose.
        over: Whether it has come to its end.
        notes: What else is known of it.
    """

    number: int
    params: Mapping[str, Any]
    over: bool
    notes: Mapping[str, Any]

    @property
    def progress(self) -> dict[str, Any]:
        """How far it has come: what was measured after each stage, and what the model holds."""
        return self.notes.get("progress", {})

    @property
    def curve(self) -> list[dict[str, float]]:
        """What was measured after each stage."""
        return self.progress.get("curve", [])

    @property
    def kind(self) -> str:
        """What became of it; `""` while nothing has."""
        return self.notes.get("kind", "")


class Notebook:
    """The trials of one search.

    Args:
        storage: Optuna's.
        name: The name of the study.
        request: What was asked for, as JSON: another request under the same name is refused.
        goals: What is sought.

    Raises:
        SurgeryError: The study is that of another request.
    """

    def __init__(self, storage: Any, name: str, request: Mapping[str, Any], goals: Goals) -> None:
        optuna = library()
        self.storage = storage
        self._states = optuna.trial.TrialState
        request = json.loads(json.dumps(request))
        known = {study.study_name for study in storage.get_all_studies()}
        if name in known:
            _require_same(storage, name, request)
        directions = [
            "maximize" if how == "higher" else "minimize" for how in goals.better.values()
        ]
        with quiet():
            self.study = optuna.create_study(
                storage=storage, study_name=name, directions=directions, load_if_exists=True
            )
        self.study.set_user_attr(_REQUEST, request)

    # The original

    @property
    def original(self) -> dict[str, Any]:
        """What is known of the original, trained as the variants are."""
        return self.study.user_attrs.get(_ORIGINAL, {})

    def note_original(self, **notes: Any) -> None:
        """Writes down what is known of the original."""
        self.study.set_user_attr(_ORIGINAL, {**self.original, **notes})

    # Trials

    def records(self) -> list[Record]:
        """All trials."""
        return [
            Record(trial.number, trial.params, trial.state.is_finished(), trial.user_attrs)
            for trial in self.study.get_trials(deepcopy=False)
        ]

    def ask(self, sampler: Callable[[int], Any], seed: int) -> Any:
        """A new trial; its choices are drawn by a sampler that is made from a seed."""
        with quiet():
            self.study.sampler = sampler(seed)
            return self.study.ask()

    def note(self, number: int, **notes: Any) -> None:
        """Writes down what is known of a trial."""
        trial = self._id(number)
        for name, value in notes.items():
            self.storage.set_trial_user_attr(trial, name, value)

    def report(self, number: int, stage: int, value: float) -> None:
        """Tells Optuna what a trial has come to so far; it takes that for a single goal only."""
        if len(self.study.directions) == 1:
            self.storage.set_trial_intermediate_value(self._id(number), stage, value)

    def would_stop(self, pruner: Any, number: int) -> bool:
        """Whether one of Optuna's pruners would stop a trial."""
        return bool(pruner.prune(self.study, self.storage.get_trial(self._id(number))))

    def end(self, number: int, kind: str, values: Sequence[float] | None = None) -> None:
        """Ends a trial: what it has come to is known, or why it has come to nothing."""
        self.note(number, kind=kind)
        if values is not None:
            state = self._states.COMPLETE
        else:
            state = self._states.FAIL if kind in ("failed", "left") else self._states.PRUNED
        with quiet():
            self.study.tell(number, None if values is None else list(values), state=state)

    def _id(self, number: int) -> int:
        study = self.storage.get_study_id_from_name(self.study.study_name)
        return self.storage.get_trial_id_from_study_id_trial_number(study, number)


def _require_same(storage: Any, name: str, request: Mapping[str, Any]) -> None:
    study = storage.get_study_id_from_name(name)
    was = storage.get_study_user_attrs(study).get(_REQUEST)
    if was is None:
        if not storage.get_all_trials(study, deepcopy=False):
            return  # it was begun, and killed before anything was written down
        raise SurgeryError(
            f"The study '{name}' was not made by resect.search.", "Name another: study=..."
        )
    found = list(differences(was, request))
    if found:
        raise SurgeryError(
            f"The study '{name}' holds the trials of another request: {'; '.join(found)}.",
            "Ask for the same again to go on with it, or name another: study=..., storage=...",
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what Optuna says about what of it is experimental, and about every trial."""
    optuna = library()
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


# What models hold


class Memory:
    """What models hold, in memory."""

    def __init__(self) -> None:
        self._values: dict[str, Values] = {}

    def alone(self) -> AbstractContextManager[None]:
        """Within it, nobody else searches what is kept here."""
        return contextlib.nullcontext()

    def keep(self, key: str, values: Values) -> str:
        """Keeps what a model holds; returns what tells whether it is sound."""
        self._values[key] = values
        return ""

    def get(self, key: str, digest: str) -> Values | None:
        """What was kept; `None` if it is not there, or damaged."""
        del digest
        return self._values.get(key)

    def forget(self, but: set[str]) -> None:
        """Lets go of everything else."""
        self._values = {key: value for key, value in self._values.items() if key in but}


class Folder(Memory):
    """What models hold, in files.

    Args:
        path: The folder.
    """

    def __init__(self, path: Any) -> None:
        super().__init__()
        self.path = Path(path)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        self.path.mkdir(parents=True, exist_ok=True)
        lock = Lock(self.path)
        try:
            yield
        finally:
            lock.release()

    def keep(self, key: str, values: Values) -> str:
        data = packed(values)
        part = self.path / f"{key}.tmp"
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self._file(key))
        return hashlib.sha256(data).hexdigest()

    def get(self, key: str, digest: str) -> Values | None:
        try:
            data = self._file(key).read_bytes()
        except FileNotFoundError:
            return None
        return unpacked(data) if hashlib.sha256(data).hexdigest() == digest else None

    def forget(self, but: set[str]) -> None:
        for file in self.path.glob("*.npz"):
            if file.stem not in but:
                file.unlink()

    def _file(self, key: str) -> Path:
        return self.path / f"{key}.npz"


def samplers(given: Any) -> Any:
    """A function from a seed to one of Optuna's samplers.

    Args:
        given: `"tpe"`, `"random"`, or such a function.

    Raises:
        ValueError: It is something else.
    """
    optuna = library()
    if given == "tpe":
        return lambda seed: optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, constant_liar=True
        )
    if given == "random":
        return lambda seed: optuna.samplers.RandomSampler(seed=seed)
    if callable(given) and not isinstance(given, optuna.samplers.BaseSampler):
        return given
    raise ValueError(
        'sampler is "tpe", "random" or a function that makes one of Optuna\'s from a seed, such as '
        f"lambda seed: optuna.samplers.NSGAIISampler(seed=seed); not {given!r}."
    )
