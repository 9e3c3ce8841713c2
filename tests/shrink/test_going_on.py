"""What counts as the same request, who else is at the folder, and what a run depends on."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import resect
from resect.errors import SurgeryError
from resect.shrink import Drop, FineTune
from resect.shrink.journal import FolderJournal
from resect.training.identity import code_of, model_identity
from resect.training.locking import Lock
from tests.common import assert_equal, randomise, slots, weights_of
from tests.importance.models import EAGERLY
from tests.shrink import models

SRC = Path(resect.__file__).parent.parent


def shrink(model, given=None, **options):
    settings = {"target": {"parameters": 0.8}, "method": "random", "batch_size": 8}
    return resect.shrink(model, models.data() if given is None else given, **settings | options)


def bare(folder, model=None, **options):
    """Without anything that has to be compiled."""
    model = models.classifier(compiled=False) if model is None else model
    return shrink(model, models.features(), folder=folder, **options)


# The same request


def unseeded(rate=0.5, activation="tanh"):
    x = features = keras.Input((6,), name="features")
    for i in range(3):
        y = layers.Dense(6, activation=activation, name=f"inner_{i}")(x)
        x = layers.Add(name=f"block_{i}")([x, layers.Dropout(rate, name=f"dropout_{i}")(y)])
    model = keras.Model(features, layers.Dense(3, name="logits")(x), name="unseeded")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, **EAGERLY)
    model.set_weights([np.full(w.shape, 0.1 * i) for i, w in enumerate(model.get_weights())])
    return model


def test_seeds_that_keras_drew_make_no_other_model_and_no_other_result(tmp_path):
    one, other = unseeded(), unseeded()
    seeds = [
        [v.numpy().tolist() for v in model.variables if "seed_generator_state" in v.path]
        for model in (one, other)
    ]
    assert seeds[0] != seeds[1]
    assert model_identity(one) == model_identity(other)
    found = [shrink(one, recover="fit"), shrink(other, recover="fit")]
    assert_equal(found[0].model.get_weights(), found[1].model.get_weights())
    assert_equal(found[0].at(0).variables[-1].numpy(), one.variables[-1].numpy())


@pytest.mark.parametrize("change", [{"rate": 0.25}, {"activation": "sigmoid"}])
def test_a_model_of_equal_weights_that_is_set_otherwise_is_another(change):
    assert model_identity(unseeded()) != model_identity(unseeded(**change))


def test_functions_are_told_apart_by_what_they_do():
    def made(count):
        def recover(model, rate=0.1):
            return [rate, count, [each * 2 for each in range(3)]]

        return recover

    def other(count):
        def recover(model, rate=0.1):
            return [rate, count, [each + 1 for each in range(3)]]

        return recover

    codes = [code_of(f) for f in (made(1), made(1), made(2), other(1))]
    assert codes[0] == codes[1]
    assert len(set(codes)) == 3
    assert code_of(functools.partial(made(1), rate=1)) != code_of(
        functools.partial(made(1), rate=2)
    )
    assert code_of(keras.losses.mean_squared_error) == code_of("fit") == code_of(None) == ""


def test_another_function_in_the_same_folder_is_refused(tmp_path):
    def recover(model, times):
        model.set_weights([w * times for w in model.get_weights()])

    bare(tmp_path, recover=functools.partial(recover, times=2))
    bare(tmp_path, recover=functools.partial(recover, times=2))
    with pytest.raises(SurgeryError, match=r"recover code was .* and is"):
        bare(tmp_path, recover=functools.partial(recover, times=3))


def test_a_damaged_header_says_so(tmp_path):
    bare(tmp_path)
    (tmp_path / "shrink.json").write_text("{")
    with pytest.raises(SurgeryError, match="is damaged, so nothing says what the folder holds"):
        bare(tmp_path)


# Others at the folder

HELD = f"""
import sys, types
sys.path.insert(0, {str(SRC)!r})
package = types.ModuleType("resect.shrink")  # without Keras
package.__path__ = [{str(SRC / "resect" / "shrink")!r}]
root = types.ModuleType("resect")
root.__path__ = [{str(SRC / "resect")!r}]
sys.modules.update({{"resect": root, "resect.shrink": package}})
from pathlib import Path
from resect.training.locking import Lock
lock = Lock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.nobackend
def test_a_folder_is_for_one_process_until_it_ends_however_it_ends(tmp_path):
    command = [sys.executable, "-c", HELD, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(SurgeryError, match="Somebody else is at work in the folder"):
            Lock(tmp_path)
        process.kill()
    Lock(tmp_path).release()


@pytest.mark.nobackend
def test_a_folder_is_for_one_journal_of_a_process(tmp_path):
    with FolderJournal(tmp_path, {}), pytest.raises(SurgeryError, match="Somebody else"):
        FolderJournal(tmp_path, {})
    with pytest.raises(SurgeryError, match="another request"):
        FolderJournal(tmp_path, {"seed": 1})
    with FolderJournal(tmp_path, {}) as journal:
        journal.record("a", {"n": 1})


def test_recovery_that_asks_for_the_same_folder_is_refused(tmp_path):
    def recover(model):
        bare(tmp_path)

    with pytest.raises(SurgeryError, match="Somebody else"):
        bare(tmp_path, recover=recover)


# What a run depends on


def test_the_result_stays_when_the_original_is_trained_or_compiled_anew():
    model = models.classifier()
    weights = weights_of(model)
    found = shrink(model, recover="fit")
    first = weights_of(found.at(1))
    model.fit(*models.data(), verbose=0)
    model.compile("sgd", "mse")
    assert_equal(weights_of(found.at(0)), weights)
    assert_equal(weights_of(found.at(1)), first)
    assert type(found.at(1).optimizer).__name__ == "Adam"


def averaged():
    return keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.5)


def test_epochs_are_those_of_one_training():
    """At its end, and not after each epoch, Keras puts averages in the place of weights."""
    given = models.data()

    def recover(model):
        model.fit(*given, epochs=3, batch_size=24, verbose=0)

    results = []
    for how in (FineTune(epochs=3), recover):
        model = models.classifier((0.9, 0.5), optimizer=averaged())
        for layer in model.layers:
            if isinstance(layer, layers.Dropout):
                layer.rate = 0.0
        results.append(shrink(model, recover=how, batch_size=24).model.get_weights())
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_each_epoch_has_an_order_of_its_own():
    seen = []

    class Watching(keras.Model):
        def train_step(self, *args):
            seen.append(keras.ops.convert_to_numpy(args[-1][0])[:, 0].tolist())
            return super().train_step(*args)

    features = keras.Input((6,))
    model = Watching(features, layers.Dense(3)(features))
    model.compile("sgd", "mse", run_eagerly=True)
    from resect.training.feeding import data_of
    from resect.training.recovery import recovered

    x = np.arange(48, dtype="float32").reshape(8, 6)
    data = data_of((x, np.zeros((8, 3))), 8, "data")
    recovered(FineTune(epochs=3), model, model, data, 0)
    orders = [tuple(batch) for batch in seen[-3:]]
    assert len(set(orders)) == 3
    assert {tuple(sorted(order)) for order in orders} == {tuple(x[:, 0].tolist())}


def test_a_layer_that_was_frozen_after_training_does_not_move_the_optimizers_state():
    model = models.classifier()
    model.fit(*models.data(), verbose=0)
    model.get_layer("inner_1").trainable = False
    found = shrink(model, recover="fit", strategy="beam", width=2)
    momenta = slots(found.model.optimizer)
    assert all(np.isfinite(value).all() for value in momenta.values())
    assert_equal(weights_of(found.at(1)), weights_of(found.model))


# What is asked for


def test_recovery_that_breaks_a_permitted_drop_is_not_kept():
    def recover(model):
        model.set_weights([-9 * w for w in model.get_weights()])

    target = {"parameters": 0.8, "loss": 1.0}
    found = shrink(models.classifier(), target=target, recover=recover, strategy="one-shot")
    assert found.ended.startswith("reached, as cut: after recovery, loss is worse by")
    assert all(step.after["loss"] <= found[0].after["loss"] + 1 for step in found)
    assert_equal(weights_of(found.model), weights_of(found.plan.apply()))


def test_numbers_of_numpy_are_numbers(tmp_path):
    target = {"parameters": np.float32(0.8), "multiply_adds": np.int64(10**6)}
    assert len(bare(tmp_path, target=target)) == 2
    given = {"parameters": np.float32(0.8), "loss": Drop(np.float32(9))}
    assert len(shrink(models.classifier(), target=given)) == 2


def test_a_metric_that_is_no_number_is_refused():
    model, (x, y) = models.classifier(), models.data()
    model.compile("sgd", "mse", metrics=[keras.metrics.F1Score()], **EAGERLY)
    with pytest.raises(SurgeryError, match="'f1_score' gives 3 numbers"):
        shrink(model, (x, np.eye(3, dtype="float32")[y]))


def test_json_that_everybody_reads(tmp_path):
    def refused(name):
        raise AssertionError(name)

    read = json.loads(bare(tmp_path).to_json(), parse_constant=refused)
    assert read["steps"][0]["score"] is None


def test_batches_in_lists_as_a_loader_collates_them():
    x, y = models.data()
    batches = [[x[:8], y[:8]], [x[8:], y[8:]]]
    found = shrink(models.classifier(), batches)
    assert found[0].after["loss"] == pytest.approx(
        shrink(models.classifier(), [tuple(b) for b in batches])[0].after["loss"]
    )


def test_a_dataset_without_an_end_is_refused():
    tf = pytest.importorskip("tensorflow")
    given = tf.data.Dataset.from_tensor_slices(models.data()).batch(8).repeat()
    with pytest.raises(SurgeryError, match=r"without an end.*\n.*data.take\(100\)"):
        shrink(models.classifier(), given)


def test_costs_that_are_not_known_are_not_reached():
    from resect.shrink.goals import Goals
    from resect.training.measures import Costs

    goals = Goals({"multiply_adds": 10.0}, {}, {})
    assert not goals.reached(Costs(5, None))
    assert goals.reached(Costs(5, 10))


def test_a_function_that_thaws_a_layer_leaves_the_optimizer_out():
    def recover(model):
        model.get_layer("logits").trainable = True
        model.compile(keras.optimizers.Adam(), model.loss, **EAGERLY)
        model.fit(*models.data(), verbose=0)

    model = randomise(models.classifier())
    model.get_layer("logits").trainable = False
    found = shrink(model, recover=recover)
    assert not found.model.get_layer("logits").trainable
    assert int(slots(found.model.optimizer)["_iterations"]) == 0


def test_a_task_of_keras_hub_takes_data_for_its_inputs():
    hub = pytest.importorskip("keras_hub")
    sizes = {"num_heads": 2, "hidden_dim": 8, "intermediate_dim": 8, "max_sequence_length": 4}
    backbone = hub.models.BertBackbone(vocabulary_size=9, num_layers=2, **sizes)
    model = hub.models.BertTextClassifier(backbone, 2, preprocessor=None)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True)
    ones = np.ones((2, 4), "int32")
    x, y = {"token_ids": ones, "segment_ids": 0 * ones, "padding_mask": ones}, np.array([0, 1])
    found = shrink(model, (x, y), target={"parameters": 0.9}, recover="fit")
    expected = found.model.evaluate(x, y, verbose=0, return_dict=True)
    assert found[-1].after["loss"] == pytest.approx(expected["loss"], rel=1e-4)
