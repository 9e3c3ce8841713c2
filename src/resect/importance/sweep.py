"""Every model with one block bypassed, at about half the arithmetic of running each.

All those models agree with the original up to their block. So the original runs once, segment by
segment, and at the end of each block a variant parts from it, with what went into the block in the
place of what came out. Variants run along, one by one, until there are enough to be stacked along
the batch axis; a stack runs to the end of the model at once. Thus no more is held than the
original, the variants that wait for a stack and one stack, whatever the model's depth and the
data's size, and all of it runs in two shapes.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Mapping, Sequence
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
        self.first: Sequence[Any] = ()
        self._largest: list[tuple[int, ...]] = []
        self._sizes: dict[Hashable, int] = {}
        self._width: int | None = None
        self._pads = self._stacks = self._adds_losses = False
        self._alone: list[tuple[Mapping[Ref, Ref], Segment]] = []

    def run(self, batches: Iterable[Batch]) -> None:
        """Runs every variant on every batch."""
        for batch in batches:
            self._batch(batch)

    # One batch

    def _batch(self, batch: Batch) -> None:
        inputs = flat_inputs(self.program.graph, batch.x)
        self._prepare(inputs, batch.size)
        if self._pads:  # fewer shapes to compile for, and no sample sees the rows that are added
            kind = tuple(shape[1:] for shape in _shapes(inputs))
            size = self._sizes[kind] = max(batch.size, self._sizes.get(kind, 0))
            inputs = [_padded(array, size) for array in inputs]
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

    def _finish(self, flow: Flow, begin: int) -> None:
        for i in range(begin, len(self.segments)):
            flow = self._advanced(flow, i)  # nothing else may refer to the old one
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

    def _prepare(self, inputs: Sequence[Any], size: int) -> None:
        """Finds out how many variants go into a stack; again for a batch larger than those before.

        Only one does, where samples see each other.

        Raises:
            SurgeryError: Not even one at a time fits into the memory.
        """
        shape = tuple(itertools.chain.from_iterable(_shapes(inputs)))
        if any(_within(shape, largest) for largest in self._largest):
            return
        origin, largest = self._measured(inputs)
        if 4 * largest > self.memory:
            raise SurgeryError(
                f"A batch of {size} samples takes {byte_size(largest)} between two blocks, and "
                f"four times as much has to be held: more than {byte_size(self.memory)}.",
                f"Use smaller batches, or allow more: memory={4 * largest}.",
            )
        width = max(min(WIDTH, (self.memory // largest - 2) // 3, len(self.targets)), 1)
        if self._width is None:
            self.first = inputs
            free = not self._adds_losses and self._batched()
            self._pads = free and size > 1 and self._ignores_padding(inputs, origin)
            alone = width < 2 or not free or (size > 1 and not self._pads)
            self._stacks = not alone and self._agrees(inputs, width if compiles() else 2)
        self._width = min(width, self._width or width) if self._stacks else 1
        self._largest.append(shape)

    def _measured(self, inputs: Sequence[Any]) -> tuple[Flow, int]:
        """The original at its end, and the most bytes that it takes between two segments."""
        flow = self.meter.take(self._started(inputs))
        largest = flow.nbytes
        for i in range(len(self.segments)):
            flow = self._advanced(flow, i)
            largest = max(largest, flow.nbytes)
        self.meter.release(flow)
        self._adds_losses = flow.loss is not None
        return flow, largest

    def _ignores_padding(self, inputs: Sequence[Any], origin: Flow) -> bool:
        """Whether samples give the same where others in their batch have been replaced."""
        rows = len(inputs[0])
        part = slice(0, rows // 2)
        padded = [array if array is None else _padded(array[part], rows) for array in inputs]
        other, _ = self._measured(padded)
        return all(
            _alike(held.tensor[part], other.values[ref].tensor, part)
            for ref, held in origin.values.items()
        )

    def _batched(self) -> bool:
        """Whether all that is held between segments has a batch axis of free length."""
        held = {ref for segment in self.segments for ref in segment.kept} | {*self.program.inputs}
        specs = (self.program.specs[ref] for ref in held)
        return all(spec.shape and spec.shape[0] is None and not spec.sparse for spec in specs)

    def _agrees(self, inputs: Sequence[Any], width: int) -> bool:
        """Whether the first variants give the same in a stack, beside each other, as alone."""
        try:
            waiting, begin = self._first_variants(inputs, width)
            rows, last = len(inputs[0]), len(waiting) - 1
            if last < 1:
                return False
            alone = {j: self._at_the_end(self.meter.take(waiting[j]), begin) for j in (0, last)}
            stack = self._at_the_end(self._stacked(waiting), begin)
        except SurgeryError:
            raise
        except Exception:  # whatever a backend says of a shape that is written into the model
            return False
        finally:
            self.meter.now = 0
        return all(
            _alike(held.tensor, stack.values[ref].tensor, slice(j * rows, (j + 1) * rows))
            for j, flow in alone.items()
            for ref, held in flow.values.items()
        )

    def _first_variants(self, inputs: Sequence[Any], count: int) -> tuple[list[Flow], int]:
        """Variants that wait for a stack, and the segment that they wait at."""
        origin = self.meter.take(self._started(inputs))
        waiting: list[Flow] = []
        for i in range(len(self.segments)):
            origin = self._advanced(origin, i)
            for j in range(len(waiting)):
                waiting[j] = self._advanced(waiting[j], i)
            for number, target in self._parting(i):
                if len(target.wires) == 1 and len(waiting) < count:
                    flow = self.meter.take(_bypassed(origin, number, target))
                    waiting.append(self._slim(flow, i))
                    del flow
            if len(waiting) == count:
                self.meter.release(origin)
                return waiting, i + 1
        self.meter.release(origin)
        return waiting, len(self.segments)

    def _at_the_end(self, flow: Flow, begin: int) -> Flow:
        for i in range(begin, len(self.segments)):
            flow = self._advanced(flow, i)
        return flow


def _shapes(inputs: Sequence[Any]) -> list[tuple[int, ...]]:
    return [() if array is None else tuple(array.shape) for array in inputs]


def _within(shape: Sequence[int], other: Sequence[int]) -> bool:
    pairs = zip(shape, other, strict=False)
    return len(shape) == len(other) and all(own <= most for own, most in pairs)


def _alike(one: Any, stacked: Any, part: slice) -> bool:
    """Whether predictions are those of a part of a stack, but for how backends round."""
    fine = "16" not in keras.backend.standardize_dtype(one.dtype)
    a, b = (as_numpy(keras.ops.cast(t, "float32")) for t in (one, stacked))
    if len(b) < part.stop or a.shape != b[part].shape:
        return False
    scale = float(np.nanmax(np.abs(a), initial=1e-6))
    close = 1e-4 if fine else 1e-2
    return bool(np.allclose(a, b[part], rtol=close, atol=close * scale, equal_nan=True))


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
    if array is None or len(array) == size:
        return array
    return np.resize(array, (size, *array.shape[1:]))
