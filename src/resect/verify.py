"""Proof that an edited model is what the plan says: numbers, not hope."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.table import Table

from resect import oracle
from resect.errors import Problem, TraceError, VerificationError, raise_all
from resect.graph import Call, Graph, Shape, Spec
from resect.keras_graph.reading import has_graph, read, recorded_tensors
from resect.keras_graph.snapshots import Snapshot, same_value
from resect.keras_graph.symbolic import place_of_call
from resect.keras_graph.tracing import trace
from resect.text import rendered


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        name: What must hold.
        passed: Whether it does.
        detail: The number behind it.
    """

    name: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """What `verify` found. Print it.

    Attributes:
        checks: Everything that was checked, in order.
    """

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether everything holds."""
        return all(check.passed for check in self.checks)

    def __str__(self) -> str:
        table = Table("check", "", "measured", box=None, pad_edge=False)
        for check in self.checks:
            table.add_row(check.name, "ok" if check.passed else "FAILED", check.detail)
        return rendered(table)

    def raise_if_failed(self) -> None:
        """Raises what did not hold.

        Raises:
            VerificationError: With every failed check.
        """
        raise_all(
            [
                Problem("VerificationError", "", f"{check.name}: {check.detail}")
                for check in self.checks
                if not check.passed
            ]
        )


def verify(
    model: Any,
    new: Any,
    *,
    plan: Any = None,
    inputs: Any = None,
    training: bool = True,
    reload: bool = True,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> Report:
    """Compares an edited model with what its plan means.

    The plan's graph is evaluated directly on the layers of the source, which shares no code with
    the writer; the new model must return the same.

    Args:
        model: The source.
        new: The model that `plan.apply()` returned.
        plan: The plan; without one, `new` must compute what `model` computes.
        inputs: Arrays in the structure of the model's inputs; random ones by default.
        training: Whether to compare in training mode too.
        reload: Whether to save the new model, load it and compare.
        tolerance: Largest difference that counts as equal, relative to the largest value.
        seed: Seed of the random inputs.

    Returns:
        The report, every check passed.

    Raises:
        VerificationError: Something differs.
    """
    graph: Graph = plan.result if plan is not None else _own_graph(model)
    if inputs is None:
        like = None if plan is None else plan.source
        inputs = oracle.random_inputs(graph, like=like, seed=seed)
    before = Snapshot.of(model)
    checks = [*_structural(graph, new)]
    Report(tuple(checks)).raise_if_failed()  # numbers would mean nothing
    checks.append(_numeric("inference equals the graph", graph, new, inputs, False, tolerance))
    if training:
        checks.append(
            _numeric("training mode equals the graph", graph, new, inputs, True, tolerance)
        )
    if reload:
        checks.append(_reloaded(new, inputs, tolerance))
    changes = before.changes()
    checks.append(Check("source untouched", not changes, "; ".join(changes) or "nothing changed"))
    report = Report(tuple(checks))
    report.raise_if_failed()
    return report


def structural(
    graph: Graph, model: Any, pairs: Sequence[tuple[Any, Any]], source: Snapshot
) -> None:
    """The checks that run in every `apply`.

    Args:
        graph: The graph that was planned.
        model: The model that was written.
        pairs: Variables of the source, with those that stand for them.
        source: A snapshot of the source from before.

    Raises:
        VerificationError: The writer has made a mistake; the model must not be used.
    """
    checks = [*_structural(graph, model)]
    wrong = [old.path for old, new in pairs if old is not new and not same_value(old, new)]
    checks.append(Check("variables bit-equal", not wrong, ", ".join(wrong[:8])))
    changes = source.structure_changes()
    checks.append(Check("source untouched", not changes, "; ".join(changes)))
    failed = [check for check in checks if not check.passed]
    if failed:
        raise VerificationError(
            problems=[
                Problem(
                    "VerificationError",
                    "",
                    f"{c.name}: {c.detail}",
                    "Please report this to resect.",
                )
                for c in failed
            ]
        )


def same_function(model: Any, graph: Graph, traced: Any = None) -> None:
    """Runs a subclassed model and its trace on one batch.

    Args:
        model: The subclassed model.
        graph: Its trace.
        traced: The model that was written from the trace; without one, the graph itself is run.

    Raises:
        TraceError: They differ, or the trace does not run.
    """
    inputs = oracle.random_inputs(graph)
    expected = oracle.run_model(model, inputs)
    try:
        if traced is None:
            found = oracle.evaluate(graph, inputs)
        else:
            found = oracle.run_model(traced, inputs)
        check = _compared("trace", expected, found, 1e-5)
    except Exception as error:
        raise TraceError(
            f"{place_of_call(model)}: {type(model).__name__}.call was traced, but the trace does "
            "not run: "
            f"{type(error).__name__}: {error}",
            "Write call without Python values of shapes or tensors.",
            model.name,
        ) from error
    if not check.passed:
        raise TraceError(
            f"{place_of_call(model)}: {type(model).__name__}.call was traced, but the trace "
            f"computes something else ({check.detail}).",
            "Write call so that it does the same whenever it is called.",
            model.name,
        )


def _own_graph(model: Any) -> Graph:
    return read(model) if has_graph(model) else trace(model)


def _structural(graph: Graph, model: Any) -> Iterator[Check]:
    planned = dict(_planned(graph))
    paths = {path for path, _ in graph.walk()}  # not those of models that were put in unbuilt
    written = {
        (path, call, i): (tuple(tensor.shape), str(tensor.dtype))
        for path, call, i, tensor in recorded_tensors(model)
        if path in paths
    }
    differing = []
    if planned != written:
        differing = [
            f"{_spelled(key)}: planned {_shown(planned.get(key))}, "
            f"written {_shown(written.get(key))}"
            for key in {**planned, **written}
            if planned.get(key) != written.get(key)
        ]
    yield Check(
        "shapes as planned", not differing, "; ".join(differing[:5]) or f"{len(planned)} tensors"
    )


_Key = tuple[tuple[str, ...], Call, int]


def _planned(graph: Graph) -> Iterator[tuple[_Key, tuple[Shape, str]]]:
    """Shape and dtype of every tensor of the graph and of those nested in it."""
    for path, nested in graph.walk():
        for call, node in nested.nodes.items():
            for i, spec in enumerate(node.outputs or ()):
                yield (path, nested.made[call], i), (spec.shape, spec.dtype)


def _spelled(key: _Key) -> str:
    path, call, output = key
    number = f"@{call.number}" if call.number else ""
    return f"{'/'.join([*path, call.layer])}{number}:{output}"


def _shown(spec: tuple[Shape, str] | None) -> str:
    return "nothing" if spec is None else f"{Spec(*spec)} {spec[1]}"


def _numeric(
    name: str, graph: Graph, new: Any, inputs: Any, training: bool, tolerance: float
) -> Check:
    expected = oracle.evaluate(graph, inputs, new=new, training=training)
    found = oracle.run_model(new, inputs, training=training)
    return _compared(name, expected, found, tolerance)


def _reloaded(new: Any, inputs: Any, tolerance: float) -> Check:
    name = "saved and loaded again"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        try:
            new.save(path)
            loaded = keras.saving.load_model(path, compile=False, safe_mode=False)
        except Exception as error:  # whatever a layer's own code may raise
            reason = next((line for line in str(error).splitlines() if line.strip()), "")
            return Check(name, False, f"{type(error).__name__}: {reason}")
    expected = oracle.run_model(new, inputs)
    return _compared(
        name, expected, oracle.run_model(loaded, oracle.as_taken(loaded, inputs)), tolerance
    )


def _compared(name: str, expected: Any, found: Any, tolerance: float) -> Check:
    flat_expected, flat_found = keras.tree.flatten(expected), keras.tree.flatten(found)
    if len(flat_expected) != len(flat_found):
        return Check(name, False, f"{len(flat_found)} outputs instead of {len(flat_expected)}")
    worst = 0.0
    for a, b in zip(flat_expected, flat_found, strict=True):
        if a.shape != b.shape:
            return Check(name, False, f"shape {b.shape} instead of {a.shape}")
        worst = max(worst, _difference(a, b))
    return Check(name, worst <= tolerance, f"largest difference {worst:.2g}")


def _difference(a: Any, b: Any) -> float:
    """The largest difference relative to the largest value; 0 for equal NaNs."""
    if a.size == 0 or a.dtype.kind in "OSUT":
        return 0.0 if (a == b).all() else float("inf")
    a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
    if not (np.isnan(a) == np.isnan(b)).all():
        return float("inf")
    a, b = np.nan_to_num(a), np.nan_to_num(b)
    return float(np.max(np.abs(a - b)) / max(1.0, float(np.max(np.abs(a)))))
