"""Measures how long a prediction takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from resect.cost.profile import Latency
from resect.errors import ShapeError
from resect.graph import Graph, Ref, Spec, map_refs


def measure(
    model: Any, graph: Graph, specs: Mapping[Ref, Spec], runs: int = 20, warm: int = 3
) -> Latency:
    """The time of `model.predict_on_batch`, the way to it and back included.

    Args:
        model: The model. It is left as it was.
        graph: Its graph.
        specs: Shape and dtype of its inputs.
        runs: How many runs are timed.
        warm: How many come before, in which backends compile.

    Raises:
        ShapeError: An input takes strings, of which none can be made up.
    """
    inputs = map_refs(lambda ref: _random(ref, specs[ref]), graph.inputs)
    compiled = model.predict_function
    try:
        for _ in range(warm):
            model.predict_on_batch(inputs)
        times = [_seconds(model, inputs) for _ in range(runs)]
    finally:
        model.predict_function = compiled
    return Latency(statistics.median(times), min(times), max(times), runs, keras.backend.backend())


def _seconds(model: Any, inputs: Any) -> float:
    begin = time.perf_counter()
    model.predict_on_batch(inputs)  # returns arrays, so nothing is still being computed
    return time.perf_counter() - begin


def _random(ref: Ref, spec: Spec) -> np.ndarray:
    """Random numbers; zeros for integers, which are valid as ids and as masks."""
    if spec.dtype == "string":
        raise ShapeError(
            f"The input '{ref.call.layer}' takes strings: there is nothing to measure with.",
            "Take the preprocessing out first: resect.adapt.take_preprocessing_out(model).",
            ref.call.layer,
        )
    shape = tuple(size or 0 for size in spec.shape)
    if "float" not in spec.dtype:
        return np.zeros(shape, spec.dtype)
    kind = "float32" if spec.dtype == "bfloat16" else spec.dtype
    return np.random.default_rng(0).normal(size=shape).astype(kind)
