"""Takes calls out of the middle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from resect.edits.base import (
    Edit,
    in_each,
    not_empty,
    quoted,
    single_input,
    single_output,
    spellings,
)
from resect.errors import (
    InputLayerError,
    MergeError,
)
from resect.graph import Call, Graph, Ref
from resect.lookup import resolve
from resect.options import OnMismatch
from resect.select import Place, Where, as_selection, output_of


@dataclass(frozen=True)
class Remove(Edit):
    """Takes calls out; what read their output reads their input instead.

    Args:
        where: The calls; the name of a shared layer means all of its calls.
        keep: For calls with several inputs: which of the producers goes on.
        on_mismatch: What happens to layers whose weights do not fit any more.
    """

    verb: ClassVar[str] = "remove"
    where: Where
    keep: Where = None
    on_mismatch: OnMismatch = "raise"

    def describe(self) -> str:
        kept = "" if self.keep is None else f", keeping {quoted(self.keep)}"
        return f"remove {quoted(self.where)}{kept}"

    def apply(self, graph: Graph) -> Graph:
        return in_each(graph, resolve(self.where, graph), self._remove)

    def pinned(self, graph: Graph) -> Edit:
        places = resolve(self.where, graph)
        return Remove(spellings(places, graph), self._pinned_keep(places, graph), self.on_mismatch)

    def _pinned_keep(self, places: tuple[Place, ...], graph: Graph) -> Where:
        if self.keep is None or isinstance(self.keep, str):
            return self.keep
        kept: dict[str, None] = {}
        for place in places:
            nested = graph.at(place.path)
            if len(nested.nodes[place.call].data_inputs) > 1:
                goes_on = self._goes_on(nested, place.call, place.path)
                kept[nested.tensor_label(goes_on)] = None
        return tuple(kept) or None

    def _remove(self, graph: Graph, calls: list[Call], path: tuple[str, ...]) -> Graph:
        instead: dict[Ref, Ref] = {}
        for call in calls:
            if graph.is_input(call):
                raise InputLayerError(
                    f"{graph.title(call)} is an input of the model.",
                    "Cut the front off with truncate(start=...), or insert after it.",
                    graph.label(call),
                )
            how = "Remove or replace what reads them first."
            instead[single_output(graph, call, how=how)] = self._goes_on(graph, call, path)
        mapping = {ref: _followed(ref, instead) for ref in instead}
        return not_empty(graph.substitute(mapping).pruned().ordered())

    def _goes_on(self, graph: Graph, call: Call, path: tuple[str, ...]) -> Ref:
        """The input that takes the place of a call's output."""
        inputs = graph.nodes[call].data_inputs
        if self.keep is None or len(inputs) == 1:
            how = 'Say which one goes on: keep="{first}".'
            return single_input(graph, call, how)
        selection, meant = as_selection(self.keep), output_of(self.keep)
        kept = [r for r in inputs if selection.matches(Place((), r.call), graph)]
        if len(kept) > 1 and meant is not None:
            kept = [ref for ref in kept if ref.output == meant]
        if len(kept) != 1:
            shown = ", ".join(f"'{graph.tensor_label(ref)}'" for ref in inputs)
            raise MergeError(
                f"keep={self.keep!r} matches {len(kept)} of the inputs of {graph.title(call)}: "
                f"{shown}.",
                f"Say which one goes on: keep='{graph.tensor_label((kept or inputs)[0])}'.",
                graph.label(call),
            )
        return kept[0]


def _followed(ref: Ref, instead: Mapping[Ref, Ref]) -> Ref:
    while ref in instead:
        ref = instead[ref]
    return ref
