"""Layers that are called more than once."""

from __future__ import annotations

import keras
from keras import layers

from tests.kinds.registry import PLAIN, kind, needs

SHARED = PLAIN | {"shared"}


@kind("shared_layer", tags=SHARED | {"multi_io"})
def shared_layer() -> keras.Model:
    """One dense layer over two inputs: a siamese network."""
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    shared = layers.Dense(5, activation="tanh", name="shared")
    x = layers.Subtract(name="subtract")([shared(left), shared(right)])
    return keras.Model([left, right], layers.Dense(3, name="logits")(x), name="shared_layer")


@kind("shared_layer_deep", tags=SHARED)
def shared_layer_deep() -> keras.Model:
    """A layer called on what came from itself: A(B(A(x)))."""
    features = keras.Input((4,), name="features")
    a = layers.Dense(4, activation="tanh", name="a")
    b = layers.Dense(4, activation="relu", name="b")
    return keras.Model(features, a(b(a(features))), name="shared_layer_deep")


@kind("shared_input_depths", tags=SHARED)
def shared_input_depths() -> keras.Model:
    """A layer called at different depths, once on the input and once behind two others."""
    features = keras.Input((4,), name="features")
    shared = layers.Dense(4, activation="tanh", name="shared")
    early = shared(features)
    late = layers.Dense(4, activation="relu", name="first")(features)
    late = shared(layers.Dense(4, name="second")(late))
    x = layers.Concatenate(name="concat")([late, early])
    return keras.Model(features, layers.Dense(3, name="logits")(x), name="shared_input_depths")


@kind("shared_batch_norm", tags=SHARED)
def shared_batch_norm() -> keras.Model:
    """A shared layer with state of its own, and a shared one without weights."""
    features = keras.Input((4,), name="features")
    norm, relu = layers.BatchNormalization(name="bn"), layers.ReLU(name="relu")
    x = relu(norm(layers.Dense(4, name="dense_1")(features)))
    x = relu(norm(layers.Dense(4, name="dense_2")(x)))
    return keras.Model(features, layers.Dense(3, name="logits")(x), name="shared_batch_norm")


@kind("shared_merge", tags=SHARED)
def shared_merge() -> keras.Model:
    """One merge layer at the end of several skips."""
    x = features = keras.Input((4,), name="features")
    add = layers.Add(name="add")
    for index in range(3):
        x = add([x, layers.Dense(4, activation="relu", name=f"dense_{index}")(x)])
    return keras.Model(features, layers.Dense(3, name="logits")(x), name="shared_merge")


@kind(
    "embedding_tied",
    tags=SHARED,
    unsupported=needs("3.12", "there is no ReversibleEmbedding."),
)
def embedding_tied() -> keras.Model:
    """An embedding that is also, transposed, the output projection."""
    ids = keras.Input((6,), dtype="int32", name="ids")
    embedding = layers.ReversibleEmbedding(10, 4, name="embedding")
    x = layers.Dense(4, activation="tanh", name="dense")(embedding(ids))
    return keras.Model(ids, embedding(x, reverse=True), name="embedding_tied")
