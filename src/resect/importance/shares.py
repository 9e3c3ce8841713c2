"""The ablation on several workers: each takes some of the blocks, one behind the other.

What lies before its first block, a worker runs once for all of its blocks. So blocks stay in the
order of the model, and the first share is the smallest: its variants have the longest way to go.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from resect.errors import SurgeryError, WorkerError
from resect.importance.ablation import ablation, scores_of
from resect.importance.backends import as_numpy
from resect.importance.measured import Measured
from resect.importance.program import Program, program_of
from resect.importance.targets import Target
from resect.parallel import Shipped, run
from resect.parallel.parcels import packed
from resect.parallel.running import capacity
from resect.verbs import read


@dataclass(frozen=True)
class Share:
    """Ablates some of the blocks.

    Attributes:
        model: The model.
        data: Arrays, or what else travels.
        targets: All blocks.
        batch_size: As of `importance`.
        memory: As of `importance`.
    """

    model: Shipped
    data: Any
    targets: tuple[Target, ...]
    batch_size: int
    memory: int

    def __call__(self, part: tuple[int, int]) -> Measured:
        """What the blocks from one number up to another are worth."""
        program = program_of(read(self.model.model()))
        targets = self.targets[slice(*part)]
        for ref in (ref for target in targets for wire in target.wires for ref in wire):
            if ref not in program.position:
                raise SurgeryError(
                    f"The model that came to the worker has no '{ref}'.",
                    "Measure it without executor and workers.",
                )
        return ablation(program, targets, self.data, self.batch_size, self.memory)


def shared_ablation(
    program: Program,
    targets: Sequence[Target],
    data: Any,
    batch_size: int,
    memory: int,
    executor: Executor | None,
    workers: int | None,
) -> Measured:
    """As `ablation`, on several workers.

    Raises:
        SurgeryError: The data cannot travel, or a worker says so.
    """
    scores_of(program, targets[:1])
    model = Shipped(program.graph.model)
    share = Share(model, _travelling(data), tuple(targets), batch_size, memory)
    parts = divided(_weights(program, targets), capacity(executor, workers))
    found: dict[tuple[int, int], Measured] = {}
    outcomes: Any = run(share, parts, executor=executor, workers=workers)
    with contextlib.closing(outcomes):
        for outcome in outcomes:
            found[outcome.job] = outcome.result()
    measured = [found[part] for part in parts]
    rows = [row for each in measured for row in each.rows]
    return replace(measured[0], rows=rows, peak_bytes=max(each.peak_bytes for each in measured))


def _weights(program: Program, targets: Sequence[Target]) -> list[int]:
    """How far each variant has to run by itself, in steps."""
    return [
        len(program.steps) - min(program.position[out] for out, _ in target.wires)
        for target in targets
    ]


def divided(weights: Sequence[float], parts: int) -> list[tuple[int, int]]:
    """Contiguous parts that weigh about the same, as first and last + 1.

    Example:

    >>> divided([4, 3, 2, 1], 2)
    [(0, 1), (1, 4)]
    >>> divided([9, 1, 1, 1], 3)
    [(0, 1), (1, 2), (2, 4)]
    """
    parts = min(parts, len(weights))
    middle = np.cumsum(weights) - np.asarray(weights) / 2
    wanted = np.searchsorted(middle, np.sum(weights) * np.arange(1, parts) / parts)
    ends = [0]
    for i, end in enumerate(wanted, 1):  # no part is empty
        ends.append(min(max(int(end), ends[-1] + 1), len(weights) - parts + i))
    ends.append(len(weights))
    return list(itertools.pairwise(ends))


def _travelling(data: Any) -> Any:
    """Data as arrays where it is tensors.

    Raises:
        SurgeryError: It cannot be sent to another process.
    """
    if isinstance(data, (tuple, dict)) and not hasattr(data, "_asdict"):
        data = keras.tree.map_structure(_array, data)
    try:
        packed(data, "The data")
    except WorkerError as error:
        raise SurgeryError(
            f"A {type(data).__name__} cannot be sent to workers: {error.problem.reason}",
            "Give arrays, (x, y): each worker gets them once. Or measure without executor and "
            "workers.",
        ) from error
    return data


def _array(value: Any) -> Any:
    return as_numpy(value) if keras.ops.is_tensor(value) else value
