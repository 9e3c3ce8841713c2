"""Looks an address up in a graph, and says what is wrong where it finds nothing or too much."""

from __future__ import annotations

import difflib

from resect.errors import AmbiguousError, NoMatchError
from resect.graph import Graph
from resect.select import Name, Object, Place, Selection, Where, as_selection, candidates


def resolve(where: Where, graph: Graph) -> tuple[Place, ...]:
    """The places that an address means; a shared layer's name means all of its calls.

    Raises:
        NoMatchError: It matches nothing.
        CountError: It matches another number than it expects.
    """
    selection = as_selection(where)
    found = selection.find(graph)
    if not found:
        raise _no_match(selection, graph)
    return found


def resolve_calls(where: Where, graph: Graph) -> tuple[Place, ...]:
    """Like `resolve`, where it matters which call of a shared layer is meant.

    Raises:
        AmbiguousError: A plain name of a layer that is called more than once.
    """
    found = resolve(where, graph)
    if isinstance(as_selection(where), (Name, Object)) and len(found) > 1:
        raise _ambiguous(where, found, graph)
    return found


def resolve_one(where: Where, graph: Graph) -> Place:
    """The one place that an address means.

    Raises:
        NoMatchError: It matches nothing.
        AmbiguousError: It matches several calls.
    """
    found = resolve(where, graph)
    if len(found) != 1:
        raise _ambiguous(where, found, graph)
    return found[0]


def _ambiguous(where: Where, found: tuple[Place, ...], graph: Graph) -> AmbiguousError:
    spellings = [place.spelling(graph) for place in found]
    shown = ", ".join(f"'{s}'" for s in spellings[:8]) + (", …" if len(spellings) > 8 else "")
    shared = len({(place.path, place.call.layer) for place in found}) == 1
    what = f"'{found[0].call.layer}' is called {len(found)} times" if shared else "several match"
    return AmbiguousError(
        f"{as_selection(where)!r} could mean {shown}: {what}.",
        f"Say which one: '{spellings[0]}' or '{spellings[1]}'.",
        found[0].call.layer,
    )


def _no_match(selection: Selection, graph: Graph) -> NoMatchError:
    places = list(candidates(graph, inputs=True))
    nearest = _nearest(selection, places, graph)
    lines = [f"  '{p.spelling(graph)}': {selection.why_not(p, graph)}" for p in nearest]
    heading = [f"{selection!r} matches nothing in {graph.kind} '{graph.name}'."]
    if lines:
        heading.append("Nearest, and why each was passed over:")
    node = selection.name if isinstance(selection, Name) else repr(selection)
    return NoMatchError(
        "\n".join(heading + lines), "print(resect.read(model)) lists every call.", node
    )


def _nearest(selection: Selection, places: list[Place], graph: Graph) -> list[Place]:
    wanted = repr(selection).strip("'")
    if isinstance(selection, Name):
        wanted = selection.name
    spelled = {place.spelling(graph): place for place in places}
    by_layer: dict[str, list[Place]] = {}
    for place in places:
        by_layer.setdefault(place.call.layer, []).append(place)
    close = difflib.get_close_matches(wanted, spelled, n=3, cutoff=0.5)
    same = by_layer.get(wanted.split("/")[-1].split("@")[0], [])
    found = [*same, *(spelled[name] for name in close)]
    last = [place for place in places if not place.path][-3:]
    return list(dict.fromkeys([*found, *last]))[:3]
