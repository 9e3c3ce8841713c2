"""What comes out is plain Keras: it saves, loads, exports and goes on without resect."""

from __future__ import annotations

import copy
import functools
import json
import os
import subprocess
import sys
import textwrap
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import resect
from tests.common import (
    assert_close,
    assert_equal,
    cnn,
    data_for,
    functional_mlp,
    mlp,
    nested,
    predictions,
    primed,
    residual,
    stateful_mlp,
    train,
    two_branches,
    weights_of,
)
from zoo.randomise import outputs_of

RESULTS: dict[str, Callable[[], Any]] = {
    "popped": lambda: resect.pop(primed(mlp())),
    "grown": lambda: resect.append(primed(cnn()), [layers.ReLU(), layers.Dense(2)]),
    "afresh": lambda: resect.remove(primed(cnn()), "dense", on_mismatch="reinit"),
    "adapted": lambda: resect.prepend(primed(mlp()), layers.Dense(4), on_mismatch="adapt"),
    "merged": lambda: resect.insert(
        primed(mlp()), layers.Add(), after="middle", merge_with="hidden"
    ),
    "replaced": lambda: resect.replace(
        primed(two_branches()), "shared@1", layers.Dense(5, "tanh", name="other")
    ),
    "inside": lambda: resect.insert(
        primed(nested()), layers.BatchNormalization(), after="backbone/dense_1"
    ),
    "renamed": lambda: resect.rename(primed(stateful_mlp()), {"hidden": "body"}),
    "shared": lambda: resect.insert(
        primed(stateful_mlp()), layers.Dropout(0.1), after="norm", weights="share"
    ),
    "collapsed": lambda: resect.collapse(primed(residual()), "stem", "add"),
    "head": lambda: resect.split(primed(residual()), "branch")[0],
    "tail": lambda: resect.split(primed(residual()), "branch")[1],
    "back": lambda: resect.truncate(primed(cnn()), start="conv_2"),
}


@functools.cache
def result(name: str) -> Any:
    """One of the results, made once: no test changes it."""
    return RESULTS[name]()


each_result = pytest.mark.parametrize("name", RESULTS)

STRANGER = """
    import sys
    sys.modules["resect"] = None  # importing it fails
    import pathlib, keras, numpy as np

    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.keras")):
        model = keras.saving.load_model(path)
        arrays = dict(np.load(path.with_suffix(".npz")))
        inputs, outputs = ([a for n, a in arrays.items() if n.startswith(k)] for k in ("in", "out"))
        fed = inputs if len(inputs) > 1 else inputs[0]
        found = model(fed, training=False)
        for one, other in zip(keras.tree.flatten(found), outputs, strict=True):
            np.testing.assert_allclose(keras.ops.convert_to_numpy(one), other, rtol=1e-4, atol=1e-5)
        if model.compiled and path.stem in ("inside", "popped", "replaced"):  # to save time
            before = int(model.optimizer.iterations)
            targets = [np.zeros_like(output) for output in outputs]
            model.train_on_batch(fed, targets if len(targets) > 1 else targets[0])
            assert int(model.optimizer.iterations) == before + 1
        print(path.stem, type(model).__name__, "compiled" if model.compiled else "")
    try:
        import resect
    except ImportError:
        print("no resect here")
"""


def test_every_result_loads_and_trains_where_resect_is_not(tmp_path: Path):
    expected = []
    for name in sorted(RESULTS):
        model = result(name)
        model.save(tmp_path / f"{name}.keras")
        inputs, outputs = (
            keras.tree.flatten(data_for(model)[0]),
            keras.tree.flatten(predictions(model)),
        )
        arrays = {f"input_{i}": value for i, value in enumerate(inputs)}
        arrays |= {f"output_{i}": value for i, value in enumerate(outputs)}
        np.savez(tmp_path / f"{name}.npz", **arrays)
        compiled = "compiled" if model.compiled else ""
        expected.append(f"{name} {type(model).__name__} {compiled}".rstrip())
    ran = subprocess.run(
        [sys.executable, "-I", "-c", textwrap.dedent(STRANGER), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert [line.rstrip() for line in ran.stdout.splitlines()] == [*expected, "no resect here"]


@each_result
def test_its_class_and_its_archive_know_nothing_of_resect(name, tmp_path):
    model = result(name)
    classes = [type(model), *(type(layer) for layer in model._flatten_layers())]
    assert all(cls.__module__.startswith("keras.") for cls in classes)
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        config = archive.read("config.json").decode()
    assert "resect" not in config


@each_result
def test_it_is_rebuilt_from_its_configuration(name, tmp_path):
    model = result(name)
    twin = type(model).from_config(json.loads(json.dumps(model.get_config())))
    assert str(resect.read(twin)) == str(resect.read(model))
    model.save_weights(tmp_path / "model.weights.h5")
    twin.load_weights(tmp_path / "model.weights.h5")
    assert_close(predictions(twin), predictions(model))
    cloned = keras.models.clone_model(model)
    cloned.set_weights(model.get_weights())
    assert_close(predictions(cloned), predictions(model))


@each_result
def test_it_loads_as_the_class_it_is_with_the_values_it_has(name, tmp_path):
    model = result(name)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    assert [v.name for v in loaded.weights] == [v.name for v in model.weights]
    assert_equal(loaded.get_weights(), model.get_weights())
    assert loaded.compiled == model.compiled
    if model.compiled:
        assert_equal(
            [keras.ops.convert_to_numpy(v.value) for v in loaded.optimizer.variables],
            [keras.ops.convert_to_numpy(v.value) for v in model.optimizer.variables],
        )
    assert_close(predictions(loaded), predictions(model))


def test_keras_can_go_on_with_it():
    """Its own surgery: `pop` and `add`, `Model(inputs, layer.output)`, `deepcopy`, `quantize`."""
    model = resect.insert(mlp(), layers.Dropout(0.5, name="drop"), after="hidden")
    probe = keras.Model(model.inputs, model.get_layer("middle").output)
    assert_close(predictions(probe), predictions(resect.pop(model)))
    twin = copy.deepcopy(model)
    assert_close(predictions(twin), predictions(model))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Layer .* does not have a `quantize` method")
        twin.quantize("int8")
    assert_close(predictions(twin), predictions(model), tolerance=0.2)
    twin = resect.clone(model)
    twin.pop()
    twin.add(layers.Dense(2, name="classes"))
    assert predictions(twin).shape == (4, 2)


def test_it_is_summarised_and_counted(capsys):
    model = resect.insert(mlp(), layers.BatchNormalization(name="norm"), after="hidden")
    model.summary()
    shown = capsys.readouterr().out
    assert all(layer.name in shown for layer in model.layers)
    assert model.count_params() == mlp().count_params() + 4 * 8


def test_the_backend_sees_its_variables(backend, tmp_path):
    """Saved and restored by the backend's own means, without Keras."""
    model = resect.insert(functional_mlp(), layers.Dense(8, name="more"), after="hidden")
    blank = keras.models.clone_model(model)
    if backend == "torch":
        assert len(model.state_dict()) >= len(model.weights)
        trainable = {id(v.value) for v in model.trainable_variables}
        assert trainable == {id(p) for p in model.parameters() if p.requires_grad}
        blank.load_state_dict(model.state_dict())
    elif backend == "tensorflow":
        import tensorflow as tf

        saved = tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
        tf.train.Checkpoint(model=blank).read(saved).expect_partial()
    else:
        for old, new in zip(model.variables, blank.variables, strict=True):
            new.assign(old.value)
        trainable = [v.value for v in model.trainable_variables]
        others = [v.value for v in model.non_trainable_variables]
        inputs, _ = data_for(model)
        outputs, _ = model.stateless_call(trainable, others, inputs, training=False)
        assert_close(keras.ops.convert_to_numpy(outputs), predictions(model))
    assert_close(predictions(blank), predictions(model))


# Export, wherever Keras can export the source

VERSION = tuple(map(int, keras.__version__.split(".")[:2]))
FORMATS = {
    "jax": {"tf_saved_model": "tensorflow"},
    "torch": {"onnx": "onnxscript", "torch": "torch"},
    "tensorflow": {"tf_saved_model": "tensorflow", "onnx": "tf2onnx"},
}
SUFFIXES = {"tf_saved_model": "", "onnx": ".onnx", "torch": ".pt2"}


def exported(model: Any, path: Path, how: str) -> Path:
    path = path.with_suffix(SUFFIXES[how])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what exporters say about Keras and themselves
        model.export(path, format=how, verbose=False)
    return path


def run_exported(path: Path, how: str, inputs: np.ndarray) -> np.ndarray:
    """What an exported model computes, run by whatever its format is for."""
    if how == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        return session.run(None, {session.get_inputs()[0].name: inputs})[0]
    if how == "torch":
        import torch

        return torch.export.load(path).module()(torch.as_tensor(inputs)).detach().numpy()
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    return np.array(loaded.serve(inputs))


SOURCES = {"grown": cnn, "inside": nested, "collapsed": residual, "renamed": stateful_mlp}


@pytest.mark.parametrize("how", FORMATS[keras.backend.backend()])
@pytest.mark.parametrize("name", SOURCES)
def test_it_exports_wherever_its_source_does(name, how, backend, tmp_path):
    pytest.importorskip(FORMATS[backend][how])
    if how == "onnx":
        pytest.importorskip("onnxruntime")
    source = primed(SOURCES[name]())
    try:
        exported(source, tmp_path / "source", how)
    except Exception as error:
        if VERSION >= (3, 15):
            raise  # every format that is listed works there
        pytest.skip(f"this Keras cannot export the source: {type(error).__name__}")
    model = result(name)
    path = exported(model, tmp_path / "model", how)
    inputs, _ = data_for(model, batch=1)  # what torch.export keeps as the size of the batch
    found = run_exported(path, how, inputs)
    assert_close(found, outputs_of(model, inputs), tolerance=1e-4)


def test_training_goes_on_after_an_export(backend, tmp_path):
    how = next(iter(FORMATS[backend]))
    pytest.importorskip(FORMATS[backend][how])
    model = RESULTS["grown"]()
    exported(model, tmp_path / "model", how)
    before = weights_of(model)
    train(model)
    assert not np.array_equal(weights_of(model)[0], before[0])
