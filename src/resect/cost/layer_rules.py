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
from resect.keras_graph.reading import sublayers

ELEMENTWISE = (
    "Activation ActivityRegularization Add AlphaDropout Average AveragePooling1D AveragePooling2D "
    "AveragePooling3D BatchNormalization CategoryEncoding CenterCrop Concatenate Cropping1D "
    "Cropping2D Cropping3D Discretization Dropout ELU Flatten GaussianDropout "
    "GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D "
    "GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization HashedCrossing "
    "Hashing Identity InputLayer IntegerLookup LayerNormalization LeakyReLU Masking MaxPooling1D "
    "MaxPooling2D MaxPooling3D Maximum Minimum Multiply Normalization PReLU Permute ReLU "
    "RepeatVector Rescaling Reshape Resizing RMSNormalization Softmax "
    "SpatialDropout1D SpatialDropout2D "
    "SpatialDropout3D StringLookup Subtract TextVectorization "
    "UnitNormalization UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D "
    "ZeroPadding3D"
)

_KNOWN = [getattr(layers, name) for name in ELEMENTWISE.split() if hasattr(layers, name)]
register(*_KNOWN)(nothing)

# What augments images while training, and in inference hands them on.
_RANDOM = "RandomBrightness RandomContrast RandomCrop RandomFlip RandomRotation RandomTranslation "
register(*(getattr(layers, name) for name in f"{_RANDOM} RandomZoom".split()))(nothing)

# Of KerasHub, what adds tables to tensors or normalises, in ways that cannot be looked into.
register_name("keras_hub", "PositionEmbedding", "SinePositionEncoding", "T5LayerNorm")(nothing)


# Dense


@register(layers.Dense)
def dense(called: Called) -> int:
    """Each output is a sum over the last axis of the input."""
    *positions, rows = called.shape
    columns = called.output_shape[-1]
    added = _lora(called.layer, rows, columns)
    if added and _quantized(called.layer):
        added = math.prod(positions) * called.layer.lora_rank * (rows + columns)
    return math.prod(called.shape) * columns + added


def _lora(layer: Any, rows: int, columns: int) -> int:
    """The product of two low-rank matrices, which is made at each call and added to the kernel.

    A kernel that is quantized stays apart: the input goes through one matrix after the other.
    """
    rank = getattr(layer, "lora_rank", None) if getattr(layer, "lora_enabled", False) else None
    return rows * rank * columns if rank else 0


def _quantized(layer: Any) -> bool:
    return getattr(layer, "quantization_mode", None) is not None


@register(layers.EinsumDense)
def einsum_dense(called: Called) -> int | None:
    """A contraction of the input with the kernel."""
    layer = called.layer
    kernel = tuple(layer.kernel.shape)
    found = einsum(layer.equation, [called.shape, kernel])
    added: int | None = _lora(layer, math.prod(kernel[:-1]), kernel[-1])
    if added and _quantized(layer):
        added = einsum(layer.equation, [called.shape, tuple(layer.lora_kernel_a.shape)])
        if added is not None:
            added += math.prod(called.output_shape) * layer.lora_rank
    return None if found is None or added is None else found + added


@register(layers.Embedding)
def embedding(called: Called) -> int:
    """A lookup is no arithmetic; low-rank matrices are multiplied at each call."""
    layer = called.layer
    if _quantized(layer):
        return _lora(layer, math.prod(called.shape), layer.output_dim)
    return _lora(layer, layer.input_dim, layer.output_dim)


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
def multi_head_attention(called: Called) -> int | None:
    """The projections, the scores, and the sum that they weight.

    Attention over several axes at once scores every pair of positions.
    """
    layer, (query, key, _) = called.layer, _attended(called)
    others = [size for i, size in enumerate(query[:-1]) if i not in layer.attention_axes]
    queries, keys = (math.prod(s[i] for i in layer.attention_axes) for s in (query, key))
    scored = math.prod(others) * layer.num_heads * queries * keys
    return _projected(called, layer.value_dim, scored * (layer.key_dim + layer.value_dim))


@register(layers.GroupQueryAttention)
def group_query_attention(called: Called) -> int | None:
    """As above, with fewer heads for keys and values than for queries."""
    layer, (query, key, _) = called.layer, _attended(called)
    scored = query[0] * layer.num_query_heads * query[1] * key[1]
    return _projected(called, layer.head_dim, 2 * scored * layer.head_dim)


def _attended(called: Called) -> tuple[tuple[int, ...], ...]:
    """The shapes of query, key and value."""
    value = called.argument("value")
    return sizes(called.argument("query")), sizes(called.argument("key") or value), sizes(value)


def _projected(called: Called, size: int, attended: int) -> int | None:
    """What is attended to, and the projections: of a gate too, and with what has been added."""
    query, key, value = _attended(called)
    parts = {part.name: part for part in sublayers(called.layer)}
    given = {"query": query, "gate": query, "key": key, "value": value}
    heads = getattr(called.layer, "num_query_heads", None) or called.layer.num_heads
    given["attention_output"] = (*query[:-1], heads, size)
    for name, shape in given.items():
        found = called.count(parts[name], shape) if name in parts else 0
        if found is None:
            return None
        attended += found
    return attended


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
