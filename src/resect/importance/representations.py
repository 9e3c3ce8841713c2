"""What enters and leaves each block: how much it changes, and how alike it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import keras
import numpy as np

from resect.errors import SurgeryError
from resect.graph import Ref
from resect.importance.backends import as_numpy
from resect.importance.data import Batch, batches, flat_inputs
from resect.importance.execution import Executor, Held, converted
from resect.importance.measured import Measured, Row, sample_shapes
from resect.importance.program import Program, cut
from resect.importance.result import Similarity
from resect.importance.statistics import Estimate, cosines, estimate, unbiased_hsic
from resect.importance.targets import Target


class Seen(NamedTuple):
    """Representations of a batch at one place.

    Attributes:
        values: Of shape (batch, positions, features), as `float64`.
        counts: How much each position counts, of shape (batch, positions): nothing for padding.
    """

    values: np.ndarray
    counts: np.ndarray


_Batch = tuple[float, float]  # what a batch says, and how much it counts


class Watch:
    """Runs a model, and shows what is at some places of it.

    Args:
        program: The model.
        places: The values to show.
    """

    def __init__(self, program: Program, places: Sequence[Ref]) -> None:
        self.program, self.places = program, tuple(dict.fromkeys(places))
        position = program.position
        ends = {position[ref] for ref in self.places}
        self._segments = cut(program, ends, {ref: position[ref] + 1 for ref in self.places})
        self._executor = Executor()
        self._masks = _masks(program, sorted(self.places, key=position.__getitem__))
        self.sizes: list[int] = []
        self.first: Sequence[np.ndarray] = ()

    def each(self, data: object, batch_size: int) -> Iterator[dict[Ref, Seen]]:
        """What is at each place, batch by batch."""
        for batch in batches(data, batch_size):
            inputs = flat_inputs(self.program.graph, batch.x)
            self.first = self.first or inputs
            self.sizes.append(batch.size)
            yield self._seen(batch, inputs)

    def _seen(self, batch: Batch, inputs: Sequence[np.ndarray]) -> dict[Ref, Seen]:
        graph = self.program.graph
        values = {
            ref: Held(array if array is None else converted(array, graph.spec(ref)))
            for ref, array in zip(self.program.inputs, inputs, strict=True)
        }
        weights = _sample_weights(batch)
        given = dict(zip(self.program.inputs, inputs, strict=True))

        def seen(ref: Ref, held: Held) -> Seen:
            masks = [given[mask] for mask in self._masks[ref]]
            return _flat(held, weights, [mask != 0 for mask in masks if mask is not None])

        found = {ref: seen(ref, values[ref]) for ref in self.places if ref in values}
        for segment in self._segments:
            made, _ = self._executor.run(segment, values)
            new = [ref for ref in self.places if ref in made]
            found |= {ref: seen(ref, made[ref]) for ref in new}
            values = {r: held for r, held in {**values, **made}.items() if r in segment.kept}
        return found


def _sample_weights(batch: Batch) -> np.ndarray:
    """One weight a sample; of several arrays of weights, none is that of the samples."""
    flat = [array for array in keras.tree.flatten(batch.weight) if array is not None]
    if not flat:
        return np.ones(batch.size)
    if len(flat) > 1 or flat[0].reshape(batch.size, -1).shape[1] != 1:
        raise SurgeryError(
            "The sample weights are not one number a sample.",
            "Give one weight for each sample, or none.",
        )
    return flat[0].reshape(-1).astype("float64")


def _masks(program: Program, places: Sequence[Ref]) -> dict[Ref, Sequence[Ref]]:
    """For each place the inputs that say which positions count: `padding_mask` and the like.

    Where there are several, as in an encoder with a decoder, it is the one that came in last; at a
    place before all of them, that of the first place behind it. Of two where neither came in behind
    the other, both.
    """
    masks = [r for r in program.inputs if r.call.layer.endswith("mask") and _rank(program, r) == 2]
    if len(masks) < 2:
        return dict.fromkeys(places, masks)
    behind = {ref: _behind(program, ref).intersection(places) for ref in [*masks, *places]}
    last: dict[Ref, Sequence[Ref]] = {}
    for ref in places:
        seen = [mask for mask in masks if ref in behind[mask]]
        last[ref] = [m for m in seen if not any(behind[o] < behind[m] for o in seen)]
    following = {ref: [last[p] for p in places if p in behind[ref] and last[p]] for ref in places}
    return {ref: last[ref] or next(iter(following[ref]), masks) for ref in places}


def _rank(program: Program, ref: Ref) -> int:
    return len(program.specs[ref].shape)


def _behind(program: Program, ref: Ref) -> set[Ref]:
    """All values that are computed from one."""
    found = {ref}
    for step in program.steps:
        if not found.isdisjoint(step.inputs):
            found.update(step.outputs)
    return found - {ref}


def _flat(held: Held, weights: np.ndarray, paddings: Sequence[np.ndarray]) -> Seen:
    values = as_numpy(keras.ops.cast(held.tensor, "float32")).astype("float64")
    if values.ndim > 2 and keras.config.image_data_format() == "channels_first" != values.ndim == 3:
        values = np.moveaxis(values, 1, -1)
    batch, *positions, features = (*values.shape, 1) if values.ndim == 1 else values.shape
    counts = np.ones((batch, *positions)) * weights.reshape(-1, *[1] * len(positions))
    masks = [as_numpy(held.mask)] if held.mask is not None else []
    for mask in [*masks, *paddings]:
        if mask.shape == counts.shape[: mask.ndim]:
            counts = counts * mask.reshape(*mask.shape, *[1] * (counts.ndim - mask.ndim))
    return Seen(values.reshape(batch, -1, features), counts.reshape(batch, -1))


# Methods


def influence(
    program: Program, targets: Sequence[Target], data: object, batch_size: int
) -> Measured:
    """1 − cosine of what enters and what leaves, over the positions that count."""
    watch = Watch(program, [ref for t in targets for ref in (t.start, t.end)])
    found: list[list[_Batch]] = [[] for _ in targets]
    for seen in watch.each(data, batch_size):
        for values, target in zip(found, targets, strict=True):
            values.append(_mean(1 - _cosines(seen, target.start, target.end), seen[target.end]))
    rows = [
        Row(t.name, t.ends, estimate(*zip(*values, strict=True)), {}, (t,))
        for t, values in zip(targets, found, strict=True)
    ]
    return Measured(rows, watch.sizes, sample_shapes(program, watch.first))


def angular(
    program: Program, targets: Sequence[Target], data: object, batch_size: int, span: int
) -> Measured:
    """The angle between what enters a block and what leaves the last of several in a row."""
    chains = _chains(targets)
    longest = max(len(chain) for chain in chains.values())
    if span > longest:
        raise SurgeryError(
            f"There are no {span} blocks in a row: the longest row has {longest}.",
            "Take fewer, or name the blocks.",
        )
    watch = Watch(program, [ref for t in targets for ref in (t.start, t.end)])
    found: dict[tuple[int, int], list[_Batch]] = {}
    for seen in watch.each(data, batch_size):
        for first, chain in chains.items():
            for length, last in enumerate(chain, 1):
                start, end = targets[first].start, targets[last].end
                angles = np.arccos(np.clip(_cosines(seen, start, end), -1, 1)) / np.pi
                found.setdefault((first, length), []).append(_mean(angles, seen[end]))
    estimates = {key: estimate(*zip(*values, strict=True)) for key, values in found.items()}
    rows = [
        _span_row([targets[i] for i in chain[:span]], estimates[first, span])
        for first, chain in chains.items()
        if len(chain) >= span
    ]
    table = _angles(targets, chains, longest, estimates)
    shapes = sample_shapes(program, watch.first)
    return Measured(rows, watch.sizes, shapes, similarity=table)


def _chains(targets: Sequence[Target]) -> dict[int, list[int]]:
    """For each target those that follow in a row, itself first: each starts where one ended."""
    by_start = {target.start: i for i, target in reversed(list(enumerate(targets)))}
    chains = {}
    for i in range(len(targets)):
        chain = [i]
        while (after := by_start.get(targets[chain[-1]].end)) is not None and after not in chain:
            chain.append(after)
        chains[i] = chain
    return chains


def _span_row(part: Sequence[Target], found: Estimate) -> Row:
    first, last = part[0], part[-1]
    name = first.name if len(part) == 1 else f"{first.name} … {last.name}"
    return Row(name, (first.ends[0], last.ends[1]), found, {}, tuple(part))


def _angles(
    targets: Sequence[Target],
    chains: dict[int, list[int]],
    longest: int,
    found: dict[tuple[int, int], Estimate],
) -> Similarity:
    nothing = Estimate(float("nan"), float("nan"), float("nan"))
    values = tuple(
        tuple(found.get((first, length), nothing).mean for length in range(1, longest + 1))
        for first in chains
    )
    columns = tuple(f"{n} block{'s' if n > 1 else ''}" for n in range(1, longest + 1))
    return Similarity(tuple(target.name for target in targets), columns, values)


def cka(program: Program, targets: Sequence[Target], data: object, batch_size: int) -> Measured:
    """1 − linear CKA of what enters and what leaves, and the CKA between all those places."""
    watch = Watch(program, [ref for t in targets for ref in (t.start, t.end)])
    places = sorted(watch.places, key=lambda ref: program.position[ref])
    each: list[np.ndarray] = []
    counted: list[int] = []
    for seen in watch.each(data, batch_size):
        grams = [_gram(seen[ref], ref) for ref in places]
        counted.append(len(grams[0]))
        each.append(np.array([[unbiased_hsic(a, b) for b in grams] for a in grams]))
    table = _normalised(np.average(each, axis=0, weights=counted))
    number = {ref: i for i, ref in enumerate(places)}
    rows = []
    for target in targets:
        a, b = number[target.start], number[target.end]
        apart = estimate([1 - _normalised(hsic)[a, b] for hsic in each], counted)
        shift = 1 - table[a, b] - apart.mean
        found = Estimate(1 - table[a, b], apart.low + shift, apart.high + shift)
        rows.append(Row(target.name, target.ends, found, {}, (target,)))
    names = tuple(_label(program, ref) for ref in places)
    values = tuple(tuple(float(v) for v in row) for row in table)
    shapes = sample_shapes(program, watch.first)
    return Measured(rows, watch.sizes, shapes, similarity=Similarity(names, names, values))


def _label(program: Program, ref: Ref) -> str:
    name = ref.call.layer
    return name if not ref.call.number else f"{name}@{ref.call.number}"


def _normalised(hsic: np.ndarray) -> np.ndarray:
    own = np.sqrt(np.maximum(np.diag(hsic), 1e-300))
    return hsic / own[:, None] / own[None, :]


def _gram(seen: Seen, ref: Ref) -> np.ndarray:
    """Inner products of the samples, those of weight nothing left out, padding as zeros."""
    weights = seen.counts.max(axis=1)
    if not np.isin(weights, (0, 1)).all():
        raise SurgeryError(
            "CKA has no unbiased estimate with sample weights other than 0 and 1.",
            "Leave the weights out, or set them to 0 for samples that should not count.",
        )
    kept = (seen.values * seen.counts[..., None])[weights > 0]
    if len(kept) < 4:
        raise SurgeryError(
            f"A batch has {len(kept)} samples that count: CKA is estimated from at least 4.",
            "Use larger batches, and leave out what is left over.",
        )
    flat = kept.reshape(len(kept), -1)
    centred = flat - flat.mean(axis=0)  # changes nothing but how much is rounded
    if np.abs(centred).max() <= 1e-6 * np.abs(flat).max():
        raise SurgeryError(
            f"CKA is not defined at '{ref.call.layer}': it is the same for all samples of a batch.",
            "Leave that block out, use larger batches, or measure by another method.",
            ref.call.layer,
        )
    return centred @ centred.T


def _cosines(seen: dict[Ref, Seen], start: Ref, end: Ref) -> np.ndarray:
    return cosines(seen[start].values, seen[end].values)


def _mean(values: np.ndarray, seen: Seen) -> _Batch:
    """The mean over the positions that count, and how many those are."""
    total = float(seen.counts.sum())
    return float((values * seen.counts).sum() / total) if total else 0.0, total
