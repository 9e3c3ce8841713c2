"""What can be asked for, on which data, and what is refused."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import resect
from resect.errors import SurgeryError
from resect.shrink import Drop, FineTune
from resect.training.directions import direction_of
from resect.training.feeding import Data, Slices, data_of
from tests.common import assert_equal, weights_of
from tests.importance.models import EAGERLY
from tests.shrink import models

TARGET = {"parameters": 0.8}


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 3

    def __getitem__(self, index):
        part = slice(8 * index, 8 * index + 8)
        return self.x[part], self.y[part]


def test_every_kind_of_data_gives_the_same_numbers():
    x, y = models.data()
    ordered = Batches(x, y)
    kinds = [(x, y), ordered, [ordered[i] for i in range(3)]]
    found = [
        resect.shrink(models.classifier(), kind, target=TARGET, method="random", batch_size=8)
        for kind in kinds
    ]
    assert len({each.removed for each in found}) == 1
    losses = [step.after["loss"] for each in found for step in each]
    np.testing.assert_allclose(losses, losses[: len(found[0])] * 3, rtol=1e-5)


@pytest.mark.parametrize("kind", ["tensorflow", "torch"])
def test_datasets_and_loaders(kind):
    x, y = models.data()
    library = pytest.importorskip(kind)
    if kind == "tensorflow":
        given = library.data.Dataset.from_tensor_slices((x, y)).batch(8)
    else:
        pairs = library.utils.data.TensorDataset(*map(library.from_numpy, (x, y)))
        given = library.utils.data.DataLoader(pairs, batch_size=8, shuffle=True)
    options = {"target": TARGET, "recover": FineTune(learning_rate=0.1), "method": "random"}
    one = resect.shrink(models.classifier(optimizer="sgd"), given, **options)
    other = resect.shrink(models.classifier(optimizer="sgd"), given, **options)
    assert_equal(weights_of(one.model), weights_of(other.model))  # a DataLoader's order too


def test_sample_weights_count():
    x, y = models.data()
    weight = np.linspace(0, 2, 24).astype("float32")
    model = models.classifier()
    found = resect.shrink(model, (x, y, weight), target=TARGET, method="random")
    expected = model.evaluate(x, y, sample_weight=weight.copy(), verbose=0, return_dict=True)
    assert found[0].after["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_validation_is_what_is_measured_on():
    given, held_out = models.data(), models.data(16, seed=1)
    model = models.classifier()
    options = {"target": TARGET, "method": "random"}
    found = resect.shrink(model, given, validation=held_out, **options)
    assert found.measured_on == "validation"
    assert found[0].after == pytest.approx(models.numbers(model, held_out))
    assert "measured on validation" in str(found)
    assert resect.shrink(model, given, **options).measured_on == "data"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (iter([models.features()]), "exhausted after one pass"),
        ((batch for batch in ()), "generator, which is exhausted"),
        ({1, 2}, "set, which Keras does not train on"),
        ((np.ones((3, 6)), np.ones(4)), "different numbers of samples"),
        ([], "no batches"),
    ],
)
def test_data_that_cannot_be_gone_through_again_is_refused(data, message):
    with pytest.raises(SurgeryError, match=message):
        resect.shrink(models.classifier(), data, target=TARGET)
    with pytest.raises(SurgeryError, match=message):
        resect.shrink(models.classifier(), models.data(), target=TARGET, validation=data)


def test_data_without_targets():
    model, x = models.classifier(), models.features()
    found = resect.shrink(model, x, target=TARGET, method="influence")
    assert found[1].after == {}
    found = resect.shrink(model, x, target=TARGET, method="influence", validation=models.data())
    assert "loss" in found[1].after
    for options in ({}, {"method": "influence", "recover": "fit"}):
        with pytest.raises(SurgeryError, match="has no targets"):
            resect.shrink(model, x, target=TARGET, **options)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({}, "A target is a mapping"),
        (0.5, "A target is a mapping"),
        ({"parameters": 0}, "above 0"),
        ({"parameters": -1}, "from 0 on"),
        ({"loss": "much"}, "must be a number"),
        ({"parameters": Drop(3)}, "above 0"),
        ({"latency": 2}, "'latency_seconds'"),
        ({"loss": Drop(1, better="bigger")}, 'better must be "higher"'),
    ],
)
def test_targets_that_mean_nothing(target, message):
    with pytest.raises(ValueError, match=message):
        resect.shrink(models.classifier(), models.data(), target=target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "best"}, "'best' is no strategy. There are 'greedy', 'one-shot', 'beam'"),
        ({"method": "magic"}, "'magic' is no method"),
        ({"width": 0}, "width must be 1 or more"),
        ({"tries": 0}, "tries must be 1 or more"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
    ],
)
def test_arguments_that_mean_nothing(options, message):
    with pytest.raises(ValueError, match=message):
        resect.shrink(models.classifier(), models.data(), target=TARGET, **options)


def test_a_metric_whose_better_values_nobody_knows_is_asked_for():
    def spread(y, p):
        return keras.ops.std(p, axis=-1)

    model = models.classifier((0.9, 0.1))
    model.compile("sgd", model.loss, metrics=[spread, "accuracy"], **EAGERLY)
    with pytest.raises(SurgeryError, match=r'Drop\(0.1, better="higher"\)'):
        resect.shrink(model, models.data(), target={"spread": 0.1})
    target = {"spread": Drop(0.1, better="lower"), "accuracy": 0.5}
    found = resect.shrink(model, models.data(), target=target, method="random")
    assert found.better == {"loss": "lower", "accuracy": "higher", "spread": "lower"}
    assert all(s.after["spread"] <= found[0].after["spread"] + 0.1 for s in found)
    with pytest.raises(SurgeryError, match=r"There are parameters, .*spread"):
        resect.shrink(model, models.data(), target={"acuracy": 0.1})


@pytest.mark.parametrize(
    ("metric", "better"),
    [
        (keras.metrics.AUC(name="auc"), "higher"),
        (keras.metrics.RootMeanSquaredError(name="rmse"), "lower"),
        (keras.metrics.CosineSimilarity(name="c"), "higher"),
        ("mae", "lower"),
        (keras.metrics.Mean(name="mean"), None),
    ],
)
def test_keras_metrics_are_known(metric, better):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, activation="sigmoid")])
    model.compile("sgd", "mse", metrics=[metric] if better else [], weighted_metrics=[])
    x, y = np.ones((2, 2)), np.array([[0], [1]])
    names = [*model.evaluate(x, y, verbose=0, return_dict=True)]
    if better is None:
        assert direction_of("mean", model) is None
    else:
        assert [direction_of(name, model) for name in sorted(names)] == [
            "lower" if name == "loss" else better for name in sorted(names)
        ]


def test_what_nobody_counts_is_no_target():
    class Odd(keras.layers.Layer):
        def call(self, x):
            return x + keras.ops.real(keras.ops.ifft2((x[None], x[None]))[0])[0]

    class Fourier(keras.layers.Layer):
        def call(self, x):
            return x + keras.ops.rfft(x, fft_length=6)[0][:, :1]

    x = inputs = keras.Input((6,), name="x")
    x = Fourier(name="fourier")(x)
    for i in range(2):
        y = keras.layers.Dense(6, name=f"inner_{i}")(x)
        x = keras.layers.Add(name=f"block_{i}")([x, y])
    model = keras.Model(inputs, x)
    with pytest.raises(SurgeryError, match=r"multiply-adds of fourier .*cannot be counted"):
        resect.shrink(model, models.features(), target={"multiply_adds": 0.5}, method="influence")


def test_arrays_are_shuffled_from_a_seed_and_the_users_stay_as_they_are():
    x = np.arange(10, dtype="float32").reshape(10, 1)
    data = data_of({"x": x}, 4, "data")
    first, again, other, plain = (data.feed(order) for order in (1, 1, 2, None))
    assert isinstance(first, Slices)
    assert len(first) == 3

    def order(feed):
        return np.concatenate([feed[i][0]["x"] for i in range(3)]).ravel().tolist()

    assert order(first) == order(again) != order(other)
    assert sorted(order(first)) == order(plain) == x.ravel().tolist()
    plain[0][0]["x"][:] = 7
    assert x[0] == 0


def test_data_is_described_by_all_of_it_or_by_its_first_batch():
    x, y = models.data()
    one, other = Data((x, y), 8).description(), Data((x, y + 1), 8).description()
    assert one["shapes"] == [[24, 6], [24]]
    assert one["content"] != other["content"]
    assert "content" not in Data(Batches(x, y), 8).description()
