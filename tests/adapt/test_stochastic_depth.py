"""Stochastic depth: nothing changes in inference, and branches are dropped as often as they say."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import resect
from resect import adapt
from resect.errors import EditError, MergeError, NoMatchError
from tests.adapt.models import images, mobilenet, resnet, run
from tests.adapt.test_adapters import masked
from tests.common import mlp, predictions, randomise, residual, train, trained
from tests.surgery import assert_surgery


def blocks(count: int = 4, *, raw: bool = False, swapped: bool = False) -> keras.Model:
    """Residual blocks of two dense layers each, summed by layers or by `+`."""
    x = features = keras.Input((6,), name="features")
    for i in range(count):
        branch = layers.Dense(5, activation="relu", name=f"in_{i}")(x)
        branch = layers.Dense(6, name=f"out_{i}")(branch)
        pair = [branch, x] if swapped else [x, branch]
        x = pair[0] + pair[1] if raw else layers.Add(name=f"add_{i}")(pair)
    return randomise(keras.Model(features, layers.Dense(3, name="logits")(x), name="blocks"))


def nested_blocks() -> keras.Model:
    """Blocks in a model that is called twice, with one more before and one behind."""
    core = blocks(2)
    core = resect.pop(core)
    x = features = keras.Input((6,), name="features")
    x = layers.Add(name="first")([x, layers.Dense(6, name="first_branch")(x)])
    x = core(core(x))
    x = layers.Add(name="last")([x, layers.Dense(6, name="last_branch")(x)])
    return randomise(keras.Model(features, x, name="nest"))


def pyramid() -> keras.Model:
    """A feature pyramid: sums whose longer way is read elsewhere too, and one residual block."""
    image = keras.Input((8, 8, 3), name="image")
    stem = layers.Conv2D(4, 3, padding="same", name="stem")(image)
    c1 = layers.Add(name="block")([stem, layers.Conv2D(4, 3, padding="same", name="conv")(stem)])
    c2 = layers.Conv2D(4, 3, strides=2, padding="same", name="c2")(c1)
    p2 = layers.Conv2D(4, 1, name="p2")(c2)
    up = layers.UpSampling2D(name="up")(p2)
    p1 = layers.Add(name="top_down")([layers.ReLU(name="lateral")(c1), up])
    return randomise(keras.Model(image, [p1, layers.ReLU(name="head")(p2)], name="pyramid"))


def ambiguous() -> keras.Model:
    features = keras.Input((4,), name="features")
    stem = layers.Dense(5, name="stem")(features)
    x = layers.Add(name="block")([stem, layers.Dense(5, name="branch")(stem)])
    both = [layers.Dense(5, name=name)(x) for name in ("left", "right")]
    return randomise(keras.Model(features, layers.Add(name="either")(both), name="ambiguous"))


def two_inputs() -> keras.Model:
    ends = [keras.Input((4,), name=name) for name in ("one", "other")]
    x = layers.Add(name="sum")([layers.Dense(4, name="dense")(ends[0]), ends[1]])
    return randomise(keras.Model(ends, x, name="two_inputs"))


def drops(model: Any) -> list[Any]:
    return [la for la in model._flatten_layers() if "stochastic_depth" in la.name]


def rates(model: Any) -> dict[str, float]:
    return {la.name.replace("_stochastic_depth", ""): round(la.rate, 6) for la in drops(model)}


def test_it_is_drawn():
    assert_surgery(
        trained(residual()),
        adapt.StochasticDepth(0.4, seed=1),
        """
        Functional 'residual'
          features                InputLayer  (None, 4)
          stem                    Dense       (None, 5)  <- features
          branch                  Dense       (None, 5)  <- stem
          add_stochastic_depth +  Dropout     (None, 5)  <- branch
          add                     Add         (None, 5)  <- stem, add_stochastic_depth
          logits                  Dense       (None, 3)  <- add
          -> logits
        """,
    )


@pytest.mark.parametrize("weights", ["copy", "share"])
@pytest.mark.parametrize(
    "build",
    [
        blocks,
        lambda: blocks(raw=True),
        lambda: blocks(swapped=True),
        lambda: blocks(raw=True, swapped=True),
        nested_blocks,
        pyramid,
        masked,
    ],
    ids=["layers", "raw", "swapped", "raw_swapped", "nested", "pyramid", "masked"],
)
def test_nothing_changes_in_inference(build, weights):
    model = build()
    new = assert_surgery(model, adapt.StochasticDepth(0.5, seed=3), weights=weights)
    found, expected = (keras.tree.flatten(predictions(m)) for m in (new, model))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("swapped", [False, True])
def test_the_branch_is_dropped_and_not_the_shortcut(raw, swapped):
    plan = resect.plan(blocks(raw=raw, swapped=swapped)).then(adapt.StochasticDepth(0.5))
    read = [str(node.args) for call, node in plan.result.nodes.items() if "depth" in call.layer]
    assert len(read) == 4
    assert all(f"out_{i}" in text for i, text in enumerate(read))


def test_the_rate_grows_with_depth():
    names = [f"add_{i}" for i in range(4)]
    linear = adapt.stochastic_depth(blocks(), 0.4)
    assert rates(linear) == dict(zip(names, (0.1, 0.2, 0.3, 0.4), strict=True))
    constant = adapt.stochastic_depth(blocks(), 0.4, schedule="constant")
    assert rates(constant) == dict.fromkeys(names, 0.4)
    some = adapt.stochastic_depth(blocks(), 0.4, ["add_3", "add_1"])
    assert rates(some) == {"add_1": 0.2, "add_3": 0.4}


def test_depth_goes_through_nested_models():
    expected = {"first": 0.1, "add_0": 0.2, "add_1": 0.3, "last": 0.4}
    assert rates(adapt.stochastic_depth(nested_blocks(), 0.4)) == expected


def test_a_model_at_two_paths_is_dropped_in_once():
    core = resect.pop(blocks(2))
    x = features = keras.Input((6,), name="features")
    for name in ("left", "right"):
        outer = keras.Input((6,))
        x = keras.Model(outer, layers.ReLU(name="act")(core(outer)), name=name)(x)
    model = randomise(keras.Model(features, x, name="twice"))
    for where in (None, "add_*", "left/blocks/add_*"):
        assert rates(adapt.stochastic_depth(model, 0.4, where)) == {"add_0": 0.2, "add_1": 0.4}
    assert rates(adapt.stochastic_depth(model, 0.4, "right/blocks/add_0")) == {"add_0": 0.4}


def test_a_branch_may_have_no_weights():
    features = keras.Input((6,), name="features")
    x = layers.Add(name="add")([layers.ReLU(name="act")(features), features])
    plan = resect.plan(keras.Model(features, x)).then(adapt.StochasticDepth(0.5))
    assert "add_stochastic_depth +  Dropout     (None, 6)  <- act" in str(plan.result)


def test_whole_samples_are_dropped_as_often_as_the_rate_says():
    model = blocks(2)
    new = adapt.stochastic_depth(model, 0.3, schedule="constant", seed=11)
    x = np.random.default_rng(0).normal(size=(4000, 6)).astype("float32")
    first, second = (keras.ops.convert_to_numpy(layer(x, training=True)) for layer in drops(new))
    for found in (first, second):
        gone = np.all(found == 0, axis=1)
        assert np.mean(gone) == pytest.approx(0.3, abs=0.03)
        np.testing.assert_allclose(found[~gone], x[~gone] / 0.7, rtol=1e-5)
    assert np.any(np.all(first == 0, axis=1) != np.all(second == 0, axis=1))


def test_in_training_a_sample_has_its_branch_or_not():
    model = residual()
    new = adapt.stochastic_depth(model, 0.5, seed=2)
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    stem = run(resect.truncate(model, end="stem"), x)
    branch = run(resect.truncate(model, end="branch"), x)
    logits = model.get_layer("logits")
    with_it, without = (keras.ops.convert_to_numpy(logits(stem + k * branch)) for k in (2.0, 0.0))
    found = run(new, x, training=True)
    kept = np.isclose(found, with_it, atol=1e-4).all(1)
    gone = np.isclose(found, without, atol=1e-4).all(1)
    assert np.all(kept | gone)
    assert 10 < np.sum(kept) < 54


@pytest.mark.parametrize(("build", "count"), [(mobilenet, 10), (resnet, 16)])
def test_published_architectures(build, count):
    model = build()
    new = adapt.stochastic_depth(model, 0.2)
    assert len(drops(new)) == count
    x = images(model)
    np.testing.assert_array_equal(run(new, x), run(model, x))
    assert sorted(rates(new).values()) == [round(0.2 * (i + 1) / count, 6) for i in range(count)]
    for layer in drops(new):  # ResNet projects some shortcuts: those are not what is dropped
        assert "_0_bn" not in layer._inbound_nodes[0].input_tensors[0].name
        assert layer.noise_shape == (None, 1, 1, 1)


def test_a_model_that_has_it_is_left_alone():
    model = keras.applications.EfficientNetB0(
        input_shape=(32, 32, 3), weights=None, include_top=False
    )
    with pytest.raises(EditError, match=r"'block2b_drop' drops its branch already, with a rate"):
        adapt.stochastic_depth(model, 0.2)
    once = adapt.stochastic_depth(blocks(), 0.2, "add_1")
    plan = resect.plan(once).then(adapt.StochasticDepth(0.2))
    assert "add_1 is left as it is: 'add_1_stochastic_depth' drops its branch already" in str(plan)
    assert len(drops(plan.apply())) == 4


def test_sums_that_are_no_blocks_are_passed_over():
    plan = resect.plan(pyramid()).then(adapt.StochasticDepth(0.2))
    assert "top_down is left as it is: 'head' reads what lies in its branch" in str(plan)
    assert rates(plan.apply()) == {"block": 0.2}


def test_it_trains_and_goes_on():
    model = trained(blocks())
    new = adapt.stochastic_depth(model, 0.5, seed=1)
    train(new, 2)
    assert int(new.optimizer.iterations) == 4
    off = resect.remove(new, "*_stochastic_depth")
    np.testing.assert_array_equal(predictions(off), predictions(new))


def test_it_is_a_step_among_others():
    plan = resect.plan(blocks()).collapse("add_0", "add_1").then(adapt.StochasticDepth(0.3))
    plan = plan.append(layers.Softmax(name="softmax"))
    assert_surgery(plan.model, plan)
    assert "drop residual branches at linear rate 0.3" in str(plan)
    assert rates(plan.apply()) == {"add_0": 0.1, "add_2": 0.2, "add_3": 0.3}


@pytest.mark.parametrize(
    ("build", "where", "error", "message"),
    [
        (mlp, None, EditError, "'mlp' has no residual sum"),
        (mlp, "hidden", EditError, r"'hidden' \(Dense\): it does not add"),
        (mlp, "nothing", NoMatchError, "matches nothing"),
        (two_inputs, None, EditError, r"'sum' \(Add\): what it adds does not come from one"),
        (
            ambiguous,
            None,
            MergeError,
            r"'either' \(Add\): 'left' and 'right' are equally far from 'block'.*"
            r"\n.*Name the sums you mean: 'block'",
        ),
    ],
)
def test_what_is_refused(build, where, error, message):
    with pytest.raises(error, match=message):
        adapt.stochastic_depth(build(), 0.2, where)


def test_rates_that_make_no_sense():
    for rate in (0, 1, -0.5):
        with pytest.raises(ValueError, match="rate must be between 0 and 1"):
            adapt.stochastic_depth(residual(), rate)
    with pytest.raises(ValueError, match='schedule must be "linear" or "constant"'):
        adapt.StochasticDepth(0.2, schedule="cosine")  # type: ignore[arg-type]
