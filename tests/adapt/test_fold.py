"""Batch normalisation folded into its neighbours: inference stays, and what stays is said."""

from __future__ import annotations

import tempfile
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import resect
from resect.adapt import FoldBatchNormalization, Strip, fold_batchnorm
from resect.errors import EditError, NoMatchError
from tests.common import mlp, predictions, randomise, trained
from tests.surgery import Source

Norm = layers.BatchNormalization


def norms_of(model: Any) -> list[str]:
    return [layer.name for layer in model._flatten_layers() if isinstance(layer, Norm)]


def assert_reloads(model: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.keras")
        loaded = keras.saving.load_model(f"{folder}/model.keras")
    for a, b in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (a, b)))


def assert_folded(
    model: Any, left: tuple[str, ...] = (), where: Any = None, tolerance: float = 1e-4
) -> Any:
    """Folds, saves and loads; inference is equal, the source untouched, and only `left` is left."""
    before = Source.of(model)
    new = fold_batchnorm(model, where)
    expected = keras.tree.flatten(predictions(model))
    for a, b in zip(keras.tree.flatten(predictions(new)), expected, strict=True):
        assert np.max(np.abs(a - b)) <= tolerance * max(1e-3, np.max(np.abs(b)))
    assert_reloads(new)
    assert tuple(sorted(norms_of(new))) == tuple(sorted(left))
    before.assert_untouched()
    return new


def image_model(*chain: Any, shape: tuple[int, ...] = (9, 9, 4)) -> Any:
    return randomise(keras.Sequential([keras.Input(shape, name="image"), *chain]))


BEFORE = {
    "dense": lambda: (layers.Dense(6), Norm()),
    "dense without bias": lambda: (layers.Dense(6, use_bias=False), Norm(scale=False)),
    "conv": lambda: (layers.Conv2D(6, 3, padding="same", strides=2), Norm(center=False)),
    "conv of groups": lambda: (layers.Conv2D(6, 3, groups=2, use_bias=False), Norm(epsilon=0.1)),
    "depthwise": lambda: (layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), Norm()),
    "separable": lambda: (layers.SeparableConv2D(6, 3, depth_multiplier=2), Norm()),
    "transposed": lambda: (layers.Conv2DTranspose(6, 3, strides=2, use_bias=False), Norm()),
    "activation behind": lambda: (layers.Conv2D(6, 3), Norm(), layers.Activation("relu")),
    "two in a row": lambda: (layers.Conv2D(6, 3), Norm(), Norm()),
    "on both sides": lambda: (layers.Conv2D(6, 3), Norm(), layers.Dense(5), Norm()),
}
BEHIND = {
    "dense": lambda: layers.Dense(6, activation="relu"),
    "dense without bias": lambda: layers.Dense(6, use_bias=False),
    "conv": lambda: layers.Conv2D(6, 3, strides=2, dilation_rate=1, activation="relu"),
    "conv of groups": lambda: layers.Conv2D(6, 3, groups=2, use_bias=False),
    "conv of size one": lambda: layers.Conv2D(6, 1, padding="same", strides=2),
    "depthwise": lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
    "separable": lambda: layers.SeparableConv2D(6, 3, depth_multiplier=2, use_bias=False),
}


@pytest.mark.parametrize("name", BEFORE)
def test_into_the_layer_before(name):
    assert_folded(image_model(*BEFORE[name]()))


@pytest.mark.parametrize("name", BEHIND)
def test_into_the_layer_behind(name):
    assert_folded(image_model(layers.ReLU(), Norm(), Norm(), BEHIND[name]()))


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((9, 4), lambda: layers.Conv1D(6, 3, padding="causal")),
        ((9, 4), lambda: layers.DepthwiseConv1D(3, depth_multiplier=2)),
        ((9, 4), lambda: layers.SeparableConv1D(6, 3)),
        ((9, 4), lambda: layers.Conv1DTranspose(6, 3)),
        ((5, 5, 5, 4), lambda: layers.Conv3D(6, 3)),
        ((4, 4, 4, 4), lambda: layers.Conv3DTranspose(6, 2)),
    ],
)
def test_in_one_and_three_dimensions(shape, layer):
    assert_folded(image_model(layer(), Norm(), shape=shape))
    behind = layer()
    if "Transpose" not in type(behind).__name__ and behind.padding == "valid":
        assert_folded(image_model(layers.ReLU(), Norm(), behind, shape=shape))


def test_channels_first():
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow has no convolutions of channels_first on the CPU")
    conv = {"data_format": "channels_first"}
    chain = (
        layers.Conv2D(6, 3, groups=2, use_bias=False, **conv),
        Norm(axis=1),
        layers.ReLU(),
        Norm(axis=1),
        layers.DepthwiseConv2D(3, **conv),
        layers.ReLU(),
    )
    assert_folded(image_model(*chain, shape=(4, 9, 9)))


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16"])
def test_other_dtypes(dtype):
    chain = (
        layers.Conv2D(6, 3, dtype=dtype),
        Norm(dtype=dtype),
        layers.ReLU(dtype=dtype),
        Norm(dtype=dtype),
        layers.Dense(3, dtype=dtype),
    )
    model = image_model(*chain)
    new = fold_batchnorm(model)
    expected, found = (predictions(m).astype("float32") for m in (model, new))
    assert not norms_of(new)
    assert {layer.dtype_policy.name for layer in new.layers} == {dtype}
    assert np.max(np.abs(found - expected)) < 0.05 * np.max(np.abs(expected))


def branches() -> keras.Model:
    """A nested model that is called twice, a shared layer, branches, an activation in between."""
    inner = keras.Input((8, 8, 4), name="inner")
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(inner)
    block = keras.Model(inner, Norm(name="folds_nested")(x), name="block")
    image = keras.Input((8, 8, 4), name="image")
    shared = layers.Conv2D(4, 1, name="shared")
    left, right = block(image), block(shared(image))
    norm = Norm(name="folds_twice")
    left = norm(layers.Conv2D(4, 1, name="left")(left))
    right = norm(layers.Conv2D(4, 1, name="right")(right))
    forked = layers.Conv2D(4, 1, name="forked")(layers.Add(name="add")([left, right]))
    stays = Norm(name="forked_norm")(forked)
    other = Norm(name="shared_norm")(shared(forked))
    active = layers.Conv2D(4, 1, activation="relu", name="active")(stays)
    across = Norm(name="active_norm")(active)
    always = layers.Conv2D(4, 1, name="before_always")(layers.Add(name="add_1")([across, other]))
    always = Norm(name="always_norm")(always, training=True)
    odd = layers.Conv2D(4, 1, name="before_odd")(layers.ReLU(name="relu")(always))
    odd = Norm(axis=1, name="odd_norm")(odd)
    same = layers.Conv2D(4, 3, padding="same", name="padded")(odd)
    last = layers.Conv2D(4, 3, padding="same", name="padded_again")(
        Norm(name="padded_norm")(layers.Add(name="sum")([same, forked]))
    )
    return randomise(keras.Model(image, last, name="branches"))


@pytest.fixture(scope="module")
def forest() -> keras.Model:
    return branches()


def test_what_is_left_is_said_and_why(forest):
    plan = resect.plan(forest).then(FoldBatchNormalization())
    assert [note for note in plan.notes if "stays" in note] == [
        "active_norm stays: 'active' (Conv2D) before it has an activation; "
        "'add_1' (Add) behind it cannot take it in",
        "shared_norm stays: 'shared@1' (Conv2D) before it is shared; "
        "'add_1' (Add) behind it cannot take it in",
        "always_norm stays: it is called with training=True",
        "odd_norm stays: its axis is 1, and the channels of 'before_odd' are axis 3; "
        "its axis is 1, and the channels of 'padded' are axis 3",
        "padded_norm stays: 'sum' (Add) before it cannot take it in; "
        "'padded_again' (Conv2D) behind it pads its input",
    ]


def test_a_forest_of_branches(forest):
    left = ("shared_norm", "active_norm", "always_norm", "odd_norm", "padded_norm")
    new = assert_folded(forest, left)
    assert "folds_nested" not in norms_of(new)
    assert [new.get_layer(n).use_bias for n in ("left", "right", "active")] == [True] * 3


def test_an_input_an_output_and_a_nested_model_are_no_neighbours():
    x = image = keras.Input((6, 6, 4))
    first = Norm(name="first")(x)
    inner = keras.Input((6, 6, 4))
    nested = keras.Model(inner, layers.Conv2D(4, 1)(inner), name="nested")
    second = Norm(name="second")(nested(first))
    conv = layers.Conv2D(4, 1, name="conv")(second)
    third = Norm(name="third")(conv)
    model = randomise(keras.Model(image, [third, conv]))
    with pytest.raises(EditError) as caught:
        fold_batchnorm(model, ["first", "third"])
    assert "first: an input is before it; the nested model 'nested' is behind it" in str(
        caught.value
    )
    assert "third: others read the output of 'conv' too; it is an output" in str(caught.value)
    assert_folded(model, ("first", "third"))


def test_layers_with_other_weights_are_left():
    lora = layers.Dense(4, name="lora")
    quantized = layers.Dense(4, name="quantized")
    model = image_model(lora, Norm(), layers.ReLU(), quantized, Norm(), layers.ReLU())
    lora.enable_lora(2)
    quantized.quantize("int8")
    with pytest.raises(EditError, match=r"'lora' \(Dense\) before it has LoRA weights"):
        fold_batchnorm(model)
    with pytest.raises(EditError, match=r"'quantized' \(Dense\) before it is quantized"):
        fold_batchnorm(model)


def test_what_training_needs_in_between_is_stripped_first():
    model = image_model(layers.Dense(4), layers.Dropout(0.5, name="drop"), Norm(name="norm"))
    with pytest.raises(EditError, match=r"'drop' \(Dropout\) before it is only for training"):
        fold_batchnorm(model)
    new = resect.plan(model).then(Strip(), FoldBatchNormalization()).apply()
    assert len(new.layers) == 1
    np.testing.assert_allclose(predictions(new), predictions(model), rtol=1e-4, atol=1e-4)


def test_a_model_that_was_put_in_is_folded_too():
    put_in = image_model(layers.Conv2D(4, 3, padding="same"), Norm(), shape=(9, 9, 4))
    model = image_model(layers.Conv2D(4, 1), Norm())
    plan = resect.plan(model).append(put_in).then(FoldBatchNormalization())
    expected = predictions(resect.append(model, put_in))
    new = plan.apply()
    assert not norms_of(new)
    np.testing.assert_allclose(predictions(new), expected, rtol=1e-4, atol=1e-4)


def test_a_layer_of_two_models_is_shared():
    conv = layers.Conv2D(4, 1, name="conv")
    inner = keras.Input((6, 6, 4))
    nested = keras.Model(inner, Norm(name="inside")(conv(inner)), name="nested")
    image = keras.Input((6, 6, 4))
    model = randomise(keras.Model(image, nested(layers.ReLU()(conv(image)))))
    with pytest.raises(EditError, match=r"nested/inside: 'conv' \(Conv2D\) before it is shared"):
        fold_batchnorm(model)


def test_tied_weights_are_left():
    first, second = layers.Dense(4, name="first"), layers.Dense(4, name="second")
    model = image_model(first, Norm(), layers.ReLU(), second, layers.ReLU())
    for layer in model.layers:
        layer._tracker.unlock()
    second._kernel = first._kernel
    with pytest.raises(EditError, match=r"'first'.*shares its weights with another layer"):
        fold_batchnorm(model)


def test_a_change_of_dtype_stays():
    model = image_model(layers.Dense(4, dtype="bfloat16"), Norm(dtype="float32"))
    with pytest.raises(EditError, match="it changes the dtype"):
        fold_batchnorm(model)


PUBLISHED = [
    ("MobileNetV2", {"alpha": 0.35}, 52),
    pytest.param("ResNet50", {}, 53, marks=pytest.mark.slow),
    pytest.param("EfficientNetB0", {}, 49, marks=pytest.mark.slow),
]


def settled(model: Any) -> Any:
    """The model with the statistics of some data, half and half with random ones.

    With random statistics alone a deep model multiplies the rounding of its very input by 1000.
    """
    images = np.random.default_rng(2).normal(size=(4, *model.input_shape[1:]))
    for layer in model.layers:
        if isinstance(layer, Norm):
            layer.momentum = 0.5
    model(images.astype("float32"), training=True)
    return model


@pytest.mark.parametrize(("name", "options", "count"), PUBLISHED)
def test_all_of_published_models_is_folded(name, options, count):
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(32, 32, 3), classes=5, classifier_activation=None, **options
    )
    model = settled(randomise(model))
    assert len(norms_of(model)) == count
    assert_folded(model)


def test_in_float64_a_deep_model_is_equal_to_twelve_digits():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("only on TensorFlow do all layers of Keras compute in float64")
    keras.config.set_floatx("float64")
    try:
        keras.config.set_dtype_policy("float64")
        model = keras.applications.MobileNetV2(
            weights=None, input_shape=(32, 32, 3), alpha=0.35, classifier_activation=None
        )
        assert_folded(randomise(model), tolerance=1e-10)
    finally:
        keras.config.set_floatx("float32")


def test_where_chooses(forest):
    names = norms_of(
        assert_folded(forest, tuple(set(norms_of(forest)) - {"folds_nested"}), "block")
    )
    assert "folds_twice" in names


def test_variables_are_shared_but_for_the_folded_ones():
    model = image_model(layers.Dense(5, name="a"), Norm(), layers.Dense(3, name="b"))
    new = fold_batchnorm(model, weights="share")
    assert new.get_layer("b").kernel is model.get_layer("b").kernel
    assert new.get_layer("a").kernel is not model.get_layer("a").kernel
    np.testing.assert_allclose(predictions(new), predictions(model), rtol=1e-4, atol=1e-4)


def test_the_optimizer_goes_on():
    chain = (layers.Conv2D(4, 3), Norm(), layers.Dense(2))
    model = trained(image_model(*chain), "adam", steps=3)
    assert int(fold_batchnorm(model).optimizer.iterations) == 3


def test_the_plan_is_saved_and_loaded_again(forest):
    plan = resect.plan(forest).then(FoldBatchNormalization())
    again = resect.Plan.from_json(forest, plan.to_json())
    assert str(again.result) == str(plan.result)


def test_values_are_read_when_the_plan_is_applied():
    model = image_model(layers.Dense(5, name="dense"), Norm(name="norm"))
    plan = resect.plan(model).then(FoldBatchNormalization())
    assert not plan.check()
    randomise(model, seed=3)
    np.testing.assert_allclose(predictions(plan.apply()), predictions(model), rtol=1e-4, atol=1e-4)


def test_what_is_refused():
    with pytest.raises(NoMatchError, match="There is no BatchNormalization in Sequential 'mlp'"):
        fold_batchnorm(mlp())
    with pytest.raises(NoMatchError, match=r"no BatchNormalization .* there"):
        fold_batchnorm(mlp(), "hidden")
