"""LoRA in the copies of layers: nothing changes until it is trained, and it merges again."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import resect
from resect import adapt
from resect.errors import CopyError, EditError, NoMatchError
from tests.adapt.models import images, layer_of, mobilenet, resnet, run, transfer
from tests.adapt.test_adapters import masked
from tests.common import (
    assert_close,
    assert_equal,
    cnn,
    mlp,
    nested,
    predictions,
    randomise,
    slots,
    train,
    trained,
    two_branches,
    weights_of,
)
from tests.surgery import Source, assert_plain_keras, assert_surgery


def einsum() -> keras.Model:
    """An EinsumDense, and a Dense at every step of time."""
    x = features = keras.Input((4, 6), name="features")
    x = layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de", name="einsum")(x)
    x = layers.Reshape((4, 6), name="reshape")(x)
    x = layers.TimeDistributed(layers.Dense(3, name="inner"), name="steps")(x)
    return randomise(keras.Model(features, x, name="einsum_net"))


CASES: dict[str, tuple[Any, Any, int]] = {  # a model, layers of it, and how many factors they get
    "dense": (mlp, layers.Dense, 6),
    "convolution": (cnn, ["conv_1", "conv_2"], 4),
    "embedding": (masked, "embedding", 2),
    "einsum": (einsum, "einsum", 2),
    "wrapped": (einsum, "steps", 2),
    "nested": (nested, "backbone/dense_*", 4),
    "shared": (two_branches, "shared@1", 2),
    "frozen": (transfer, "base/conv", 2),
    "attention": (masked, "attention", 8),
}
each_case = pytest.mark.parametrize(("build", "where", "count"), CASES.values(), ids=CASES)


def applied(model: Any, edit: Any, weights: Any = "copy") -> Any:
    """The edited model, with all that is promised of it proved."""
    before, plan = Source.of(model), resect.plan(model).then(edit)
    new = plan.apply(weights)
    resect.verify(model, new, plan=plan, reload=True, tolerance=1e-5)
    assert_plain_keras(model, new)
    before.assert_untouched()
    return new


def factors(model: Any) -> list[Any]:
    return [variable for variable in model.variables if variable.name.startswith("lora_")]


def with_random_factors(model: Any) -> Any:
    rng = np.random.default_rng(4)
    for variable in factors(model):
        variable.assign(rng.normal(size=variable.shape).astype("float32"))
    return model


@each_case
def test_nothing_changes_at_first(build, where, count):
    model = trained(build()) if build is not transfer else build()
    new = applied(model, adapt.Lora(where, 2, 3))
    assert_close(predictions(new), predictions(model))
    assert len(factors(new)) == count
    assert all(variable.trainable for variable in factors(new))
    assert not factors(model)


@each_case
def test_merged_equals_unmerged(build, where, count):
    model = build()
    new = with_random_factors(adapt.lora(model, where, 2, alpha=3))
    assert np.max(np.abs(predictions(new) - predictions(model))) > 1e-3
    merged = applied(new, adapt.MergeLora())
    assert_close(predictions(merged), predictions(new), 1e-4)
    if build is not transfer:  # a layer that was frozen is trained, now that LoRA was in it
        assert merged.get_config() == model.get_config()
        assert [(v.path, v.trainable) for v in merged.variables] == [
            (v.path, v.trainable) for v in model.variables
        ]


@each_case
def test_training_moves_the_factors_and_no_kernel(build, where, count):
    model = trained(build(), loss="mse")
    new = resect.plan(model).then(adapt.Lora(where, 2, freeze=True)).apply()
    assert [id(v) for v in new.trainable_variables] == [id(v) for v in factors(new)]
    others = [v for v in new.weights if not v.name.startswith("lora_")]
    kept = [np.array(keras.ops.convert_to_numpy(v.value)) for v in others]
    source = weights_of(model)
    train(new, 3)
    assert_equal([keras.ops.convert_to_numpy(v.value) for v in others], kept)
    assert_equal(weights_of(model), source)
    moved = [v for v in factors(new) if v.name.endswith("_b")]
    assert len(moved) == count // 2
    assert all(np.any(keras.ops.convert_to_numpy(v.value)) for v in moved)


def test_it_is_what_keras_enables():
    model = mlp()
    new = with_random_factors(adapt.lora(model, "middle", 2, alpha=6))
    byhand = resect.clone(model)
    layer = byhand.get_layer("middle")
    layer.enable_lora(2, lora_alpha=6)
    with_random_factors(byhand)
    np.testing.assert_array_equal(predictions(new), predictions(byhand))
    flags = [[(v.path, v.trainable) for v in m.variables] for m in (new, byhand)]
    assert flags[0] == flags[1]
    assert new.get_layer("middle").get_config() == layer.get_config()
    assert new.get_layer("middle").lora_alpha == 6


def test_unmerged_and_merged_without_training_is_the_source():
    model = mlp()
    merged = adapt.merge_lora(adapt.lora(model, layers.Dense, 2))
    assert_equal(weights_of(merged), weights_of(model))


def test_the_optimizer_goes_on_with_what_is_still_trained():
    model = trained(mlp(), "adam", steps=3)
    new = resect.plan(model).then(adapt.Lora("middle", 2)).apply()
    was, now = slots(model.optimizer), slots(new.optimizer)
    assert int(new.optimizer.iterations) == 3
    name = next(name for name in now if name.endswith("middle/bias"))
    np.testing.assert_array_equal(now[name], was[name])
    fresh = [value for name, value in now.items() if "lora_kernel" in name]
    assert len(fresh) == 4
    assert not any(np.any(value) for value in fresh)
    assert not any(name.endswith("middle/kernel") for name in now)


def test_a_frozen_source_is_shared_and_has_no_lora():
    model = mlp()
    with pytest.raises(CopyError, match="its kernel would be frozen, there too"):
        adapt.lora(model, "middle", 2, weights="share")
    model.trainable = False
    new = applied(model, adapt.Lora("middle", 2), "share")
    middle = new.get_layer("middle")
    assert middle.kernel is not middle._kernel
    assert middle._kernel is model.get_layer("middle")._kernel
    assert not model.get_layer("middle").lora_enabled
    assert not factors(model)
    before = predictions(model)
    with_random_factors(new)
    np.testing.assert_array_equal(predictions(model), before)
    assert np.any(predictions(new) != before)


def test_of_a_frozen_layer_only_the_factors_are_trained():
    new = adapt.lora(transfer(), "base/conv", 2)
    paths = [v.path.split("/")[-1] for v in new.trainable_variables]
    assert paths == ["lora_kernel_a", "lora_kernel_b", "kernel", "bias"]
    assert not new.get_layer("base").get_layer("norm").trainable


def test_parts_of_a_composite_layer():
    model = masked()
    new = adapt.lora(model, "attention", 2, parts=("query", "val*"), freeze=True)
    owners = [v.path.split("/")[-2] for v in new.trainable_variables]
    assert owners == ["query", "query", "value", "value"]
    np.testing.assert_array_equal(predictions(new), predictions(model))


def test_parts_are_merged_each_with_its_own_factors():
    model = masked()
    new = with_random_factors(adapt.lora(model, "attention", 2, alpha=5, parts=("query", "value")))
    merged = adapt.merge_lora(new)
    layer = merged.get_layer("attention")
    assert not any(getattr(part, "lora_enabled", False) for part in layer._flatten_layers())
    assert_close(predictions(merged), predictions(new), 1e-4)
    assert_close(predictions(adapt.merge_lora(new, weights="share")), predictions(new), 1e-4)
    again = with_random_factors(adapt.lora(merged, "attention", 2))
    assert len(factors(again)) == 8


@keras.saving.register_keras_serializable("tests.adapt.test_lora")
class Words(layers.Layer):
    """An embedding and a projection: one variable of each name."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.embed = layers.Embedding(9, 6, name="embed")
        self.project = layers.Dense(4, name="project")

    def build(self, input_shape: Any) -> None:
        self.embed.build(input_shape)
        self.project.build((*input_shape, 6))
        self.built = True

    def call(self, inputs: Any) -> Any:
        return self.project(self.embed(inputs))


def test_parts_with_weights_of_several_names_are_all_merged():
    ids = keras.Input((5,), dtype="int32", name="ids")
    model = randomise(keras.Model(ids, Words(name="words")(ids), name="words_only"))
    new = with_random_factors(adapt.lora(model, "words", 2))
    assert len(factors(new)) == 4
    assert_close(predictions(adapt.merge_lora(new)), predictions(new), 1e-4)


def test_blocks_of_kerashub_have_it_in_their_parts():
    keras_hub = pytest.importorskip("keras_hub")
    features = keras.Input((5, 8), name="features")
    x = keras_hub.layers.TransformerEncoder(16, 2, name="block")(features)
    model = randomise(keras.Model(features, layers.Dense(2, name="logits")(x), name="hub"))
    new = adapt.lora(model, "block", 2, parts=("query", "value"), freeze=True)
    assert len(new.trainable_variables) == 4
    np.testing.assert_array_equal(predictions(new), predictions(model))
    with_random_factors(new)
    assert_close(predictions(adapt.merge_lora(new)), predictions(new), 1e-4)


def test_a_file_holds_the_merged_weights(tmp_path):
    new = with_random_factors(adapt.lora(mlp(), "middle", 2))
    new.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_close(predictions(loaded), predictions(new))
    assert not any(np.any(keras.ops.convert_to_numpy(v.value)) for v in factors(loaded))


def test_other_steps_of_a_plan_leave_it_on():
    model = mlp()
    plan = (
        resect.plan(model)
        .remove("middle")
        .then(adapt.Lora(["hidden", "logits"], 2, 5), adapt.Configure("hidden", (("name", "x"),)))
    )
    assert plan.check()
    plan = resect.plan(model).remove("middle").then(adapt.Lora(["hidden", "logits"], 2, 5))
    plan = plan.then(adapt.Configure("hidden", (("activation", "tanh"),)))
    plan = plan.rename({"logits": "scores"})
    new = plan.apply()
    resect.verify(model, new, plan=plan)
    assert {v.path for v in factors(new)} == {
        f"mlp/{name}/lora_kernel_{letter}" for name in ("hidden", "scores") for letter in "ab"
    }
    assert new.get_layer("hidden").lora_alpha == 5


def test_merged_and_enabled_anew():
    model = with_random_factors(adapt.lora(mlp(), "middle", 2))
    plan = resect.plan(model).then(adapt.MergeLora(), adapt.Lora("middle", 3))
    new = plan.apply()
    assert_close(predictions(new), predictions(model))
    assert [tuple(v.shape) for v in factors(new)] == [(8, 3), (3, 8)]
    assert not new.get_layer("middle")._kernel.trainable


def test_frozen_afterwards():
    plan = resect.plan(mlp()).then(
        adapt.Lora("middle", 2), adapt.Configure("middle", (("trainable", False),))
    )
    assert not plan.apply().get_layer("middle").trainable_variables
    assert not any("middle" in v.path for v in plan.apply().trainable_variables)


def test_quantized_layers_have_it_and_cannot_be_merged():
    model = mlp()
    model.quantize("int8")
    new = adapt.lora(model, "middle", 2)
    assert_close(predictions(new), predictions(model))
    with_random_factors(new)
    with pytest.raises(EditError, match="is quantized: its kernel would be rounded anew"):
        adapt.merge_lora(new)


@pytest.mark.parametrize(("build", "count"), [(mobilenet, 35), (resnet, 53)])
def test_published_architectures(build, count):
    model = build()
    new = adapt.lora(model, resect.select(layers.Conv2D).expect(count), 2, freeze=True)
    assert len(new.trainable_variables) == 2 * count
    x = images(model)
    assert_close(run(new, x), run(model, x))
    merged = adapt.merge_lora(new)
    assert_close(run(merged, x), run(model, x))


def test_it_prints():
    text = str(resect.plan(mlp()).then(adapt.Lora("middle", 2, 4.0, freeze=True)))
    assert "enable LoRA (rank 2, alpha 4) in 'middle', and freeze everything else" in text
    assert "72 -> 104" in text
    assert str(adapt.MergeLora("middle").describe()) == "merge LoRA in 'middle'"


def constrained() -> keras.Model:
    dense = layers.Dense(3, kernel_constraint="non_neg", name="dense")
    return keras.Sequential([keras.Input((4,)), dense], name="constrained")


def in_eight_bits() -> keras.Model:
    model = mlp()
    model.quantize("float8")
    return model


def adapted() -> keras.Model:
    return adapt.lora(mlp(), "middle", 2)


@pytest.mark.parametrize(
    ("build", "where", "error", "message"),
    [
        (mlp, "nothing", NoMatchError, "matches nothing"),
        (cnn, "pool_1", EditError, r"Keras has no LoRA for 'pool_1' \(MaxPooling2D\)"),
        (masked, "gru", EditError, r"Keras has no LoRA for 'gru' \(GRU\)"),
        (nested, "backbone", EditError, r"is a nested model.\n.*such as 'backbone/\*'"),
        (constrained, "dense", EditError, "has a kernel_constraint"),
        (in_eight_bits, "middle", EditError, r"is quantized \(float8\), and Keras has no LoRA"),
        (adapted, "middle", EditError, r"'middle' \(Dense\) has LoRA already"),
    ],
)
def test_what_is_refused(build, where, error, message):
    with pytest.raises(error, match=message):
        adapt.lora(build(), where)


def test_more_that_is_refused():
    with pytest.raises(ValueError, match="rank must be at least 1"):
        adapt.lora(mlp(), "middle", 0)
    with pytest.raises(EditError, match="no part called 'nobody': LoRA could be in 'query'"):
        adapt.lora(masked(), "attention", parts=("nobody",))
    with pytest.raises(EditError, match="No layer has LoRA in 'mlp'"):
        adapt.merge_lora(mlp())
    plan = resect.plan(mlp()).append(layers.Dense(2, name="new"))
    with pytest.raises(EditError, match=r"'new' \(Dense\) has no trained weights yet"):
        plan.then(adapt.Lora("new")).apply()
    plan = resect.plan(mlp()).then(adapt.Lora("middle"), adapt.Lora("middle"))
    with pytest.raises(EditError, match="has LoRA already"):
        plan.apply()


def test_the_plan_shows_what_is_written():
    model = mlp()
    plan = resect.plan(model).then(adapt.Lora(layers.Dense, 2))
    new = plan.apply()
    for name, layer in plan.result.layers.items():
        if layer.variables is not None:
            held = [(v.name, tuple(v.shape)) for v in layer_of(new, name).weights]
            assert [(v.name, v.shape) for v in layer.variables] == held
    assert_surgery(new, lambda empty: empty.remove("middle"))
