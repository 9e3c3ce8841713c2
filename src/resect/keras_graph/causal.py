"""KerasHub's causal masks, on symbolic tensors.

Its decoders make them from the sizes of what they read, which symbolic tensors do not have. Here
they are made from the tensor itself, the same mask.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

_NAME = "compute_causal_mask"


@contextlib.contextmanager
def symbolic_causal_masks(layer: Any, sequence: Any) -> Iterator[None]:
    """Lets a decoder of KerasHub make causal masks for a symbolic sequence.

    Args:
        layer: The decoder; any other layer is left alone.
        sequence: What it reads, `(batch, length, ...)`.
    """
    modules = {sys.modules.get(cls.__module__) for cls in type(layer).__mro__}
    before = [(module, vars(module)[_NAME]) for module in modules if _is_hub(module)]
    try:
        for module, original in before:
            setattr(module, _NAME, _from_tensor(original, sequence))
        yield
    finally:
        for module, original in before:
            setattr(module, _NAME, original)


def _is_hub(module: Any) -> bool:
    name = getattr(module, "__name__", "")
    return name.split(".")[0] == "keras_hub" and _NAME in vars(module)


def _from_tensor(original: Callable[..., Any], sequence: Any) -> Callable[..., Any]:
    def mask(batch_size: Any, input_length: Any, output_length: Any, cache_index: Any = 0) -> Any:
        own = keras.backend.is_keras_tensor(sequence) and len(sequence.shape) > 1
        square = input_length == output_length and isinstance(cache_index, int) and cache_index == 0
        if not (own and square and (batch_size, input_length) == tuple(sequence.shape[:2])):
            return original(batch_size, input_length, output_length, cache_index)
        ones: Any = ops.ones_like(sequence, dtype="int32")
        while len(ones.shape) > 2:
            ones = ones[..., 0]
        steps = ops.cumsum(ones, axis=1)
        return ops.greater_equal(ops.expand_dims(steps, 2), ops.expand_dims(steps, 1))

    return mask
