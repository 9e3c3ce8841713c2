"""Why does `model.pop()` fail? (A trained Sequential loses a layer, and then cannot `fit`.)"""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest

import resect
from tests.common import (
    assert_close,
    data_for,
    functional_mlp,
    mlp,
    predictions,
    primed,
    train,
    trained,
    weights_of,
)
from tests.surgery import Source


def by_hand(model: keras.Model, n: int) -> np.ndarray:
    """What the model computes without its last `n` layers."""
    x, _ = data_for(model)
    for layer in model.layers[:-n]:
        if not isinstance(layer, keras.layers.InputLayer):
            x = layer(x)
    return keras.ops.convert_to_numpy(x)


@pytest.mark.parametrize("build", [mlp, functional_mlp])
@pytest.mark.parametrize("n", [1, 2])
def test_pop_returns_a_new_model_without_the_last_layers(build, n):
    model = primed(build())
    before = Source.of(model)

    new = resect.pop(model, n)

    before.assert_untouched()
    assert [layer.name for layer in new.layers] == [layer.name for layer in model.layers][:-n]
    assert type(new) is type(model)
    resect.verify(model, new, plan=resect.plan(model).pop(n))
    inputs, _ = data_for(model)
    assert_close(np.asarray(new.predict(inputs, verbose=0)), by_hand(model, n))


def test_what_is_left_is_compiled_and_fits_while_the_original_stays_alive():
    model = trained(mlp(), run_eagerly=False)
    expected = predictions(model)

    new = resect.pop(model)
    assert new.compiled
    assert new.loss == "mse"
    weights = weights_of(new)
    inputs, targets = data_for(new)
    new.fit(inputs, targets, epochs=2, verbose=0)

    assert not all(np.array_equal(a, b) for a, b in zip(weights, weights_of(new), strict=True))
    np.testing.assert_array_equal(predictions(model), expected)
    train(model)  # the original trains on, too


def test_an_uncompiled_model_pops_and_stays_uncompiled():
    model = mlp()
    new = resect.pop(model)
    assert not new.compiled
    assert new.output_shape == (None, 8)
    resect.verify(model, new, plan=resect.plan(model).pop())


@pytest.mark.parametrize("build", [mlp, functional_mlp])
def test_a_loaded_model_pops_takes_two_layers_and_fits(build, tmp_path: pathlib.Path):
    trained(build()).save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    steps = int(model.optimizer.iterations)

    popped = resect.pop(model)
    layers = [keras.layers.Dense(4, activation="relu", name="wide"), keras.layers.Dense(2)]
    new = resect.append(popped, layers)

    assert new.output_shape == (None, 2)
    assert int(new.optimizer.iterations) == steps == 2
    resect.verify(popped, new, plan=resect.plan(popped).append(layers), training=False)
    inputs, targets = data_for(new)
    history = new.fit(inputs, targets, epochs=3, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]


def test_the_same_in_one_plan():
    model = primed(mlp())
    new_head = [keras.layers.Dense(4, activation="relu"), keras.layers.Dense(2, name="head")]
    plan = resect.plan(model).pop().append(new_head)

    new = plan.apply()

    assert [layer.name for layer in new.layers][:2] == ["hidden", "middle"]
    assert new.layers[-1].name == "head"
    resect.verify(model, new, plan=plan)
    train(new)


def test_popping_everything_is_refused():
    with pytest.raises(resect.errors.EmptyResultError, match="Nothing would be left"):
        resect.pop(mlp(), 3)


def test_popping_off_a_model_with_two_outputs_asks_which():
    from tests.common import two_heads

    with pytest.raises(resect.errors.AmbiguousError, match="2 outputs to pop: 'first', 'second'"):
        resect.pop(two_heads())
