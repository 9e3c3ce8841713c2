"""Edits: frozen values, each a pure function from one graph to another."""

from resect.edits.base import Edit, PerPlace, Site
from resect.edits.local import Insert, Remove, Rename, Replace
from resect.edits.region import (
    Append,
    Collapse,
    DropUnusedInputs,
    Head,
    Pop,
    Prepend,
    Tail,
    Truncate,
)

EDITS: dict[str, type[Edit]] = {
    cls.verb: cls
    for cls in (
        Append, Collapse, DropUnusedInputs, Head, Insert, Pop, Prepend, Remove, Rename, Replace,
        Tail, Truncate,
    )
}  # fmt: skip

__all__ = [
    "EDITS",
    "Append",
    "Collapse",
    "DropUnusedInputs",
    "Edit",
    "Head",
    "Insert",
    "PerPlace",
    "Pop",
    "Prepend",
    "Remove",
    "Rename",
    "Replace",
    "Site",
    "Tail",
    "Truncate",
]
