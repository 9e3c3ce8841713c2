"""Which layers treat every step of a sequence alike, and which look at several at once."""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from keras import layers

from resect.adapt.layout.operations import ELEMENTWISE, REDUCTIONS
from resect.edits.base import call_parameters, is_raw
from resect.graph import Layer, Node, Ref, Spec, refs

#: What is known of a tensor: that it does not depend on the sequence; that it has a value for each
#: step; or that it has one for the sequence as far as it is known.
Kind = Literal["static", "steps", "prefix"]

RECURRENT = (
    layers.LSTM, layers.GRU, layers.SimpleRNN, layers.RNN,
    layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D,
)  # fmt: skip
CONV_LSTM = RECURRENT[4:]

_ALIKE = {
    layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Identity, layers.Dropout,
    layers.SpatialDropout1D, layers.GaussianNoise, layers.GaussianDropout, layers.AlphaDropout,
    layers.ActivityRegularization, layers.TimeDistributed, layers.Embedding, layers.Masking,
}  # fmt: skip
_MERGES = (
    layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum,
)  # fmt: skip
_OVER_AXES = tuple(
    getattr(layers, name)
    for name in (
        "LayerNormalization", "RMSNormalization", "UnitNormalization", "BatchNormalization",
        "Softmax", "Normalization",
    )
    if hasattr(layers, name)
)  # fmt: skip
_ATTENTION = (layers.Attention, layers.AdditiveAttention)

_WHY = {
    layers.Bidirectional: "reads the sequence from its end too",
    layers.Flatten: "joins all steps",
    layers.Reshape: "may move values from step to step",
    layers.Permute: "puts the steps elsewhere",
    layers.RepeatVector: "makes steps of its own",
    layers.MultiHeadAttention: "attends to the whole sequence, or by a mask",
    layers.Attention: "attends to the whole sequence, or by a mask",
    layers.AdditiveAttention: "attends to the whole sequence, or by a mask",
    layers.GroupNormalization: "normalizes over all steps",
    layers.Dense: "has a weight for each step",
}


def register_stepwise(cls: type) -> None:
    """Says that a layer class of one's own treats every step of a sequence by itself.

    That is: axis 1 of its output is time, as that of its one input is, and the output at a step
    depends on nothing but the input at that step.

    Args:
        cls: The class itself; its subclasses need a registration of their own.

    Example:

    >>> import keras, resect
    >>> class Doubled(keras.layers.Layer):
    ...     def call(self, x):
    ...         return 2 * x
    >>> resect.adapt.register_stepwise(Doubled)
    """
    _ALIKE.add(cls)


@dataclass(frozen=True, eq=False)
class Step:
    """A call that reads a sequence, as the rules see it.

    Attributes:
        layer: The layer.
        node: The call.
        kinds: What is known of each tensor that it reads.
        specs: Their specs.
    """

    layer: Layer
    node: Node
    kinds: dict[Ref, Kind]
    specs: dict[Ref, Spec]

    @property
    def steps(self) -> list[Spec]:
        """Specs of the sequences that it reads."""
        return [self.specs[ref] for ref, kind in self.kinds.items() if kind == "steps"]

    @property
    def axes(self) -> set[int] | None:
        """The axes in its configuration, counted from the start; `None` if that means all."""
        axis = self.layer.recipe.get_config().get("axis")
        if axis is None:
            return None
        rank = len(self.steps[0].shape)
        return {int(a) % rank for a in (axis if isinstance(axis, Iterable) else [axis])}


def argument(node: Node, layer: Layer, name: str) -> Any:
    """An argument of a call, given by position or by name."""
    if name in node.kwargs:
        return node.kwargs[name]
    names = list(call_parameters(layer.op))
    at = names.index(name) if name in names else len(node.args)
    return node.args[at] if at < len(node.args) else None


def kind_of(step: Step) -> Kind | None:
    """What a call makes of the steps of a sequence; `None` if it looks at several at once."""
    if is_raw(step.layer.op):
        return _of_operation(step)
    cls, alike = step.layer.cls, False
    if cls in RECURRENT:
        config = step.layer.recipe.get_config()
        return "steps" if config["return_sequences"] else "prefix"
    if cls in (layers.MultiHeadAttention, *_ATTENTION):
        alike = _only_asks(step)
    elif cls in _ALIKE:
        alike = len(step.node.data_inputs) == 1
    elif cls in _MERGES:
        alike = _aligned(step)
    elif cls is layers.Concatenate:
        alike = _aligned(step, broadcast=False) and not (step.axes or {1}) & {0, 1}
    elif cls in _OVER_AXES:
        masked = cls is layers.Softmax and any(spec.masked for spec in step.steps)
        alike = 1 not in (step.axes or set()) and not masked
    elif cls is layers.Rescaling:
        config = step.layer.recipe
        alike = all(_fits(value, step) for value in (config.scale, config.offset))
    elif cls in (layers.Dense, layers.Activation):
        alike = len(step.steps[0].shape) > 2
    return "steps" if alike else None


def _of_operation(step: Step) -> Kind | None:
    name, node = step.layer.cls.__name__, step.node
    if name == "GetItem":
        key = node.args[1] if len(node.args) > 1 else None
        return "prefix" if _is_last(key) else None
    if name in ELEMENTWISE.split():
        settings = step.layer.recipe.get_config().values()
        plain = all(v is None or isinstance(v, (numbers.Number, str)) for v in settings)
        constants = [*node.args, *node.kwargs.values()]
        fits = all(_fits(each, step) for each in constants if not refs(each))
        return "steps" if plain and fits and _aligned(step) else None
    if name in ("Concatenate", "Softmax", "LogSoftmax") or name in REDUCTIONS.split():
        axes = step.axes
        alone = axes is not None and not axes & {0, 1}
        return "steps" if alone and _aligned(step, broadcast=False) else None
    return None


def _is_last(key: Any) -> bool:
    """Whether a subscript is `[:, -1]`, or that of some of its axes."""
    if not isinstance(key, tuple) or len(key) < 2:
        return False
    batch, steps = key[:2]
    whole = isinstance(batch, slice) and batch == slice(None)
    return whole and isinstance(steps, int) and steps == -1


def _aligned(step: Step, broadcast: bool = True) -> bool:
    """Whether the steps of several sequences meet, and nothing else has steps."""
    ranks = {len(spec.shape) for spec in step.specs.values()}
    if len(ranks) > 1:
        return False
    others = [step.specs[ref] for ref, kind in step.kinds.items() if kind == "static"]
    return not others or (broadcast and all(spec.shape[1] == 1 for spec in others))


def _fits(value: Any, step: Step) -> bool:
    """Whether a constant is the same for every step."""
    if value is None or isinstance(value, (numbers.Number, str)):
        return True
    try:
        shape = np.shape(value)
    except (TypeError, ValueError):  # a structure that is no array
        return False
    rank = len(step.steps[0].shape)
    padded = (1,) * (rank - len(shape)) + tuple(shape)
    return len(padded) == rank and padded[1] == 1


def _only_asks(step: Step) -> bool:
    """Whether attention looks from the steps at something that is known from the start."""
    node, layer = step.node, step.layer
    if any(spec.masked for spec in step.specs.values()):
        return False
    flags = ("use_causal_mask", "return_attention_scores")
    if any(argument(node, layer, flag) for flag in flags):
        return False
    masks = ("attention_mask", "query_mask", "value_mask", "key_mask", "mask")
    if any(refs(argument(node, layer, name)) for name in masks):
        return False
    if step.layer.cls in _ATTENTION:
        query, *rest = refs(node.args[0])
    else:
        query, *rest = node.data_inputs
    return all(step.kinds[ref] == "static" for ref in rest) and query not in rest and bool(rest)


def reason(layer: Layer) -> str:
    """Why a layer cannot be given a sequence step by step."""
    if layer.cls in _WHY:
        return _WHY[layer.cls]
    name = layer.cls.__name__
    if "Pooling" in name:
        return "pools over several steps"
    if "Conv" in name or "Padding" in name or "Sampling" in name or "Cropping" in name:
        return "looks at neighbouring steps"
    return "may look at several steps at once"


def is_own(layer: Layer) -> bool:
    """Whether a layer is of a class that is not Keras's."""
    return not layer.cls.__module__.startswith("keras.")
