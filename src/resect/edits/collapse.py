"""Turns a region into a wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from resect.edits.base import (
    Edit,
    not_empty,
    quoted,
    same_path,
    single_output,
    spelled,
)
from resect.errors import (
    CutError,
)
from resect.graph import Graph
from resect.lookup import resolve_one
from resect.options import OnMismatch
from resect.select import Where


@dataclass(frozen=True)
class Collapse(Edit):
    """Turns the region between two calls into a wire.

    Whatever read the output of `end` reads the output of `start`, and what nothing needs any more
    goes. `start` itself stays, `end` goes.

    Args:
        start: A call before the region.
        end: The last call of the region.
        on_mismatch: What happens to layers whose weights do not fit any more.
    """

    verb: ClassVar[str] = "collapse"
    start: Where
    end: Where
    on_mismatch: OnMismatch = "raise"

    def describe(self) -> str:
        return f"collapse {quoted(self.start)} to {quoted(self.end)}"

    def pinned(self, graph: Graph) -> Edit:
        start, end = resolve_one(self.start, graph), resolve_one(self.end, graph)
        ends = (spelled(self.start, start.spelling(graph)), spelled(self.end, end.spelling(graph)))
        return Collapse(*ends, self.on_mismatch)

    def apply(self, graph: Graph) -> Graph:
        start, end = resolve_one(self.start, graph), resolve_one(self.end, graph)
        path = same_path(graph, start, end)
        inner = graph.at(path)
        if start == end or start.call not in inner.ancestors([end.call]):
            raise CutError(
                f"{inner.title(end.call)} does not depend on {inner.title(start.call)}.",
                "Name the earlier place first.",
                end.spelling(graph),
            )
        wire = {
            single_output(inner, end.call, self.end): single_output(inner, start.call, self.start)
        }
        collapsed = not_empty(inner.substitute(wire).pruned().ordered())
        return graph.with_nested(path, collapsed)
