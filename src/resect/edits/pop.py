"""Takes the last calls off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from resect.edits.base import (
    Edit,
    only_output,
)
from resect.edits.remove import Remove
from resect.errors import (
    EditError,
    MergeError,
)
from resect.graph import Graph, Ref


@dataclass(frozen=True)
class Pop(Edit):
    """Takes the last calls off.

    Args:
        n: How many.
    """

    verb: ClassVar[str] = "pop"
    n: int = 1

    def describe(self) -> str:
        return "pop the last layer" if self.n == 1 else f"pop the last {self.n} layers"

    def pinned(self, graph: Graph) -> Edit:
        return self

    def apply(self, graph: Graph) -> Graph:
        if self.n < 1:
            raise EditError(f"pop takes off at least one layer, not {self.n}.", "Give n=1 or more.")
        for _ in range(self.n):
            last = only_output(graph, "pop", "remove the one you mean by name")
            graph = self._without(last, graph)
        return graph

    def _without(self, last: Ref, graph: Graph) -> Graph:
        try:
            return Remove(graph.label(last.call)).apply(graph)
        except MergeError as error:
            label = graph.label(last.call)
            raise MergeError(
                error.problem.reason,
                f'Remove it by name, and say which one goes on: remove("{label}", keep=...).',
                label,
            ) from error
