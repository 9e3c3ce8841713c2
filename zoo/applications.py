"""All of `keras.applications`, untrained, on the smallest images they accept.

They return logits: on random weights a softmax saturates, and would hide what changes before it.
"""

from __future__ import annotations

from functools import partial

import keras

from zoo.entry import Entry, by_name

CLASSES = 10

#: Sides of the input image, in pixels, where an architecture needs more than 32.
SIZES = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}

#: Families that begin with their own preprocessing and so take pixels from 0 to 255.
PIXELS = ("ConvNeXt", "EfficientNet", "MobileNetV3")

LIGHT = (
    "ConvNeXtSmall",
    "ConvNeXtTiny",
    "DenseNet121",
    "DenseNet169",
    "DenseNet201",
    "EfficientNetB0",
    "EfficientNetB1",
    "EfficientNetB2",
    "EfficientNetB3",
    "EfficientNetB4",
    "EfficientNetB5",
    "EfficientNetB6",
    "EfficientNetV2B0",
    "EfficientNetV2B1",
    "EfficientNetV2B2",
    "EfficientNetV2B3",
    "EfficientNetV2S",
    "InceptionV3",
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Large",
    "MobileNetV3Small",
    "NASNetMobile",
    "ResNet101",
    "ResNet101V2",
    "ResNet50",
    "ResNet50V2",
    "VGG16",
    "VGG19",
    "Xception",
)

#: More than 50 million parameters.
HEAVY = (
    "ConvNeXtBase",
    "ConvNeXtLarge",
    "ConvNeXtXLarge",
    "EfficientNetB7",
    "EfficientNetV2L",
    "EfficientNetV2M",
    "InceptionResNetV2",
    "NASNetLarge",
    "ResNet152",
    "ResNet152V2",
)


#: Why Keras itself refuses NASNet on a backend.
NO_NASNET = {"torch": "Keras: NASNet is not available on torch, because of an outstanding bug."}


def _build(name: str) -> keras.Model:
    size = SIZES.get(name, 32)
    return getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=CLASSES, classifier_activation=None
    )


APPLICATIONS = by_name(
    *(
        Entry(
            name,
            partial(_build, name),
            scale=255.0 if name.startswith(PIXELS) else 1.0,
            heavy=name in HEAVY,
            unsupported=NO_NASNET if name.startswith("NASNet") else {},
        )
        for name in sorted(LIGHT + HEAVY)
    )
)
