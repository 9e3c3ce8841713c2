"""Mixed precision, quantized weights and low-rank adapters."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from tests.kinds.registry import PLAIN, kind, needs
from zoo.randomise import randomise


def _classifier(name: str, dtype: str | None = None) -> keras.Model:
    x = features = keras.Input((8,), name="features")
    x = layers.Dense(8, activation="relu", dtype=dtype, name="dense")(x)
    x = layers.BatchNormalization(dtype=dtype, name="bn")(x)
    return keras.Model(features, layers.Dense(4, dtype=dtype, name="logits")(x), name=name)


@kind("mixed_bfloat16", tags=PLAIN | {"mixed"})
def mixed_bfloat16() -> keras.Model:
    """Layers that compute in bfloat16 and store float32."""
    return _classifier("mixed_bfloat16", "mixed_bfloat16")


@kind("mixed_float16", tags=PLAIN | {"mixed"})
def mixed_float16() -> keras.Model:
    """Layers that compute in float16 and store float32."""
    return _classifier("mixed_float16", "mixed_float16")


@kind("mixed_within", tags=PLAIN | {"mixed"})
def mixed_within() -> keras.Model:
    """Layers of different precision in one model, with a float32 output as the guide advises."""
    image = keras.Input((6, 6, 3), name="image")
    x = layers.Conv2D(4, 3, activation="relu", dtype="mixed_bfloat16", name="conv")(image)
    x = layers.GlobalAveragePooling2D(dtype="bfloat16", name="pool")(x)
    x = layers.Dense(3, dtype="mixed_bfloat16", name="dense")(x)
    return keras.Model(
        image, layers.Activation("softmax", dtype="float32", name="softmax")(x), name="mixed_within"
    )


def _quantized(mode: str, name: str | None = None) -> keras.Model:
    """A classifier with random weights whose dense layers have been quantized."""
    model = randomise(_classifier(name or f"quantized_{mode}"), seed=1)
    for layer in model.layers:
        if isinstance(layer, layers.Dense):
            layer.quantize(mode)
    return model


@kind("quantized_int8", tags={"saves", "quantized"})
def quantized_int8() -> keras.Model:
    """Dense layers with int8 kernels; its weights are random before they are quantized."""
    return _quantized("int8")


@kind(
    "quantized_int4",
    tags={"saves", "quantized"},
    unsupported=needs("3.11", "there is no int4 quantization."),
)
def quantized_int4() -> keras.Model:
    """Dense layers with packed int4 kernels."""
    return _quantized("int4")


@kind("quantized_float8", tags=PLAIN | {"quantized"})
def quantized_float8() -> keras.Model:
    """Dense layers that train in float8."""
    return _quantized("float8")


@kind("quantized_int8_lora", tags={"trains", "quantized", "lora"})
def quantized_int8_lora() -> keras.Model:
    """An int8 kernel with a low-rank adapter, which Keras merges and rounds when it saves."""
    model = _quantized("int8", "quantized_int8_lora")
    dense = model.get_layer("dense")
    dense.enable_lora(2)
    rng = np.random.default_rng(1)
    for factor in (dense.lora_kernel_a, dense.lora_kernel_b):
        factor.assign(rng.normal(0.0, 0.3, factor.shape))
    return model


@kind("lora_dense", tags=PLAIN | {"lora", "frozen"})
def lora_dense() -> keras.Model:
    """Low-rank adapters on a dense layer, an embedding and a convolution."""
    ids = keras.Input((6,), dtype="int32", name="ids")
    embedding = layers.Embedding(10, 4, name="embedding")
    conv = layers.Conv1D(5, 3, name="conv")
    dense = layers.Dense(3, name="logits")
    x = layers.Flatten(name="flatten")(conv(embedding(ids)))
    model = keras.Model(ids, dense(x), name="lora_dense")
    for layer in (embedding, conv, dense):
        layer.enable_lora(2, lora_alpha=3)
    return model


@kind("lora_in_mha", tags=PLAIN | {"lora", "frozen"})
def lora_in_mha() -> keras.Model:
    """Low-rank adapters on the query and value projections inside an attention layer."""
    sequence = keras.Input((5, 4), name="sequence")
    attention = layers.MultiHeadAttention(2, 3, name="attention")
    x = layers.Flatten(name="flatten")(attention(sequence, sequence))
    model = keras.Model(sequence, layers.Dense(3, name="logits")(x), name="lora_in_mha")
    for sublayer in (attention.query_dense, attention.value_dense):
        sublayer.enable_lora(2)
    return model
