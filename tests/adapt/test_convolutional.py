"""Heads as convolutions: equal at the old size, and on a larger image patch by patch."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import resect
from resect.adapt import Convolutional, fully_convolutional
from resect.errors import EditError, ShapeError
from tests.common import assert_close, mlp, randomise, trained
from tests.surgery import assert_surgery


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def computed(model: Any, batch: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(batch, training=False))


def assert_same_at(model: Any, drawing: str | None = None) -> Any:
    """Proves the edit at the old size, and that the result is equal there up to its shape."""
    size = model.inputs[0].shape[1:]
    batch = images(2, *size)
    new = assert_surgery(model, Convolutional(), drawing, batch, training=False)
    expected, found = computed(model, batch), computed(new, batch)
    assert found.shape == (2, 1, 1, expected.shape[-1])
    assert_close(found[:, 0, 0], expected.reshape(2, -1), 1e-4)
    assert new.inputs[0].shape == (None, None, None, size[-1])
    return new


def assert_patch_by_patch(model: Any, new: Any, stride: int) -> None:
    """On a larger image the result is the network at each patch, `stride` apart."""
    height, width, channels = model.inputs[0].shape[1:]
    image = images(2, height + 3 * stride, width + 2 * stride, channels)
    found = computed(new, image)
    assert found.shape[1:3] == (4, 3)
    for row in range(4):
        for column in range(3):
            top, left = row * stride, column * stride
            patch = image[:, top : top + height, left : left + width]
            assert_close(found[:, row, column], computed(model, patch), 1e-4)


def flattened() -> keras.Sequential:
    """A valid network with stride 4, and a head of all that may be in one."""
    stack = [
        keras.Input((22, 18, 3), name="image"),
        layers.Conv2D(4, 3, strides=2, activation="relu", name="conv"),
        layers.BatchNormalization(name="conv_norm"),
        layers.MaxPooling2D(name="pool"),
        layers.Flatten(name="flatten"),
        layers.Dropout(0.2, name="early_drop"),
        layers.Activation("tanh", name="early_tanh"),
        layers.Dense(6, name="dense"),
        layers.BatchNormalization(axis=1, name="norm"),
        layers.ReLU(name="relu"),
        layers.Dropout(0.2, name="drop"),
        layers.Dense(5, activation="softmax", use_bias=False, name="classes"),
    ]
    return randomise(keras.Sequential(stack, name="flattened"))


def pooled(pooling: Any = layers.GlobalAveragePooling2D) -> keras.Model:
    """A nested backbone, pooling, and a head with branches that is a nested model."""
    inner = keras.Input((13, 13, 3), name="inner")
    x = layers.Conv2D(4, 3, strides=2, name="conv")(inner)
    x = layers.DepthwiseConv2D(3, name="depthwise")(keras.ops.relu(x))
    backbone = keras.Model(inner, x, name="backbone")
    vector = keras.Input((4,), name="vector")
    left = layers.Dense(3, activation="gelu", name="left")(vector)
    right = layers.LayerNormalization(name="right_norm")(layers.Dense(3, name="right")(vector))
    x = layers.Concatenate(name="concat")([left, layers.Add(name="add")([left, right])])
    head = keras.Model(vector, layers.Dense(5, name="logits")(x), name="head")
    image = keras.Input((13, 13, 3), name="image")
    x = pooling(name="pooling")(backbone(image))
    return randomise(keras.Model(image, layers.Softmax(name="softmax")(head(x)), name="pooled"))


def test_flatten_becomes_a_convolution():
    model = flattened()
    new = assert_same_at(
        trained(model),
        """
        Sequential 'flattened'
          image +     InputLayer          (None, None, None, 3)
          conv        Conv2D              (None, None, None, 4)  <- image
          conv_norm   BatchNormalization  (None, None, None, 4)  <- conv
          pool        MaxPooling2D        (None, None, None, 4)  <- conv_norm
          early_drop  Dropout             (None, None, None, 4)  <- pool
          early_tanh  Activation          (None, None, None, 4)  <- early_drop
          dense       Conv2D              (None, None, None, 6)  <- early_tanh
          norm        BatchNormalization  (None, None, None, 6)  <- dense
          relu        ReLU                (None, None, None, 6)  <- norm
          drop        Dropout             (None, None, None, 6)  <- relu
          classes     Conv2D              (None, None, None, 5)  <- drop
          -> classes
        """,
    )
    assert new.get_layer("dense").kernel.shape == (5, 4, 4, 6)
    assert isinstance(new, keras.Sequential)
    assert_patch_by_patch(model, new, 4)


@pytest.mark.parametrize("kind", ["Average", "Max"])
def test_pooling_becomes_a_window_and_nested_models_follow(kind):
    model = pooled(getattr(layers, f"Global{kind}Pooling2D"))
    new = assert_same_at(
        model,
        f"""
        Functional 'pooled'
          image +       InputLayer          (None, None, None, 3)
          backbone      Functional          (None, None, None, 4)  <- image
            inner +     InputLayer          (None, None, None, 3)
            conv        Conv2D              (None, None, None, 4)  <- inner
            relu        Relu                (None, None, None, 4)  <- conv
            depthwise   DepthwiseConv2D     (None, None, None, 4)  <- relu
            -> depthwise
          pooling       {kind + "Pooling2D":18}  (None, None, None, 4)  <- backbone
          head          Functional          (None, None, None, 5)  <- pooling
            vector +    InputLayer          (None, None, None, 4)
            right       Conv2D              (None, None, None, 3)  <- vector
            left        Conv2D              (None, None, None, 3)  <- vector
            right_norm  LayerNormalization  (None, None, None, 3)  <- right
            add         Add                 (None, None, None, 3)  <- left, right_norm
            concat      Concatenate         (None, None, None, 6)  <- left, add
            logits      Conv2D              (None, None, None, 5)  <- concat
            -> logits
          softmax       Softmax             (None, None, None, 5)  <- head
          -> softmax
        """,
    )
    assert new.get_layer("pooling").pool_size == (4, 4)
    assert_patch_by_patch(model, new, 2)


def test_a_nested_model_that_is_called_twice():
    one, other = (keras.Input((9, 9, 3), name=name) for name in ("one", "other"))
    inner = keras.Input((9, 9, 3))
    x = layers.GlobalAveragePooling2D(name="pool")(layers.Conv2D(4, 3)(inner))
    backbone = keras.Model(inner, x, name="backbone")
    both = layers.Subtract(name="difference")([backbone(one), backbone(other)])
    model = randomise(keras.Model([one, other], layers.Dense(2)(both)))
    new = resect.plan(model).then(Convolutional()).apply()
    batch = [images(2, 9, 9, 3), images(2, 9, 9, 3) + 1]
    assert_close(computed(new, batch)[:, 0, 0], computed(model, batch), 1e-4)
    vector = keras.Input((16,))
    head = keras.Model(vector, layers.Dense(2)(vector), name="head")
    image = keras.Input((2, 2, 4))
    pooled_ = layers.GlobalAveragePooling2D()(layers.Conv2D(16, 1)(image))
    mixed = keras.Model(image, [head(layers.Flatten()(image)), head(pooled_)])
    with pytest.raises(EditError, match="nested model 'head@1' is called on different things"):
        fully_convolutional(mixed)


def test_a_pooling_in_the_middle_stays():
    """Squeeze and excitation looks at the whole image, whatever its size."""
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="conv")(image)
    gate = layers.Dense(4, activation="sigmoid")(layers.GlobalAveragePooling2D(name="squeeze")(x))
    x = layers.Multiply(name="excite")([x, layers.Reshape((1, 1, 4))(gate)])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = randomise(keras.Model(image, layers.Dense(3, name="logits")(x)))
    new = assert_same_at(model)
    assert isinstance(new.get_layer("squeeze"), layers.GlobalAveragePooling2D)
    assert computed(new, images(1, 11, 10, 3)).shape == (1, 4, 3, 3)


def test_two_heads_and_a_shared_dense():
    image = keras.Input((6, 6, 3), name="image")
    x = layers.Conv2D(4, 3, name="conv")(image)
    shared = layers.Dense(3, name="shared")
    mean, most = layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)
    both = layers.Add()([shared(mean), shared(most)])
    flat = layers.Dense(2, name="of_all")(layers.Flatten()(x))
    model = randomise(keras.Model(image, [both, flat]))
    new = resect.plan(model).then(Convolutional()).apply()
    batch = images(2, 6, 6, 3)
    for one, other in zip(new(batch, training=False), model(batch, training=False), strict=True):
        a, b = map(keras.ops.convert_to_numpy, (one, other))
        assert_close(a[:, 0, 0], b, 1e-4)


def test_a_head_that_is_convolutions_already_in_part():
    """As in MobileNet: pooling keeps its axes, a convolution classifies, Reshape makes a vector."""
    stack = [
        keras.Input((6, 6, 3), name="image"),
        layers.Conv2D(4, 3, name="conv"),
        layers.GlobalAveragePooling2D(keepdims=True, name="pool"),
        layers.Conv2D(5, 1, name="logits"),
        layers.Reshape((5,), name="vector"),
        layers.Flatten(name="flatten"),
        layers.Activation("softmax", name="softmax"),
    ]
    model = randomise(keras.Sequential(stack))
    new = assert_same_at(model)
    assert_patch_by_patch(model, new, 1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("MobileNetV2", {"alpha": 0.35}),
        ("MobileNet", {"alpha": 0.25}),
        pytest.param("EfficientNetB0", {}, marks=pytest.mark.slow),
        pytest.param("ResNet50", {}, marks=pytest.mark.slow),
        pytest.param("VGG16", {}, marks=pytest.mark.slow),
    ],
)
def test_published_models(name, options):
    model = randomise(
        getattr(keras.applications, name)(
            weights=None, input_shape=(64, 64, 3), classes=5, **options
        )
    )
    new = fully_convolutional(model)
    batch = images(2, 64, 64, 3)
    assert_close(computed(new, batch)[:, 0, 0], computed(model, batch), 1e-4)
    assert computed(new, images(1, 128, 96, 3)).shape == (1, 3, 2, 5)


def test_the_optimizer_goes_on_and_variables_can_be_shared():
    model = trained(flattened(), "adam", steps=2)
    assert int(fully_convolutional(model).optimizer.iterations) == 2
    shared = fully_convolutional(model, weights="share")
    assert shared.get_layer("conv").kernel is model.get_layer("conv").kernel


def test_the_plan_is_saved_and_loaded_again():
    model = pooled()
    plan = resect.plan(model).then(Convolutional())
    assert str(resect.Plan.from_json(model, plan.to_json()).result) == str(plan.result)


def with_head(*head: Any, size: tuple[int | None, ...] = (8, 8, 3), conv: Any = None) -> Any:
    stem = conv or layers.Conv2D(4, 3, name="conv")
    return keras.Sequential([keras.Input(size), stem, *head])


FLAT = layers.Flatten


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: mlp(), "'mlp' has no head"),
        (lambda: with_head(), "has no head"),
        (lambda: with_head(FLAT(name="flat")), "'flat' is an output as it leaves Flatten"),
        (
            lambda: with_head(FLAT(), layers.BatchNormalization(name="norm"), layers.Dense(2)),
            r"'norm' \(BatchNormalization\) would not do the same .* between Flatten and Dense",
        ),
        (
            lambda: with_head(FLAT(), layers.Dense(4), layers.Reshape((2, 2), name="square")),
            r"'square' \(Reshape\) would not do the same at every position",
        ),
        (
            lambda: with_head(FLAT(), layers.Softmax(name="softmax"), layers.Dense(2)),
            r"'softmax' \(Softmax\) would not do the same",
        ),
        (
            lambda: with_head(FLAT(), layers.Dense(2, kernel_constraint="max_norm", name="dense")),
            r"'dense' \(Dense\) has a constraint",
        ),
        (
            lambda: with_head(layers.Reshape((4, 9, 4), name="reshape"), FLAT(), layers.Dense(2)),
            r"'reshape' \(Reshape\) needs an image of one size",
        ),
        (
            lambda: with_head(
                layers.GlobalAveragePooling2D(name="pool"), layers.Dense(2), size=(None, None, 3)
            ),
            r"'pool' \(GlobalAveragePooling2D\) reads .* whose size is not known",
        ),
        (
            lambda: with_head(
                FLAT(),
                layers.Dense(2),
                conv=layers.Conv2D(
                    4, 3, data_format="channels_first", padding="same", name="first"
                ),
            ),
            r"'first' \(Conv2D\) has its channels first",
        ),
    ],
)
def test_what_is_refused(model, message):
    with pytest.raises(EditError, match=message):
        resect.plan(model()).then(Convolutional()).apply()


def test_weights_for_each_position_are_refused():
    model = with_head(layers.PReLU(name="prelu"), FLAT(), layers.Dense(2))
    with pytest.raises(ShapeError, match=r"'prelu' \(PReLU\)"):
        fully_convolutional(model)


def test_a_dense_that_is_used_in_two_ways_is_refused():
    image = keras.Input((6, 6, 4))
    dense = layers.Dense(4, name="dense")
    model = keras.Model(image, dense(layers.GlobalAveragePooling2D()(dense(image))))
    with pytest.raises(EditError, match=r"'dense@1' \(Dense\) is shared, and would have to become"):
        fully_convolutional(model)


def test_a_quantized_dense_is_refused():
    model = randomise(with_head(FLAT(), layers.Dense(4, name="dense")))
    model.get_layer("dense").quantize("int8")
    with pytest.raises(EditError, match=r"'dense' \(Dense\) is quantized"):
        fully_convolutional(model)


def test_it_is_verified_at_the_size_of_the_source_where_any_is_taken():
    model = randomise(flattened())
    plan = resect.plan(model).then(Convolutional())
    report = resect.verify(model, plan.apply(), plan=plan, training=False)
    assert report.passed
