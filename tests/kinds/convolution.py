"""Shapes of convolutional networks: skips across scales, parallel branches, gates."""

from __future__ import annotations

import keras
from keras import layers

from tests.kinds.registry import PLAIN, kind


@kind("depthwise_separable")
def depthwise_separable() -> keras.Model:
    """Depthwise and separable convolutions, with grouped ones in between."""
    image = keras.Input((8, 8, 4), name="image")
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(image)
    x = layers.Conv2D(6, 1, name="pointwise")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU(6.0, name="relu")(x)
    x = layers.Conv2D(6, 3, groups=2, name="grouped")(x)
    x = layers.SeparableConv2D(5, 3, name="separable")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(3, name="logits")(x), name="depthwise_separable")


@kind("autoencoder", tags=PLAIN | {"nested"})
def autoencoder() -> keras.Model:
    """Convolutions down, transposed convolutions up, as two nested models."""
    encoder = keras.Sequential(
        [
            keras.Input((8, 8, 2), name="encoder_image"),
            layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="down_1"),
            layers.Conv2D(5, 3, strides=2, padding="same", activation="relu", name="down_2"),
        ],
        name="encoder",
    )
    decoder = keras.Sequential(
        [
            keras.Input((2, 2, 5), name="code"),
            layers.Conv2DTranspose(4, 3, strides=2, padding="same", activation="relu", name="up_1"),
            layers.Conv2DTranspose(2, 3, strides=2, padding="same", name="up_2"),
        ],
        name="decoder",
    )
    image = keras.Input((8, 8, 2), name="image")
    return keras.Model(image, decoder(encoder(image)), name="autoencoder")


@kind("unet_like")
def unet_like() -> keras.Model:
    """A U: skips by concatenation from each scale on the way down to the same one on the way up."""
    x = image = keras.Input((8, 8, 2), name="image")
    skips = []
    for index, filters in enumerate((3, 4)):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"down_{index}")(x)
        skips.append(x)
        x = layers.MaxPooling2D(name=f"pool_{index}")(x)
    x = layers.Conv2D(5, 3, padding="same", activation="relu", name="bottom")(x)
    for index, skip in reversed(list(enumerate(skips))):
        x = layers.UpSampling2D(name=f"upsample_{index}")(x)
        x = layers.Concatenate(name=f"concat_{index}")([x, skip])
        filters = skip.shape[-1]
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"up_{index}")(x)
    return keras.Model(image, layers.Conv2D(1, 1, name="mask")(x), name="unet_like")


@kind("inception_like")
def inception_like() -> keras.Model:
    """Parallel branches of different depth, concatenated."""
    image = keras.Input((6, 6, 3), name="image")
    one = layers.Conv2D(2, 1, activation="relu", name="one")(image)
    three = layers.Conv2D(2, 1, activation="relu", name="three_reduce")(image)
    three = layers.Conv2D(3, 3, padding="same", activation="relu", name="three")(three)
    pooled = layers.AveragePooling2D(3, strides=1, padding="same", name="pool")(image)
    pooled = layers.Conv2D(2, 1, activation="relu", name="pool_project")(pooled)
    x = layers.Concatenate(name="concat")([one, three, pooled])
    x = layers.GlobalMaxPooling2D(name="global_pool")(x)
    return keras.Model(image, layers.Dense(3, name="logits")(x), name="inception_like")


@kind("squeeze_excite")
def squeeze_excite() -> keras.Model:
    """A gate: a narrow branch multiplied onto the wide one, inside a residual block."""
    image = keras.Input((6, 6, 3), name="image")
    stem = layers.Conv2D(4, 3, padding="same", name="stem")(image)
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(stem)
    gate = layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(x)
    gate = layers.Conv2D(2, 1, activation="relu", name="reduce")(gate)
    gate = layers.Conv2D(4, 1, activation="sigmoid", name="expand")(gate)
    x = layers.Multiply(name="excite")([x, gate])
    x = layers.Add(name="add")([stem, x])
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(image, layers.Dense(3, name="logits")(x), name="squeeze_excite")


@kind("conv_1d_3d", tags=PLAIN | {"multi_io"})
def conv_1d_3d() -> keras.Model:
    """Convolutions of one and three dimensions, with padding, cropping and reshaping."""
    signal, volume = keras.Input((8, 2), name="signal"), keras.Input((4, 4, 4, 1), name="volume")
    x = layers.ZeroPadding1D(1, name="pad")(signal)
    x = layers.Conv1D(3, 3, dilation_rate=2, activation="relu", name="conv_1d")(x)
    x = layers.Flatten(name="flatten_1d")(layers.Cropping1D(1, name="crop")(x))
    y = layers.Conv3D(2, 3, activation="relu", name="conv_3d")(volume)
    y = layers.Flatten(name="flatten_3d")(layers.Permute((3, 1, 2, 4), name="permute")(y))
    both = layers.Concatenate(name="concat")([x, layers.Reshape((-1,), name="reshape")(y)])
    return keras.Model([signal, volume], layers.Dense(3, name="logits")(both), name="conv_1d_3d")
