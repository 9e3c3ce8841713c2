"""A plan: a model, and a tuple of edits that is folded over its graph.

A plan can be read before anything happens: printed, checked, saved, compared. Nothing is done
until `apply`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, get_args

import keras

from resect import check, serialise
from resect.edits import (
    Append,
    Collapse,
    DropUnusedInputs,
    Edit,
    Head,
    Insert,
    Pop,
    Prepend,
    Remove,
    Rename,
    Replace,
    Tail,
    Truncate,
)
from resect.errors import CopyError, Problem, raise_all
from resect.graph import Graph
from resect.keras_graph import training
from resect.keras_graph.private import garbage_collection_paused
from resect.keras_graph.reading import has_graph, read
from resect.keras_graph.snapshots import Snapshot
from resect.keras_graph.tracing import trace
from resect.keras_graph.writing import copy_problems, result_kind, write
from resect.lookup import resolve
from resect.options import OnMismatch, Weights, check_weights
from resect.select import Place, Where
from resect.table import edits_text, plan_text
from resect.verify import same_function, structural


def plan(model: Any) -> Plan:
    """An empty plan for a model. Add edits to it, print it, apply it.

    Args:
        model: A built Keras model. A subclassed one is traced on the shapes it was built with.

    Returns:
        The plan.

    Raises:
        ReadError: The model cannot be read as a graph.

    Example:

    >>> import keras, resect
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)])
    >>> smaller = resect.plan(model).remove(-1).apply()
    >>> smaller.output_shape
    (None, 8)
    """
    return Plan(model)


@dataclass(frozen=True)
class Plan:
    """A model and the edits that are to be made to it, in order.

    Attributes:
        model: The source. It is never changed.
        edits: The edits; each sees the graph that the one before it left.
    """

    model: Any
    edits: tuple[Edit, ...] = ()

    def __post_init__(self) -> None:
        for edit in self.edits:
            if edit.on_mismatch not in get_args(OnMismatch):
                raise ValueError(
                    f'on_mismatch must be "raise", "reinit" or "adapt", not {edit.on_mismatch!r}.'
                )

    # Reading

    @cached_property
    def source(self) -> Graph:
        """The graph of the model."""
        is_subclassed = isinstance(self.model, keras.Model) and not has_graph(self.model)
        if is_subclassed and not isinstance(self.model, keras.Sequential):
            graph = trace(self.model)
            same_function(self.model, graph)
            return graph
        return read(self.model)

    @cached_property
    def steps(self) -> tuple[check.Step, ...]:
        """What each edit does."""
        return check.fold(self.source, self.edits)

    @property
    def result(self) -> Graph:
        """The graph after the last edit."""
        return self.steps[-1].after if self.steps else self.source

    def check(self, weights: Weights = "copy") -> tuple[Problem, ...]:
        """Everything that is wrong with the plan; empty if it can be applied.

        Args:
            weights: As for `apply`: some layers can be copied, and not shared.

        Raises:
            ValueError: `weights` is neither `"copy"` nor `"share"`.
        """
        check_weights(weights)
        return check.problems(self.steps) or self._copy_problems(weights)

    def _copy_problems(self, weights: Weights) -> tuple[Problem, ...]:
        found = copy_problems(self.result, weights)
        if training.is_compiled(self.model) and not self._why_not_compiled():
            found += training.carry_problems(self.model)
        request = f"Cannot copy {self.source.kind} '{self.source.name}'."
        return tuple(replace(problem, request=request) for problem in found)

    def find(self, where: Where) -> tuple[str, ...]:
        """What an address means in the result of the plan so far, in the user's spelling."""
        return tuple(place.spelling(self.result) for place in self.places(where))

    def places(self, where: Where) -> tuple[Place, ...]:
        """The places that an address means in the result of the plan so far."""
        return resolve(where, self.result)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the plan does beside what it was asked in so many words."""
        notes = [note for step in self.steps for note in step.notes]
        for _, graph in self.result.walk():
            if (kind := result_kind(graph)) != graph.kind:
                notes.append(f"{graph.kind} '{graph.name}' becomes a plain {kind} model")
        if training.is_compiled(self.model):
            why = self._why_not_compiled()
            notes.append(f"compile state: not carried, {why}" if why else "compile state: carried")
        return tuple(notes)

    def _why_not_compiled(self) -> str:
        reasons = [edit.uncompiled for edit in self.edits if edit.uncompiled]
        return next(iter(reasons), "") or training.why_not_carried(
            self.model, len(self.result.output_refs)
        )

    def __str__(self) -> str:
        return plan_text(self)

    # Doing

    def apply(self, weights: Weights = "copy") -> Any:
        """Makes the edited model.

        Args:
            weights: `"copy"` for an independent model; `"share"` for the same variables.

        Returns:
            A plain Keras model, compiled as the source is.

        Raises:
            SurgeryError: The plan has problems; all of them are listed. Nothing has happened.
            CopyError: A layer, or the optimizer, can be neither copied nor re-created.
            ValueError: `weights` is neither.
        """
        check_weights(weights)
        with garbage_collection_paused():
            return self._applied(weights)

    def _applied(self, weights: Weights) -> Any:
        if problems := check.problems(self.steps):
            several = len(self.edits) > 1  # one edit is said in the message already
            raise_all(problems, context=f"The plan was:\n{edits_text(self)}" if several else "")
        before = Snapshot.of(self.model, values=False)
        try:
            written = write(self.result, weights)
            if training.is_compiled(self.model) and not self._why_not_compiled():
                training.carry(self.model, written.model, written.pairs)
        except CopyError as error:
            raise_all(self._copy_problems(weights))  # it was the first one
            request = f"Cannot copy {self.source.kind} '{self.source.name}'."
            raise error.asking(request) from error
        structural(self.result, written.model, written.pairs, before)
        return written.model

    # Saving

    def to_json(self) -> str:
        """The plan as JSON: every address spelled out, every layer by its configuration.

        Raises:
            SerializationError: A layer has no configuration, or carries weights.
        """
        return serialise.dumps(
            [step.pinned or step.edit.pinned(step.before) for step in self.steps]
        )

    @classmethod
    def from_json(cls, model: Any, text: str) -> Plan:
        """The plan that `to_json` wrote, for this or a like model.

        Args:
            model: The model to edit.
            text: JSON text.

        Raises:
            SerializationError: The text is no plan.
        """
        return cls(model, serialise.loads(text))

    # Adding edits, one method a verb

    def then(self, *edits: Edit) -> Plan:
        """The plan with more edits at its end."""
        return replace(self, edits=(*self.edits, *edits))

    def pop(self, n: int = 1) -> Plan:
        """Takes the last `n` layers off."""
        return self.then(Pop(n))

    def remove(
        self, where: Where, *, keep: Where = None, on_mismatch: OnMismatch = "raise"
    ) -> Plan:
        """Takes layers out; see `resect.remove`."""
        return self.then(Remove(where, keep, on_mismatch))

    def truncate(self, *, start: Where = None, end: Where = None) -> Plan:
        """The model from `start` on, up to `end`; see `resect.truncate`."""
        return self.then(Truncate(start, end))

    def head(self, at: Where) -> Plan:
        """The first half of `resect.split`."""
        return self.then(Head(at))

    def tail(self, at: Where) -> Plan:
        """The second half of `resect.split`."""
        return self.then(Tail(at))

    def insert(
        self,
        layer: Any,
        *,
        after: Where = None,
        before: Where = None,
        between: tuple[Where, Where] | None = None,
        merge_with: Where = None,
        on_mismatch: OnMismatch = "raise",
    ) -> Plan:
        """Puts layers in; see `resect.insert`."""
        return self.then(Insert(layer, after, before, between, merge_with, on_mismatch))

    def replace(self, where: Where, layer: Any, *, on_mismatch: OnMismatch = "raise") -> Plan:
        """Puts other layers in the place of some; see `resect.replace`."""
        return self.then(Replace(where, layer, on_mismatch))

    def append(self, layer: Any) -> Plan:
        """Puts layers behind the output; see `resect.append`."""
        return self.then(Append(layer))

    def prepend(self, layer: Any, *, on_mismatch: OnMismatch = "raise") -> Plan:
        """Puts layers behind the input; see `resect.prepend`."""
        return self.then(Prepend(layer, on_mismatch))

    def collapse(self, start: Where, end: Where, *, on_mismatch: OnMismatch = "raise") -> Plan:
        """Turns a region into a wire; see `resect.collapse`."""
        return self.then(Collapse(start, end, on_mismatch))

    def rename(self, names: Mapping[str, str]) -> Plan:
        """Gives layers other names; see `resect.rename`."""
        return self.then(Rename.of(names))

    def drop_unused_inputs(self) -> Plan:
        """Drops the inputs that no output needs any more."""
        return self.then(DropUnusedInputs())
