"""Each method against a direct computation with NumPy, or against a derivative taken by hand."""

from __future__ import annotations

import itertools
import json

import keras
import numpy as np
import pytest

import resect
from resect.graph import refs
from resect.importance.backends import no_gradients
from resect.importance.execution import Held, evaluate
from resect.importance.program import program_of
from resect.importance.statistics import estimate, unbiased_hsic
from resect.importance.targets import targets_of
from resect.keras_graph.private import get_keras_mask
from resect.keras_graph.scoring import masked
from tests.blocks.models import masked_encoder
from tests.common import randomise
from tests.importance import models


def tensors(model, names, x):
    """What some layers return, as NumPy arrays."""
    wanted = {name: model.get_layer(name).output for name in names}
    found = keras.Model(model.inputs, wanted).predict(x, verbose=0)
    return {name: value.astype("float64") for name, value in found.items()}


def cosine(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def weighted(values, counts):
    return (values * counts).sum() / counts.sum()


@pytest.fixture(scope="module")
def tagger():
    """A transformer with padding, its data, and what enters and leaves its blocks."""
    keras.utils.set_random_seed(0)
    model = models.transformer(3)
    x, y = models.data_of(model, 10)
    names = ["embedding", *(f"layer_{i}_add_2" for i in range(3))]
    return model, x, y, tensors(model, names, x), names


def test_influence_leaves_padding_out_and_weighs_samples(tagger):
    model, x, y, values, names = tagger
    weights = np.linspace(0, 1, 10).astype("float32")
    found = resect.importance(model, (x, y, weights), "influence", batch_size=4)
    counts = (x != 0) * weights[:, None]
    for row, (before, after) in zip(found, itertools.pairwise(names), strict=True):
        expected = weighted(1 - cosine(values[before], values[after]), counts)
        assert row.score == pytest.approx(expected, rel=1e-4)
        assert row.low < row.score < row.high


@pytest.mark.parametrize("span", [1, 2])
def test_angular_distance_across_blocks_in_a_row(tagger, span):
    model, x, _, values, names = tagger
    found = resect.importance(model, x, "angular", batch_size=4, span=span)
    assert len(found) == 4 - span
    for i, row in enumerate(found):
        angles = np.arccos(cosine(values[names[i]], values[names[i + span]])) / np.pi
        assert row.score == pytest.approx(weighted(angles, x != 0), rel=1e-4)
        assert found.similarity.values[i][span - 1] == row.score
        assert row.ends == (names[i], names[i + span])


@pytest.mark.parametrize("size", [5, 6])
def test_cka_is_the_unbiased_estimate_over_batches(tagger, size):
    model, x, _, values, names = tagger
    found = resect.importance(model, x, "cka", batch_size=size)

    def direct(one, other):
        total = 0
        for part in (slice(0, size), slice(size, 10)):  # a smaller one counts less
            a, b = ((values[n] * (x != 0)[..., None])[part] for n in (one, other))
            a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
            total += len(a) * _hsic(a @ a.T, b @ b.T)
        return total

    for i, one in enumerate(names):
        for j, other in enumerate(names):
            expected = direct(one, other) / np.sqrt(direct(one, one) * direct(other, other))
            assert found.similarity.values[i][j] == pytest.approx(expected, rel=1e-3, abs=1e-4)
    for i, row in enumerate(found):
        assert row.score == pytest.approx(1 - found.similarity.values[i][i + 1])


def _hsic(k, m):
    """The sum over all quadruples of different samples, of which the estimate is the mean."""
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    n, ones = len(k), np.ones(len(k))
    pairs = np.trace(k @ m) + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
    return (pairs - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))


@pytest.mark.nobackend
def test_hsic_is_the_mean_over_quadruples():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(6, 3)), rng.normal(size=(6, 4))
    k, m = a @ a.T, b @ b.T
    total = count = 0
    for i, j, q, r in np.ndindex(6, 6, 6, 6):
        if len({i, j, q, r}) == 4:
            total += k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
            count += 1
    assert unbiased_hsic(k, m) == pytest.approx(total / count)


@pytest.mark.parametrize("make", [models.residual_mlp, models.transformer, models.nested])
def test_taylor_is_the_derivative_towards_the_bypassed_model(make):
    """The loss of a model whose blocks go a little of the way to a wire, by central differences."""
    model = make()
    data = models.data_of(model, 6)
    found = resect.importance(model, data, "taylor", batch_size=6)
    for row in found:
        step = 1e-2
        high, low = (_partly(model, row.ends, data, s) for s in (step, -step))
        assert row.score == pytest.approx((high - low) / (2 * step), rel=2e-2, abs=1e-3)


def _partly(model, ends, data, share):
    """The loss where what leaves a block is mixed with a share of what enters it."""
    program = program_of(resect.read(model))
    wires = dict(next(t for t in targets_of(program) if t.ends == ends).wires)
    x = keras.ops.convert_to_tensor(data[0])
    made = {program.inputs[0]: x}

    def changed(ref, tensor):
        if ref in wires:
            mixed = tensor + share * (made[wires[ref]] - tensor)
            tensor = masked(mixed, get_keras_mask(tensor))
        made[ref] = tensor
        return tensor

    with keras.StatelessScope() as scope, no_gradients():
        held = evaluate(program.steps, {program.inputs[0]: Held(x)}, scope, changed)
        (out,) = refs(program.outputs)
        loss = model.compute_loss(y=keras.ops.convert_to_tensor(data[1]), y_pred=masked(*held[out]))
    return float(keras.ops.convert_to_numpy(loss))


def test_a_padding_mask_that_is_an_input_counts():
    model = masked_encoder()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 5, 8)).astype("float32")
    mask = (np.arange(5) < rng.integers(1, 6, (6, 1))).astype("int32")
    found = resect.importance(
        model, ([x, mask],), "influence", blocks=resect.blocks(model).level("block")["add_1"]
    )
    values = tensors(model, ["add_0", "add_1"], [x, mask])
    expected = weighted(1 - cosine(values["add_0"], values["add_1"]), mask)
    assert found[0].score == pytest.approx(expected, rel=1e-4)


def test_each_block_counts_by_its_own_positions():
    """Batches with much padding count less for what sees words, and as others for what does not."""
    x = words = keras.Input((6,), dtype="int32", name="words")
    x = keras.layers.Embedding(11, 8, mask_zero=True, name="embedding")(x)
    x = keras.layers.Add(name="add_0")([x, keras.layers.Dense(8, name="inner_0")(x)])
    x = keras.layers.GlobalAveragePooling1D(name="pool")(x)
    x = keras.layers.Add(name="add_1")([x, keras.layers.Dense(8, name="inner_1")(x)])
    model = randomise(keras.Model(words, x))
    x = np.random.default_rng(0).integers(1, 11, (8, 6)).astype("int32")
    x[4:, 1:] = 0
    values = tensors(model, ["pool", "add_1"], x)
    expected = 1 - cosine(values["pool"], values["add_1"])
    for method, each in (("influence", expected), ("angular", np.arccos(1 - expected) / np.pi)):
        found = resect.importance(model, x, method, batch_size=4)
        assert found["add_1"].score == pytest.approx(each.mean(), rel=1e-4)


def test_of_several_padding_masks_the_last_one_counts():
    """An encoder, and a decoder of as many positions whose layers read what it returns."""
    if tuple(map(int, keras.__version__.split(".")[:2])) < (3, 12):
        pytest.skip("Keras before 3.12 adds the mask of attention's values to the wrong axes")
    vectors = [keras.Input((5, 4), name=name) for name in ("source", "target")]
    masks = [keras.Input((5,), name=f"{name}_mask") for name in ("source", "target")]
    x, y = (
        keras.layers.Dense(4, name=n)(v) for n, v in zip(("start", "begin"), vectors, strict=True)
    )

    def attended(one, other, number):
        return keras.layers.Attention()([one, other], mask=[None, masks[number] > 0])

    for i in range(2):
        x = keras.layers.Add(name=f"encoder_{i}")([x, keras.layers.Dense(4)(attended(x, x, 0))])
    for i in range(2):
        both = attended(attended(y, y, 1), x, 0)
        y = keras.layers.Add(name=f"decoder_{i}")([y, keras.layers.Dense(4)(both)])
    model = randomise(keras.Model([*vectors, *masks], y))
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(6, 5, 4)).astype("float32") for _ in range(2)]
    data += [(np.arange(5) < rng.integers(1, 6, (6, 1))).astype("float32") for _ in range(2)]
    values = tensors(
        model, ["start", "encoder_0", "encoder_1", "begin", "decoder_0", "decoder_1"], data
    )
    blocks = resect.blocks(model, side="encoder_1").level("block")
    assert blocks.names == ("encoder_0", "encoder_1", "decoder_0", "decoder_1")
    for row in resect.importance(model, (data,), "influence", blocks=blocks, batch_size=3):
        counts = data[2] if row.name.startswith("encoder") else data[3]
        before, after = (values[end] for end in row.ends)
        assert row.score == pytest.approx(weighted(1 - cosine(before, after), counts), rel=1e-4)


@pytest.mark.nobackend
def test_intervals_hold_the_mean_as_often_as_they_say():
    """Batches of unequal size, few and many, of numbers that are not normal."""
    rng = np.random.default_rng(0)
    for count in (4, 12, 40):
        held = 0
        sizes = [32] * (count - 1) + [9]
        for _ in range(1000):
            means = [rng.gamma(4, size=size).mean() for size in sizes]
            found = estimate(means, sizes)
            held += found.low <= 4 <= found.high
        assert 0.93 < held / 1000 < 0.97


def test_calls_can_be_named_instead_of_blocks():
    model = models.residual_mlp(2)
    data = models.data_of(model, 6)
    found = resect.importance(model, data, "influence", blocks=["inner_*"])
    assert [row.ends for row in found] == [("stem", "inner_0"), ("add_0", "inner_1")]


def test_the_value_prints_sorts_and_saves():
    model = models.residual_mlp(3)
    found = resect.importance(model, models.data_of(model, 8), batch_size=4)
    text = str(found)
    assert text.startswith("Functional 'mlp', 8 samples: change of the loss when it is bypassed")
    assert "as it is: loss" in text
    scores = [row.score for row in found.sorted()]
    assert scores == sorted(scores)
    assert found["add_1"].parameters == 30
    assert found["add_1"].multiply_adds == 25
    record = found.records()[0]
    assert record["start"] == "stem"
    assert record["change of mae"] == found[0].changes["mae"]
    assert json.loads(found.to_json())["blocks"][0]["name"] == "add_0"
    assert "2 more" in found.table(limit=1)


# Refusals


def test_what_has_no_meaning_is_refused():
    model = models.residual_mlp(2)
    x, y = models.data_of(model, 6)
    with pytest.raises(ValueError, match=r"'shap' is no method\. The methods are 'ablation'"):
        resect.importance(model, (x, y), "shap")
    with pytest.raises(resect.SurgeryError, match="There are no 3 blocks in a row"):
        resect.importance(model, x, "angular", span=3)
    with pytest.raises(resect.SurgeryError, match="estimated from at least 4"):
        resect.importance(model, x, "cka", batch_size=3)
    with pytest.raises(resect.SurgeryError, match="weights other than 0 and 1"):
        resect.importance(model, (x, y, np.full(6, 0.5)), "cka")
    with pytest.raises(resect.SurgeryError, match="'stem': it is the same for all samples"):
        resect.importance(model, np.ones((6, 5)), "cka")
    with pytest.raises(KeyError, match="is called 'nothing'"):
        resect.importance(model, x, "influence")["nothing"]
