"""Tensors inside a model, one for each way that leads to them; and how they come to its surface."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Mapping
from typing import Any, NamedTuple

from resect.errors import AmbiguousError, InputLayerError, NoMatchError
from resect.graph import Call, Graph, Layer, Ref
from resect.lookup import resolve
from resect.select import Name, Place, Where, as_selection, output_of


class Feature(NamedTuple):
    """A tensor at any depth.

    Attributes:
        owners: The calls of nested models that lead to it, outermost first.
        ref: The tensor, in the graph of the innermost.
    """

    owners: tuple[Call, ...]
    ref: Ref

    @property
    def path(self) -> tuple[str, ...]:
        """The names of the nested models."""
        return tuple(owner.layer for owner in self.owners)

    def spelling(self, graph: Graph) -> str:
        """Its address: `encoder@1/split:0`."""
        labels = [graph.at(self.path[:i]).label(owner) for i, owner in enumerate(self.owners)]
        return "/".join([*labels, graph.at(self.path).tensor_label(self.ref)])


def features_of(addresses: Iterable[Where], graph: Graph) -> list[Feature]:
    """The tensors that addresses mean, in their order.

    Raises:
        NoMatchError: One matches nothing.
        AmbiguousError: One could mean several calls of a nested model.
        InputLayerError: One means an input.
    """
    return [f for address in addresses for f in _features(address, graph)]


def _features(where: Where, graph: Graph) -> list[Feature]:
    plain, numbers = _without_numbers(where, graph)
    found: dict[Feature, None] = {}
    for place in resolve(plain, graph):
        within = graph.at(place.path)
        if within.is_input(place.call):
            raise InputLayerError(
                f"'{place.spelling(graph)}' is an input: nothing computes it.",
                "Name the layer whose output is wanted.",
                place.spelling(graph),
            )
        if not isinstance(as_selection(plain), Name):
            _check_path(place, graph)
        owners = _owners(place, numbers, graph)
        outputs, meant = within.refs_of(place.call), output_of(where)
        chosen = outputs if meant is None or len(outputs) == 1 else (outputs[meant],)
        found.update(dict.fromkeys(Feature(owners, ref) for ref in chosen))
    return list(found)


def _without_numbers(where: Where, graph: Graph) -> tuple[Where, dict[int, int]]:
    """An address without the numbers of calls of nested models, and those by their position."""
    numbers: dict[int, int] = {}
    if not isinstance(where, str):
        return where, numbers
    *path, last = where.split("/")
    within: Graph | None = graph
    for i, part in enumerate(path):
        if within is None:
            break
        base, _, number = part.rpartition("@")
        if part not in within.layers and base in within.layers and number.isdigit():
            path[i], numbers[i] = base, int(number)
        layer = within.layers.get(path[i])
        within = None if layer is None else layer.graph
    return "/".join([*path, last]), numbers


def _owners(place: Place, numbers: Mapping[int, int], graph: Graph) -> tuple[Call, ...]:
    """The calls of nested models that lead to a place."""
    owners: list[Call] = []
    for i, name in enumerate(place.path):
        calls = graph.at(place.path[:i]).calls_of(name)
        chosen = [c for c in calls if numbers.get(i, c.number) == c.number]
        if len(chosen) == 1:
            owners += chosen
            continue
        rest = [*place.path[i + 1 :], graph.at(place.path).label(place.call)]
        spelled = ["/".join([*place.path[:i], f"{name}@{c.number}", *rest]) for c in calls]
        shown = " or ".join(f"'{spelling}'" for spelling in spelled)
        raise (AmbiguousError if chosen else NoMatchError)(
            f"The nested model '{name}' is called {len(calls)} times"
            + (", and each call has its own." if chosen else f", and not for a {numbers[i]}th."),
            f"Say which one: {shown}.",
            name,
        )
    return tuple(owners)


def _check_path(place: Place, graph: Graph) -> None:
    """A selection finds a model that stands in several others in one of them only.

    Raises:
        AmbiguousError: It does.
    """
    for depth in range(1, len(place.path) + 1):
        layer = graph.at(place.path[: depth - 1]).layers[place.path[depth - 1]]
        paths = [(*path, name) for path, name, _ in _standing(graph, layer)]
        if len(paths) > 1:
            rest = [*place.path[depth:], graph.at(place.path).label(place.call)]
            shown = " or ".join(f"'{'/'.join([*path, *rest])}'" for path in paths)
            raise AmbiguousError(
                f"The nested model '{layer.name}' stands in several models.",
                f"Say which one: {shown}.",
                layer.name,
            )


def _standing(graph: Graph, layer: Layer) -> list[tuple[tuple[str, ...], str, Layer]]:
    """Where a nested model stands: the paths of the models around it, and its names there."""
    return [
        (path, name, other)
        for path, nested in graph.walk()
        for name, other in nested.layers.items()
        if other.graph is not None and other.op is layer.op and other.part == layer.part
    ]


# To the surface


def surfaced(graph: Graph, features: Iterable[Feature]) -> tuple[Graph, list[Ref]]:
    """A graph in which nested models return tensors from inside, and what those are outside.

    Args:
        graph: The outermost graph.
        features: The tensors.

    Returns:
        The graph, and for each feature a tensor of it.
    """
    tensors: list[Ref] = []
    for owners, ref in features:
        for depth in range(len(owners), 0, -1):
            path = tuple(owner.layer for owner in owners[:depth])
            inner = _returning(graph.at(path), ref)
            graph = graph.with_nested(path, inner)
            ref = Ref(owners[depth - 1], inner.output_refs.index(ref))
        tensors.append(ref)
    return graph, tensors


def _returning(graph: Graph, ref: Ref) -> Graph:
    """A graph that returns a tensor too, behind its other outputs: these keep their numbers."""
    if ref in graph.output_refs:
        return graph
    outputs = graph.outputs
    if isinstance(outputs, dict):
        key, last = graph.tensor_label(ref), max(outputs)
        key = key if key > last else f"{last}_{key}"  # Keras sorts them
        return graph.evolve(outputs={**outputs, key: ref})
    return graph.evolve(outputs=[*listed(outputs), ref])


def listed(outputs: Any) -> list[Any]:
    """Outputs that are no dict as a list."""
    if outputs is None:
        return []
    return [outputs] if isinstance(outputs, Ref) else list(outputs)  # a Ref is a tuple itself


def without_unread(graph: Graph) -> Graph:
    """A graph whose nested models return, and compute, only what some call of them is read for.

    One in which an input would be left over stays as it is.
    """
    for path, nested in graph.walk():
        for name, layer in nested.layers.items():
            if layer.graph is None:
                continue
            inner, used = layer.graph, _read_outputs(graph, layer)
            several = len(set(inner.output_refs)) < len(inner.output_refs)
            if several or not used or len(used) == len(inner.output_refs):
                continue
            outputs = only(inner.outputs, {inner.output_refs[i] for i in used})
            if isinstance(outputs, list) and len(outputs) == 1:
                outputs = outputs[0]
            changed = inner.evolve(outputs=outputs).pruned()
            if any(_is_read(inner, ref) > _is_read(changed, ref) for ref in inner.input_refs):
                continue
            graph = graph.with_nested((*path, name), changed)
            return without_unread(_renumbered(graph, layer, used))
    return graph


def _is_read(graph: Graph, ref: Ref) -> bool:
    return bool(graph.readers(ref)) or ref in graph.output_refs


def _read_outputs(graph: Graph, layer: Layer) -> list[int]:
    """The numbers of the outputs of a nested model that are read, wherever it stands."""
    read: set[int] = set()
    for path, name, inner in _standing(graph, layer):
        within, count = graph.at(path), len(inner.graph.output_refs if inner.graph else ())
        refs = {Ref(call, i) for call in within.calls_of(name) for i in range(count)}
        read |= {ref.output for ref in refs if _is_read(within, ref)}
    return sorted(read)


def _renumbered(graph: Graph, layer: Layer, kept: list[int]) -> Graph:
    """The graph, where the outputs of a nested model that are kept have new numbers."""
    for path, name, _ in _standing(graph, layer):
        within = graph.at(path)
        calls = within.calls_of(name)
        moved = {Ref(call, was): Ref(call, now) for call in calls for now, was in enumerate(kept)}
        within = within.substitute(moved)
        fresh = {
            call: dataclasses.replace(within.nodes[call], outputs=None, tensors=())
            for call in calls
        }
        within = within.evolve(nodes={**within.nodes, **fresh})
        graph = graph.with_nested(path, within)
    return graph


def only(structure: Any, kept: Container[Ref]) -> Any:
    """What is kept of a structure, `None` if nothing is."""
    if isinstance(structure, Ref):
        return structure if structure in kept else None
    if isinstance(structure, dict):
        items = {key: only(item, kept) for key, item in structure.items()}
        return {key: item for key, item in items.items() if item is not None} or None
    return [item for item in (only(item, kept) for item in structure) if item is not None] or None
