"""Another input size: as if the network had been built for it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import resect
from resect.adapt import InputShape
from resect.errors import AmbiguousError, EditError, ShapeError
from tests.adapt.models import assert_near, images, mobilenet, resnet, run, transfer
from tests.common import cnn, mlp, randomise, trained
from tests.surgery import assert_surgery


@pytest.mark.parametrize("size", [48, 56, 64])
def test_it_equals_a_network_that_is_built_for_that_size(size):
    model = mobilenet()
    new = resect.adapt.input_shape(model, (size, size, 3))
    fresh = keras.applications.MobileNetV2(
        (size, size, 3), alpha=0.35, weights=None, classes=10, classifier_activation="softmax"
    )
    fresh.set_weights(model.get_weights())
    x = images(fresh)
    assert_near(run(new, x), run(fresh, x), 1e-5)
    assert new.input_shape == (None, size, size, 3)


def test_a_residual_network():
    model = resnet()
    new = resect.adapt.input_shape(model, (45, 64, 3))
    fresh = keras.applications.ResNet50(
        input_shape=(45, 64, 3), weights=None, include_top=False, pooling="avg"
    )
    fresh.set_weights(model.get_weights())
    x = images(fresh)
    assert_near(run(new, x), run(fresh, x), 1e-5)


def test_a_nested_base_behind_other_layers():
    new = assert_surgery(trained(transfer(), steps=1), InputShape((12, 10, 3)))
    assert new.get_layer("base").input_shape == (None, 12, 10, 3)
    assert new.get_layer("base").output_shape == (None, 10, 8, 4)


def test_models_nested_in_nested_models():
    inner = keras.Sequential(
        [keras.Input((4, 4, 2), name="in"), layers.Conv2D(3, 1, name="conv")], name="inner"
    )
    x = middle = keras.Input((8, 8, 2), name="middle_in")
    x = inner(layers.MaxPooling2D(name="pool")(x))
    middle = keras.Model(middle, x, name="middle")
    image = keras.Input((8, 8, 2), name="image")
    x = layers.GlobalAveragePooling2D(name="mean")(middle(image))
    model = randomise(keras.Model(image, x, name="outer"))
    new = assert_surgery(model, InputShape((20, 12, 2)))
    assert new.get_layer("middle").get_layer("inner").input_shape == (None, 10, 6, 2)


def test_the_same_size_is_the_identity():
    model = mobilenet()
    new = resect.adapt.input_shape(model, (32, 32, 3))
    x = images(model)
    np.testing.assert_array_equal(run(new, x), run(model, x))


def test_any_size():
    model = keras.Sequential(
        [keras.Input((8, 8, 1), name="image"), layers.Conv2D(2, 3, name="conv")], name="any"
    )
    new = assert_surgery(randomise(model), InputShape((None, None, 1)))
    assert new.output_shape == (None, None, None, 2)


def test_a_dense_layer_behind_flatten_is_refused_by_name():
    with pytest.raises(ShapeError) as caught:
        resect.adapt.input_shape(cnn(), (16, 16, 1))
    assert str(caught.value).startswith(
        "Cannot take inputs of the shape (16, 16, 1).\n"
        "  'dense' (Dense) was fed (None, 16) and would be fed (None, 64) from 'flatten': its "
        "kernel is (16, 6) and would have to be (64, 6)."
    )


def test_what_else_is_refused():
    with pytest.raises(EditError, match=r"has the shape \(None, 6\), which has another rank"):
        resect.adapt.input_shape(mlp(), (6, 1))
    with pytest.raises(ShapeError, match=r"'conv_1' \(Conv2D\) .* kernel"):
        resect.adapt.input_shape(cnn(), (8, 8, 3))
    one, other = (keras.Input((4,), name=name) for name in ("one", "other"))
    model = keras.Model([one, other], layers.Concatenate(name="cat")([one, other]))
    with pytest.raises(AmbiguousError, match="2 inputs: 'one', 'other'"):
        resect.adapt.input_shape(model, (5,))
    assert resect.adapt.input_shape(model, (5,), at="other").output_shape == (None, 9)


def test_an_input_keeps_its_flags():
    x = keras.Input((4,), dtype="float32", name="x", optional=True)
    other = keras.Input((4,), name="other")

    class First(layers.Layer):
        def call(self, one, two=None):
            return one

    model = keras.Model([other, x], First(name="first")(other, x), name="optional")
    new = resect.adapt.input_shape(model, (6,), at="x")
    assert new.get_layer("x").optional
    assert new.get_layer("x").batch_shape == (None, 6)
