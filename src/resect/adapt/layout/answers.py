"""What a call becomes in a layout, and its arguments in it."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import numpy as np

from resect.adapt.layout.layouts import Answer, Layout, Site, constant_in
from resect.adapt.layout.rules import rule_of
from resect.graph import Ref, refs


def answer_of(site: Site, layout: Layout) -> Answer | None:
    """What a call becomes in a layout; `None` if it has to read the old one."""
    rule = rule_of(site)
    if rule is None or any(s.masked or len(s.shape) != len(layout) for s in site.inputs):
        return None
    if constants_in(layout, (site.node.args, dict(site.node.kwargs))) is None:
        return None
    return rule(site, layout)


def constants_in(layout: Layout, structure: Any) -> Any:
    """The arguments of a call with their constants in a layout; `None` if one is no plain array."""
    if isinstance(structure, dict):
        made = {key: constants_in(layout, item) for key, item in structure.items()}
        missing = [key for key in made if made[key] is None and structure[key] is not None]
        return None if missing else made
    if type(structure) in (list, tuple):
        items = [constants_in(layout, item) for item in structure]
        if any(new is None and old is not None for new, old in zip(items, structure, strict=True)):
            return None
        numeric = any(isinstance(item, numbers.Number) for item in structure)
        return None if numeric and type(structure) is list else type(structure)(items)
    if isinstance(structure, np.ndarray) and structure.ndim:
        return constant_in(layout, structure)
    if type(structure) is Ref or structure is None:
        return structure
    if isinstance(structure, (numbers.Number, str, np.ndarray)):
        return structure
    return None


def refs_in_order(structure: Any, fn: Callable[[Ref], Ref]) -> Any:
    """`map_refs` in Keras's order: dicts by sorted key."""
    found = iter([fn(ref) for ref in refs(structure)])
    if isinstance(structure, dict):
        made = {key: _in_order_of(structure[key], found) for key in sorted(structure, key=str)}
        return {key: made[key] for key in structure}
    return _in_order_of(structure, found)


def _in_order_of(structure: Any, found: Any) -> Any:
    if type(structure) is Ref:
        return next(found)
    if isinstance(structure, dict):
        made = {key: _in_order_of(structure[key], found) for key in sorted(structure, key=str)}
        return {key: made[key] for key in structure}
    if isinstance(structure, (list, tuple)):
        return type(structure)([_in_order_of(item, found) for item in structure])
    return structure
