"""Small models whose blocks are known."""

from __future__ import annotations

import keras
from keras import layers, ops

from tests.common import randomise


def bottleneck(x: keras.KerasTensor, name: str, stride: int = 1, grow: int = 1):
    """A residual block as in ResNet, with a projection where the shape changes."""
    width = x.shape[-1] * grow
    y = layers.Conv2D(4, 1, strides=stride, use_bias=False, name=f"{name}_1_conv")(x)
    y = layers.BatchNormalization(name=f"{name}_1_bn")(y)
    y = layers.ReLU(name=f"{name}_1_relu")(y)
    y = layers.Conv2D(width, 3, padding="same", name=f"{name}_2_conv")(y)
    if stride > 1 or grow > 1:
        x = layers.Conv2D(width, 1, strides=stride, name=f"{name}_0_conv")(x)
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([x, y]))


def small_resnet() -> keras.Model:
    """Two stages of two residual blocks."""
    x = image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(6, 3, padding="same", name="stem")(x)
    for stage in (1, 2):
        for block in (1, 2):
            first = stage == 2 and block == 1
            x = bottleneck(x, f"stage{stage}_block{block}", 2 if first else 1, 2 if first else 1)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return randomise(keras.Model(image, layers.Dense(3, name="logits")(x), name="small_resnet"))


def attention_layer(x, name: str, mask=None, context=None):
    """A transformer layer of Keras's own layers, normalised before each half."""
    y = layers.LayerNormalization(name=f"{name}_norm_1")(x)
    attend = layers.MultiHeadAttention(2, 4, name=f"{name}_attention")
    y = attend(y, context if context is not None else y, attention_mask=mask)
    x = layers.Add(name=f"{name}_add_1")([x, y])
    y = layers.LayerNormalization(name=f"{name}_norm_2")(x)
    y = layers.Dense(12, activation="gelu", name=f"{name}_up")(y)
    y = layers.Dense(x.shape[-1], name=f"{name}_down")(y)
    return layers.Add(name=f"{name}_add_2")([x, y])


def vision_transformer(depth: int = 3) -> keras.Model:
    """A ViT in Keras's layers: patches, positions, `depth` layers, a head."""
    x = image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 4, strides=4, name="patches")(x)
    x = layers.Reshape((4, 8), name="tokens")(x)
    x = layers.Dense(8, name="positions")(x)
    for i in range(depth):
        x = attention_layer(x, f"layer_{i}")
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return randomise(keras.Model(image, layers.Dense(3, name="logits")(x), name="vit"))


def masked_encoder(name: str = "padding_mask", dtype: str = "int32") -> keras.Model:
    """Two layers that read a mask which operations between layers make of an input."""
    x = tokens = keras.Input((5, 8), name="tokens")
    padding = keras.Input((5,), dtype=dtype, name=name)
    bias = ops.expand_dims(ops.cast(padding, "float32"), -1)
    for i in range(2):
        y = layers.Dense(8, activation="tanh", name=f"inner_{i}")(x)
        x = layers.Add(name=f"add_{i}")([x, y * bias])
    return randomise(keras.Model([tokens, padding], layers.Dense(2, name="logits")(x)))


def conditioned() -> keras.Model:
    """Three blocks that each read an embedding of the time, as in a diffusion model."""
    x = image = keras.Input((4,), name="image")
    time = keras.Input((1,), name="time")
    embedded = layers.Dense(4, activation="silu", name="embedding")(time)
    for i in range(3):
        y = layers.Dense(4, name=f"inner_{i}")(x)
        y = layers.Multiply(name=f"scale_{i}")([y, embedded])
        x = layers.Add(name=f"add_{i}")([x, y])
    return randomise(keras.Model([image, time], x, name="conditioned"))
