"""ResNet50 cut in two at every place."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras

import resect
from benchmarks.copies import CallNodes
from benchmarks.timing import Row, shown


def rows(runs: int) -> Iterator[Row]:
    """The median over all cuts."""
    model = keras.applications.ResNet50(weights=None)
    places = [layer.name for layer in model.layers if layer.output is not model.output][1:]
    boundaries = {at: _boundary(model, at) for at in places}
    calls = CallNodes(model)
    ways: dict[str, Callable[[str], Any]] = {
        "copy": lambda at: resect.split(model, at),
        "share": lambda at: resect.split(model, at, weights="share"),
        "by hand": lambda at: _by_hand(model, boundaries[at]),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for at in places:
        for way, split in ways.items():
            begin = time.perf_counter()
            halves = split(at)
            times[way].append(time.perf_counter() - begin)
            del halves
            calls.restore()
        gc.collect()
    took = {way: statistics.median(taken) for way, taken in times.items()}
    for way in ("copy", "share"):
        yield Row(
            f'ResNet50: split at each of {len(places)} places, weights="{way}"',
            f"{shown(took[way])} a cut",
            f"two keras.Model by hand, sharing weights: {shown(took['by hand'])}",
            took["by hand"] / took[way],
        )


def _boundary(model: keras.Model, at: str) -> list[keras.KerasTensor]:
    """The tensors that cross a cut, which one has to know to do it by hand."""
    head = resect.plan(model).head(at).result
    return [model.get_layer(ref.call.layer).output for ref in head.output_refs]


def _by_hand(
    model: keras.Model, boundary: list[keras.KerasTensor]
) -> tuple[keras.Model, keras.Model]:
    return keras.Model(model.inputs, boundary), keras.Model(boundary, model.outputs)
