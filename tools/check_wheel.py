"""Checks an installed wheel: it is complete, and it edits a model.

    python -I tools/check_wheel.py

Run with the interpreter that the wheel is installed for; `-I` keeps the source tree out of sight.
"""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np

import resect


def main() -> None:
    """Raises AssertionError if anything is missing."""
    home = Path(resect.__file__).parent
    assert home.parent.name == "site-packages", f"resect comes from {home}, not from the wheel"
    assert (home / "py.typed").is_file(), "py.typed is missing"

    layers = [keras.layers.Dense(4, activation="relu"), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((2,)), *layers])
    x = np.ones((1, 2), "float32")
    cut = resect.pop(model)
    np.testing.assert_array_equal(cut(x), layers[0](x))
    print(f"resect {metadata.version('resect')}: the wheel is complete and works.")


if __name__ == "__main__":
    main()
