"""What choices come to, and when two variants are the same one."""

from __future__ import annotations

import keras
import pytest
from keras import layers

import resect
from resect.search import Activation, Bottleneck, Dropout, Normalization, OneOf, Remove
from resect.search.space import Space, variant_key
from tests.common import cnn, functional_mlp, mlp, two_branches
from tests.search import models
from tests.shrink.models import classifier
from tests.surgery import assert_surgery

optuna = pytest.importorskip("optuna")


def planned(model, space, **params):
    """The plan that a trial with these parameters comes to."""
    plan = resect.plan(model)
    trial = optuna.trial.FixedTrial({name.replace("__", " "): v for name, v in params.items()})
    return Space.of(space).plan(trial, plan)


def key_of(model, space, **params):
    plan = planned(model, space, **params)
    return variant_key(plan.result, params)


def names(model):
    return [layer.name for layer in model.layers]


def test_remove_takes_blocks_out_wherever_they_stand():
    params = {"remove": 2, "remove__1": "block_1", "remove__2": "block_2"}
    plan = planned(models.bare(), Remove(), **params)
    new = assert_surgery(models.bare(), plan.edits and (lambda p: p.then(*plan.edits)))
    assert [n for n in names(new) if n.startswith("block_")] == ["block_0", "block_3"]
    chosen = resect.blocks(models.bare()).level("block")[1:2]
    assert Remove(chosen)._named(resect.plan(models.bare())).keys() == {"block_1"}


@pytest.mark.parametrize("count", [0, 1, 2])
def test_remove_chooses_a_number_first(count):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=count))
    seen = set()
    for _ in range(12):
        trial = study.ask()
        Remove(at_most=count)(trial, resect.plan(models.bare()))
        assert trial.params["remove"] <= count
        assert len(trial.params) == trial.params["remove"] + 1
        seen.add(trial.params["remove"])
    assert seen == set(range(count + 1))


def test_half_of_the_blocks_may_go_and_at_least_one():
    for scales, most in (((0.5,), 1), ((0.5,) * 5, 2)):
        study = optuna.create_study()
        trial = study.ask()
        Remove()(trial, resect.plan(classifier(scales, compiled=False)))
        assert trial.distributions["remove"].high == most


def test_dropout_stands_where_it_is_asked_for_and_passes_over_what_has_gone():
    params = {"remove": 1, "remove__1": "block_1"}
    space = [Remove(), Dropout("block_*", rates=(0.0, 0.5))]
    rates = {"dropout__block_0": 0.5, "dropout__block_2": 0.0, "dropout__block_3": 0.5}
    new = planned(models.bare(), space, **params, **rates).apply()
    dropped = [layer for layer in new.layers if layer.name.endswith("_dropout")]
    assert [layer.name for layer in dropped] == ["block_0_dropout", "block_3_dropout"]
    assert [layer.rate for layer in dropped] == [0.5, 0.5]


def test_dropout_of_another_class_and_together():
    space = Dropout("conv_*", (0.2,), together=True, layer=layers.SpatialDropout2D)
    new = planned(cnn(), space, dropout=0.2).apply()
    assert [la.rate for la in new.layers if isinstance(la, layers.SpatialDropout2D)] == [0.2] * 2


@pytest.mark.parametrize(
    ("kind", "cls"),
    [
        ("batch", layers.BatchNormalization),
        ("layer", layers.LayerNormalization),
        ("group", layers.GroupNormalization),
        (None, None),
    ],
)
def test_normalization(kind, cls):
    space = Normalization("conv_*", (None, "batch", "layer", "group"), together=True)
    plan = planned(cnn(), space, normalization=kind)
    new = plan.apply()
    found = [layer for layer in new.layers if layer.name.endswith("_normalization")]
    assert {type(layer) for layer in found} == ({cls} if cls else set())
    assert len(found) == (2 if cls else 0)
    if kind == "group":
        assert [layer.groups for layer in found] == [3, 4]


def test_normalization_of_channels_in_front():
    image = keras.Input((3, 8, 8))
    x = layers.Conv2D(4, 3, data_format="channels_first", name="conv")(image)
    model = keras.Model(image, x)
    for kind in ("batch", "group"):
        plan = planned(model, Normalization("conv", (kind,)), normalization__conv=kind)
        assert plan.apply().layers[-1].axis == 1
    with pytest.raises(ValueError, match="not 'instance'"):
        Normalization("conv", ("instance",))


def test_new_layers_compute_in_the_dtype_of_the_place():
    features = keras.Input((4,), name="features")
    x = layers.Dense(4, dtype="mixed_bfloat16", name="hidden")(features)
    model = keras.Model(features, layers.Dense(2, name="logits")(x))
    space = [Dropout("hidden", (0.5,)), Normalization("hidden", ("batch",))]
    chosen = {"dropout__hidden": 0.5, "normalization__hidden": "batch"}
    new = planned(model, space, **chosen).apply()
    assert [layer.compute_dtype for layer in new.layers[1:4]] == ["bfloat16"] * 3
    assert {variable.dtype for variable in new.weights} == {"float32"}


def test_bottlenecks_change_nothing_until_they_are_trained():
    space = Bottleneck("hidden", sizes=(0, 4))
    new = assert_surgery(
        functional_mlp(),
        lambda plan: plan.then(*planned(functional_mlp(), space, bottleneck__hidden=4).edits),
    )
    assert new.count_params() > functional_mlp().count_params()


def test_activations_together_and_one_by_one():
    new = planned(mlp(), Activation("relu", ("gelu",)), activation="gelu").apply()
    assert [layer.activation.__name__ for layer in new.layers] == ["gelu", "gelu", "linear"]
    space = Activation("relu", ("gelu",), together=False)
    chosen = {"activation__hidden": "relu", "activation__middle": "gelu"}
    new = planned(mlp(), space, **chosen).apply()
    assert [layer.activation.__name__ for layer in new.layers] == ["relu", "gelu", "linear"]
    with pytest.raises(resect.errors.NoMatchError, match="has the activation 'swish'"):
        planned(mlp(), Activation("swish"))


def test_one_of():
    head = OneOf("head", {"as it is": None, "off": lambda plan: plan.pop()})
    assert planned(mlp(), head, head="as it is").edits == ()
    assert len(planned(mlp(), head, head="off").apply().layers) == 2


def test_a_function_of_a_trial_and_a_plan():
    def space(trial, plan):
        rate = trial.suggest_float("rate", 0.1, 0.5)
        return plan.insert(layers.Dropout(rate), after="hidden")

    new = planned(mlp(), space, rate=0.25).apply()
    assert new.layers[1].rate == 0.25


def test_calls_of_shared_layers():
    with pytest.raises(resect.errors.AmbiguousError, match="'shared@0' or 'shared@1'"):
        planned(two_branches(), Dropout("shared"))
    new = planned(two_branches(), Dropout("shared@1", (0.5,)), **{"dropout__shared@1": 0.5})
    assert len(new.edits) == 1


def test_places_in_nested_models():
    inner = functional_mlp()
    outer = keras.Sequential([keras.Input((6,)), inner, layers.Dense(2, name="head")])
    plan = planned(outer, Dropout("mlp/hidden", (0.5,)), **{"dropout__mlp/hidden": 0.5})
    assert "hidden_dropout" in names(plan.apply().layers[0])


# The same variant


def test_the_order_in_which_blocks_go_and_what_layers_are_called_do_not_matter():
    one, other = dict(remove__1="block_1", remove__2="block_2"), dict(remove__1="block_2")
    model = models.bare()
    key = key_of(model, Remove(), remove=2, **one)
    assert key == key_of(model, Remove(), remove=2, remove__2="block_1", **other)
    assert key != key_of(model, Remove(), remove=1, **other)

    def named(name):
        return lambda trial, plan: plan.insert(layers.Dropout(0.5, name=name), after="block_0")

    assert key_of(model, named("one")) == key_of(model, named("other"))


@pytest.mark.parametrize(
    "layer",
    [
        layers.Dropout(0.4),
        layers.GaussianDropout(0.5),
        layers.Dropout(0.5, seed=1),
        layers.Dropout(0.5, dtype="float64"),
    ],
)
def test_what_layers_do_matters(layer):
    def with_layer(layer, after="block_0"):
        return lambda trial, plan: plan.insert(layer, after=after)

    model = models.bare()
    key = key_of(model, with_layer(layers.Dropout(0.5)))
    assert key != key_of(model, with_layer(layer))
    assert key != key_of(model, with_layer(layers.Dropout(0.5), "block_1"))
    assert key != key_of(model, lambda trial, plan: plan)


def test_what_cannot_be_written_down_is_told_apart_by_what_was_chosen():
    def space(trial, plan):
        scale = trial.suggest_float("scale", 0, 1)
        return plan.insert(layers.Lambda(lambda x: x * scale), after="block_0")

    model = models.bare()
    assert key_of(model, space, scale=0.5) != key_of(model, space, scale=0.25)
    assert key_of(model, space, scale=0.5) == key_of(model, space, scale=0.5)


def test_classes_of_the_users_own_are_told_apart_by_what_was_chosen():
    def space(trial, plan):
        scale = trial.suggest_float("scale", 0, 1)

        class Scaled(layers.Layer):
            def call(self, x):
                return x * scale

        return plan.insert(Scaled(), after="block_0")

    model = models.bare()
    assert key_of(model, space, scale=0.5) != key_of(model, space, scale=0.25)


def test_whose_weights_a_layer_takes_over_matters():
    def anew(trial, plan):
        new = layers.Dense(6, activation="tanh", name="inner_0")
        return plan.remove("inner_0").insert(new, after="features", on_mismatch="reinit")

    def between(trial, plan):
        new = layers.Dense(6, activation="tanh", name="inner_0")
        return plan.remove("inner_0").insert(new, between=("features", "dropout_0"))

    def replaced(trial, plan):
        return plan.replace("inner_0", layers.Dense(6, activation="tanh", name="inner_0"))

    model = models.bare()
    keys = {key_of(model, space) for space in (anew, between, replaced)}
    assert len(keys) == 3


def test_a_layer_that_was_renamed_is_still_the_one_that_it_was():
    stack = [keras.Input((4,)), layers.Dense(4, name="a"), layers.Dense(4, name="b")]
    model = keras.Sequential(stack)
    first = key_of(model, lambda trial, plan: plan.remove("b"))
    second = key_of(model, lambda trial, plan: plan.remove("a").rename({"b": "a"}))
    assert first != second


def test_weights_of_new_layers_matter():
    def with_values(value):
        layer = layers.Dense(6, kernel_initializer=keras.initializers.Constant(value))
        layer.build((None, 6))
        return lambda trial, plan: plan.insert(layer, after="block_0")

    model = models.bare()
    same = [key_of(model, with_values(value)) for value in (1.0, 1.0, 2.0)]
    assert same[0] == same[1] != same[2]
