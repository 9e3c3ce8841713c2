"""What several adaptations ask of calls: what lies in a nested model, what runs in training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from resect.edits.base import call_parameters
from resect.graph import Call, Graph
from resect.select import Place, candidates


def model_key(graph: Graph) -> int:
    """What tells the models of a graph from each other, wherever they are nested."""
    return id(graph if graph.model is None else graph.model)


def with_contents(graph: Graph, places: Iterable[Place]) -> Iterator[Place]:
    """The places, those of nested models followed by all that is in them."""
    for place in places:
        yield place
        inner = graph.at(place.path).layer(place.call).graph
        for below in candidates(inner) if inner is not None else ():
            yield Place((*place.path, place.call.layer, *below.path), below.call)


def calls_in_training(graph: Graph) -> Mapping[int, frozenset[Call]]:
    """The calls with `training=True`, and all that nested models do which are called so.

    Args:
        graph: The outermost graph.

    Returns:
        The calls of each model, by its `model_key`.
    """
    found: dict[int, frozenset[Call]] = {}
    reached: dict[int, Graph] = {}
    for _, nested in graph.walk():
        calls = frozenset(call for call in nested.nodes if _trains(nested, call))
        found[model_key(nested)] = calls
        for call in calls:
            if (inner := nested.layer(call).graph) is not None:
                reached |= {model_key(each): each for _, each in inner.walk()}
    return found | {key: frozenset(nested.nodes) for key, nested in reached.items()}


def _trains(graph: Graph, call: Call) -> bool:
    """Whether a call says `training=True`, and not because that is what its layer falls back to.

    Keras records the default of `call` as if it had been given.
    """
    if graph.nodes[call].kwargs.get("training") is not True:
        return False
    default = call_parameters(graph.layer(call).op).get("training")
    return default is None or default.default is not True
