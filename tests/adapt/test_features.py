"""Other outputs: what layers inside compute, beside the outputs or instead; or some of them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import resect
from resect.adapt import Outputs
from resect.errors import (
    AmbiguousError,
    EditError,
    InputLayerError,
    NameClashError,
    NoMatchError,
)
from tests.common import (
    assert_close,
    cnn,
    functional_mlp,
    mlp,
    nested,
    predictions,
    randomise,
    trained,
    two_branches,
    two_heads,
)
from tests.kinds import nested as kinds
from tests.surgery import assert_surgery
from zoo.randomise import inputs_for


def as_array(value: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(value)


def names_of(model: Any) -> set[str]:
    assert isinstance(model.output, dict)
    return set(model.output)


# Beside the outputs


def test_a_feature_stands_behind_the_output():
    model = functional_mlp()
    new = assert_surgery(
        model,
        Outputs(("middle",)),
        """
        Functional 'mlp'
          features  InputLayer  (None, 6)
          hidden    Dense       (None, 8)  <- features
          middle    Dense       (None, 8)  <- hidden
          logits    Dense       (None, 3)  <- middle
          -> logits, middle
        """,
    )
    (inputs,) = [inputs_for(model)]
    expected = model.get_layer("middle")(model.get_layer("hidden")(inputs))
    logits, middle = new(inputs)
    np.testing.assert_array_equal(as_array(middle), as_array(expected))
    np.testing.assert_array_equal(as_array(logits), as_array(model(inputs)))


def test_a_sequential_becomes_functional_and_is_not_compiled():
    plan = resect.plan(trained(cnn())).then(Outputs((layers.Conv2D, "dense")))
    assert "Sequential 'cnn' becomes a plain Functional model" in plan.notes
    assert "compile state: not carried, its outputs are others now" in plan.notes
    new = assert_surgery(plan.model, plan)
    assert new.output_shape == [(None, 3), (None, 8, 8, 3), (None, 4, 4, 4), (None, 6)]


def test_features_come_in_the_order_that_they_are_asked_for():
    new = resect.adapt.features(mlp(), "middle", "hidden", keep=False)
    assert [tensor._keras_history.operation.name for tensor in new.outputs] == ["middle", "hidden"]


def test_structures_of_outputs_stay():
    assert_surgery(two_heads(), Outputs(("hidden",)))
    model = functional_mlp()
    logits = model.output
    for outputs in ({"probabilities": logits}, {"a": logits, "b": logits}):
        named = keras.Model(model.input, outputs)
        new = assert_surgery(named, Outputs(("hidden", "middle")))
        assert names_of(new) == {*outputs, "hidden", "middle"}
        assert names_of(resect.adapt.features(named, "hidden", keep=False)) == {"hidden"}
    new = assert_surgery(two_heads(), Outputs(("hidden",), as_dict=True))
    shapes = {name: tensor.shape for name, tensor in new.output.items()}
    assert shapes == {"first": (None, 3), "second": (None, 2), "hidden": (None, 5)}


def test_several_outputs_of_one_layer():
    frames = keras.Input((5, 3), name="frames")
    x, *_ = layers.LSTM(4, return_state=True, name="lstm")(frames)
    model = randomise(keras.Model(frames, layers.Dense(2, name="logits")(x)))
    new = assert_surgery(model, Outputs(("lstm:2",), as_dict=True))
    assert names_of(new) == {"logits", "lstm:2"}
    everything = assert_surgery(model, Outputs(("lstm",)))
    assert len(everything.outputs) == 4
    one, two = predictions(new)["lstm:2"], predictions(everything)[3]
    np.testing.assert_array_equal(one, two)


def test_each_call_of_a_shared_layer():
    new = assert_surgery(two_branches(), Outputs(("shared@1", "shared@0"), as_dict=True))
    assert names_of(new) == {"logits", "shared@0", "shared@1"}
    assert len(resect.adapt.features(two_branches(), "shared").outputs) == 3  # all of its calls


def test_an_operation():
    features = keras.Input((4,), name="features")
    doubled = layers.Dense(3, name="dense")(features) * 2.0
    model = randomise(keras.Model(features, layers.Dense(2, name="logits")(doubled)))
    assert_surgery(model, Outputs(("multiply", "dense")))


# In nested models


def test_a_nested_model_gains_an_output():
    model = nested()
    new = assert_surgery(
        model,
        Outputs(("backbone/dense_1",)),
        """
        Functional 'classifier'
          features          InputLayer  (None, 4)
          backbone          Functional  (None, 5) (None, 5)  <- features
            inner_features  InputLayer  (None, 4)
            dense_1         Dense       (None, 5)            <- inner_features
            dense_2         Dense       (None, 5)            <- dense_1
            -> dense_2, dense_1
          logits            Dense       (None, 3)            <- backbone:0
          -> logits, backbone:1
        """,
    )
    inputs = inputs_for(model)
    expected = model.get_layer("backbone").get_layer("dense_1")(inputs)
    np.testing.assert_array_equal(as_array(new(inputs)[1]), as_array(expected))


def test_at_any_depth():
    model = randomise(kinds.two_levels())
    edit = Outputs(("middle/inner/inner_bn", "logits", "middle", "middle/inner"), as_dict=True)
    new = assert_surgery(model, edit)
    flat = resect.adapt.features(
        resect.adapt.flatten(model), "inner_bn", "middle_dense", "inner_dense_2"
    )
    _, *expected = predictions(flat)
    found = predictions(new)
    names = ["middle/inner/inner_bn", "middle", "middle/inner"]
    assert_close([found[name] for name in names], expected)


def test_each_call_of_a_nested_model_has_its_own_feature():
    model = randomise(kinds.called_twice())
    new = assert_surgery(
        model, Outputs(("encoder@1/encoder_dense_1", "encoder@0/encoder_dense_1"), as_dict=True)
    )
    inputs, graph = inputs_for(model, 4), resect.read(model)
    dense = model.get_layer("encoder").get_layer("encoder_dense_1")
    for number in (0, 1):
        read = graph.nodes[("encoder", number)].inputs[0].call.layer  # type: ignore[index]
        found = keras.ops.convert_to_numpy(new(inputs)[f"encoder@{number}/encoder_dense_1"])
        assert_close(found, as_array(dense(inputs[["left", "right"].index(read)])))


@pytest.mark.parametrize("where", ["encoder/encoder_dense_1", "encoder_dense*", layers.Dense])
def test_which_call_is_meant_must_be_said(where: Any):
    with pytest.raises(AmbiguousError, match=r"'encoder' is called 2 times") as caught:
        resect.adapt.features(randomise(kinds.called_twice()), where)
    assert "'encoder@0/encoder_dense_1' or 'encoder@1/encoder_dense_1'" in str(caught.value)


def test_a_call_that_there_is_not():
    with pytest.raises(NoMatchError, match=r"called 2 times, and not for a 2th"):
        resect.adapt.features(kinds.called_twice(), "encoder@2/encoder_dense_1")


def test_a_model_that_stands_in_two_others():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="dense")], name="inner")
    ends = []
    features = keras.Input((4,), name="features")
    for name in ("one", "two"):
        inputs = keras.Input((4,))
        ends.append(keras.Model(inputs, inner(layers.Dense(4)(inputs)), name=name)(features))
    model = randomise(keras.Model(features, layers.Add(name="add")(ends)))
    assert_surgery(model, Outputs(("two/inner/dense", "one/inner")), reload=False)
    with pytest.raises(AmbiguousError, match=r"stands in several models") as caught:
        resect.adapt.features(model, "den*")
    assert "'one/inner/dense' or 'two/inner/dense'" in str(caught.value)


def test_dicts_of_nested_models_keep_the_order_of_their_outputs():
    new = assert_surgery(randomise(kinds.dict_io()), Outputs(("inner/key_dense", "inner/mul")))
    assert names_of(new.get_layer("inner")) == {"sum", "product", "sum_key_dense"}


@pytest.mark.parametrize("weights", ["copy", "share"])
def test_weights(weights: Any):
    assert_surgery(nested(), Outputs(("backbone/dense_1",), keep=False), weights=weights)


# Instead of the outputs


def test_what_only_other_outputs_needed_goes():
    left, right = keras.Input((4,), name="left"), keras.Input((3,), name="right")
    first = layers.Dense(5, name="first")(left)
    both = layers.Concatenate(name="both")([first, layers.Dense(2, name="second")(right)])
    model = randomise(keras.Model([left, right], layers.Dense(2, name="logits")(both)))
    assert_surgery(
        model,
        lambda plan: plan.rename({"first": "one"}).then(Outputs(("one",), keep=False)),
        f"""
        Functional '{model.name}'
          left  InputLayer  (None, 4)
          one   Dense       (None, 5)  <- left
          -> one
        """,
    )


def test_what_nothing_needs_goes_in_nested_models_too():
    assert_surgery(
        nested(),
        Outputs(("backbone/dense_1",), keep=False),
        """
        Functional 'classifier'
          features          InputLayer  (None, 4)
          backbone          Functional  (None, 5)  <- features
            inner_features  InputLayer  (None, 4)
            dense_1         Dense       (None, 5)  <- inner_features
            -> dense_1
          -> backbone
        """,
    )
    deep = assert_surgery(
        randomise(kinds.two_levels()), Outputs(("middle/inner/inner_bn",), keep=False)
    )
    inner = deep.get_layer("middle").get_layer("inner")
    assert [layer.name for layer in inner.layers][1:] == ["inner_dense_1", "inner_bn"]
    both = Outputs(("encoder@1/encoder_dense_1", "encoder@0"), keep=False)
    new = assert_surgery(randomise(kinds.called_twice()), both)  # one reads this, one that
    assert len(new.get_layer("encoder").outputs) == 2
    new = assert_surgery(randomise(kinds.dict_io()), Outputs(("inner/mul",), keep=False))
    assert names_of(new.get_layer("inner")) == {"product"}
    assert "inner_add" not in [operation.name for operation in new.get_layer("inner").operations]
    new = assert_surgery(randomise(kinds.dict_io()), Outputs(("inner/key_dense",), keep=False))
    assert len(new.get_layer("inner").outputs) == 3  # one of its two inputs would be left over


def test_some_outputs_stay():
    model = trained(two_heads())
    new = assert_surgery(model, Outputs(keep="second"))
    assert [layer.name for layer in new.layers] == ["features", "hidden", "second"]
    assert not new.compiled
    np.testing.assert_array_equal(predictions(new), predictions(model)[1])
    both = resect.adapt.outputs(model, ["second", "first"])
    assert both.output_shape == [(None, 3), (None, 2)]  # in the order that they had
    new = assert_surgery(model, Outputs(("hidden",), keep="first"))
    assert new.output_shape == [(None, 3), (None, 5)]


def test_some_keys_stay():
    x, y = keras.Input((4,), name="x"), keras.Input((3,), name="y")
    heads = {"one": layers.Dense(2, name="a")(x), "two": layers.Dense(3, name="b")(y)}
    model = randomise(keras.Model({"x": x, "y": y}, heads))
    for where in ("two", "b", layers.Dense):
        new = assert_surgery(model, Outputs(keep=where))
        assert names_of(new) == ({"two"} if where != layers.Dense else {"one", "two"})
    assert set(resect.adapt.outputs(model, "two").input) == {"y"}


def test_a_plan_is_saved_and_loaded_again():
    model = randomise(kinds.called_twice())
    for edit in (
        Outputs(("encoder@1/encoder_dense_1", "log*"), as_dict=True),
        Outputs(("subtract",), keep=False),
        Outputs(keep="logits"),
    ):
        plan = resect.plan(model).then(edit)
        again = resect.Plan.from_json(model, plan.to_json())
        assert str(again.result) == str(plan.result)
    text = str(resect.plan(two_heads()).then(Outputs(("hidden",), keep="first")))
    assert "keep 'first' and add 'hidden'" in text


# Real models


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50"])
def test_a_pyramid_of_features(name: str):
    options = {"alpha": 0.35} if name == "MobileNetV2" else {}
    base = getattr(keras.applications, name)(
        input_shape=(32, 32, 3), include_top=False, weights=None, name="base", **options
    )
    images = keras.Input((32, 32, 3), name="images")
    x = layers.GlobalAveragePooling2D(name="pool")(base(images))
    model = randomise(keras.Model(images, layers.Dense(2, name="logits")(x)))
    inside = ["block_2_add", "block_6_expand_relu"]
    inside = inside if name == "MobileNetV2" else ["conv2_block3_out", "conv4_block1_out"]
    new = resect.adapt.features(model, *[f"base/{layer}" for layer in inside], weights="share")
    direct = keras.Model(base.input, [base.get_layer(layer).output for layer in inside])
    inputs = inputs_for(model, 2)
    logits, *found = [as_array(tensor) for tensor in new(inputs, training=False)]
    expected = [as_array(tensor) for tensor in direct(inputs, training=False)]
    assert_close([logits, *found], [as_array(model(inputs, training=False)), *expected])


# What is refused


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (Outputs(("nothing",)), NoMatchError, "'nothing' matches nothing"),
        (Outputs(("features",)), InputLayerError, "'features' is an input"),
        (Outputs(("backbone/inner_features",)), InputLayerError, "is an input: nothing computes"),
        (Outputs(keep=False), EditError, "would have no output"),
        (Outputs(), EditError, "No layer is named"),
        (Outputs(keep="backbone"), EditError, r"'backbone' is not an output .* are 'logits'"),
        (Outputs(keep="backbone/dense_1"), EditError, "'backbone/dense_1' is not an output"),
    ],
)
def test_what_is_refused(edit: Outputs, error: Any, message: str):
    with pytest.raises(error, match=message):
        resect.plan(nested()).then(edit).apply()


def test_a_key_that_is_taken():
    model = functional_mlp()
    named = keras.Model(model.input, {"hidden": model.output})
    with pytest.raises(NameClashError, match="There is an output 'hidden' already"):
        resect.adapt.features(named, "hidden")
    assert names_of(resect.adapt.features(named, "logits")) == {"hidden", "logits"}
