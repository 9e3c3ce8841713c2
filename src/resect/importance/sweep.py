"""Every model with one block bypassed, at about half the arithmetic of running each.

All those models agree with the original up to their block. So the original runs once, segment by
segment, and at the end of each block a variant parts from it, with what went into the block in the
place of what came out. Variants run along, one by one, until there are enough to be stacked along
the batch axis; a stack runs to the end of the model at once. Thus no more is held than the
original, the variants that wait for a stack and one stack, whatever the model's depth and the
data's size, and all of it runs in two shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from resect.errors import SurgeryError
from resect.graph import Ref
from resect.importance.backends import as_numpy, compiles
from resect.importance.data import Batch, flat_inputs
from resect.importance.execution import Executor, Held, converted
from resect.importance.program import Program, Segment, bypassed, cut
from resect.importance.scores import Scores
from resect.importance.targets import Target
from resect.text import byte_size

WIDTH = 8


@dataclass(frozen=True, eq=False)
class Flow:
    """One variant on its way, or several in a stack.

    Attributes:
        members: Which variants.
        values: What is held, by value.
        loss: What layers have added to the loss so far.
        wires: Values that become others later on: of a block in a model that is called again.
    """

    members: tuple[int, ...]
    values: Mapping[Ref, Held]
    loss: Any = None
    wires: Mapping[Ref, Ref] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """What its values take in memory."""
        return sum(held.nbytes for held in self.values.values())


@dataclass
class Meter:
    """Counts bytes that are held."""

    now: int = 0
    peak: int = 0

    def take(self, flow: Flow) -> Flow:
        """Counts a flow."""
        self.now += flow.nbytes
        self.peak = max(self.peak, self.now)
        return flow

    def release(self, *flows: Flow) -> None:
        """Stops counting flows."""
        self.now -= sum(flow.nbytes for flow in flows)


class Sweep:
    """Runs the original and every variant on batches of data.

    Args:
        program: The model.
        targets: What is bypassed, one at a time.
        scores: Takes the predictions: of the original as number 0, of the variants from 1.
        memory: The most bytes that may be held between segments.

    Attributes:
        meter: The bytes that are held.
        first: The inputs of the first batch.
    """

    def __init__(
        self, program: Program, targets: Sequence[Target], scores: Scores, memory: int
    ) -> None:
        self.program, self.targets, self.scores = program, targets, scores
        self.memory, self.meter, self.executor = memory, Meter(), Executor()
        position = program.position
        self._ends = sorted({position[out] for t in targets for out, _ in t.wires})
        starts: dict[Ref, int] = {}
        for out, into in (wire for target in targets for wire in target.wires):
            starts[into] = max(starts.get(into, -1), position[out] + 1)
        self.segments = cut(program, self._ends, starts)
        self._width: int | None = None
        self.first: Sequence[Any] = ()
        self._size = 0
        self._adds_losses = False
        self._alone: list[tuple[Mapping[Ref, Ref], Segment]] = []

    def run(self, batches: Iterable[Batch]) -> None:
        """Runs every variant on every batch."""
        for batch in batches:
            self._batch(batch)

    # One batch

    def _batch(self, batch: Batch) -> None:
        inputs = flat_inputs(self.program.graph, batch.x)
        if self._width is None:
            self.first = inputs
            self._width = self._decide(inputs, batch.size)
        size = batch.size
        if self._independent and size < self._size:
            inputs = [_padded(array, self._size) for array in inputs]
        elif self._independent:
            self._size = size
        self._rows = len(inputs[0])
        self.scores.begin(batch)
        if self._adds_losses:
            self._one_by_one(inputs)
            return
        origin = self.meter.take(self._started(inputs))
        waiting: list[Flow] = []
        for i in range(len(self.segments)):
            origin = self._advanced(origin, i)
            for j in range(len(waiting)):
                waiting[j] = self._advanced(waiting[j], i)  # lets the old one go before the next
            self._part(origin, i, waiting)
        for flow in [*waiting, origin]:
            self._score(flow)

    def _part(self, origin: Flow, i: int, waiting: list[Flow]) -> None:
        """Begins the variants that part after a segment, and runs full stacks to the end."""
        assert self._width is not None
        for number, target in self._parting(i):
            flow = self.meter.take(_bypassed(origin, number, target))
            if flow.wires or self._width == 1:
                self._finish(flow, i + 1)
            else:
                waiting.append(self._slim(flow, i))
            del flow
            if len(waiting) >= self._width > 1:
                self._finish(self._stacked(waiting), i + 1)

    def _one_by_one(self, inputs: Sequence[Any]) -> None:
        """Each variant by itself: what its layers add to the loss depends on which are left."""
        if not self._alone:
            wires = [{}, *(dict(target.wires) for target in self.targets)]
            self._alone = [(each, bypassed(self.program, each)) for each in wires]
        given = self._started(inputs).values
        for number, (wires, segment) in enumerate(self._alone):
            made, loss = self.executor.run(segment, given)
            values = {**given, **made}
            values |= {out: values[into] for out, into in wires.items() if into in values}
            self._score(self.meter.take(Flow((number,), values, loss)))

    def _started(self, inputs: Sequence[Any]) -> Flow:
        graph = self.program.graph
        held = {
            ref: Held(array if array is None else converted(array, graph.spec(ref)))
            for ref, array in zip(self.program.inputs, inputs, strict=True)
        }
        return Flow((0,), held)

    def _parting(self, segment: int) -> list[tuple[int, Target]]:
        """The variants that begin after a segment."""
        if segment >= len(self._ends):
            return []
        end, position = self._ends[segment], self.program.position
        first = [min(position[out] for out, _ in target.wires) for target in self.targets]
        return [
            (n, t)
            for n, (t, at) in enumerate(zip(self.targets, first, strict=True), 1)
            if at == end
        ]

    def _advanced(self, flow: Flow, i: int) -> Flow:
        """A flow after one more segment."""
        segment = self.segments[i]
        made, loss = self.executor.run(segment, flow.values)
        values = {**flow.values, **made}
        for out in segment.outputs:
            if out in flow.wires:
                values[out] = values[flow.wires[out]]
        keep = segment.kept if flow.wires or flow.members == (0,) else segment.kept_by_all
        values = {ref: held for ref, held in values.items() if ref in keep}
        if loss is not None and flow.loss is not None:
            loss = loss + flow.loss
        new = Flow(flow.members, values, flow.loss if loss is None else loss, flow.wires)
        self.meter.take(new)
        self.meter.release(flow)
        return new

    def _slim(self, flow: Flow, i: int) -> Flow:
        """Without what only later variants start from."""
        keep = self.segments[i].kept_by_all
        values = {ref: held for ref, held in flow.values.items() if ref in keep}
        new = Flow(flow.members, values, flow.loss)
        self.meter.take(new)
        self.meter.release(flow)
        return new

    def _finish(self, flow: Flow, first: int) -> None:
        for i in range(first, len(self.segments)):
            flow = self._advanced(flow, i)
        self._score(flow)

    def _score(self, flow: Flow) -> None:
        self.scores.add(flow.members, flow.values, self._rows, flow.loss)
        self.meter.release(flow)

    # Stacks

    def _stacked(self, flows: list[Flow]) -> Flow:
        """Several variants at one place, along the batch axis; the list is empty afterwards."""
        values = {ref: _together([flow.values[ref] for flow in flows]) for ref in flows[0].values}
        stack = self.meter.take(Flow(tuple(m for flow in flows for m in flow.members), values))
        self.meter.release(*flows)
        flows.clear()
        return stack

    def _decide(self, inputs: Sequence[Any], size: int) -> int:
        """How many variants go into a stack: 1 where samples may not be put together.

        Raises:
            SurgeryError: Not even one at a time fits into the memory.
        """
        flow = self.meter.take(self._started(inputs))
        largest = flow.nbytes
        for i in range(len(self.segments)):
            flow = self._advanced(flow, i)
            largest = max(largest, flow.nbytes)
        self._adds_losses = flow.loss is not None
        self.meter.now = 0
        if 4 * largest > self.memory:
            raise SurgeryError(
                f"A batch of {size} samples takes {byte_size(largest)} between two blocks, and "
                f"four times as much has to be held: more than {byte_size(self.memory)}.",
                f"Use smaller batches, or allow more: memory={4 * largest}.",
            )
        width = min(WIDTH, (self.memory // largest - 2) // 3, len(self.targets))
        self._independent = not self._adds_losses and self._batched()
        if self._independent and width > 1:
            self._independent = self._agrees(inputs, flow, width if compiles() else 2)
        return width if self._independent and width > 1 else 1

    def _batched(self) -> bool:
        """Whether all that is held between segments has a batch axis of free length."""
        held = {ref for segment in self.segments for ref in segment.kept} | {*self.program.inputs}
        specs = (self.program.specs[ref] for ref in held)
        return all(spec.shape and spec.shape[0] is None and not spec.sparse for spec in specs)

    def _agrees(self, inputs: Sequence[Any], alone: Flow, width: int) -> bool:
        """Whether samples give the same in a stack, beside others, as by themselves."""
        rolled = [[np.roll(array, i, axis=0) for array in inputs] for i in range(width)]
        together = [np.concatenate(arrays) for arrays in zip(*rolled, strict=True)]
        flow = self.meter.take(Flow((), self._started(together).values))
        try:
            for i in range(len(self.segments)):
                flow = self._advanced(flow, i)
        except SurgeryError:
            raise
        except Exception:  # whatever a backend says of a shape that is written into the model
            return False
        finally:
            self.meter.now = 0
        rows = len(inputs[0])
        return all(
            _alike(held.tensor, flow.values[ref].tensor, rows) for ref, held in alone.values.items()
        )


def _alike(one: Any, stacked: Any, rows: int) -> bool:
    a, b = (as_numpy(keras.ops.cast(t, "float32")) for t in (one, stacked))
    if len(b) <= rows or a.shape != b[:rows].shape:
        return False
    scale = float(np.nanmax(np.abs(a), initial=1e-6))
    return bool(np.allclose(a, b[:rows], rtol=1e-3, atol=1e-3 * scale, equal_nan=True))


def _bypassed(origin: Flow, number: int, target: Target) -> Flow:
    (out, into), *later = target.wires
    values = {**origin.values}
    if out in values:
        values[out] = values[into]
    return Flow((number,), values, origin.loss, dict(later))


def _together(parts: Sequence[Held]) -> Held:
    tensor = keras.ops.concatenate([part.tensor for part in parts], axis=0)
    if all(part.mask is None for part in parts):
        return Held(tensor)
    return Held(tensor, keras.ops.concatenate([part.mask for part in parts], axis=0))


def _padded(array: Any, size: int) -> Any:
    return array if array is None else np.resize(array, (size, *array.shape[1:]))
