"""KerasHub's transformer blocks opened, in small backbones and in models of one's own."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import resect
from resect.adapt import Inline
from tests.adapt.test_inline import assert_same
from tests.common import primed, randomise
from tests.surgery import assert_surgery

hub: Any = pytest.importorskip("keras_hub")

SMALL = {
    "vocabulary_size": 20,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 16,
    "max_sequence_length": 12,
    "dropout": 0.1,
}


def tokens(model: Any) -> dict[str, np.ndarray]:
    """Sequences of several lengths, padded to one."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 20, (3, 6))
    mask = np.arange(6)[None] < np.array([6, 4, 1])[:, None]
    arrays = {"token_ids": ids * mask, "padding_mask": mask, "segment_ids": np.zeros((3, 6))}
    return {key: arrays[key].astype("int32") for key in sorted(model.input)}


def compiled(model: Any) -> Any:
    """The model with an optimizer that has slots."""
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    for i, variable in enumerate(model.optimizer.variables):
        variable.assign(np.full(variable.shape, i % 7, variable.dtype))
    return model


@pytest.fixture(scope="module")
def bert() -> Any:
    return compiled(randomise(hub.models.BertBackbone(**SMALL)))


@pytest.fixture(scope="module")
def gpt() -> Any:
    return compiled(randomise(hub.models.GPT2Backbone(**SMALL)))


@pytest.mark.parametrize("name", ["bert", "gpt"])
def test_all_blocks_of_a_backbone_are_opened(name, request):
    model = request.getfixturevalue(name)
    new = assert_surgery(model, Inline("transformer_layer_*"), inputs=tokens(model))
    assert not [la for la in new.layers if type(la).__name__.startswith("Transformer")]
    assert len(new.weights) == len(model.weights)
    assert_same(model, new, tokens(model))


def test_what_lies_in_a_block_can_be_edited(bert):
    plan = resect.plan(bert).then(Inline("transformer_layer_*"))
    slim = assert_surgery(bert, plan.remove("*_dropout"), inputs=tokens(bert))
    assert not [la for la in slim.layers if isinstance(la, layers.Dropout)]
    first = "transformer_layer_0_feedforward_intermediate_dense"
    other = plan.then(resect.adapt.Configure(first, (("activation", "relu"),)))
    new = assert_surgery(bert, other, inputs=tokens(bert))
    assert new.get_layer(first).activation is keras.activations.relu


def test_encoders_heed_the_mask_that_comes_with_their_input():
    x = ids = keras.Input((6,), dtype="int32", name="ids")
    x = layers.Embedding(5, 8, mask_zero=True, name="words")(x)
    for name in ("one", "two"):
        x = hub.layers.TransformerEncoder(16, 2, dropout=0.1, name=name)(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    model = randomise(keras.Model(ids, x, name="encoder"))
    rows = np.array([[1, 2, 0, 0, 0, 0], [3, 0, 1, 4, 0, 2], [0, 0, 0, 0, 0, 1]])
    for where in (["one", "two"], "two"):
        new = assert_surgery(model, Inline(where))
        assert_same(model, new, rows)


def test_a_decoder_with_an_encoder_is_opened():
    source, target = keras.Input((5, 8), name="source"), keras.Input((4, 8), name="target")
    mask = keras.Input((5,), dtype="bool", name="source_mask")
    encoded = hub.layers.TransformerEncoder(16, 2, name="encoder")(source, padding_mask=mask)
    decoded = hub.layers.TransformerDecoder(16, 2, normalize_first=True, name="decoder")(
        target, encoded, encoder_padding_mask=mask
    )
    model = primed(randomise(keras.Model([source, target, mask], decoded, name="translator")))
    new = assert_surgery(model, Inline(["encoder", "decoder"]))
    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=(3, length, 8)).astype("float32") for length in (5, 4)]
    assert_same(model, new, [*arrays, rng.random((3, 5)) < 0.6])
    assert "cross_attention" in [layer.name for layer in new.layers]
