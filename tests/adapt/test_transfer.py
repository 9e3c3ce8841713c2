"""Weights into a changed architecture: what is unchanged is matched, nothing is guessed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import resect
from resect.adapt import align, transfer
from resect.adapt.carried.alignment import Match
from resect.errors import EditError, NoMatchError, ShapeError, UnbuiltError
from resect.keras_graph.units import own_variables, units_of
from tests.adapt.models import mobilenet, resnet
from tests.common import assert_equal, mlp, nested, predictions, randomise, trained, weights_of
from tests.kinds import KINDS, outputs_of


def values(model: Any) -> dict[str, list[np.ndarray]]:
    """The values of every unit, by its path."""
    return {
        unit.name: [np.array(keras.ops.convert_to_numpy(v)) for v in own_variables(unit.handle)]
        for unit in units_of(model)
    }


def assert_carried(source: Any, target: Any, **options: Any) -> Any:
    """Transfers; every match has the values of the source, everything else those of the target.

    Returns:
        The result.
    """
    before, untouched = weights_of(source), values(target)
    made = transfer(source, target, **options)
    theirs, found = values(source), values(made.model)
    for row in made.report.rows:
        if isinstance(row, Match):
            assert_equal(found[row.target], theirs[row.source])
        else:
            assert_equal(found[row.path], untouched[row.path])
    assert_equal(weights_of(source), before)
    for path, arrays in values(target).items():
        assert_equal(arrays, untouched[path])
    assert type(made.model) is type(target)
    return made


def renamed(model: Any) -> Any:
    """The model, every layer under a name that nothing else has."""
    names = {la.name: f"other{i}" for i, la in enumerate(model.layers) if la.weights}
    return resect.rename(model, names)


def fresh(model: Any) -> Any:
    """An equal model with other weights."""
    return randomise(resect.clone(model), seed=7)


@pytest.fixture(scope="module", params=[mobilenet, resnet], ids=["mobilenet", "resnet"])
def real(request: pytest.FixtureRequest) -> Any:
    return request.param()


class TestRealModels:
    """Every unchanged layer is matched, with those that stand for it."""

    def test_the_same_model(self, real):
        made = assert_carried(real, fresh(real), strict=True)
        assert {m.how for m in made.report.matches} == {"name"}
        assert_equal([predictions(made.model)], [predictions(real)])

    def test_every_layer_renamed(self, real):
        made = assert_carried(real, renamed(fresh(real)), strict=True)
        assert {m.how for m in made.report.matches} == {"position"}
        assert_equal([predictions(made.model)], [predictions(real)])

    @pytest.mark.parametrize("naming", ["the same names", "other names"])
    def test_a_layer_inserted(self, real, naming):
        after = [la.name for la in real.layers if isinstance(la, layers.ReLU)][7:8] or "conv3_*_out"
        places = resect.plan(real).find(after)
        new = layers.Conv2D(resect.read(real).nodes[_call(places[0])].outputs[0].shape[-1], 5)
        new = type(new).from_config({**new.get_config(), "padding": "same"})
        target = resect.insert(fresh(real), new, after=places[0])
        if naming == "other names":
            target = renamed(target)
        made = assert_carried(real, target)
        assert made.report.unused == ()
        (left,) = made.report.fresh
        assert left.kind == "Conv2D"
        assert "5x5" in left.shapes
        taken_out = resect.remove(made.model, left.path)
        assert_equal([predictions(taken_out)], [predictions(real)])

    def test_a_layer_removed(self, real):
        norm = next(la.name for la in real.layers[20:] if "BatchNorm" in type(la).__name__)
        target = resect.remove(fresh(real), norm)
        made = assert_carried(real, target)
        assert made.report.fresh == ()
        assert [left.path for left in made.report.unused] == [norm]
        assert_equal([predictions(made.model)], [predictions(resect.remove(real, norm))])

    def test_deeper_nested(self, real):
        inner = fresh(real)
        x = inputs = keras.Input(real.inputs[0].shape[1:])
        target = keras.Model(inputs, layers.Dense(2, name="head")(inner(x)))
        made = assert_carried(real, target)
        assert [left.path for left in made.report.fresh] == ["head"]
        assert made.report.unused == ()
        back = assert_carried(made.model, renamed(fresh(real)))
        assert [left.path for left in back.report.unused] == ["head"]
        assert_equal([predictions(back.model)], [predictions(real)])


def _call(name: str) -> Any:
    return resect.graph.Call(name)


def test_another_head():
    target = resect.adapt.classes(fresh(mobilenet()), 14)
    made = assert_carried(mobilenet(), target)
    (left,), (unused,) = made.report.fresh, made.report.unused
    assert (left.path, unused.path) == ("predictions", "predictions")
    assert left.reason == "the other's 'predictions' has kernel 1280x10, bias 10"
    assert "left   " in str(made.report)
    assert "by name" in str(made.report)


def chain(*widths: int, names: Any = None, width: int = 4) -> keras.Sequential:
    """Dense layers in a row, each named by Keras or as said."""
    stack = [layers.Dense(w, name=names and names[i]) for i, w in enumerate(widths)]
    return randomise(keras.Sequential([keras.Input((width,)), *stack]), seed=len(widths))


class TestNamesOfKeras:
    """`dense_1` says nothing: one layer more at the front would shift all of them."""

    def test_an_inserted_layer_shifts_nothing(self):
        source, target = chain(8, 8, 3), chain(5, 4, 8, 8, 3)
        made = assert_carried(source, target)
        assert [m.how for m in made.report.matches] == ["position"] * 3
        assert [left.shapes for left in made.report.fresh] == [
            "kernel 4x5, bias 5",
            "kernel 5x4, bias 4",
        ]

    def test_a_row_of_equal_layers_that_one_is_missing_of_is_ambiguous(self):
        source, target = chain(8, 8, 8, 3), chain(8, 8, 3)
        made = assert_carried(source, target)
        assert [m.shapes for m in made.report.matches] == [
            "kernel 4x8, bias 8",
            "kernel 8x3, bias 3",
        ]
        (left,) = made.report.fresh
        assert left.ambiguous
        assert "it could be 'dense_1', 'dense_2'" in left.reason
        assert len(made.report.unused) == 2
        assert "ambiguous" in str(made.report)
        name = target.layers[1].name
        pinned = assert_carried(source, target, rename={"dense_2": name})
        assert [m.how for m in pinned.report.matches] == ["position", "rename", "position"]

    def test_their_names_count_if_that_is_said(self):
        source, target = chain(8, 8, 8, 3), chain(8, 8, names=["dense", "dense_2"])
        made = assert_carried(source, target, by="name")
        assert [(m.source, m.target) for m in made.report.matches] == [
            ("dense", "dense"),
            ("dense_2", "dense_2"),
        ]


def test_chosen_names_come_before_the_order():
    source = chain(4, 4, names=["left", "right"])
    target = randomise(chain(4, 4, names=["right", "left"]), seed=9)
    made = assert_carried(source, target, strict=True)
    assert {(m.source, m.target) for m in made.report.matches} == {
        ("left", "left"),
        ("right", "right"),
    }
    made = assert_carried(source, target, by=("position",))
    assert {(m.source, m.target) for m in made.report.matches} == {
        ("left", "right"),
        ("right", "left"),
    }


def test_branches_are_told_apart_however_deep_they_are():
    """Keras orders layers by depth: a layer more in one branch changes their order."""

    def branched(deeper: bool) -> keras.Model:
        x = features = keras.Input((4,))
        left = layers.Dense(4, activation="relu")(x)
        right = layers.Dense(4)(x)
        right = layers.Activation("tanh")(right) if deeper else right
        return randomise(keras.Model(features, layers.Concatenate()([left, right])), seed=deeper)

    source, target = branched(False), branched(True)
    made = assert_carried(source, target, strict=True)
    ones = [la for la in made.model.layers if isinstance(la, layers.Dense)]
    others = [la for la in source.layers if isinstance(la, layers.Dense)]
    assert [la.activation.__name__ for la in ones] == ["linear", "relu"]
    assert [la.activation.__name__ for la in others] == ["relu", "linear"]
    for activation in ("relu", "linear"):
        layer, other = pick(ones, activation), pick(others, activation)
        assert_equal(layer.get_weights(), other.get_weights())


def pick(found: list[Any], activation: str) -> Any:
    (layer,) = [layer for layer in found if layer.activation.__name__ == activation]
    return layer


class Subclassed(keras.Model):
    """Layers that were made in another order than they are called in."""

    def __init__(self) -> None:
        super().__init__()
        self.second = layers.Dense(4, name="second")
        self.first = layers.Dense(4, name="first")
        self.deep = [layers.Dense(4), layers.LayerNormalization()]

    def call(self, x: Any) -> Any:
        x = self.second(self.first(x))
        if keras.ops.shape(x)[0] > 100:
            return x
        return self.deep[1](self.deep[0](x))


def subclassed(seed: int) -> Subclassed:
    model = Subclassed()
    model(np.zeros((2, 4), "float32"))
    return randomise(model, seed)


def test_subclassed_models():
    source, target = subclassed(0), subclassed(1)
    made = assert_carried(source, target, strict=True)
    x = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(m(x)) for m in (made.model, source)))


def test_a_subclassed_model_and_a_graph_have_no_order_in_common():
    source = subclassed(0)
    stack = [layers.Dense(4), layers.Dense(4), layers.Dense(4), layers.LayerNormalization()]
    target = randomise(keras.Sequential([keras.Input((4,)), *stack]), seed=1)
    made = assert_carried(source, target)
    assert [m.how for m in made.report.matches] == ["shape"]
    assert all(left.ambiguous for left in made.report.fresh)


def test_parts_of_layers_and_shared_layers():
    def encoder(heads: int) -> keras.Model:
        x = inputs = keras.Input((5, 6))
        shared = layers.MultiHeadAttention(heads, 3)
        x = layers.Bidirectional(layers.GRU(3, return_sequences=True))(shared(shared(x, x), x))
        return randomise(keras.Model(inputs, layers.TimeDistributed(layers.Dense(2))(x)), heads)

    source, target = encoder(2), randomise(encoder(2), seed=5)
    made = assert_carried(source, target, strict=True)
    assert_equal([predictions(made.model)], [predictions(source)])
    made = assert_carried(source, encoder(3))
    assert {left.path.rpartition("/")[2] for left in made.report.fresh} == {
        "query", "key", "value", "attention_output",
    }  # fmt: skip


def test_statistics_are_carried_and_vocabularies_are_said_not_to_be():
    def model(words: list[str], shift: float) -> keras.Model:
        text, number = keras.Input((1,), dtype="string"), keras.Input((1,))
        norm = layers.Normalization(axis=None, name="norm")
        norm.adapt(np.array([[1.0], [3.0]]) + shift)
        ids = layers.StringLookup(vocabulary=words, output_mode="one_hot", name="lookup")(text)
        return keras.Model([text, number], [layers.Dense(2, name="dense")(ids), norm(number)])

    if keras.backend.backend() != "tensorflow":
        stack = [keras.Input((1,)), layers.Normalization(axis=None, name="norm")]
        ones = [keras.Sequential(stack), keras.Sequential([stack[0], layers.Normalization(None)])]
        for one, shift in zip(ones, (0, 5), strict=True):
            one.layers[0].adapt(np.array([[1.0], [3.0]]) + shift)
        made = assert_carried(*ones, strict=True)
        assert_equal([predictions(made.model)], [predictions(ones[0])])
        return
    made = assert_carried(model(["a", "b"], 0), model(["b", "c"], 5), strict=True)
    assert "note: 'lookup' (StringLookup) keeps its own vocabulary" in str(made.report)
    number = np.array([[2.0]], "float32")
    assert keras.ops.convert_to_numpy(made.model.get_layer("norm")(number)) == 0


def test_other_numbers_go_into_the_dtype_of_the_target():
    source = mlp()
    half = [keras.Input((6,)), layers.Dense(8, name="hidden", dtype="bfloat16")]
    new, _ = transfer(source, keras.Sequential(half))
    kernel = new.get_layer("hidden").kernel
    assert kernel.dtype == "bfloat16"
    expected = keras.ops.cast(source.get_layer("hidden").kernel, "bfloat16")
    assert_equal(
        *([keras.ops.convert_to_numpy(keras.ops.cast(v, "float32"))] for v in (kernel, expected))
    )


def test_a_quantized_layer_and_a_lora_layer_are_not_what_they_were():
    source, target = mlp(), fresh(mlp())
    target.get_layer("middle").enable_lora(2)
    target.get_layer("hidden").quantize("int8")
    made = assert_carried(source, target)
    assert [m.target for m in made.report.matches] == ["logits"]
    assert "lora_kernel_a" in made.report.fresh[1].shapes


def test_the_compile_state_is_that_of_the_target():
    target = trained(fresh(mlp()))
    new = assert_carried(mlp(), target, strict=True).model
    assert new.compiled
    assert new.optimizer is not target.optimizer


class TestFiles:
    """Files say less than models, and never more."""

    def test_a_keras_file(self, tmp_path: Path):
        source = nested()
        source.save(tmp_path / "model.keras")
        new, report = transfer(tmp_path / "model.keras", fresh(nested()), strict=True)
        assert_equal(weights_of(new), weights_of(source))
        assert report.source == "model.keras"

    def test_a_weights_file(self, tmp_path: Path):
        source = mobilenet()
        source.save_weights(tmp_path / "it.weights.h5")
        target = resect.adapt.classes(fresh(source), 14)
        drop = layers.Dense(6, name="more")
        target = resect.insert(target, drop, before="predictions", on_mismatch="reinit")
        new, report = transfer(str(tmp_path / "it.weights.h5"), target)
        assert {left.path for left in report.fresh} == {"more", "predictions"}
        assert [left.path for left in report.unused] == ["predictions"]
        assert {m.how for m in report.matches} == {"name"}
        features = [resect.truncate(m, end="global_average_pooling2d") for m in (new, source)]
        assert_equal(*([predictions(m)] for m in features))

    def test_of_a_nested_and_trained_model_and_of_a_subclassed_one(self, tmp_path: Path):
        for i, (source, target) in enumerate(
            [(trained(nested()), fresh(nested())), (subclassed(0), subclassed(1))]
        ):
            path = tmp_path / f"{i}.weights.h5"
            source.save_weights(path)
            new, _ = transfer(path, target, strict=True)
            assert_equal(weights_of(new), weights_of(source))

    def test_position_counts_only_where_the_file_says_it(self, tmp_path: Path):
        source, path = chain(8, 8, 8, 3), tmp_path / "it.weights.h5"
        source.save_weights(path)
        new, _ = transfer(path, fresh(chain(8, 8, 8, 3)), strict=True)
        assert_equal(weights_of(new), weights_of(source))
        report = align(path, chain(8, 8, 8, 8, 3))
        assert [m.how for m in report.matches] == ["shape", "shape"]
        assert all(left.ambiguous for left in report.fresh)
        stack = [*chain(8, 8, 8).layers, layers.Dropout(0.1), layers.Dense(3)]
        dropped = keras.Sequential([keras.Input((4,)), *stack])
        assert not align(path, dropped).complete
        assert align(path, dropped, by="position").complete

    def test_refused(self, tmp_path: Path):
        with pytest.raises(EditError, match=r"neither a \.keras nor"):
            transfer("model.h5", mlp())
        with pytest.raises(EditError, match="cannot be read"):
            transfer(tmp_path / "no.weights.h5", mlp())
        with pytest.raises(EditError, match="cannot be loaded"):
            transfer(tmp_path / "no.keras", mlp())
        mlp().save_weights(tmp_path / "it.weights.h5")
        adapted = mlp()
        adapted.get_layer("middle").enable_lora(2)
        with pytest.raises(EditError, match="'middle' of the target has LoRA weights"):
            transfer(tmp_path / "it.weights.h5", adapted)


def _wide() -> Any:
    return chain(7, 9, names=["wide", "wider"], width=5)


@pytest.mark.parametrize(
    ("target", "options", "error", "message"),
    [
        (_wide, {}, NoMatchError, "Nothing in mlp stands for anything in"),
        (mlp, {"rename": {"hiden": "middle"}}, NoMatchError, "no 'hiden' .*\nNear it: 'hidden'"),
        (mlp, {"rename": {"hidden": "medal"}}, NoMatchError, "the target has no 'medal'"),
        (mlp, {"rename": {"hidden": "logits"}}, ShapeError, r"kernel 6x8, bias 8\) does not fit"),
        (_wide, {"strict": True}, EditError, r"5 are left:\n'wide' \(Dense\) of the target: noth"),
        (lambda: Subclassed(), {}, UnbuiltError, "has no variables yet"),
        (mlp, {"by": "shape"}, ValueError, "by must be"),
    ],
)
def test_what_is_refused(
    target: Callable[[], Any], options: dict[str, Any], error: type, message: str
):
    with pytest.raises(error, match=message):
        transfer(mlp(), target(), **options)


def test_a_subclassed_model_with_models_in_it():
    kind = KINDS["subclassed_composed"]
    source, target = kind.make(), kind.make(seed=1)
    found = transfer(source, target)
    assert found.report.complete
    inputs = kind.inputs(source)
    assert_equal(outputs_of(found.model, inputs), outputs_of(source, inputs))
