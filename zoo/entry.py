"""One model of the zoo: how to build it and what to feed it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from zoo.randomise import inputs_for, randomise


@dataclass(frozen=True)
class Entry:
    """A model that can be built by name.

    Attributes:
        name: What the entry is called in tests and reports.
        build: Makes the model, with Keras's own initial weights.
        shapes: Shapes without the batch, by name, of inputs whose shape the model leaves open.
        constants: Values, by name, of inputs that random numbers would make meaningless.
        scale: Factor on random float inputs; 255 for models that begin by rescaling pixels.
        heavy: More than 50 million parameters (200 MB): for full runs only.
        unsupported: Backends on which Keras or KerasHub itself cannot run it, with the reason.
    """

    name: str
    build: Callable[[], keras.Model]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    constants: Mapping[str, float] = field(default_factory=dict)
    scale: float = 1.0
    heavy: bool = False
    unsupported: Mapping[str, str] = field(default_factory=dict)

    def make(self, seed: int = 0) -> keras.Model:
        """Builds the model and gives it random, non-trivial weights."""
        return randomise(self.build(), seed)

    def inputs(self, model: keras.Model, batch: int = 2, seed: int = 0) -> Any:
        """Random inputs in the structure that `model` takes."""
        inputs = inputs_for(model, batch, seed, shapes=self.shapes, scale=self.scale)
        for name, value in self.constants.items():
            inputs[name] = np.full_like(inputs[name], value)
        return inputs


def by_name(*entries: Entry) -> dict[str, Entry]:
    """Indexes entries by name.

    Raises:
        ValueError: Two entries have the same name.
    """
    index = {entry.name: entry for entry in entries}
    if len(index) != len(entries):
        raise ValueError("Two entries of the zoo have the same name.")
    return index
