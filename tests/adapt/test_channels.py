"""Another number of input channels."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import resect
from resect.adapt import Channels
from resect.errors import AmbiguousError, EditError, InputLayerError, ShapeError
from tests.adapt.models import assert_near, images, mobilenet, resnet, run, transfer
from tests.common import cnn, nested, randomise, trained
from tests.kinds import KINDS
from tests.surgery import assert_surgery


@pytest.mark.parametrize("make", [mobilenet, resnet, transfer])
def test_grayscale_by_summing(make):
    model = make()
    new = resect.adapt.channels(model, 1)
    gray = images(new)
    expected = run(model, np.repeat(gray, 3, axis=-1))
    assert_near(run(new, gray), expected)


@pytest.mark.parametrize("make", [mobilenet, transfer])
def test_more_channels_change_nothing_for_the_old_ones(make):
    model = make()
    new = resect.adapt.channels(model, 5)
    x = images(new)
    assert_near(run(new, x), run(model, x[..., :3]))


def test_a_grayscale_model_takes_colours():
    model = trained(cnn(), steps=2)
    new = assert_surgery(
        model,
        Channels(3),
        """
        Sequential 'cnn'
          image +  InputLayer    (None, 8, 8, 3)
          conv_1   Conv2D        (None, 8, 8, 3)  <- image
          pool_1   MaxPooling2D  (None, 4, 4, 3)  <- conv_1
          conv_2   Conv2D        (None, 4, 4, 4)  <- pool_1
          pool_2   MaxPooling2D  (None, 2, 2, 4)  <- conv_2
          flatten  Flatten       (None, 16)       <- pool_2
          dense    Dense         (None, 6)        <- flatten
          logits   Dense         (None, 3)        <- dense
          -> logits
        """,
    )
    gray = images(model)
    expected = run(model, gray)
    assert_near(run(new, np.repeat(gray, 3, -1)), expected)


def test_only_the_layers_that_read_the_input_are_others():
    model = mobilenet()
    new = resect.adapt.channels(model, 1)
    pairs = list(zip(model.variables, new.variables, strict=True))
    assert [a.path for a, b in pairs if tuple(a.shape) != tuple(b.shape)] == ["Conv1/kernel"]
    for old, now in pairs[1:]:
        np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(v) for v in (old, now)))


def test_several_readers_of_one_input():
    image = keras.Input((6, 6, 3), name="image")
    one = layers.Conv2D(4, 3, padding="same", name="one")(image)
    two = layers.SeparableConv2D(4, 3, padding="same", name="two")
    other = layers.Conv2D(4, 1, name="other")(layers.Dropout(0.1, name="drop")(image * 2.0 - 1.0))
    model = randomise(keras.Model(image, layers.Add(name="add")([one, other]), name="branches"))
    new = assert_surgery(model, Channels(1))
    gray = images(new)
    expected = run(model, np.repeat(gray, 3, -1))
    assert_near(run(new, gray), expected)
    assert two.name == "two"


def test_features_of_a_nested_model():
    model = nested()
    had = model.inputs[0].shape[-1]
    new = resect.adapt.channels(model, had + 2)
    x = images(new)
    assert_near(run(new, x), run(model, x[..., :had]))


def test_preprocessing_with_a_mean_for_each_channel_is_refused_by_name():
    stack = [
        keras.Input((6, 6, 3), name="image"),
        layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 2.0, 3.0], name="normal"),
        layers.Conv2D(2, 3, name="conv"),
    ]
    with pytest.raises(EditError) as caught:
        resect.adapt.channels(keras.Sequential(stack), 1)
    assert str(caught.value).startswith(
        "Cannot have 1 input channels.\n"
        "  'normal' (Normalization) reads the channels of the input, and resect does not know what "
        "to do with another number of them.\n"
        "  Take it out of the model first"
    )


@pytest.mark.parametrize(
    ("n", "how", "message"),
    [
        (3, None, "has 3 channels already"),
        (2, None, r'how="zeros" cannot make 2'),
        (4, "sum", r'has 3 channels, and how="sum" cannot make 4'),
        (4, "spread", r'how="spread" cannot make 4'),
    ],
)
def test_what_is_refused(n, how, message):
    with pytest.raises(EditError, match=message):
        resect.adapt.channels(transfer(), n, how)


def test_an_output_that_is_an_input_and_several_inputs():
    image = keras.Input((4, 4, 3), name="image")
    conv = layers.Conv2D(2, 3, name="conv")(image)
    twice = keras.Model(image, [conv, layers.MaxPooling2D(name="small")(image)])
    with pytest.raises(EditError, match="'small' passes the channels of the input on to an output"):
        resect.adapt.channels(twice, 1)
    other = keras.Input((4, 4, 2), name="other")
    model = keras.Model(
        [image, other], layers.Concatenate(name="cat")([conv, layers.Conv2D(2, 3)(other)])
    )
    with pytest.raises(AmbiguousError, match="2 inputs: 'image', 'other'"):
        resect.adapt.channels(model, 1)
    assert resect.adapt.channels(model, 1, at="other").input_shape[1] == (None, 4, 4, 1)
    with pytest.raises(ValueError, match="how must be"):
        Channels(1, "mean")


def test_what_is_named_must_be_an_input():
    with pytest.raises(InputLayerError, match=r"'conv_1' is no input of the model\.\n +Its inputs"):
        resect.adapt.channels(cnn(), 3, at="conv_1")


def test_a_softmax_over_the_channels_is_refused_by_name():
    stack = [
        keras.Input((6, 6, 3), name="image"),
        layers.Activation("softmax", name="soft"),
        layers.Conv2D(2, 3, name="conv"),
    ]
    with pytest.raises(EditError, match=r"'soft' \(Activation\) reads the channels"):
        resect.adapt.channels(keras.Sequential(stack), 1)


def test_a_quantized_layer_is_refused():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4, name="dense")], name="small")
    randomise(model).quantize("int8")
    with pytest.raises(ShapeError, match=r"its kernel is quantized \(int8\)"):
        resect.adapt.channels(model, 1)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no float64 by default")
def test_float64_stays_exact():
    image = keras.Input((5,), dtype="float64", name="x")
    model = keras.Model(image, layers.Dense(3, dtype="float64", name="dense")(image))
    randomise(model)
    kernel = np.random.default_rng(0).normal(size=(5, 3))
    model.get_layer("dense").kernel.assign(kernel)
    held = keras.ops.convert_to_numpy(model.get_layer("dense").kernel)
    new = resect.adapt.channels(model, 7)
    found = keras.ops.convert_to_numpy(new.get_layer("dense").kernel)
    np.testing.assert_array_equal(found[:5], held)


def test_a_shared_layer_that_reads_other_tensors_too_is_refused():
    for name in ("shared_layer_deep", "shared_input_depths"):
        with pytest.raises(ShapeError, match="another call of it would need weights of other"):
            resect.adapt.channels(KINDS[name].make(), 5)
