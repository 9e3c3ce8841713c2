"""What an edit applies to: selections are values.

A selection says which calls of a model are meant. It is made without a model, combined with `&`,
`|` and `~`, indexed, refined with `.expect(n)`, and only then looked up in a graph.

    "conv1"                      the layer of that name (every call of it)
    "shared@1"                   the second call of a shared layer
    "split:1"                    a call with several outputs, where one of them is needed
    "backbone/conv1"             a layer of a nested model
    "block_*_relu"               a glob; without a slash it looks into nested models too
    re.compile(r"fc[0-9]+")         a regular expression that matches the whole name
    -1, slice(2, 5)              by position among the calls, inputs not counted
    keras.layers.Dense           a class, at any depth
    layer                        that very layer object
    lambda layer: ...            a predicate on the layer object
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from resect.errors import CountError
from resect.graph import Call, Graph

Where = Any  # str | re.Pattern | int | slice | type | layer | predicate | Selection


@dataclass(frozen=True)
class Place:
    """A call, and the nested models on the way to it.

    Attributes:
        path: Names of the nested models, outermost first; empty for the model itself.
        call: The call in the innermost of them.
    """

    path: tuple[str, ...]
    call: Call

    def spelling(self, graph: Graph) -> str:
        """How a user addresses it: `backbone/conv1`, `shared@1`."""
        return "/".join([*self.path, graph.at(self.path).label(self.call)])


class Selection:
    """The base of all selections. Combine them with `&`, `|`, `~`; index them; `.expect(n)`.

    Example:

    >>> select(name="fc*") & ~select(name="fc1")
    (select(name='fc*') & ~'fc1')
    """

    def find(self, graph: Graph) -> tuple[Place, ...]:
        """The places that it means in a graph, in topological order, outer models first."""
        return tuple(place for place in candidates(graph) if self.matches(place, graph))

    def matches(self, place: Place, graph: Graph) -> bool:
        """Whether it means a place."""
        return place in self.find(graph)

    def among(self, places: tuple[Place, ...], graph: Graph) -> tuple[Place, ...]:
        """Those of some places that it means."""
        found = set(self.find(graph))
        return tuple(place for place in places if place in found)

    def why_not(self, place: Place, graph: Graph) -> str:
        """Why a place was passed over, for error messages."""
        return "it is not selected"

    def expect(self, count: int) -> Selection:
        """The same selection; looking it up fails unless it matches `count` places."""
        return Expect(self, count)

    def __and__(self, other: Where) -> Selection:
        return And(self, as_selection(other))

    def __or__(self, other: Where) -> Selection:
        return Or(self, as_selection(other))

    def __invert__(self) -> Selection:
        return Not(self)

    def __getitem__(self, item: int | slice) -> Selection:
        return Item(self, item)


@dataclass(frozen=True, repr=False)
class Name(Selection):
    """A layer by name: one call of it with `@`, one output of that with `:`, nested by path."""

    name: str

    def find(self, graph: Graph) -> tuple[Place, ...]:
        *path, last = self.name.split("/")
        for part in path:
            layer = graph.layers.get(part)
            if layer is None or layer.graph is None:
                return ()
            graph = layer.graph
        calls = _calls_named(last, graph)
        output = output_of(last)
        if not calls and output is not None:
            named = _calls_named(last.rpartition(":")[0], graph)
            calls = tuple(call for call in named if output < len(graph.refs_of(call)))
        return tuple(Place(tuple(path), call) for call in calls)

    def why_not(self, place: Place, graph: Graph) -> str:
        spelling = place.spelling(graph)
        if place.call.layer == self.name.split("/")[-1].split("@")[0]:
            if place.path and "/" not in self.name:
                return f"it lies in a nested model: write '{spelling}'"
            return "it has another path or call number"
        return "it has another name"

    def __repr__(self) -> str:
        return repr(self.name)


@dataclass(frozen=True, repr=False)
class Glob(Selection):
    """Names by shell pattern; with a slash, whole paths."""

    pattern: str

    def matches(self, place: Place, graph: Graph) -> bool:
        if place.call.layer == self.pattern:  # a name that happens to look like a pattern
            return True
        if "/" not in self.pattern:
            label = graph.at(place.path).label(place.call)
            return fnmatch.fnmatchcase(place.call.layer, self.pattern) or fnmatch.fnmatchcase(
                label, self.pattern
            )
        patterns, parts = self.pattern.split("/"), place.spelling(graph).split("/")
        return len(patterns) == len(parts) and all(
            fnmatch.fnmatchcase(part, pattern)
            for part, pattern in zip(parts, patterns, strict=True)
        )

    def why_not(self, place: Place, graph: Graph) -> str:
        return f"its name does not match '{self.pattern}'"

    def __repr__(self) -> str:
        return f"select(name={self.pattern!r})"


@dataclass(frozen=True, repr=False)
class Regex(Selection):
    """Names or paths that a regular expression matches as a whole."""

    pattern: re.Pattern[str]

    def matches(self, place: Place, graph: Graph) -> bool:
        names = (place.call.layer, place.spelling(graph))
        return any(self.pattern.fullmatch(name) for name in names)

    def why_not(self, place: Place, graph: Graph) -> str:
        return f"r'{self.pattern.pattern}' does not match its whole name"

    def __repr__(self) -> str:
        return f"select(regex={self.pattern.pattern!r})"


@dataclass(frozen=True, repr=False)
class Class(Selection):
    """Calls of layers of a class or one of its subclasses."""

    cls: type | tuple[type, ...]

    def find(self, graph: Graph) -> tuple[Place, ...]:
        found = candidates(graph, inputs=True)
        return tuple(place for place in found if self.matches(place, graph))

    def matches(self, place: Place, graph: Graph) -> bool:
        return issubclass(graph.at(place.path).layer(place.call).cls, self.cls)

    def why_not(self, place: Place, graph: Graph) -> str:
        return f"it is a {graph.at(place.path).layer(place.call).kind}"

    def __repr__(self) -> str:
        classes = self.cls if isinstance(self.cls, tuple) else (self.cls,)
        return f"select(cls={' | '.join(cls.__name__ for cls in classes)})"


@dataclass(frozen=True, repr=False)
class Object(Selection):
    """The calls of one layer object."""

    op: Any

    def find(self, graph: Graph) -> tuple[Place, ...]:
        found = candidates(graph, inputs=True)
        return tuple(place for place in found if self.matches(place, graph))

    def matches(self, place: Place, graph: Graph) -> bool:
        return graph.at(place.path).layer(place.call).op is self.op

    def why_not(self, place: Place, graph: Graph) -> str:
        if place.call.layer == getattr(self.op, "name", None):
            return "it has that name but is another object, of another model"
        return "it is another layer"

    def __repr__(self) -> str:
        return f"<layer {getattr(self.op, 'name', self.op)}>"


@dataclass(frozen=True, repr=False)
class Predicate(Selection):
    """Calls of layers for which a function of the layer is true."""

    test: Callable[[Any], bool]

    def matches(self, place: Place, graph: Graph) -> bool:
        return bool(self.test(graph.at(place.path).layer(place.call).op))

    def among(self, places: tuple[Place, ...], graph: Graph) -> tuple[Place, ...]:
        # Only these are tested: `select(Dense) & (lambda layer: layer.units > 8)`.
        return tuple(place for place in places if self.matches(place, graph))

    def why_not(self, place: Place, graph: Graph) -> str:
        return "the predicate is false for it"

    def __repr__(self) -> str:
        return f"select({getattr(self.test, '__name__', 'predicate')})"


@dataclass(frozen=True, repr=False)
class Position(Selection):
    """Calls of the model itself by position, in topological order.

    Inputs are not counted, nor are the operations with which Keras makes masks.
    """

    item: int | slice

    def find(self, graph: Graph) -> tuple[Place, ...]:
        return _pick([Place((), call) for call in _counted(graph)], self.item)

    def why_not(self, place: Place, graph: Graph) -> str:
        return f"the model has {len(_counted(graph))} calls to count"

    def __repr__(self) -> str:
        return f"select()[{_spell(self.item)}]"


@dataclass(frozen=True, repr=False)
class Everything(Selection):
    """Every call, at any depth, inputs left out."""

    def matches(self, place: Place, graph: Graph) -> bool:
        return True

    def __repr__(self) -> str:
        return "select()"


@dataclass(frozen=True, repr=False)
class And(Selection):
    """What both select."""

    left: Selection
    right: Selection

    def find(self, graph: Graph) -> tuple[Place, ...]:
        return self.right.among(self.left.find(graph), graph)

    def why_not(self, place: Place, graph: Graph) -> str:
        failing = self.right if place in self.left.find(graph) else self.left
        return failing.why_not(place, graph)

    def __repr__(self) -> str:
        return f"({self.left!r} & {self.right!r})"


@dataclass(frozen=True, repr=False)
class Or(Selection):
    """What either selects."""

    left: Selection
    right: Selection

    def find(self, graph: Graph) -> tuple[Place, ...]:
        found = {*self.left.find(graph), *self.right.find(graph)}
        return tuple(place for place in candidates(graph, inputs=True) if place in found)

    def why_not(self, place: Place, graph: Graph) -> str:
        return f"{self.left.why_not(place, graph)}, and {self.right.why_not(place, graph)}"

    def __repr__(self) -> str:
        return f"({self.left!r} | {self.right!r})"


@dataclass(frozen=True, repr=False)
class Several(Selection):
    """What any of several addresses means; as long a list as it may be."""

    parts: tuple[Selection, ...]

    def find(self, graph: Graph) -> tuple[Place, ...]:
        found = {place for part in self.parts for place in part.find(graph)}
        return tuple(place for place in candidates(graph, inputs=True) if place in found)

    def why_not(self, place: Place, graph: Graph) -> str:
        return "none of them means it"

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self.parts))}]"


@dataclass(frozen=True, repr=False)
class Not(Selection):
    """Every call that is not selected, inputs left out."""

    inner: Selection

    def find(self, graph: Graph) -> tuple[Place, ...]:
        found = set(self.inner.find(graph))
        return tuple(place for place in candidates(graph) if place not in found)

    def why_not(self, place: Place, graph: Graph) -> str:
        return f"{self.inner!r} selects it"

    def __repr__(self) -> str:
        return f"~{self.inner!r}"


@dataclass(frozen=True, repr=False)
class Item(Selection):
    """One, or a slice, of what is selected."""

    inner: Selection
    item: int | slice

    def find(self, graph: Graph) -> tuple[Place, ...]:
        return _pick(self.inner.find(graph), self.item)

    def why_not(self, place: Place, graph: Graph) -> str:
        return f"{self.inner!r} selects {len(self.inner.find(graph))} calls"

    def __repr__(self) -> str:
        return f"{self.inner!r}[{_spell(self.item)}]"


@dataclass(frozen=True, repr=False)
class Expect(Selection):
    """A selection that must match a given number of places."""

    inner: Selection
    count: int

    def find(self, graph: Graph) -> tuple[Place, ...]:
        found = self.inner.find(graph)
        if len(found) != self.count:
            matched = ", ".join(place.spelling(graph) for place in found[:12]) or "nothing"
            more = f", … ({len(found)} in all)" if len(found) > 12 else ""
            raise CountError(
                f"{self.inner!r} was expected to match {self.count} calls and matches "
                f"{len(found)}: {matched}{more}.",
                "Correct the selection or the number.",
            )
        return found

    def __repr__(self) -> str:
        return f"{self.inner!r}.expect({self.count})"


def select(
    where: Where = None,
    *,
    name: str | None = None,
    regex: str | re.Pattern[str] | None = None,
    cls: type | tuple[type, ...] | None = None,
) -> Selection:
    """A selection of calls.

    Args:
        where: Any address: a name, glob, path, compiled regex, index, slice, layer class, layer
            object, predicate or selection.
        name: A name, path or glob.
        regex: A regular expression that must match the whole name or path.
        cls: A layer class, or several.

    Returns:
        Everything that fits all of what is given; without anything, every call.

    Example:

    >>> select(name="fc*")[0]
    select(name='fc*')[0]
    """
    parts = []
    if name is not None:
        parts.append(as_selection(name))
    if regex is not None:
        parts.append(Regex(re.compile(regex)))
    if cls is not None:
        parts.append(Class(cls))
    if where is not None:  # last: a predicate is only asked about what fits the others
        parts.append(as_selection(where))
    if not parts:
        return Everything()
    selection = parts[0]
    for part in parts[1:]:
        selection = selection & part
    return selection


def first(n: int) -> Selection:
    """The first `n` calls of the model in topological order, inputs not counted.

    >>> first(2)
    select()[:2]
    """
    return Position(slice(None, n))


def last(n: int) -> Selection:
    """The last `n` calls of the model in topological order.

    >>> last(2)
    select()[-2:]
    """
    return Position(slice(-n, None) if n else slice(0, 0))


def as_selection(where: Where) -> Selection:
    """The selection that an address stands for.

    Raises:
        TypeError: It is nothing that addresses a layer.
    """
    if isinstance(where, Selection):
        return where
    if isinstance(where, str):
        return Glob(where) if any(sign in where for sign in "*?[") else Name(where)
    if isinstance(where, re.Pattern):
        return Regex(where)
    if isinstance(where, (int, slice)) and not isinstance(where, bool):
        return Position(where)
    if isinstance(where, type):
        return Class(where)
    if isinstance(where, tuple) and where and all(isinstance(cls, type) for cls in where):
        return Class(where)
    if isinstance(where, (list, tuple)) and where:
        parts = tuple(as_selection(part) for part in where)
        return parts[0] if len(parts) == 1 else Several(parts)
    if hasattr(where, "get_config") and hasattr(where, "name"):
        return Object(where)
    if callable(where):
        return Predicate(cast(Callable[[Any], bool], where))
    raise TypeError(
        "A place is given as a name, glob, path, compiled regex, index, slice, layer class, layer, "
        f"predicate or selection, not as {where!r}."
    )


# Parts of an address


def output_of(where: Where) -> int | None:
    """Which output an address means, in the spelling of `"split:1"`; `None` where it says none."""
    _, colon, output = where.rpartition(":") if isinstance(where, str) else ("", "", "")
    return int(output) if colon and output.isdigit() else None


def _calls_named(name: str, graph: Graph) -> tuple[Call, ...]:
    """The calls of a layer, or the one call that `name@number` means."""
    calls = graph.calls_of(name)
    if not calls and "@" in name:
        base, _, number = name.rpartition("@")
        calls = tuple(c for c in graph.calls_of(base) if str(c.number) == number)
    return calls


def candidates(graph: Graph, *, inputs: bool = False) -> Iterator[Place]:
    """Every call of a graph and its nested graphs; a model nested in two places counts once."""
    seen: set[int] = set()
    for path, nested in graph.walk():
        key = id(nested.model) if nested.model is not None and path else id(nested)
        if key in seen:
            continue
        seen.add(key)
        for call in nested.nodes:
            if inputs or not nested.is_input(call):
                yield Place(path, call)


def _counted(graph: Graph) -> list[Call]:
    return [c for c in graph.nodes if not graph.is_input(c) and c not in graph.mask_calls]


def _pick(found: Iterable[Place], item: int | slice) -> tuple[Place, ...]:
    found = tuple(found)
    if isinstance(item, slice):
        return found[item]
    return (found[item],) if -len(found) <= item < len(found) else ()


def _spell(item: int | slice) -> str:
    if isinstance(item, int):
        return str(item)
    ends = ["" if end is None else str(end) for end in (item.start, item.stop)]
    return ":".join(ends) + ("" if item.step is None else f":{item.step}")
