"""Attention: with masks, with scores, and as whole transformer blocks."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

from tests.kinds.registry import PLAIN, kind


@kind("mha_masked", tags=PLAIN | {"masked", "multi_io"})
def mha_masked() -> keras.Model:
    """Masks of two embeddings that reach an attention layer and a pooling layer."""
    query_ids = keras.Input((6,), dtype="int32", name="query_ids")
    value_ids = keras.Input((8,), dtype="int32", name="value_ids")
    query = layers.Embedding(10, 4, mask_zero=True, name="query_embedding")(query_ids)
    value = layers.Embedding(10, 4, mask_zero=True, name="value_embedding")(value_ids)
    x = layers.MultiHeadAttention(2, 3, name="attention")(query, value)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model([query_ids, value_ids], layers.Dense(3, name="logits")(x), name="mha_masked")


@kind("mha_scores", tags={"saves", "multi_io"})
def mha_scores() -> keras.Model:
    """Causal attention that also returns its scores, on which Keras cannot put a loss."""
    sequence = keras.Input((5, 4), name="sequence")
    x, scores = layers.MultiHeadAttention(2, 3, name="attention")(
        sequence, sequence, return_attention_scores=True, use_causal_mask=True
    )
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(sequence, [layers.Dense(3, name="logits")(x), scores], name="mha_scores")


@kind("attention_mask_input", tags=PLAIN | {"multi_io"})
def attention_mask_input() -> keras.Model:
    """An attention mask that is an input of the model, reshaped on its way to the layer."""
    sequence = keras.Input((5, 4), name="sequence")
    mask = keras.Input((5,), dtype="bool", name="padding_mask")
    x = layers.MultiHeadAttention(2, 3, name="attention")(
        sequence, sequence, attention_mask=mask[:, None, :]
    )
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(
        {"sequence": sequence, "padding_mask": mask},
        layers.Dense(3, name="logits")(x),
        name="attention_mask_input",
    )


@kind("grouped_query_attention")
def grouped_query_attention() -> keras.Model:
    """Attention with fewer key and value heads than query heads."""
    sequence = keras.Input((5, 4), name="sequence")
    x = layers.GroupQueryAttention(3, 4, 2, name="attention")(sequence, sequence)
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(sequence, layers.Dense(3, name="logits")(x), name="grouped_query_attention")


@kind("dot_attention", tags=PLAIN | {"multi_io"})
def dot_attention() -> keras.Model:
    """`Attention` and `AdditiveAttention`, which take their tensors in one list."""
    query, value = keras.Input((4, 4), name="query"), keras.Input((6, 4), name="value")
    x = layers.Attention(use_scale=True, name="dot")([query, value])
    x = layers.AdditiveAttention(name="additive")([x, value])
    x = layers.Flatten(name="flatten")(x)
    return keras.Model([query, value], layers.Dense(3, name="logits")(x), name="dot_attention")


@kind("transformer_encoder", tags=PLAIN | {"masked", "raw_ops"})
def transformer_encoder() -> keras.Model:
    """Two transformer blocks over tokens and positions, with residual `+` between layers."""
    ids = keras.Input((6,), dtype="int32", name="ids")
    tokens = layers.Embedding(10, 4, mask_zero=True, name="tokens")(ids)
    order = ops.zeros_like(ids) + np.arange(6, dtype="int32")
    x = tokens + layers.Embedding(6, 4, name="positions")(order)
    for index in range(2):
        attended = layers.MultiHeadAttention(2, 2, name=f"block_{index}_attention")(x, x)
        x = layers.LayerNormalization(name=f"block_{index}_norm_1")(x + attended)
        hidden = layers.Dense(8, activation="gelu", name=f"block_{index}_expand")(x)
        hidden = layers.Dense(4, name=f"block_{index}_contract")(hidden)
        x = layers.LayerNormalization(name=f"block_{index}_norm_2")(x + hidden)
    return keras.Model(ids, layers.Dense(3, name="logits")(x), name="transformer_encoder")
