"""What each raw operation becomes when what it reads comes in another layout."""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from typing import Any

from resect.adapt.layout.layouts import (
    Answer,
    Layout,
    Rule,
    Site,
    axes_in,
    same,
    updated,
    without,
)

ELEMENTWISE = (
    "Absolute Add Arccos Arcsin Arctan Arctan2 Cast Ceil Clip Copy Cos Cosh Divide DivideNoNan Elu "
    "Celu Equal Erf Exp Exp2 Expm1 Floor FloorDivide Gelu Greater GreaterEqual HardShrink "
    "HardSigmoid HardSilu HardTanh Isfinite Isinf Isnan LeakyRelu Less LessEqual Log Log10 Log1p "
    "Log2 LogSigmoid Logaddexp LogicalAnd LogicalNot LogicalOr LogicalXor Maximum Minimum Mod "
    "Multiply Negative NotEqual OnesLike Power Reciprocal Relu Relu6 Round Rsqrt Selu Sigmoid Sign "
    "Silu Sin Sinh SoftShrink Softplus Softsign SparsePlus SparseSigmoid Sqrt Square Squareplus "
    "StopGradient Subtract Tan Tanh TanhShrink Threshold TrueDivide Where ZerosLike"
)
REDUCTIONS = "All Amax Amin Any CountNonzero Logsumexp Max Mean Median Min Prod Std Sum Var"


def _elementwise(site: Site, layout: Layout) -> Answer | None:
    settings = site.config.values()
    plain = all(v is None or isinstance(v, (numbers.Number, str)) for v in settings)
    return Answer(same(site, layout)) if plain else None


def _reduction(site: Site, layout: Layout) -> Answer | None:
    config = site.config
    axis = config.get("axis")
    if config.get("initial") is not None or config.get("where") is not None:
        return None
    if config.get("keepdims"):
        return Answer(same(site, layout), updated(axis=axes_in(layout, axis)))
    gone = range(len(layout)) if axis is None else axis if isinstance(axis, Iterable) else [axis]
    left = without(layout, gone)
    if 0 in {a % len(layout) for a in gone} and left:  # the batch would not come first any more
        return None
    return Answer(same(site, left), updated(axis=axes_in(layout, axis)))


def _squeeze(site: Site, layout: Layout) -> Answer | None:
    return None if site.config.get("axis") is None else _reduction(site, layout)


def _axis(site: Site, layout: Layout) -> Answer | None:
    axis: Any = site.config.get("axis")
    if axis is None:
        return None
    return Answer(same(site, layout), updated(axis=axes_in(layout, axis)))


#: The rules by the name of the operation's class, which Keras does not export.
RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(REDUCTIONS.split(), _reduction),
    **dict.fromkeys(("Concatenate", "Softmax", "LogSoftmax"), _axis),
    "Squeeze": _squeeze,
}
