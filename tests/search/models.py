"""A small model that need not be trained: what it is worth is computed from what is left of it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from resect.search import Dropout, Remove
from tests.shrink.models import classifier

SPACE = [Remove(at_most=2), Dropout("block_*", rates=(0.0, 0.25, 0.5), together=True)]


def bare() -> keras.Model:
    """Four dense blocks, not compiled."""
    return classifier(compiled=False)


def worth(model: Any) -> float:
    """How far the blocks that are left, and the dropout behind them, are from three and 0.25."""
    blocks = sum(layer.name.startswith("inner_") for layer in model.layers)
    return abs(blocks - 3) + abs(rate_of(model) - 0.25)


def rate_of(model: Any) -> float:
    """The rate behind the blocks; 0 where there is none."""
    rates = [layer.rate for layer in model.layers if layer.name.endswith("_dropout")]
    return max(rates, default=0.0)


class Counting:
    """An objective that moves every weight a little, as training would, and counts its calls.

    Args:
        interrupt: At which call it is interrupted, counted from 1.
        after: Whether that comes after the work.
    """

    def __init__(self, interrupt: int = 0) -> None:
        self.calls: list[tuple[str, int]] = []
        self.interrupt = interrupt

    def __call__(self, model: Any, stage: int) -> dict[str, float]:
        self.calls.append((drawn(model), stage))
        if len(self.calls) == self.interrupt:
            raise KeyboardInterrupt
        for variable in model.trainable_variables:
            step = keras.random.normal(variable.shape, seed=stage) * 0.01
            variable.assign(variable + step)
        total = float(sum(np.abs(weight).sum() for weight in model.get_weights()))
        return {"off": worth(model) / (stage + 1), "total": total}


def drawn(model: Any) -> str:
    """What tells a variant from others."""
    return " ".join(f"{layer.name}:{getattr(layer, 'rate', '')}" for layer in model.layers)
