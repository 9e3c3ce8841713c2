"""Batch normalisation folded into the layer before it or behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import keras

from resect.adapt.base import Changed, change_layers
from resect.adapt.calls import calls_in_training, model_key, with_contents
from resect.adapt.folding import AFTER, BEFORE, Arrays, Folded, Statistics, folded
from resect.adapt.strip import is_training_only
from resect.edits.base import Edit, quoted, spellings
from resect.edits.remove import Remove
from resect.errors import EditError, NoMatchError
from resect.graph import Call, Graph, Layer, Ref
from resect.lookup import resolve
from resect.options import Weights
from resect.plan import plan
from resect.select import Place, Where, candidates


@dataclass(frozen=True)
class FoldBatchNormalization(Edit):
    """Folds batch normalisation into convolutions and dense layers.

    Args:
        where: The layers, of which only normalisations count; by default all there are, at any
            depth. A nested model means those in it.
    """

    verb: ClassVar[str] = "fold_batchnorm"
    where: Where = None

    def describe(self) -> str:
        return f"fold {'batch normalisation' if self.where is None else quoted(self.where)}"

    def pinned(self, graph: Graph) -> Edit:
        return FoldBatchNormalization(spellings(self._result(graph).folded, graph))

    def notes(self, graph: Graph) -> tuple[str, ...]:
        result = self._result(graph)
        return tuple(f"{place.spelling(graph)} stays: {why}" for place, why in result.kept)

    def apply(self, graph: Graph) -> Graph:
        result = self._result(graph)
        return change_layers(result.graph, candidates(result.graph), result.changed)

    def _chosen(self, graph: Graph) -> Iterator[Place]:
        return with_contents(graph, resolve(self.where, graph))

    def _result(self, graph: Graph) -> _Result:
        """What is folded into what.

        Raises:
            NoMatchError: There is no batch normalisation, or `where` matches nothing.
            EditError: None of it can be folded.
        """
        found = candidates(graph) if self.where is None else self._chosen(graph)
        norms = (p for p in found if _is_norm(graph.at(p.path).layer(p.call)))
        places = tuple({(model_key(graph.at(p.path)), p.call): p for p in norms}.values())
        if not places:
            raise NoMatchError(
                f"There is no BatchNormalization in {graph.kind} '{graph.name}'"
                + (" there." if self.where is not None else "."),
                "Nothing is to be done; other normalisations depend on their input.",
            )
        result = _fold_all(graph, places)
        if not result.folded:
            reasons = [f"{place.spelling(graph)}: {why}" for place, why in result.kept]
            more = [f"and {len(reasons) - 8} more"] if len(reasons) > 8 else []
            raise EditError(
                "\n".join(["None of it can be folded.", *reasons[:8], *more]),
                "A normalisation folds into a convolution or Dense right before it that has no "
                "activation, or into a Dense or an unpadded convolution right behind it.",
                places[0].spelling(graph),
            )
        return result


def fold_batchnorm(model: Any, where: Where = None, *, weights: Weights = "copy") -> Any:
    """A model whose batch normalisation is part of its convolutions and dense layers: for export.

    In inference, batch normalisation scales and shifts each channel. The convolution or Dense
    before it can do the same with another kernel and bias; so can the Dense behind it, or an
    unpadded convolution. The one before is preferred.

    Preserved: inference, but for rounding. In float64 a deep model agrees to twelve digits; in
    float32 it differs about as much as by a change of its input in the sixth digit: 1e-5 of the
    largest output with the statistics of data, up to 1e-3 with statistics at random. Not preserved:
    training mode, the trained kernels themselves and their optimizer slots, and what regularizers
    and constraints say of them.

    What cannot be folded exactly is left, and listed with the reason in the notes of the plan
    (`resect.plan(model).then(FoldBatchNormalization()).notes`): next to a layer that is shared,
    quantized, has LoRA or shares its weights, whose output others read too, behind an activation,
    called with `training=True`, along another axis than that of the channels.

    Args:
        model: A built Keras model.
        where: The normalisations, at any depth; by default all there are. A nested model means
            those in it.
        weights: `"copy"` or `"share"`; the folded kernels are new variables either way.

    Returns:
        A new model.

    Raises:
        NoMatchError: There is none, or `where` matches nothing.
        EditError: None of it can be folded; the reasons are listed.

    Example:

    >>> import keras, resect
    >>> conv = keras.layers.Conv2D(4, 3, use_bias=False, name="conv")
    >>> stack = [keras.Input((8, 8, 3)), conv, keras.layers.BatchNormalization()]
    >>> new = resect.adapt.fold_batchnorm(keras.Sequential(stack))
    >>> [(layer.name, layer.use_bias) for layer in new.layers]
    [('conv', True)]
    """
    return plan(model).then(FoldBatchNormalization(where)).apply(weights=weights)


# Which are folded


@dataclass(frozen=True)
class _Result:
    """What becomes of a graph.

    Attributes:
        graph: The graph without the folded normalisations.
        folded: Where those were.
        kept: The others, and why.
        into: What each layer, by the identity of its operation, takes in.
    """

    graph: Graph
    folded: tuple[Place, ...]
    kept: tuple[tuple[Place, str], ...]
    into: Mapping[int, list[Folded]]

    def changed(self, layer: Layer) -> Changed | None:
        """What a layer becomes."""
        how = self.into.get(id(layer.op))
        if how is None:
            return None
        names = {name for each in how for name in each.names}
        values = {name: _value(name, how) for name in names}
        return Changed(lambda config: {**config, "use_bias": True}, values)


def _value(name: str, how: Iterable[Folded]) -> Callable[[Arrays], Any]:
    def value(old: Arrays) -> Any:
        for each in how:
            old = {**old, **each.values(old)}
        return old[name]

    return value


def _fold_all(graph: Graph, places: tuple[Place, ...]) -> _Result:
    """Folds what can be folded, until nothing can: a fold may lay open another one."""
    shared = _shared(graph)
    into: dict[int, list[Folded]] = {}
    left, why = list(places), dict[Place, str]()
    trained = calls_in_training(graph)
    while True:
        done: list[Place] = []
        for place in left:
            nested = graph.at(place.path)
            if place.call in trained[model_key(nested)]:
                why[place] = "it is called with training=True"
                continue
            found = _neighbour(nested, place.call, shared)
            if isinstance(found, str):
                why[place] = found
                continue
            layer, how = found
            into.setdefault(id(layer.op), []).append(how)
            done.append(place)
        if not done:
            break
        graph = Remove([place.spelling(graph) for place in done]).apply(graph)
        left = [place for place in left if place not in done]
    kept = tuple((place, why[place]) for place in left)
    return _Result(graph, tuple(p for p in places if p not in left), kept, into)


def _is_norm(layer: Layer) -> bool:
    return layer.cls is keras.layers.BatchNormalization


def _neighbour(graph: Graph, call: Call, shared: _Shared) -> tuple[Layer, Folded] | str:
    """The layer that takes a normalisation in, and how; or why there is none."""
    norm, node = graph.layer(call), graph.nodes[call]
    if norm.origin == "new" or (norm.change is not None and norm.change.values):
        return "it has no values yet: apply the plan so far first"
    ref, result = node.data_inputs[0], Ref(call)
    if graph.spec(ref).dtype != graph.spec(result).dtype:
        return "it changes the dtype"
    statistics = Statistics.of(norm, len(graph.spec(ref).shape))
    producer = ref.call
    readers = [*graph.readers(ref), *[None for out in graph.output_refs if out == ref]]
    before = _taken(graph, producer, shared, "before")
    if not before and readers != [call]:
        before = f"others read the output of '{graph.label(producer)}' too"
    found = before or folded(BEFORE, graph.layer(producer), statistics)
    if not isinstance(found, str):
        return graph.layer(producer), found
    readers = [*graph.readers(result), *[None for out in graph.output_refs if out == result]]
    if len(readers) != 1 or readers[0] is None:
        return f"{found}; {'several read it' if len(readers) > 1 else 'it is an output'}"
    reader = readers[0]
    behind = _taken(graph, reader, shared, "behind")
    last = behind or folded(AFTER, graph.layer(reader), statistics)
    return f"{found}; {last}" if isinstance(last, str) else (graph.layer(reader), last)


def _taken(graph: Graph, call: Call, shared: _Shared, side: str) -> str:
    """Why the layer of a call cannot be given other weights; `""` if it can."""
    layer, title = graph.layer(call), graph.title(call)
    if graph.is_input(call):
        return "an input is before it"
    if layer.graph is not None:
        return f"the nested model '{layer.name}' is {side} it"
    if is_training_only(layer.recipe):
        return f"{title} {side} it is only for training: strip it first"
    if shared.graphs[id(layer.op)] > 1 or graph.is_shared(layer.name):
        return f"{title} {side} it is shared"
    if layer.origin != "kept" and layer.origin != "rebuilt":
        return f"{title} {side} it has no values yet: apply the plan so far first"
    if any(shared.holders[id(v)] > 1 for v in getattr(layer.op, "variables", ())):
        return f"{title} {side} it shares its weights with another layer"
    return ""


@dataclass(frozen=True)
class _Shared:
    """How often things are used.

    Attributes:
        graphs: In how many models an operation stands, by its identity.
        holders: How many operations hold a variable, by its identity.
    """

    graphs: Counter[int]
    holders: Counter[int]


def _shared(graph: Graph) -> _Shared:
    models = {model_key(nested): nested for _, nested in graph.walk()}
    graphs = Counter(id(layer.op) for nested in models.values() for layer in nested.layers.values())
    ops = {
        id(layer.op): layer.op
        for nested in models.values()
        for layer in nested.layers.values()
        if layer.graph is None
    }
    holders = Counter(id(v) for op in ops.values() for v in getattr(op, "variables", ()))
    return _Shared(graphs, holders)
