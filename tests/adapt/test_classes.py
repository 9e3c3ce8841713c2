"""Another number of classes: those that stay keep their logits."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import resect
from resect.adapt import Classes
from resect.errors import AmbiguousError, EditError
from tests.adapt.models import images, mobilenet, run, transfer
from tests.common import mlp, randomise, trained, two_branches
from tests.surgery import assert_surgery


def test_old_classes_keep_their_logits():
    model = trained(mlp(), steps=2)
    new = assert_surgery(
        model,
        Classes(5),
        """
        Sequential 'mlp'
          features  InputLayer  (None, 6)
          hidden    Dense       (None, 8)  <- features
          middle    Dense       (None, 8)  <- hidden
          logits    Dense       (None, 5)  <- middle
          -> logits
        """,
    )
    x = images(model)
    np.testing.assert_allclose(run(new, x)[:, :3], run(model, x), rtol=1e-5, atol=1e-6)
    assert not np.allclose(run(new, x)[:, 3:], 0)
    assert new.compiled


def test_chosen_classes_stay_in_the_order_that_is_said():
    model = mlp()
    new = resect.adapt.classes(model, keep=[2, 0])
    x = images(model)
    np.testing.assert_allclose(run(new, x), run(model, x)[:, [2, 0]], rtol=1e-5, atol=1e-6)


def test_some_stay_and_some_are_new():
    model = mlp()
    new = resect.adapt.classes(model, 4, keep=[1])
    x = images(model)
    np.testing.assert_allclose(run(new, x)[:, 0], run(model, x)[:, 1], rtol=1e-5, atol=1e-6)
    assert new.output_shape == (None, 4)


def test_only_the_last_layer_is_another():
    model = mobilenet()
    new = resect.adapt.classes(model, 12)
    assert new.output_shape == (None, 12)
    pairs = list(zip(model.variables, new.variables, strict=True))
    changed = [old.path for old, now in pairs if tuple(old.shape) != tuple(now.shape)]
    assert changed == ["predictions/kernel", "predictions/bias"]
    one, other = (resect.adapt.logits(each) for each in (model, new))
    x = images(model)
    np.testing.assert_allclose(run(other, x)[:, :10], run(one, x), rtol=1e-4, atol=1e-4)


def test_a_convolution_behind_which_there_is_pooling_reshaping_and_an_activation():
    x = image = keras.Input((4, 4, 3), name="image")
    x = layers.Conv2D(6, 1, name="conv")(x)
    x = layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
    x = layers.Conv2D(5, 1, name="classes")(x)
    x = layers.Reshape((5,), name="flat")(x)
    model = randomise(keras.Model(image, layers.Activation("linear", name="act")(x), name="fully"))
    new = assert_surgery(model, Classes(7))
    x = images(model)
    np.testing.assert_allclose(run(new, x)[:, :5], run(model, x), rtol=1e-5, atol=1e-6)


def test_a_head_in_a_nested_model():
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="logits"), layers.Softmax(name="soft")],
        name="head",
    )
    features = keras.Input((6,), name="features")
    model = keras.Model(features, inner(layers.Dense(4, name="hidden")(features)), name="outer")
    new = assert_surgery(randomise(model), Classes(6))
    assert new.get_layer("head").get_layer("logits").units == 6


def test_classes_of_a_tensor_that_is_normalised_are_found_too():
    assert resect.adapt.classes(transfer(), 5).output_shape == (None, 5)


@pytest.mark.parametrize(
    ("n", "keep", "message"),
    [
        (2, None, r"has 3 classes, and only 2 can stay\.\n +Say which: keep"),
        (None, [0, 3], r"keep=\[0, 3\] does not name different classes among the 3"),
        (None, [1, 1], "does not name different classes"),
        (None, [], "does not name different classes"),
        (1, [0, 1], "2 classes are kept, and there would be 1"),
    ],
)
def test_what_is_refused(n, keep, message):
    with pytest.raises(EditError, match=message):
        resect.adapt.classes(mlp(), n, keep=keep)


def test_several_outputs_need_a_name():
    model = two_branches()
    if len(model.outputs) == 1:
        outputs = [*model.outputs, layers.Dense(2, name="more")(model.layers[-2].output)]
        model = randomise(keras.Model(model.inputs, outputs))
    with pytest.raises(AmbiguousError, match=r"2 outputs .*\n.*Say which with at="):
        resect.adapt.classes(model, 9)
    assert 9 in [shape[-1] for shape in resect.adapt.classes(model, 9, at="more").output_shape]


def test_a_layer_without_a_rule_is_refused_by_name():
    model = keras.Sequential([keras.Input((4, 6)), layers.LSTM(3, name="lstm")])
    with pytest.raises(EditError, match=r"'lstm' \(LSTM\) makes the classes"):
        resect.adapt.classes(model, 5)
    with pytest.raises(TypeError, match="classes needs n, keep or both"):
        Classes()


def test_it_is_a_step_of_a_plan_that_is_saved():
    model = mlp()
    plan = resect.plan(model).then(Classes(5, (0, 2)))
    again = resect.Plan.from_json(model, plan.to_json())
    assert str(again.result) == str(plan.result)
    assert "have 5 classes, keeping 0, 2" in str(plan)
    assert "changed" in str(plan)
