"""Two models made one: one behind the other, side by side, or a part of one in the other."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import resect
from resect.adapt import Graft, Merge, Stack
from resect.errors import (
    CutError,
    EditError,
    MaskError,
    NestedError,
    ReadError,
    SerializationError,
    ShapeError,
)
from resect.oracle import as_taken
from tests.common import (
    assert_close,
    assert_equal,
    functional_mlp,
    mlp,
    nested,
    randomise,
    residual,
    stateful_mlp,
    trained,
    two_branches,
    two_heads,
    weights_of,
)
from tests.kinds import nested as kinds
from tests.surgery import Source, assert_surgery
from zoo.randomise import inputs_for


def called(model: Any, inputs: Any, **how: Any) -> Any:
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(inputs, **how))


def dense(name: str, size: int, units: int, layer: str = "dense") -> keras.Sequential:
    stack = [keras.Input((size,), name="features"), layers.Dense(units, name=layer)]
    return randomise(keras.Sequential(stack, name=name))


# One behind the other


def test_one_behind_the_other():
    first, second = trained(mlp()), dense("second", 3, 2)
    before = Source.of(second)
    new = assert_surgery(
        first,
        Stack(second),
        """
        Sequential 'mlp'
          features  InputLayer  (None, 6)
          hidden    Dense       (None, 8)  <- features
          middle    Dense       (None, 8)  <- hidden
          logits    Dense       (None, 3)  <- middle
          dense     Dense       (None, 2)  <- logits
          -> dense
        """,
    )
    inputs = inputs_for(first, 4)
    assert type(new) is keras.Sequential
    assert_close(called(new, inputs), called(second, called(first, inputs)))
    before.assert_untouched()
    notes = resect.plan(first).then(Stack(second)).notes
    assert "compile state: not carried, it is made of two models" in notes


def test_names_that_clash_say_which_model_they_are_from():
    names = [layer.name for layer in resect.adapt.stack(dense("a", 4, 4), dense("b", 4, 2)).layers]
    assert names == ["dense", "b_dense"]
    three = resect.adapt.stack(dense("a", 4, 4, "only"), dense("a", 4, 2))
    assert [layer.name for layer in three.layers] == ["only", "dense"]


@pytest.mark.parametrize("weights", ["copy", "share"])
def test_weights(weights: Any):
    first, second = stateful_mlp(), dense("second", 3, 2)
    new = resect.adapt.stack(first, second, weights=weights)
    shared = new.get_layer("dense").kernel is second.get_layer("dense").kernel
    assert shared == (weights == "share")
    assert_equal(weights_of(new), [*weights_of(first), *weights_of(second)])
    assert_surgery(first, Stack(second), weights=weights)


def test_outputs_and_inputs_are_matched():
    second = two_branches()  # takes two tensors of four
    x = features = keras.Input((6,), name="x")
    heads = [layers.Dense(4, name="one")(x), layers.Dense(4, name="two")(x)]
    first = randomise(keras.Model(features, heads))
    new = assert_surgery(first, Stack(second))
    inputs = inputs_for(first, 3)
    assert_close(called(new, inputs), called(second, called(first, inputs)))
    named = keras.Model(features, dict(zip(("right", "left"), first.outputs, strict=True)))
    left, right = second.inputs
    by_name = keras.Model({"left": left, "right": right}, {"logits": second.output})
    new = assert_surgery(named, Stack(by_name))
    assert_close(called(new, inputs), called(by_name, called(named, inputs)))
    with pytest.raises(ShapeError, match=r"takes \(None, 6\) float32, and 'two_heads' returns"):
        resect.adapt.stack(two_heads(), mlp())


def test_a_nested_model_of_the_second_stays_nested():
    stem = dense("stem", 3, 4, "stem_dense")
    new = assert_surgery(stem, Stack(nested()))
    assert isinstance(new.get_layer("backbone"), keras.Model)


def test_a_model_behind_itself_has_shared_layers():
    model = dense("square", 4, 4)
    new = resect.adapt.stack(model, model)
    assert len(resect.read(new).calls_of("dense")) == 2
    inputs = inputs_for(model, 3)
    assert_close(called(new, inputs), called(model, called(model, inputs)))


def test_dtypes_are_converted():
    indices = keras.Input((4,), name="indices")
    first = keras.Model(indices, keras.ops.cast(indices * 3, "int32"))
    new = assert_surgery(first, Stack(dense("second", 4, 2)))
    assert "second_cast" in [operation.name for operation in new.operations]


@keras.saving.register_keras_serializable("join")
class Doubling(layers.Layer):
    """Doubles in training mode."""

    def call(self, inputs: Any, training: Any = None) -> Any:
        return inputs * 2 if training else inputs


def test_each_model_keeps_its_own_training_argument():
    features = keras.Input((4,), name="features")
    first = keras.Model(features, Doubling(name="always")(features, training=True), name="first")
    second = keras.Sequential([keras.Input((4,)), Doubling(name="mostly")], name="second")
    ones = np.ones((1, 4), "float32")
    new = resect.adapt.stack(first, second)  # Keras would hand the first's on to the second
    for how in ({}, {"training": True}, {"training": False}):
        assert_close(called(new, ones, **how), called(second, called(first, ones, **how), **how))
    both = resect.adapt.merge([second, first])
    for how in ({}, {"training": True}):
        expected = [called(model, ones, **how) for model in (second, first)]
        assert_close(called(both, ones, **how), expected)


def test_what_cannot_be_stacked():
    with pytest.raises(
        ShapeError, match=r"'mlp' takes \(None, 6\) .*, and 'mlp' returns \(None, 3"
    ):
        resect.adapt.stack(mlp(), mlp())

    class Subclassed(keras.Model):
        def call(self, inputs: Any) -> Any:
            return inputs * 2

    with pytest.raises(ReadError, match="Trace it first"):
        resect.adapt.stack(mlp(), Subclassed())
    with pytest.raises(SerializationError, match="carries weights"):
        resect.plan(mlp()).then(Stack(dense("second", 3, 2))).to_json()


# Side by side


@pytest.mark.parametrize("how", ["average", "add", "concatenate"])
def test_outputs_are_merged(how: Any):
    models = [mlp(), functional_mlp(), stateful_mlp()]
    randomise(models[1], seed=7)
    new = assert_surgery(models[0], Merge(tuple(models[1:]), how))
    inputs = inputs_for(models[0], 4)
    outputs = [called(model, inputs) for model in models]
    merged = {"average": np.mean(outputs, 0), "add": np.sum(outputs, 0)}
    assert_close(called(new, inputs), merged.get(how, np.concatenate(outputs, -1)))
    assert not new.compiled


def test_one_file_loaded_twice(tmp_path: Any):
    model = nested()
    model.save(tmp_path / "model.keras")
    twice = [keras.saving.load_model(tmp_path / "model.keras") for _ in range(2)]
    randomise(twice[1], seed=5)
    new = resect.adapt.merge(twice, "average")
    names = ["features", "backbone", "logits", "classifier_backbone", "classifier_logits"]
    assert sorted(layer.name for layer in new.layers) == sorted([*names, "average"])
    inputs = as_taken(new, inputs_for(model, 4))
    assert_close(called(new, inputs), np.mean([called(each, inputs) for each in twice], 0))
    new.save(tmp_path / "both.keras")
    again = keras.saving.load_model(tmp_path / "both.keras")
    assert_close(called(again, inputs), called(new, inputs))


def test_outputs_are_listed():
    models = [two_heads(), mlp()]
    new = assert_surgery(models[0], Merge((models[1],)))
    inputs = inputs_for(models[0], 4)
    (first, second), logits = called(new, inputs)
    assert_close([[first, second], logits], [called(model, inputs) for model in models])


def test_structures_of_outputs_that_are_merged_stay():
    heads = []
    for seed in (1, 2):
        model = randomise(two_heads(), seed=seed)
        heads.append(keras.Model(model.input, dict(zip("ab", model.outputs, strict=True))))
    new = assert_surgery(heads[0], Merge((heads[1],), "add"))
    inputs = inputs_for(new, 4)
    one, two = (called(head, inputs) for head in heads)
    assert_close(called(new, inputs), {key: one[key] + two[key] for key in "ab"})


def test_a_body_that_both_have_is_shared():
    features = keras.Input((4,), name="features")
    body = dense("body", 4, 5, "body_dense")
    models = [
        randomise(keras.Model(features, layers.Dense(2, name=name)(body(features)), name=name))
        for name in ("one", "two")
    ]
    new = assert_surgery(models[0], Merge((models[1],)))
    assert len(resect.read(new).calls_of("body")) == 2
    inputs = inputs_for(models[0], 3)
    assert_close(called(new, inputs), [called(model, inputs) for model in models])


def test_a_layer_that_stands_inside_a_nested_model_too_has_one_name():
    models = [randomise(kinds.used_directly_too(), seed=seed) for seed in (1, 2)]
    new = assert_surgery(models[0], Merge((models[1],)), reload=False)  # nor can Keras reload one
    name = "nested_used_directly_too_encoder_dense_1"
    inner = new.get_layer("nested_used_directly_too_encoder").get_layer(name)
    assert inner is new.get_layer(name)


def test_structures_of_inputs_need_not_be_flat():
    x, y = keras.Input((4,), name="x"), keras.Input((4,), name="y")
    model = keras.Model({"both": [x, y]}, layers.Subtract(name="subtract")([x, y]))
    assert_surgery(model, Merge((resect.clone(model),), "add"))


def test_inputs_of_their_own():
    models = [dense("a", 4, 2), dense("b", 3, 2)]
    new = assert_surgery(
        models[0],
        Merge((models[1],), "average", share_inputs=False),
        """
        Sequential 'a'
          features      InputLayer  (None, 4)
          dense         Dense       (None, 2)  <- features
          features_1 +  InputLayer  (None, 3)
          b_dense       Dense       (None, 2)  <- features_1
          average +     Average     (None, 2)  <- dense, b_dense
          -> average
        """,
    )
    inputs = [inputs_for(model, 3, seed) for seed, model in enumerate(models)]
    outputs = [called(model, given) for model, given in zip(models, inputs, strict=True)]
    assert_close(called(new, inputs), np.mean(outputs, 0))


def test_inputs_are_shared_by_name():
    models = []
    for names in (("x", "y"), ("y", "x")):
        inputs = [keras.Input((4,), name=name) for name in names]
        outputs = layers.Subtract(name="subtract")(inputs)
        models.append(keras.Model(inputs, outputs))
    new = assert_surgery(models[0], Merge((models[1],), "add"))
    assert np.abs(called(new, inputs_for(models[0], 3))).max() == 0
    by_key = [keras.Model({t.name: t for t in m.inputs}, m.output) for m in models]
    new = assert_surgery(by_key[0], Merge((by_key[1],), share_inputs=False))
    assert set(new.input) == {"x", "y", "x_1", "y_1"}


@pytest.mark.parametrize(
    ("others", "options", "error", "message"),
    [
        ([dense("b", 3, 2)], {}, ShapeError, r"'a' takes \(None, 4\) .* 'b' takes .*\n.*share_inp"),
        ([dense("b", 4, 3)], {"how": "add"}, ShapeError, "cannot be merged by 'add'"),
        ([dense("b", 4, 3)], {"how": "sum"}, EditError, "There is no way 'sum' to merge"),
    ],
)
def test_what_cannot_be_merged(others: Any, options: Any, error: Any, message: str):
    with pytest.raises(error, match=message):
        resect.adapt.merge([dense("a", 4, 2), *others], **options)


def test_structures_that_differ():
    with pytest.raises(EditError, match="outputs of different structures"):
        resect.adapt.merge([two_heads(), mlp()], "average")


# A part of one in the other


def test_a_region_is_replaced():
    model, donor = residual(), dense("donor", 5, 5, "stem")
    new = assert_surgery(
        trained(model),
        Graft("branch", "branch", donor, "stem", "stem"),
        """
        Functional 'residual'
          features    InputLayer  (None, 4)
          stem        Dense       (None, 5)  <- features
          donor_stem  Dense       (None, 5)  <- stem
          add         Add         (None, 5)  <- stem, donor_stem
          logits      Dense       (None, 3)  <- add
          -> logits
        """,
    )
    assert_equal(weights_of(new.get_layer("donor_stem")), weights_of(donor))


def test_names_of_what_goes_are_free():
    new = resect.adapt.graft(
        mlp(), "hidden", "middle", randomise(mlp(), seed=5), "hidden", "middle"
    )
    assert [layer.name for layer in new.layers] == ["hidden", "middle", "logits"]


def test_a_region_with_a_skip_and_a_nested_one():
    donor = residual()
    stack = [keras.Input((4,), name="features"), layers.Dense(5, name="first")]
    stack += [layers.Dense(5, name="second"), layers.Dense(2, name="last")]
    model = randomise(keras.Sequential(stack))
    new = assert_surgery(model, Graft("first", "second", donor, "stem", "add"))
    assert [layer.name for layer in new.layers] == ["features", "stem", "branch", "add", "last"]
    inputs = inputs_for(model, 3)
    added = keras.Model(donor.input, donor.get_layer("add").output)
    expected = model.get_layer("last")(added(inputs))
    assert_close(called(new, inputs), keras.ops.convert_to_numpy(expected))
    inside = assert_surgery(
        nested(), Graft("backbone/dense_2", "backbone/dense_2", dense("d", 5, 5), -1, -1)
    )
    assert [layer.name for layer in inside.get_layer("backbone").layers][1:] == ["dense_1", "dense"]


def test_a_region_that_does_not_fit():
    donor = dense("donor", 7, 8)
    with pytest.raises(ShapeError, match=r"'dense' \(Dense\) was fed \(None, 7\) and would be fed"):
        resect.adapt.graft(mlp(), "middle", "middle", donor, "dense", "dense")
    edit = Graft("middle", "middle", donor, "dense", "dense", on_mismatch="adapt")
    new = assert_surgery(mlp(), edit)
    assert "hidden_projection" in [layer.name for layer in new.layers]


def masked() -> keras.Model:
    tokens = keras.Input((5,), dtype="int32", name="tokens")
    x = layers.Embedding(7, 4, mask_zero=True, name="embedding")(tokens)
    return keras.Model(tokens, layers.LSTM(4, name="lstm")(x), name="masked")


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (Graft("add", "branch", mlp(), 0, 0), CutError, "'branch' does not depend on 'add'"),
        (Graft("stem", "branch", mlp(), 0, 0), CutError, r"'stem' lies inside .* 'add' \(Add\)"),
        (Graft("add", "add", mlp(), 0, 0), EditError, "reads 2 tensors, and what is to come 1"),
        (Graft("stem", "stem", nested(), "backbone/dense_1", "logits"), NestedError, "different"),
        (Graft("stem", "stem", masked(), "lstm", "lstm"), MaskError, "with a mask"),
    ],
)
def test_what_cannot_be_grafted(edit: Graft, error: Any, message: str):
    with pytest.raises(error, match=message):
        resect.plan(residual()).then(edit).apply()


def test_descriptions():
    first, second = dense("a", 4, 2), dense("b", 2, 2)
    assert "stack 'b' on it" in str(resect.plan(first).then(Stack(second)))
    assert "merge with 'a' (add)" in str(resect.plan(first).then(Merge((dense("a", 4, 2),), "add")))
    graft = Graft("dense", "dense", dense("b", 4, 2), "dense", "dense")
    said = "graft 'dense' to 'dense' of 'b' in the place of 'dense' to 'dense'"
    assert said in str(resect.plan(first).then(graft))


# Real models


def mobilenet(seed: int, **options: Any) -> keras.Model:
    options = {"weights": None, "alpha": 0.35, "include_top": False, "pooling": "avg", **options}
    model = keras.applications.MobileNetV2((32, 32, 3), name="mobilenet", **options)
    return randomise(model, seed=seed)


@pytest.mark.slow
def test_real_models():
    first, second = mobilenet(0), mobilenet(1)
    inputs = inputs_for(first, 2)
    outputs = [called(model, inputs, training=False) for model in (first, second)]
    both = resect.adapt.merge([first, second], "average", weights="share")
    assert "mobilenet_Conv1" in [layer.name for layer in both.layers]
    assert_close(called(both, inputs, training=False), np.mean(outputs, 0), 1e-4)
    head = dense("head", 1280, 3, "logits")
    classifier = resect.adapt.stack(first, head, weights="share")
    expected = called(head, outputs[0], training=False)
    assert_close(called(classifier, inputs, training=False), expected, 1e-4)


@pytest.mark.slow
def test_blocks_of_a_resnet_are_exchanged():
    options: Any = {"weights": None, "include_top": False, "input_shape": (32, 32, 3)}
    one = randomise(keras.applications.ResNet50(**options), seed=1)
    two = randomise(keras.applications.ResNet50(**options, name="other"), seed=2)
    block = ("conv3_block2_1_conv", "conv3_block2_3_bn")
    new = resect.adapt.graft(one, *block, two, *block, weights="share")
    assert [layer.name for layer in new.layers] == [layer.name for layer in one.layers]
    for layer in new.layers:
        comes = layer.name.startswith("conv3_block2_") and layer.name[13:] not in ("add", "out")
        source = (two if comes else one).get_layer(layer.name)
        assert all(a is b for a, b in zip(layer.weights, source.weights, strict=True))
    inputs = inputs_for(one, 1)
    before = keras.Model(one.input, one.get_layer("conv3_block1_out").output)
    inside = keras.Model(two.get_layer("conv3_block1_out").output, two.get_layer(block[1]).output)
    expected = inside(before(inputs, training=False), training=False)
    found = resect.adapt.features(new, block[1], keep=False, weights="share")
    assert_close(called(found, inputs, training=False), keras.ops.convert_to_numpy(expected), 1e-4)


def test_a_model_whose_name_has_a_dot():
    """PyTorch takes no layer of such a name, and `MobileNetV2` makes a `mobilenetv2_0.35_32`."""
    features = keras.Input((4,), name="features")
    model = keras.Model(features, layers.Dense(3, name="dense")(features), name="net_0.35")
    randomise(model)
    new = resect.adapt.merge([model, resect.clone(model)], how="average")
    x = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")
    outputs = [keras.ops.convert_to_numpy(each(x)) for each in (new, model)]
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-6)
    assert "net_0_35_dense" in [layer.name for layer in new.layers]
