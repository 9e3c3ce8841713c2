"""What of this process's Keras must be the same in the process that does a job."""

from __future__ import annotations

import os
import platform
import uuid
from dataclasses import dataclass
from typing import Any

import keras

from resect.errors import WorkerError

#: Tells whether a job is done in the very process that gave it, as by threads.
PROCESS = uuid.uuid4().hex

#: What says how many threads a library uses, read as it is imported: BLAS and PyTorch, TensorFlow,
#: XLA (JAX).
THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "NPROC",
)


@dataclass(frozen=True)
class Settings:
    """Keras as it is set in a process.

    Attributes:
        process: Which process.
        backend: `"jax"`, `"tensorflow"` or `"torch"`.
        keras: The version of Keras.
        python: The version of Python, `"3.11"`.
        floatx: Of `keras.config`.
        epsilon: Likewise.
        image_data_format: Likewise.
        dtype_policy: The configuration of the global dtype policy.
    """

    process: str
    backend: str
    keras: str
    python: str
    floatx: str
    epsilon: float
    image_data_format: str
    dtype_policy: Any

    @classmethod
    def of_this_process(cls) -> Settings:
        """As it is now."""
        return cls(
            process=PROCESS,
            backend=keras.backend.backend(),
            keras=keras.version(),
            python=".".join(platform.python_version_tuple()[:2]),
            floatx=keras.config.floatx(),
            epsilon=keras.config.epsilon(),
            image_data_format=keras.config.image_data_format(),
            dtype_policy=keras.dtype_policies.serialize(keras.config.dtype_policy()),
        )

    def require_same(self) -> None:
        """Raises unless this process could give the same numbers.

        Raises:
            WorkerError: It has another backend or other versions.
        """
        mine = Settings.of_this_process()
        repairs = {
            "backend": f"Start the worker with the environment KERAS_BACKEND={self.backend}.",
            "keras": f"Install keras=={self.keras} there.",
            "python": f"Start the worker with Python {self.python}.",
        }
        for name, repair in repairs.items():
            here, there = getattr(mine, name), getattr(self, name)
            if here != there:
                raise WorkerError(
                    f"The worker on {platform.node()} has {name} {here}, and the job was given "
                    f"where it is {there}.",
                    repair,
                )

    def apply(self) -> None:
        """Sets Keras of this process, with fresh names for layers."""
        keras.utils.clear_session(free_memory=False)
        keras.config.set_floatx(self.floatx)
        keras.config.set_epsilon(self.epsilon)
        keras.config.set_image_data_format(self.image_data_format)
        keras.config.set_dtype_policy(keras.dtype_policies.deserialize(self.dtype_policy))


def environment(workers: int) -> dict[str, str]:
    """What the environment of one of several workers on this machine adds to this process's own.

    Each gets its share of the cores, unless the environment says how many threads there should be.
    """
    share = max(1, cores() // workers)
    threads = {name: str(share) for name in THREADS if name not in os.environ}
    return {**threads, "KERAS_BACKEND": keras.backend.backend()}


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
