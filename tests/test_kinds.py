"""Each kind of model is itself sound: Keras alone can build, run, train and save what its tags say.

When one of these fails, Keras or the kind is at fault, and what the other tests say about that kind
means nothing.
"""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import pytest

from resect.oracle import as_taken
from tests.kinds import KINDS, Kind, outputs_of, randomise


def _cases(tag: str | None = None, excuses: str | None = None) -> list[Any]:
    """The kinds with a tag, skipping those for which Keras on this backend has an excuse."""
    backend = keras.backend.backend()

    def case(kind: Kind) -> Any:
        reason = kind.unsupported.get(backend) or (excuses and getattr(kind, excuses).get(backend))
        return pytest.param(
            kind, id=kind.name, marks=[pytest.mark.skip(reason=reason)] if reason else []
        )

    return [case(kind) for kind in KINDS.values() if tag is None or tag in kind.tags]


def _assert_same(actual: Any, expected: Any) -> None:
    keras.tree.assert_same_structure(actual, expected)
    for one, other in zip(keras.tree.flatten(actual), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(
            one.astype("float32"), other.astype("float32"), rtol=1e-5, atol=1e-6
        )


def _eagerly(kind: Kind) -> bool:
    """Whether one step is best run eagerly.

    It mostly is, as nothing needs compiling, but JAX compiles each operation by itself, and
    TensorFlow has no eager gradient for float8.
    """
    return "eager" in kind.tags or not (
        keras.backend.backend() == "jax" or "quantized" in kind.tags
    )


@pytest.fixture(autouse=True)
def _needs(request: pytest.FixtureRequest) -> None:
    kind = request.node.callspec.params["kind"] if hasattr(request.node, "callspec") else None
    if kind and "hub" in kind.tags:
        pytest.importorskip("keras_hub")


@pytest.mark.parametrize("kind", _cases())
def test_its_inputs_and_its_weights_matter(kind: Kind) -> None:
    model = kind.make(seed=1)
    inputs = kind.inputs(model, seed=1)
    outputs = keras.tree.flatten(outputs_of(model, inputs))
    of_other_inputs = keras.tree.flatten(outputs_of(model, kind.inputs(model, seed=2)))
    of_other_weights = keras.tree.flatten(outputs_of(randomise(model, seed=2), inputs))
    assert all(np.isfinite(array.astype("float32")).all() for array in outputs)
    assert not any(map(np.array_equal, outputs, of_other_inputs))
    assert not all(map(np.array_equal, outputs, of_other_weights))


@pytest.mark.parametrize("kind", _cases("saves", "unsaved"))
def test_a_saved_copy_computes_the_same(kind: Kind, tmp_path: pathlib.Path) -> None:
    model = kind.make()
    inputs = kind.inputs(model)
    copy = kind.reload(model, tmp_path)
    assert type(copy) is type(model)
    _assert_same(outputs_of(copy, as_taken(copy, inputs)), outputs_of(model, inputs))


@pytest.mark.parametrize("kind", _cases("trains", "untrained"))
def test_one_step_of_training_changes_a_weight(kind: Kind) -> None:
    model = kind.make()
    inputs = kind.inputs(model)
    outputs = outputs_of(model, inputs)
    targets = keras.tree.map_structure(lambda array: np.zeros(array.shape, "float32"), outputs)
    loss = keras.tree.map_structure(lambda _: "mse", outputs)
    before = [np.array(weight) for weight in model.get_weights()]
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss, run_eagerly=_eagerly(kind))
    assert np.isfinite(model.train_on_batch(inputs, targets, return_dict=True)["loss"])
    assert any(
        not np.array_equal(was, now) for was, now in zip(before, model.get_weights(), strict=True)
    )


@pytest.mark.parametrize("kind", _cases("frozen"))
def test_a_frozen_kind_has_weights_that_do_not_train(kind: Kind) -> None:
    model = kind.make()
    own = [
        weight
        for layer in model._flatten_layers()
        for weight in getattr(layer, "_trainable_variables", [])
    ]
    trainable = {id(weight) for weight in model.trainable_variables}
    assert any(id(weight) not in trainable for weight in own)


def test_every_kind_says_what_it_is() -> None:
    assert all(len(kind.summary) > 10 for kind in KINDS.values())
