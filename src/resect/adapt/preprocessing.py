"""Preprocessing taken out of a model, or put into one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import keras

from resect.cut import Cut, find_cut, head_graph, tail_graph
from resect.edits import Head, Prepend
from resect.edits.base import Edit, layers_text
from resect.edits.nested import cut_nested
from resect.errors import EditError, NoMatchError
from resect.graph import Call, Graph, Layer, Node, Ref, Spec, free_name, map_refs
from resect.keras_graph.making import input_layer, template_layer
from resect.keras_graph.reading import has_graph
from resect.options import Weights
from resect.plan import plan

# By name, because releases of Keras differ in which of them there are.
_LAYERS = (
    "Rescaling", "Normalization", "Resizing", "CenterCrop", "Discretization", "CategoryEncoding",
    "Hashing", "HashedCrossing", "IntegerLookup", "StringLookup", "TextVectorization",
    "MelSpectrogram", "STFTSpectrogram", "AutoContrast", "Equalization", "Solarization", "AugMix",
    "ContrastLimitedAdaptiveHistogramEqualization", "RandAugment", "RandomBrightness",
    "RandomColorDegeneration", "RandomColorJitter", "RandomContrast", "RandomCrop",
    "RandomElasticTransform", "RandomErasing", "RandomFlip", "RandomGaussianBlur",
    "RandomGrayscale", "RandomHue", "RandomInvert", "RandomPerspective", "RandomPosterization",
    "RandomRotation", "RandomSaturation", "RandomSharpness", "RandomShear", "RandomTranslation",
    "RandomZoom",
)  # fmt: skip
_CLASSES = tuple(getattr(keras.layers, name) for name in _LAYERS if hasattr(keras.layers, name))
_PIPELINE: Any = getattr(keras.layers, "Pipeline", ())
# `image / 127.5 - 1`, `ops.flip(image, axis=-1)`, `table[:, :3]`
_OPERATIONS = ("Add", "Subtract", "Multiply", "TrueDivide", "Divide", "Cast", "GetItem", "Flip")


@dataclass(frozen=True)
class Preprocessing(Head):
    """The preprocessing that a model starts with, as a model: the first half of taking it out."""

    verb: ClassVar[str] = "preprocessing"
    at: Any = None

    def describe(self) -> str:
        return "take the preprocessing out and keep it"

    def pinned(self, graph: Graph) -> Edit:
        return self

    def notes(self, graph: Graph) -> tuple[str, ...]:
        return _notes(graph)

    def apply(self, graph: Graph) -> Graph:
        graph, cut = _cut(graph)
        tail_graph(graph, cut)  # refuses what cannot be put together again
        return head_graph(graph, cut).evolve(name=f"{graph.name}_preprocessing")


@dataclass(frozen=True)
class WithoutPreprocessing(Edit):
    """A model without the preprocessing that it starts with."""

    verb: ClassVar[str] = "without_preprocessing"

    def describe(self) -> str:
        return "take the preprocessing out"

    def pinned(self, graph: Graph) -> Edit:
        return self

    def notes(self, graph: Graph) -> tuple[str, ...]:
        return _notes(graph)

    def apply(self, graph: Graph) -> Graph:
        return tail_graph(*_cut(graph))


@dataclass(frozen=True)
class Preprocess(Edit):
    """Puts preprocessing in front of a model.

    Args:
        layer: A layer, a list of layers in a row, or a model, whose inputs become those of the
            result.
        shape: For layers: what a sample is before them, if it is of another shape than after.
        dtype: For layers: the dtype before them, if it is another.
    """

    verb: ClassVar[str] = "preprocess"
    layer: Any
    shape: tuple[int | None, ...] | None = None
    dtype: str | None = None

    def describe(self) -> str:
        return f"put {layers_text(self.layer)} in as preprocessing"

    def pinned(self, graph: Graph) -> Edit:
        return self

    def apply(self, graph: Graph) -> Graph:
        if isinstance(self.layer, keras.Model) and has_graph(self.layer):
            return self._model(graph)
        new = Prepend(self.layer).apply(graph)
        if self.shape is None and self.dtype is None:
            return new
        ref = graph.input_refs[0]
        spec = graph.spec(ref)
        shape = spec.shape if self.shape is None else (spec.shape[0], *self.shape)
        return _with_input(new, ref, spec._replace(shape=shape, dtype=self.dtype or spec.dtype))

    def _model(self, graph: Graph) -> Graph:
        """With a model in front, and its inputs instead.

        Raises:
            EditError: It returns more or fewer tensors than the model takes.
        """
        if self.shape is not None or self.dtype is not None:
            raise EditError(
                f"'{self.layer.name}' is a model, and says itself what it takes.",
                "Leave the shape and the dtype out.",
                self.layer.name,
            )
        owner = template_layer(graph.free_name(self.layer.name), self.layer)
        inner, old = owner.graph, graph.input_refs
        assert inner is not None
        if len(inner.output_refs) != len(old):
            raise EditError(
                f"'{self.layer.name}' returns {len(inner.output_refs)} tensors, and "
                f"'{graph.name}' takes {len(old)}.",
                "Give it an output for each input, in their order.",
                self.layer.name,
            )
        call = Call(owner.name)
        rest = graph.substitute({ref: Ref(call, i) for i, ref in enumerate(old)})
        gone = {ref.call for ref in old}
        layers = {n: la for n, la in rest.layers.items() if Call(n) not in gone}
        fed, nodes = _inputs_of(inner, {*layers, owner.name})
        inputs = map_refs(lambda ref: Ref(nodes[ref].call), inner.inputs)
        made = [*nodes.values(), Node(call, (inputs,))]
        return rest.evolve(
            nodes={n.call: n for n in made}
            | {c: node for c, node in rest.nodes.items() if c not in gone},
            layers={**layers, owner.name: owner, **{layer.name: layer for layer in fed}},
            inputs=inputs,
        ).ordered()


def take_preprocessing_out(model: Any, *, weights: Weights = "copy") -> tuple[Any, Any]:
    """The preprocessing that a model starts with, and the rest: `rest(preprocess(x)) == model(x)`.

    Preprocessing is all that lies between the inputs and the first other layer: rescaling,
    normalization, resizing, cropping, encoding, lookups, text vectorization, random augmentation,
    pipelines and nested models of these, and arithmetic with constants such as
    `image / 127.5 - 1`. A nested model that starts with some is cut in two. An input that is not
    preprocessed is passed on as it is.

    Preserved: everything: statistics, vocabularies, and what the two compute together. The rest is
    compiled as the model is, the preprocessing is not. Left alone, and listed in the notes of the
    plan: a nested model that starts with preprocessing and is called several times.

    Args:
        model: A built Keras model.
        weights: `"copy"` or `"share"`.

    Returns:
        The preprocessing, and the rest, whose inputs are named after the layers that fed them.

    Raises:
        NoMatchError: It starts with no preprocessing.
        EmptyResultError: It is nothing but preprocessing.

    Example:

    >>> import keras, resect
    >>> stack = [keras.Input((4,)), keras.layers.Rescaling(0.5, name="half")]
    >>> model = keras.Sequential([*stack, keras.layers.Dense(2, name="dense")])
    >>> preprocess, rest = resect.adapt.take_preprocessing_out(model)
    >>> [layer.name for layer in (*preprocess.layers, *rest.layers)]
    ['half', 'dense']
    """
    empty = plan(model)
    return (
        empty.then(Preprocessing()).apply(weights=weights),
        empty.then(WithoutPreprocessing()).apply(weights=weights),
    )


def put_preprocessing_in(
    model: Any,
    layer: Any,
    *,
    shape: tuple[int | None, ...] | None = None,
    dtype: str | None = None,
    weights: Weights = "copy",
) -> Any:
    """A model with preprocessing in front: `new(x) == model(layer(x))`.

    Preserved: all of the model, and what the layers have learned (`adapt`).
    Not preserved: nothing.

    Args:
        model: A built Keras model.
        layer: A layer, a list of layers in a row, or a built model, such as
            `take_preprocessing_out` returns; with a model its inputs are those of the result.
        shape: For layers: the shape of a sample before them, if it is another than after:
            `(None, None, 3)` in front of a `Resizing`.
        dtype: For layers: the dtype before them, if it is another: `"string"` in front of a lookup.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model.

    Raises:
        AmbiguousError: Layers, and the model has several inputs.
        EditError: A model that returns more or fewer tensors than the other takes.
        ShapeError: What comes out of the preprocessing does not fit.

    Example:

    >>> import keras, resect
    >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    >>> resize = keras.layers.Resizing(8, 8)
    >>> new = resect.adapt.put_preprocessing_in(model, resize, shape=(None, None, 3))
    >>> new.input_shape, new.output_shape
    ((None, None, None, 3), (None, 6, 6, 4))
    """
    what = tuple(layer) if isinstance(layer, list) else layer
    shape = None if shape is None else tuple(shape)
    return plan(model).then(Preprocess(what, shape, dtype)).apply(weights=weights)


# Where it ends


def _cut(graph: Graph) -> tuple[Graph, Cut]:
    """The cut behind the preprocessing, in a graph where no nested model lies on both sides.

    Raises:
        NoMatchError: There is no preprocessing.
    """
    graph, leading = _leading(graph)
    if not leading:
        first = next((call for call in graph.nodes if not graph.is_input(call)), None)
        raise NoMatchError(
            f"{graph.kind} '{graph.name}' starts with no preprocessing, but with "
            f"{'nothing' if first is None else graph.title(first)}.",
            "To cut it elsewhere, use resect.split.",
        )
    rest = [call for call in graph.nodes if call not in leading and not graph.is_input(call)]
    return graph, find_cut(graph, leading, rest)


def _leading(graph: Graph) -> tuple[Graph, set[Call]]:
    """The calls that read nothing but inputs and each other, and are preprocessing."""
    root, leading = graph, set[Call]()
    for call in root.nodes:
        node = graph.nodes[call]
        early = all(ref.call in leading or graph.is_input(ref.call) for ref in node.inputs)
        if graph.is_input(call) or not node.inputs or not early:
            continue
        layer = graph.layer(call)
        if layer.graph is None:
            if _is_preprocessing(layer, node):
                leading.add(call)
            continue
        inner, first = _leading(layer.graph)
        rest = [c for c in inner.nodes if c not in first and not inner.is_input(c)]
        if not first or (rest and graph.is_shared(call.layer)):
            continue
        if rest:
            graph, _ = cut_nested(graph, call, inner, find_cut(inner, first, rest))
        leading.add(call)
    return graph, leading


def _is_preprocessing(layer: Layer, node: Node) -> bool:
    if not isinstance(layer.recipe, keras.Layer):
        return layer.kind in _OPERATIONS and len(node.inputs) == 1
    return _all_preprocessing(layer.recipe)


def _all_preprocessing(op: Any) -> bool:
    if isinstance(op, _PIPELINE):
        return all(map(_all_preprocessing, op.layers))
    return isinstance(op, _CLASSES)


def _notes(graph: Graph) -> tuple[str, ...]:
    """The nested models that start with preprocessing and cannot be cut."""
    cut, leading = _leading(graph)
    return tuple(
        f"{graph.label(call)} stays whole, though it starts with preprocessing: it is called "
        f"{len(graph.calls_of(call.layer))} times"
        for call, node in cut.nodes.items()
        if call not in leading
        and (inner := cut.layer(call).graph) is not None
        and graph.is_shared(call.layer)
        and all(ref.call in leading or cut.is_input(ref.call) for ref in node.inputs)
        and _leading(inner)[1]
    )


# What is taken in


def _with_input(graph: Graph, ref: Ref, spec: Spec) -> Graph:
    layer = _input(graph.layer(ref.call), ref.call.layer, spec)
    nodes = {**graph.nodes, ref.call: Node(ref.call, outputs=(spec,))}
    return graph.with_layer(layer).evolve(nodes=nodes)


def _inputs_of(graph: Graph, taken: set[str]) -> tuple[list[Layer], dict[Ref, Node]]:
    """Inputs like those of a graph, under names that are not taken: their layers and calls."""
    layers: list[Layer] = []
    nodes: dict[Ref, Node] = {}
    for ref in graph.input_refs:
        spec = graph.spec(ref)
        name = free_name(ref.call.layer, {*taken, *(layer.name for layer in layers)})
        layers.append(_input(graph.layer(ref.call), name, spec))
        nodes[ref] = Node(Call(name), outputs=(spec,))
    return layers, nodes


def _input(layer: Layer, name: str, spec: Spec) -> Layer:
    """The layer of an input of a given spec, otherwise like another."""
    new = input_layer(name, spec)
    if spec.sparse:
        config = {**layer.recipe.get_config(), "name": name, "batch_shape": spec.shape}
        return Layer(name, layer.cls.from_config(config), layer.cls, origin="new")
    return new
