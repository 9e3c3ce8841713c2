"""Preprocessing taken out and put in: `rest(preprocess(x)) == model(x)`, at every step."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import resect
from resect.adapt import Preprocess, put_preprocessing_in, take_preprocessing_out
from resect.errors import (
    AmbiguousError,
    EditError,
    EmptyResultError,
    NoMatchError,
    SerializationError,
    ShapeError,
)
from tests.common import mlp, randomise, trained
from tests.kinds.preprocessing import integer_lookup, text_vectorization
from tests.surgery import Source, assert_surgery
from zoo.randomise import inputs_for


def computed(model: Any, batch: Any) -> list[np.ndarray]:
    outputs = keras.tree.flatten(model(batch, training=False))
    return [ops.convert_to_numpy(output) for output in outputs]


def assert_equal(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def assert_taken_out(model: Any, batch: Any = None, weights: Any = "copy") -> tuple[Any, Any]:
    """Takes the preprocessing out, and puts it in again; each time the model computes the same."""
    before = Source.of(model)
    batch = inputs_for(model, 3) if batch is None else batch
    preprocess, rest = take_preprocessing_out(model, weights=weights)
    expected = computed(model, batch)
    assert_equal(computed(rest, preprocess(batch, training=False)), expected)
    again = put_preprocessing_in(rest, preprocess, weights=weights)
    assert_equal(computed(again, batch), expected)
    before.assert_untouched()
    return preprocess, rest


def names(model: Any) -> list[str]:
    return [layer.name for layer in model.layers if not isinstance(layer, layers.InputLayer)]


def normalized(*shape: int) -> Any:
    layer = layers.Normalization(name="normalization")
    layer.adapt(np.random.default_rng(0).normal(3.0, 2.0, (50, *shape)).astype("float32"))
    return layer


def photographs() -> keras.Sequential:
    stack = [
        keras.Input((12, 10, 3), name="image"),
        layers.RandomFlip(name="flip"),
        layers.Resizing(8, 8, name="resize"),
        layers.Rescaling(1 / 255, name="rescale"),
        normalized(8, 8, 3),
        layers.Conv2D(4, 3, name="conv"),
        layers.Rescaling(2.0, name="later"),
        layers.Dense(3, name="dense"),
    ]
    return randomise(keras.Sequential(stack, name="photographs"))


@pytest.mark.parametrize("weights", ["copy", "share"])
def test_what_comes_before_the_first_other_layer(weights):
    preprocess, rest = assert_taken_out(photographs(), weights=weights)
    assert names(preprocess) == ["flip", "resize", "rescale", "normalization"]
    assert names(rest) == ["conv", "later", "dense"]
    assert isinstance(preprocess, keras.Sequential)
    assert isinstance(rest, keras.Sequential)


def test_the_rest_goes_on_training_and_the_preprocessing_does_not():
    model = trained(photographs(), steps=3)
    preprocess, rest = assert_taken_out(model)
    assert not preprocess.compiled
    assert int(rest.optimizer.iterations) == 3


def test_arithmetic_with_constants_is_preprocessing():
    image = keras.Input((6, 6, 3), name="image")
    x = ops.flip(image, axis=-1) / 127.5 - 1.0
    x = layers.Conv2D(4, 3, name="conv")(x)
    model = randomise(keras.Model(image, layers.Dense(2, name="dense")(x * 2.0)))
    preprocess, rest = assert_taken_out(model)
    assert names(rest) == ["conv", "dense"]
    assert len(resect.read(preprocess)) == 4


def test_each_input_has_its_own_and_one_has_none():
    """As with tables: a column is normalized, one is encoded, one is taken as it is."""
    inputs = {
        "age": keras.Input((2,), name="age"),
        "kind": keras.Input((1,), dtype="int32", name="kind"),
        "rest": keras.Input((5,), name="rest"),
    }
    encoded = layers.CategoryEncoding(8, output_mode="multi_hot", name="encode")(inputs["kind"])
    small = layers.Dense(1, name="small")(inputs["rest"])
    x = layers.Concatenate(name="concat")([normalized(2)(inputs["age"]), encoded, small])
    model = randomise(keras.Model(inputs, layers.Dense(2, name="logits")(x)))
    preprocess, rest = assert_taken_out(model)
    assert set(names(rest)) == {"small", "concat", "logits"}
    assert {"normalization", "encode"} <= set(names(preprocess))


def nested(calls: int = 1) -> keras.Model:
    inner = keras.Input((8, 8, 3), name="inner")
    x = layers.Conv2D(4, 3, name="conv")(layers.Rescaling(0.1, name="scale")(inner))
    backbone = keras.Model(inner, x, name="backbone")
    image = keras.Input((8, 8, 3), name="image")
    pipeline = keras.Sequential([layers.RandomFlip(), layers.Rescaling(3.0)], name="pipeline")
    x = pipeline(image)
    x = layers.Average(name="mean")([backbone(x), backbone(image)]) if calls == 2 else backbone(x)
    return randomise(keras.Model(image, layers.Dense(2, name="logits")(x), name="nesting"))


def test_a_nested_model_is_cut_where_its_preprocessing_ends():
    preprocess, rest = assert_taken_out(nested())
    assert names(preprocess) == ["pipeline", "backbone"]
    assert names(preprocess.get_layer("backbone")) == ["scale"]
    assert names(rest) == ["backbone_tail", "logits"]


def test_a_nested_model_that_is_called_twice_stays_whole():
    model = nested(calls=2)
    notes = resect.plan(model).then(resect.adapt.WithoutPreprocessing()).notes
    assert "backbone@0 stays whole, though it starts with preprocessing: it is called 2 times" in (
        notes
    )
    preprocess, rest = assert_taken_out(model)
    assert names(preprocess)[0] == "pipeline"
    assert "backbone" in names(rest)


@pytest.mark.filterwarnings("ignore:.*Explicitly requested dtype int64")  # ids, on JAX
def test_ids_bins_and_vocabularies():
    bins = layers.Discretization(num_bins=4, name="bins")
    bins.adapt(np.random.default_rng(0).normal(size=(100, 1)))
    number = keras.Input((1,), name="number")
    x = layers.CategoryEncoding(4, output_mode="multi_hot", name="indicators")(bins(number))
    for model in (keras.Model(number, layers.Dense(3, name="logits")(x)), integer_lookup()):
        preprocess, rest = assert_taken_out(randomise(model))
        assert not {"bins", "indicators", "lookup"} & set(names(rest))
        assert not preprocess.trainable_variables


def test_text_stays_outside():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("a graph with string tensors runs only on TensorFlow")
    text = ops.convert_to_tensor(np.array([["red blue"], ["green mauve"]], object), "string")
    preprocess, rest = assert_taken_out(randomise(text_vectorization()), text)
    assert names(preprocess) == ["vectorize"]
    assert rest.input_shape == (None, 4)


@pytest.mark.parametrize(
    ("name", "options", "taken"),
    [
        pytest.param("EfficientNetB0", {}, 2, marks=pytest.mark.slow),
        ("MobileNetV3Small", {"minimalistic": True}, 1),
    ],
)
def test_published_models(name, options, taken):
    model = randomise(
        getattr(keras.applications, name)(
            weights=None, input_shape=(32, 32, 3), classes=4, **options
        )
    )
    preprocess, rest = assert_taken_out(model)
    assert len(names(preprocess)) == taken
    assert len(names(preprocess)) + len(names(rest)) == len(names(model))


def test_layers_are_put_in_with_what_they_have_learned():
    model = mlp()
    norm, batch = normalized(6), inputs_for(model, 3)
    plan = resect.plan(model).then(Preprocess((layers.Rescaling(0.5, name="half"), norm)))
    new = assert_surgery(trained(model), plan)
    assert_equal(computed(new, batch), computed(model, norm(batch * np.float32(0.5))))
    assert isinstance(new, keras.Sequential)


def test_the_input_may_be_of_another_shape_and_dtype():
    model = randomise(keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3)]))
    chain = [layers.Resizing(8, 8), layers.Rescaling(1 / 255)]
    new = put_preprocessing_in(model, chain, shape=(None, None, 3), dtype="uint8")
    assert new.input_shape == (None, None, None, 3)
    assert new.inputs[0].dtype == "uint8"
    pixels = np.random.default_rng(0).integers(0, 255, (2, 11, 9, 3)).astype("uint8")
    assert_equal(computed(new, pixels), computed(model, chain[1](chain[0](pixels))))
    categories = put_preprocessing_in(
        mlp(), layers.CategoryEncoding(6, output_mode="multi_hot"), shape=(2,), dtype="int32"
    )
    assert categories.input_shape == (None, 2)


def test_plans_are_saved_and_loaded_again():
    model = photographs()
    for edits in (
        [resect.adapt.Preprocessing()],
        [resect.adapt.WithoutPreprocessing()],
        [Preprocess(layers.Resizing(12, 10), (None, None, 3), "float32")],
    ):
        plan = resect.plan(model).then(*edits)
        assert str(resect.Plan.from_json(model, plan.to_json()).result) == str(plan.result)
    with pytest.raises(SerializationError, match="carries weights"):
        resect.plan(mlp()).then(Preprocess(normalized(6))).to_json()


def test_what_is_refused():
    with pytest.raises(NoMatchError, match=r"starts with no preprocessing, but with 'hidden'"):
        take_preprocessing_out(mlp())
    with pytest.raises(EmptyResultError, match="Nothing of Sequential"):
        take_preprocessing_out(keras.Sequential([keras.Input((4,)), layers.Rescaling(2.0)]))
    with pytest.raises(ShapeError, match=r"'hidden' \(Dense\) was fed"):
        put_preprocessing_in(mlp(), layers.Rescaling(1.0), shape=(7,))
    with pytest.raises(EditError, match="is a model, and says itself what it takes"):
        put_preprocessing_in(mlp(), mlp(), shape=(7,))


def test_several_inputs_are_fed_by_a_model_of_several_outputs():
    one, other = keras.Input((4,), name="one"), keras.Input((4,), name="other")
    model = randomise(keras.Model([one, other], layers.Dense(2)(layers.Add()([one, other]))))
    with pytest.raises(AmbiguousError, match="2 inputs"):
        put_preprocessing_in(model, layers.Rescaling(0.5))
    source = keras.Input((4,), name="source")
    halves = keras.Model(source, [layers.Rescaling(0.5)(source), layers.Rescaling(2.0)(source)])
    new = put_preprocessing_in(model, halves)
    batch = inputs_for(new, 3)
    assert_equal(computed(new, batch), computed(model, halves(batch)))
    with pytest.raises(EditError, match="returns 2 tensors, and 'mlp' takes 1"):
        put_preprocessing_in(mlp(), halves)


def test_names_that_are_taken_are_not_taken_again():
    hidden = keras.Input((6,), name="hidden")
    preprocess = keras.Model(hidden, layers.Rescaling(0.5)(hidden), name="logits")
    new = put_preprocessing_in(mlp(), preprocess)
    assert [layer.name for layer in new.layers] == ["logits_1", "hidden", "middle", "logits"]
    assert new.inputs[0].name == "hidden_1"
    batch = inputs_for(new, 3)
    assert_equal(computed(new, batch), computed(mlp(), preprocess(batch)))
