"""What the sweep holds, what it compiles, what it is given, and what it refuses."""

from __future__ import annotations

import tracemalloc
import weakref

import keras
import numpy as np
import pytest
from keras import layers

import resect
from resect.importance import sweep
from resect.importance.backends import bytes_in, compiles
from resect.importance.data import batches
from resect.importance.execution import Executor
from resect.importance.program import program_of
from resect.importance.scores import Scores
from resect.importance.sweep import Sweep
from resect.importance.targets import targets_of
from tests.common import randomise
from tests.importance import models


def swept(model, data, batch_size=4, memory=2**30):
    program = program_of(resect.read(model))
    targets = targets_of(program)
    made = Sweep(program, targets, Scores(program, targets), memory)
    made.run(batches(data, batch_size))
    return made


def test_what_is_held_is_bounded_whatever_the_size_of_the_data(monkeypatch):
    """Counts the activations that are alive whenever a segment has run or a stack is made."""
    model = models.residual_mlp(10, width=64)
    made, found = [], []

    def counted(held):
        made.extend(weakref.ref(each.tensor) for each in held)
        alive = {id(tensor): tensor for ref in made if (tensor := ref()) is not None}
        found.append(sum(map(bytes_in, alive.values())))

    run, together = Executor.run, sweep._together

    def counted_run(self, segment, values):
        result = run(self, segment, values)
        counted(result[0].values())
        return result

    def counted_stack(parts):
        result = together(parts)
        counted([result])
        return result

    monkeypatch.setattr(Executor, "run", counted_run)
    monkeypatch.setattr(sweep, "_together", counted_stack)
    budget = 14 * 2 * 4 * 64 * 4
    peaks = []
    for samples in (4, 12):
        found.clear()
        held = swept(model, models.data_of(model, samples), memory=budget).meter.peak
        assert max(found) <= held <= budget
        peaks.append(max(found))
    assert peaks[0] == peaks[1] > 6 * 4 * 64 * 4


def test_of_a_batch_that_is_done_only_numbers_are_kept():
    model = models.residual_mlp(2)
    scores = swept(model, models.data_of(model, 12)).scores
    assert [[type(v) for v in losses[:-1]] for losses in scores.losses] == [[float, float]] * 3


@pytest.mark.nobackend
def test_arrays_are_converted_batch_by_batch():
    x = np.zeros((10_000, 16))
    tracemalloc.start()
    count = sum(batch.size for batch in batches((x, x), 100))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 10_000
    assert peak < x.nbytes / 10


def test_alike_segments_are_compiled_once():
    model = models.residual_mlp(6)
    made = swept(model, models.data_of(model, 8))
    assert len(made.segments) == 7
    assert made.executor.compilations == (3 if compiles() else 7)


@pytest.mark.parametrize("seen", [keras.ops.mean, keras.ops.max])
@pytest.mark.parametrize("memory", [2**30, 600], ids=["roomy", "tight"])
def test_samples_that_see_each_other_are_not_stacked(seen, memory, monkeypatch):
    """A mean and a maximum are the same for copies of a batch, whatever their number and order."""
    monkeypatch.setattr(sweep, "WIDTH", 2)  # or no block would be behind a stack
    x = features = keras.Input((4,), name="features")
    for i in range(4):
        y = layers.Dense(4, name=f"inner_{i}")(x - seen(x, axis=0, keepdims=True))
        x = layers.Add(name=f"add_{i}")([x, y])
    model = randomise(keras.Model(features, layers.Dense(2)(x)))
    model.compile(loss="mse", **models.EAGERLY)
    data = models.data_of(model, 7)  # the last batch is smaller
    _as_naive(model, data, memory=memory)


def test_batches_that_grow_stay_within_the_budget():
    """Of the first batch alone, two variants would go into a stack; of the others only one."""
    words = keras.Input((None, 4), name="features")
    x = words
    for i in range(6):
        x = layers.Add(name=f"add_{i}")([x, layers.Dense(4, name=f"inner_{i}")(x)])
    model = randomise(keras.Model(words, layers.GlobalAveragePooling1D()(x)))
    model.compile(loss="mse", **models.EAGERLY)
    rng = np.random.default_rng(0)

    def batch(size, length):
        x = rng.normal(size=(size, length, 4)).astype("float32")
        return x, rng.normal(size=(size, 4)).astype("float32")

    data = [batch(2, 2), batch(2, 9), batch(9, 2), batch(5, 2), batch(2, 2), batch(1, 9)]
    one = 2 * 2 * 9 * 4 * 4  # a batch of the largest before and behind a block
    found = swept(model, data, memory=4 * one)
    assert found.meter.peak <= 4 * one
    with pytest.raises(resect.SurgeryError, match="A batch of 9 samples takes"):
        swept(model, [*data, batch(9, 9)], memory=4 * one)
    expected = [_losses(resect.collapse(model, *t.ends), data) for t in found.targets]
    assert found.scores.batch_losses()[1:] == pytest.approx(np.array(expected), rel=1e-5)


def _losses(model, data):
    found = []
    for x, y in data:
        model.reset_metrics()  # in Keras 3.10 test_on_batch goes on with the mean
        found.append(model.test_on_batch(x, y))
    return found


def test_losses_that_layers_add():
    x = features = keras.Input((4,), name="features")
    for i in range(3):
        y = layers.Dense(4, activity_regularizer="l2", name=f"inner_{i}")(x)
        x = layers.Add(name=f"add_{i}")([x, y])
    model = randomise(keras.Model(features, layers.Dense(2, kernel_regularizer="l1")(x)))
    model.compile(loss="mse", **models.EAGERLY)
    _as_naive(model, models.data_of(model, 10))


def _as_naive(model, data, memory=2**30):
    found = resect.importance(model, data, batch_size=4, memory=memory)
    assert found.baseline == pytest.approx(models.reference(model, None, data, 4), rel=1e-5)
    for row in found:
        expected = models.reference(model, row.ends, data, 4)["loss"]
        assert row.score + found.baseline["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_source_is_as_it_was():
    model = models.residual_mlp()
    data = models.data_of(model, 8)
    before = [np.array(w) for w in model.get_weights()]
    state = [np.array(keras.ops.convert_to_numpy(v)) for v in model.metrics_variables]
    resect.importance(model, data)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(state, model.metrics_variables, strict=True):
        np.testing.assert_array_equal(one, keras.ops.convert_to_numpy(other))


class Pairs(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 3

    def __getitem__(self, index):
        part = slice(4 * index, 4 * index + 4)
        return self.x[part], self.y[part]


def test_data_of_every_kind():
    model = models.residual_mlp(2)
    x, y = models.data_of(model, 10)
    expected = resect.importance(model, (x, y), batch_size=4)
    parts = [(x[i : i + 4], y[i : i + 4]) for i in (0, 4, 8)]
    kinds = [Pairs(x, y), parts, iter(parts), ({"features": x}, y)]
    kinds += _datasets(x, y)
    for data in kinds:
        found = resect.importance(model, data, batch_size=4)
        assert found.samples == 10
        assert found.baseline == pytest.approx(expected.baseline, rel=1e-6), type(data)


def _datasets(x, y):
    found = []
    if keras.backend.backend() == "torch":
        import torch

        pairs = torch.utils.data.TensorDataset(torch.as_tensor(x), torch.as_tensor(y))
        found.append(torch.utils.data.DataLoader(pairs, batch_size=4))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        found.append(tf.data.Dataset.from_tensor_slices((x, y)).batch(4))
    return found


# Refusals


def test_a_dataset_without_an_end_is_refused():
    tf = pytest.importorskip("tensorflow")
    model = models.residual_mlp(2)
    data = tf.data.Dataset.from_tensor_slices(models.data_of(model, 4)).batch(2).repeat()
    with pytest.raises(resect.SurgeryError, match=r"without an end.*\n.*data.take\(100\)"):
        resect.importance(model, data)


def test_a_model_without_a_loss_is_refused():
    model = models.residual_mlp(2)
    data = models.data_of(model, 4)
    with pytest.raises(resect.SurgeryError, match="The model is not compiled"):
        resect.importance(keras.Model(model.inputs, model.outputs), data)


def test_too_small_a_budget_is_refused():
    model = models.residual_mlp(2)
    with pytest.raises(resect.SurgeryError, match=r"(?s)four times as much .* memory=640"):
        resect.importance(model, models.data_of(model, 4), memory=100)


def test_a_model_without_blocks_is_refused():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)], name="small")
    model.compile(loss="mse")
    with pytest.raises(resect.errors.NoMatchError, match="'small' has no blocks that keep"):
        resect.importance(model, (np.ones((2, 3)), np.ones((2, 2))))


def test_blocks_that_change_the_shape_are_refused():
    model = models.resnet()
    chosen = resect.blocks(model).level("block")
    with pytest.raises(resect.errors.ShapeError, match="cannot become a wire"):
        resect.importance(model, models.data_of(model, 4), blocks=chosen)


def test_arrays_of_different_lengths_are_refused():
    model = models.residual_mlp(2)
    x, y = models.data_of(model, 6)
    with pytest.raises(resect.SurgeryError, match="different numbers of samples: 4, 6"):
        resect.importance(model, (x, y[:4]))


def test_state_that_inference_updates_is_refused():
    x = steps = keras.Input(batch_shape=(4, 3, 2), name="steps")
    for i in range(2):
        y = layers.SimpleRNN(2, return_sequences=True, stateful=True, name=f"rnn_{i}")(x)
        x = layers.Add(name=f"add_{i}")([x, y])
    model = randomise(keras.Model(steps, x))
    model.compile(loss="mse", **models.EAGERLY)
    data = np.ones((4, 3, 2), "float32")
    with pytest.raises(resect.SurgeryError, match="'rnn_0' updates its state in inference"):
        resect.importance(model, (data, data), batch_size=4)


def test_a_loss_of_its_own_is_refused():
    class Own(keras.Model):
        def compute_loss(self, *args, **kwargs):
            return super().compute_loss(*args, **kwargs)

    x = features = keras.Input((3,))
    x = layers.Add()([x, layers.Dense(3)(x)])
    model = Own(features, layers.Dense(3)(x))
    model.compile(loss="mse")
    with pytest.raises(resect.SurgeryError, match="Own has a compute_loss of its own"):
        resect.importance(model, (np.ones((2, 3)), np.ones((2, 3))))
