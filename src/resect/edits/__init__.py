"""Edits: frozen values, each a pure function from one graph to another."""

from resect.edits.base import Edit, PerPlace, Site
from resect.edits.collapse import Collapse
from resect.edits.insert import Append, Insert, Prepend
from resect.edits.pop import Pop
from resect.edits.remove import Remove
from resect.edits.rename import Rename
from resect.edits.replace import Replace
from resect.edits.split import Head, Tail
from resect.edits.truncate import DropUnusedInputs, Truncate

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
