"""A model that has travelled is the model that was sent, or was refused."""

from __future__ import annotations

import importlib
import pickle
import sys
import threading

import keras
import numpy as np
import pytest
from keras import layers

from resect.errors import CopyError
from resect.parallel import Shipped
from resect.parallel.dumping import dumped, loaded_layer
from tests.common import (
    assert_equal,
    functional_mlp,
    predictions,
    primed,
    slots,
    stateful_mlp,
    train,
    trained,
    weights_of,
)
from tests.kinds.registry import KINDS, select
from zoo.randomise import outputs_of, randomise

pytest.importorskip("cloudpickle")

#: One of each sort; all of them travel, or are refused by name.
SAMPLE = (
    "lambda_layer", "lora_dense", "lora_in_mha", "quantized_int8", "quantized_float8",
    "mixed_float16", "normalization_adapted", "string_lookup", "discretization", "seeded_dropout",
    "stateful_rnn", "frozen_variable", "frozen_sublayer", "nested_two_levels", "shared_layer_deep",
    "raw_ops", "custom_layer_composite", "subclassed_composed", "functional_subclass",
    "sequential_no_input",
)  # fmt: skip


def arrived(model):
    """The model as another process gets it."""
    return loaded_layer(pickle.loads(pickle.dumps(Shipped(model))).data)


def assert_same(one, other):
    assert_equal(weights_of(one), weights_of(other))
    assert [v.trainable for v in one.variables] == [v.trainable for v in other.variables]
    assert [v.path for v in one.variables] == [v.path for v in other.variables]
    old, new = (slots(model.optimizer) for model in (one, other))
    assert old.keys() == new.keys()
    assert_equal(list(old.values()), [new[name] for name in old])


@pytest.mark.parametrize("name", SAMPLE)
def test_every_sort_of_model(name):
    kind = KINDS[name]
    if kind not in select():
        pytest.skip(kind.unsupported[keras.backend.backend()])
    model = randomise(kind.build())
    inputs = kind.inputs(model)
    if "stateful" in kind.tags:
        outputs_of(model, inputs)  # a state that is not zero
    found = arrived(model)
    before, after = (outputs_of(each, inputs) for each in (model, found))
    for one, two in zip(keras.tree.flatten(before), keras.tree.flatten(after), strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (one, two)))
    assert [layer.trainable for layer in model.layers] == [la.trainable for la in found.layers]


def test_what_has_no_configuration_is_refused():
    with pytest.raises(CopyError, match=r"Cannot ship Functional 'custom_layer_without_config'"):
        Shipped(KINDS["custom_layer_without_config"].build())


class Weighted(keras.losses.Loss):
    """Without a get_config that says how much."""

    def __init__(self, weight):
        super().__init__(name="weighted")
        self.weight = weight

    def call(self, y_true, y_pred):
        return keras.ops.mean(keras.ops.square(y_true - y_pred)) * self.weight


def scheduled():
    rate = keras.optimizers.schedules.CosineDecay(0.1, 50)
    return keras.optimizers.Adam(rate, use_ema=True)


def by_function():
    return keras.optimizers.SGD(lambda: 0.01, momentum=0.9)


def without_decay():
    adam = keras.optimizers.AdamW(0.01)
    adam.exclude_from_weight_decay(var_names=["bias"])
    return adam


@pytest.mark.parametrize("optimizer", [scheduled, by_function, without_decay])
def test_training_goes_on_as_if_nothing_had_happened(optimizer):
    scale = 0.5
    model = trained(
        stateful_mlp(),
        optimizer(),
        loss=Weighted(3.0)
        if optimizer is by_function
        else lambda y, p: keras.ops.mean(keras.ops.abs(y - p)) * scale,
        metrics=["mae", lambda y, p: keras.ops.mean(p)],
    )
    found = arrived(model)
    assert_same(model, found)
    assert_same(train(model, 2), train(found, 2))


def test_what_was_frozen_after_training_stays_in_the_optimizer():
    model = trained(functional_mlp())
    model.get_layer("hidden").trainable = False
    assert_same(model, arrived(model))


def test_mixed_precision_wraps_the_optimizer_once():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = primed(functional_mlp())
    finally:
        keras.config.set_dtype_policy("float32")
    found = arrived(model)
    assert type(found.optimizer) is type(model.optimizer)
    assert_same(model, found)


def test_a_class_of_a_module_that_is_not_there(tmp_path, monkeypatch):
    (tmp_path / "my_layers.py").write_text(
        "import keras\n"
        "FACTOR = 3.0\n"
        "class Times(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        return x * FACTOR\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mine = importlib.import_module("my_layers")
    model = keras.Sequential([keras.Input((4,)), mine.Times(name="times")])
    shipped = Shipped(model)
    assert type(shipped.model().get_layer("times")) is mine.Times  # by its name, where it has one
    monkeypatch.delitem(sys.modules, "my_layers")
    (tmp_path / "my_layers.py").unlink()
    importlib.invalidate_caches()
    there = loaded_layer(shipped.data)
    np.testing.assert_array_equal(
        outputs_of(there, np.ones((1, 4), "float32")), 3 * np.ones((1, 4))
    )


def test_two_classes_of_one_name():
    def named_alike():
        class Same(layers.Layer):
            def call(self, x):
                return x

        return Same

    stack = [keras.Input((4,)), named_alike()(name="one"), named_alike()(name="two")]
    with pytest.raises(CopyError, match=r"Two different things in it are called 'Same'"):
        Shipped(keras.Sequential(stack))


def test_what_cannot_be_pickled_is_named():
    model = functional_mlp()
    lock = threading.Lock()

    def guarded(y, p):
        with lock:
            return keras.ops.mean(y - p)

    model.compile("adam", guarded)
    with pytest.raises(CopyError, match=r"compile's loss=.* cannot be pickled"):
        Shipped(model)


def test_a_process_loads_it_once_and_again_when_it_was_changed():
    shipped = Shipped(trained(functional_mlp()))
    model = shipped.model()
    predictions(model)
    assert shipped.model() is model
    train(model)
    assert shipped.model() is not model
    model = shipped.model()
    model.get_layer("hidden").trainable = False
    assert shipped.model() is not model


def test_layers_losses_and_metrics_travel_too():
    parts = [
        layers.Dropout(0.2, name="drop"),
        Weighted(2.0),
        keras.metrics.MeanSquaredError(name="error"),
        keras.optimizers.Adam(0.125),
    ]
    layer, loss, metric, optimizer = pickle.loads(dumped(parts))
    assert (layer.name, layer.rate) == ("drop", 0.2)
    assert loss.weight == 2.0
    assert metric.name == "error"
    assert float(optimizer.learning_rate) == 0.125
    with pytest.raises(CopyError, match="cannot travel by itself"):
        dumped(functional_mlp().variables[0])
