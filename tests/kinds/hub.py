"""KerasHub's models: subclasses of Functional whose layers are large composites."""

from __future__ import annotations

import keras
from keras import layers

from tests.kinds.registry import PLAIN, kind
from zoo.text import TEXT
from zoo.vision import VISION

HUB = PLAIN | {"hub"}


@kind("kerashub_bert_tiny", tags=HUB | {"multi_io", "masked", "shared"})
def bert() -> keras.Model:
    """An encoder with three inputs and two outputs, in dicts."""
    return TEXT["bert"].build()


@kind("kerashub_gpt2_tiny", tags=HUB | {"multi_io", "masked"})
def gpt2() -> keras.Model:
    """A decoder with causal attention."""
    return TEXT["gpt2"].build()


@kind("kerashub_vit_tiny", tags=HUB)
def vit() -> keras.Model:
    """A vision transformer."""
    return VISION["vit"].build()


@kind("kerashub_classifier", tags=HUB | {"nested", "multi_io"})
def classifier() -> keras.Model:
    """A backbone within a model with a new head: fine-tuning."""
    backbone = TEXT["bert"].build()
    x = backbone(backbone.input)["pooled_output"]
    return keras.Model(
        backbone.input, layers.Dense(3, name="logits")(x), name="kerashub_classifier"
    )
