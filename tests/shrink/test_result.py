"""The result as a value, and how it prints."""

from __future__ import annotations

import json

import pytest

import resect
from tests.shrink import models


@pytest.fixture(scope="module")
def found():
    import keras

    keras.utils.set_random_seed(0)
    model = models.classifier()
    return resect.shrink(model, models.data(), target={"parameters": 0.4}, recover="fit")


def test_it_prints_as_a_table(found):
    heading, _, columns, *rows = str(found).splitlines()
    assert heading == (
        "Functional 'classifier': greedy by ablation, recovered by FineTune(epochs=1, "
        "learning_rate=None), measured on data"
    )
    assert " ".join(columns.split()) == (
        "step removed ablation accuracy as cut accuracy recovered loss as cut loss recovered "
        "parameters multiply-adds"
    )
    assert len(rows) == len(found) + 2
    assert rows[-1] == "target: parameters at most 75.6; reached"
    assert rows[1].split()[:2] == ["1", found.removed[0]]


def test_it_is_a_sequence_of_steps(found):
    assert [step.number for step in found] == list(range(len(found)))
    assert found[-1].parameters < found[0].parameters
    assert [step.name for step in found[1:]] == list(found.removed)


def test_records_and_json(found):
    record = found.records()[1]
    assert record["name"] == found.removed[0]
    assert record["loss after"] == found[1].after["loss"]
    read = json.loads(found.to_json())
    assert [step["name"] for step in read["steps"][1:]] == list(found.removed)
    assert len(read["plan"]["edits"]) == len(found.removed)


def test_the_best_is_the_smallest_that_is_good_enough(found):
    worst = max(step.after["loss"] for step in found) - found[0].after["loss"]
    assert found.best(loss=worst) is found[-1]
    assert found.best() is found[-1]
    assert found.best(loss=0.0, accuracy=0.0).parameters <= found[0].parameters
    with pytest.raises(ValueError, match=r"Known metrics: .*accuracy"):
        found.best(f1=0.1)


def test_the_picture(found):
    pytest.importorskip("matplotlib").use("agg")
    pytest.importorskip("resect.plots")
    axes = found.plot("multiply_adds", "loss")
    assert axes.get_xlabel()
    with pytest.raises(ValueError, match="Known metrics"):
        found.plot(y="f1")
    with pytest.raises(ValueError, match="latency of these models is not known"):
        found.plot("latency")
