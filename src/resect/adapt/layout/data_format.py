"""The other data format: images as `(batch, channels, height, width)`, or the other way around."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, get_args

from resect.adapt.layout.decisions import Decisions
from resect.adapt.layout.layouts import DataFormat as Format
from resect.adapt.layout.relayout import relayout
from resect.edits.base import Edit
from resect.errors import EditError, NoMatchError
from resect.graph import Graph, Ref
from resect.options import Weights
from resect.plan import plan

Names = tuple[str, ...] | None


@dataclass(frozen=True)
class DataFormat(Edit):
    """Takes a model to the other data format.

    Args:
        to: `"channels_first"` or `"channels_last"`.
        inputs: Names of the inputs that may change; `None` for all.
        outputs: Likewise of the outputs.
    """

    verb: ClassVar[str] = "data_format"
    to: Format
    inputs: Names = None
    outputs: Names = None

    def __post_init__(self) -> None:
        if self.to not in get_args(Format):
            known = " or ".join(map(repr, get_args(Format)))
            raise ValueError(f"to must be {known}, not {self.to!r}.")

    def describe(self) -> str:
        kept = [
            f"the {what} as they are" if not names else f"of the {what} only {', '.join(names)}"
            for what, names in (("inputs", self.inputs), ("outputs", self.outputs))
            if names is not None
        ]
        return " and ".join([f"go to {self.to}", *kept])

    def pinned(self, graph: Graph) -> Edit:
        return self

    def apply(self, graph: Graph) -> Graph:
        return self._converted(graph)[0]

    def notes(self, graph: Graph) -> tuple[str, ...]:
        new, decisions = self._converted(graph)
        pairs = zip(graph.input_refs, new.input_refs, strict=True)
        given = [
            f"input '{graph.tensor_label(ref)}' is {new.spec(now)}"
            for ref, now in pairs
            if graph.spec(ref).shape != new.spec(now).shape
        ]
        kept = [f"{name} keeps its data format" for name in decisions.stayed]
        return (*given, *kept)

    def _converted(self, graph: Graph) -> tuple[Graph, Decisions]:
        decisions = Decisions(self.to)
        inputs = _named(graph, self.inputs, graph.input_refs, "input")
        outputs = _named(graph, self.outputs, graph.output_refs, "output")
        new = relayout(graph, decisions, inputs, outputs)
        if new is graph:
            raise EditError(
                f"No layer of {graph.kind} '{graph.name}' has another data format that it could "
                "give up.",
                f"It may be {self.to} already.",
            )
        return new, decisions


def _named(graph: Graph, names: Names, among: tuple[Ref, ...], what: str) -> set[Ref] | None:
    if names is None:
        return None
    found = {graph.tensor_label(ref): ref for ref in among}
    for name in names:
        if name not in found:
            have = ", ".join(map(repr, found))
            raise NoMatchError(f"The model has no {what} {name!r}.", f"It has {have}.", name)
    return {found[name] for name in names}


def data_format(
    model: Any,
    to: Format,
    *,
    inputs: str | list[str] | tuple[str, ...] | None = None,
    outputs: str | list[str] | tuple[str, ...] | None = None,
    weights: Weights = "copy",
) -> Any:
    """The model in the other data format, with the same weights.

    `to="channels_first"` makes a model that takes `(batch, channels, height, width)` of one that
    takes `(batch, height, width, channels)`; `to="channels_last"` goes back. Every layer that has a
    `data_format` gets the new one: convolutions of all kinds, pooling, padding, cropping,
    up-sampling, `ConvLSTM`, also in `TimeDistributed` and in nested models. The axes of
    normalization, `Concatenate`, `Softmax` and of operations (`keras.ops.mean`, ...) follow, and so
    do squeeze-and-excitation's `Reshape` layers, slopes of a `PReLU` and constants. A `Flatten` is
    told the new format too, and then flattens in the order of old, so no Dense is touched. What
    has no rule (a Dense on a feature map, attention, a layer of one's own, `keras.ops.reshape`)
    reads the old layout, which a `Permute` in front of it makes, so it computes what it always
    did; where several follow each other, there is one `Permute`. `register_layout` gives a layer
    of one's own a rule. A convolution with a softmax, and a layer that reads a mask, keep the old
    format. `print(plan)` says which ones.

    An input gets the new layout if such layers read it, through layers that can follow. An output
    that is a feature map has the new layout too; vectors, such as logits, are what they were.

    Preserved: the weights, bit by bit, but for slopes of a `PReLU`, which are transposed; what the
    model computes: `new(transpose(x))` equals `transpose(old(x))`, but for the order of sums.
    Not preserved: which numbers a dropout draws; optimizer slots of a `PReLU`.

    TensorFlow on a CPU has no channels-first convolutions and pooling. It can make such a model and
    save it, not run it.

    Args:
        model: A built Keras model.
        to: `"channels_first"` or `"channels_last"`.
        inputs: Names of the inputs that may change; the others keep their layout, and a `Permute`
            follows them. All by default, none with `()`.
        outputs: Likewise of the outputs.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model.

    Raises:
        EditError: There is nothing to change; or a shared layer is called on tensors that have
            different layouts and would have to become two.
        NoMatchError: There is no such input or output.
        ValueError: `to` is neither.

    Example:

    >>> import keras, resect
    >>> stack = [keras.Input((8, 6, 3)), keras.layers.Conv2D(4, 3), keras.layers.Flatten()]
    >>> model = keras.Sequential([*stack, keras.layers.Dense(5)])
    >>> new = resect.adapt.data_format(model, "channels_first")
    >>> new.input_shape, new.output_shape
    ((None, 3, 8, 6), (None, 5))
    """
    edit = DataFormat(to, _names(inputs), _names(outputs))
    return plan(model).then(edit).apply(weights=weights)


def _names(given: str | list[str] | tuple[str, ...] | None) -> Names:
    return (given,) if isinstance(given, str) else None if given is None else tuple(given)
