"""What comes of a cell of the grid: it works, or it refuses and says why."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

import resect
from resect.errors import ReadError, VerificationError
from resect.keras_graph.writing import result_kind
from tests.grid.columns import Column
from tests.grid.rows import Row
from tests.surgery import assert_surgery

ROOT = Path(__file__).parent.parent.parent

#: Kinds that can only be saved as the class that they are, with the reason.
SAVED_WHOLE = {
    "kerashub_vit_tiny": "KerasHub: ViTPatchingAndEmbedding cannot be made from its configuration.",
}


@dataclass(frozen=True)
class Refusal:
    """An edit that was refused.

    Attributes:
        error: Name of the exception's class.
        message: What it said.
    """

    error: str
    message: str


def attempt(row: Row, column: Column) -> Refusal | None:
    """Makes an edit and proves it right.

    Returns:
        The refusal, or `None` if the edit works.

    Raises:
        AssertionError: It works, and the result is wrong.
        VerificationError: Likewise.
    """
    model, before = row.source()
    try:
        plan = resect.plan(model)
        plan = column.build(plan, row.focus or _middle(plan))
        new = assert_surgery(
            model,
            plan,
            inputs=_inputs(row, model, plan),
            weights=column.weights,
            training=column.thorough,
            reload=column.thorough and _saves(row, result_kind(plan.result)),
            before=before,
        )
        if column.name == "split: tail":
            _assert_joins(row, model, plan, new)
        return None
    except VerificationError:
        raise
    except resect.SurgeryError as error:
        before.assert_untouched()
        _assert_well_said(error)
        return Refusal(type(error).__name__, _portable(str(error)))


def _assert_well_said(error: resect.SurgeryError) -> None:
    """It says what was asked, what was found, and what to do about it."""
    for problem in error.problems:
        is_reading = issubclass(getattr(resect.errors, problem.code), ReadError)
        assert problem.request.startswith("Cannot ") or is_reading, "not what was asked"
        assert problem.reason.endswith((".", ":")) or "\n" in problem.reason, "not what was found"
        assert problem.repair.endswith("."), "not what to do"


def _portable(message: str) -> str:
    """A message without what differs between two runs: folders, line numbers, Keras's counters."""
    message = message.replace(f"{ROOT}/", "")
    return re.sub(r"(\.py:|keras_tensor_)\d+", r"\1…", message)


def _middle(plan: resect.Plan) -> str:
    """The layer in the middle."""
    graph = plan.source
    calls = [call for call in graph.nodes if issubclass(graph.layer(call).cls, keras.Layer)]
    calls = [call for call in calls if not graph.is_input(call)]
    return graph.label(calls[(len(calls) - 1) // 2])


def _inputs(row: Row, model: Any, plan: resect.Plan) -> Any:
    """The kind's own inputs while the same layers read them; else none, for random ones."""
    if plan.check() or plan.result.inputs != plan.source.inputs:
        return None
    same = all(
        set(plan.result.readers(ref)) == set(plan.source.readers(ref))
        for ref in plan.source.input_refs
    )
    return row.kind.inputs(model) if same else None


def _saves(row: Row, new_kind: str) -> bool:
    saves = "saves" in row.kind.tags and keras.backend.backend() not in row.kind.unsaved
    return saves and (row.kind.name not in SAVED_WHOLE or new_kind != "Functional")


def _assert_joins(row: Row, model: Any, plan: resect.Plan, tail: Any) -> None:
    """`tail(head(x))` is `model(x)`."""
    head = resect.Plan(model).head(plan.edits[-1].at).apply()
    inputs = row.kind.inputs(model)
    with keras.StatelessScope():
        expected = model(inputs, training=False)
        found = tail(head(inputs, training=False), training=False)
    for a, b in zip(keras.tree.flatten(expected), keras.tree.flatten(found), strict=True):
        a, b = (np.asarray(keras.ops.convert_to_numpy(t), "float64") for t in (a, b))
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)
