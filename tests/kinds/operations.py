"""Operations of `keras.ops` between the layers, and constants among their arguments."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

from tests.kinds.registry import PLAIN, kind

OPERATIONS = PLAIN | {"raw_ops"}


@kind("raw_ops", tags=OPERATIONS)
def raw_ops() -> keras.Model:
    """Functions and operators on tensors: arithmetic, slices, reshapes and concatenation."""
    features = keras.Input((6,), name="features")
    x = layers.Dense(6, name="dense_1")(features)
    x = x * 2.0 + 1.0
    x = ops.relu(x) * np.linspace(0.5, 1.5, 6, dtype="float32")
    x = ops.concatenate([x[:, :3], x[:, 3:] - features[:, ::2]], axis=-1)
    x = ops.reshape(x, (-1, 2, 3))
    x = ops.mean(x, axis=1)
    x = layers.Dense(4, name="dense_2")(x)
    return keras.Model(
        features, x / ops.sqrt(ops.sum(x**2, axis=-1, keepdims=True) + 1.0), name="raw_ops"
    )


@kind("raw_ops_last", tags=OPERATIONS)
def raw_ops_last() -> keras.Model:
    """Operations directly at the input and at the output, where there is no layer to name."""
    features = keras.Input((4,), name="features")
    x = layers.Dense(3, name="dense")(ops.tanh(features))
    return keras.Model(features, ops.softmax(x), name="raw_ops_last")


@kind("raw_ops_several_outputs", tags=OPERATIONS | {"multi_io"})
def several_outputs() -> keras.Model:
    """Operations that return several tensors, not all of them used."""
    features = keras.Input((6,), name="features")
    first, _, last = ops.split(layers.Dense(6, name="dense")(features), 3, axis=-1)
    values, _ = ops.top_k(features, 2)
    return keras.Model(
        features,
        [layers.Dense(3, name="logits")(first + values), last],
        name="raw_ops_several_outputs",
    )


@kind("constants", tags=OPERATIONS)
def constants() -> keras.Model:
    """Arrays and scalars of numpy as operands, also as the first one and inside lists."""
    features = keras.Input((4,), name="features")
    table = np.arange(12, dtype="float32").reshape(4, 3) / 10
    x = ops.matmul(features, table)
    x = ops.concatenate([x, ops.subtract(np.ones((1, 3), "float32"), x)], axis=-1)
    x = ops.where(x > np.float32(0.5), x, np.zeros((6,), "float32"))
    return keras.Model(features, layers.Dense(3, name="logits")(x), name="constants")


@kind("constant_tensor", tags=OPERATIONS - {"saves"})
def constant_tensor() -> keras.Model:
    """A tensor of the backend as an operand."""
    features = keras.Input((4,), name="features")
    offset = ops.convert_to_tensor(np.arange(4, dtype="float32"))
    return keras.Model(
        features, layers.Dense(3, name="logits")(ops.add(features, offset)), name="constant_tensor"
    )


@kind("attention_by_hand", tags=OPERATIONS)
def attention_by_hand() -> keras.Model:
    """Attention written out with `einsum`, `transpose` and `softmax`, as ported models do."""
    sequence = keras.Input((5, 8), name="sequence")

    def heads(name: str) -> keras.KerasTensor:
        projected = ops.reshape(layers.Dense(8, name=name)(sequence), (-1, 5, 2, 4))
        return ops.transpose(projected, (0, 2, 1, 3))

    query, key, value = heads("query"), heads("key"), heads("value")
    weights = ops.softmax(ops.einsum("bhqd,bhkd->bhqk", query, key) / 2.0)
    mixed = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))
    x = layers.Dense(8, name="project")(ops.reshape(mixed, (-1, 5, 8)))
    return keras.Model(
        sequence, layers.LayerNormalization(name="norm")(sequence + x), name="attention_by_hand"
    )


@kind("lambda_layer", tags=PLAIN, load_options={"safe_mode": False})
def lambda_layer() -> keras.Model:
    """A `Lambda` layer around a Python lambda."""
    features = keras.Input((4,), name="features")
    x = layers.Dense(4, name="dense")(features)
    x = layers.Lambda(lambda tensor: tensor * 2.0, output_shape=(4,), name="double")(x)
    return keras.Model(features, layers.Dense(3, name="logits")(x), name="lambda_layer")
