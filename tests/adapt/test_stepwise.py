"""Sequence models step by step: the outputs of the steps are those of the whole sequence."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import resect
from resect.adapt import StepModel, StepStart, register_stepwise, stepwise
from resect.errors import EditError, MaskError
from tests.adapt.models import assert_near, run
from tests.common import assert_equal, mlp, randomise, weights_of
from tests.surgery import assert_surgery

LENGTH = 6
X = np.random.default_rng(0).normal(size=(2, LENGTH, 3)).astype("float32")
WORDS = np.random.default_rng(1).integers(1, 9, size=(2, LENGTH))
SOURCE = np.random.default_rng(2).normal(size=(2, 4, 3)).astype("float32")


def model_of(inputs: Any, outputs: Any, name: str) -> keras.Model:
    return randomise(keras.Model(inputs, outputs, name=name))


def tagger(length: int | None = None) -> keras.Model:
    """Recurrent layers of all kinds with all that may stand between them."""
    steps = keras.Input((length, 3), name="steps")
    x = layers.Dense(4, activation="softmax", name="first")(steps)
    h = layers.LSTM(4, return_sequences=True, dropout=0.2, name="lstm")(x)
    x = layers.Add(name="sum")([x, h])
    x = layers.LayerNormalization(name="norm")(x)
    g = layers.GRU(4, return_sequences=True, stateful=False, name="gru")(x)
    x = layers.Concatenate(name="concat")([g, ops.relu(x) * 2.0 + np.ones(4, "float32")])
    x = layers.Dropout(0.5, name="drop")(x)
    x = layers.SimpleRNN(5, return_sequences=True, name="simple")(x)
    cells = [layers.LSTMCell(3), layers.GRUCell(4)]
    x = layers.RNN(cells, return_sequences=True, name="cells")(x)
    x = layers.TimeDistributed(layers.Dense(3), name="each")(x)
    return model_of(steps, layers.BatchNormalization(name="last")(x), "tagger")


def language_model() -> keras.Model:
    words = keras.Input((None,), dtype="int32", name="words")
    x = layers.Embedding(9, 4, name="embedding")(words)
    for number in range(2):
        x = layers.LSTM(5, return_sequences=True, name=f"lstm_{number}")(x)
    return model_of(words, layers.Dense(9, activation="softmax", name="next")(x), "words")


def summary() -> keras.Model:
    """Outputs at the end of the sequence only, in three ways, and one at each step."""
    steps = keras.Input((LENGTH, 3), name="steps")
    every = layers.GRU(4, return_sequences=True, name="gru")(steps)
    last, *state = layers.LSTM(4, return_state=True, name="lstm")(every)
    both = layers.Concatenate(name="both")([last, every[:, -1], *state])
    again = layers.RepeatVector(3, name="repeat")(last)
    again = layers.Bidirectional(layers.GRU(2), name="again")(again)
    outputs = {"every": every, "end": layers.Dense(2, name="end")(both), "again": again}
    return model_of(steps, outputs, "summary")


def translator() -> keras.Model:
    """An encoder, whose states the decoder starts with, in nested models."""
    source = keras.Input((None, 3), name="source")
    _, *state = layers.LSTM(4, return_state=True, name="read")(source)
    encoder = keras.Model(source, state, name="encoder")
    target = keras.Input((None, 3), name="target")
    first = [keras.Input((4,), name="h"), keras.Input((4,), name="c")]
    x = layers.LSTM(4, return_sequences=True, name="write")(target, initial_state=first)
    x = layers.GRU(4, return_sequences=True, name="refine")(x)
    x = layers.Dense(3, name="out")(x)
    decoder = keras.Model([target, *first], x, name="decoder")
    inputs = [keras.Input((None, 3), name=name) for name in ("sentence", "answer")]
    return model_of(inputs, decoder([inputs[1], *encoder(inputs[0])]), "translator")


def with_attention(layer: Any) -> keras.Model:
    sentence, answer = (keras.Input((None, 3), name=n) for n in ("sentence", "answer"))
    read, *state = layers.LSTM(4, return_sequences=True, return_state=True, name="read")(sentence)
    x = layers.LSTM(4, return_sequences=True, name="write")(answer, initial_state=state)
    multi = isinstance(layer, layers.MultiHeadAttention)
    seen = layer(x, read) if multi else layer([x, read])
    x = layers.Concatenate(name="concat")([x, seen])
    return model_of([sentence, answer], layers.Dense(2, name="out")(x), "attending")


def shared() -> keras.Model:
    left, right = (keras.Input((None, 3), name=n) for n in ("left", "right"))
    both = layers.LSTM(4, return_sequences=True, name="both")
    x = layers.Subtract(name="subtract")([both(left), both(right)])
    return model_of([left, right], x, "pair")


def by_steps(stepper: Any, x: Any, memory: list[Any], size: int = 1) -> list[Any]:
    found = []
    for at in range(0, LENGTH, size):
        now = keras.tree.map_structure(lambda a: a[:, at : at + size], x)  # noqa: B023
        outputs, memory = stepper(now, memory)
        found.append(outputs)
    return found


@pytest.mark.parametrize("weights", ["copy", "share"])
def test_the_steps_are_the_whole_sequence(weights):
    model = tagger()
    stepper = stepwise(model, weights=weights)
    assert stepper.start is None
    assert_equal(weights_of(stepper.step), weights_of(model))
    assert stepper.step.input_shape[0] == (None, 1, 3)
    expected = run(model, X)
    assert_near(np.concatenate(by_steps(stepper, X, stepper.begin(batch_size=2)), 1), expected)


@pytest.mark.parametrize(("steps", "size"), [(2, 2), (None, 3), (None, 6)])
def test_several_steps_at_once(steps, size):
    model = tagger(LENGTH)
    stepper = stepwise(model, steps=steps)
    found = by_steps(stepper, X, stepper.begin(batch_size=2), size)
    assert_near(np.concatenate(found, 1), run(model, X))


def test_words():
    model = language_model()
    stepper = stepwise(model)
    found = by_steps(stepper, WORDS, stepper.begin(batch_size=2))
    assert_near(np.concatenate(found, 1), run(model, WORDS))


def test_what_is_known_at_the_end_is_known_of_the_sequence_so_far():
    model = summary()
    stepper = stepwise(model)
    found = by_steps(stepper, X, stepper.begin(batch_size=2))
    expected = run(model, X)  # Keras orders the outputs of a dict by their names
    again, end, every = zip(*found, strict=True)
    assert_near(np.concatenate(every, 1), expected["every"])
    assert_near(end[-1], expected["end"])
    assert_near(again[-1], expected["again"])
    assert np.max(np.abs(end[-2] - end[-1])) > 1e-3


def test_an_encoder_and_a_decoder():
    model = translator()
    stepper = stepwise(model)
    assert stepper.given == (True, True, False)
    memory = stepper.begin(SOURCE)
    expected = run(model, [SOURCE, X])
    assert_near(np.concatenate(by_steps(stepper, X, memory), 1), expected)
    assert sorted(v.path for v in [*stepper.start.weights, *stepper.step.weights]) == sorted(
        v.path for v in model.weights
    )


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.MultiHeadAttention(2, 3, name="attention"),
        lambda: layers.Attention(name="attention"),
        lambda: layers.AdditiveAttention(name="attention"),
    ],
)
def test_attention_to_what_is_known(layer):
    model = with_attention(layer())
    stepper = stepwise(model)
    assert stepper.context == 1
    found = by_steps(stepper, X, stepper.begin(SOURCE))
    assert_near(np.concatenate(found, 1), run(model, [SOURCE, X]))


def test_a_shared_layer_has_states_for_each_call():
    model = shared()
    stepper = stepwise(model)
    assert [t.name for t in stepper.step.inputs if "state" in t.name] == [
        "both_0_state_0",
        "both_0_state_1",
        "both_1_state_0",
        "both_1_state_1",
    ]
    pair = [X, X[:, ::-1]]
    found = by_steps(stepper, pair, stepper.begin(batch_size=2))
    assert_near(np.concatenate(found, 1), run(model, pair))


def test_maps_over_time():
    video = keras.Input((LENGTH, 5, 4, 2), name="video")
    x = layers.TimeDistributed(layers.Conv2D(3, 2), name="each")(video)
    x = layers.ConvLSTM2D(3, 2, return_sequences=True, name="maps")(x)
    model = model_of(video, layers.ConvLSTM2D(2, 2, name="last")(x), "video_net")
    frames = np.random.default_rng(0).normal(size=(2, LENGTH, 5, 4, 2)).astype("float32")
    stepper = stepwise(model)
    found = by_steps(stepper, frames, stepper.begin(batch_size=2))
    assert_near(found[-1], run(model, frames))


def test_stateful_layers_begin_anew():
    model = resect.adapt.recurrent(tagger(), stateful=True, batch_size=2)
    expected = run(tagger(), X)
    run(model, X)
    stepper = stepwise(model)
    assert_near(np.concatenate(by_steps(stepper, X, stepper.begin(batch_size=2)), 1), expected)


def test_a_stateful_layer_that_is_not_stepped_is_refused():
    x = keras.Input((LENGTH, 3), batch_size=2, name="x")
    y = layers.RepeatVector(2, name="repeat")(layers.GRU(3, name="gru")(x))
    model = model_of(x, layers.GRU(2, stateful=True, name="odd")(y), "lasting")
    with pytest.raises(EditError, match=r"'odd' \(GRU\) is stateful, and does not read"):
        stepwise(model)


def test_both_are_steps_of_a_plan():
    model = translator()
    model.compile("adam", "mse")
    assert_surgery(
        model,
        StepModel(),
        """
        Functional 'translator'
          answer +          InputLayer  (None, 1, 3)
          write_state_0 +   InputLayer  (None, 4)
          write_state_1 +   InputLayer  (None, 4)
          write             LSTM        (None, 1, 4) (None, 4) (None, 4)  <- answer, write_state_0, write_state_1
          refine_state_0 +  InputLayer  (None, 4)
          refine            GRU         (None, 1, 4) (None, 4)            <- write:0, refine_state_0
          out               Dense       (None, 1, 3)                      <- refine:0
          -> out, write:1, write:2, refine:1
        """,  # noqa: E501
        training=False,
    )
    start = assert_surgery(model, StepStart(), training=False)
    assert [tuple(tensor.shape) for tensor in start.outputs] == [(None, 4), (None, 4)]


def test_policies_stay():
    model = resect.adapt.configure(language_model(), "*", dtype="mixed_bfloat16")
    stepper = stepwise(model)
    assert {str(tensor.dtype) for tensor in stepper.step.inputs[1:]} == {"bfloat16"}
    outputs, _ = stepper(WORDS[:, :1], stepper.begin(batch_size=2))
    expected = ops.convert_to_numpy(ops.cast(model(WORDS[:, :1]), "float32"))
    assert_near(np.asarray(outputs, "float32"), expected, 1e-2)


def test_it_is_plain_keras(tmp_path):
    stepper = stepwise(tagger())
    stepper.step.save(tmp_path / "step.keras")
    loaded = keras.saving.load_model(tmp_path / "step.keras")
    first = [X[:, :1], *stepper.begin(batch_size=2)]
    for one, other in zip(run(loaded, first), run(stepper.step, first), strict=True):
        assert_near(one, other)


# What is refused


def refusing(build: Any) -> keras.Model:
    steps = keras.Input((LENGTH, 4), name="steps")
    x = layers.LSTM(4, return_sequences=True, name="lstm")(steps)
    return keras.Model(steps, build(x), name="refused")


class Mine(layers.Layer):
    def call(self, x: Any) -> Any:
        return x * 2


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (layers.Bidirectional(layers.GRU(2), name="odd"), "reads the sequence from its end too"),
        (layers.GRU(2, go_backwards=True, name="odd"), "reads the sequence from its end"),
        (layers.GlobalAveragePooling1D(name="odd"), "pools over several steps"),
        (layers.MaxPooling1D(name="odd"), "pools over several steps"),
        (layers.Conv1D(2, 3, padding="causal", name="odd"), "looks at neighbouring steps"),
        (layers.Flatten(name="odd"), "joins all steps"),
        (layers.Permute((2, 1), name="odd"), "puts the steps elsewhere"),
        (layers.LayerNormalization(axis=(1, 2), name="odd"), "may look at several steps"),
        (layers.GroupNormalization(2, name="odd"), "normalizes over all steps"),
        (layers.Softmax(axis=1, name="odd"), "may look at several steps"),
        (lambda x: layers.MultiHeadAttention(2, 2, name="odd")(x, x), "attends to the whole"),
        (lambda x: layers.Attention(name="odd")([x, x]), "attends to the whole"),
        (lambda x: layers.Concatenate(axis=1, name="odd")([x, x]), "may look at several steps"),
        (lambda x: ops.mean(x, axis=1), r"'mean' \(Mean\) may look at several steps"),
        (lambda x: ops.cumsum(x, axis=1), r"'cumsum' \(Cumsum\) may look at several steps"),
        (lambda x: x[:, ::-1], "may look at several steps"),
        (lambda x: x * np.ones((LENGTH, 4), "float32"), "may look at several steps"),
        (Mine(name="odd"), r"register_stepwise\(Mine\)"),
        (
            lambda x: layers.Add(name="odd")(
                [x, layers.RepeatVector(LENGTH)(layers.LSTM(4, name="sum")(x))]
            ),
            "single steps and what is known of the whole",
        ),
        (
            lambda x: layers.GRU(4, name="odd")(x, initial_state=layers.GRU(4, name="first")(x)),
            "a state that is made of the sequence itself|leads to the initial states",
        ),
    ],
)
def test_what_cannot_be_stepped(build, message):
    with pytest.raises(EditError, match=message):
        stepwise(refusing(build))


def test_a_state_of_the_sequence_itself():
    def build(x: Any) -> Any:
        return layers.GRU(4, name="odd")(x, initial_state=layers.GRU(4, name="first")(x))

    with pytest.raises(EditError, match="starts with a state that is made of the sequence itself"):
        stepwise(refusing(build), inputs="steps")


def test_a_layer_of_ones_own_with_a_rule():
    model = randomise(refusing(Mine(name="mine")))
    register_stepwise(Mine)
    stepper = stepwise(model)
    x = np.concatenate([X, X[..., :1]], -1)
    found = by_steps(stepper, x, stepper.begin(batch_size=2))
    assert_near(np.concatenate(found, 1), run(model, x))


def test_masks():
    words = keras.Input((LENGTH,), dtype="int32", name="words")
    x = layers.Embedding(9, 4, mask_zero=True, name="embedding")(words)
    model = model_of(words, layers.LSTM(4, name="lstm")(x), "padded")
    with pytest.raises(MaskError, match=r"'lstm' \(LSTM\) reads a mask"):
        stepwise(model)
    stepper = stepwise(model, masks=True)
    found = by_steps(stepper, WORDS, stepper.begin(batch_size=2))
    assert_near(found[-1], run(model, WORDS))


@pytest.mark.parametrize("zeros", [False, True])
def test_outputs_at_steps_that_are_not_masked_are_equal(zeros):
    words = keras.Input((None,), dtype="int32", name="words")
    x = layers.Embedding(9, 4, mask_zero=True, name="embedding")(words)
    for number in range(2):
        x = layers.LSTM(
            4, return_sequences=True, zero_output_for_mask=zeros, name=f"lstm_{number}"
        )(x)
    model = model_of(words, x, "padded")
    padded = np.array([[1, 2, 3, 0, 0, 0], [0, 4, 0, 5, 6, 0]])
    stepper = stepwise(model, masks=not zeros)
    found = np.concatenate(by_steps(stepper, padded, stepper.begin(batch_size=2)), 1)
    expected = run(model, padded)
    assert_near(found[padded > 0], expected[padded > 0])
    if zeros:
        assert_near(found, expected)


def test_masks_that_end_before_the_first_step_do_no_harm():
    words, steps = keras.Input((4,), dtype="int32", name="words"), keras.Input((None, 3), name="x")
    x = layers.Embedding(9, 4, mask_zero=True, name="embedding")(words)
    read, *state = layers.LSTM(4, return_sequences=True, return_state=True, name="read")(x)
    y = layers.LSTM(4, return_sequences=True, name="write")(steps, initial_state=state)
    model = model_of([words, steps], y, "masked_encoder")
    padded = np.array([[1, 2, 0, 0], [3, 4, 5, 0]])
    stepper = stepwise(model)
    found = by_steps(stepper, X, stepper.begin(padded))
    assert_near(np.concatenate(found, 1), run(model, [padded, X]))
    attending = layers.Attention(name="attention")([y, read])
    with pytest.raises(EditError, match="attends to the whole sequence, or by a mask"):
        stepwise(model_of([words, steps], attending, "masked_attention"))


def test_other_refusals():
    with pytest.raises(EditError, match="has no recurrent layer that reads its inputs"):
        stepwise(mlp())
    with pytest.raises(EditError, match="no input 'step'"):
        stepwise(tagger(), inputs="step")
    with pytest.raises(EditError, match="every state starts at zero"):
        resect.plan(tagger()).then(StepStart()).apply()
    x = keras.Input((None, 3), name="x")
    y, z = layers.GRU(2, name="gru")(x), keras.Input((2,), name="z")
    with pytest.raises(EditError, match="'dense' does not depend on the sequence"):
        stepwise(keras.Model([x, z], [y, layers.Dense(2, name="dense")(z)]), inputs="x")
