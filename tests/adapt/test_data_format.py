"""Models in the other data format: `new(transpose(x))` equals `transpose(old(x))`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import resect
from resect.adapt import DataFormat, data_format, register_layout
from resect.adapt.layout.layouts import axes_in, between, constant_in, inverse, moved, then, without
from resect.errors import EditError, NoMatchError
from tests.adapt.models import assert_near, mobilenet, resnet, run
from tests.common import assert_equal, randomise, trained, weights_of
from tests.surgery import assert_surgery

# TensorFlow has no channels-first convolutions and pooling on a CPU: there such models are made,
# and what runs is the way back.
RUNS = keras.backend.backend() != "tensorflow"
BACK = {"channels_first": "channels_last", "channels_last": "channels_first"}


def arrays(model: Any, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = [[size or 2 for size in tensor.shape] for tensor in model.inputs]
    kinds = [tensor.dtype for tensor in model.inputs]
    return [
        rng.integers(1, 5, size=s) if "int" in kind else rng.normal(size=s).astype("float32")
        for s, kind in zip(shapes, kinds, strict=True)
    ]


def called(model: Any, inputs: list[np.ndarray]) -> list[np.ndarray]:
    return keras.tree.flatten(run(model, inputs if len(inputs) > 1 else inputs[0]))


def transposed(array: np.ndarray, before: Any, after: Any, to: Any, lead: int) -> np.ndarray:
    """An array in the layout that a tensor has in the new model, seen from its shapes."""
    if tuple(before.shape) == tuple(after.shape):
        return array
    return np.transpose(array, moved(array.ndim, to, lead if array.ndim > 3 + lead else 0))


def configs(model: Any) -> list[str]:
    return sorted(repr(keras.saving.serialize_keras_object(op)) for op in model.layers)


def converts(
    model: Any, to: Any = "channels_first", lead: int = 0, permutes: int = 0, back: bool = True
) -> Any:
    """Converts a model, proves it, and proves that the way back restores it."""
    new = data_format(model, to)
    inputs = arrays(model)
    given = [
        transposed(x, i, j, to, lead)
        for x, i, j in zip(inputs, model.inputs, new.inputs, strict=True)
    ]
    expected = called(model, inputs)
    if RUNS:
        ends = zip(expected, model.outputs, new.outputs, strict=True)
        wanted = [transposed(y, i, j, to, lead) for y, i, j in ends]
        for found, y in zip(called(new, given), wanted, strict=True):
            assert_near(found, y)
    found = [layer for layer in new._flatten_layers() if type(layer) is layers.Permute]
    assert len(found) == permutes, [layer.name for layer in found]
    again = data_format(new, BACK[to])
    for y, z in zip(called(again, inputs), expected, strict=True):
        assert_near(y, z)
    assert_equal(weights_of(again), weights_of(model))
    if back:
        assert configs(again) == configs(model)
    return new


# Models


def image_model(**first: Any) -> keras.Model:
    """Convolutions of all kinds, pooling, padding and a head, with uneven sizes."""
    image = keras.Input((11, 9, 3), name="image")
    x = layers.ZeroPadding2D(((1, 2), (0, 1)), name="pad")(image)
    x = layers.Conv2D(4, (3, 2), strides=2, activation="relu", name="conv")(x)
    x = layers.BatchNormalization(name="norm", **first)(x)
    y = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="depthwise")(x)
    y = layers.SeparableConv2D(4, 3, padding="same", name="separable")(y)
    y = layers.PReLU(shared_axes=[1, 2], name="prelu")(y)
    x = layers.Add(name="add")([x, y])
    z = layers.MaxPooling2D(2, strides=1, padding="same", name="max")(x)
    x = layers.Concatenate(name="concat")([x, z])
    x = layers.GroupNormalization(2, name="groups")(x)
    x = layers.UpSampling2D((2, 1), name="up")(x)
    x = layers.Cropping2D(((1, 0), (0, 1)), name="crop")(x)
    x = layers.Conv2DTranspose(3, 2, strides=2, name="transpose")(x)
    x = layers.AveragePooling2D(2, name="average")(x)
    x = layers.SpatialDropout2D(0.2, name="drop")(x)
    x = layers.Dropout(0.2, noise_shape=(None, 1, 1, 3), name="noise")(x)
    x = layers.Softmax(axis=[1, 2], name="places")(x)
    x = layers.UnitNormalization(axis=-1, name="unit")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(5, name="logits")(x)
    return randomise(keras.Model(image, x, name="images"))


def squeeze_excite() -> keras.Model:
    image = keras.Input((6, 5, 3), name="image")
    x = layers.Rescaling([0.5, 1.0, 2.0], [0.1, 0.2, 0.3], name="rescale")(image)
    x = layers.Conv2D(4, 3, padding="same", name="conv")(x)
    s = layers.GlobalAveragePooling2D(name="squeeze")(x)
    s = layers.Reshape((1, 1, 4), name="reshape")(s)
    s = layers.Conv2D(4, 1, activation="sigmoid", name="excite")(s)
    x = layers.Multiply(name="scale")([x, s])
    x = layers.GlobalMaxPooling2D(keepdims=True, name="pool")(x)
    x = layers.Conv2D(3, 1, name="classes")(x)
    return randomise(keras.Model(image, layers.Reshape((3,), name="vector")(x), name="se"))


def raw_ops() -> keras.Model:
    image = keras.Input((6, 5, 3), name="image")
    x = (image - np.array([0.1, 0.2, 0.3], "float32")) / 2.0
    x = layers.Conv2D(4, 3, padding="same", name="conv")(x)
    mean = ops.mean(x, axis=(1, 2), keepdims=True)
    rows = ops.max(x, axis=1)
    x = ops.relu(x - mean) * ops.softmax(x, axis=-1)
    x = ops.concatenate([x, ops.square(x)], axis=-1)
    x = ops.expand_dims(ops.sum(x, axis=[1, 2]), 1)
    x = layers.Flatten(name="flatten")(x)
    means = layers.Flatten(name="means")(ops.transpose(mean, (0, 3, 1, 2)))
    outputs = [layers.Dense(2, name="logits")(x), rows, means]
    return randomise(keras.Model(image, outputs, name="raw"))


def segmentation() -> keras.Model:
    """An hourglass whose output is a map with a softmax over its channels."""
    image = keras.Input((8, 6, 3), name="image")
    skip = layers.Conv2D(4, 3, padding="same", activation="relu", name="down")(image)
    x = layers.MaxPooling2D(name="pool")(skip)
    x = layers.Conv2D(4, 3, padding="same", name="middle")(x)
    x = layers.Dense(4, activation="gelu", name="places")(x)
    x = layers.UpSampling2D(interpolation="bilinear", name="up")(x)
    x = layers.Concatenate(name="concat")([x, skip])
    x = layers.Conv2D(3, 1, activation="softmax", name="classes")(x)
    return randomise(keras.Model(image, x, name="segmentation"))


def generator() -> keras.Model:
    stack = [
        keras.Input((5,), name="code"),
        layers.Dense(24, name="dense"),
        layers.Reshape((2, 3, 4), name="reshape"),
        layers.Conv2DTranspose(3, 3, strides=2, activation="tanh", name="image"),
    ]
    return randomise(keras.Sequential(stack, name="generator"))


def sequence() -> keras.Model:
    steps = keras.Input((9, 3), name="steps")
    x = layers.Conv1D(4, 3, padding="causal", activation="relu", name="conv")(steps)
    x = layers.MaxPooling1D(2, name="pool")(x)
    x = layers.ZeroPadding1D(1, name="pad")(x)
    x = layers.LSTM(5, return_sequences=True, name="lstm")(x)
    x = layers.SeparableConv1D(4, 2, name="separable")(x)
    x = layers.Conv1DTranspose(3, 2, name="transpose")(x)
    return randomise(
        keras.Model(steps, layers.GlobalMaxPooling1D(name="global")(x), name="sequence")
    )


def volume() -> keras.Model:
    stack = [
        keras.Input((6, 5, 4, 2), name="volume"),
        layers.Conv3D(3, 3, padding="same", name="conv"),
        layers.BatchNormalization(axis=4, name="norm"),
        layers.AveragePooling3D(2, name="pool"),
        layers.Conv3DTranspose(2, 2, name="transpose"),
        layers.GlobalAveragePooling3D(name="global"),
    ]
    return randomise(keras.Sequential(stack, name="volume"))


def nested_and_shared() -> keras.Model:
    """A nested base, called on two images, with a layer that is shared inside and outside."""
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    norm = layers.BatchNormalization(name="norm")
    inner = keras.Input((8, 6, 4), name="inner")
    base = keras.Model(inner, layers.ReLU(name="relu")(norm(shared(inner))), name="base")
    left, right = keras.Input((8, 6, 3), name="left"), keras.Input((8, 6, 3), name="right")
    scaled = keras.Sequential([keras.Input((8, 6, 3)), layers.Rescaling(0.5)], name="scaled")
    stem = layers.Conv2D(4, 1, name="stem")
    maps = [base(stem(scaled(each))) for each in (left, right)]
    x = layers.Subtract(name="subtract")([norm(shared(maps[0])), maps[1]])
    pooled = layers.GlobalAveragePooling2D(name="pool")(x)
    return randomise(
        keras.Model([left, right], [layers.Dense(2, name="logits")(pooled), x], name="siamese")
    )


# What they compute


@pytest.mark.parametrize(
    ("build", "permutes"),
    [
        (image_model, 0),
        (squeeze_excite, 0),
        (raw_ops, 0),
        (segmentation, 4),
        (generator, 1),
        (sequence, 2),
        (volume, 0),
        (nested_and_shared, 0),
    ],
)
def test_toys_both_ways(build, permutes):
    # Of the raw operations one, a transpose, is not needed any more, and is not put back.
    converts(build(), permutes=permutes, back=build is not raw_ops)


@pytest.mark.skipif(not RUNS, reason="TensorFlow runs no channels-first layers on a CPU")
@pytest.mark.parametrize("build", [image_model, squeeze_excite, segmentation, sequence])
def test_models_that_are_channels_first_go_to_channels_last(build):
    first = data_format(build(), "channels_first")
    assert_surgery(first, DataFormat("channels_last"), training=False)


@pytest.mark.slow
@pytest.mark.parametrize("build", [mobilenet, resnet])
def test_published_models_and_back(build):
    converts(build())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["EfficientNetB0", "DenseNet121", "VGG16", "ConvNeXtTiny"])
def test_more_published_models_and_back(name):
    made = getattr(keras.applications, name)(weights=None, classes=7, input_shape=(32, 32, 3), **{})
    converts(randomise(made), permutes=44 if name == "ConvNeXtTiny" else 0)


def test_it_is_a_step_of_a_plan():
    model = squeeze_excite()
    plan = resect.plan(model).then(DataFormat("channels_first"))
    drawing = """
Functional 'se'
  image    InputLayer              (None, 3, 6, 5)
  rescale  Rescaling               (None, 3, 6, 5)  <- image
  conv     Conv2D                  (None, 4, 6, 5)  <- rescale
  squeeze  GlobalAveragePooling2D  (None, 4)        <- conv
  reshape  Reshape                 (None, 4, 1, 1)  <- squeeze
  excite   Conv2D                  (None, 4, 1, 1)  <- reshape
  scale    Multiply                (None, 4, 6, 5)  <- conv, excite
  pool     GlobalMaxPooling2D      (None, 4, 1, 1)  <- scale
  classes  Conv2D                  (None, 3, 1, 1)  <- pool
  vector   Reshape                 (None, 3)        <- classes
  -> vector
"""
    assert str(plan.result).split() == drawing.replace("image ", "image + ").split()
    assert "go to channels_first" in str(plan)
    assert "input 'image' is (None, 3, 6, 5)" in str(plan)
    if RUNS:
        assert_surgery(model, DataFormat("channels_first"), training=False)


@pytest.mark.skipif(not RUNS, reason="TensorFlow runs no channels-first layers on a CPU")
@pytest.mark.parametrize("weights", ["copy", "share"])
def test_training_goes_on(weights):
    model = trained(segmentation(), "adam", steps=2)
    new = assert_surgery(model, DataFormat("channels_first"), weights=weights, training=False)
    assert int(new.optimizer.iterations) == 2
    inputs = np.transpose(arrays(model)[0], (0, 3, 1, 2))
    new.fit(inputs, np.ones((2, 3, 8, 6)), verbose=0)


def test_inputs_and_outputs_may_stay():
    model = segmentation()
    new = data_format(model, "channels_first", inputs=(), outputs=())
    assert new.input_shape == model.input_shape
    assert new.output_shape == model.output_shape
    assert new.get_layer("middle").data_format == "channels_first"
    if RUNS:
        assert_near(called(new, arrays(model))[0], called(model, arrays(model))[0])
    siamese = data_format(nested_and_shared(), "channels_first", inputs="left", outputs=["logits"])
    assert siamese.input_shape == [(None, 3, 8, 6), (None, 8, 6, 3)]
    assert siamese.output_shape == [(None, 2), (None, 8, 6, 4)]


def test_layers_over_time():
    video = keras.Input((4, 6, 5, 3), name="video")
    x = layers.TimeDistributed(layers.Conv2D(4, 3, name="conv"), name="each")(video)
    x = layers.ReLU(name="relu")(x)
    x = layers.ConvLSTM2D(3, 2, return_sequences=True, name="states")(x)
    y = layers.ConvLSTM2D(2, 2, name="last")(x)
    x = layers.TimeDistributed(layers.GlobalAveragePooling2D(name="pool"), name="pooled")(x)
    model = randomise(keras.Model(video, [x, y], name="video_net"))
    new = converts(model, lead=1)
    assert new.input_shape == (None, 4, 3, 6, 5)
    assert new.output_shape == [(None, 4, 3), (None, 2, 2, 1)]


@pytest.mark.filterwarnings("ignore:Layer 'conv'.* was passed an input with a mask:UserWarning")
def test_masked_sequences_stay_as_they_are():
    words = keras.Input((7,), dtype="int32", name="words")
    x = layers.Embedding(6, 4, mask_zero=True, name="embedding")(words)
    y = layers.Conv1D(3, 2, name="conv")(x)
    z = layers.GlobalAveragePooling1D(name="mean")(x)
    y = layers.GlobalMaxPooling1D(name="max")(y)
    model = randomise(keras.Model(words, layers.Concatenate(name="both")([y, z]), name="text"))
    new = data_format(model, "channels_first")
    assert [new.get_layer(name).data_format for name in ("conv", "mean", "max")] == [
        "channels_last",
        "channels_last",
        "channels_first",
    ]
    notes = resect.plan(model).then(DataFormat("channels_first")).notes
    assert "conv keeps its data format" in notes
    if not RUNS:
        return
    inputs = [np.array([[1, 2, 3, 0, 0, 0, 0], [4, 5, 1, 2, 3, 0, 0]])]
    assert_near(called(new, inputs)[0], called(model, inputs)[0])


def test_permutes_that_were_there_are_used():
    """A model that takes images channels first, and turns them around itself."""
    stack = [
        keras.Input((3, 8, 6), name="image"),
        layers.Permute((2, 3, 1), name="turn"),
        layers.Conv2D(4, 3, name="conv"),
        layers.Permute((3, 1, 2), name="back"),
        layers.Flatten(name="flatten"),
    ]
    model = randomise(keras.Sequential(stack, name="turned"))
    new = data_format(model, "channels_first")
    assert [layer.name for layer in new.layers] == ["conv", "flatten"]
    if RUNS:
        assert_near(called(new, arrays(model))[0], called(model, arrays(model))[0])


def test_inputs_and_outputs_have_the_new_layout_or_the_old_one_and_no_other():
    stack = [
        keras.Input((8, 6, 3), name="image"),
        layers.Permute((2, 1, 3), name="turn"),
        layers.Conv2D(4, 3, name="conv"),
        layers.Permute((2, 1, 3), name="back"),
    ]
    model = randomise(keras.Sequential(stack, name="turned"))
    new = data_format(model, "channels_first")
    assert (new.input_shape, new.output_shape) == (model.input_shape, model.output_shape)
    if RUNS:
        assert_near(called(new, arrays(model))[0], called(model, arrays(model))[0])


class Doubled(layers.Layer):
    def call(self, x: Any) -> Any:
        return 2 * x


class ByRow(layers.Layer):
    def call(self, x: Any) -> Any:
        return x * ops.reshape(ops.arange(x.shape[1], dtype=x.dtype), (-1, 1, 1))


def own_layers() -> keras.Model:
    stack = [
        keras.Input((6, 5, 3), name="image"),
        layers.Conv2D(3, 3, name="conv"),
        Doubled(name="doubled"),
        ByRow(name="rows"),
        layers.Conv2D(2, 3, name="last"),
    ]
    return randomise(keras.Sequential(stack, name="own"))


def test_layers_of_ones_own_read_the_old_layout_or_have_a_rule():
    converts(own_layers(), permutes=2)
    register_layout(Doubled, "elementwise")
    new = converts(own_layers(), permutes=2)
    assert new.layers[1].name == "doubled"
    with pytest.raises(ValueError, match="'elementwise', 'axis', 'data_format'"):
        register_layout(Doubled, "other")  # type: ignore[arg-type]


def test_a_layer_that_computes_rightly_over_the_last_axis_only_stays_there():
    """`LayerNormalization(axis=1)` fails on PyTorch, and would go wrong where sizes agree."""
    stack = [
        keras.Input((6, 4, 4), name="image"),
        layers.Conv2D(4, 3, padding="same", name="conv"),
        layers.LayerNormalization(name="norm"),
        layers.Conv2D(2, 3, name="last"),
    ]
    converts(randomise(keras.Sequential(stack, name="normed")), permutes=2)


def relu(x: Any) -> Any:
    return x / ops.sum(ops.abs(x), axis=-1, keepdims=True)


def test_an_activation_of_ones_own_with_the_name_of_another_is_not_taken_for_it():
    stack = [
        keras.Input((6, 5, 3), name="image"),
        layers.Conv2D(4, 3, activation=relu, name="conv"),
        layers.Activation(relu, name="own"),
        layers.Conv2D(2, 3, name="last"),
    ]
    new = converts(randomise(keras.Sequential(stack, name="named")), permutes=1)
    assert new.get_layer("conv").data_format == "channels_last"


def test_an_adapted_normalization_goes_on():
    images = np.random.default_rng(0).normal(3, 2, size=(8, 6, 5, 3)).astype("float32")
    norm = layers.Normalization(name="norm")
    norm.adapt(images)
    stack = [keras.Input((6, 5, 3), name="image"), norm, layers.Conv2D(4, 3, name="conv")]
    converts(randomise(keras.Sequential(stack, name="adapted")), back=False)


def test_policies_stay():
    with_policy = resect.adapt.configure(segmentation(), "*", dtype="mixed_bfloat16")
    new = data_format(with_policy, "channels_first")
    assert {layer.compute_dtype for layer in new.layers if layer.name != "image"} <= {
        "bfloat16",
        "float32",
    }
    assert new.get_layer("middle").compute_dtype == "bfloat16"


# What is refused


def test_a_shared_layer_that_would_have_to_become_two():
    pool = layers.GlobalAveragePooling1D(name="pool")
    words = keras.Input((7,), dtype="int32", name="words")
    masked = layers.Embedding(6, 4, mask_zero=True, name="embedding")(words)
    steps = keras.Input((7, 4), name="steps")
    norm = layers.BatchNormalization(name="norm")
    x = norm(layers.Conv1D(4, 2, name="conv")(steps))
    outputs = [pool(x), pool(norm(masked))]
    model = randomise(keras.Model([steps, words], outputs, name="mixed"))
    with pytest.raises(EditError, match=r"'norm@1' .* would have to become two different layers"):
        data_format(model, "channels_first")


def test_other_refusals():
    mlp = randomise(keras.Sequential([keras.Input((4,)), layers.Dense(2)], name="mlp"))
    with pytest.raises(EditError, match="It may be channels_first already"):
        data_format(mlp, "channels_first")
    with pytest.raises(EditError, match="It may be channels_last already"):
        data_format(volume(), "channels_last")
    with pytest.raises(NoMatchError, match="no input 'images'"):
        data_format(volume(), "channels_first", inputs="images")
    with pytest.raises(ValueError, match="'channels_first' or 'channels_last'"):
        data_format(volume(), "first")  # type: ignore[arg-type]


# Layouts


@pytest.mark.nobackend
def test_the_arithmetic_of_layouts():
    x = np.arange(120).reshape(2, 3, 4, 5)
    first = moved(4, "channels_first")
    assert first == (0, 3, 1, 2)
    assert moved(5, "channels_first", lead=1) == (0, 1, 4, 2, 3)
    assert moved(2, "channels_first") == (0, 1)
    assert inverse(first) == moved(4, "channels_last")
    other = (0, 2, 1, 3)
    in_first, in_other = x.transpose(first), x.transpose(other)
    np.testing.assert_array_equal(in_first.transpose(between(first, other)), in_other)
    np.testing.assert_array_equal(in_first.transpose(other), x.transpose(then(first, other)))
    assert axes_in(first, [1, -1]) == [2, -3]
    for gone in ((1, 2), (3,), (1,)):
        now = tuple(axes_in(first, gone))
        np.testing.assert_array_equal(
            in_first.sum(now), x.sum(gone).transpose(without(first, gone))
        )
    constant = np.arange(5)
    np.testing.assert_array_equal(
        in_first * constant_in(first, constant), (x * constant).transpose(first)
    )
