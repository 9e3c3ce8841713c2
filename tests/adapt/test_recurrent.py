"""Recurrent layers with states that last from batch to batch, or without."""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from resect.adapt import Recurrent, configure, recurrent
from resect.errors import EditError, NoMatchError, ShapeError
from tests.adapt.models import assert_near, run
from tests.common import assert_equal, mlp, randomise, trained, weights_of
from tests.surgery import assert_surgery

X = np.random.default_rng(0).normal(size=(2, 6, 3)).astype("float32")


def tagger(**first: Any) -> keras.Model:
    """Recurrent layers of several kinds, one of them shared."""
    steps = keras.Input((None, 3), name="steps", **first)
    shared = layers.Dense(4, name="shared")
    x = layers.LSTM(4, return_sequences=True, name="lstm")(steps)
    x = shared(layers.GRU(4, return_sequences=True, name="gru")(x))
    x = layers.SimpleRNN(4, return_sequences=True, name="simple")(shared(x))
    cells = [layers.LSTMCell(3), layers.GRUCell(2)]
    x = layers.RNN(cells, return_sequences=True, name="cells")(x)
    return randomise(keras.Model(steps, layers.Dense(2, name="tags")(x), name="tagger"))


def nested() -> keras.Model:
    inner = keras.Input((None, 3), name="inner")
    x = layers.Bidirectional(layers.LSTM(4, name="each"), name="both")(inner)
    encoder = keras.Model(inner, x, name="encoder")
    steps = keras.Input((5, 3), name="steps")
    return randomise(keras.Model(steps, layers.Dense(2, name="logits")(encoder(steps)), name="net"))


def states(model: Any, name: str) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(s) for s in keras.tree.flatten(model.get_layer(name).states)]


def in_pieces(model: Any, sizes: tuple[int, ...]) -> np.ndarray:
    ends = np.cumsum((0, *sizes))
    pieces = [X[:, a:b] for a, b in itertools.pairwise(ends)]
    return np.concatenate([run(model, piece) for piece in pieces], axis=1)


@pytest.mark.parametrize("weights", ["copy", "share"])
def test_a_sequence_in_pieces_is_the_whole_sequence(weights):
    model = tagger()
    new = recurrent(model, stateful=True, batch_size=2, weights=weights)
    assert new.input_shape == (2, None, 3)
    expected = run(model, X)
    assert_near(in_pieces(new, (1, 1, 1, 1, 1, 1)), expected)
    for layer in new.layers:
        if hasattr(layer, "reset_state") and layer.name != "cells":  # Keras fails on several cells
            layer.reset_state()
    for state in keras.tree.flatten(new.get_layer("cells").states):
        state.assign(keras.ops.zeros_like(state.value))
    assert_near(in_pieces(new, (2, 1, 3)), expected)
    assert_equal(weights_of(new), weights_of(model))


def test_stateless_again_for_batches_of_any_size():
    model = recurrent(tagger(), stateful=True, batch_size=2)
    expected = run(model, X)
    new = assert_surgery(model, Recurrent(False))
    assert new.input_shape == (None, None, 3)
    for _ in range(2):
        assert_near(run(new, X), expected)
    assert_near(run(new, X[:1]), expected[:1])


def test_states_go_on_where_the_batch_size_stays():
    model = recurrent(tagger(), stateful=True, batch_size=2)
    run(model, X[:, :3])
    again = recurrent(model, stateful=True)
    assert_equal(states(again, "lstm"), states(model, "lstm"))
    assert_near(run(again, X[:, 3:]), run(model, X[:, 3:]))
    larger = recurrent(model, stateful=True, batch_size=3)
    assert [state.shape for state in states(larger, "lstm")] == [(3, 4), (3, 4)]
    assert not np.any(states(larger, "lstm"))


def test_only_some_layers():
    new = recurrent(tagger(batch_size=2), stateful=True, where="gru")
    assert [new.get_layer(name).stateful for name in ("lstm", "gru")] == [False, True]
    both = recurrent(new, stateful=True, where="lstm")
    assert recurrent(both, stateful=False, where="gru").input_shape == (2, None, 3)


def test_wrappers_in_nested_models():
    model = nested()
    new = assert_surgery(model, Recurrent(True, 2), training=False)
    both = new.get_layer("encoder").get_layer("both")
    assert [both.forward_layer.stateful, both.backward_layer.stateful] == [True, True]
    assert new.get_layer("encoder").input_shape == (2, None, 3)
    back = recurrent(new, stateful=False)
    assert_near(run(back, X[:, :5]), run(model, X[:, :5]))


def test_maps_over_time():
    video = keras.Input((4, 5, 5, 2), name="video")
    x = layers.ConvLSTM2D(3, 2, return_sequences=True, name="maps")(video)
    model = randomise(keras.Model(video, x, name="video_net"))
    new = recurrent(model, stateful=True, batch_size=2)
    frames = np.random.default_rng(0).normal(size=(2, 4, 5, 5, 2)).astype("float32")
    assert_near(run(new, frames), run(model, frames))
    assert states(new, "maps")[0].shape == (2, 4, 4, 3)


def test_training_goes_on():
    model = trained(nested(), "adam", steps=2)
    new = recurrent(model, stateful=True, batch_size=2)
    assert int(new.optimizer.iterations) == 2
    if keras.backend.backend() == "torch":  # Keras cannot train any stateful layer there
        return
    new.fit(X[:, :5], np.ones((2, 2)), batch_size=2, verbose=0)


def test_configure_makes_states_too():
    new = configure(tagger(batch_size=2), "lstm", stateful=True)
    assert [state.shape for state in states(new, "lstm")] == [(2, 4), (2, 4)]
    with pytest.raises(ShapeError, match="it is stateful, which needs inputs of a fixed batch"):
        configure(tagger(), "lstm", stateful=True)


def test_what_is_refused():
    with pytest.raises(EditError, match="Input 'steps' takes batches of any size"):
        recurrent(tagger(), stateful=True)
    with pytest.raises(EditError, match=r"'shared@0' \(Dense\) is no recurrent layer"):
        recurrent(tagger(), stateful=False, where="shared@0")
    with pytest.raises(EditError, match="'mlp' has no recurrent layer"):
        recurrent(mlp(), stateful=True)
    with pytest.raises(NoMatchError, match="'rnn'"):
        recurrent(tagger(), stateful=True, where="rnn")


class Sealed(layers.SimpleRNN):
    """A recurrent layer that nothing describes."""

    def get_config(self):
        raise NotImplementedError


def test_a_recurrent_layer_without_a_configuration_is_refused_and_not_passed_over():
    stack = [keras.Input((5, 3)), layers.LSTM(4, return_sequences=True, name="lstm")]
    model = keras.Sequential([*stack, Sealed(2, name="sealed")], name="with_sealed")
    with pytest.raises(EditError, match=r"'sealed' \(Sealed\)"):
        recurrent(model, stateful=True, batch_size=2)
