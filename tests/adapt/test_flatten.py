"""Nested models dissolved: one graph, the same function, the same training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import resect
from resect.adapt import Flatten
from resect.errors import EditError, MaskError, NoMatchError
from tests.common import assert_close, nested, predictions, randomise, train, trained, weights_of
from tests.kinds import nested as kinds
from tests.surgery import assert_surgery
from zoo.randomise import inputs_for

KINDS = (
    kinds.functional, kinds.sequential, kinds.two_levels, kinds.called_twice, kinds.dict_io,
    kinds.fine_tuned, kinds.call_training_false,
)  # fmt: skip


def models_in(model: Any) -> list[str]:
    return [layer.name for layer in model.layers if isinstance(layer, keras.Model)]


def called(model: Any, inputs: Any, **how: Any) -> Any:
    """What a model returns, its dropout drawing the same numbers each time."""
    keras.utils.set_random_seed(3)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(inputs, **how))


def assert_same_calls(model: Any, new: Any, *, moved: bool = True) -> None:
    """Both compute the same, called in any way, also after their batch statistics have moved."""
    inputs = inputs_for(model, 6)
    for how in ({}, {"training": False}, {"training": True}, *[{}] * moved):
        assert_close(called(new, inputs, **how), called(model, inputs, **how))


# Graphs


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_every_kind_of_nested_model(make: Callable[[], Any]):
    model = randomise(make())
    new = assert_surgery(model, Flatten())
    assert models_in(new) == []
    in_order = make is not kinds.called_twice  # there Keras calls the shared layers the other way
    assert_same_calls(model, new, moved=in_order)


def test_a_layer_that_the_outer_model_calls_too_is_one_shared_layer():
    new = assert_surgery(randomise(kinds.used_directly_too()), Flatten())  # it can be loaded now
    assert len(resect.read(new).calls_of("encoder_dense_1")) == 2


def test_layers_keep_their_names():
    assert_surgery(
        trained(nested()),
        Flatten(),
        """
        Functional 'classifier'
          features  InputLayer  (None, 4)
          dense_1   Dense       (None, 5)  <- features
          dense_2   Dense       (None, 5)  <- dense_1
          logits    Dense       (None, 3)  <- dense_2
          -> logits
        """,
    )


def block(name: str, *inside: Any, width: int = 4) -> keras.Sequential:
    """A Sequential with layers of the same names whatever it is called."""
    stack = [keras.Input((4,)), layers.Dense(4, name="conv", activation="tanh"), *inside]
    return keras.Sequential([*stack, layers.Dense(width, name="out")], name=name)


def test_names_that_clash_say_where_the_layer_was():
    features = keras.Input((4,), name="features")
    x = block("stem", block("inner"))(layers.Dense(4, name="conv")(features))
    model = randomise(keras.Model(features, block("head")(x), name="outer"))
    assert_surgery(
        model,
        Flatten(),
        """
        Functional 'outer'
          features         InputLayer  (None, 4)
          conv             Dense       (None, 4)  <- features
          stem_conv        Dense       (None, 4)  <- conv
          stem_inner_conv  Dense       (None, 4)  <- stem_conv
          stem_inner_out   Dense       (None, 4)  <- stem_inner_conv
          stem_out         Dense       (None, 4)  <- stem_inner_out
          head_conv        Dense       (None, 4)  <- stem_out
          head_out         Dense       (None, 4)  <- head_conv
          -> head_out
        """,
    )


def test_a_sequential_of_sequentials_stays_a_sequential():
    model = trained(randomise(keras.Sequential([keras.Input((4,)), block("stem"), block("head")])))
    new = assert_surgery(model, Flatten())
    assert type(new) is keras.Sequential
    assert [layer.name for layer in new.layers] == [
        "stem_conv",
        "stem_out",
        "head_conv",
        "head_out",
    ]
    train(model), train(new)
    assert_close(weights_of(new), weights_of(model))


def test_some_models_are_flattened_and_others_stay():
    model = randomise(kinds.two_levels())
    inner = assert_surgery(model, Flatten("middle/inner"))
    assert models_in(inner) == ["middle"]
    assert models_in(inner.get_layer("middle")) == []
    outer = assert_surgery(model, Flatten("middle"))
    assert models_in(outer) == ["inner"]
    assert str(resect.plan(model).then(Flatten("middle"), Flatten("inner")).result) == str(
        resect.plan(model).then(Flatten()).result
    )


@pytest.mark.parametrize("weights", ["copy", "share"])
def test_variables_keep_values_and_identity(weights: Any):
    model = nested()
    new = assert_surgery(model, Flatten(), weights=weights)
    for name in ("dense_1", "dense_2"):
        old, now = model.get_layer("backbone").get_layer(name), new.get_layer(name)
        assert (old.kernel is now.kernel) == (weights == "share")


def test_it_can_follow_other_edits():
    model = randomise(kinds.two_levels())
    assert_surgery(model, lambda plan: plan.remove("middle/inner/inner_bn").then(Flatten()))
    assert_surgery(model, lambda plan: plan.append(layers.Dense(2, name="new")).then(Flatten()))
    assert_surgery(model, lambda plan: plan.then(Flatten()).remove("inner_bn"))


def test_a_model_that_was_put_in_is_flattened():
    end = randomise(
        keras.Sequential([keras.Input((3,)), layers.Dense(2, name="dense_1")], name="e")
    )
    new = assert_surgery(nested(), lambda plan: plan.append(end).then(Flatten("e")))
    assert_close(weights_of(new.get_layer("dense_1")), weights_of(end))
    assert models_in(new) == ["backbone"]


def test_what_stays_nested():
    inner = block("inner", width=2)
    frames = keras.Input((3, 4), name="frames")
    x = layers.TimeDistributed(inner, name="each")(frames)
    model = randomise(keras.Model(frames, block("head")(layers.Dense(4)(layers.Flatten()(x)))))
    new = assert_surgery(model, Flatten())
    assert isinstance(new.get_layer("each").layer, keras.Sequential)
    assert models_in(new) == []


def test_a_plan_is_saved_and_loaded_again():
    model = randomise(kinds.two_levels())
    for edit in (Flatten(), Flatten("middle/inner")):
        plan = resect.plan(model).then(edit)
        again = resect.Plan.from_json(model, plan.to_json())
        assert str(again.result) == str(plan.result)
    assert "flatten 'middle'" in str(resect.plan(model).then(Flatten("middle")))


# Transfer learning


@pytest.fixture(scope="module")
def mobilenet() -> keras.Model:
    """A classifier on MobileNetV2, as the guide to transfer learning has it."""
    base = keras.applications.MobileNetV2((32, 32, 3), include_top=False, weights=None, alpha=0.35)
    images = keras.Input((32, 32, 3), name="images")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="rescale")(images)
    x = base(x, training=False)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return randomise(keras.Model(images, layers.Dense(5, name="logits")(x), name="transfer"))


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [True, False])
def test_a_flat_transfer_learning_model_trains_as_the_nested_one(mobilenet: Any, frozen: bool):
    model = resect.clone(mobilenet)
    base = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    base.trainable = not frozen
    model.compile("sgd", "mse", run_eagerly=keras.backend.backend() == "tensorflow")
    new = resect.adapt.flatten(model)
    assert models_in(new) == []
    assert len(new.trainable_variables) == (2 if frozen else len(model.trainable_variables))
    assert new.get_layer("Conv1").trainable is not frozen
    assert resect.read(new).nodes[("bn_Conv1", 0)].kwargs["training"] is False
    before = statistics(new)
    train(model), train(new)
    assert_close(weights_of(new), weights_of(model), 1e-4)
    # Keras overrides a recorded training=False in fit: only what is frozen stands still
    assert np.array_equal(statistics(new), before) == frozen
    assert_close(predictions(new), predictions(model), 1e-4)


def statistics(model: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(model.get_layer("bn_Conv1").moving_mean))


def test_statistics_stand_still_where_training_is_recorded_as_false(mobilenet: Any):
    model = resect.clone(mobilenet)
    new = assert_surgery(model, Flatten(), training=False)
    before = statistics(new)
    inputs = inputs_for(model, 2)
    assert_close(called(new, inputs), called(model, inputs))
    np.testing.assert_array_equal(statistics(new), before)


@pytest.mark.slow
def test_a_resnet_that_is_called_twice():
    base = keras.applications.ResNet50(
        include_top=False, weights=None, input_shape=(32, 32, 3), pooling="avg", name="resnet"
    )
    left, right = keras.Input((32, 32, 3), name="left"), keras.Input((32, 32, 3), name="right")
    difference = layers.Subtract(name="difference")([base(left), base(right)])
    model = randomise(keras.Model([left, right], difference))
    new = resect.adapt.flatten(model, weights="share")
    assert len(resect.read(new).calls_of("conv1_conv")) == 2
    assert_close(predictions(new), predictions(model), 1e-4)


# The training argument, where the model is called without one


@keras.saving.register_keras_serializable("flatten")
class Doubling(layers.Layer):
    """Doubles in training mode."""

    def call(self, inputs: Any, training: Any = None) -> Any:
        return inputs * 2 if training else inputs


def doubling(name: str, **inner: Any) -> keras.Model:
    features = keras.Input((4,))
    x = layers.Dense(4, name=f"{name}_dense")(features)
    return keras.Model(features, Doubling(name=f"{name}_double")(x, **inner), name=name)


def recorded_true() -> Any:
    features = keras.Input((4,), name="features")
    return keras.Model(features, doubling("mc")(doubling("first")(features), training=True))


def recorded_false_around_true() -> Any:
    features = keras.Input((4,), name="features")
    return keras.Model(features, doubling("mc", training=True)(features, training=False))


def inner_true() -> Any:
    features = keras.Input((4,), name="features")
    x = doubling("mc", training=True)(features)
    return keras.Model(features, doubling("after")(x))


def inner_true_after_dropout() -> Any:
    features = keras.Input((4,), name="features")  # a Dropout leaves a False behind
    x = layers.Dropout(0.5, name="dropout")(features)
    return keras.Model(features, doubling("mc", training=True)(x))


def branches() -> Any:
    features = keras.Input((4,), name="features")
    one = doubling("mc", training=True)(features)
    two = doubling("other")(layers.Dense(4, name="more")(layers.Dense(4, name="most")(features)))
    return keras.Model(features, [layers.Add(name="add")([one, two]), two])


def called_both_ways() -> Any:
    features, shared = keras.Input((4,), name="features"), doubling("shared")
    parts = [shared(features, training=True), shared(features, training=False)]
    return keras.Model(features, layers.Subtract(name="subtract")(parts))


@pytest.mark.parametrize(
    "make",
    [
        recorded_true,
        recorded_false_around_true,
        inner_true,
        inner_true_after_dropout,
        branches,
        called_both_ways,
    ],
)
def test_a_recorded_training_argument_reaches_the_same_layers(make: Callable[[], Any]):
    model = randomise(make())
    assert_same_calls(model, resect.adapt.flatten(model))


@pytest.mark.parametrize("where", ["mc", "after"])
def test_a_model_that_stays_gets_the_training_argument_that_it_had(where: str):
    model = randomise(inner_true())
    assert_same_calls(model, resect.adapt.flatten(model, where))


class Composite(layers.Layer):
    """Takes no training argument; its sublayer does."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.doubling = Doubling()

    def call(self, inputs: Any) -> Any:
        return self.doubling(inputs)

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


def test_sublayers_that_the_argument_would_not_reach():
    features = keras.Input((4,), name="features")
    inside = keras.Sequential([keras.Input((4,)), Composite(name="composite")], name="inside")
    with pytest.raises(EditError, match=r"'composite' \(Composite\) takes no training argument"):
        resect.adapt.flatten(keras.Model(features, inside(features, training=False)))
    model = keras.Model(features, inside(features))
    assert_same_calls(model, resect.adapt.flatten(model))
    x = doubling("mc", training=True)(Composite(name="before")(features))
    with pytest.raises(EditError, match="depends on the sublayers of an earlier layer"):
        resect.adapt.flatten(keras.Model(features, x))


# Inputs that are converted


def test_integers_become_floats_where_the_nested_model_converted_them():
    images = keras.Input((4,), dtype="uint8", name="images")
    inside = keras.Sequential([keras.Input((4,)), Doubling(dtype="float32")], name="inside")
    model = keras.Model(images, layers.Dense(2)(inside(images)))
    new = assert_surgery(model, Flatten())
    assert "inside_cast" in [operation.name for operation in new.operations]
    assert predictions(new).dtype == predictions(model).dtype


def test_mixed_precision():
    features = keras.Input((4,), name="features")
    x = layers.Dense(4, dtype="mixed_bfloat16", name="stem")(features)
    inner = keras.Input((4,))
    inside = keras.Model(inner, inner * 1.001, name="inside")
    model = randomise(keras.Model(features, inside(x)))
    new = assert_surgery(model, Flatten())
    assert new.get_layer("inside_cast").compute_dtype == "float32"
    np.testing.assert_array_equal(predictions(new), predictions(model))


@pytest.mark.parametrize(("given", "wanted"), [((4,), (4, 1)), ((4, 1), (4,))])
def test_ranks_are_adjusted(given: Any, wanted: Any):
    features = keras.Input(given, name="features")
    inside = keras.Sequential([keras.Input(wanted), layers.Dense(3, name="dense")], name="inside")
    assert_surgery(randomise(keras.Model(features, inside(features))), Flatten())


def test_shapes_that_were_not_known_inside_are_known_now():
    inner = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, name="conv")(inner)
    inside = keras.Model(inner, layers.MaxPooling2D(name="pool")(x), name="inside")
    images = keras.Input((8, 8, 3), name="images")
    logits = layers.Dense(2, name="logits")(layers.Flatten(name="flat")(inside(images)))
    new = assert_surgery(randomise(keras.Model(images, logits)), Flatten())
    assert new.get_layer("conv").output.shape == (None, 6, 6, 4)


# Masks


def tokens() -> Any:
    return keras.Input((5,), dtype="int32", name="tokens")


def embedding() -> layers.Layer:
    return layers.Embedding(7, 4, mask_zero=True, name="embedding")


def recurrent(**options: Any) -> keras.Model:
    inner = keras.Input((5, 4))
    x = layers.Dense(4, name="project")(inner)
    return keras.Model(inner, layers.LSTM(3, name="lstm", **options)(x), name="encoder")


# Keras says so of every nested model; but the layers inside see the mask
NOT_HANDED_ON = pytest.mark.filterwarnings("ignore:Layer 'encoder' .* does not support masking")


def mask_from_before() -> Any:
    inputs = tokens()
    x = recurrent(return_sequences=True)(embedding()(inputs))
    return keras.Model(inputs, layers.GlobalAveragePooling1D(name="pool")(x))


def mask_from_inside() -> Any:
    inner = keras.Input((5,), dtype="int32")
    inside = keras.Model(inner, layers.Dense(4, name="dense")(embedding()(inner)), name="inside")
    inputs = tokens()
    return keras.Model(inputs, layers.LSTM(3, name="lstm")(inside(inputs)))


@NOT_HANDED_ON
@pytest.mark.parametrize("make", [mask_from_before, mask_from_inside])
def test_masks_survive(make: Callable[[], Any]):
    model = randomise(make())
    new = assert_surgery(model, Flatten())
    words = np.array([[1, 2, 0, 0, 0], [3, 0, 1, 2, 0], [1, 2, 3, 4, 5]], "int32")
    assert_close(called(new, words), called(model, words))
    unmasked = words + (words == 0)
    assert np.abs(called(new, unmasked) - called(new, words)).max() > 1e-3


def test_a_mask_that_only_the_nested_model_hands_on():
    inputs, encoder = tokens(), recurrent()
    encoder.supports_masking = True
    model = keras.Model(inputs, layers.Dense(2)(encoder(embedding()(inputs))))
    with pytest.raises(MaskError, match=r"'encoder' hands the mask .* where 'lstm' drops it"):
        resect.adapt.flatten(model)


@NOT_HANDED_ON
def test_a_mask_that_is_given_explicitly():
    values, mask = keras.Input((5, 4), name="values"), keras.Input((5,), dtype="bool", name="mask")
    model = keras.Model([values, mask], recurrent()(values, mask=mask))
    with pytest.raises(MaskError, match="'encoder' is called with a mask that does not come"):
        resect.adapt.flatten(model)


# What is refused


class Redefined(keras.Model):
    """More than its graph."""

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return super().call(inputs, training=training, mask=mask) * 2


def around(inside: Any) -> keras.Model:
    features = keras.Input((4,), name="features")
    return keras.Model(features, layers.Dense(2, name="logits")(inside(features)))


def test_more_than_a_graph():
    features = keras.Input((4,))
    redefined = Redefined(features, layers.Dense(4)(features), name="odd")
    with pytest.raises(EditError, match=r"'odd' \(Redefined\) has a call of its own"):
        resect.adapt.flatten(around(redefined))
    penalised = block("penalised")
    penalised.activity_regularizer = keras.regularizers.L2(0.1)
    with pytest.raises(EditError, match="'penalised' has an activity_regularizer"):
        resect.adapt.flatten(around(penalised))
    holding = keras.Model(features, layers.Dense(4)(features), name="holding")
    holding.more = layers.Dense(2, name="unused")
    holding.more.build((None, 3))
    if len(holding.variables) == 2:  # Keras 3.10: such a layer is none of the model's
        return
    with pytest.raises(EditError, match=r"'holding' has variables that none .* unused"):
        resect.adapt.flatten(around(holding))


def test_a_layer_thawed_in_a_frozen_model_is_trained_as_before():
    inside = block("inside", layers.BatchNormalization(name="bn"))
    model = randomise(around(inside))
    inside.trainable = False
    for name in ("bn", "out"):
        inside.get_layer(name).trainable = True
    model.compile("adam", "mse", run_eagerly=keras.backend.backend() == "tensorflow")
    new = assert_surgery(model, Flatten())
    start = weights_of(model)
    train(model, 2), train(new, 2)
    assert_close(weights_of(new), weights_of(model))
    moved = [not np.array_equal(a, b) for a, b in zip(start, weights_of(model), strict=True)]
    assert moved == [False] * 2 + [True] * 8


def test_frozen_layers_in_a_model_that_is_not_frozen_stay_frozen():
    inside = block("inside")
    inside.get_layer("conv").trainable = False
    new = assert_surgery(randomise(around(inside)), Flatten())
    assert [new.get_layer(name).trainable for name in ("conv", "out")] == [False, True]


def test_a_loss_of_what_nothing_reads():
    inner = keras.Input((4,))
    both = [layers.Dense(4)(inner), layers.Dense(3, name="idle", kernel_regularizer="l2")(inner)]
    inside = keras.Model(inner, both, name="inside")
    features = keras.Input((4,))
    with pytest.raises(EditError, match="Nothing reads what 'idle' computes"):
        resect.adapt.flatten(keras.Model(features, inside(features)[0]))


def test_what_is_not_nested():
    with pytest.raises(NoMatchError, match="'nothing' matches nothing"):
        resect.adapt.flatten(nested(), "nothing")
    with pytest.raises(EditError, match=r"'logits' \(Dense\) is no nested model"):
        resect.adapt.flatten(nested(), "logits")
    with pytest.raises(EditError, match="has no nested model"):
        resect.adapt.flatten(block("flat"))


class Subclassed(keras.Model):
    """No graph."""

    def call(self, inputs: Any) -> Any:
        return inputs * 2


def test_a_subclassed_model_stays():
    model = randomise(around(Subclassed(name="subclassed")))
    with pytest.raises(EditError, match=r"'subclassed' .* is a subclassed model without a graph"):
        resect.adapt.flatten(model, "subclassed")
    with pytest.raises(EditError, match="has no nested model"):
        resect.adapt.flatten(model)


def test_a_template_in_two_places_is_not_made_one():
    extra = randomise(keras.Sequential([keras.Input((8,)), layers.Dense(8)], name="extra"))
    stack = [keras.Input((4,)), layers.Dense(8, name="a"), layers.Dense(8, name="b")]
    plan = resect.plan(keras.Sequential(stack)).insert(extra, after=["a", "b"])
    with pytest.raises(EditError, match=r"'extra.*' was put in, and its layers stand"):
        plan.then(Flatten()).apply()
