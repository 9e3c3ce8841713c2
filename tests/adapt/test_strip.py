"""Layers that only training needs are taken out, at any depth; inference stays, bit by bit."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import resect
from resect.adapt import Strip, training_only
from resect.adapt.strip import is_training_only
from resect.errors import EditError, EmptyResultError, NoMatchError
from tests.common import mlp, predictions, randomise, trained
from tests.surgery import assert_surgery


def assert_stripped(model: keras.Model, where: Any = None, drawing: str | None = None) -> Any:
    """Strips, proves all that an edit promises and that inference is equal bit by bit."""
    new = assert_surgery(model, Strip(where), drawing, training=False)
    np.testing.assert_array_equal(predictions(new), predictions(model))
    return new


def left_in(model: keras.Model) -> list[str]:
    """Layers that only training needs, at all depths, inside other layers too."""
    return [layer.name for layer in model._flatten_layers() if is_training_only(layer)]


def augmented() -> keras.Model:
    """Augmentation as a nested Sequential; dropout of all kinds, nested, shared and in branches."""
    flips = [layers.RandomFlip(name="flip"), layers.RandomRotation(0.1, name="rotation")]
    inner = keras.Input((8, 8, 3), name="inner")
    x = layers.Conv2D(4, 3, padding="same", name="conv")(inner)
    x = layers.SpatialDropout2D(0.2, name="spatial")(x)
    body = keras.Model(inner, layers.GaussianDropout(0.1, name="gaussian")(x), name="body")
    shared = layers.Dropout(0.3, name="shared")
    image = keras.Input((8, 8, 3), name="image")
    x = keras.Sequential(flips, name="augment")(image)
    x = body(x)
    left = shared(layers.Conv2D(4, 1, name="left")(x))
    right = shared(layers.GaussianNoise(0.1, name="noise")(x))
    x = layers.Add(name="add")([left, right])
    x = layers.ActivityRegularization(l2=0.1, name="activity")(x)
    x = layers.AlphaDropout(0.2, name="alpha")(layers.GlobalAveragePooling2D(name="pool")(x))
    return randomise(keras.Model(image, layers.Dense(3, name="logits")(x), name="augmented"))


def test_all_of_them_go_at_any_depth():
    model = augmented()
    new = assert_stripped(
        trained(model),
        drawing="""
        Functional 'augmented'
          image    InputLayer              (None, 8, 8, 3)
          body     Functional              (None, 8, 8, 4)  <- image
            inner  InputLayer              (None, 8, 8, 3)
            conv   Conv2D                  (None, 8, 8, 4)  <- inner
            -> conv
          left     Conv2D                  (None, 8, 8, 4)  <- body
          add      Add                     (None, 8, 8, 4)  <- left, body
          pool     GlobalAveragePooling2D  (None, 4)        <- add
          logits   Dense                   (None, 3)        <- pool
          -> logits
        """,
    )
    assert left_in(model)
    assert not left_in(new)
    assert new.losses == []


def test_a_model_of_a_pipeline_and_its_kin():
    """Pipelines, also in pipelines, lose what only training needs, and wrappers go."""
    stack = [
        keras.Input((6, 6, 3), name="image"),
        layers.Pipeline([layers.RandomFlip(), layers.RandomZoom(0.1)], name="all"),
        layers.Pipeline(
            [
                layers.Rescaling(0.5),
                layers.RandomFlip(),
                layers.Pipeline([layers.Rescaling(2.0, 1.0), layers.RandomContrast(0.1)]),
            ],
            name="some",
        ),
        layers.TimeDistributed(layers.Dropout(0.2), name="wrapped"),
        layers.Flatten(name="flatten"),
        layers.Dense(3, name="logits"),
    ]
    new = assert_stripped(randomise(keras.Sequential(stack, name="piped")))
    assert [layer.name for layer in new.layers] == ["some", "flatten", "logits"]
    assert not left_in(new)
    assert isinstance(new, keras.Sequential)


def test_where_chooses_and_a_nested_model_means_what_is_in_it():
    model = augmented()
    assert {"flip", "rotation"} & set(left_in(assert_stripped(model, "body"))) != set()
    new = assert_stripped(model, ["augment", "body/spatial"])
    assert sorted(set(left_in(new))) == ["activity", "alpha", "gaussian", "noise", "shared"]


def test_a_nested_model_that_is_called_at_two_depths():
    def features() -> Any:
        return keras.Input((4,))

    x = features()
    drop = keras.Model(x, layers.Dropout(0.2, name="drop")(x), name="dropping")
    y = features()
    outer = keras.Model(y, drop(layers.Dense(4, name="inner")(y)), name="outer")
    z = features()
    model = randomise(keras.Model(z, layers.Add()([outer(z), drop(z), drop(outer(z))])))
    new = assert_stripped(model)
    assert not left_in(new)
    assert "dropping" not in [layer.name for layer in new._flatten_layers()]


def test_a_class_of_ones_own_is_registered():
    @training_only
    @keras.saving.register_keras_serializable("strip")
    class DropPath(keras.layers.Layer):
        def call(self, inputs: Any, training: bool = False) -> Any:
            return inputs * 0.0 if training else inputs

    stack = [keras.Input((4,)), layers.Dense(4), DropPath(name="path"), layers.Dense(2)]
    model = randomise(keras.Sequential(stack))
    assert len(assert_stripped(model).layers) == 2


class AlwaysOn(layers.Dropout):
    """Dropout in inference too."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        return super().call(inputs, training=True)


def test_what_is_left_is_said_and_why():
    inner = keras.Input((4,))
    nested = keras.Model(inner, layers.Dropout(0.5, name="active")(inner), name="bayes")
    x = features = keras.Input((4,), name="features")
    x = layers.Dropout(0.5, name="goes")(x)
    x = layers.Dropout(0.5, name="monte_carlo")(x, training=True)
    x = nested(AlwaysOn(0.5, name="always")(x), training=True)
    x = layers.Reshape((2, 2))(x)
    x = layers.MultiHeadAttention(1, 2, dropout=0.5, name="attention")(x, x)
    plan = resect.plan(keras.Model(features, x)).then(Strip())
    assert [note for note in plan.notes if "stays" in note] == [
        "monte_carlo stays: it is called with training=True",
        "always stays: AlwaysOn is a subclass of Dropout that is not registered",
        "attention stays: it holds 'dropout', a part of what it is",
        "bayes/active stays: it is called with training=True",
    ]
    names = [layer.name for layer in plan.apply()._flatten_layers()]
    assert "goes" not in names
    assert {"monte_carlo", "always", "active"} <= set(names)


def test_a_layer_that_changed_the_dtype_leaves_a_cast():
    x = pixels = keras.Input((4, 4, 3), dtype="uint8", name="pixels")
    x = keras.ops.square(layers.RandomFlip(name="flip")(x))
    x = layers.Dense(3, dtype="mixed_bfloat16", name="dense")(x)
    x = keras.ops.square(layers.Dropout(0.5, dtype="float32", name="drop")(x))
    model = randomise(keras.Model(pixels, x))
    plan = resect.plan(model).then(Strip())
    assert "flip becomes flip_cast, which makes float32 of it" in plan.notes
    image = np.random.default_rng(0).integers(0, 255, (2, 4, 4, 3)).astype("uint8")
    new = assert_surgery(model, plan, inputs=image, training=False)
    expected, found = (m.predict(image, verbose=0) for m in (model, new))
    np.testing.assert_array_equal(found, expected)
    assert not left_in(new)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("MobileNetV2", {"alpha": 0.35}),
        ("EfficientNetB0", {}),
    ],
)
def test_published_models(name, options):
    built = getattr(keras.applications, name)(
        weights=None, input_shape=(32, 32, 3), classes=4, **options
    )
    flips = keras.Sequential([layers.RandomFlip(), layers.RandomBrightness(0.1)])
    image = keras.Input((32, 32, 3), name="image")
    x = layers.Dropout(0.5)(built(flips(image)))
    model = randomise(keras.Model(image, layers.Dense(2)(x)))
    new = resect.adapt.strip(model)
    assert left_in(model)
    assert not left_in(new)
    np.testing.assert_array_equal(predictions(new), predictions(model))


def test_variables_can_be_shared_and_the_optimizer_goes_on():
    model = trained(augmented(), "adam", steps=2)
    assert int(resect.adapt.strip(model).optimizer.iterations) == 2
    shared = resect.adapt.strip(model, weights="share")
    assert shared.get_layer("logits").kernel is model.get_layer("logits").kernel


def test_the_plan_is_saved_and_loaded_again():
    model = augmented()
    plan = resect.plan(model).then(Strip())
    assert str(resect.Plan.from_json(model, plan.to_json()).result) == str(plan.result)


def test_what_is_refused():
    with pytest.raises(NoMatchError, match=r"no layer that only training needs.*\n.*training_only"):
        resect.adapt.strip(mlp())
    with pytest.raises(EditError, match=r"'logits' \(Dense\) stays: it is no layer that only"):
        resect.adapt.strip(augmented(), "logits")
    crop = keras.Sequential([keras.Input((8, 8, 3)), layers.RandomCrop(4, 4, name="crop")])
    with pytest.raises(EditError, match="RandomCrop changes the size"):
        resect.adapt.strip(crop, "crop")
    with pytest.raises(EmptyResultError, match="Nothing would be left"):
        resect.adapt.strip(keras.Sequential([keras.Input((4,)), layers.Dropout(0.5)]))


@pytest.mark.filterwarnings("ignore:.*Explicitly requested dtype int64")  # MixUp on JAX
@pytest.mark.parametrize("name", resect.adapt.strip.__globals__["_OF_KERAS"])
def test_every_registered_layer_passes_its_input_on(name):
    if not hasattr(layers, name):
        pytest.skip(f"this Keras has no {name}")
    rank = {"SpatialDropout1D": 3, "SpatialDropout3D": 5}.get(name, 4)
    first = {"RandomPosterization": (4,), "RandomTranslation": (0.2, 0.2)}
    plain = {
        "AugMix", "CutMix", "MixUp", "RandAugment", "RandomColorJitter", "RandomErasing",
        "RandomFlip", "RandomElasticTransform", "RandomGaussianBlur", "RandomGrayscale",
        "RandomInvert", "RandomPerspective", "RandomShear", "Solarization",
        "ActivityRegularization",
    }  # fmt: skip
    layer = getattr(layers, name)(*(() if name in plain else first.get(name, (0.5,))))
    x = np.random.default_rng(0).uniform(0, 255, (2, *[6] * (rank - 2), 3)).astype("float32")
    found = keras.ops.convert_to_numpy(layer(x, training=False))
    np.testing.assert_array_equal(found, x)
