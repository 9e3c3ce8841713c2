"""Tables as plain text, the same on every terminal."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console


def rendered(renderable: Any, width: int = 120) -> str:
    """A rich renderable as plain text, without trailing spaces."""
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())


def byte_size(count: int) -> str:
    """A number of bytes: `1.5 MB`."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
