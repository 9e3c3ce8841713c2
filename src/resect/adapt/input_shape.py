"""Another input size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import keras

from resect.adapt.base import Changed, change_layers, with_input
from resect.adapt.positions import with_positions
from resect.edits.base import Edit, only_input, quoted
from resect.errors import EditError
from resect.graph import Call, Graph, Ref, Spec
from resect.keras_graph.inferring import infer
from resect.options import Weights
from resect.plan import plan
from resect.select import Place, Where

_CONVOLUTIONS = (
    keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D,
)  # fmt: skip


@dataclass(frozen=True)
class InputShape(Edit):
    """Gives an input another shape of the same rank.

    Args:
        shape: The shape of one sample; `None` for an axis of any length.
        at: The input, where the model has several.
    """

    verb: ClassVar[str] = "input_shape"
    shape: tuple[int | None, ...]
    at: Where = None

    def describe(self) -> str:
        where = "" if self.at is None else f" in {quoted(self.at)}"
        return f"take inputs of the shape {self.shape}{where}"

    def pinned(self, graph: Graph) -> Edit:
        return InputShape(self.shape, graph.label(self._input(graph).call))

    def apply(self, graph: Graph) -> Graph:
        ref = self._input(graph)
        was = graph.spec(ref)
        if len(self.shape) != len(was.shape) - 1:
            raise EditError(
                f"The input '{graph.label(ref.call)}' has the shape {was}, which has another rank "
                f"than {self.shape}.",
                "Give the shape of one sample, without the batch axis.",
                graph.label(ref.call),
            )
        resized = with_input(graph, ref.call, (was.shape[0], *self.shape))
        return with_positions(graph, _repadded(graph, _fitted(resized)))

    def _input(self, graph: Graph) -> Ref:
        return only_input(graph, self.at, "Say which with at=.")


def _fitted(graph: Graph) -> Graph:
    """The graph with the inputs of nested models as large as what those are given."""
    done: set[str] = set()
    while True:
        known = infer(graph).graph
        misfit = next((name for name in _misfits(known) if name not in done), None)
        if misfit is None:
            return graph
        done.add(misfit)
        inner = known.layers[misfit].graph
        assert inner is not None
        node = known.nodes[known.calls_of(misfit)[0]]
        for ref, given in zip(inner.input_refs, node.data_inputs, strict=False):
            inner = with_input(inner, ref.call, known.spec(given).shape)
        graph = graph.with_nested((misfit,), _fitted(inner))


def _misfits(graph: Graph) -> Iterator[str]:
    """Nested models that are given another shape than their inputs have."""
    for call, node in graph.nodes.items():
        inner = graph.layer(call).graph
        if inner is None or any(graph.nodes[r.call].outputs is None for r in node.data_inputs):
            continue
        given = [graph.spec(ref).shape for ref in node.data_inputs]
        wanted = [inner.spec(ref).shape for ref in inner.input_refs]
        alike = [len(one) == len(other) for one, other in zip(given, wanted, strict=False)]
        if given != wanted and len(given) == len(wanted) and all(alike):
            yield call.layer


# Keras's applications pad an image before a convolution with strides by an amount that depends on
# whether its size is even. A network that is built for another size has other paddings.


def _repadded(old: Graph, new: Graph) -> Graph:
    for path, before in old.walk():
        done: set[str] = set()
        while True:
            known = infer(new.at(path)).graph
            wrong = next((p for p in _paddings(before, known) if p[0].layer not in done), None)
            if wrong is None:
                break
            call, padding = wrong
            done.add(call.layer)
            changed = Changed(lambda old, padding=padding: {**old, "padding": padding})
            new = change_layers(new, [Place(path, call)], lambda _, changed=changed: changed)
    return new


def _paddings(old: Graph, new: Graph) -> Iterator[tuple[Call, Any]]:
    """Paddings that a network of the new size would have instead of its own."""
    for call, node in old.nodes.items():
        readers = old.consumers(call)
        if old.layer(call).cls is not keras.layers.ZeroPadding2D or len(readers) != 1:
            continue
        reader, (ref,) = old.layer(readers[0]), node.data_inputs
        if reader.cls not in _CONVOLUTIONS or reader.op.padding != "valid":
            continue
        if new.nodes[ref.call].outputs is None:
            continue
        now, then = (_for_strides(graph.spec(ref), reader.op.kernel_size) for graph in (new, old))
        own = [list(pair) for pair in old.layer(call).op.padding]
        if then is not None and own == then and now not in (None, then):
            yield call, now


def _for_strides(spec: Spec, kernel: Sequence[int]) -> list[list[int]] | None:
    """The padding that Keras's applications give an image of a size; `None` for any size."""
    first = keras.config.image_data_format() == "channels_first"
    sizes = [size for size in (spec.shape[2:] if first else spec.shape[1:3]) if size is not None]
    if len(sizes) != len(kernel):
        return None
    pairs = zip(sizes, kernel, strict=True)
    return [[width // 2 - (1 - size % 2), width // 2] for size, width in pairs]


def input_shape(
    model: Any, shape: Sequence[int | None], *, at: Where = None, weights: Weights = "copy"
) -> Any:
    """The model for inputs of another size.

    Nested models take what they are given then. The paddings with which Keras's applications
    prepare strided convolutions follow the size, as if the network had been built for it.

    The position embeddings of a vision transformer are interpolated to its new grid of patches
    (bicubically; Dosovitskiy et al. 2021, section 3.2), the class token's stays: of KerasHub's ViT,
    DeiT, CLIP, SigLIP and PaliGemma, and of a layer class of one's own that has a `Rule` with
    `Positions`.

    Preserved: all weights, but for those position embeddings. The model equals one that is built
    for that size and has the same weights.
    Not preserved: what the model computes from images of the old size.

    Args:
        model: A built Keras model.
        shape: The shape of one sample, such as `(height, width, channels)`; `None` for an axis of
            any length.
        at: The input, where the model has several.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model.

    Raises:
        ShapeError: The weights of a layer do not fit that size, such as those of a `Dense` behind
            `Flatten`.
        EditError: The shape has another rank; or a layer has position embeddings and no rule.
        AmbiguousError: Several inputs, and `at` does not say which.

    Example:

    >>> import keras, resect
    >>> stack = [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)]
    >>> resect.adapt.input_shape(keras.Sequential(stack), (16, 16, 3)).output_shape
    (None, 14, 14, 4)
    """
    return plan(model).then(InputShape(tuple(shape), at)).apply(weights=weights)
