"""Layers that only training needs, taken out."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import keras

from resect.adapt.base import Changed, change_layers
from resect.adapt.calls import calls_in_training, model_key, with_contents
from resect.edits.base import Edit, not_empty, quoted, spellings
from resect.errors import EditError, NoMatchError
from resect.graph import Call, Graph, Layer, Node, Ref, refs
from resect.keras_graph.passing import passed_on
from resect.keras_graph.reading import sublayers
from resect.lookup import resolve
from resect.options import Weights
from resect.plan import plan
from resect.select import Place, Where, candidates

# By name, because releases of Keras differ in which of them there are. Not among them: RandomCrop,
# which crops in inference too.
_OF_KERAS = (
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianDropout",
    "GaussianNoise", "AlphaDropout", "ActivityRegularization",
    "AugMix", "CutMix", "MixUp", "RandAugment", "Solarization",
    "RandomBrightness", "RandomColorDegeneration", "RandomColorJitter", "RandomContrast",
    "RandomElasticTransform", "RandomErasing", "RandomFlip", "RandomGaussianBlur",
    "RandomGrayscale", "RandomHue", "RandomInvert", "RandomPerspective", "RandomPosterization",
    "RandomRotation", "RandomSaturation", "RandomSharpness", "RandomShear", "RandomTranslation",
    "RandomZoom",
)  # fmt: skip

_REGISTER: set[type] = {
    getattr(keras.layers, name) for name in _OF_KERAS if hasattr(keras.layers, name)
}
_PIPELINE: Any = getattr(keras.layers, "Pipeline", ())

_Class = TypeVar("_Class", bound=type)


def training_only(cls: _Class) -> _Class:
    """Registers a class of layers that pass their input on in inference, bit by bit.

    `strip` takes such layers out. A subclass is not registered with its parent: it may do more.

    Args:
        cls: The class.

    Returns:
        The class, so that this can be written above it.

    Example:

    >>> import keras, resect
    >>> @resect.adapt.training_only
    ... class DropPath(keras.layers.Layer):
    ...     def call(self, inputs, training=False):
    ...         return inputs * 0.0 if training else inputs
    """
    _REGISTER.add(cls)
    return cls


def is_training_only(layer: Any) -> bool:
    """Whether a layer passes its input on in inference: registered, or made of such layers.

    Args:
        layer: A Keras layer.
    """
    if isinstance(layer, _PIPELINE) and type(layer) is _PIPELINE:
        return all(map(is_training_only, layer.layers))
    if type(layer) is keras.layers.TimeDistributed:
        return is_training_only(layer.layer)
    return type(layer) in _REGISTER


@dataclass(frozen=True)
class Strip(Edit):
    """Takes layers out that only training needs.

    Args:
        where: The layers; by default all there are, at any depth. A nested model means those in it.
    """

    verb: ClassVar[str] = "strip"
    where: Where = None

    def describe(self) -> str:
        what = "the layers that only training needs" if self.where is None else quoted(self.where)
        return f"strip {what}"

    def pinned(self, graph: Graph) -> Edit:
        return Strip(spellings(self._found(graph), graph))

    def notes(self, graph: Graph) -> tuple[str, ...]:
        if self.where is not None:
            return ()
        kept = ((place, _why_kept(graph, place)) for place in candidates(graph))
        said = [f"{place.spelling(graph)} stays: {why}" for place, why in kept if why]
        return (*said, *_casts(graph, self._found(graph)))

    def apply(self, graph: Graph) -> Graph:
        places = self._found(graph)
        mixed = [place for place in places if _is_mixed(_op(graph, place))]
        whole = {(model_key(graph.at(p.path)), p.call) for p in places if p not in mixed}
        for path in sorted((path for path, _ in graph.walk()), key=len, reverse=True):
            if _exists(graph, path):
                nested = graph.at(path)
                calls = {call for call in nested.nodes if (model_key(nested), call) in whole}
                graph = graph.with_nested(path, _without(nested, calls, outermost=not path))
        return change_layers(graph, mixed, lambda _: Changed(_thinned, _FRESH_SEEDS))

    def _found(self, graph: Graph) -> tuple[Place, ...]:
        """The calls that are taken out, or that lose some of their parts.

        Raises:
            NoMatchError: There are none.
            EditError: A layer that was asked for does something in inference.
        """
        if self.where is None:
            found = [place for place in candidates(graph) if _is_stripped(graph, place)]
        else:
            found = list(self._chosen(graph))
        if not found:
            raise NoMatchError(
                f"{graph.kind} '{graph.name}' has no layer that only training needs.",
                "Nothing is to be done; a class of your own is made known with "
                "resect.adapt.training_only.",
            )
        return tuple(found)

    def _chosen(self, graph: Graph) -> Iterator[Place]:
        chosen = resolve(self.where, graph)
        for place in with_contents(graph, chosen):
            if graph.at(place.path).layer(place.call).graph is not None:
                continue
            if place not in chosen and not _is_stripped(graph, place):
                continue
            if not _is_stripped(graph, place):
                why = _why_kept(graph, place) or "it is no layer that only training needs"
                raise EditError(
                    f"{graph.at(place.path).title(place.call)} stays: {why}.",
                    "Take it out with resect.remove, if it is to go nevertheless; if it passes its "
                    "input on in inference, register its class: "
                    "resect.adapt.training_only(cls).",
                    place.spelling(graph),
                )
            yield place


def strip(model: Any, where: Where = None, *, weights: Weights = "copy") -> Any:
    """A model without the layers that only training needs: for export.

    Dropout in all its kinds, noise, `ActivityRegularization` and random augmentation go, at any
    depth; so do pipelines, `TimeDistributed` wrappers and nested models in which nothing is left.
    A pipeline with other layers too keeps those. Where such a layer changed the dtype, a layer that
    does only that takes its place. Classes of your own are registered with `training_only`.

    Preserved: inference, bit by bit; all weights.
    Not preserved: training mode, and losses on activities. Left alone, and listed in the notes of
    the plan: layers called with `training=True`, `RandomCrop`, subclasses that are not registered,
    and layers inside other layers (an LSTM's dropout is a setting: `configure`).

    Args:
        model: A built Keras model.
        where: The layers; by default all there are. A nested model means those in it.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model.

    Raises:
        NoMatchError: There are none.
        EditError: A layer named by `where` does something in inference.
        EmptyResultError: The model has no other layers.

    Example:

    >>> import keras, resect
    >>> stack = [keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(2, name="dense")]
    >>> [layer.name for layer in resect.adapt.strip(keras.Sequential(stack)).layers]
    ['dense']
    """
    return plan(model).then(Strip(where)).apply(weights=weights)


# What goes


def _op(graph: Graph, place: Place) -> Any:
    return graph.at(place.path).layer(place.call).recipe


def _is_stripped(graph: Graph, place: Place) -> bool:
    layer = graph.at(place.path).layer(place.call)
    known = is_training_only(layer.recipe) or _is_mixed(layer.recipe)
    return layer.graph is None and known and not _obstacle(graph, place)


def _is_mixed(op: Any) -> bool:
    """Whether a layer is a pipeline in which some layers go and others stay."""
    if not (isinstance(op, _PIPELINE) and type(op) is _PIPELINE) or is_training_only(op):
        return False
    return any(is_training_only(part) or _is_mixed(part) for part in op.layers)


def _thinned(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a pipeline without the layers that only training needs."""
    entries = copy.deepcopy(config["layers"])  # Keras 3.10 writes to what it reads
    parts = [keras.saving.deserialize_keras_object(part) for part in entries]
    kept = [
        keras.saving.serialize_keras_object(part) if not _is_mixed(part) else _thinned_part(entry)
        for part, entry in zip(parts, config["layers"], strict=True)
        if not is_training_only(part)
    ]
    return {**config, "layers": kept}


def _thinned_part(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "config": _thinned(entry["config"])}


# The seeds of the layers that go cannot be told by name from those of the layers that stay.
_FRESH_SEEDS = {"seed_generator_state": None}


# What stays, and why


def _why_kept(graph: Graph, place: Place) -> str:
    """Why a layer stays that looks as if it should go; `""` if it goes or nobody would expect it.

    Args:
        graph: The outermost graph.
        place: A call in it.
    """
    layer = graph.at(place.path).layer(place.call)
    if layer.graph is not None or _is_stripped(graph, place):
        return ""
    op = layer.recipe
    if is_training_only(op) or _is_mixed(op):
        return _obstacle(graph, place)
    if layer.cls is keras.layers.RandomCrop:
        return "a RandomCrop changes the size of the image in inference too"
    parents = [cls.__name__ for cls in layer.cls.__mro__[1:] if cls in _REGISTER]
    if parents:
        return f"{layer.kind} is a subclass of {parents[0]} that is not registered"
    inside = [part.name for part in sublayers(op) if is_training_only(part)]
    return f"it holds {', '.join(map(repr, inside))}, a part of what it is" if inside else ""


def _obstacle(graph: Graph, place: Place) -> str:
    """Why a call of a layer that only training needs cannot be taken out; `""` if it can."""
    nested = graph.at(place.path)
    trained = calls_in_training(graph)[model_key(nested)]
    if any(call in trained for call in nested.calls_of(place.call.layer)):
        return "it is called with training=True"
    node = nested.nodes[place.call]
    if len(node.data_inputs) != 1 or len(node.outputs or (None,)) != 1:
        return "it takes or returns several tensors"
    if node.outputs is None:
        return ""
    given, returned = nested.spec(node.data_inputs[0]), node.outputs[0]
    if given.masked and not returned.masked:
        return "it drops a mask"
    if given.shape != returned.shape:
        return "it changes the shape"
    return ""


# Taking out


def _exists(graph: Graph, path: tuple[str, ...]) -> bool:
    for name in path:
        layer = graph.layers.get(name)
        if layer is None or layer.graph is None:
            return False
        graph = layer.graph
    return True


def _without(graph: Graph, calls: set[Call], *, outermost: bool) -> Graph:
    """A graph without some calls, and without the nested models in which nothing is left."""
    instead: dict[Ref, Ref] = {}
    casts: list[tuple[Node, Layer]] = []
    for call, node in graph.nodes.items():
        if call in calls:
            ref = node.data_inputs[0]
            instead[Ref(call)] = ref
            if (cast := _cast(graph, call)) is not None:
                casts.append(cast)
                instead[Ref(call)] = Ref(cast[0].call)
        elif (inner := graph.layer(call).graph) is not None and _is_wire(inner):
            given = dict(zip(inner.input_refs, refs(node.args), strict=False))
            instead.update({Ref(call, i): given[r] for i, r in enumerate(inner.output_refs)})
    if not instead:
        return graph
    graph = graph.add(*map(list, zip(*casts, strict=True))) if casts else graph
    mapping = {ref: _followed(ref, instead) for ref in instead}
    thin = graph.substitute(mapping).pruned().ordered()
    if outermost:
        not_empty(thin)
    return thin if _is_wire(thin) else passed_on(thin)


def _followed(ref: Ref, instead: dict[Ref, Ref]) -> Ref:
    while ref in instead:
        ref = instead[ref]
    return ref


def _is_wire(graph: Graph) -> bool:
    """Whether nothing but inputs is left of a nested model."""
    return graph.edited and all(graph.is_input(call) for call in graph.nodes)


def _cast(graph: Graph, call: Call) -> tuple[Node, Layer] | None:
    """What changes the dtype of a tensor as a layer did that goes; `None` if it did not."""
    node = graph.nodes[call]
    given, returned = graph.spec(node.data_inputs[0]), (node.outputs or (None,))[0]
    if returned is None or given.dtype == returned.dtype:
        return None
    name = graph.free_name(f"{graph.label(call).replace('@', '_')}_cast")
    if "float" in given.dtype:
        template = keras.layers.Identity(dtype=returned.dtype, name=name)
    else:
        template = keras.layers.Rescaling(1.0, dtype=returned.dtype, name=name)
    layer = Layer(name, template, type(template), origin="new")
    return Node(Call(name), (node.data_inputs[0],)), layer


def _casts(graph: Graph, places: tuple[Place, ...]) -> Iterator[str]:
    for place in places:
        nested = graph.at(place.path)
        if not _is_mixed(_op(graph, place)) and (cast := _cast(nested, place.call)) is not None:
            returned = nested.spec(Ref(place.call)).dtype
            yield f"{place.spelling(graph)} becomes {cast[1].name}, which makes {returned} of it"
