"""Bottleneck adapters behind calls, for tuning few parameters of a large model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from keras import layers

from resect.adapt.modules.freezing import frozen, operations
from resect.adapt.modules.placing import (
    Putting,
    data_format_at,
    pinned_places,
    policy_for,
    put_behind,
)
from resect.edits.base import Edit, quoted
from resect.errors import EditError
from resect.graph import Graph, Ref
from resect.options import Weights
from resect.plan import plan
from resect.select import Where


@dataclass(frozen=True)
class Adapters(Edit):
    """Puts adapters behind calls.

    Args:
        where: The calls.
        bottleneck: The units between the two projections.
        activation: Of those units.
        freeze: Whether nothing but the adapters is to be trained.
    """

    verb: ClassVar[str] = "adapters"
    where: Where
    bottleneck: int = 64
    activation: str = "gelu"
    freeze: bool = False

    def __post_init__(self) -> None:
        if self.bottleneck < 1:
            raise ValueError(f"bottleneck must be at least 1, not {self.bottleneck}.")

    def describe(self) -> str:
        rest = ", and freeze everything else" if self.freeze else ""
        return f"put adapters of {self.bottleneck} units after {quoted(self.where)}{rest}"

    def pinned(self, graph: Graph) -> Edit:
        return dataclasses.replace(self, where=pinned_places(graph, self.where))

    def apply(self, graph: Graph) -> Graph:
        adapted = put_behind(graph, self.where, "adapter", self._module)
        return frozen(adapted, operations(graph)) if self.freeze else adapted

    def _module(self, put: Putting, x: Ref) -> Ref:
        units, dtype = _units(put, x), policy_for(put, x)
        down = layers.Dense(self.bottleneck, self.activation, name="down", dtype=dtype)
        up = layers.Dense(units, kernel_initializer="zeros", name="up", dtype=dtype)
        change = put(up, put(down, x))
        return put(layers.Add(name="add", dtype=dtype), [x, change])


def _units(put: Putting, x: Ref) -> int:
    shape = put.spec(x).shape
    channels_first = data_format_at(put.graph, put.call) == "channels_first"
    if len(shape) < 2 or shape[-1] is None or (channels_first and len(shape) > 2):
        raise EditError(
            f"'{put.label}' returns {put.spec(x)}"
            + (" with the channels in front" if channels_first else "")
            + ", and an adapter computes with the last axis.",
            "Choose a place where the features are the last axis, and known in number.",
            put.label,
        )
    return shape[-1]


def adapters(
    model: Any,
    where: Where,
    bottleneck: int = 64,
    *,
    activation: str = "gelu",
    freeze: bool = False,
    weights: Weights = "copy",
) -> Any:
    """A model with bottleneck adapters behind some calls.

    From Houlsby et al., "Parameter-Efficient Transfer Learning for NLP" (2019): a projection to a
    few units, an activation, a projection back, and the sum of that and what came in. In the paper
    the projections start near zero; here the second starts at zero, so that the new model computes
    exactly what the old one did until it is trained.

    Preserved: what the model computes, until it is trained (with `freeze=True` in inference only:
    a frozen batch normalization uses its moving statistics in training too); all weights, the
    compile state, and the optimizer's slots of what is still trained. The new layers are stock
    Keras layers, and start with fresh slots.

    Args:
        model: A built Keras model.
        where: The calls behind which they are put, at any depth; the last axis of what they return
            holds the features.
        bottleneck: The units between the two projections.
        activation: Name of the activation of those units.
        freeze: Whether everything else is frozen (`trainable=False`), the head too: thaw what is
            to be trained with it, `adapt.configure(new, "logits", trainable=True)`.
        weights: `"copy"` or `"share"`; variables that are shared cannot be frozen in one model
            only, so freeze the source first.

    Returns:
        A new model.

    Raises:
        NoMatchError: `where` matches nothing.
        AmbiguousError: `where` names a shared layer, and not which of its calls.
        EditError: What a call returns has no features in its last axis, or a layer that is to be
            frozen cannot be made anew from its configuration.

    Example:

    >>> import keras, resect
    >>> stack = [keras.Input((4,)), keras.layers.Dense(8, name="a"), keras.layers.Dense(2)]
    >>> new = resect.adapt.adapters(keras.Sequential(stack), "a", 3, freeze=True)
    >>> [variable.path for variable in new.trainable_variables]
    ['a_adapter_down/kernel', 'a_adapter_down/bias', 'a_adapter_up/kernel', 'a_adapter_up/bias']
    """
    edit = Adapters(where, bottleneck, activation, freeze)
    return plan(model).then(edit).apply(weights=weights)
