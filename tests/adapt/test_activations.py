"""Other activations, wherever they stand."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import resect
from resect.adapt import Activations
from resect.errors import EditError, NoMatchError
from tests.adapt.models import images, layer_of, mobilenet, run, transfer
from tests.common import mlp, randomise
from tests.surgery import assert_surgery


def everywhere() -> keras.Model:
    """ReLUs as arguments, layers and operations, in wrappers and nested models."""
    x = sequence = keras.Input((4, 6), name="sequence")
    x = layers.TimeDistributed(layers.Dense(6, activation="relu", name="in"), name="timed")(x)
    x = layers.TimeDistributed(layers.ReLU(name="relu_in"), name="timed_relu")(x)
    x = layers.Bidirectional(layers.SimpleRNN(3, activation="relu", name="rnn"), name="both")(x)
    x = layers.Activation("relu", name="act")(x)
    x = layers.ReLU(name="layer")(x)
    x = ops.relu(layers.Dense(6, name="dense")(x))
    inner = keras.Sequential(
        [keras.Input((6,)), layers.Dense(5, activation="relu", name="deep")], name="inner"
    )
    x = layers.Dense(3, activation="softmax", name="classes")(inner(x))
    return randomise(keras.Model(sequence, x, name="everywhere"))


def _activations(config: Any) -> list[str]:
    """Every activation in a configuration, found without the code under test."""
    found = []
    if isinstance(config, dict):
        if config.get("class_name") in ("ReLU", "Relu"):
            found.append("relu")
        found += [v for k, v in config.items() if k == "activation" and isinstance(v, str)]
        config = list(config.values())
    if isinstance(config, (list, tuple)):
        found += [name for item in config for name in _activations(item)]
    return found


def test_all_of_them_are_found_at_any_depth():
    model = everywhere()
    assert _activations(model.get_config()).count("relu") == 8  # both directions of the RNN
    new = assert_surgery(model, Activations((("relu", "tanh"),)))
    after = _activations(new.get_config())
    assert "relu" not in after
    assert after.count("tanh") == 8
    assert after.count("softmax") == 1


def test_what_is_computed_is_what_the_new_activation_says():
    model = mlp()
    new = resect.adapt.activations(model, {"relu": "tanh"})
    x = images(model)
    expected = x
    for name in ("hidden", "middle", "logits"):
        kernel, bias = (ops.convert_to_numpy(v) for v in model.get_layer(name).weights)
        expected = expected @ kernel + bias
        expected = expected if name == "logits" else np.tanh(expected)
    np.testing.assert_allclose(run(new, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weights", ["copy", "share"])
def test_only_where_it_is_said(weights):
    new = assert_surgery(mlp(), Activations((("relu", "gelu"),), where="middle"), weights=weights)
    names = [new.get_layer(name).activation.__name__ for name in ("hidden", "middle", "logits")]
    assert names == ["relu", "gelu", "linear"]


def test_layers_of_their_own_become_activation_layers():
    x = features = keras.Input((6,), name="features")
    for layer in (
        layers.LeakyReLU(name="leaky"),
        layers.PReLU(name="prelu"),
        layers.ELU(name="elu"),
        layers.ReLU(6.0, name="relu6"),
        layers.ReLU(negative_slope=0.3, name="odd"),
    ):
        x = layer(layers.Dense(6, name=f"before_{layer.name}")(x))
    model = randomise(keras.Model(features, x, name="activated"))
    swap = dict.fromkeys(("leaky_relu", "prelu", "elu", "relu6"), "silu")
    new = assert_surgery(model, Activations(tuple(swap.items())))
    kinds = {name: type(new.get_layer(name)).__name__ for name in ("leaky", "prelu", "elu")}
    assert set(kinds.values()) == {"Activation"}
    assert type(new.get_layer("odd")) is layers.ReLU  # which is no relu
    assert new.count_params() == model.count_params() - 6


def test_recurrent_activations():
    model = keras.Sequential([keras.Input((4, 6)), layers.LSTM(3, name="lstm")], name="steps")
    new = assert_surgery(randomise(model), Activations((("sigmoid", "hard_sigmoid"),)))
    assert new.get_layer("lstm").recurrent_activation.__name__ == "hard_sigmoid"
    assert new.get_layer("lstm").activation.__name__ == "tanh"


def test_an_application_and_a_frozen_base():
    model = mobilenet()
    new = resect.adapt.activations(model, {"relu6": "hard_swish"})
    assert not any(layer.get_config().get("max_value") == 6 for layer in new.layers)
    assert not np.allclose(run(new, images(model)), run(model, images(model)))
    new = assert_surgery(transfer(), Activations((("relu", "silu"),)))
    assert layer_of(new, "base/act").activation.__name__ == "silu"
    assert not layer_of(new, "base").trainable


def test_a_function():
    model = mlp()
    new = resect.adapt.activations(model, {"relu": keras.activations.mish}, where="hidden")
    assert new.get_layer("hidden").activation is keras.activations.mish


def test_what_is_refused():
    with pytest.raises(EditError) as caught:
        resect.adapt.activations(mlp(), {"gelu": "relu"})
    assert str(caught.value) == (
        "Cannot replace gelu by relu.\n"
        "  No layer has the activation 'gelu'.\n"
        "  There are: linear, relu."
    )
    with pytest.raises(NoMatchError):
        resect.adapt.activations(mlp(), {"relu": "gelu"}, where="nothing")


class Sealed(layers.Layer):
    """A layer that nothing describes, with an activation."""

    def __init__(self, secret: object, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.secret, self.activation = secret, keras.activations.get("relu")

    def call(self, x: Any) -> Any:
        return self.activation(x)


def test_a_layer_without_a_configuration_is_refused_and_not_passed_over():
    stack = [keras.Input((4,)), layers.Dense(3, activation="relu", name="dense")]
    model = keras.Sequential(
        [*stack, Sealed(np.random.default_rng(0), name="sealed")], name="with_sealed"
    )
    with pytest.raises(EditError, match=r"'sealed' \(Sealed\)"):
        resect.adapt.activations(model, {"relu": "silu"})
    new = resect.adapt.activations(model, {"relu": "silu"}, where="dense")
    assert new.get_layer("dense").activation is keras.activations.silu
