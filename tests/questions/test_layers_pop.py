"""Why doesn't `model.layers.pop()` remove the layer? (It pops from a list that is made for you.)"""

from __future__ import annotations

import keras
import pytest

import resect
from tests.common import assert_close, cnn, functional_mlp, mlp, predictions, primed, train
from tests.surgery import Source


@pytest.mark.parametrize("build", [mlp, functional_mlp])
def test_the_question(build):
    model = build()
    model.layers.pop()
    assert model.output_shape == (None, 3)  # nothing has happened
    assert resect.pop(model).output_shape == (None, 8)


@pytest.mark.parametrize("build", [mlp, functional_mlp])
def test_one_removal(build):
    model = primed(build())
    before = Source.of(model)

    new = resect.remove(model, model.layers[-1])

    before.assert_untouched()
    assert predictions(new).shape == (4, 8)
    resect.verify(model, new, plan=resect.plan(model).remove("logits"))
    assert train(new).output_shape == (None, 8)


@pytest.mark.parametrize("build", [mlp, functional_mlp])
def test_several_removals_in_a_loop(build):
    model = primed(build())
    new = model
    for name in ("logits", "middle"):
        new = resect.remove(new, name)

    assert predictions(new).shape == (4, 8)
    assert [layer.name for layer in new.layers if layer.weights] == ["hidden"]
    plan = resect.plan(model).remove(["middle", "logits"])
    resect.verify(model, new, plan=plan)
    assert_close(predictions(new), predictions(plan.apply()))
    train(new)


def test_the_head_of_a_convolutional_network_layer_by_layer():
    model = primed(cnn())
    shapes, new = [], model
    while new.layers[-1].name != "pool_1":
        new = resect.remove(new, -1)
        shapes.append(predictions(new).shape)

    assert shapes == [(4, 6), (4, 16), (4, 2, 2, 4), (4, 4, 4, 4), (4, 4, 4, 3)]
    resect.verify(model, new, plan=resect.plan(model).truncate(end="pool_1"))


@pytest.mark.parametrize("style", ["sequential", "functional"])
def test_a_loop_over_the_layers_themselves(style):
    """The loop that people write: for each Dropout in the model, take it out."""
    x = features = keras.Input((4,))
    stack = []
    for i in range(3):
        stack += [keras.layers.Dense(4, name=f"dense_{i}"), keras.layers.Dropout(0.5)]
    for layer in stack:
        x = layer(x)
    model = (
        keras.Sequential([features, *stack]) if style == "sequential" else keras.Model(features, x)
    )

    new = model
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            new = resect.remove(new, layer.name)

    assert [layer.name for layer in new.layers if layer.weights] == [
        "dense_0",
        "dense_1",
        "dense_2",
    ]
    assert not any(isinstance(layer, keras.layers.Dropout) for layer in new.layers)
    assert_close(predictions(new), predictions(model))  # in inference, Dropout does nothing
    assert_close(predictions(new), predictions(resect.remove(model, keras.layers.Dropout)))
