"""What differs between backends: compiling a function, and its gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from resect.cost.shapes import byte_count


def compiles() -> bool:
    """Whether functions are compiled, so that it pays to share them."""
    return keras.backend.backend() in ("jax", "tensorflow")


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled once for all arguments of the same shapes; it takes only arrays.

    PyTorch runs it as it is, without a record for gradients.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.jit(function)
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(function, autograph=False)
    if backend == "torch":
        import torch

        return torch.no_grad()(function)
    return function


def values_of(variables: Sequence[Any]) -> list[Any]:
    """The present values of variables, to be passed to a compiled function."""
    if keras.backend.backend() == "tensorflow":
        return [variable.value.read_value() for variable in variables]
    return [variable.value for variable in variables]


def gradient_of(function: Callable[..., Any]) -> Callable[..., list[Any]]:
    """The gradients of a scalar function with respect to the tensors in its first argument.

    Args:
        function: Takes a list of tensors, and other structures of arrays.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.jit(jax.grad(function))
    if backend == "tensorflow":
        import tensorflow as tf

        def taped(at: list[Any], *others: Any) -> list[Any]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(at)
                value = function(at, *others)
            unconnected = tf.UnconnectedGradients.ZERO
            return tape.gradient(value, at, unconnected_gradients=unconnected)

        return tf.function(taped, autograph=False)

    def recorded(at: list[Any], *others: Any) -> list[Any]:
        import torch

        leaves = [tensor.detach().requires_grad_() for tensor in at]
        value = function(leaves, *others)
        return list(torch.autograd.grad(value, leaves, materialize_grads=True))

    return recorded


@contextlib.contextmanager
def no_gradients() -> Any:
    """PyTorch keeps no record for gradients inside."""
    with contextlib.ExitStack() as stack:
        if keras.backend.backend() == "torch":
            import torch

            stack.enter_context(torch.no_grad())
        yield


def as_numpy(tensor: Any) -> np.ndarray:
    """The values of a tensor."""
    found: Any = keras.ops.convert_to_numpy(tensor)
    return found


def bytes_in(tensor: Any) -> int:
    """Bytes of a tensor."""
    shape = tuple(int(size) for size in tensor.shape)
    return byte_count(shape, keras.backend.standardize_dtype(tensor.dtype))
