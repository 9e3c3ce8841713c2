"""Layers in a row: how the cost of an edit grows with the length of the model."""

from __future__ import annotations

import contextlib
import gc
import statistics
import sys
import time
from collections.abc import Iterator
from unittest import mock

import keras

import resect
from benchmarks.timing import Row, shown
from resect.keras_graph.private import Functional

LENGTHS = (100, 1_000, 10_000)
WIDTH = 4


def rows(runs: int) -> Iterator[Row]:
    """One row a length, compared with the shortest, per layer."""
    first = None
    for length in LENGTHS:
        model = chain(length)
        read, edit, write, inside = measure(model, runs if length < 10_000 else min(runs, 3))
        own = read + edit + write - inside
        per_layer = own / length
        first = first or per_layer
        growth = per_layer / first
        yield Row(
            f"{length:,} layers in a row: read, remove one, write",
            f"{shown(own)} ({shown(read)}, {shown(edit)}, {shown(write - inside)})",
            f"keras.Model() inside, apart: {shown(inside)}",
            growth,
            "time per layer against 100 layers: linear",
            growth <= 1.5,
        )


def chain(length: int) -> keras.Model:
    """A Functional model of Dense layers, each named after its place."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 10 * length + 1_000))  # Keras itself walks it recursively
    try:
        x = inputs = keras.Input((WIDTH,))
        for i in range(length):
            x = keras.layers.Dense(WIDTH, kernel_initializer="zeros", name=f"dense_{i}")(x)
        return keras.Model(inputs, x)
    finally:
        sys.setrecursionlimit(limit)


def measure(model: keras.Model, runs: int) -> tuple[float, float, float, float]:
    """Seconds for reading, removing the middle, writing, and of that inside `keras.Model()`."""
    times = []
    for _ in range(runs + 1):
        gc.collect()
        with timed_functional() as inside:
            begin = time.perf_counter()
            plan = resect.plan(model).remove(f"dense_{len(model.layers) // 2}")
            _ = plan.source
            read = time.perf_counter()
            _ = plan.steps
            edited = time.perf_counter()
            plan.apply()
            written = time.perf_counter()
        times.append((read - begin, edited - read, written - edited, sum(inside)))
    columns = zip(*times[1:], strict=True)
    read, edit, write, within = (statistics.median(column) for column in columns)
    return read, edit, write, within


@contextlib.contextmanager
def timed_functional() -> Iterator[list[float]]:
    """Collects the seconds that each construction of a Functional model takes."""
    seconds: list[float] = []
    original = Functional.__init__

    def timed(self: Functional, *args: object, **kwargs: object) -> None:
        begin = time.perf_counter()
        original(self, *args, **kwargs)
        seconds.append(time.perf_counter() - begin)

    with mock.patch.object(Functional, "__init__", timed):
        yield seconds
