"""The rules for raw operations, by the names of their classes."""

from __future__ import annotations

import math
from typing import Any

from resect.cost.equations import einsum
from resect.cost.rules import Called, nothing, register_operation, sizes

#: What multiplies and adds element by element, moves data about, compares, sums or looks up.
ELEMENTWISE = """
    Abs Absolute Add All Amax Amin Any Append Arange Arccos Arccosh Arcsin Arcsinh Arctan Arctan2
    Arctanh Argmax Argmin Argpartition Argsort Array AveragePool Average AverageMerge
    AdaptiveAveragePool AdaptiveMaxPool BatchNorm Bincount BitwiseAnd BitwiseInvert BitwiseLeftShift
    BitwiseNot BitwiseOr BitwiseRightShift BitwiseXor BroadcastTo Cast Cbrt Ceil Celu Clip
    Concatenate Conj Conjugate Copy Cos Cosh CountNonzero Cumprod Cumsum Deg2rad Diag Diagonal Diff
    Digitize Divide DivideNoNan Elu Equal Erf Erfinv Exp Exp2 ExpandDims Expm1 Flatten Flip Floor
    FloorDivide Full FullLike Gelu GetItem Glu Greater GreaterEqual HardShrink HardSigmoid HardSilu
    HardSwish HardTanh Heaviside Hstack Hypot Identity Imag InTopK Isclose Isfinite Isin Isinf Isnan
    LayerNorm LeakyRelu Less LessEqual Log Log10 Log1p Log2 LogSigmoid LogSoftmax Logaddexp
    LogicalAnd LogicalNot LogicalOr LogicalXor Logsumexp Max MaxPool Maximum Mean Median Meshgrid
    Min Minimum Mod Moments Moveaxis MultiHot Multiply NanToNum Ndim Negative Nonzero Normalize
    NotEqual OneHot OnesLike Pad Power Prod PSNR Quantile Ravel Real Reciprocal Relu Relu6 Repeat
    Reshape Rms RMSNorm RMSNormalization Roll Rot90 Round Rsqrt ScatterUpdate SegmentMax SegmentSum
    Select Selu Sigmoid Sign Signbit Silu Sin Sinh Size Slice SliceUpdate SoftShrink Softmax
    Softplus Softsign Sort SparsePlus SparseSigmoid Sparsemax Split Sqrt Square SquaredReLU
    SquareplusActivation Squareplus Squeeze Stack Std StopGradient Subtract Sum Swapaxes Take
    TakeAlongAxis Tan Tanh TanhShrink Threshold Tile TopK Transpose Tri Tril Triu TrueDivide Trunc
    Unstack Var ViewAsComplex ViewAsReal Vstack Where Zeros ZerosLike
"""
register_operation(*ELEMENTWISE.split())(nothing)


def _operands(called: Called) -> list[tuple[int, ...]]:
    """The shapes of the arguments that are tensors, variables or arrays, in order."""
    found: list[tuple[int, ...]] = []
    stack: list[Any] = [dict(called.kwargs), called.args]
    while stack:
        value = stack.pop()
        if hasattr(value, "shape") and hasattr(value, "dtype"):
            found.append(sizes(value))
        elif isinstance(value, dict):
            stack.extend(reversed(value.values()))
        elif isinstance(value, (list, tuple)):
            stack.extend(reversed(value))
    return found


@register_operation("Matmul")
def matmul(called: Called) -> int:
    """Each output is a sum over the last axis of the first operand."""
    one, _ = _operands(called)
    return math.prod(called.output_shape) * one[-1]


@register_operation("Dot", "Inner", "Vdot")
def dot(called: Called) -> int | None:
    """Each output is a sum over the last axis of the first operand, if both have axes."""
    one, *rest = _operands(called)
    other = rest[0] if rest else ()  # a number of Python's has no shape
    if not one or not other:
        return 0
    return math.prod(called.output_shape) * (
        math.prod(one) if type(called.layer).__name__ == "Vdot" else one[-1]
    )


@register_operation("Outer")
def outer(called: Called) -> int:
    """Products that nothing adds up: element-wise."""
    return 0


@register_operation("Tensordot")
def tensordot(called: Called) -> int:
    """Each output is a sum over the axes that are contracted."""
    one, other = _operands(called)
    contracted = math.prod(one) * math.prod(other) // max(math.prod(called.output_shape), 1)
    return math.prod(called.output_shape) * math.isqrt(contracted)


@register_operation("Einsum")
def einsum_operation(called: Called) -> int | None:
    """A contraction."""
    return einsum(called.layer.subscripts, _operands(called))


@register_operation("Conv")
def convolution(called: Called) -> int:
    """Each output is a sum over a window of the channels of its group."""
    kernel = _operands(called)[1]
    return math.prod(called.output_shape) * math.prod(kernel[:-1])


@register_operation("DepthwiseConv")
def depthwise(called: Called) -> int:
    """Each output is a sum over a window of one channel."""
    return math.prod(called.output_shape) * math.prod(_operands(called)[1][:-2])


@register_operation("SeparableConv")
def separable(called: Called) -> int:
    """A convolution of each channel, then a product at each position."""
    *window, channels, multiplier = _operands(called)[1]
    filters = _operands(called)[2][-1]
    positions = math.prod(called.output_shape) // filters
    return positions * channels * multiplier * (math.prod(window) + filters)


@register_operation("ConvTranspose")
def transposed(called: Called) -> int:
    """Each input is multiplied into a window of the output."""
    image, kernel = _operands(called)[:2]
    return math.prod(image) * math.prod(kernel[:-1])


@register_operation("DotProductAttention")
def dot_product_attention(called: Called) -> int:
    """The scores, and the sum that they weight; (batch, positions, heads, size) each."""
    query, key, value = _operands(called)[:3]
    batch, queries, heads, size = query
    return batch * heads * queries * key[1] * (size + value[3])
