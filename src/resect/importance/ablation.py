"""The change of the loss and the metrics when a block is bypassed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resect.errors import SurgeryError
from resect.importance.data import batches
from resect.importance.measured import Measured, Row, sample_shapes
from resect.importance.program import Program
from resect.importance.scores import Scores
from resect.importance.statistics import estimate
from resect.importance.sweep import Sweep
from resect.importance.targets import Target
from resect.keras_graph.scoring import why_not_scored


def scores_of(program: Program, targets: Sequence[Target]) -> Scores:
    """What keeps loss and metrics of the model and its variants.

    Raises:
        SurgeryError: The model has none that could be computed from predictions.
    """
    why = why_not_scored(program.graph.model)
    if why is not None:
        raise SurgeryError(*why)
    return Scores(program, targets)


def ablation(
    program: Program, targets: Sequence[Target], data: Any, batch_size: int, memory: int
) -> Measured:
    """Loss and metrics with each target bypassed, less those without."""
    scores = scores_of(program, targets)
    sweep = Sweep(program, targets, scores, memory)
    sweep.run(batches(data, batch_size))
    baseline, *results = scores.results()
    losses = scores.batch_losses()
    rows = [
        Row(
            target.name,
            target.ends,
            estimate(losses[i] - losses[0], scores.sizes),
            {name: found[name] - baseline[name] for name in baseline},
            (target,),
        )
        for i, (target, found) in enumerate(zip(targets, results, strict=True), 1)
    ]
    shapes = sample_shapes(program, sweep.first)
    return Measured(rows, scores.sizes, shapes, baseline=baseline, peak_bytes=sweep.meter.peak)
