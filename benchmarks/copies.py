"""A Dropout inserted in the middle: as an independent copy, and around the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

import resect
from benchmarks.timing import Row, medians, shown
from resect.keras_graph.private import call_lists

MODELS = ("MobileNetV2", "ResNet152", "EfficientNetV2L")
BARRED = "EfficientNetV2L"

#: How many times faster the independent copy of EfficientNetV2L has to be.
BARS = {"jax": 2.0, "torch": 2.0, "tensorflow": 5.0}
SHARE_BAR = 2.0
AIM = {"copy": 5.0, "share": 4.0}


def source(name: str) -> tuple[keras.Model, str]:
    """An untrained model of `keras.applications`, and the layer in its middle."""
    model = getattr(keras.applications, name)(weights=None)
    return model, model.layers[len(model.layers) // 2].name


def rows(runs: int) -> Iterator[Row]:
    """Both edits, on each model."""
    for name in MODELS:
        model, middle = source(name)
        yield _row(name, "copy", model, middle, runs)
        yield _row(name, "share", model, middle, runs)


def _row(name: str, weights: Any, model: keras.Model, middle: str, runs: int) -> Row:
    by_hand = {"copy": copied_by_hand, "share": shared_by_hand}[weights]
    calls = CallNodes(model)
    ours, theirs = medians(
        runs,
        lambda: resect.insert(model, keras.layers.Dropout(0.25), after=middle, weights=weights),
        lambda: by_hand(model, middle),
        after=calls.restore,
    )
    bar = BARS[keras.backend.backend()] if weights == "copy" else SHARE_BAR
    against = {"copy": "clone_model + set_weights", "share": "clone_model, the same layers"}[
        weights
    ]
    asked = name == BARRED or weights == "share"
    return Row(
        f'{name}: Dropout in, weights="{weights}"',
        shown(ours),
        f"{against}: {shown(theirs)}",
        theirs / ours,
        f"at least {bar:g}x, aim {AIM[weights]:g}x" if asked else "",
        theirs / ours >= bar if asked else None,
    )


def copied_by_hand(model: keras.Model, middle: str) -> keras.Model:
    """What one would write without resect for an independent copy."""
    new = keras.models.clone_model(
        model,
        clone_function=lambda layer: type(layer).from_config(layer.get_config()),
        call_function=_inserting(keras.layers.Dropout(0.25), middle),
    )
    new.set_weights(model.get_weights())
    return new


def shared_by_hand(model: keras.Model, middle: str) -> keras.Model:
    """What one would write without resect for a model around the same layers."""
    return keras.models.clone_model(
        model,
        clone_function=lambda layer: layer,
        call_function=_inserting(keras.layers.Dropout(0.25), middle),
    )


def _inserting(new: keras.Layer, middle: str) -> Any:
    def call(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        outputs = layer(*args, **kwargs)
        return new(outputs) if layer.name == middle else outputs

    return call


class CallNodes:
    """The calls recorded on the layers of a model: takes off what Keras's own way leaves there."""

    def __init__(self, model: keras.Model) -> None:
        self._lists = [nodes for op in model.operations for nodes in call_lists(op)]
        self._lengths = [len(nodes) for nodes in self._lists]

    def restore(self) -> None:
        for nodes, length in zip(self._lists, self._lengths, strict=True):
            del nodes[length:]
