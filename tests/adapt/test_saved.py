"""Every adaptation is a step of a plan that can be saved and loaded again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import pytest
from keras import layers

import resect
from resect import adapt
from resect.edits import EDITS, Edit
from tests.adapt.blocks import blocks
from tests.adapt.models import transfer
from tests.common import assert_equal, cnn, mlp, predictions, randomise, residual


def words() -> keras.Model:
    stack = [keras.Input((5,), dtype="int32"), layers.Embedding(50, 4, name="words")]
    return randomise(keras.Sequential(stack, name="words"))


def rescaled() -> keras.Model:
    stack = [keras.Input((4,)), layers.Rescaling(0.5, name="half"), layers.Dense(3, name="dense")]
    return randomise(keras.Sequential(stack, name="rescaled"))


def with_lora() -> keras.Model:
    model = adapt.lora(mlp(), ["hidden", "logits"], 2)
    return randomise(model)


def steps() -> keras.Model:
    stack = [keras.Input((5, 3), name="steps"), layers.LSTM(4, return_sequences=True, name="lstm")]
    return randomise(keras.Sequential([*stack, layers.GRU(2, name="gru")], name="steps"))


def decoder() -> keras.Model:
    state, steps = keras.Input((2,), name="state"), keras.Input((5, 3), name="steps")
    x = layers.GRU(4, name="gru")(steps, initial_state=layers.Dense(4, name="first")(state))
    return randomise(keras.Model([state, steps], x, name="decoder"))


def padded() -> keras.Model:
    """A data format that every backend runs: without convolutions."""
    stack = [keras.Input((4, 3, 2), name="image"), layers.ZeroPadding2D(name="pad")]
    return randomise(keras.Sequential([*stack, layers.Dense(3, name="dense")], name="padded"))


PLANS: dict[str, tuple[Callable[[], Any], Edit]] = {
    "activations": (mlp, adapt.Activations((("relu", "tanh"),))),
    "activations_where": (cnn, adapt.Activations((("relu", "silu"),), layers.Conv2D)),
    "adapters": (transfer, adapt.Adapters("base/act", 3, freeze=True)),
    "cbam": (cnn, adapt.Cbam(layers.Conv2D, 2)),
    "channels": (cnn, adapt.Channels(3)),
    "classes": (mlp, adapt.Classes(5)),
    "classes_kept": (mlp, adapt.Classes(4, (2, 0), "logits")),
    "configure": (transfer, adapt.Configure("drop", (("rate", 0.1),))),
    "data_format": (padded, adapt.DataFormat("channels_first")),
    "data_format_inside": (padded, adapt.DataFormat("channels_first", (), ())),
    "flatten": (transfer, adapt.Flatten()),
    "fold_batchnorm": (transfer, adapt.FoldBatchNormalization()),
    "fully_convolutional": (cnn, adapt.Convolutional()),
    "inline": (blocks, adapt.Inline("one", depth=2)),
    "input_shape": (transfer, adapt.InputShape((12, 10, 3))),
    "logits": (transfer, adapt.Logits()),
    "lora": (mlp, adapt.Lora("hidden", 2, 3.0, freeze=True)),
    "merge_lora": (with_lora, adapt.MergeLora()),
    "normalization": (transfer, adapt.Normalization("layer")),
    "normalization_out": (transfer, adapt.Normalization(None)),
    "outputs": (transfer, adapt.Outputs(("base/act",))),
    "outputs_only": (transfer, adapt.Outputs(("pool",), keep=False)),
    "preprocess": (mlp, adapt.Preprocess(layers.Rescaling(0.5), (6,), "float32")),
    "preprocessing": (rescaled, adapt.Preprocessing()),
    "squeeze_excite": (transfer, adapt.SqueezeExcite("base/act", 2)),
    "stochastic_depth": (residual, adapt.StochasticDepth(0.2, seed=1)),
    "recurrent": (steps, adapt.Recurrent(True, 4)),
    "recurrent_where": (steps, adapt.Recurrent(False, where=layers.LSTM)),
    "step_model": (steps, adapt.StepModel()),
    "step_model_inputs": (steps, adapt.StepModel(("steps",), 3)),
    "step_start": (decoder, adapt.StepStart()),
    "strip": (transfer, adapt.Strip()),
    "vocabulary": (words, adapt.Vocabulary(60, new="mean")),
    "without_preprocessing": (rescaled, adapt.WithoutPreprocessing()),
}


#: Their other model has weights, which JSON would lose.
JOINING = {"graft", "merge", "stack"}


def test_every_adaptation_is_among_them():
    used = {edit.verb for _, edit in PLANS.values()}
    adaptations = {v for v, cls in EDITS.items() if cls.__module__.startswith("resect.adapt.")}
    assert used == adaptations - JOINING


@pytest.mark.parametrize("verb", sorted(JOINING))
def test_those_that_hold_another_model_say_that_they_cannot_be(verb):
    model, edits = mlp(), {"stack": adapt.Stack, "merge": adapt.Merge}
    if verb == "graft":
        edit = adapt.Graft("hidden", "middle", mlp(), "hidden", "middle")
    else:
        edit = edits[verb](mlp() if verb == "stack" else (mlp(),))
    with pytest.raises(resect.errors.SerializationError):
        resect.plan(model).then(edit).to_json()


@pytest.mark.parametrize("name", PLANS)
def test_json_round_trip(name):
    build, edit = PLANS[name]
    model = build()
    plan = resect.plan(model).then(edit)
    text = plan.to_json()
    loaded = resect.Plan.from_json(model, text)
    assert loaded.check() == ()
    assert loaded.to_json() == text
    assert str(loaded.result) == str(plan.result)
    if name == "fully_convolutional":  # its inputs are of any size, which random ones cannot be
        return
    made = []
    for each in (plan, loaded):
        keras.utils.set_random_seed(3)  # what is new starts at random
        made.append(predictions(each.apply()))
    assert_equal(keras.tree.flatten(made[0]), keras.tree.flatten(made[1]))
