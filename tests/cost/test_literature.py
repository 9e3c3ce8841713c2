"""Multiply-adds at 224x224 as papers give them."""

from __future__ import annotations

import keras
import pytest

import resect
from resect.keras_graph.private import uninitialised_variables

#: Billions, in the number of digits that are given in the literature.
PUBLISHED = {"VGG16": 15.5, "MobileNetV2": 0.30, "EfficientNetB0": 0.39, "ResNet50": 3.86}


def built(name: str) -> keras.Model:
    with uninitialised_variables():  # a shape is all that is needed of a weight
        return getattr(keras.applications, name)(weights=None)


@pytest.mark.parametrize("name", PUBLISHED)
def test_multiply_adds_are_those_of_the_literature(name: str):
    model = built(name)
    found = resect.profile(model)
    assert found.multiply_adds / 1e9 == pytest.approx(PUBLISHED[name], rel=0.02)
    assert found.parameters == model.count_params()
    assert not found.uncounted


def test_resnet50_with_its_strides_in_the_wide_convolutions():
    """Keras has the network of the paper (3.8); 4.1 is that of the usual later version."""

    def moved(layer):
        config = layer.get_config()
        first = layer.name.startswith(("conv3_block1", "conv4_block1", "conv5_block1"))
        if first and layer.name.endswith(("_1_conv", "_2_conv")):
            config["strides"] = 1 if layer.name.endswith("_1_conv") else 2
        return layer.__class__.from_config(config)

    with uninitialised_variables():
        model = keras.models.clone_model(built("ResNet50"), clone_function=moved)
    assert resect.profile(model).multiply_adds / 1e9 == pytest.approx(4.1, rel=0.02)
