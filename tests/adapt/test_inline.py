"""Composite layers opened: their sublayers and operations in the graph, nothing else changed."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import resect
from resect import oracle
from resect.adapt import Inline
from resect.errors import EditError, InputLayerError, MaskError, NoMatchError, TraceError
from tests.adapt.blocks import Attending, Block, Stage, blocks, masked
from tests.common import data_for, primed, randomise, train, trained, weights_of
from tests.surgery import assert_surgery

OPENED = """
    Functional 'blocks'
      features   InputLayer          (None, 4)
      one_norm   LayerNormalization  (None, 4)  <- features
      one_inner  Dense               (None, 8)  <- one_norm
      one_act    Activation          (None, 8)  <- one_inner
      one_drop   Dropout             (None, 8)  <- one_act
      one_outer  Dense               (None, 4)  <- one_drop
      one_add    Add                 (None, 4)  <- features, one_outer
      two_norm   LayerNormalization  (None, 4)  <- one_add
      two_inner  Dense               (None, 8)  <- two_norm
      two_act    Activation          (None, 8)  <- two_inner
      two_drop   Dropout             (None, 8)  <- two_act
      two_outer  Dense               (None, 4)  <- two_drop
      two_add    Add                 (None, 4)  <- one_add, two_outer
      logits     Dense               (None, 3)  <- two_add
      -> logits
"""


def assert_same(model: Any, new: Any, inputs: Any = None) -> None:
    """Two models compute the same, in both modes."""
    inputs = data_for(model)[0] if inputs is None else inputs
    for training in (False, True):
        ones, others = (
            keras.tree.flatten(oracle.run_model(m, inputs, training=training)) for m in (model, new)
        )
        for one, other in zip(ones, others, strict=True):
            np.testing.assert_allclose(
                one.astype("float32"), other.astype("float32"), rtol=1e-5, atol=1e-6
            )


def in_a_model(layer: Any, shape: tuple[int, ...] = (4,)) -> keras.Model:
    features = keras.Input(shape, name="features")
    return randomise(keras.Model(features, layer(features), name="around"))


def hands_on_given_masks() -> bool:
    """Whether layers hand on a mask that is an argument, as that of the tensor (not in 3.10)."""
    features, mask = keras.Input((6, 4)), keras.Input((6,), dtype="bool")
    x = layers.BatchNormalization()(features, mask=mask)
    graph = resect.read(keras.Model([features, mask], x))
    return graph.spec(graph.output_refs[0]).masked


@pytest.mark.parametrize("weights", ["copy", "share"])
def test_blocks_are_opened(weights):
    model = primed(blocks())
    new = assert_surgery(model, Inline(Block), OPENED, weights=weights)
    assert_same(model, new)


def test_a_model_trains_on_as_if_nothing_had_happened():
    model = trained(blocks(), "adam", steps=2)
    new = resect.adapt.inline(model, Block)
    for each in (model, new):
        train(each, steps=2)
    # the variables are the same in number, in another order
    ones, others = (
        sorted(w.astype("float64").tobytes() for w in weights_of(m) if w.dtype == "float32")
        for m in (model, new)
    )
    found = [np.sort(np.concatenate([np.frombuffer(w) for w in ws])) for ws in (ones, others)]
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-6)


def test_one_of_two_keeps_its_names():
    new = resect.adapt.inline(blocks(), "two")
    names = list(resect.read(new).layers)
    assert names == ["features", "one", "norm", "inner", "act", "drop", "outer", "add", "logits"]


def test_a_block_that_is_called_twice_is_opened_twice_and_stays_shared():
    shared = Block(4, rate=0.0, name="shared")
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    x = layers.Add(name="sum")([shared(shared(right)), shared(left)])
    model = primed(randomise(keras.Model([left, right], x, name="twice")))
    new = assert_surgery(model, Inline("shared"))
    assert len(resect.read(new).calls_of("inner")) == 3
    assert len(new.weights) == len(model.weights)
    assert_same(model, new)


def test_blocks_in_nested_models_are_opened_where_they_lie():
    base = blocks(rate=0.0)
    features = keras.Input((4,), name="outer_features")
    x = layers.Concatenate(name="both")([base(features), base(features, training=False)])
    model = randomise(keras.Model(features, x, name="outer"))
    new = assert_surgery(model, Inline("blocks/one"))
    assert "one" not in [layer.name for layer in new.get_layer("blocks").layers]
    assert_same(model, new)
    flat = assert_surgery(model, lambda plan: plan.then(resect.adapt.Flatten(), Inline(Block)))
    assert_same(model, flat)
    again = assert_surgery(model, lambda plan: plan.then(Inline(Block), resect.adapt.Flatten()))
    assert_same(model, again)


def test_blocks_within_blocks_are_opened_to_the_depth_that_is_asked_for():
    x = features = keras.Input((4,), name="features")
    x = Stage(4, name="stage")(x)
    model = primed(randomise(keras.Model(features, x, name="stages")))
    once = assert_surgery(model, Inline("stage"))
    assert {"first", "second"} <= set(resect.read(once).layers)
    twice = assert_surgery(model, Inline("stage", depth=2))
    assert not {"first", "second"} & set(resect.read(twice).layers)
    assert len(resect.read(twice).calls_of("second_inner")) == 2
    for new in (once, twice, resect.adapt.inline(once, ["first", "second"])):
        assert_same(model, new)


def test_masks_reach_what_they_reached():
    drop = layers.Dropout(0.2, seed=3, name="between")
    model = masked(Block(4, name="one"), drop, Attending(4, name="two"), Block(4, name="three"))
    ids = np.array([[1, 2, 0, 0, 0, 0], [3, 0, 1, 4, 0, 2], [1, 1, 1, 1, 1, 1]])
    for where in (["one", "two", "three"], "two", ["two", "three"]):
        if where == "two" and not hands_on_given_masks():
            with pytest.raises(MaskError, match=r"'three' \(Block\) reads a tensor that came with"):
                resect.adapt.inline(model, where)
            continue
        new = assert_surgery(model, Inline(where))
        assert_same(model, new, ids)
        assert len([c for c in resect.read(new).nodes if c.layer.startswith("not_equal")]) == 1


def test_a_mask_that_is_an_argument_stays_one():
    features = keras.Input((6, 4), name="features")
    mask = keras.Input((6,), dtype="bool", name="mask")
    x = Attending(4, name="attending")(features, mask=mask)
    model = randomise(keras.Model([features, mask], x, name="explicit"))
    new = assert_surgery(model, Inline("attending"))
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(3, 6, 4)).astype("float32"), rng.random((3, 6)) < 0.7]
    assert_same(model, new, arrays)


def test_mixed_precision_converts_where_the_block_did():
    model = blocks(dtype="mixed_bfloat16")
    new = assert_surgery(model, Inline(Block), training=False)
    assert_same(model, new)


def test_the_mode_that_a_call_has_recorded_is_kept():
    x = features = keras.Input((4,), name="features")
    x = Block(4, name="block")(x, training=True)
    model = randomise(keras.Model(features, x, name="always"))
    new = assert_surgery(model, Inline("block"))
    inputs = data_for(model)[0]
    ones, others = (
        oracle.run_model(lambda i, training, m=m: m(i), inputs) for m in (model, new)
    )  # without a mode
    np.testing.assert_allclose(ones, others, rtol=1e-5)
    assert np.any(ones != oracle.run_model(model, inputs))


def test_what_was_opened_is_edited_further():
    model = trained(blocks(), "adam", steps=2)

    def plan(start: resect.Plan) -> resect.Plan:
        opened = start.then(Inline(Block))
        wider = opened.replace("two_act", layers.Activation("silu", name="two_act"))
        return wider.remove("one_drop").insert(layers.Dropout(0.1, name="last"), after="two_add")

    new = assert_surgery(model, plan)
    assert [la.name for la in new.layers if isinstance(la, layers.Dropout)] == ["two_drop", "last"]
    act = new.get_layer("two_act")
    assert act.activation is keras.activations.silu


def test_it_comes_after_other_edits_and_is_saved():
    model = blocks()
    plan = (
        resect.plan(model)
        .insert(layers.Dense(4, name="more"), after="one")
        .rename({"two": "second"})
    )
    plan = plan.then(Inline(Block))
    assert "inline every Block" in str(plan)
    again = resect.Plan.from_json(model, plan.to_json())
    assert str(again.result) == str(plan.result)
    assert "second_inner" in again.result.layers
    assert_surgery(model, plan)


class Twins(keras.Layer):
    """Two sublayers of one name."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.one = layers.Dense(4, name="dense")
        self.two = layers.Dense(4, name="dense")

    def build(self, shape: Any) -> None:
        self.one.build(shape)
        self.two.build(shape)

    def call(self, x: Any) -> Any:
        return self.two(ops.relu(self.one(x)))


def test_sublayers_of_one_name_get_two():
    model = in_a_model(Twins(name="twins"))
    new = resect.adapt.inline(model, "twins")
    assert [la.name for la in new.layers] == ["features", "dense", "dense_1"]
    assert {la.name for la in (model.layers[1].one, model.layers[1].two)} == {"dense"}
    assert_same(model, new)
    assert_surgery(model, Inline("twins"))


def test_a_sublayer_that_stands_elsewhere_too_becomes_a_shared_layer():
    block = Block(4, name="block")
    features = keras.Input((4,), name="features")
    x = block.outer(layers.Dense(8, name="dense")(block(features)))
    model = randomise(keras.Model(features, x, name="tied"))
    new = assert_surgery(model, Inline("block"))
    assert len(resect.read(new).calls_of("outer")) == 2
    assert_same(model, new)


# What is refused


class Scaled(Block):
    def build(self, shape: Any) -> None:
        super().build(shape)
        self.scale = self.add_weight(shape=(self.units,), name="scale")

    def call(self, x: Any, training: bool | None = None) -> Any:
        return super().call(x, training) * self.scale


class Made(Scaled):
    def call(self, x: Any, training: bool | None = None) -> Any:
        return Block.call(self, x, training) * ops.exp(self.scale)


class Unused(Scaled):
    def call(self, x: Any, training: bool | None = None) -> Any:
        return Block.call(self, x, training)


class Branching(Block):
    def call(self, x: Any, training: bool | None = None) -> Any:
        return super().call(x, training) * (2.0 if training else 1.0)


class Fixed(Block):
    def call(self, x: Any, training: bool | None = None) -> Any:
        return self.drop(x, training=True) + super().call(x, training)


class Untold(Block):
    def call(self, x: Any) -> Any:
        return super().call(x)


class Counting(Block):
    def build(self, shape: Any) -> None:
        super().build(shape)
        self.count = self.add_weight(shape=(), trainable=False, name="count")

    def call(self, x: Any, training: bool | None = None) -> Any:
        self.count.assign(self.count + 1.0)
        return super().call(x, training)


class Noisy(Block):
    def call(self, x: Any, training: bool | None = None) -> Any:
        return super().call(x, training) + keras.random.normal((4,))


class Stateful(Block):
    calls = 0

    def call(self, x: Any, training: bool | None = None) -> Any:
        type(self).calls += 1
        return super().call(x, training) * (1.0 + (keras.ops.is_tensor(x)))


class Peeking(Block):
    def call(self, x: Any, training: bool | None = None) -> Any:
        if ops.max(x) > 0:
            return x
        return super().call(x, training)


@pytest.mark.parametrize(
    ("cls", "error", "message"),
    [
        (Scaled, TraceError, r"test_inline.py:\d+: Scaled.call uses the weight 'bad/scale'"),
        (Made, TraceError, r"test_inline.py:\d+: Made.call uses a tensor of shape \(4,\)"),
        (Unused, EditError, "weights that its calls do not use: bad/scale"),
        (Branching, TraceError, r"test_inline.py:\d+: Branching.call takes another way"),
        (Fixed, TraceError, r"test_inline.py:\d+: Fixed.call always calls 'drop' with"),
        (
            Untold,
            TraceError,
            r"test_inline.py:\d+: Untold.call always calls 'drop' with",
        ),
        (Counting, TraceError, r"test_inline.py:\d+: Counting.call updates the variable"),
        (Noisy, TraceError, r"test_inline.py:\d+: Noisy.call draws random"),
        (Stateful, TraceError, r"test_inline.py:\d+: Stateful.call was traced, but the trace"),
        (Peeking, TraceError, r"test_inline.py:\d+: Peeking.call cannot be traced"),
    ],
)
def test_what_a_trace_would_get_wrong_is_refused(cls, error, message):
    layer = cls(4, name="bad")
    model = _unchecked(layer) if cls in (Noisy, Peeking) else in_a_model(layer)
    with pytest.raises(error, match=message):
        resect.adapt.inline(model, "bad")


def _unchecked(layer: Any) -> keras.Model:
    """A model around a layer whose `call` Keras itself cannot run symbolically."""
    layer.compute_output_spec = lambda x: keras.KerasTensor(x.shape, x.dtype)
    return in_a_model(layer)


def test_what_is_no_composite_layer_is_refused():
    model = blocks()
    for where, error, message in (
        ("nothing", NoMatchError, "matches nothing"),
        ("features", InputLayerError, "is an input"),
        ("logits", TraceError, "uses the weight 'logits/"),
    ):
        with pytest.raises(error, match=message):
            resect.adapt.inline(model, where)
    opened = resect.adapt.inline(model, "one")
    with pytest.raises(EditError, match=r"'add' \(Add\) is a raw operation"):
        resect.adapt.inline(opened, "add")
    outer = in_a_model(model)
    with pytest.raises(EditError, match=r"is a nested model\.\n.*adapt\.flatten"):
        resect.adapt.inline(outer, "blocks")
    with pytest.raises(EditError, match="depth=0 opens nothing"):
        resect.adapt.inline(model, "one", depth=0)


def test_what_an_edit_has_made_or_changed_is_refused():
    plan = resect.plan(blocks())
    new = plan.insert(Block(4, name="three"), after="two").then(Inline("three"))
    assert "is new: it has no weights yet" in str(new.check()[0])
    changed = plan.then(resect.adapt.Configure("two", (("trainable", False),)), Inline("two"))
    assert changed.check()


def test_an_activity_regularizer_is_refused():
    model = in_a_model(Block(4, name="block", activity_regularizer="l2"))
    with pytest.raises(EditError, match="has an activity_regularizer"):
        resect.adapt.inline(model, "block")


def test_a_mask_that_would_be_lost_is_refused():
    x = ids = keras.Input((6,), dtype="int32", name="ids")
    x = Block(4, name="block")(layers.Embedding(5, 4, mask_zero=True, name="words")(x))
    model = keras.Model(ids, x, name="masked")
    with pytest.raises(MaskError, match="'masked' came with a mask, by which Keras weighs"):
        resect.adapt.inline(model, "block")
    with pytest.raises(MaskError, match=r"'attending' \(Attending\) reads a tensor that came with"):
        resect.adapt.inline(masked(Block(4, name="block"), Attending(4, name="attending")), "block")
    outer = keras.Input((6,), dtype="int32", name="outer_ids")
    words = layers.Embedding(5, 4, mask_zero=True, name="words")(outer)
    inner = keras.Input((6, 4), name="inner")
    nested = keras.Model(inner, Block(4, name="block")(inner), name="nested")
    with pytest.warns(UserWarning, match="does not support masking"):
        model = keras.Model(outer, nested(words))
    with pytest.raises(MaskError, match=r"'nested/block' lies in a nested model that is given a"):
        resect.adapt.inline(model, "nested/block")
