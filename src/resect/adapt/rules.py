"""Which axes of a layer's variables are its inputs, its outputs and its vocabulary.

Whatever changes a number of channels, classes or words asks here. A layer whose class has no rule
is refused by name; `register` gives a rule to a class of one's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keras import layers


@dataclass(frozen=True)
class Positions:
    """Where a layer that cuts an image into patches keeps what it adds for their positions.

    Attributes:
        embeddings: The variable, of the shape `(..., tokens + height * width, channels)`: what
            belongs to a class token or the like stands before the grid of patches.
        size: Field of the configuration that holds the size of the image.
        patch: Field that holds the size of a patch.
        ids: A variable of the shape `(1, positions)` that counts the positions, if there is one.
    """

    embeddings: str
    size: str = "image_size"
    patch: str = "patch_size"
    ids: str = ""


@dataclass(frozen=True)
class Rule:
    """The axes of the variables of a layer, by their names.

    Where several parts of a layer have variables of one name, the end of the path says which:
    `"token_embedding/embeddings"`.

    Attributes:
        inputs: Axis of the input channels.
        outputs: Axis of the output channels.
        words: Axis of the vocabulary.
        units: Field of the configuration that holds the number of output channels.
        vocabulary: Field that holds the size of the vocabulary.
        positions: Its position embeddings, if it has some for the patches of an image.
    """

    inputs: Mapping[str, int] = field(default_factory=dict)
    outputs: Mapping[str, int] = field(default_factory=dict)
    words: Mapping[str, int] = field(default_factory=dict)
    units: str = ""
    vocabulary: str = ""
    positions: Positions | None = None


_CONVOLUTION = Rule({"kernel": -2}, {"kernel": -1, "bias": 0}, units="filters")
_TRANSPOSED = Rule({"kernel": -1}, {"kernel": -2, "bias": 0}, units="filters")
_SEPARABLE = Rule({}, {"pointwise_kernel": -1, "bias": 0}, units="filters")

_RULES: dict[Any, Rule] = {
    layers.Dense: Rule({"kernel": 0}, {"kernel": 1, "bias": 0}, units="units"),
    layers.Conv1D: _CONVOLUTION,
    layers.Conv2D: _CONVOLUTION,
    layers.Conv3D: _CONVOLUTION,
    layers.Conv1DTranspose: _TRANSPOSED,
    layers.Conv2DTranspose: _TRANSPOSED,
    layers.Conv3DTranspose: _TRANSPOSED,
    layers.SeparableConv1D: _SEPARABLE,
    layers.SeparableConv2D: _SEPARABLE,
    layers.Embedding: Rule(words={"embeddings": 0}, vocabulary="input_dim"),
    # Newer than the oldest Keras, and in KerasHub too: by name.
    "ReversibleEmbedding": Rule(
        words={"embeddings": 0, "reverse_embeddings": 1}, vocabulary="input_dim"
    ),
    "TokenAndPositionEmbedding": Rule(
        words={"token_embedding/embeddings": 0, "token_embedding/reverse_embeddings": 1},
        vocabulary="vocabulary_size",
    ),
    "ViTPatchingAndEmbedding": Rule(positions=Positions("embeddings")),
    "DeiTEmbeddings": Rule(positions=Positions("position_embedding")),
    "SigLIPVisionEmbedding": Rule(positions=Positions("embeddings", ids="position_ids")),
    "CLIPVisionEmbedding": Rule(positions=Positions("embeddings", ids="position_ids")),
    "PaliGemmaVitEmbeddings": Rule(positions=Positions("embeddings")),
}

# Layers that treat every channel alike and leave their number as it is.
_ALIKE: tuple[type, ...] = (
    layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Identity,
    layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D,
    layers.GaussianDropout, layers.GaussianNoise, layers.AlphaDropout,
    layers.ActivityRegularization, layers.Masking,
    layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D,
    layers.Cropping1D, layers.Cropping2D, layers.Cropping3D,
    layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D,
    layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D,
    layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D,
    layers.Resizing, layers.CenterCrop, layers.RandomFlip, layers.RandomCrop,
    layers.RandomTranslation, layers.RandomRotation, layers.RandomZoom,
)  # fmt: skip


def register(cls: type, rule: Rule) -> None:
    """Says which axes of a layer class are what; also overrides a rule.

    Args:
        cls: The class itself: its subclasses need rules of their own.
        rule: Its rule.

    Example:

    >>> import keras, resect
    >>> class MyDense(keras.layers.Dense):
    ...     pass
    >>> resect.adapt.register(MyDense, resect.adapt.rule_of(keras.layers.Dense))
    """
    _RULES[cls] = rule


def rule_of(cls: type) -> Rule | None:
    """The rule of a layer class; `None` if it has none."""
    return _RULES.get(cls) or _RULES.get(cls.__name__)


def activation_is_over_channels(layer: Any) -> bool:
    """Whether an `Activation` layer reads all channels for each, as a softmax does."""
    name = getattr(layer.activation, "__name__", "")
    return name in ("softmax", "log_softmax", "sparsemax")


def treats_channels_alike(layer: Any) -> bool:
    """Whether a layer does the same to every channel, so that there may be more or fewer."""
    if isinstance(layer, layers.Activation) and activation_is_over_channels(layer):
        return False
    if isinstance(layer, layers.Rescaling):
        return all(isinstance(each, (int, float)) for each in (layer.scale, layer.offset))
    return type(layer) in _ALIKE
