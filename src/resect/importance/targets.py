"""What is measured: places of a model that could become a wire."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from resect.blocks import Block, Blocks, blocks
from resect.edits.base import single_output
from resect.errors import NoMatchError, ShapeError
from resect.graph import Graph, Ref
from resect.importance.program import Program
from resect.lookup import resolve, resolve_one
from resect.select import Where


@dataclass(frozen=True, eq=False)
class Target:
    """A region with one tensor in and one tensor out.

    Attributes:
        name: The user's spelling.
        ends: What `resect.collapse` takes.
        calls: The spellings of its calls.
        wires: For each call of the model that it lies in, the value that comes out and the one
            that goes in.
    """

    name: str
    ends: tuple[str, str]
    calls: tuple[str, ...]
    wires: tuple[tuple[Ref, Ref], ...]

    @property
    def start(self) -> Ref:
        """What goes in, at the first call."""
        return self.wires[0][1]

    @property
    def end(self) -> Ref:
        """What comes out, at the first call."""
        return self.wires[0][0]


def targets_of(program: Program, chosen: Any = None) -> tuple[Target, ...]:
    """The regions to measure.

    Args:
        program: The program of the model.
        chosen: Blocks; or addresses of single calls; by default the blocks that keep the shape.

    Raises:
        NoMatchError: There are none.
        ShapeError: One of them changes the shape.
    """
    graph = program.graph
    found = [_target(program, block) for block in _blocks(graph, chosen)]
    if not found:
        raise NoMatchError(
            f"{graph.kind} '{graph.name}' has no blocks that keep the shape of what goes in.",
            "print(resect.blocks(model)) shows what there is: choose with "
            'blocks=resect.blocks(model).level("call", "branch").collapsible().',
            graph.name,
        )
    return tuple(found)


def _blocks(graph: Graph, chosen: Any) -> Sequence[Block]:
    if chosen is None:
        return blocks(graph).level("block").collapsible()
    if isinstance(chosen, Block):
        return [chosen]
    if isinstance(chosen, Blocks):
        return chosen
    if isinstance(chosen, (list, tuple)) and chosen and isinstance(chosen[0], Block):
        return chosen
    return _of_calls(graph, chosen if isinstance(chosen, (list, tuple)) else [chosen])


def _of_calls(graph: Graph, addresses: Iterable[Where]) -> list[Block]:
    """The smallest blocks that end with the calls that addresses mean."""
    every = blocks(graph)
    by_end: dict[str, Block] = {}
    for block in every:
        by_end[block.end] = block  # those inside come later
    found = []
    for address in addresses:
        for place in resolve(address, graph):
            spelling = place.spelling(graph)
            if spelling not in by_end:
                raise NoMatchError(
                    f"'{spelling}' does not end a region with one tensor in and one tensor out, "
                    "so nothing says what a wire past it would be.",
                    "print(resect.blocks(model)) shows the regions.",
                    spelling,
                )
            found.append(by_end[spelling])
    return found


def _target(program: Program, block: Block) -> Target:
    graph = program.graph
    if not block.collapsible:
        raise ShapeError(
            f"'{block.name}' cannot become a wire. {block.obstacle}",
            "Leave it out: resect.blocks(model).collapsible().",
            block.name,
        )
    start, end = resolve_one(block.start, graph), resolve_one(block.end, graph)
    inner = graph.at(end.path)
    into = program.found_at(start.path, single_output(inner, start.call, block.start))
    out = program.found_at(end.path, single_output(inner, end.call, block.end))
    return Target(block.name, block.ends, block.calls, tuple(zip(out, into, strict=True)))
