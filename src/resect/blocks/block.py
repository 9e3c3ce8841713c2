"""Blocks as values, and how they print."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, overload

from rich.table import Table

from resect.errors import NoMatchError
from resect.graph import Spec
from resect.select import Place
from resect.text import rendered

Level = Literal["call", "path", "branch", "block", "stage", "model"]
LEVELS: tuple[Level, ...] = ("call", "path", "branch", "block", "stage", "model")
_PLURALS = {level: f"{level}s" for level in LEVELS} | {"branch": "branches"}


@dataclass(frozen=True)
class Block:
    """A region with one tensor in and one tensor out.

    Attributes:
        name: What its calls' names have in common, or the spelling of its last call.
        level: `"call"`: a single call. `"branch"`: ways that part and meet again. `"path"`: several
            calls in a row on one of those ways. `"block"`: what is repeated, see `resect.blocks`.
            `"stage"`: consecutive blocks that return one shape. `"model"`: a nested model.
        start: The user's spelling of the tensor that goes in: of the call that returns it, which
            is not part of the block.
        end: The spelling of the tensor that comes out, of the last call of the block.
        path: Names of the nested models that it lies in, outermost first.
        input: Shape and dtype of the tensor that goes in.
        output: Shape and dtype of the tensor that comes out.
        obstacle: Why it cannot be collapsed with no change of shape; `""` if it can.
        children: The blocks directly inside.
        own: Its calls that are in none of them.
    """

    name: str
    level: Level
    start: str
    end: str
    path: tuple[str, ...]
    input: Spec
    output: Spec
    obstacle: str = ""
    children: tuple[Block, ...] = field(default=(), compare=False, repr=False)
    own: tuple[tuple[int, Place, str], ...] = field(default=(), compare=False, repr=False)

    @property
    def collapsible(self) -> bool:
        """Whether it can become a wire with no change of shape or dtype."""
        return not self.obstacle

    @property
    def ends(self) -> tuple[str, str]:
        """`start` and `end`: `resect.collapse(model, *block.ends)` makes the block a wire."""
        return self.start, self.end

    @property
    def calls(self) -> tuple[str, ...]:
        """The spellings of its calls in topological order, those of nested models left out."""
        return tuple(spelling for _, _, spelling in self._all_calls())

    @property
    def places(self) -> tuple[Place, ...]:
        """Its calls, as places of the graph."""
        return tuple(place for _, place, _ in self._all_calls())

    def __len__(self) -> int:
        return len(self._all_calls())

    def _all_calls(self) -> list[tuple[int, Place, str]]:
        return sorted(
            item for block in self.walk() if block.path == self.path for item in block.own
        )

    def walk(self) -> Iterator[Block]:
        """The block, and every block in it, each before those that it holds."""
        stack: list[Block] = [self]
        while stack:
            block = stack.pop()
            yield block
            stack.extend(reversed(block.children))

    def __str__(self) -> str:
        return f"{self.level} '{self.name}' {self.start} -> {self.end} {self._shapes()}"

    def _shapes(self) -> str:
        return f"{self.input} -> {self.output}"

    def row(self, indent: str = "") -> tuple[str, str, str, str, str, str]:
        """What a table says of it."""
        calls = str(len(self)) if self.level != "model" else ""
        mark = "yes" if self.collapsible else ""
        shape = str(self.output) if self.collapsible else self._shapes()
        return indent + self.name, self.level, f"{self.start} -> {self.end}", shape, calls, mark


@dataclass(frozen=True)
class Blocks(Sequence[Block]):
    """Blocks of a model, in the order of its calls, each before those that lie in it.

    It is a sequence: iterate over it, take its length, index it by number, slice, name, or the call
    that ends the smallest of them. `level`, `outermost`, `collapsible` and `where` select from it;
    `children` leads down the tree.

    Attributes:
        title: Kind and name of the model.
        found: The blocks.
        tree: The outermost blocks of the model, where nothing has been selected.
    """

    title: str
    found: tuple[Block, ...]
    tree: tuple[Block, ...] = ()

    def level(self, *levels: Level) -> Blocks:
        """Those of one or several levels.

        Raises:
            ValueError: There is no such level.
        """
        for level in levels:
            if level not in LEVELS:
                raise ValueError(f"{level!r} is no level. The levels are {', '.join(LEVELS)}.")
        return self.where(lambda block: block.level in levels)

    def collapsible(self) -> Blocks:
        """Those that can become a wire with no change of shape or dtype."""
        return self.where(lambda block: block.collapsible)

    def outermost(self) -> Blocks:
        """Those that lie in no other one that is selected."""
        found, skipped = [], set[int]()
        for block in self.found:
            if id(block) not in skipped:
                found.append(block)
                skipped.update(id(inner) for inner in block.walk())
        return Blocks(self.title, tuple(found))

    def where(self, test: Callable[[Block], bool]) -> Blocks:
        """Those for which a function is true."""
        return Blocks(self.title, tuple(block for block in self.found if test(block)))

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(block.name for block in self.found)

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[Block]:
        return iter(self.found)

    @overload
    def __getitem__(self, item: int | str) -> Block: ...
    @overload
    def __getitem__(self, item: slice) -> Blocks: ...
    def __getitem__(self, item: int | str | slice) -> Block | Blocks:
        if isinstance(item, slice):
            return Blocks(self.title, self.found[item])
        if isinstance(item, int):
            return self.found[item]
        named = [block for block in self.found if block.name == item]
        ending = [block for block in self.found if block.end == item]
        if not named and not ending:
            raise NoMatchError(
                f"No block of {self.title} is called '{item}'.",
                "print(resect.blocks(model)) shows them.",
                item,
            )
        return named[0] if named else ending[-1]  # those inside come later

    def __str__(self) -> str:
        counts = {level: sum(b.level == level for b in self.found) for level in reversed(LEVELS)}
        said = [f"{n} {level if n == 1 else _PLURALS[level]}" for level, n in counts.items() if n]
        table = Table("name", "level", "from -> to", "shape", box=None, pad_edge=False)
        table.add_column("calls", justify="right")
        table.add_column("collapsible")
        for block, depth in self._shown():
            table.add_row(*block.row("  " * depth))
        heading = f"{self.title}: {', '.join(said) or 'no blocks'}"
        return f"{heading}\n\n{rendered(table, width=240)}" if self.found else heading

    def _shown(self) -> Iterator[tuple[Block, int]]:
        """What is selected; of a whole model the tree, without what lies in blocks."""
        if not self.tree:
            yield from ((block, 0) for block in self.found)
            return
        stack = [(block, 0) for block in reversed(self.tree)]
        while stack:
            block, depth = stack.pop()
            yield block, depth
            if block.level not in ("block", "branch"):
                stack.extend((child, depth + 1) for child in reversed(block.children))
