"""The values of variables and tensors: independent copies, on each backend.

Three traps are handled here and nowhere else. JAX's trainer donates its arrays, so a copy that is
a reference dies with the first training step of either model. TensorFlow's and PyTorch's
variables take a value over as it stands, storage included, unless a new one is made.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


def copied_variable(variable: Any) -> Any:
    """A new variable with the name, path, flags and value of another, and storage of its own."""
    new = object.__new__(type(variable))
    new.__dict__.update({k: v for k, v in vars(variable).items() if not k.startswith("_self_")})
    if variable._value is not None:
        new._value = _COPIED_STORAGE[keras.backend.backend()](variable)
    return new


def made_variable(hollow: Any, value: Any) -> Any:
    """A variable like one that has no value yet, with a value.

    Args:
        hollow: A variable that was made without its value.
        value: An array; `None` to let its initializer say.
    """
    initializer = hollow._initializer if value is None else np.asarray(value)
    new = keras.Variable(
        initializer,
        shape=hollow.shape if value is None else None,
        dtype=hollow._dtype,
        trainable=hollow.trainable,
        autocast=hollow._autocast,
        name=hollow.name,
    )
    for name in ("_regularizer", "_constraint", "_overwrite_with_gradient"):
        if name in vars(hollow):
            new.__dict__[name] = hollow.__dict__[name]
    return new


def copied_tensor(tensor: Any) -> Any:
    """The value of a backend tensor, in storage of its own where tensors can be written to."""
    if keras.backend.backend() == "torch":
        return _torch_clone(tensor.detach()) if hasattr(tensor, "detach") else tensor
    if keras.backend.backend() == "jax":
        return _jax_copy(tensor)
    return tensor


def is_backend_tensor(value: Any) -> bool:
    """Whether a value is a tensor of the backend, or one of its small immutable types."""
    if keras.ops.is_tensor(value):
        return True
    module = type(value).__module__.split(".")[0]
    if module == "torch":
        import torch

        return isinstance(value, (torch.dtype, torch.device, torch.Size))
    if module == "tensorflow":
        import tensorflow as tf

        return isinstance(value, (tf.TypeSpec, tf.DType, tf.TensorShape, tf.distribute.Strategy))
    return False


def is_tracking_reference(value: Any) -> bool:
    """Whether a value is TensorFlow's note that an object is reachable under a name."""
    kind = type(value)
    return kind.__name__ == "TrackableReference" and kind.__module__.startswith("tensorflow.")


def _jax_storage(variable: Any) -> Any:
    return _jax_copy(variable._value)


def _jax_copy(array: Any) -> Any:
    """A copy on the same devices; `jnp.copy` would compile a program for each new shape."""
    import jax

    return jax.device_put(array, may_alias=False)


def _torch_storage(variable: Any) -> Any:
    import torch

    value = variable._value
    return torch.nn.Parameter(_torch_clone(value.detach()), requires_grad=value.requires_grad)


def _torch_clone(value: Any) -> Any:
    """A clone. On a CPU its bytes are copied at once: PyTorch's threads take longer to meet."""
    import torch

    if value.device.type != "cpu" or value.layout != torch.strided or not value.is_contiguous():
        return value.clone()
    new = torch.empty_like(value)
    new.reshape(-1).view(torch.uint8).numpy()[:] = value.reshape(-1).view(torch.uint8).numpy()
    return new


def _tensorflow_storage(variable: Any) -> Any:
    import tensorflow as tf

    old = variable._value
    return tf.Variable(
        old.value(),
        dtype=old.dtype,
        trainable=old.trainable,
        name=variable.name,
        aggregation=old.aggregation,
        synchronization=old.synchronization,
    )


_COPIED_STORAGE = {
    "jax": _jax_storage,
    "torch": _torch_storage,
    "tensorflow": _tensorflow_storage,
}
