"""The loss and the metrics of several variants of a model, each with states of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from resect.graph import Ref, map_refs, refs
from resect.importance.backends import as_numpy, compiled, no_gradients
from resect.importance.data import Batch
from resect.importance.execution import Held
from resect.importance.program import Program, Step
from resect.importance.targets import Target
from resect.keras_graph.scoring import Scorer, masked


class Scores:
    """Keeps the states of the metrics of each variant, and the losses of each batch.

    Args:
        program: The model.
        targets: What variants bypass. Number 0 is the original.

    Attributes:
        sizes: Number of samples of each batch.
        losses: For each variant, the loss of each batch: numbers, of the present batch tensors.
    """

    def __init__(self, program: Program, targets: Sequence[Target]) -> None:
        self.program = program
        self.scorer = Scorer(program.graph.model)
        kept = [program.needed({}), *(program.needed(dict(t.wires)) for t in targets)]
        self._extra = [regularisation(steps) for steps in kept]
        self._states: list[list[Any]] | None = None
        self._functions: dict[tuple[int, int], Callable[..., Any]] = {}
        self.sizes: list[int] = []
        self.losses: list[list[Any]] = [[] for _ in kept]

    def begin(self, batch: Batch) -> None:
        """Says which batch comes next."""
        self._settle()
        self._y, self._weight = (
            _mapped(keras.ops.convert_to_tensor, part) for part in (batch.y, batch.weight)
        )
        self.sizes.append(batch.size)

    def add(
        self, members: tuple[int, ...], values: Mapping[Ref, Held], rows: int, extra: Any
    ) -> None:
        """Adds predictions for the present batch.

        Args:
            members: The variants, stacked along the batch axis.
            values: What the model returns, by value.
            rows: How many rows each variant has; those beyond the batch are left out.
            extra: What layers have added to the loss.
        """
        flat = {ref: tuple(values[ref]) for ref in _flat(self.program.outputs)}
        if self._states is None:
            self._states = self._started(flat)
        key = len(members), rows
        if key not in self._functions:
            self._functions[key] = compiled(self._function(*key))
        extras: list[Any] = [
            keras.ops.convert_to_tensor(self._extra[m], "float32") for m in members
        ]
        if extra is not None:
            extras = [each + extra for each in extras]
        states = [self._states[m] for m in members]
        given = list(flat.values())
        found = self._functions[key](states, self._y, given, self._weight, extras, self._rows())
        for member, (state, loss) in zip(members, found, strict=True):
            self._states[member] = state
            self.losses[member].append(loss)

    def _settle(self) -> None:
        """Lets the tensors of the batch before go: there is one for each variant."""
        for losses in self.losses:
            losses[-1:] = [float(as_numpy(value)) for value in losses[-1:]]

    def _rows(self) -> Any:
        return np.zeros((self.sizes[-1], 0), "float32")  # its shape says how many rows count

    def _function(self, count: int, rows: int) -> Callable[..., Any]:
        def update(
            states: Any, y: Any, given: Any, weight: Any, extras: Any, like: Any
        ) -> list[tuple[Any, Any]]:
            found = []
            for i, (state, extra) in enumerate(zip(states, extras, strict=True)):
                part = slice(i * rows, i * rows + int(like.shape[0]))
                pairs = [(t[part], m if m is None else m[part]) for t, m in given]
                own = _mapped(keras.ops.copy, weight)  # on PyTorch, masked losses write into it
                found.append(self.scorer.update(state, y, self._packed(pairs), own, extra))
            return found

        return update

    def _packed(self, pairs: Sequence[tuple[Any, Any]]) -> Any:
        return packed(self.program, [masked(tensor, mask) for tensor, mask in pairs])

    def _started(self, flat: Mapping[Ref, tuple[Any, Any]]) -> list[list[Any]]:
        size = self.sizes[-1]
        first = [(t[:size], m if m is None else m[:size]) for t, m in flat.values()]
        with no_gradients():
            weight = _mapped(keras.ops.copy, self._weight)
            state = self.scorer.start(self._y, self._packed(first), weight)
        return [[keras.ops.convert_to_tensor(v) for v in state] for _ in self.losses]

    def results(self) -> list[dict[str, float]]:
        """What `evaluate` says of each variant."""
        assert self._states is not None
        means = np.average(self.batch_losses(), axis=1, weights=self.sizes)
        return [
            self.scorer.results(states, float(mean))
            for states, mean in zip(self._states, means, strict=True)
        ]

    def batch_losses(self) -> np.ndarray:
        """The losses, of shape (variants, batches)."""
        self._settle()
        return np.asarray(self.losses, "float64")


def packed(program: Program, tensors: Sequence[Any]) -> Any:
    """Outputs in the structure in which the model returns them."""
    by_ref = dict(zip(_flat(program.outputs), tensors, strict=True))
    structure = map_refs(by_ref.__getitem__, program.outputs)
    single = isinstance(structure, (list, tuple)) and len(structure) == 1
    return structure[0] if single else structure


def _flat(outputs: Any) -> list[Ref]:
    return list(dict.fromkeys(refs(outputs)))


def regularisation(steps: Sequence[Step]) -> float:
    """What the regularisers of weights add to the loss."""
    found: dict[int, float] = {}
    for step in steps:
        for variable in getattr(step.operation, "trainable_variables", ()):
            regulariser = getattr(variable, "regularizer", None)
            if regulariser is not None and id(variable) not in found:
                value = keras.ops.sum(regulariser(variable))
                found[id(variable)] = float(as_numpy(value))
    return sum(found.values())


def _mapped(function: Callable[[Any], Any], structure: Any) -> Any:
    return keras.tree.map_structure(lambda t: None if t is None else function(t), structure)
