"""Draws a graph as text: one line for each call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resect.graph import Call, Graph


def draw(graph: Graph) -> Iterator[str]:
    """The lines of `str(graph)`; nested graphs are indented once, under their first call."""
    yield f"{graph.kind} '{graph.name}'"
    rows = list(_rows(graph, "  "))
    name_width = max((len(row[0]) for row in rows if row[1]), default=0)  # calls, not outputs
    kind_width = max((len(row[1]) for row in rows), default=0)
    spec_width = max((len(row[2]) for row in rows), default=0)
    for name, kind, spec, reads in rows:
        line = f"{name:<{name_width}}  {kind:<{kind_width}}  {spec:<{spec_width}}  {reads}"
        yield line.rstrip()


def _rows(graph: Graph, indent: str) -> Iterator[tuple[str, str, str, str]]:
    """Rows of name, kind, shape and what is read; nesting uses a stack, not recursion."""
    stack: list[tuple[Graph, str, Iterator[Call]]] = [(graph, indent, iter(graph.nodes))]
    while stack:
        graph, indent, calls = stack[-1]
        call = next(calls, None)
        if call is None:
            stack.pop()
            outputs = ", ".join(graph.tensor_label(ref) for ref in graph.output_refs)
            yield f"{indent}-> {outputs}", "", "", ""
            continue
        node, layer = graph.nodes[call], graph.layer(call)
        shapes = " ".join("?" if node.outputs is None else str(s) for s in node.outputs or ("?",))
        reads = ", ".join(graph.tensor_label(ref) for ref in dict.fromkeys(node.inputs))
        mark = {"new": " +", "reinit": " *"}.get(layer.origin, "")
        yield (
            f"{indent}{graph.label(call)}{mark}",
            layer.kind,
            shapes,
            f"<- {reads}" if reads else "",
        )
        if layer.graph is not None and call == graph.calls_of(call.layer)[0]:
            stack.append((layer.graph, indent + "  ", iter(layer.graph.nodes)))
