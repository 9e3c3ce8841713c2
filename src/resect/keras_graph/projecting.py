"""The projection that turns one shape into another, for `on_mismatch="adapt"`."""

from __future__ import annotations

from typing import Any

import keras

from resect.graph import Spec

_CONVOLUTIONS = {3: keras.layers.Conv1D, 4: keras.layers.Conv2D, 5: keras.layers.Conv3D}


def projection(now: Spec, before: Spec, name: str) -> Any:
    """A linear layer from one spec to another, `None` if no dense or 1x1 convolution does it.

    Args:
        now: Spec of the tensor that there is: `(batch, ..., channels)`.
        before: Spec of the tensor that is needed, of the same rank and dtype.
        name: Name of the layer.
    """
    if len(now.shape) != len(before.shape) or now.dtype != before.dtype or len(now.shape) < 2:
        return None
    if not now.dtype.startswith(("float", "bfloat")) or None in (now.shape[-1], before.shape[-1]):
        return None
    if now.shape[:-1] == before.shape[:-1]:
        return keras.layers.Dense(before.shape[-1], name=name, dtype=_policy(before))
    convolution = _CONVOLUTIONS.get(len(now.shape))
    if convolution is None:
        return None
    for data_format, channels, space in (
        ("channels_last", -1, slice(1, -1)),
        ("channels_first", 1, slice(2, None)),
    ):
        strides = _strides(now.shape[space], before.shape[space])
        if strides is not None and before.shape[channels] is not None:
            return convolution(
                before.shape[channels],
                1,
                strides=strides,
                padding="same",
                data_format=data_format,
                name=name,
                dtype=_policy(before),
            )
    return None


def _strides(now: tuple[int | None, ...], before: tuple[int | None, ...]) -> Any:
    """Strides that take one spatial shape to the other, `None` if none do."""
    strides = []
    for large, small in zip(now, before, strict=True):
        if large == small:
            strides.append(1)
        elif large is None or small is None or small == 0:
            return None
        else:
            stride = -(-large // small)
            if stride < 1 or -(-large // stride) != small:
                return None
            strides.append(stride)
    return tuple(strides)


def _policy(spec: Spec) -> str:
    """Half-precision tensors come from layers with full-precision variables."""
    return f"mixed_{spec.dtype}" if spec.dtype in ("float16", "bfloat16") else spec.dtype
