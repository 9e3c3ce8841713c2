"""How do I improve a model by removing and adding layers, without training it from scratch?"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import resect
from tests.common import (
    assert_close,
    assert_equal,
    cnn,
    data_for,
    functional_mlp,
    mlp,
    predictions,
    primed,
    train,
)
from tests.surgery import Source
from zoo.randomise import randomise


def uneven() -> keras.Sequential:
    """Three dense layers of different widths: without the middle one, the last does not fit."""
    stack = [
        keras.Input((6,), name="features"),
        layers.Dense(8, activation="relu", name="hidden"),
        layers.Dense(5, activation="relu", name="middle"),
        layers.Dense(3, name="logits"),
    ]
    return randomise(keras.Sequential(stack, name="uneven"))


# The middle Dense goes


def test_without_the_middle_layer_the_last_one_does_not_fit():
    model = primed(uneven())
    before = Source.of(model)
    with pytest.raises(resect.errors.ShapeError) as caught:
        resect.remove(model, "middle")
    assert str(caught.value) == (
        "Cannot remove 'middle'.\n"
        "  'logits' (Dense) was fed (None, 5) and would be fed (None, 8) from 'hidden': its kernel "
        "is (5, 3) and would have to be (8, 3).\n"
        '  Let such layers start afresh with on_mismatch="reinit", or have a projection inserted '
        'with on_mismatch="adapt".'
    )
    before.assert_untouched()


def test_the_last_layer_starts_afresh():
    model = primed(uneven())
    plan = resect.plan(model).remove("middle", on_mismatch="reinit")
    new = plan.apply()

    assert [tuple(v.shape) for v in new.weights] == [(6, 8), (8,), (8, 3), (3,)]
    assert_equal(new.get_layer("hidden").get_weights(), model.get_layer("hidden").get_weights())
    assert isinstance(new, keras.Sequential)
    assert "logits starts afresh" in str(plan)
    resect.verify(model, new, plan=plan)
    train(new)


def test_a_projection_lets_all_weights_stay():
    model = primed(uneven())
    plan = resect.plan(model).remove("middle", on_mismatch="adapt")
    new = plan.apply()

    assert [layer.name for layer in new.layers] == ["hidden", "hidden_projection", "logits"]
    for name in ("hidden", "logits"):
        assert_equal(new.get_layer(name).get_weights(), model.get_layer(name).get_weights())
    assert "hidden_projection is inserted: it projects (None, 8) to (None, 5)" in str(plan)
    resect.verify(model, new, plan=plan)
    train(new)


def test_where_it_fits_nothing_else_changes():
    model = mlp()
    new = resect.remove(model, "middle")
    hidden = model.get_layer("hidden")(data_for(model)[0])
    expected = keras.ops.convert_to_numpy(model.get_layer("logits")(hidden))
    assert_close(predictions(new), expected)


# Layers come in


def test_a_convolution_before_the_flatten():
    model = primed(cnn())
    layer = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv_3")
    plan = resect.plan(model).insert(layer, before="flatten")
    new = plan.apply()

    names = [each.name for each in new.layers]
    assert names[names.index("flatten") - 1] == "conv_3"
    assert isinstance(new, keras.Sequential)
    assert not layer.built  # what was passed in is a template
    resect.verify(model, new, plan=plan)
    train(new)


def test_a_convolution_that_changes_the_shape_says_what_no_longer_fits():
    with pytest.raises(resect.errors.ShapeError, match=r"'dense' \(Dense\) was fed \(None, 16\)"):
        resect.insert(cnn(), layers.Conv2D(7, 3, padding="same"), before="flatten")


@pytest.mark.parametrize("build", [mlp, functional_mlp])
def test_dropout_after_chosen_dense_layers(build):
    model = primed(build())
    chosen = resect.select(layers.Dense) & (lambda layer: layer.units > 4)
    plan = resect.plan(model).insert(layers.Dropout(0.5, name="drop"), after=chosen.expect(2))
    new = plan.apply()

    names = [each.name for each in new.layers if not isinstance(each, layers.InputLayer)]
    assert names == ["hidden", "drop", "middle", "drop_1", "logits"]
    assert new.get_layer("drop") is not new.get_layer("drop_1")
    assert_close(predictions(new), predictions(model))  # does nothing in inference
    resect.verify(model, new, plan=plan)
    inputs, _ = data_for(model)
    noisy = keras.ops.convert_to_numpy(new(inputs, training=True))
    assert np.abs(noisy - predictions(model)).max() > 1e-3
    train(new)


def test_a_dropout_rate_that_depends_on_the_place():
    def dropout(site: resect.Site) -> layers.Layer:
        return layers.Dropout(0.5 if site.shape[-1] > 4 else 0.1, name=f"{site.layer.name}_drop")

    new = resect.insert(mlp(), dropout, after=layers.Dense)
    rates = {each.name: each.rate for each in new.layers if isinstance(each, layers.Dropout)}
    assert rates == {"hidden_drop": 0.5, "middle_drop": 0.5, "logits_drop": 0.1}


def test_a_bottleneck():
    model = primed(mlp())
    bottleneck = [layers.Dense(2, "relu", name="squeeze"), layers.Dense(8, name="expand")]
    plan = resect.plan(model).insert(bottleneck, between=("hidden", "middle"))
    new = plan.apply()

    names = [each.name for each in new.layers]
    assert names == ["hidden", "squeeze", "expand", "middle", "logits"]
    resect.verify(model, new, plan=plan)
    train(new)


def test_a_bottleneck_whose_width_follows_the_place():
    def bottleneck(site: resect.Site) -> list[layers.Layer]:
        width = site.shape[-1]
        return [layers.Dense(width // 2, "relu"), layers.Dense(width)]

    new = resect.insert(mlp(), bottleneck, after="hidden")
    assert [each.units for each in new.layers] == [8, 4, 8, 8, 3]


@pytest.mark.parametrize("build", [mlp, functional_mlp])
def test_a_residual_connection_around_a_layer(build):
    model = primed(build())
    before = Source.of(model)
    plan = resect.plan(model).insert(layers.Add(name="add"), after="middle", merge_with="hidden")
    new = plan.apply()

    before.assert_untouched()
    assert type(new).__name__ == "Functional"  # no longer a chain
    resect.verify(model, new, plan=plan)
    hidden = model.get_layer("hidden")(data_for(model)[0])
    summed = model.get_layer("middle")(hidden) + hidden
    expected = keras.ops.convert_to_numpy(model.get_layer("logits")(summed))
    assert_close(predictions(new), expected)
    train(new)


def test_a_sequential_with_a_residual_connection_says_what_it_becomes():
    plan = resect.plan(mlp()).insert(layers.Add(), after="middle", merge_with="hidden")
    assert "note: Sequential 'mlp' becomes a plain Functional model" in str(plan)


@pytest.mark.parametrize("build", [mlp, functional_mlp])
def test_batch_normalization(build):
    model = primed(build())
    plan = resect.plan(model).insert(layers.BatchNormalization(name="norm"), after="hidden")
    new = plan.apply()

    fresh = new.get_layer("norm")
    assert_equal([fresh.moving_variance], [np.ones(8, "float32")])
    resect.verify(model, new, plan=plan)
    train(new)
    assert np.abs(np.asarray(keras.ops.convert_to_numpy(fresh.moving_mean))).max() > 0


def test_everything_at_once():
    model = primed(cnn())
    plan = (
        resect.plan(model)
        .insert(layers.BatchNormalization(), after=layers.Conv2D)
        .replace(layers.MaxPooling2D, lambda old: layers.AveragePooling2D(2, name=old.name))
        .insert(layers.Dropout(0.2, name="drop"), before="logits")
        .remove("dense", on_mismatch="reinit")
        .rename({"logits": "classes"})
    )
    new = plan.apply()

    assert [type(each).__name__ for each in new.layers] == [
        "Conv2D", "BatchNormalization", "AveragePooling2D",
        "Conv2D", "BatchNormalization", "AveragePooling2D",
        "Flatten", "Dropout", "Dense",
    ]  # fmt: skip
    assert new.layers[-1].name == "classes"
    resect.verify(model, new, plan=plan)
    train(new)
