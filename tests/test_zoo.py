"""One architecture of each school: the checks of the zoo (`make zoo` runs them on all of it)."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import resect
from zoo.checks import CHECKS, Case, Effort, residual_blocks, run, untouched
from zoo.entry import Entry
from zoo.models import APPLICATIONS, BACKBONES, CI_SUBSET
from zoo.run import MODELS, Result, chosen, main

EFFORT = Effort(cuts=2, blocks=1, reload=False)

#: How many residual blocks there are to collapse.
BLOCKS = {
    "VGG16": 0,
    "ResNet50": 12,  # of 16: four begin with a convolution of their own
    "DenseNet121": 0,
    "MobileNetV2": 10,
    "EfficientNetB0": 14,  # 9 residual, and 5 squeeze-excite that see a single pixel
    "NASNetMobile": 12,  # sums of separable branches
    "ConvNeXtTiny": 18,
    "bert": 0,  # inside its layers
    "gpt2": 1,  # token and position embedding
    "vit": 0,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CI_SUBSET)
def test_surgery_is_right_on(name: str) -> None:
    if name in BACKBONES:
        pytest.importorskip("keras_hub")
    entry = CI_SUBSET[name]
    if reason := entry.unsupported.get(keras.backend.backend()):
        pytest.skip(reason)
    case = Case(entry)
    tallies = {check: run(trials(case, EFFORT)) for check, trials in CHECKS.items()}
    tallies["source untouched"] = run(untouched(case))
    wrong = [line for t in tallies.values() for line in (*t.failed, *t.refused, *t.unsound)]
    assert wrong == []
    assert tallies["blocks"].passed == BLOCKS[name]
    assert tallies["cuts"].passed >= (1 if name == "vit" else 5)


def test_the_zoo_is_as_large_as_it_says() -> None:
    """All of `keras.applications`, and 25 backbones or more."""
    published = {n for n in dir(keras.applications) if n[0].isupper()}
    assert {name for name in published if callable(getattr(keras.applications, name))} == set(
        APPLICATIONS
    )
    assert len(BACKBONES) >= 25
    assert not set(APPLICATIONS) & set(BACKBONES)
    assert len(CI_SUBSET) == 10


def test_a_broken_edit_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks can fail: here a cut loses the model's values."""
    case = Case(_TINY)
    split = resect.split

    def broken(model: keras.Model, at: str) -> tuple[keras.Model, keras.Model]:
        head, tail = split(model, at)
        tail.set_weights([weight * 2 for weight in tail.get_weights()])
        return head, tail

    monkeypatch.setattr(resect, "split", broken)
    tally = run(CHECKS["cuts"](case, EFFORT))
    assert [line.split(": ")[1] for line in tally.failed] == ["AssertionError"] * 2
    assert Result("tiny", tallies={"cuts": tally}).verdict == "FAIL"


def test_what_cannot_be_done_counts_as_refused() -> None:
    case = Case(_TINY)

    def trial() -> None:
        resect.remove(case.model, "nothing")

    tally = run([("remove 'nothing'", trial)])
    assert tally.refused == [
        "remove 'nothing': NoMatchError: 'nothing' matches nothing in Functional 'tiny'."
    ]
    assert Result("tiny", tallies={"cuts": tally}).verdict == "refuse"


def test_residual_blocks_are_found() -> None:
    """Where the sum reads `x` and what `x` became: not where both sides are something else."""
    graph = resect.read(_tiny())
    found = [(a.spelling(graph), b.spelling(graph)) for a, b in residual_blocks(graph)]
    assert found == [("stem", "add")]


def test_names_and_globs_choose_models() -> None:
    assert [entry.name for entry in chosen(["ResNet50*", "bert"], light=False)] == [
        "ResNet50",
        "ResNet50V2",
        "bert",
    ]
    assert not any(entry.heavy for entry in chosen([], light=True))
    assert len(chosen([], light=False)) == len(MODELS)
    with pytest.raises(SystemExit, match="No model of the zoo is called 'ResNet51'"):
        chosen(["ResNet51"], light=False)


def test_the_command_prints_a_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setitem(MODELS, "tiny", _TINY)
    saved, page = tmp_path / "results.json", tmp_path / "zoo.md"
    assert main(["tiny", "--save", str(saved)]) == 0
    printed = capsys.readouterr().out
    assert "1 pass" in printed
    assert f"1 models on {keras.backend.backend()}: 1 pass" in printed
    assert main(["--page", str(page), str(saved)]) == 0
    assert "| tiny |" in page.read_text()


def _tiny() -> keras.Model:
    x = keras.Input((4,), name="x")
    stem = keras.layers.Dense(4, name="stem")(x)
    block = keras.layers.Dense(4, name="block")(stem)
    added = keras.layers.Add(name="add")([stem, block])
    both = [keras.layers.Dense(4, name=name)(added) for name in ("left", "right")]
    merged = keras.layers.Add(name="merge")(both)
    return keras.Model(x, keras.layers.Dense(2, name="head")(merged), name="tiny")


_TINY = Entry("tiny", _tiny)


# What the zoo has found


@pytest.mark.skipif(
    keras.backend.backend() == "torch",
    reason="a torch.nn.Module takes no attribute before its __init__",
)
def test_variables_stay_in_the_order_in_which_a_constructor_tracked_them() -> None:
    """KerasHub's ESM: a layer becomes an attribute before the graph is known."""

    class Backbone(keras.Model):
        def __init__(self, **kwargs):
            self.last = keras.layers.Dense(2, name="last")
            x = keras.Input((4,))
            first = keras.layers.Dense(3, name="first")
            super().__init__(x, self.last(first(x)), **kwargs)

    model = Backbone(name="backbone")
    copy = resect.clone(model)
    assert [v.path for v in copy.variables] == [v.path for v in model.variables]


def test_the_oracle_tells_every_layer_whether_it_trains() -> None:
    """KerasHub's DeepLab: a layer without a `training` argument around layers that have one."""

    class Inner(keras.layers.Layer):
        def call(self, x, training=True):
            return x * 2 if training else x

    class Outer(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner = Inner()

        def call(self, x):
            return self.inner(x)

        def compute_output_shape(self, shape):
            return shape

    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Dense(2)(Outer()(x)))
    report = resect.verify(model, resect.clone(model), reload=False)
    assert report.passed


def test_the_oracle_gives_a_nested_model_inputs_of_its_rank() -> None:
    """KerasHub's Stable Diffusion 3: Keras adds or drops a last axis of one."""
    flat = keras.Input((1,))
    inner = keras.Model(flat, keras.layers.Dense(3)(flat))
    x = keras.Input(())
    model = keras.Model(x, inner(x))
    inputs = np.arange(2, dtype="float32")
    assert resect.verify(model, resect.clone(model), inputs=inputs, reload=False).passed
