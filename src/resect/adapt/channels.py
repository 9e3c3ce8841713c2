"""Another number of input channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import keras
import numpy as np

from resect.adapt.base import Changed, as_float, change_layers, with_input
from resect.adapt.rules import rule_of, treats_channels_alike
from resect.edits.base import Edit, only_input, quoted
from resect.errors import EditError
from resect.graph import Call, Graph, Layer, Ref
from resect.options import Weights
from resect.plan import plan
from resect.select import Place, Where

How = Literal["sum", "spread", "zeros"]

# Operations on a tensor and a number, which treat every channel alike.
_WITH_NUMBERS = {"Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Cast", "Negative"}


@dataclass(frozen=True)
class Channels(Edit):
    """Gives an input another number of channels.

    Args:
        n: How many.
        how: What becomes of the weights; see `channels`.
        at: The input, where the model has several.
    """

    verb: ClassVar[str] = "channels"
    n: int
    how: How | None = None
    at: Where = None

    def __post_init__(self) -> None:
        if self.how is not None and self.how not in get_args(How):
            raise ValueError(f'how must be "sum", "spread" or "zeros", not {self.how!r}.')

    def describe(self) -> str:
        where = "" if self.at is None else f" in {quoted(self.at)}"
        how = "" if self.how is None else f", by {self.how}"
        return f"have {self.n} input channels{where}{how}"

    def pinned(self, graph: Graph) -> Edit:
        return Channels(self.n, self.how, graph.label(self._input(graph).call))

    def apply(self, graph: Graph) -> Graph:
        ref = self._input(graph)
        walk = _Walk(graph)
        walk.along((), ref)
        axis = walk.axis(len(graph.spec(ref).shape))
        had = graph.spec(ref).shape[axis]
        if had is None or had == self.n:
            raise EditError(
                f"The input '{graph.label(ref.call)}' has {had or 'any number of'} channels "
                "already.",
                "Nothing is to be done.",
                graph.label(ref.call),
            )
        how = self._meant(had, graph.label(ref.call))
        graph = change_layers(graph, walk.readers, lambda layer: _changed(layer, self.n, how))
        for path, call in reversed(walk.inputs):
            nested = graph.at(path)
            shape = list(nested.spec(Ref(call)).shape)
            shape[axis] = self.n
            graph = graph.with_nested(path, with_input(nested, call, tuple(shape)))
        return graph

    def _input(self, graph: Graph) -> Ref:
        return only_input(graph, self.at, "Say which with at=.")

    def _meant(self, had: int, label: str) -> How:
        usual: How = "sum" if self.n == 1 else "spread" if had == 1 else "zeros"
        how = self.how or usual
        possible = {"sum": self.n == 1, "spread": had == 1, "zeros": self.n > had}
        if not possible[how]:
            raise EditError(
                f"The input '{label}' has {had} channels, and how=\"{how}\" cannot make {self.n} "
                "of them.",
                '"sum" makes one of several, "spread" several of one, "zeros" adds some.',
                label,
            )
        return how


class _Walk:
    """Follows the channels of an input to the layers that have weights for them."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.readers: list[Place] = []
        self.inputs: list[tuple[tuple[str, ...], Call]] = []

    def axis(self, rank: int) -> int:
        """The axis of the channels, as the layers that read them say."""
        layers = [self.graph.at(place.path).layer(place.call) for place in self.readers]
        first = {getattr(layer.op, "data_format", None) == "channels_first" for layer in layers}
        return 1 if first == {True} else rank - 1

    def along(self, path: tuple[str, ...], ref: Ref) -> None:
        self.inputs.append((path, ref.call))
        nested = self.graph.at(path)
        waiting, seen = [ref], {ref}
        if ref in nested.output_refs:
            raise _passed_on(nested, ref)
        while waiting:
            for call in nested.readers(waiting.pop()):
                passed = self._reader(path, nested, call)
                for output in passed:
                    if output in nested.output_refs:
                        raise _passed_on(nested, output)
                    if output not in seen:
                        seen.add(output)
                        waiting.append(output)

    def _reader(self, path: tuple[str, ...], nested: Graph, call: Call) -> tuple[Ref, ...]:
        """What a call passes the channels on to; none if it has weights for them."""
        layer, node = nested.layer(call), nested.nodes[call]
        if layer.graph is not None:
            for ref in layer.graph.input_refs:
                self.along((*path, layer.name), ref)
            return ()
        rule = rule_of(layer.cls)
        if rule is not None and rule.inputs and len(node.data_inputs) == 1:
            self.readers.append(Place(path, call))
            return ()
        if _passes(layer, node):
            return nested.refs_of(call)
        raise EditError(
            f"'{Place(path, call).spelling(self.graph)}' ({layer.kind}) reads the channels of the "
            "input, and resect does not know what to do with another number of them.",
            "Take it out of the model first (it may be preprocessing), or give its class a rule "
            "with resect.adapt.register.",
            call.layer,
        )


def _passes(layer: Layer, node: Any) -> bool:
    if len(node.data_inputs) != 1:
        return False
    if issubclass(layer.cls, keras.Layer):
        return treats_channels_alike(layer.recipe)
    others = [arg for arg in (*node.args, *node.kwargs.values()) if not isinstance(arg, Ref)]
    return layer.kind in _WITH_NUMBERS and all(
        arg is None or isinstance(arg, (int, float, str)) for arg in others
    )


def _passed_on(graph: Graph, ref: Ref) -> EditError:
    return EditError(
        f"'{graph.tensor_label(ref)}' passes the channels of the input on to an output.",
        "Take that output off first.",
        graph.tensor_label(ref),
    )


def _changed(layer: Layer, n: int, how: How) -> Changed:
    rule = rule_of(layer.cls)
    assert rule is not None
    config = layer.recipe.get_config()
    if config.get("groups", 1) != 1:
        raise EditError(
            f"'{layer.name}' ({layer.kind}) has {config['groups']} groups of channels.",
            "Another number of them cannot be divided as they are.",
            layer.name,
        )
    values = {name: _mixed(name, axis, n, how) for name, axis in rule.inputs.items()}
    return Changed(lambda old: old, values)


def _mixed(name: str, axis: int, n: int, how: How) -> Callable[[Mapping[str, Any]], np.ndarray]:
    """From the old weights for the input channels to the new."""

    def value(old: Mapping[str, Any]) -> np.ndarray:
        kernel = as_float(old[name])
        if how == "sum":
            return kernel.sum(axis=axis, keepdims=True)
        if how == "spread":
            return np.repeat(kernel / n, n, axis=axis)
        shape = list(kernel.shape)
        shape[axis] = n - kernel.shape[axis]
        return np.concatenate([kernel, np.zeros(shape, kernel.dtype)], axis=axis)

    return value


def channels(
    model: Any,
    n: int,
    how: How | None = None,
    *,
    at: Where = None,
    weights: Weights = "copy",
) -> Any:
    """The model with another number of input channels.

    - `"sum"` (the default for one channel): the weights of all channels are added up. New on `g`
      equals old on `[g, g, g]`: an RGB model that takes grayscale images.
    - `"spread"` (the default for several of one): each gets its share of the weights. New on
      `[g, g, g]` equals old on `g`: a grayscale model that takes RGB images.
    - `"zeros"` (the default for more): weights of zero for the added channels, which come last.
      New on `[x, anything]` equals old on `x`: RGB-D, or more bands.

    Preserved: what is said above; all weights but those that read the input's channels.
    Not preserved: the optimizer's slots of the layers that read them start afresh.

    Args:
        model: A built Keras model.
        n: How many channels its input is to have.
        how: What becomes of the weights that read them.
        at: The input, where the model has several.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model.

    Raises:
        EditError: A layer that resect knows no rule for reads the channels, such as a
            `Normalization` with a mean for each.
        AmbiguousError: Several inputs, and `at` does not say which.

    Example:

    >>> import keras, resect
    >>> stack = [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="stem")]
    >>> resect.adapt.channels(keras.Sequential(stack), 1).input_shape
    (None, 8, 8, 1)
    """
    return plan(model).then(Channels(n, how, at)).apply(weights=weights)
