"""How do I remove the first N layers, and keep the weights of the rest?"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import resect
from tests.common import assert_close, assert_equal, cnn, data_for, primed, train, weights_of
from tests.surgery import Source
from zoo.randomise import inputs_for, outputs_of, randomise


def normalised_cnn() -> keras.Model:
    """Three blocks of Conv, BatchNormalization and Pool, then a head."""
    x = image = keras.Input((16, 16, 2), name="image")
    for i in (1, 2, 3):
        x = keras.layers.Conv2D(3 + i, 3, padding="same", activation="relu", name=f"conv_{i}")(x)
        x = keras.layers.BatchNormalization(name=f"bn_{i}")(x)
        x = keras.layers.MaxPooling2D(name=f"pool_{i}")(x)
    x = keras.layers.GlobalAveragePooling2D(name="average")(x)
    return randomise(keras.Model(image, keras.layers.Dense(3, name="logits")(x), name="blocks"))


def mobilenet() -> keras.Model:
    return randomise(
        keras.applications.MobileNetV2(
            input_shape=(96, 96, 3), alpha=0.35, weights=None, classes=4, name="mobilenet"
        )
    )


def intermediate(model: keras.Model, name: str) -> np.ndarray:
    """The tensor that the layer of that name reads, computed by the original itself."""
    probe = resect.truncate(model, end=name)
    before = resect.pop(probe)
    return outputs_of(before, inputs_for(model))


def assert_tail(model: keras.Model, new: keras.Model, start: str, fed: np.ndarray) -> None:
    """The new model computes what the original computes from `start` on, and has its weights."""
    whole = outputs_of(model, inputs_for(model))
    assert_close(outputs_of(new, fed), whole)
    for layer in new.layers:
        if layer.weights:
            assert_equal(layer.get_weights(), model.get_layer(layer.name).get_weights())
    resect.verify(model, new, plan=resect.plan(model).truncate(start=start), training=False)


def assert_independent(one: Any, other: Any) -> None:
    """Training either leaves the other's weights bit-equal, and working."""
    for trains, stays in ((one, other), (other, one)):
        before, moved = weights_of(stays), weights_of(trains)
        train(trains)
        assert_equal(weights_of(stays), before)
        assert not all(np.array_equal(a, b) for a, b in zip(moved, weights_of(trains), strict=True))
        outputs_of(stays, inputs_for(stays))


def test_one_block_of_convolution_and_pooling():
    model = primed(cnn())
    before = Source.of(model)

    new = resect.truncate(model, start="conv_2")

    before.assert_untouched()
    assert isinstance(new, keras.Sequential)
    assert new.input_shape == (None, 4, 4, 3)
    assert [layer.name for layer in new.layers] == [layer.name for layer in model.layers][2:]
    fed = model.layers[1](model.layers[0](inputs_for(model)))
    assert_tail(model, new, "conv_2", fed)
    assert_independent(model, new)


def test_two_blocks_of_convolution_normalisation_and_pooling():
    model = primed(normalised_cnn())

    new = resect.truncate(model, start="conv_3")

    assert new.input_shape == (None, 4, 4, 5)
    x = inputs_for(model)
    for layer in model.layers[1:7]:
        x = layer(x)
    assert_tail(model, new, "conv_3", x)
    assert_independent(model, new)


def test_the_first_n_by_number():
    model = cnn()
    new = resect.remove(model, resect.first(2), on_mismatch="reinit")
    assert [layer.name for layer in new.layers] == [layer.name for layer in model.layers][2:]
    assert resect.truncate(model, start=2).input_shape == (None, 4, 4, 3)


def test_mobilenet_from_an_inner_block_on_with_its_residual_adds():
    model = mobilenet()
    before = Source.of(model)

    new = resect.truncate(model, start="block_1_expand_relu")

    before.assert_untouched()
    names = [layer.name for layer in model.layers]
    first = names.index("block_1_expand_relu")
    assert [layer.name for layer in new.layers][1:] == names[first:]
    assert sum(isinstance(layer, keras.layers.Add) for layer in new.layers) == 10
    assert_tail(model, new, "block_1_expand_relu", intermediate(model, "block_1_expand_relu"))


@pytest.mark.slow
def test_training_either_part_of_mobilenet_leaves_the_other_as_it_was():
    model = mobilenet()
    new = resect.truncate(model, start="block_15_expand_relu")
    for each in (model, new):
        each.compile(keras.optimizers.SGD(0.01), "mse")
    before = weights_of(model)
    inputs, targets = data_for(new, batch=2)
    new.train_on_batch(inputs, targets)
    assert_equal(weights_of(model), before)
