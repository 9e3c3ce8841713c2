"""Configurations and what they count: where a field stands, and which layers are a block."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resect.errors import AmbiguousError, EditError, NoMatchError
from resect.keras_graph.units import all_layers

Path = tuple[str, ...]
Fields = dict[Path, Any]
_COUNTS = re.compile(r"layers|blocks|depth")


def fields_of(config: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The fields of a configuration and of the objects that are described in it."""
    for name, value in config.items():
        yield (*path, name), value
        described = isinstance(value, Mapping) and {"class_name", "config"} <= set(value)
        if described and isinstance(value["config"], Mapping):
            yield from fields_of(value["config"], (*path, name))


def field_path(config: Mapping[str, Any], name: str) -> Path:
    """Where a field stands.

    Args:
        config: The configuration of a model.
        name: `"num_layers"` wherever it stands, `"backbone/dropout"`, or `"/dropout"` for the
            outermost.

    Raises:
        NoMatchError: There is none.
        AmbiguousError: There are several.
    """
    fields = dict(fields_of(config))
    wanted = tuple(name.strip("/").split("/"))
    exact = "/" in name
    found = [path for path in fields if path == wanted or (not exact and path[-1:] == wanted)]
    if not found:
        listed = ", ".join(dict.fromkeys(path[-1] for path in fields))
        raise NoMatchError(f"The configuration has no {name!r}.", f"It has {listed}.")
    if len(found) > 1:
        spelled = " or ".join(f'"{spelling(path)}"' for path in found)
        raise AmbiguousError(
            f"The configuration has {name!r} at {len(found)} places.",
            f"Say which: **{{{spelled}: …}}.",
        )
    return found[0]


def spelling(path: Path) -> str:
    """A path as `field_path` reads it."""
    return "/".join(path if len(path) > 1 else ("", *path))


def value_at(config: Any, path: Path) -> Any:
    """The value of a field."""
    for name in path[:-1]:
        config = config[name]["config"]
    return config[path[-1]]


def with_field(config: Any, path: Path, value: Any) -> Any:
    """A configuration with another value in a field."""
    name, *rest = path
    if not rest:
        return {**config, name: value}
    inner = {**config[name], "config": with_field(config[name]["config"], tuple(rest), value)}
    return {**config, name: inner}


def counting_fields(config: Mapping[str, Any]) -> list[Path]:
    """The fields that may count blocks, by their names."""
    return [
        path
        for path, value in fields_of(config)
        if type(value) is int and _COUNTS.search(path[-1]) and value > 0
    ]


Template = tuple[Path, str]  # the names before the numbered one, and that with a gap


def _numbered(path: Path, given: Sequence[bool]) -> Iterator[tuple[int, Template, int]]:
    """The numbers in a path: where, in which name, and which."""
    plain = canonical(path, given)
    for i, name in enumerate(path):
        if not given[i]:
            continue
        for match in re.finditer(r"\d+", name):
            gap = f"{name[: match.start()]}{{}}{name[match.end() :]}"
            yield i, (plain[:i], gap), int(match[0])


def canonical(path: Path, given: Sequence[bool]) -> Path:
    """A path without the numbers that Keras puts behind names of its own."""
    return tuple(
        name if chosen else re.sub(r"_\d+$", "", name)
        for name, chosen in zip(path, given, strict=True)
    )


def _numbers(model: Any) -> dict[Template, set[int]]:
    found: dict[Template, set[int]] = {}
    for path, given, _ in all_layers(model):
        for _, template, number in _numbered(path, given):
            found.setdefault(template, set()).add(number)
    return found


def block_templates(one: Any, count: int, other: Any, other_count: int) -> dict[Template, list]:
    """The names that number blocks, with the numbers of `one`.

    Args:
        one: A model.
        count: How many blocks its configuration counts.
        other: The same with another number of blocks, and nothing else changed.
        other_count: That number.
    """
    here, there = _numbers(one), _numbers(other)
    found = {
        template: sorted(numbers)
        for template, numbers in here.items()
        if len(numbers) == count and len(there.get(template, ())) == other_count
    }
    return {t: n for t, n in found.items() if not any(_inside(t, other) for other in found)}


def _inside(template: Template, other: Template) -> bool:
    """Whether a numbered name stands within a block of another."""
    parents, gap = other
    pattern = re.escape(gap).replace(r"\{\}", r"\d+")
    names = template[0][len(parents) : len(parents) + 1]
    return template[0][: len(parents)] == parents and any(
        re.fullmatch(pattern, name) for name in names
    )


@dataclass(frozen=True)
class Part:
    """A layer of a model, or a part of one.

    Attributes:
        path: Its path.
        inner: Its path with the number of its block left out.
        layer: The Keras layer.
    """

    path: Path
    inner: Path
    layer: Any


Groups = dict[int | None, list[Part]]


def grouped(model: Any, templates: Mapping[Template, Sequence[int]]) -> Groups:
    """The layers of a model by the index of their block; `None` for those in none."""
    groups: Groups = {None: []}
    for path, given, layer in all_layers(model):
        block, inner = None, canonical(path, given)
        for i, template, number in _numbered(path, given):
            if template in templates and number in templates[template]:
                block = templates[template].index(number)
                inner = (*inner[:i], template[1], *inner[i + 1 :])
                break
        groups.setdefault(block, []).append(Part(path, inner, layer))
    return groups


def grouped_as(model: Any, plain: Any, templates: Mapping[Template, Sequence[int]]) -> Groups:
    """The layers of a model, as `grouped` has those of its like.

    A class may name its layers after the model, and otherwise if that had no name yet.

    Args:
        model: The model.
        plain: What its configuration alone makes.
        templates: The names that number blocks in `plain`.
    """
    ones, others = all_layers(model), all_layers(plain)
    if [type(layer) for _, _, layer in ones] != [type(layer) for _, _, layer in others]:
        return grouped(model, templates)
    like = {id(b): (path, a) for (path, _, a), (_, _, b) in zip(ones, others, strict=True)}
    return {
        block: [Part(like[id(p.layer)][0], p.inner, like[id(p.layer)][1]) for p in parts]
        for block, parts in grouped(plain, templates).items()
    }


def numbers_of(model: Any, templates: Mapping[Template, Any]) -> dict[Template, list[int]]:
    """The numbers that a model has in the names of its blocks."""
    found = _numbers(model)
    return {template: sorted(found.get(template, ())) for template in templates}


def counted(
    config: Mapping[str, Any], find: Callable[[Path], Mapping[Template, Any]]
) -> tuple[Path, Mapping[Template, Any]]:
    """The field that counts the blocks, and their names.

    Raises:
        EditError: No field does, or several do.
    """
    found = {path: blocks for path in counting_fields(config) if (blocks := find(path))}
    if len(found) != 1:
        listed = ", ".join(path[-1] for path in found) or "none that is seen"
        raise EditError(
            f"{len(found)} fields of the configuration count blocks: {listed}. Blocks are seen by "
            "numbers in the names that the class gives to layers.",
            "Say which by giving it too, as num_layers=3, or name the blocks.",
        )
    return next(iter(found.items()))
