"""The digits of scikit-learn, and a small residual network for them."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

BATCH = 64


@dataclass(frozen=True)
class Images:
    """Images and what they show.

    Attributes:
        x: Grey values from 0 to 16, `(images, 8, 8, 1)`.
        y: The digits, `(images,)`.
    """

    x: np.ndarray
    y: np.ndarray


def load() -> tuple[Images, Images]:
    """1,344 images to train on, which is 21 batches, and 453 to test with: real handwriting."""
    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 8, 8, 1).astype("float32")
    x, x_test, y, y_test = train_test_split(x, y, train_size=21 * BATCH, random_state=0)
    return Images(x, y), Images(x_test, y_test)


def in_colour(x: np.ndarray) -> np.ndarray:
    """The same digits in inks of random colours, always the same ones: `(images, 8, 8, 3)`."""
    inks = np.random.default_rng(0).uniform(0, 1, (len(x), 1, 1, 3)).astype("float32")
    return x * inks


def network(filters: int = 24) -> keras.Model:
    """A residual network of three blocks, compiled and not trained.

    Args:
        filters: Channels of every convolution.
    """
    image = keras.Input((8, 8, 1), name="image")
    x = layers.Rescaling(1 / 16, name="rescale")(image)
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name="stem_conv")(x)
    x = layers.BatchNormalization(momentum=0.9, name="stem_bn")(x)
    x = layers.ReLU(name="stem_relu")(x)
    x = _block(x, filters, "block_1")
    x = layers.MaxPooling2D(name="halve")(x)
    x = _block(x, filters, "block_2")
    x = _block(x, filters, "block_3")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(image, layers.Dense(10, name="digit")(x), name="digits")
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def _block(x: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
    """Two convolutions, and a wire around them."""
    skip = x
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv1")(x)
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_bn1")(x)
    x = layers.ReLU(name=f"{name}_relu1")(x)
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv2")(x)
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_bn2")(x)
    x = layers.Add(name=f"{name}_add")([x, skip])
    return layers.ReLU(name=f"{name}_relu")(x)
