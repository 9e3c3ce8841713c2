"""Adapters behind calls: nothing changes until they are trained, and nothing else has to be."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import resect
from resect import adapt
from resect.errors import AmbiguousError, CopyError, EditError, NoMatchError
from tests.adapt.models import images, mobilenet, resnet, run, transfer
from tests.adapt.test_attention import channels_first
from tests.common import (
    assert_close,
    assert_equal,
    cnn,
    mlp,
    nested,
    predictions,
    randomise,
    residual,
    train,
    trained,
    two_branches,
    weights_of,
)
from tests.surgery import assert_surgery


def masked() -> keras.Model:
    """A transformer block on masked words."""
    words = keras.Input((5,), dtype="int32", name="words")
    x = layers.Embedding(20, 8, mask_zero=True, name="embedding")(words)
    attended = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.LayerNormalization(name="norm")(layers.Add(name="add")([x, attended]))
    x = layers.GRU(4, name="gru")(x)
    return randomise(keras.Model(words, layers.Dense(3, name="logits")(x), name="masked"))


def test_an_adapter_is_drawn():
    assert_surgery(
        trained(residual()),
        adapt.Adapters("branch", 2),
        """
        Functional 'residual'
          features               InputLayer  (None, 4)
          stem                   Dense       (None, 5)  <- features
          branch                 Dense       (None, 5)  <- stem
          branch_adapter_down +  Dense       (None, 2)  <- branch
          branch_adapter_up +    Dense       (None, 5)  <- branch_adapter_down
          branch_adapter_add +   Add         (None, 5)  <- branch, branch_adapter_up
          add                    Add         (None, 5)  <- stem, branch_adapter_add
          logits                 Dense       (None, 3)  <- add
          -> logits
        """,
    )


@pytest.mark.parametrize("weights", ["copy", "share"])
@pytest.mark.parametrize(
    ("build", "where"),
    [
        (mlp, layers.Dense),
        (nested, "backbone/dense_1"),
        (nested, "backbone"),
        (two_branches, "shared@1"),
        (cnn, layers.Conv2D),
        (masked, ["embedding", "attention"]),
    ],
)
def test_nothing_changes_at_first(build, where, weights):
    model = build()
    new = assert_surgery(model, adapt.Adapters(where, 3), weights=weights)
    np.testing.assert_array_equal(predictions(new), predictions(model))


def test_a_mask_goes_on():
    model = masked()
    new = adapt.adapters(model, ["embedding", "attention", "norm"], 3)
    words = np.array([[3, 4, 0, 0, 0], [1, 2, 3, 4, 0]])
    np.testing.assert_array_equal(run(new, words), run(model, words))
    other = np.array([[3, 4, 0, 0, 0], [1, 2, 3, 4, 0]])
    assert_close(run(randomise(new, 3), words), run(new, other))


def test_an_adapter_computes_what_the_paper_says():
    model = mlp()
    new = randomise(adapt.adapters(model, "hidden", 2, activation="tanh"), 3)
    x = np.random.default_rng(0).normal(size=(3, 6)).astype("float32")
    parts = (
        keras.ops.convert_to_numpy(weight)
        for name in ("hidden", "hidden_adapter_down", "hidden_adapter_up")
        for weight in new.get_layer(name).weights
    )
    w, b, w1, b1, w2, b2 = parts
    h = np.maximum(x @ w + b, 0)
    expected = h + np.tanh(h @ w1 + b1) @ w2 + b2
    found = run(resect.truncate(new, end="hidden_adapter_add"), x)
    assert_close(found, expected)


@pytest.mark.parametrize("build", [mlp, transfer, masked, nested, two_branches])
def test_with_everything_else_frozen_only_adapters_train(build):
    where = {"transfer": "base/act", "masked": "norm", "two_branches": "concat"}
    model = trained(build(), loss="mse")
    edit = adapt.Adapters(where.get(model.name, layers.Dense), 3, freeze=True)
    plan = resect.plan(model).then(edit)
    new = plan.apply()
    resect.verify(model, new, plan=plan, training=False, reload=True)
    paths = {variable.path for variable in new.trainable_variables}
    assert len(paths) >= 4
    assert all("_adapter_" in path for path in paths)
    np.testing.assert_array_equal(predictions(new), predictions(model))
    kept = [v for v in new.weights if v.path not in paths]
    before = [np.array(keras.ops.convert_to_numpy(v.value)) for v in kept]
    train(new, 2)
    assert_equal([keras.ops.convert_to_numpy(v.value) for v in kept], before)
    assert np.any(predictions(new) != predictions(model))


def test_what_is_frozen_stays_frozen_when_it_is_loaded(tmp_path):
    new = adapt.adapters(transfer(), "base/act", 3, freeze=True)
    new.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    paths = [sorted(v.path.split("/")[-2] for v in m.trainable_variables) for m in (new, loaded)]
    assert paths[0] == paths[1]


def test_a_frozen_source_can_be_shared():
    model = mlp()
    with pytest.raises(CopyError, match="would get trainable=False, there too"):
        adapt.adapters(model, "hidden", 3, freeze=True, weights="share")
    model.trainable = False
    new = adapt.adapters(model, "hidden", 3, freeze=True, weights="share")
    assert new.get_layer("hidden").kernel is model.get_layer("hidden").kernel
    assert not model.trainable_variables


def test_the_head_is_thawed_again():
    new = adapt.configure(adapt.adapters(mlp(), "hidden", 3, freeze=True), "logits", trainable=True)
    assert len(new.get_layer("logits").trainable_variables) == 2
    assert len(new.trainable_variables) == 6
    assert not new.get_layer("middle").trainable


@pytest.mark.parametrize(
    ("build", "where", "count"),
    [(mobilenet, "*_project_BN", 17), (resnet, "*_block*_add", 16)],
    ids=["mobilenet", "resnet"],
)
def test_published_architectures(build, where, count):
    model = build()
    where = resect.select(name=where).expect(count)
    new = resect.plan(model).then(adapt.Adapters(where, 4, freeze=True)).apply()
    made = [la for la in new.layers if la.name.endswith("_adapter_add")]
    assert len(made) == count
    assert len(new.trainable_variables) == 4 * count
    x = images(model)
    np.testing.assert_array_equal(run(new, x), run(model, x))


def test_the_source_is_untouched_when_the_adapters_train():
    model = trained(mlp())
    before = weights_of(model)
    train(adapt.adapters(model, layers.Dense, 2, freeze=True))
    assert_equal(weights_of(model), before)


def test_they_print():
    text = str(resect.plan(mlp()).then(adapt.Adapters("hidden", 3, freeze=True)))
    assert "put adapters of 3 units after 'hidden', and freeze everything else" in text
    assert "changed   logits" in text
    assert "inserted  hidden_adapter_up" in text


@pytest.mark.parametrize(
    ("build", "where", "error", "message"),
    [
        (mlp, "nothing", NoMatchError, "matches nothing"),
        (two_branches, "shared", AmbiguousError, "'shared@0' or 'shared@1'"),
        (channels_first, "act", EditError, "with the channels in front"),
    ],
)
def test_what_is_refused(build, where, error, message):
    with pytest.raises(error, match=message):
        adapt.adapters(build(), where)
    with pytest.raises(ValueError, match="bottleneck must be at least 1"):
        adapt.adapters(build(), where, 0)
