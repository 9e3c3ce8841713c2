"""Preprocessing layers inside the model, with state that is not a weight."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tests.kinds.registry import PLAIN, kind, needs
from zoo.randomise import inputs_for

STRINGS_NEED_TENSORFLOW = dict.fromkeys(
    ("jax", "torch"), "Keras: a graph with string tensors runs only on the TensorFlow backend."
)


def _strings(model: keras.Model, batch: int, seed: int) -> Any:
    """Strings as tensors: `predict` takes no arrays of them."""
    return ops.convert_to_tensor(inputs_for(model, batch, seed), "string")


@kind("normalization_adapted")
def normalization_adapted() -> keras.Model:
    """A `Normalization` layer that was adapted to data."""
    normalization = layers.Normalization(name="normalization")
    normalization.adapt(np.random.default_rng(0).normal(3.0, 2.0, (50, 4)).astype("float32"))
    features = keras.Input((4,), name="features")
    return keras.Model(
        features,
        layers.Dense(3, name="logits")(normalization(features)),
        name="normalization_adapted",
    )


@kind("normalization_fixed")
def normalization_fixed() -> keras.Model:
    """A `Normalization` layer whose statistics are arguments, behind a `Rescaling`."""
    image = keras.Input((6, 6, 3), name="image")
    x = layers.Rescaling(1 / 255, offset=0.1, name="rescaling")(image)
    x = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[0.5, 0.6, 0.7], name="normalization")(
        x
    )
    x = layers.GlobalAveragePooling2D(name="pool")(layers.Conv2D(3, 3, name="conv")(x))
    return keras.Model(image, x, name="normalization_fixed")


@kind(
    "discretization",
    tags=PLAIN | {"multi_io"},
    unsupported=needs("3.14", "CategoryEncoding declares another shape than it returns."),
)
def discretization() -> keras.Model:
    """Adapted bins, and ids turned into indicators."""
    number, category = (
        keras.Input((1,), name="number"),
        keras.Input((2,), dtype="int32", name="category"),
    )
    bins = layers.Discretization(num_bins=4, output_mode="one_hot", name="bins")
    bins.adapt(np.random.default_rng(0).normal(size=(100, 1)))
    indicators = layers.CategoryEncoding(num_tokens=8, output_mode="multi_hot", name="indicators")(
        category
    )
    x = layers.Concatenate(name="concat")([bins(number), indicators])
    return keras.Model([number, category], layers.Dense(3, name="logits")(x), name="discretization")


@kind(
    "integer_lookup",
    untrained={"jax": "Keras: lookups compute with TensorFlow, which JAX cannot compile."},
)
def integer_lookup() -> keras.Model:
    """A vocabulary of integers, adapted."""
    ids = keras.Input((3,), dtype="int32", name="ids")
    lookup = layers.IntegerLookup(name="lookup")
    lookup.adapt(np.array([1, 2, 2, 3, 5, 5, 5]))
    x = layers.Embedding(lookup.vocabulary_size(), 4, name="embedding")(lookup(ids))
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(ids, layers.Dense(3, name="logits")(x), name="integer_lookup")


@kind(
    "string_lookup", tags=PLAIN | {"strings"}, inputs=_strings, unsupported=STRINGS_NEED_TENSORFLOW
)
def string_lookup() -> keras.Model:
    """A vocabulary of strings, adapted."""
    colour = keras.Input((1,), dtype="string", name="colour")
    lookup = layers.StringLookup(name="lookup")
    lookup.adapt(np.array(["red", "green", "blue", "red"]))
    x = layers.Embedding(lookup.vocabulary_size(), 4, name="embedding")(lookup(colour))
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(colour, layers.Dense(3, name="logits")(x), name="string_lookup")


@kind(
    "text_vectorization",
    tags=PLAIN | {"strings", "masked"},
    inputs=_strings,
    unsupported=STRINGS_NEED_TENSORFLOW,
)
def text_vectorization() -> keras.Model:
    """Text split into words and looked up."""
    text = keras.Input((1,), dtype="string", name="text")
    vectorize = layers.TextVectorization(output_sequence_length=4, name="vectorize")
    vectorize.adapt(np.array(["red green", "blue red"]))
    x = layers.Embedding(vectorize.vocabulary_size(), 4, mask_zero=True, name="embedding")(
        vectorize(text)
    )
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(text, layers.Dense(3, name="logits")(x), name="text_vectorization")


@kind("seeded_dropout", tags=PLAIN | {"random"})
def seeded_dropout() -> keras.Model:
    """Dropout and noise layers with seeds: state that training advances and surgery must carry."""
    features = keras.Input((4,), name="features")
    x = layers.GaussianNoise(0.1, seed=3, name="noise")(features)
    x = layers.Dense(6, activation="selu", name="dense")(x)
    x = layers.Dropout(0.3, seed=5, name="dropout")(x)
    x = layers.AlphaDropout(0.2, seed=7, name="alpha_dropout")(x)
    return keras.Model(features, layers.Dense(3, name="logits")(x), name="seeded_dropout")


@kind("augmentation", tags=PLAIN | {"random"})
def augmentation() -> keras.Model:
    """Random augmentation of images, and spatial dropout."""
    image = keras.Input((8, 8, 3), name="image")
    x = layers.RandomFlip(seed=3, name="flip")(image)
    x = layers.RandomTranslation(0.1, 0.1, seed=5, name="translation")(x)
    x = layers.Conv2D(4, 3, name="conv")(x)
    x = layers.SpatialDropout2D(0.2, seed=7, name="spatial_dropout")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(3, name="logits")(x), name="augmentation")
