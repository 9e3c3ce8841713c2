"""Keeps the documents true: runs their Python and fills in what it prints.

    python -m tools.readme            README.md and docs/*.md; rewrites what is out of date
    python -m tools.readme README.md  one document
    python -m tools.readme --check    only says what is out of date, with status 1

What a document can hold:

    ```python           is run; the blocks of one document share their names, in an empty folder
    ```text             right after it, is what it prints
    ```python raises    must raise an error, which the text after it shows
    <!-- ... -->        around a block: it is run and not shown
    | ... | code | ...  a table with a column of this name: the code of each row is run, but not in
                        an excerpt
    <!-- excerpt: docs/benchmarks.md --> ... <!-- end of excerpt -->
                        is copied from there: what stands between <!-- readme --> and
                        <!-- end of readme -->, or else the first table
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import re
import sys
import tempfile
import traceback
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Pages that are written by programs as a whole, and have no code in them.
GENERATED = ("benchmarks.md", "support.md", "zoo.md")

ROOT = Path(__file__).parent.parent

_EXCERPT = re.compile(r"(<!-- excerpt: (\S+) -->\n).*?(<!-- end of excerpt -->)", re.DOTALL)
_FOR_README = re.compile(r"<!-- readme -->\n(.*?)<!-- end of readme -->", re.DOTALL)
_TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)

#: What differs from machine to machine and between backends, and need not be the same.
_MEASURED = re.compile(r"(?<=largest difference )[\d.e-]+")


@dataclass(frozen=True)
class Block:
    """A fenced block of a Markdown document.

    Attributes:
        info: What stands behind the opening fence, such as `"python raises"`.
        start: Index of its first line, the fence left out.
        end: Index of the closing fence.
        text: What it says.
    """

    info: str
    start: int
    end: int
    text: str


def documents() -> list[Path]:
    """The documents that are kept true."""
    pages = sorted((ROOT / "docs").glob("*.md"))
    return [ROOT / "README.md", *(page for page in pages if page.name not in GENERATED)]


def renewed(text: str) -> str:
    """A document with every output and excerpt as it is now.

    Args:
        text: The document, in Markdown.

    Raises:
        AssertionError: A block that must raise an error did not.
        Exception: Whatever another block raises.
    """
    lines = _with_excerpts(text).splitlines()
    found = list(blocks(lines))
    outputs: list[tuple[Block, list[str]]] = []
    with _example_module() as module:
        for block, following in itertools.zip_longest(found, found[1:]):
            if not block.info.startswith("python"):
                continue
            printed = run(block.text, module, raises=block.info == "python raises")
            if following is not None and _is_output(lines, block, following):
                outputs.append((following, printed))
    for block, printed in reversed(outputs):
        lines[block.start : block.end] = printed
    return "\n".join(lines) + "\n"


def comparable(text: str) -> str:
    """A document without the figures that differ from machine to machine."""
    return _MEASURED.sub("...", text)


def blocks(lines: Sequence[str]) -> Iterator[Block]:
    """The fenced blocks of a document, and the code in its tables."""
    start, info, column, copied = None, "", None, False
    for i, line in enumerate(lines):
        if line.startswith(("<!-- excerpt:", "<!-- end of excerpt")):
            copied = not copied
        elif line.startswith("```"):
            if start is None:
                start, info = i + 1, line.removeprefix("```").strip()
            else:
                yield Block(info, start, i, "\n".join(lines[start:i]) + "\n")
                start = None
        elif start is None and line.startswith("|") and not copied:
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if column is None:
                column = cells.index("code") if "code" in cells else -1
            elif column >= 0 and cells[column].startswith("`"):
                yield Block("python", i, i + 1, cells[column].strip("`") + "\n")
        else:
            column = None


def run(code: str, module: types.ModuleType, *, raises: bool = False) -> list[str]:
    """Runs a block and returns the lines that it prints.

    Args:
        code: Python.
        module: Whose names it reads and leaves.
        raises: Whether it must raise; the message then is the end of what it prints.
    """
    assert module.__file__ is not None
    Path(module.__file__).write_text(code)  # so that errors can show the line that they name
    stdout = io.StringIO()
    with contextlib.redirect_stdout(stdout):
        try:
            exec(compile(code, module.__file__, "exec"), vars(module))
        except Exception as error:
            if not raises:
                raise
            stdout.write("".join(traceback.format_exception_only(error)))
        else:
            assert not raises, f"This was to raise an error, and did not:\n{code}"
    return [line.rstrip() for line in stdout.getvalue().rstrip().splitlines()]


def _is_output(lines: Sequence[str], code: Block, block: Block) -> bool:
    """Whether a block is the output of the one before it."""
    between = "".join(lines[code.end + 1 : block.start - 1]).strip()
    return block.info == "text" and between in ("", "-->")


@contextlib.contextmanager
def _example_module() -> Iterator[types.ModuleType]:
    """A module named `example`, in an empty folder, with fresh layer names and seeds."""
    import keras

    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    module = types.ModuleType("example")
    module.__file__ = "example.py"
    sys.modules[module.__name__] = module
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            yield module
    finally:
        del sys.modules[module.__name__]


def _with_excerpts(text: str) -> str:
    """A document with its excerpts as they are now; those of missing pages as they were."""

    def current(match: re.Match[str]) -> str:
        begin, path, end = match.groups()
        return begin + excerpt(ROOT / path) + end if (ROOT / path).exists() else match[0]

    return _EXCERPT.sub(current, text)


def excerpt(page: Path) -> str:
    """What a generated page has for the README."""
    text = page.read_text()
    found = _FOR_README.search(text)
    table = _TABLE.search(text)
    return found[1] if found else table[0] if table else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("documents", nargs="*", type=Path, help="by default all of them")
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args(argv)
    stale = False
    for path in options.documents or documents():
        text = path.read_text()
        new = renewed(text)
        if comparable(new) == comparable(text):
            continue
        stale = True
        print(f"{path.name}: {'out of date' if options.check else 'renewed'}")
        if not options.check:
            path.write_text(new)
    return int(stale and options.check)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "jax")
    sys.exit(main())
