"""Squeeze-and-excitation and CBAM behind calls: nothing changes until they are trained."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import resect
from resect import adapt
from resect.errors import AmbiguousError, EditError, NoMatchError
from tests.adapt.models import images, layer_of, mobilenet, resnet, run, transfer
from tests.common import assert_close, cnn, mlp, predictions, randomise, train, trained
from tests.surgery import assert_surgery

EDITS = {"se": adapt.SqueezeExcite, "cbam": adapt.Cbam}
each_edit = pytest.mark.parametrize("make", EDITS.values(), ids=EDITS)


def shared_conv() -> keras.Model:
    """A convolution that is called twice."""
    image = keras.Input((6, 6, 3), name="image")
    conv = layers.Conv2D(3, 3, padding="same", activation="relu", name="conv")
    x = layers.GlobalMaxPooling2D(name="pool")(conv(conv(image)))
    return randomise(keras.Model(image, layers.Dense(2, name="logits")(x), name="shared"))


def channels_first() -> keras.Model:
    """Channels in front, in layers that TensorFlow has for a CPU too."""
    image = keras.Input((4, 6, 5), name="image")
    x = layers.BatchNormalization(axis=1, name="norm")(image)
    x = layers.ReLU(name="act")(x)
    x = layers.GlobalAveragePooling2D(data_format="channels_first", name="pool")(x)
    return randomise(keras.Model(image, layers.Dense(2, name="logits")(x), name="first"))


def twice_nested() -> keras.Model:
    """A model that stands in two others, and so at two paths."""
    inner = keras.Input((6, 6, 3))
    conv = layers.Conv2D(3, 3, padding="same", name="conv")
    core = keras.Model(inner, conv(inner), name="core")
    image = x = keras.Input((6, 6, 3), name="image")
    for name in ("left", "right"):
        outer = keras.Input((6, 6, 3))
        x = keras.Model(outer, layers.ReLU(name="act")(core(outer)), name=name)(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return randomise(keras.Model(image, layers.Dense(2, name="logits")(x), name="twice"))


def test_squeeze_excite_is_drawn():
    assert_surgery(
        trained(cnn()),
        adapt.SqueezeExcite("conv_2", ratio=2),
        """
        Sequential 'cnn'
          image                InputLayer              (None, 8, 8, 1)
          conv_1               Conv2D                  (None, 8, 8, 3)  <- image
          pool_1               MaxPooling2D            (None, 4, 4, 3)  <- conv_1
          conv_2               Conv2D                  (None, 4, 4, 4)  <- pool_1
          conv_2_se_pool +     GlobalAveragePooling2D  (None, 4)        <- conv_2
          conv_2_se_squeeze +  Dense                   (None, 2)        <- conv_2_se_pool
          conv_2_se_excite +   Dense                   (None, 4)        <- conv_2_se_squeeze
          conv_2_se_reshape +  Reshape                 (None, 1, 1, 4)  <- conv_2_se_excite
          conv_2_se_gate +     Rescaling               (None, 1, 1, 4)  <- conv_2_se_reshape
          conv_2_se_scale +    Multiply                (None, 4, 4, 4)  <- conv_2, conv_2_se_gate
          pool_2               MaxPooling2D            (None, 2, 2, 4)  <- conv_2_se_scale
          flatten              Flatten                 (None, 16)       <- pool_2
          dense                Dense                   (None, 6)        <- flatten
          logits               Dense                   (None, 3)        <- dense
          -> logits
        """,
    )


@each_edit
@pytest.mark.parametrize("weights", ["copy", "share"])
@pytest.mark.parametrize(
    ("build", "where"),
    [
        (cnn, layers.Conv2D),
        (transfer, "base/act"),
        (shared_conv, ["conv@0", "conv@1"]),
        (channels_first, "act"),
        (twice_nested, layers.Conv2D),
    ],
    ids=["cnn", "nested", "shared", "channels_first", "twice_nested"],
)
def test_nothing_changes_at_first(make, build, where, weights):
    model = build()
    reloads = model.name != "twice"  # Keras cannot load that one, as it is
    new = assert_surgery(model, make(where, ratio=2), weights=weights, reload=reloads)
    np.testing.assert_array_equal(predictions(new), predictions(model))


@each_edit
@pytest.mark.parametrize("rank", [1, 3])
def test_one_and_three_spatial_axes(make, rank):
    x = signal = keras.Input((5,) * rank + (4,), name="signal")
    x = (layers.Conv1D if rank == 1 else layers.Conv3D)(4, 2, name="conv")(x)
    model = randomise(keras.Model(signal, layers.Flatten()(x), name="net"))
    new = assert_surgery(model, make("conv", ratio=2))
    np.testing.assert_array_equal(predictions(new), predictions(model))


@each_edit
def test_unknown_sizes_and_mixed_precision(make):
    image = keras.Input((None, None, 3), name="image")
    keras.config.set_dtype_policy("mixed_bfloat16")
    x = layers.Conv2D(4, 3, name="conv")(image)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = randomise(keras.Model(image, x, name="any"))
    keras.config.set_dtype_policy("float32")
    inputs = np.random.default_rng(0).normal(size=(2, 7, 9, 3)).astype("float32")
    new = resect.plan(model).then(make("conv", ratio=2)).apply()
    made = [la for la in new.layers if la.name.startswith("conv_")]
    assert {layer.compute_dtype for layer in made} == {"bfloat16"}
    assert {variable.dtype for layer in made for variable in layer.weights} == {"float32"}
    np.testing.assert_array_equal(*(np.asarray(run(m, inputs), "float32") for m in (new, model)))


@each_edit
def test_a_model_at_two_paths_has_one_module(make):
    for where in ("*conv", "right/core/conv"):
        new = resect.plan(twice_nested()).then(make(where, ratio=2)).apply()
        for path in ("left/core", "right/core"):
            made = [la.name for la in layer_of(new, path).layers if la.name.endswith("_scale")]
            assert len(made) == (1 if make is adapt.SqueezeExcite else 2)


def test_squeeze_excite_computes_what_the_paper_says_but_for_the_factor():
    model = channels_first()
    new = randomise(adapt.squeeze_excite(model, "act", ratio=2), 5)
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 5)).astype("float32")
    features = resect.truncate(new, end="act_se_scale")(x)
    before = keras.ops.convert_to_numpy(resect.truncate(new, end="act")(x))
    w1, b1, w2, b2 = (
        keras.ops.convert_to_numpy(w)
        for name in ("act_se_squeeze", "act_se_excite")
        for w in new.get_layer(name).weights
    )
    z = np.maximum(before.mean((2, 3)) @ w1 + b1, 0) @ w2 + b2
    expected = before * (2 / (1 + np.exp(-z)))[:, :, None, None]
    assert_close(keras.ops.convert_to_numpy(features), expected)


def test_cbam_computes_what_the_paper_says_but_for_the_factors():
    stack = [keras.Input((6, 5, 4)), layers.ReLU(name="act"), layers.Flatten()]
    new = randomise(adapt.cbam(keras.Sequential(stack), "act", ratio=2, kernel_size=1), 5)
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 4)).astype("float32")
    weights = {v.path: keras.ops.convert_to_numpy(v.value) for v in new.weights}
    w1, b1, w2, b2, w3, b3 = (
        weights[f"act_cbam_{name}/{part}"]
        for name in ("squeeze", "excite", "positions")
        for part in ("kernel", "bias")
    )

    def sigmoid2(z: np.ndarray) -> np.ndarray:
        return 2 / (1 + np.exp(-z))

    y = np.maximum(x, 0)
    pools = [y.mean((1, 2)), y.max((1, 2))]
    y = y * sigmoid2(sum(np.maximum(p @ w1 + b1, 0) @ w2 + b2 for p in pools))[:, None, None]
    seen = np.stack([y.mean(-1), y.max(-1)], -1)
    y = y * sigmoid2(seen @ w3[0, 0] + b3)
    assert_close(run(new, x), y.reshape(2, -1), 1e-4)


@each_edit
@pytest.mark.parametrize(
    ("build", "where", "count"),
    [(mobilenet, "*_project_BN", 17), (resnet, "*_block*_add", 16)],
    ids=["mobilenet", "resnet"],
)
def test_published_architectures(make, build, where, count):
    model = build()
    plan = resect.plan(model).then(make(resect.select(name=where).expect(count)))
    new = plan.apply()
    made = [la for la in new.layers if la.name.endswith(("_se_scale", "_position_scale"))]
    assert len(made) == count
    x = images(model)
    np.testing.assert_array_equal(run(new, x), run(model, x))


@each_edit
def test_they_train_with_the_rest(make):
    model = trained(transfer(), steps=1, loss="categorical_crossentropy")
    new = resect.plan(model).then(make("base/act", ratio=2)).apply()
    name = "base/act_se_excite" if make is adapt.SqueezeExcite else "base/act_cbam_positions"
    train(new)
    assert np.any(keras.ops.convert_to_numpy(layer_of(new, name).bias))
    assert int(new.optimizer.iterations) == 2
    assert np.any(predictions(new) != predictions(model))


@each_edit
def test_they_are_steps_of_a_plan_that_prints(make):
    plan = resect.plan(transfer()).remove("drop").then(make("base/act", ratio=2)).remove("rescale")
    assert_surgery(transfer(), lambda empty: empty.then(*plan.edits))
    assert "(ratio 2" in str(plan)
    assert "inserted  base/act_" in str(plan)


@each_edit
@pytest.mark.parametrize(
    ("build", "where", "error", "message"),
    [
        (mlp, "hidden", EditError, r"'hidden' returns \(None, 8\), which is no map"),
        (cnn, "nothing", NoMatchError, "matches nothing"),
        (shared_conv, "conv", AmbiguousError, "'conv@0' or 'conv@1'"),
    ],
)
def test_what_is_refused(make, build, where, error, message):
    with pytest.raises(error, match=message):
        resect.plan(build()).then(make(where)).apply()


def test_settings_that_make_no_sense():
    with pytest.raises(ValueError, match="ratio must be at least 1"):
        adapt.squeeze_excite(cnn(), "conv_1", ratio=0)
    with pytest.raises(ValueError, match="kernel_size must be at least 1"):
        adapt.cbam(cnn(), "conv_1", kernel_size=0)


def test_whole_numbers_are_refused():
    stack: list[Any] = [keras.Input((4, 4, 2), dtype="int32"), layers.Identity(name="ids")]
    model = keras.Sequential([*stack, layers.Flatten()])
    model = resect.adapt.configure(model, "ids", dtype="int32")
    with pytest.raises(EditError, match="'ids' returns int32, and new layers compute with floats"):
        adapt.squeeze_excite(model, "ids", data_format="channels_last")
