"""Random weights and random inputs for any Keras model.

Fresh models hide mistakes: their biases are zero, their scales and variances one, and a layer that
was lost or swapped often changes nothing. After `randomise` every floating-point variable matters
to the output.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

#: Integer inputs are ids from 1 to 7 with zeros at the end, so every vocabulary needs at least
#: eight entries.
VOCABULARY = 8

#: What string inputs are drawn from. The last word is one that no vocabulary should know.
WORDS = ("red", "green", "blue", "mauve")


def randomise(model: keras.Model, seed: int = 0) -> keras.Model:
    """Sets every floating-point variable and every seed generator to random values.

    What starts as a constant (biases, scales, moving means) gets noise of 0.1 around that constant,
    and what starts random (kernels, embeddings) the spread of He initialisation, so signals reach
    the output of deep models and do not explode on the way. Variances are drawn from 0.5 to 1.5.
    Seed generators get random seeds and have drawn a few numbers already. Left alone: integers, the
    variables of quantized layers (scales must match their kernels), and adapted `Normalization`
    layers (their statistics are non-trivial already).

    Args:
        model: A built model. It is changed in place.
        seed: The same model with the same seed gets the same values, on every backend.

    Returns:
        The same model.
    """
    rng = np.random.default_rng(seed)
    kept = set(_kept_variables(model))
    for variable in model.variables:
        if variable.name == "seed_generator_state":
            variable.assign(rng.integers((1, 1), (2**31, 9)).astype("uint32"))
        elif id(variable) not in kept and "float" in _dtype(variable):
            variable.assign(_random_like(variable, rng))
    _derive(model)
    return model


def _derive(model: keras.Model) -> None:
    """Sets what KerasHub derives from other variables when it loads a model, so that they agree."""
    for layer in model._flatten_layers():
        if hasattr(layer, "interpolated_position_embeddings"):
            origin = keras.ops.convert_to_numpy(layer.position_embeddings)
            layer.interpolated_position_embeddings.assign(origin)


def _dtype(variable: keras.Variable) -> str:
    return keras.backend.standardize_dtype(variable.dtype)


def _random_like(variable: keras.Variable, rng: np.random.Generator) -> np.ndarray:
    shape = tuple(variable.shape)
    if variable.name.endswith("variance"):
        return rng.uniform(0.5, 1.5, shape).astype("float32")
    noise = rng.standard_normal(shape, dtype="float32")
    start = keras.ops.convert_to_numpy(variable).astype("float32").ravel()
    if (start != start[:1]).any() or (start.size == 1 and len(shape) > 1):
        return _he(shape) * noise
    return start[:1].sum() + 0.1 * noise


def _he(shape: tuple[int, ...]) -> float:
    """Spread that preserves a signal through a kernel and a ReLU (He et al., 2015).

    Of the two fans it goes by the smaller: real weights make up for bottlenecks and gates.
    """
    fan = min(shape[-2:], default=1) * math.prod(shape[:-2])
    return min(1.0, math.sqrt(2 / max(1, fan)))


def _kept_variables(model: keras.Model) -> Iterator[int]:
    """Ids of the variables that random values would make meaningless."""
    for layer in model._flatten_layers():
        quantized = getattr(layer, "quantization_mode", None) is not None
        if quantized or isinstance(layer, keras.layers.Normalization):
            yield from map(id, layer.variables)


def inputs_for(
    model: keras.Model,
    batch: int = 2,
    seed: int = 0,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    scale: float = 1.0,
) -> Any:
    """Random inputs in the structure that the model takes: an array, or lists and dicts of arrays.

    Floats are standard normal. Integers are ids below `VOCABULARY`, padded with zeros at the end of
    each row but the first, as masking layers expect; integers called `*mask*` are the matching
    padding mask and those called `*segment*` are 0 or 1. Strings are `WORDS`.

    Args:
        model: A Functional or Sequential model that has been built.
        batch: Samples, where the model itself does not fix the number.
        seed: Seed of the values.
        shapes: Shapes without the batch, by input name, for inputs whose shape the model leaves
            open. Without it images are 32 x 32, and sequences 8 long.
        scale: Factor on the float inputs.
    """
    rng = np.random.default_rng(seed)
    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input

    def draw(tensor: keras.KerasTensor) -> np.ndarray:
        open_size = 32 if len(tensor.shape) >= 4 else 8
        default = tuple(size or open_size for size in tensor.shape[1:])
        shape = (tensor.shape[0] or batch, *(shapes or {}).get(tensor.name, default))
        return _random_input(rng, tensor.name, tensor.dtype, shape, scale)

    # Not `map_structure`: on torch it goes through dicts in another order, and so would the draws.
    drawn = [draw(tensor) for tensor in keras.tree.flatten(structure)]
    return keras.tree.pack_sequence_as(structure, drawn)


def _random_input(
    rng: np.random.Generator, name: str, dtype: str, shape: tuple[int, ...], scale: float
) -> np.ndarray:
    if dtype == "string":
        return rng.choice(WORDS, shape).astype(object)
    if "float" in dtype:
        return (scale * rng.standard_normal(shape)).astype("float32")
    if "segment" in name:
        return rng.integers(0, 2, shape).astype(dtype)
    present = _present(shape)
    if dtype == "bool" or "mask" in name:
        return present.astype(dtype)
    return (present * rng.integers(1, VOCABULARY, shape)).astype(dtype)


def _present(shape: tuple[int, ...]) -> np.ndarray:
    """What is not padding: all of row 0, three quarters of row 1, half of row 2, all of row 3."""
    length = shape[-1]
    rows = np.arange(int(np.prod(shape[:-1])))
    kept = length - rows % 3 * (length // 4)
    return (np.arange(length) < kept[:, None]).reshape(shape)


def outputs_of(model: keras.Model, inputs: Any) -> Any:
    """What the model computes in inference mode, as arrays in the model's output structure."""
    outputs = model(inputs, training=False)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)
