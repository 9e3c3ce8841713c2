"""A first-order estimate of what bypassing each block changes, from one backward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from resect.errors import SurgeryError
from resect.graph import Ref, refs
from resect.importance.backends import as_numpy, compiled, gradient_of, no_gradients, values_of
from resect.importance.data import Batch, batches, flat_inputs
from resect.importance.execution import Held, converted, evaluate, variables_of
from resect.importance.measured import Measured, Row, sample_shapes
from resect.importance.program import Program
from resect.importance.scores import packed
from resect.importance.statistics import estimate
from resect.importance.targets import Target
from resect.keras_graph.private import get_keras_mask
from resect.keras_graph.scoring import Scorer, masked, why_not_scored


def taylor(program: Program, targets: Sequence[Target], data: Any, batch_size: int) -> Measured:
    """The gradient of the loss at what leaves each block, times what enters less what leaves."""
    slopes = _Slopes(program, targets)
    found: list[list[float]] = [[] for _ in targets]
    sizes: list[int] = []
    first: Sequence[Any] = ()
    for batch in batches(data, batch_size):
        inputs = flat_inputs(program.graph, batch.x)
        first = first or inputs
        sizes.append(batch.size)
        for values, value in zip(found, slopes.estimates(inputs, batch), strict=True):
            values.append(value)
    rows = [
        Row(target.name, target.ends, estimate(values, sizes), {}, (target,))
        for target, values in zip(targets, found, strict=True)
    ]
    return Measured(rows, sizes, sample_shapes(program, first))


class _Slopes:
    """Gradients of the loss at what leaves each target."""

    def __init__(self, program: Program, targets: Sequence[Target]) -> None:
        why = why_not_scored(program.graph.model)
        if why is not None:
            raise SurgeryError(*why)
        self._program, self._targets = program, targets
        self._scorer, self._started = Scorer(program.graph.model), False
        wires = [wire for target in targets for wire in target.wires]
        self._ends = list(dict.fromkeys(out for out, _ in wires))
        self._places = list(dict.fromkeys(ref for wire in wires for ref in wire))
        self._variables = variables_of(program.steps)
        self._forward = compiled(self._values)
        self._backward = gradient_of(self._loss)

    def estimates(self, inputs: Sequence[Any], batch: Batch) -> list[float]:
        """The estimate for each target, for one batch."""
        graph = self._program.graph
        given = [
            array if array is None else converted(array, graph.spec(ref))
            for ref, array in zip(self._program.inputs, inputs, strict=True)
        ]
        y, weight = (_mapped(keras.ops.convert_to_tensor, part) for part in batch[1:])
        variables = values_of(self._variables)
        seen, outputs = self._forward(variables, given)
        values = dict(zip(self._places, seen, strict=True))
        if not self._started:
            predictions = packed(self._program, [masked(*pair) for pair in outputs])
            with no_gradients():
                self._scorer.start(y, predictions, _mapped(keras.ops.copy, weight))
            self._started = True
            _check(self._ends, values)
        nothing = [keras.ops.zeros_like(values[ref]) for ref in self._ends]
        slopes = self._backward(nothing, variables, given, y, weight)
        slope = dict(zip(self._ends, slopes, strict=True))
        return [
            sum(_product(slope[out], values[into], values[out]) for out, into in target.wires)
            for target in self._targets
        ]

    def _run(self, variables: Any, given: Any, changed: Any = None) -> tuple[dict[Ref, Held], Any]:
        mapping = list(zip(self._variables, variables, strict=True))
        held = {ref: Held(array) for ref, array in zip(self._program.inputs, given, strict=True)}
        with keras.StatelessScope(mapping, collect_losses=True) as scope:
            made = evaluate(self._program.steps, held, scope, changed)
            losses: list[Any] = [keras.ops.sum(loss) for loss in scope.losses]
        return made, sum(losses) if losses else 0.0

    def _values(self, variables: Any, given: Any) -> tuple[list[Any], list[tuple[Any, Any]]]:
        made, _ = self._run(variables, given)
        return [made[ref].tensor for ref in self._places], [tuple(made[r]) for r in self._outputs]

    def _loss(self, added: Any, variables: Any, given: Any, y: Any, weight: Any) -> Any:
        shift = dict(zip(self._ends, added, strict=True))

        def changed(ref: Ref, tensor: Any) -> Any:
            if ref not in shift:
                return tensor
            return masked(tensor + shift[ref], get_keras_mask(tensor))

        made, extra = self._run(variables, given, changed)
        predictions = packed(self._program, [masked(*made[ref]) for ref in self._outputs])
        own = _mapped(keras.ops.copy, weight)
        return self._scorer.loss_of(y, predictions, own, extra)

    @property
    def _outputs(self) -> list[Ref]:
        return list(dict.fromkeys(refs(self._program.outputs)))


def _product(slope: Any, into: Any, out: Any) -> float:
    arrays = (as_numpy(keras.ops.cast(t, "float32")).astype("float64") for t in (slope, into, out))
    gradient, entering, leaving = arrays
    return float((gradient * (entering - leaving)).sum())


def _check(ends: Sequence[Ref], values: Mapping[Ref, Any]) -> None:
    for ref in ends:
        dtype = keras.backend.standardize_dtype(values[ref].dtype)
        if "float" not in dtype:
            raise SurgeryError(
                f"What leaves '{ref.call.layer}' is {dtype}, which has no gradient.",
                "Leave that block out, or measure by ablation.",
                ref.call.layer,
            )


def _mapped(function: Any, structure: Any) -> Any:
    return keras.tree.map_structure(lambda t: None if t is None else function(t), structure)
