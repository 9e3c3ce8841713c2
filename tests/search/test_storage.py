"""A search that is killed at any moment goes on where it was, and comes to the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import pytest

import resect
from resect.errors import SurgeryError
from resect.search import Dropout, Remove
from resect.search.storage import Notebook
from tests.common import assert_equal, weights_of
from tests.search import models

optuna = pytest.importorskip("optuna")
pytestmark = pytest.mark.nobackend  # what is written down, and read again, is no backend's affair


def sampler(seed):
    """TPE that looks at what there is after two trials: so it matters what it sees."""
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=2)


OPTIONS: dict[str, Any] = dict(
    goals={"off": "lower", "parameters": "lower"},
    trials=7,
    at_once=3,
    patience=2,
    sampler=sampler,
)


def search(storage=None, objective=None, **options):
    options = {**OPTIONS, **options}
    found = objective or models.Counting()
    return resect.search(models.bare(), models.SPACE, found, storage=storage, **options)


def assert_same(one, other):
    """Everything but the time, down to the weights, bit by bit."""
    assert [plain(trial) for trial in one.done] == [plain(trial) for trial in other.done]
    kinds = [[(t.kind, t.params) for t in each if t.kind != "left"] for each in (one, other)]
    assert kinds[0] == kinds[1]
    for trial, twin in zip(one.front, other.front, strict=True):
        assert_equal(weights_of(one.model(trial)), weights_of(other.model(twin)))


def plain(trial):
    return trial.params, trial.numbers, trial.curve


@pytest.fixture(autouse=True)
def _fresh_names():
    keras.utils.clear_session(free_memory=False)


@pytest.fixture(scope="module")
def whole():
    objective = models.Counting()
    return search(objective=objective, keep="all"), objective.calls


@pytest.fixture
def kept(tmp_path):
    """A storage that outlives an interrupted search, as a file does, and a folder."""
    return dict(storage=optuna.storages.InMemoryStorage(), values=tmp_path / "values")


@pytest.mark.parametrize("moment", [1, 2, 4, 9, 12])
def test_interrupted_at_any_call(moment, whole, kept):
    found, calls = whole
    objective = models.Counting(interrupt=moment)
    with pytest.raises(KeyboardInterrupt):
        search(objective=objective, keep="all", **kept)
    rest = models.Counting()
    again = search(objective=rest, keep="all", **kept)
    assert_same(found, again)
    assert objective.calls[:-1] + rest.calls == calls  # nothing was trained twice


@pytest.mark.parametrize("method", ["ask", "note", "report", "end"])
@pytest.mark.parametrize("moment", [1, 4])
def test_interrupted_as_it_writes(method, moment, whole, kept, monkeypatch):
    original, count = getattr(Notebook, method), []

    def interrupted(self, *args, **kwargs):
        count.append(1)
        if len(count) == moment:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Notebook, method, interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(keep="all", **kept)
    assert_same(whole[0], search(keep="all", **kept))


@pytest.mark.parametrize("moment", range(5, 80, 8))
def test_interrupted_between_two_lines(moment, whole, kept, monkeypatch):
    storage, count = kept["storage"], []

    def counted(function):
        def write(*args, **kwargs):
            count.append(1)
            if len(count) == moment:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return write

    with monkeypatch.context() as patched:
        for name in vars(optuna.storages.BaseStorage):
            if name.startswith(("set_", "create_")):
                patched.setattr(storage, name, counted(getattr(storage, name)))
        with pytest.raises(KeyboardInterrupt):
            search(keep="all", **kept)
    assert_same(whole[0], search(keep="all", **kept))


def test_more_trials_go_on_and_a_finished_search_gives_its_result_at_once(tmp_path, whole):
    first = search(tmp_path / "study.sqlite", trials=3)
    more = search(tmp_path / "study.sqlite")
    assert [plain(t) for t in first.done] == [plain(t) for t in more.done][: len(first.done)]
    assert_same(whole[0], more)
    objective = models.Counting()
    again = search(tmp_path / "study.sqlite", objective)
    assert objective.calls == []
    assert again.records() == more.records()


def test_files_that_are_gone_or_damaged_are_noticed(tmp_path, whole):
    objective = models.Counting(interrupt=12)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "study.sqlite", objective)
    folder = tmp_path / "study.sqlite.values" / "search"
    files = sorted(folder.iterdir())
    assert len(files) > 3
    for file in files:
        file.write_bytes(file.read_bytes()[:50])
    again = search(tmp_path / "study.sqlite")
    assert [plain(trial) for trial in again.done] == [plain(trial) for trial in whole[0].done]
    with pytest.raises(SurgeryError, match="gone or damaged"):
        again.model(again.original)


def test_another_request_in_the_same_study_is_refused(tmp_path):
    storage = tmp_path / "study.sqlite"
    search(storage, trials=1)
    with pytest.raises(SurgeryError, match=r"another request: seed was 0 and is 1\.\n.*study="):
        search(storage, trials=1, seed=1)
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="d")])
    space = [Dropout("d")]
    with pytest.raises(SurgeryError, match="model graph differs"):
        resect.search(other, space, models.Counting(), storage=storage, **OPTIONS)
    with pytest.raises(SurgeryError, match="space"):
        resect.search(models.bare(), Remove(), models.Counting(), storage=storage, **OPTIONS)
    assert len(search(storage, trials=1, seed=1, study="another")) >= 1
    options = dict(trials=1, at_once=1, goals=None, study="functions")
    search(storage, lambda model: 1.0, **options)
    with pytest.raises(SurgeryError, match="objective code was"):
        search(storage, lambda model: 2.0, **options)


def test_a_study_of_somebody_elses_is_left_alone(tmp_path):
    path = tmp_path / "study.sqlite"
    study = optuna.create_study(storage=f"sqlite:///{path}", study_name="search")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(SurgeryError, match=r"not made by resect\.search"):
        search(path)


def test_one_at_a_time(tmp_path):
    def objective(model):
        with pytest.raises(SurgeryError, match="Somebody else is at work"):
            search(tmp_path / "study.sqlite", lambda model: 0.0, goals=None)
        return 0.0

    options = dict(goals=None, trials=1, at_once=1)
    assert len(search(tmp_path / "study.sqlite", objective, **options)) >= 1
    other = search(tmp_path / "study.sqlite", lambda model: 0.0, study="other", **options)
    assert len(other) >= 1


def test_urls_and_storages_of_optunas(tmp_path, whole):
    url = f"sqlite:///{tmp_path / 'other.sqlite'}"
    found = search(url, values=tmp_path / "values")
    assert_same(whole[0], found)
    journal = optuna.storages.journal
    storage = optuna.storages.JournalStorage(journal.JournalFileBackend(str(tmp_path / "log")))
    assert_same(whole[0], search(storage))
    again = search(optuna.storages.RDBStorage(url))  # without the folder that holds the values
    with pytest.raises(SurgeryError, match="was not kept"):
        again.model(again.front[0])


SCRIPT = """
import os, signal, sys
os.environ["KERAS_BACKEND"] = {backend!r}
from resect.search import storage
from tests.search import models, test_storage

def count(function, counts=[0]):
    def counted(*args, **kwargs):
        counts[0] += 1
        if counts[0] == {moment}:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return counted

os.replace, os.fsync = count(os.replace), count(os.fsync)
for name in ("ask", "note", "end"):
    setattr(storage.Notebook, name, count(getattr(storage.Notebook, name)))
test_storage.search(sys.argv[1], keep="all")
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", [11, 33])
def test_killed(moment, whole, tmp_path):
    script = SCRIPT.format(moment=moment, backend=keras.backend.backend())
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["src", "."])}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "study.sqlite")],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert_same(whole[0], search(tmp_path / "study.sqlite", keep="all"))
