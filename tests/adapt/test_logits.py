"""The final softmax or sigmoid off."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

import resect
from resect.adapt import Logits
from resect.errors import EditError
from tests.adapt.models import images, mobilenet, run, transfer
from tests.common import mlp, randomise, trained
from tests.surgery import assert_surgery


def ending(how: str) -> keras.Model:
    x = features = keras.Input((6,), name="features")
    x = layers.Dense(8, activation="relu", name="hidden")(x)
    if how == "argument":
        x = layers.Dense(3, activation="softmax", name="classes")(x)
    elif how == "sigmoid":
        x = layers.Dense(3, activation="sigmoid", name="classes")(x)
    elif how == "Activation":
        x = layers.Activation("softmax", name="act")(layers.Dense(3, name="classes")(x))
    elif how == "Softmax":
        x = layers.Softmax(name="act")(layers.Dense(3, name="classes")(x))
    elif how == "operation":
        x = ops.softmax(layers.Dense(3, name="classes")(x))
    elif how == "nested":
        stack = [keras.Input((8,)), layers.Dense(3, name="classes"), layers.Softmax(name="act")]
        x = keras.Sequential(stack, name="head")(x)
    return randomise(keras.Model(features, x, name="ending"))


@pytest.mark.parametrize(
    "how", ["argument", "sigmoid", "Activation", "Softmax", "operation", "nested"]
)
def test_the_activation_of_the_new_is_the_old(how):
    model = ending(how)
    new = assert_surgery(model, Logits())
    activation = ops.sigmoid if how == "sigmoid" else ops.softmax
    x = images(model)
    found = ops.convert_to_numpy(activation(new(x)))
    np.testing.assert_allclose(found, run(model, x), rtol=1e-5, atol=1e-6)
    assert not np.allclose(run(new, x), run(model, x))


def test_an_application():
    model = mobilenet()
    new = resect.adapt.logits(model)
    x = images(model)
    found = ops.convert_to_numpy(ops.softmax(new(x)))
    np.testing.assert_allclose(found, run(model, x), rtol=1e-5, atol=1e-6)
    assert [v.path for v in new.variables] == [v.path for v in model.variables]


def test_every_output_that_has_one():
    features = keras.Input((6,), name="features")
    outputs = {
        "kind": layers.Dense(3, activation="softmax", name="kind")(features),
        "size": layers.Dense(1, name="size")(features),
        "seen": layers.Dense(1, activation="sigmoid", name="seen")(features),
    }
    new = assert_surgery(randomise(keras.Model(features, outputs, name="several")), Logits())
    names = ("kind", "size", "seen")
    assert {new.get_layer(name).activation.__name__ for name in names} == {"linear"}


def test_its_loss_was_made_for_probabilities_so_it_is_not_compiled():
    model = trained(transfer(), loss="categorical_crossentropy")
    plan = resect.plan(model).then(Logits())
    assert "compile state: not carried, its loss was made for probabilities" in plan.notes
    assert not plan.apply().compiled


def test_a_model_without_one_is_refused():
    with pytest.raises(EditError) as caught:
        resect.adapt.logits(mlp())
    assert str(caught.value) == (
        "Cannot return logits.\n"
        "  No output ends with a softmax or sigmoid: they come from 'logits' (Dense, linear).\n"
        "  They may be logits already."
    )


def test_probabilities_that_are_read_inside_too_are_left():
    features = keras.Input((6,), name="features")
    kind = layers.Dense(3, activation="softmax", name="kind")(features)
    model = keras.Model(features, [kind, layers.Dense(2, name="more")(kind)], name="twice")
    with pytest.raises(EditError, match="'kind' makes an output, and 'kind' is read inside"):
        resect.adapt.logits(model)


def test_a_head_that_is_called_twice_is_left():
    one, other = (keras.Input((6,), name=name) for name in ("one", "other"))
    head = layers.Dense(3, activation="softmax", name="head")
    model = keras.Model([one, other], [head(one), head(other)], name="siamese")
    with pytest.raises(EditError, match="'head' is called several times"):
        resect.adapt.logits(model)
