"""Bad input: each kind gets an exception of its own that says what was asked, found, and to do.

And it loses nothing: whatever was refused, the source is what it was.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import keras
import pytest
from keras import layers

import resect
from resect import errors
from tests.common import mlp, nested, residual, trained, two_branches, two_heads
from tests.surgery import Source

# Models that some edits have no meaning on


def side_by_side() -> keras.Model:
    """Two models in one, with nothing between them."""
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    left = layers.Dense(2, name="left_out")(layers.Dense(4, name="left")(a))
    right = layers.Dense(2, name="right_out")(layers.Dense(4, name="right")(b))
    return keras.Model([a, b], [left, right], name="side_by_side")


def several_tensors() -> keras.Model:
    """A layer that returns three tensors, of which two are used."""
    features = keras.Input((5, 4), name="features")
    x, state, _ = layers.LSTM(3, return_state=True, name="lstm")(features)
    x = layers.Concatenate(name="concat")([x, state])
    return keras.Model(features, layers.Dense(2, name="logits")(x), name="several_tensors")


def implicit_mask() -> keras.Model:
    """A mask that Keras hands on at run time, unrecorded."""
    ids = keras.Input((5,), dtype="int32", name="ids")
    x = layers.Embedding(8, 4, mask_zero=True, name="embedding")(ids)
    x = layers.LSTM(3, name="lstm")(x, training=False)
    return keras.Model(ids, layers.Dense(2, name="logits")(x), name="implicit_mask")


class Locked(keras.Layer):
    """Holds what cannot be copied, and says nothing about itself."""

    def __init__(self) -> None:
        super().__init__(name="locked")
        self.lock = threading.Lock()

    def call(self, x: Any) -> Any:
        return x

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError("no configuration")


def uncopyable() -> keras.Model:
    features = keras.Input((4,), name="features")
    return keras.Model(
        features, layers.Dense(2, name="logits")(Locked()(features)), name="locked_in"
    )


@dataclasses.dataclass(frozen=True)
class Case:
    """What is asked of which model, and the error that answers."""

    error: type[Exception]
    build: Callable[[], Any]
    ask: Callable[[Any], Any]
    message: str

    @property
    def text(self) -> str:
        return textwrap.dedent(self.message).strip("\n")


CASES: dict[str, Case] = {
    "a name that matches nothing": Case(
        errors.NoMatchError,
        mlp,
        lambda m: resect.remove(m, "midle"),
        """
        Cannot remove 'midle'.
          'midle' matches nothing in Sequential 'mlp'.
          Nearest, and why each was passed over:
            'middle': it has another name
            'hidden': it has another name
            'logits': it has another name
          print(resect.read(model)) lists every call.
        """,
    ),
    "a shared layer, where it matters which call": Case(
        errors.AmbiguousError,
        two_branches,
        lambda m: resect.insert(m, layers.ReLU(), after="shared"),
        """
        Cannot insert ReLU after 'shared'.
          'shared' could mean 'shared@0', 'shared@1': 'shared' is called 2 times.
          Say which one: 'shared@0' or 'shared@1'.
        """,
    ),
    "another number of matches than expected": Case(
        errors.CountError,
        mlp,
        lambda m: resect.remove(m, resect.select(layers.Dense).expect(2)),
        """
        Cannot remove select(cls=Dense).expect(2).
          select(cls=Dense) was expected to match 2 calls and matches 3: hidden, middle, logits.
          Correct the selection or the number.
        """,
    ),
    "a cut that separates an output from every input": Case(
        errors.CutError,
        side_by_side,
        lambda m: resect.truncate(m, start="left"),
        """
        Cannot truncate from 'left' on.
          The output 'right_out' does not depend on 'left': it would be cut off from every input.
          Split the model instead, which passes such outputs on, or truncate its end too.
        """,
    ),
    "ends in the wrong order": Case(
        errors.CutError,
        mlp,
        lambda m: resect.truncate(m, start="logits", end="hidden"),
        """
        Cannot truncate from 'logits' on up to 'hidden'.
          The end does not depend on the start 'logits'.
          Name the earlier place as start.
        """,
    ),
    "a region in the wrong order": Case(
        errors.CutError,
        mlp,
        lambda m: resect.collapse(m, "logits", "hidden"),
        """
        Cannot collapse 'logits' to 'hidden'.
          'hidden' (Dense) does not depend on 'logits' (Dense).
          Name the earlier place first.
        """,
    ),
    "a removal that leaves nothing": Case(
        errors.EmptyResultError,
        mlp,
        lambda m: resect.remove(m, layers.Dense),
        """
        Cannot remove every Dense.
          Nothing would be left of Sequential 'mlp': its inputs would be its outputs.
          Keep at least one layer.
        """,
    ),
    "a split with nothing behind it": Case(
        errors.EmptyResultError,
        mlp,
        lambda m: resect.split(m, "logits"),
        """
        Cannot split at 'logits' and keep the head.
          Nothing of Sequential 'mlp' lies behind the cut.
          Cut before its last call.
        """,
    ),
    "a layer that returns several tensors": Case(
        errors.MultipleOutputsError,
        several_tensors,
        lambda m: resect.insert(m, layers.ReLU(), after="lstm"),
        """
        Cannot insert ReLU after 'lstm'.
          'lstm' (LSTM) returns 3 tensors, and the edit needs one.
          Say which one is meant: 'lstm:0' or 'lstm:1'.
        """,
    ),
    "a layer that returns several tensors, removed": Case(
        errors.MultipleOutputsError,
        several_tensors,
        lambda m: resect.remove(m, "lstm"),
        """
        Cannot remove 'lstm'.
          'lstm' (LSTM) returns 3 tensors, and the edit needs one.
          Remove or replace what reads them first.
        """,
    ),
    "two layers with one name": Case(
        errors.NameClashError,
        mlp,
        lambda m: resect.rename(m, {"hidden": "logits"}),
        """
        Cannot rename 'hidden' to 'logits'.
          Two layers would be called 'logits'.
          Choose another name.
        """,
    ),
    "a name that is none": Case(
        errors.NameClashError,
        mlp,
        lambda m: resect.rename(m, {"hidden": "a/b"}),
        """
        Cannot rename 'hidden' to 'a/b'.
          'a/b' cannot be the name of a layer.
          Leave the slash out.
        """,
    ),
    "an input that nothing would use": Case(
        errors.UnusedInputError,
        two_branches,
        lambda m: resect.remove(m, "concat", keep="shared@0", on_mismatch="reinit"),
        """
        Cannot remove 'concat', keeping 'shared@0'.
          Nothing would use the input 'right' any more.
          Keep a layer that reads it, or drop it too: plan.drop_unused_inputs().
        """,
    ),
    "a merge without keep": Case(
        errors.MergeError,
        residual,
        lambda m: resect.remove(m, "add"),
        """
        Cannot remove 'add'.
          'add' (Add) reads 2 tensors: 'stem' (None, 5), 'branch' (None, 5).
          Say which one goes on: keep="stem".
        """,
    ),
    "a merge, and a keep that is not among its inputs": Case(
        errors.MergeError,
        residual,
        lambda m: resect.remove(m, "add", keep="logits"),
        """
        Cannot remove 'add', keeping 'logits'.
          keep='logits' matches 0 of the inputs of 'add' (Add): 'stem', 'branch'.
          Say which one goes on: keep='stem'.
        """,
    ),
    "weights that no longer fit": Case(
        errors.ShapeError,
        residual,
        lambda m: resect.replace(m, "branch", layers.Dense(7, name="branch")),
        """
        Cannot replace 'branch' by Dense.
          'add' (Add) was fed (None, 5), (None, 5) and would be fed (None, 5), (None, 7) from \
'stem', 'branch': Inputs have incompatible shapes. Received shapes (5,) and (7,).
          Have a projection inserted with on_mismatch="adapt".
        """,
    ),
    "weights that no longer fit, of one layer": Case(
        errors.ShapeError,
        mlp,
        lambda m: resect.remove(
            resect.replace(m, "middle", layers.Dense(4), on_mismatch="reinit"), 1
        ),
        """
        Cannot remove 1.
          'logits' (Dense) was fed (None, 4) and would be fed (None, 8) from 'hidden': its kernel \
is (4, 3) and would have to be (8, 3).
          Let such layers start afresh with on_mismatch="reinit", or have a projection inserted \
with on_mismatch="adapt".
        """,
    ),
    "a new layer that cannot take what it would be given": Case(
        errors.ShapeError,
        mlp,
        lambda m: resect.insert(m, layers.Conv2D(2, 2, name="conv"), after="hidden"),
        """
        Cannot insert Conv2D after 'hidden'.
          'conv' (Conv2D) cannot take (None, 8) from 'hidden': Input 0 with name 'None' of layer \
'conv' is incompatible with the layer: expected min_ndim=4, found ndim=2. Full shape received: \
(None, 8).
          Change its configuration, or insert it elsewhere.
        """,
    ),
    "an input, removed": Case(
        errors.InputLayerError,
        mlp,
        lambda m: resect.remove(m, "features"),
        """
        Cannot remove 'features'.
          'features' (InputLayer) is an input of the model.
          Cut the front off with truncate(start=...), or insert after it.
        """,
    ),
    "an input, inserted before": Case(
        errors.InputLayerError,
        mlp,
        lambda m: resect.insert(m, layers.ReLU(), before="features"),
        """
        Cannot insert ReLU before 'features'.
          'features' (InputLayer) is an input: nothing comes before it.
          Insert after it, or use prepend.
        """,
    ),
    "two places in different models": Case(
        errors.NestedError,
        nested,
        lambda m: resect.collapse(m, "backbone/dense_1", "logits"),
        """
        Cannot collapse 'backbone/dense_1' to 'logits'.
          'backbone/dense_1' and 'logits' lie in different models.
          Name two places of the same model.
        """,
    ),
    "a layer that would be fed its own output": Case(
        errors.CycleError,
        mlp,
        lambda m: resect.insert(m, layers.Add(), after="hidden", merge_with="logits"),
        """
        Cannot insert Add after 'hidden', merged with 'logits'.
          The rewired graph would feed a layer its own output.
          Choose another place, or a tensor to read that does not depend on it.
        """,
    ),
    "a cut through a mask that is not recorded": Case(
        errors.MaskError,
        implicit_mask,
        lambda m: resect.split(m, "embedding"),
        """
        Cannot split at 'embedding' and keep the head.
          The cut goes through 'embedding', whose mask Keras hands on to 'lstm' (LSTM) at run time.
          Cut before the mask is made, or behind the last layer that uses it.
        """,
    ),
    "two outputs, and one layer to append": Case(
        errors.AmbiguousError,
        two_heads,
        lambda m: resect.append(m, layers.ReLU()),
        """
        Cannot append ReLU.
          The model has 2 outputs to append to: 'first', 'second'.
          Insert after the one you mean.
        """,
    ),
    "two inputs, and one layer to prepend": Case(
        errors.AmbiguousError,
        two_branches,
        lambda m: resect.prepend(m, layers.ReLU()),
        """
        Cannot prepend ReLU.
          The model has 2 inputs: 'left', 'right'.
          Insert after the one you mean: insert(model, layer, after=name).
        """,
    ),
    "an edge that is not there": Case(
        errors.NoMatchError,
        mlp,
        lambda m: resect.insert(m, layers.ReLU(), between=("hidden", "logits")),
        """
        Cannot insert ReLU between 'hidden' and 'logits'.
          'logits' (Dense) reads 0 tensors of 'hidden' (Dense).
          Name two calls of which the second reads the first.
        """,
    ),
    "a class instead of a layer": Case(
        errors.EditError,
        mlp,
        lambda m: resect.insert(m, layers.Dropout, after="hidden"),
        """
        Cannot insert the class Dropout after 'hidden'.
          A layer, a list of layers or a function that returns one is needed, not the class Dropout.
          Pass an instance, such as keras.layers.Dropout(0.5). To take a layer out, use remove.
        """,
    ),
    "a function that returns nothing": Case(
        errors.EditError,
        mlp,
        lambda m: resect.insert(m, lambda site: None, after="hidden"),
        """
        Cannot insert what a function returns after 'hidden'.
          A layer, a list of layers or a function that returns one is needed, not None.
          Pass an instance, such as keras.layers.Dropout(0.5). To take a layer out, use remove.
        """,
    ),
    "nothing, as the replacement": Case(
        errors.EditError,
        mlp,
        lambda m: resect.replace(m, "middle", None),
        """
        Cannot replace 'middle' by None.
          A layer, a list of layers or a function that returns one is needed, not None.
          Pass an instance, such as keras.layers.Dropout(0.5). To take a layer out, use remove.
        """,
    ),
    "an empty list of layers": Case(
        errors.EditError,
        mlp,
        lambda m: resect.replace(m, "middle", []),
        """
        Cannot replace 'middle' by an empty list.
          An empty list of layers.
          To take a layer out, use remove.
        """,
    ),
    "no layers to pop": Case(
        errors.EditError,
        mlp,
        lambda m: resect.pop(m, 0),
        """
        Cannot pop the last 0 layers.
          pop takes off at least one layer, not 0.
          Give n=1 or more.
        """,
    ),
    "a layer that can be neither copied nor re-created": Case(
        errors.CopyError,
        uncopyable,
        resect.clone,
        """
        Cannot copy Functional 'locked_in'.
          'locked' (Locked) holds a _thread.lock, which cannot be copied, and re-creating it from \
its configuration failed: NotImplementedError: no configuration
          Give the class a get_config that describes it, or keep that object outside it.
        """,
    ),
    "a plan whose layer carries weights": Case(
        errors.SerializationError,
        mlp,
        lambda m: resect.plan(m).insert(built_dense(), after="hidden").to_json(),
        """
        The layer 'built' in 'insert Dense after 'hidden'' carries weights, which JSON would lose.
        Save the edited model instead, or insert an unbuilt layer.
        """,
    ),
    "a plan whose layer has no configuration": Case(
        errors.SerializationError,
        mlp,
        lambda m: resect.plan(m).insert(Locked(), after="hidden").to_json(),
        """
        The layer 'locked' in 'insert Locked after 'hidden'' has no configuration: no configuration
        Give its class a get_config.
        """,
    ),
    "weights that are neither copied nor shared": Case(
        ValueError,
        mlp,
        lambda m: resect.pop(m, weights="clone"),
        'weights must be "copy" or "share", not \'clone\'.',
    ),
    "another word for what to do about weights that do not fit": Case(
        ValueError,
        mlp,
        lambda m: resect.remove(m, "middle", on_mismatch="ignore"),
        'on_mismatch must be "raise", "reinit" or "adapt", not \'ignore\'.',
    ),
    "two places to insert at": Case(
        TypeError,
        mlp,
        lambda m: resect.insert(m, layers.ReLU(), after="hidden", before="logits"),
        "insert needs exactly one of after, before and between; given: ['after', 'before'].",
    ),
    "no place to insert at": Case(
        TypeError,
        mlp,
        lambda m: resect.insert(m, layers.ReLU()),
        "insert needs exactly one of after, before and between; given: none.",
    ),
    "no end to truncate at": Case(
        TypeError, mlp, resect.truncate, "truncate needs start, end or both."
    ),
}


def built_dense() -> layers.Dense:
    layer = layers.Dense(8, name="built")
    layer.build((None, 8))
    return layer


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_answered_and_loses_nothing(name):
    case = CASES[name]
    model = trained(case.build(), steps=0)
    before = Source.of(model)
    with pytest.raises(Exception) as caught:
        case.ask(model)
    assert type(caught.value) is case.error
    assert _as_today(str(caught.value)) == case.text
    before.assert_untouched()


def _as_today(text: str) -> str:
    """A message as Keras 3.13 and newer word it."""
    return text.replace('Input 0 of layer "conv"', "Input 0 with name 'None' of layer 'conv'")


def test_every_error_of_an_edit_says_what_was_asked_found_and_to_do():
    for name, case in CASES.items():
        if issubclass(case.error, (errors.EditError, errors.SelectionError)):
            asked, *found = case.text.splitlines()
            assert re.match(r"Cannot .*\.$", asked), name
            assert len(found) >= 2, name
            assert all(line.startswith("  ") for line in found), name


def test_errors_carry_their_parts():
    with pytest.raises(errors.MergeError) as caught:
        resect.remove(residual(), "add")
    problem = caught.value.problem
    assert caught.value.problems == (problem,)
    assert (problem.code, problem.node) == ("MergeError", "add")
    assert problem.request == "Cannot remove 'add'."
    assert problem.reason.startswith("'add' (Add) reads 2 tensors")
    assert problem.repair == 'Say which one goes on: keep="stem".'


def test_several_problems_are_raised_at_once():
    with pytest.raises(errors.PlanError) as caught:
        resect.plan(residual()).remove("add").remove("nothing").apply()
    assert {p.code for p in caught.value.problems} == {"MergeError", "NoMatchError"}
    assert str(caught.value).count("Cannot remove") == 2
    assert "1. remove 'add'" in caught.value.__notes__[0]


# What is no model


def torch_module() -> Any:
    import torch

    return torch.nn.Linear(2, 2)


def estimator() -> Any:
    from sklearn.linear_model import LinearRegression

    return LinearRegression()


NOT_MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "torch module": (torch_module, r"torch\.nn\S*Linear\.\nA torch\.nn\.Module has no Keras graph"),
    "path": (lambda: "model.keras", r"a str\.\nLoad it first: keras\.saving\.load_model\('model"),
    "path object": (lambda: pathlib.Path("a.keras"), r"Path\.\nLoad it first"),
    "None": (lambda: None, r"a NoneType\.\nPass a keras\.Model"),
    "number": (lambda: 3, r"\.\nPass a keras\.Model"),
    "estimator": (estimator, r"LinearRegression\.\nPass a keras\.Model"),
    "layer": (lambda: layers.Dense(2), r"Dense\.\nPut the layer into a model"),
    "class": (lambda: keras.Model, r"\.\nPass a keras\.Model"),
    "function": (lambda: mlp, r"a function\.\nPass a keras\.Model"),
}


@pytest.mark.parametrize("ask", [resect.clone, resect.read, resect.functional, resect.pop])
@pytest.mark.parametrize("name", NOT_MODELS)
def test_what_is_no_model_is_refused(name, ask):
    make, message = NOT_MODELS[name]
    with pytest.raises(errors.NotAModelError, match="A Keras 3 model is needed.*" + message):
        ask(make())


def test_a_sequential_without_an_input_shape_is_refused():
    model = keras.Sequential([layers.Dense(2)], name="unbuilt")
    for ask in (resect.pop, resect.clone, resect.read, resect.functional):
        with pytest.raises(
            errors.UnbuiltError, match=r"'unbuilt' has not been built: .*\nStart it with"
        ):
            ask(model)
    model.build((None, 4))
    assert resect.clone(model).built


# The tree of exceptions, and the public names


def test_the_tree_in_the_docstring_is_the_tree_of_classes():
    drawn: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ((?:│   |    )*)((?:├── |└── )?)([A-Z]\w+Error)\s", line)
        if match is None:
            continue
        depth = len(match[1]) // 4 + bool(match[2])
        del path[depth:]
        drawn[match[3]] = path[-1] if path else None
        path.append(match[3])
    real = {
        name: cls.__base__.__name__ if cls is not errors.SurgeryError else None
        for name, cls in vars(errors).items()
        if isinstance(cls, type) and issubclass(cls, Exception)
    }
    assert drawn == real
    assert list(drawn) == list(real), "drawn in the order of the module"


def test_every_error_says_what_it_is():
    for cls in vars(errors).values():
        if isinstance(cls, type) and issubclass(cls, Exception):
            assert cls.__doc__


def test_every_error_of_an_edit_is_among_the_cases():
    leaves = {
        cls
        for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, (errors.EditError, errors.SelectionError))
    } - {errors.SelectionError}
    assert leaves <= {case.error for case in CASES.values()}


def test_the_public_names_are_there_and_no_others():
    modules = {"adapt", "cost", "edits", "errors", "parallel", "plots"}
    public = {
        name
        for name, value in vars(resect).items()
        if not name.startswith("_")
        and getattr(value, "__module__", "resect").startswith("resect")
        and (callable(value) or name in modules)
    }
    assert public == set(resect.__all__)
    assert list(resect.__all__) == sorted(resect.__all__)
    assert all(getattr(resect, name).__doc__ for name in resect.__all__)
    table = re.findall(r"^    (\w+)  +\S", resect.__doc__ or "", flags=re.MULTILINE)
    verbs = {n for n in resect.__all__ if n[0].islower()} - {
        "edits",
        "errors",
        "select",
        "first",
        "last",
    }
    assert set(table) == verbs
