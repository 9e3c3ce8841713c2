"""Group or layer normalization instead of batch normalization, or none."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

import resect
from resect.adapt import Normalization
from resect.errors import EditError
from tests.adapt.models import assert_near, images, layer_of, mobilenet, run, transfer
from tests.common import mlp, randomise, trained
from tests.surgery import assert_surgery

CLASSES = {"group": layers.GroupNormalization, "layer": layers.LayerNormalization}


def called_with_everything() -> keras.Model:
    """A normalization that is called with `training` and with a mask."""
    ids = keras.Input((5,), dtype="int32", name="ids")
    x = layers.Embedding(50, 6, mask_zero=True, name="words")(ids)
    x = layers.BatchNormalization(name="norm")(x, training=False)
    return randomise(keras.Model(ids, layers.LSTM(3, name="lstm")(x), name="masked"))


@pytest.mark.parametrize("to", ["group", "layer"])
@pytest.mark.parametrize("make", [transfer, called_with_everything])
def test_it_builds_trains_and_saves(make, to):
    model = trained(make(), steps=1)
    new = assert_surgery(model, Normalization(to), training=make is transfer)
    found = [la for la in new._flatten_layers() if type(la) is CLASSES[to]]
    assert len(found) == 1


def test_scale_and_offset_stay():
    model = transfer()
    new = resect.adapt.normalization(model, "group", groups=2)
    old, now = layer_of(model, "base/norm"), layer_of(new, "base/norm")
    for name in ("gamma", "beta"):
        np.testing.assert_array_equal(
            *(ops.convert_to_numpy(getattr(each, name)) for each in (old, now))
        )
    assert (now.groups, len(now.variables)) == (2, 2)
    assert not now.trainable


def test_every_one_of_an_application_becomes_what_it_says():
    model = mobilenet()
    new = resect.adapt.normalization(model, "layer")
    count = sum(isinstance(layer, layers.BatchNormalization) for layer in model.layers)
    assert sum(isinstance(layer, layers.LayerNormalization) for layer in new.layers) == count > 50
    x = images(model)
    inner = keras.Model(model.input, model.get_layer("Conv1").output)
    layer = new.get_layer("bn_Conv1")
    features = keras.Model(new.input, layer.output)
    convolved = run(inner, x)
    mean, var = convolved.mean(-1, keepdims=True), convolved.var(-1, keepdims=True)
    gamma, beta = (ops.convert_to_numpy(v) for v in layer.weights)
    expected = (convolved - mean) / np.sqrt(var + layer.epsilon) * gamma + beta
    assert_near(run(features, x), expected, 1e-4)


def test_out_of_the_model():
    new = assert_surgery(transfer(), Normalization(None))
    assert not [la for la in new._flatten_layers() if isinstance(la, layers.BatchNormalization)]


def test_groups_divide_the_channels():
    stack = [keras.Input((30,)), layers.BatchNormalization(name="norm")]
    model = randomise(keras.Sequential(stack))
    assert resect.adapt.normalization(model, "group").get_layer("norm").groups == 2


def test_what_is_refused():
    with pytest.raises(EditError, match=r"There is no BatchNormalization in 'mlp'"):
        resect.adapt.normalization(mlp(), "group")
    with pytest.raises(ValueError, match="to must be"):
        Normalization("batch")
