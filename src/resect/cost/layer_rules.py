"""The rules for Keras's layers.

A multiply-add is one multiplication whose result is added to a sum: what matrix products and
convolutions are made of, and what papers count. Element-wise arithmetic, normalisation, pooling,
activations and lookups count as nothing, as in papers. Padding counts as if it were data.
"""

from __future__ import annotations

import math
from typing import Any

from keras import layers

from resect.cost.equations import einsum
from resect.cost.rules import Called, nothing, register, register_name, sizes

ELEMENTWISE = (
    "Activation ActivityRegularization Add AlphaDropout Average AveragePooling1D AveragePooling2D "
    "AveragePooling3D BatchNormalization CategoryEncoding CenterCrop Concatenate Cropping1D "
    "Cropping2D Cropping3D Discretization Dropout ELU Embedding Flatten GaussianDropout "
    "GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D "
    "GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization HashedCrossing "
    "Hashing Identity InputLayer IntegerLookup LayerNormalization LeakyReLU Masking MaxPooling1D "
    "MaxPooling2D MaxPooling3D Maximum Minimum Multiply Normalization PReLU Permute ReLU "
    "RepeatVector Rescaling Reshape RMSNormalization Softmax SpatialDropout1D SpatialDropout2D "
    "SpatialDropout3D StringLookup Subtract TextVectorization "
    "UnitNormalization UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D "
    "ZeroPadding3D"
)

_KNOWN = [getattr(layers, name) for name in ELEMENTWISE.split() if hasattr(layers, name)]
register(*_KNOWN)(nothing)

# Of KerasHub, what adds tables to tensors or normalises, in ways that cannot be looked into.
register_name("keras_hub", "PositionEmbedding", "SinePositionEncoding", "T5LayerNorm")(nothing)


# Dense


@register(layers.Dense)
def dense(called: Called) -> int:
    """Each output is a sum over the last axis of the input."""
    units = called.output_shape[-1]
    return math.prod(called.shape) * units + _lora(called.layer, called.shape[-1], units)


def _lora(layer: Any, rows: int, columns: int) -> int:
    """The product of two low-rank matrices, which is made at each call and added to the kernel."""
    rank = getattr(layer, "lora_rank", None) if getattr(layer, "lora_enabled", False) else None
    return rows * rank * columns if rank else 0


@register(layers.EinsumDense)
def einsum_dense(called: Called) -> int | None:
    """A contraction of the input with the kernel."""
    layer = called.layer
    kernel = tuple(layer.kernel.shape)
    added = _lora(layer, math.prod(kernel[:-1]), kernel[-1])
    found = einsum(layer.equation, [called.shape, kernel])
    return None if found is None else found + added


# Convolutions


@register(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def convolution(called: Called) -> int:
    """Each output is a sum over a window of the channels of its group."""
    kernel = tuple(called.layer.kernel.shape)
    lora = _lora(called.layer, math.prod(kernel[:-1]), kernel[-1])
    return math.prod(called.output_shape) * math.prod(kernel[:-1]) + lora


@register(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def depthwise(called: Called) -> int:
    """Each output is a sum over a window of one channel."""
    window = tuple(called.layer.kernel.shape)[:-2]
    return math.prod(called.output_shape) * math.prod(window)


@register(layers.SeparableConv1D, layers.SeparableConv2D)
def separable(called: Called) -> int:
    """A convolution of each channel, then a product at each position."""
    *window, channels, multiplier = called.layer.depthwise_kernel.shape
    filters = called.layer.pointwise_kernel.shape[-1]
    positions = math.prod(called.output_shape) // filters
    return positions * channels * multiplier * (math.prod(window) + filters)


@register(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def transposed(called: Called) -> int:
    """Each input is multiplied into a window of the output."""
    *window, filters, _ = called.layer.kernel.shape
    return math.prod(called.shape) * math.prod(window) * filters


# Recurrent layers


@register(layers.SimpleRNNCell, layers.GRUCell, layers.LSTMCell)
def cell(called: Called) -> int:
    """A product with the input and one with the state; their kernels hold all gates."""
    kernels = (called.layer.kernel, called.layer.recurrent_kernel)
    return called.shape[0] * sum(math.prod(kernel.shape) for kernel in kernels)


@register(layers.StackedRNNCells)
def stacked_cells(called: Called) -> int | None:
    """One cell after the other."""
    total, shape = 0, called.shape
    for part in called.layer.cells:
        found = called.count(part, shape)
        if found is None:
            return None
        total, shape = total + found, (shape[0], _first(part.output_size))
    return total


def _first(size: Any) -> int:
    return size[0] if isinstance(size, (list, tuple)) else size


@register(layers.SimpleRNN, layers.GRU, layers.LSTM, layers.RNN)
def recurrent(called: Called) -> int | None:
    """The cell, at each step."""
    batch, steps, *features = called.shape
    found = called.count(called.layer.cell, (batch, *features))
    return None if found is None else steps * found


@register(layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)
def recurrent_convolution(called: Called) -> int:
    """At each step a convolution of the input and one of the state, for all four gates."""
    inner, steps = called.layer.cell, called.shape[1]
    step = called.output_shape[2:] if called.layer.return_sequences else called.output_shape[1:]
    positions = called.shape[0] * math.prod(step) // inner.filters
    kernels = (inner.kernel, inner.recurrent_kernel)
    return steps * positions * sum(math.prod(kernel.shape) for kernel in kernels)


# Wrappers


@register(layers.Bidirectional)
def bidirectional(called: Called) -> int | None:
    """The layer in both directions."""
    halves = (called.layer.forward_layer, called.layer.backward_layer)
    forward, backward = (called.count(half, called.shape) for half in halves)
    return None if forward is None or backward is None else forward + backward


@register(layers.TimeDistributed)
def time_distributed(called: Called) -> int | None:
    """The layer at each step."""
    batch, steps, *rest = called.shape
    found = called.count(called.layer.layer, (batch, *rest))
    return None if found is None else steps * found


# Attention


@register(layers.MultiHeadAttention)
def multi_head_attention(called: Called) -> int:
    """Four projections, the scores, and the sum that they weight.

    Attention over several axes at once scores every pair of positions.
    """
    layer = called.layer
    query = sizes(called.argument("query"))
    value = sizes(called.argument("value"))
    key = sizes(called.argument("key") or called.argument("value"))
    heads = layer.num_heads * query[0]
    queries, keys = math.prod(query[1:-1]), math.prod(key[1:-1])
    per_position = (
        (queries * query[-1] * layer.key_dim)
        + (keys * key[-1] * layer.key_dim)
        + (keys * value[-1] * layer.value_dim)
        + (queries * layer.value_dim * called.output_shape[-1])
    )
    return heads * (per_position + queries * keys * (layer.key_dim + layer.value_dim))


@register(layers.GroupQueryAttention)
def group_query_attention(called: Called) -> int:
    """As above, with fewer heads for keys and values than for queries."""
    layer = called.layer
    batch, queries, features = sizes(called.argument("query"))
    value = sizes(called.argument("value"))
    key = sizes(called.argument("key") or called.argument("value"))
    size = layer.head_dim
    own = queries * size * (features + called.output_shape[-1]) + 2 * queries * key[1] * size
    shared = key[1] * size * (key[2] + value[2])
    return batch * (layer.num_query_heads * own + layer.num_key_value_heads * shared)


@register(layers.Attention)
def attention(called: Called) -> int | None:
    """The scores, if they are products, and the sum that they weight."""
    batch, queries, features = called.shape
    _, keys, values = sizes(called.inputs[1])
    scores = features if called.layer.score_mode == "dot" else 0
    return batch * queries * keys * (scores + values)


@register(layers.AdditiveAttention)
def additive_attention(called: Called) -> int:
    """The scores are sums, so what counts is the sum that they weight."""
    batch, queries, _ = called.shape
    _, keys, values = sizes(called.inputs[1])
    return batch * queries * keys * values


@register(layers.Dot)
def dot(called: Called) -> int:
    """A product over one axis of each input."""
    one, other = called.shape, sizes(called.inputs[1])
    axes = called.layer.axes
    axis = axes if isinstance(axes, int) else axes[0]
    return math.prod(one) * math.prod(other) // (one[0] * one[axis])
