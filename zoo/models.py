"""Every model of the zoo, by name."""

from __future__ import annotations

from zoo.applications import APPLICATIONS
from zoo.multimodal import MULTIMODAL
from zoo.text import TEXT
from zoo.vision import VISION

#: Small configurations of KerasHub's backbones.
BACKBONES = {**TEXT, **VISION, **MULTIMODAL}

#: One architecture of each school, for runs that cannot afford all of them.
CI_SUBSET = {
    name: {**APPLICATIONS, **BACKBONES}[name]
    for name in (
        "VGG16",  # plain
        "ResNet50",  # residual
        "DenseNet121",  # densely connected
        "MobileNetV2",  # inverted residual
        "EfficientNetB0",  # squeeze and excite
        "NASNetMobile",  # searched for
        "ConvNeXtTiny",  # convolution in the style of a transformer
        "bert",  # encoder
        "gpt2",  # decoder
        "vit",  # vision transformer
    )
}
