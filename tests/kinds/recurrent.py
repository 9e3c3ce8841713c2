"""Recurrent layers: masks, initial states, returned states and states that persist."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from tests.kinds.registry import PLAIN, kind
from zoo.randomise import inputs_for


@kind("lstm_masked", tags=PLAIN | {"masked"})
def lstm_masked() -> keras.Model:
    """An embedding whose mask reaches an LSTM through a dropout."""
    ids = keras.Input((6,), dtype="int32", name="ids")
    x = layers.Embedding(10, 4, mask_zero=True, name="embedding")(ids)
    x = layers.Dropout(0.1, name="dropout")(x)
    x = layers.LSTM(5, name="lstm")(x)
    return keras.Model(ids, layers.Dense(3, name="logits")(x), name="lstm_masked")


def _ending_early(model: keras.Model, batch: int, seed: int) -> Any:
    """Sequences of which every other one ends in zeros."""
    sequence = inputs_for(model, batch, seed)
    sequence[1::2, 3:] = 0.0
    return sequence


@kind("masking_layer", tags=PLAIN | {"masked"}, inputs=_ending_early)
def masking_layer() -> keras.Model:
    """A `Masking` layer before two recurrent layers."""
    sequence = keras.Input((5, 3), name="sequence")
    x = layers.Masking(name="masking")(sequence)
    x = layers.GRU(4, return_sequences=True, name="gru")(x)
    x = layers.SimpleRNN(4, name="rnn")(x)
    return keras.Model(sequence, layers.Dense(3, name="logits")(x), name="masking_layer")


@kind("gru_initial_state", tags=PLAIN | {"multi_io"})
def gru_initial_state() -> keras.Model:
    """A GRU whose initial state is computed from a second input."""
    sequence, context = keras.Input((5, 3), name="sequence"), keras.Input((2,), name="context")
    state = layers.Dense(4, activation="tanh", name="state")(context)
    x = layers.GRU(4, name="gru")(sequence, initial_state=state)
    return keras.Model(
        [sequence, context], layers.Dense(3, name="logits")(x), name="gru_initial_state"
    )


@kind("lstm_return_state", tags=PLAIN | {"multi_io"})
def lstm_return_state() -> keras.Model:
    """Sequence to sequence: an encoder hands both its states to a decoder."""
    source, target = keras.Input((5, 3), name="source"), keras.Input((4, 2), name="target")
    _, hidden, cell = layers.LSTM(4, return_state=True, name="encoder")(source)
    x = layers.LSTM(4, return_sequences=True, name="decoder")(target, initial_state=[hidden, cell])
    return keras.Model(
        [source, target], layers.Dense(3, name="logits")(x), name="lstm_return_state"
    )


@kind(
    "stateful_rnn",
    tags=PLAIN | {"stateful"},
    untrained={"torch": "Keras: on torch a stateful RNN changes states that autograd needs."},
)
def stateful_rnn() -> keras.Model:
    """An LSTM that remembers its state from one batch to the next."""
    sequence = keras.Input(batch_shape=(2, 5, 3), name="sequence")
    x = layers.LSTM(4, stateful=True, name="lstm")(sequence)
    return keras.Model(sequence, layers.Dense(3, name="logits")(x), name="stateful_rnn")


@kind("bidirectional", tags=PLAIN | {"masked"})
def bidirectional() -> keras.Model:
    """Bidirectional layers under a mask: one class both ways, and one class each way."""
    ids = keras.Input((6,), dtype="int32", name="ids")
    x = layers.Embedding(10, 4, mask_zero=True, name="embedding")(ids)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True, name="lstm"), name="both_lstm")(
        x
    )
    x = layers.Bidirectional(
        layers.GRU(3, name="gru"),
        backward_layer=layers.SimpleRNN(3, go_backwards=True, name="rnn"),
        merge_mode="sum",
        name="both_mixed",
    )(x)
    return keras.Model(ids, layers.Dense(3, name="logits")(x), name="bidirectional")


@kind("time_distributed_layer")
def time_distributed_layer() -> keras.Model:
    """`TimeDistributed` around a layer."""
    sequence = keras.Input((5, 3), name="sequence")
    x = layers.TimeDistributed(
        layers.Dense(4, activation="relu", name="inner_dense"), name="each_dense"
    )(sequence)
    x = layers.TimeDistributed(layers.BatchNormalization(name="inner_bn"), name="each_bn")(x)
    x = layers.LSTM(4, name="lstm")(x)
    return keras.Model(sequence, layers.Dense(3, name="logits")(x), name="time_distributed_layer")


@kind("time_distributed_model", tags=PLAIN | {"nested"})
def time_distributed_model() -> keras.Model:
    """`TimeDistributed` around a model: a small CNN over every frame of a video."""
    frame = keras.Input((6, 6, 2), name="frame")
    x = layers.Conv2D(3, 3, activation="relu", name="frame_conv")(frame)
    frame_model = keras.Model(
        frame, layers.GlobalAveragePooling2D(name="frame_pool")(x), name="frame_model"
    )
    video = keras.Input((4, 6, 6, 2), name="video")
    x = layers.TimeDistributed(frame_model, name="each_frame")(video)
    x = layers.GRU(4, name="gru")(x)
    return keras.Model(video, layers.Dense(3, name="logits")(x), name="time_distributed_model")


@kind("stacked_cells")
def stacked_cells() -> keras.Model:
    """An `RNN` over a stack of cells."""
    sequence = keras.Input((5, 3), name="sequence")
    cells = [layers.LSTMCell(4, name="lstm_cell"), layers.GRUCell(3, name="gru_cell")]
    x = layers.RNN(cells, name="rnn")(sequence)
    return keras.Model(sequence, layers.Dense(3, name="logits")(x), name="stacked_cells")


@kind("conv_lstm")
def conv_lstm() -> keras.Model:
    """A convolutional LSTM."""
    video = keras.Input((3, 5, 5, 2), name="video")
    x = layers.ConvLSTM2D(3, 3, padding="same", name="conv_lstm")(video)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(video, layers.Dense(3, name="logits")(x), name="conv_lstm")
