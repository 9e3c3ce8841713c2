"""What has been done survives a kill at any moment, and nothing is done twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import resect
from resect.errors import SurgeryError
from resect.shrink.journal import FolderJournal, packed, unpacked
from resect.shrink.work import Work
from resect.training.feeding import seeded
from resect.training.values import Values
from tests.common import assert_equal, slots, weights_of
from tests.shrink import models

ROOT = Path(__file__).parent.parent.parent
TRAINED = {"target": {"parameters": 0.6, "loss": 5.0}, "recover": "fit", "batch_size": 8}


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the package catches it."""


def trained(folder, **options):
    return resect.shrink(models.classifier(), models.data(), folder=folder, **TRAINED | options)


def shaken(model):
    """Stands for training: it draws from NumPy's global generator."""
    model.set_weights([w + np.random.normal(size=w.shape) for w in model.get_weights()])


def run(folder, **options):
    """The same without anything that has to be compiled."""
    model = models.classifier(compiled=False)
    settings = {"target": {"parameters": 0.6}, "method": "random", "recover": shaken}
    return resect.shrink(model, models.features(), folder=folder, **settings | options)


def assert_same(one, other):
    assert one.to_json() == other.to_json()
    for k in range(len(one)):
        assert_equal(weights_of(one.at(k)), weights_of(other.at(k)))
        if getattr(one.model, "optimizer", None) is not None:
            ours, theirs = slots(one.at(k).optimizer), slots(other.at(k).optimizer)
            assert ours.keys() == theirs.keys()
            assert_equal(list(ours.values()), list(theirs.values()))


@pytest.fixture
def attempts(monkeypatch):
    """The attempts that were made, and not recalled."""
    made = []
    original = Work.attempt

    def counted(self, job):
        made.append((*job.path, job.ends))
        return original(self, job)

    monkeypatch.setattr(Work, "attempt", counted)
    return made


@pytest.mark.parametrize("strategy", ["greedy", "one-shot", "beam"])
def test_a_finished_folder_gives_its_result_without_doing_anything(tmp_path, attempts, strategy):
    one = trained(tmp_path, strategy=strategy, width=2)
    made = len(attempts)
    assert made
    other = trained(tmp_path, strategy=strategy, width=2)
    assert len(attempts) == made
    assert_same(one, other)
    if strategy == "greedy":
        assert_same(one, trained(None))


def test_a_kill_at_any_write_loses_no_more_than_the_step_under_way(tmp_path, attempts, monkeypatch):
    options = {"target": {"parameters": 0.8}}
    whole = run(tmp_path / "whole", **options)
    needed = len(attempts)
    sync, moments = os.fsync, []

    def counting(handle):
        moments.append(handle)
        sync(handle)

    monkeypatch.setattr(os, "fsync", counting)
    run(tmp_path / "counted", **options)
    attempts.clear()
    for moment in range(len(moments)):
        folder = tmp_path / str(moment)
        left = moment

        def dying(handle):
            nonlocal left
            if not left:
                raise Killed
            left -= 1
            sync(handle)

        monkeypatch.setattr(os, "fsync", dying)
        with pytest.raises(Killed):
            run(folder, **options)
        monkeypatch.setattr(os, "fsync", sync)
        assert_same(run(folder, **options), whole)
        assert len(attempts) <= needed + 1
        assert not list(folder.glob("*.tmp"))
        attempts.clear()


def test_a_kill_between_the_file_and_its_line(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    write = FolderJournal._write

    def dying(self, name, data):
        write(self, name, data)
        if name.endswith(".npz"):
            raise Killed

    monkeypatch.setattr(FolderJournal, "_write", dying)
    with pytest.raises(Killed):
        run(tmp_path / "killed")
    monkeypatch.setattr(FolderJournal, "_write", write)
    assert list((tmp_path / "killed").glob("*.npz"))
    assert_same(run(tmp_path / "killed"), whole)


@pytest.mark.parametrize("size", [1, 40, -1])
def test_half_a_line_is_dropped(tmp_path, attempts, size):
    whole = run(tmp_path)
    made = len(attempts)
    log = tmp_path / "log.jsonl"
    *others, last = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(others) + last[:size])
    assert_same(run(tmp_path), whole)
    assert len(attempts) == made + 1
    assert log.read_bytes().splitlines()[-1] == last.rstrip(b"\n")


def test_a_damaged_file_is_done_again_with_all_that_came_after(tmp_path, attempts):
    whole = run(tmp_path)
    made = len(attempts)
    first = min(tmp_path.glob("*.npz"))
    first.write_bytes(first.read_bytes()[:-7])
    assert_same(run(tmp_path), whole)
    assert len(attempts) == 2 * made


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 3}, "seed was 0 and is 3"),
        ({"target": {"parameters": 0.5}}, "target parameters was 0.6 and is 0.5"),
        ({"recover": None}, "recover was 'function shaken' and is None"),
        ({"validation": np.ones((3, 6))}, "validation shapes was"),
        ({"blocks": ["block_0", "block_1"]}, "blocks was None and is"),
        ({"strategy": "beam"}, "strategy was 'greedy' and is 'beam'"),
    ],
)
def test_other_arguments_in_the_same_folder_are_refused(tmp_path, options, message):
    run(tmp_path)
    with pytest.raises(SurgeryError, match=message):
        run(tmp_path, **options)


def test_another_model_or_other_data_in_the_same_folder_is_refused(tmp_path):
    settings = {**TRAINED, "method": "random", "recover": None, "folder": tmp_path}
    model, (x, y) = models.classifier(), models.data()
    resect.shrink(model, (x, y), **settings)
    with pytest.raises(SurgeryError, match="data content differs"):
        resect.shrink(model, (x + 1, y), **settings)
    model.set_weights([w + 1e-3 for w in model.get_weights()])
    with pytest.raises(SurgeryError, match="model weights differs"):
        resect.shrink(model, (x, y), **settings)
    model = models.classifier(optimizer="sgd")
    with pytest.raises(SurgeryError, match="model optimizer class was 'Adam' and is 'SGD'"):
        resect.shrink(model, (x, y), **settings)
    (tmp_path / "shrink.json").unlink()
    with pytest.raises(SurgeryError, match="nothing says what it is the log of"):
        resect.shrink(models.classifier(), (x, y), **settings)


def test_the_log_says_what_happened(tmp_path):
    found = run(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["original", *["ranking", "attempt"] * 2]
    tried = [line for line in lines if line["event"] == "attempt"]
    assert [line["after"] for line in tried] == [dict(step.after) for step in found.steps[1:]]
    assert all((tmp_path / line["file"]).exists() for line in tried)


@pytest.mark.nobackend
def test_values_go_through_a_file():
    arrays = np.arange(3, dtype="int8"), np.float32([[1.5, np.nan]]), np.zeros((2, 0)), np.array(3)
    values = Values(("a/b", "a/b", "", "ü"), arrays, (np.array(2**40), np.ones(2)), True)
    again = unpacked(packed(values))
    assert again.same(values)
    assert [a.dtype for a in again.arrays] == [a.dtype for a in values.arrays]


# A real process, really killed


def work(folder: Path | str) -> resect.Shrunk:
    options = {"target": {"parameters": 0.5}, "method": "random", "recover": "fit", "batch_size": 8}
    return resect.shrink(models.classifier(), models.data(64), folder=folder, **options)


@pytest.mark.slow
def test_a_process_that_is_killed_again_and_again_ends_with_the_same_result(tmp_path, backend):
    if backend != "torch":
        pytest.skip("JAX and TensorFlow do not survive a fork; the journal knows no backend")
    work(tmp_path / "whole")
    killed, lines, kills = tmp_path / "killed", 0, 0
    rng = np.random.default_rng(0)
    while kills < 3:
        process = multiprocessing.get_context("fork").Process(target=work, args=(killed,))
        process.start()
        time.sleep(rng.uniform(0.02, 0.5))
        kills += process.exitcode is None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert _lines(killed) >= lines
        lines = _lines(killed)
    # What goes on is another interpreter, which has nothing of this one.
    code = f"from tests.shrink import test_journal as here; here.work({str(killed)!r})"
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True)
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (killed / path.name).read_bytes(), path.name


def _lines(folder: Path) -> int:
    log = folder / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def test_seeds_are_made_of_all_that_they_are_made_of():
    found = {seeded(a, b) for a in range(3) for b in range(3)}
    assert len(found) == 9
    assert seeded(1, 2) == seeded(1, 2)
