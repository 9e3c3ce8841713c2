"""What an edit applies to: every way to say where, and what it finds."""

from __future__ import annotations

import re

import keras
import pytest
from keras import layers

import resect
from resect import first, last, select
from resect.errors import AmbiguousError, CountError, NoMatchError
from tests.common import cnn, mlp


def build() -> keras.Model:
    """Shared layers, a nested model, raw operations and names that look alike."""
    inner = x = keras.Input((4,), name="inner_input")
    x = layers.Dense(4, activation="relu", name="conv_1")(x)
    x = layers.Dense(4, name="conv_2")(x)
    backbone = keras.Model(inner, x, name="backbone")
    features = keras.Input((4,), name="features")
    shared = layers.Dense(4, name="shared")
    x = shared(shared(backbone(features)))
    x = layers.ReLU(name="relu")(keras.ops.negative(x))
    x = layers.Dense(4, name="fc_1")(x)
    x = layers.Dropout(0.5, name="drop")(x)
    return keras.Model(features, layers.Dense(2, name="fc_2")(x), name="net")


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return build()


@pytest.fixture(scope="module")
def plan(model) -> resect.Plan:
    return resect.plan(model)


DENSE = ("shared@0", "shared@1", "fc_1", "fc_2", "backbone/conv_1", "backbone/conv_2")
OWN = ("backbone", "shared@0", "shared@1", "negative", "relu", "fc_1", "drop", "fc_2")
EVERY = (*OWN, "backbone/conv_1", "backbone/conv_2")


def spelled(value: object) -> str:
    """What a case is called: its `repr`, without addresses, which differ between processes."""
    return re.sub(r" at 0x\w+", "", repr(value))


@pytest.mark.parametrize(
    ("where", "found"),
    [
        # names
        ("relu", ("relu",)),
        ("shared", ("shared@0", "shared@1")),
        ("shared@1", ("shared@1",)),
        ("backbone/conv_2", ("backbone/conv_2",)),
        ("features", ("features",)),
        # globs: without a slash at any depth
        ("fc_*", ("fc_1", "fc_2")),
        ("conv_?", ("backbone/conv_1", "backbone/conv_2")),
        ("backbone/conv_[12]", ("backbone/conv_1", "backbone/conv_2")),
        ("*/conv_2", ("backbone/conv_2",)),
        ("*_1", ("fc_1", "backbone/conv_1")),
        ("shared@*", ("shared@0", "shared@1")),
        # regular expressions match all of the name, or all of the path
        (re.compile(r"fc_\d"), ("fc_1", "fc_2")),
        (re.compile(r".*/conv_\d"), ("backbone/conv_1", "backbone/conv_2")),
        (re.compile(r"conv_\d"), ("backbone/conv_1", "backbone/conv_2")),
        # positions among the calls of the model itself, inputs not counted
        (0, ("backbone",)),
        (-1, ("fc_2",)),
        (slice(1, 4), ("shared@0", "shared@1", "negative")),
        (slice(None, None, 4), ("backbone", "relu")),
        # classes
        (layers.Dense, DENSE),
        ((layers.ReLU, layers.Dropout), ("relu", "drop")),
        (keras.Model, ("backbone",)),
        (layers.InputLayer, ("features", "backbone/inner_input")),
        # predicates
        (lambda layer: getattr(layer, "rate", 0) > 0.4, ("drop",)),
        (lambda layer: layer.name.startswith("fc"), ("fc_1", "fc_2")),
        # several addresses
        (["fc_2", "relu"], ("relu", "fc_2")),
        (("drop", layers.ReLU), ("relu", "drop")),
    ],
    ids=spelled,
)
def test_an_address_finds(plan, where, found):
    assert set(plan.find(where)) == set(found)
    assert len(plan.find(where)) == len(found)


@pytest.mark.parametrize(
    ("selection", "found"),
    [
        (select(), EVERY),
        (select("relu"), ("relu",)),
        (select(layers.Dense), DENSE),
        (select(name="fc_*"), ("fc_1", "fc_2")),
        (select(regex=r"fc_\d"), ("fc_1", "fc_2")),
        (select(cls=layers.Dropout), ("drop",)),
        (select(cls=(layers.Dropout, layers.ReLU)), ("relu", "drop")),
        (select(layers.Dense, name="*_2"), ("fc_2", "backbone/conv_2")),
        (select(layers.Dense) & "fc_*", ("fc_1", "fc_2")),
        (select("fc_1") | "drop", ("fc_1", "drop")),
        (
            select(layers.Dense) & ~select(name="*_1"),
            ("shared@0", "shared@1", "fc_2", "backbone/conv_2"),
        ),
        (~select(layers.Dense), ("backbone", "negative", "relu", "drop")),
        (
            select(layers.Dense) & (lambda layer: layer.activation is keras.activations.relu),
            ("backbone/conv_1",),
        ),
        (select(name="fc_*")[0], ("fc_1",)),
        (select(name="fc_*")[-1], ("fc_2",)),
        (select(layers.Dense)[1:3], ("shared@1", "fc_1")),
        (select(layers.Dense)[::2][0], ("shared@0",)),
        (select(layers.Dense).expect(6), DENSE),
        (first(2), ("backbone", "shared@0")),
        (last(2), ("drop", "fc_2")),
        (last(3) & layers.Dense, ("fc_1", "fc_2")),
        (first(100), OWN),
    ],
    ids=repr,
)
def test_a_selection_finds(plan, selection, found):
    assert set(plan.find(selection)) == set(found)
    assert len(plan.find(selection)) == len(found)


def test_what_is_found_comes_in_topological_order_outer_models_first(plan):
    assert plan.find(select()) == EVERY


def test_a_layer_object_is_that_layer(model, plan):
    assert plan.find(model.get_layer("relu")) == ("relu",)
    assert plan.find(model.get_layer("shared")) == ("shared@0", "shared@1")
    assert plan.find(model.get_layer("backbone").get_layer("conv_2")) == ("backbone/conv_2",)
    with pytest.raises(NoMatchError, match="it has that name but is another object"):
        plan.find(build().get_layer("relu"))


@pytest.mark.parametrize(
    ("selection", "shown"),
    [
        (select("fc_1"), "'fc_1'"),
        (select(name="fc*"), "select(name='fc*')"),
        (select(regex="fc.*"), "select(regex='fc.*')"),
        (select(cls=layers.Dense), "select(cls=Dense)"),
        (select(cls=(layers.Dense, layers.ReLU)), "select(cls=Dense | ReLU)"),
        (
            select(name="a*") & select(name="*b") | ~select("c"),
            "((select(name='a*') & select(name='*b')) | ~'c')",
        ),
        (select(name="a*")[1:], "select(name='a*')[1:]"),
        (select(name="a*")[::2], "select(name='a*')[::2]"),
        (select(name="a*").expect(2), "select(name='a*').expect(2)"),
        (first(3), "select()[:3]"),
        (last(3), "select()[-3:]"),
        (select(), "select()"),
    ],
    ids=repr,
)
def test_a_selection_prints_as_it_is_written(selection, shown):
    assert repr(selection) == shown


def test_selections_are_values():
    assert select(name="a*") & "b" == select(name="a*") & "b"
    assert len({select("a"), select("a"), select("b")}) == 2


def test_expect_holds_the_number(plan):
    assert plan.find(select(name="fc_*").expect(2)) == ("fc_1", "fc_2")
    with pytest.raises(CountError) as caught:
        plan.find(select(name="fc_*").expect(4))
    assert str(caught.value) == (
        "select(name='fc_*').expect(4) was expected to match 4 calls and matches 2: fc_1, fc_2.\n"
        "Correct the selection or the number."
    ).replace(".expect(4) was", " was")


def test_expect_holds_it_in_a_plan_and_inside_other_selections(plan):
    problems = plan.remove(select(name="drop").expect(2)).check()
    assert [problem.code for problem in problems] == ["CountError"]
    with pytest.raises(CountError, match="matches 0: nothing"):
        plan.find(select(name="no*").expect(1) | "relu")


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("fc_3", "'fc_1': it has another name"),
        ("conv_1", "'backbone/conv_1': it lies in a nested model: write 'backbone/conv_1'"),
        ("shared@2", "'shared@0': it has another path or call number"),
        ("fx_*", "its name does not match 'fx_*'"),
        (re.compile("fc"), "r'fc' does not match its whole name"),
        (99, "'fc_2': the model has 8 calls to count"),
        (layers.LSTM, "'fc_2': it is a Dense"),
        (lambda layer: False, "'fc_2': the predicate is false for it"),
        (select(layers.Dense) & layers.ReLU, "'fc_2': it is a Dense"),
        (select(name="fc_*")[5], "'fc_2': select(name='fc_*') selects 2 calls"),
        (~select(), "select() selects it"),
    ],
    ids=spelled,
)
def test_no_match_says_what_is_near_and_why_it_was_passed_over(plan, where, why):
    with pytest.raises(NoMatchError) as caught:
        plan.find(where)
    message = str(caught.value)
    assert "matches nothing in Functional 'net'.\nNearest, and why each was passed over:" in message
    assert why in message
    assert message.endswith("print(resect.read(model)) lists every call.")


def test_a_typing_error_is_answered_with_the_nearest_name_first(plan):
    with pytest.raises(NoMatchError) as caught:
        plan.find("backbone/conv1")
    assert str(caught.value).splitlines()[2] == "  'backbone/conv_1': it has another name"


@pytest.mark.parametrize("where", [None, 1.5, True, (), [], object()], ids=spelled)
def test_what_addresses_nothing_is_a_type_error(plan, where):
    with pytest.raises(TypeError, match="A place is given as a name, glob, path, compiled regex"):
        plan.find(where)


def test_where_it_matters_which_call_a_name_is_ambiguous(model):
    with pytest.raises(AmbiguousError, match="Say which one: 'shared@0' or 'shared@1'"):
        resect.insert(model, layers.Dropout(0.5), after="shared")
    with pytest.raises(AmbiguousError, match="'shared' is called 2 times"):
        resect.truncate(model, end=model.get_layer("shared"))
    with pytest.raises(AmbiguousError, match="several match"):
        resect.truncate(model, end="fc_*")


def test_where_it_does_not_matter_it_is_not(model):
    assert resect.remove(model, "shared").count_params() < model.count_params()
    chosen = resect.insert(model, layers.Dropout(0.5), after=select(name="shared@*"))
    assert sum(isinstance(layer, layers.Dropout) for layer in chosen.layers) == 3


def test_indices_count_calls_not_layers(model):
    names = [layer.name for layer in resect.truncate(model, end=2).layers]
    assert names == ["features", "backbone", "shared"]


def test_a_later_edit_sees_what_an_earlier_one_left():
    plan = resect.plan(mlp()).remove("middle").insert(layers.ReLU(name="act"), after=0)
    assert plan.find(layers.Dense) == ("hidden", "logits")
    assert plan.find(1) == ("act",)
    with pytest.raises(NoMatchError):
        plan.find("middle")


def test_a_nested_model_that_is_called_twice_counts_once():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="dense")], name="inner")
    features = keras.Input((4,), name="features")
    plan = resect.plan(keras.Model(features, inner(inner(features))))
    assert plan.find(layers.Dense) == ("inner/dense",)
    assert plan.find("inner") == ("inner@0", "inner@1")
    assert plan.find("inner/dense") == ("inner/dense",)


def test_a_name_with_an_at_sign_is_a_name_first():
    features = keras.Input((4,), name="features")
    model = keras.Model(features, layers.Dense(2, name="odd@1")(features))
    assert resect.plan(model).find("odd@1") == ("odd@1",)


def test_a_predicate_is_asked_only_about_what_fits_the_rest():
    wide = select(lambda layer: layer.units > 3, cls=layers.Dense)
    assert all("conv" not in name for name in resect.plan(cnn()).find(wide))
