"""More words in an embedding: old ids mean what they meant."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import resect
from resect.adapt import Rule, Vocabulary, register, rule_of
from resect.errors import AmbiguousError, EditError, ShapeError
from tests.adapt.models import language, run
from tests.common import mlp, randomise, slots, train, trained
from tests.surgery import assert_surgery

reversible = pytest.mark.skipif(
    not hasattr(layers, "ReversibleEmbedding"), reason="this Keras has no ReversibleEmbedding"
)

IDS = np.array([[1, 10, 0, 3, 7]], "int32")


def words() -> keras.Model:
    stack = [
        keras.Input((5,), dtype="int32", name="ids"),
        layers.Embedding(11, 4, mask_zero=True, name="words"),
        layers.LSTM(3, name="lstm"),
    ]
    return randomise(keras.Sequential(stack, name="reader"))


def test_old_ids_are_equal():
    model = words()
    new = assert_surgery(model, Vocabulary(15))
    np.testing.assert_array_equal(run(new, IDS), run(model, IDS))
    assert new.get_layer("words").embeddings.shape == (15, 4)
    assert np.isfinite(run(new, np.full((1, 5), 14, "int32"))).all()


@reversible
def test_logits_grow_with_a_tied_embedding():
    model = language()
    new = assert_surgery(model, Vocabulary(13))
    found = run(new, IDS)
    assert found.shape == (1, 5, 13)
    np.testing.assert_allclose(found[..., :11], run(model, IDS), rtol=1e-5, atol=1e-6)


def test_new_words_start_at_the_mean_if_that_is_said():
    model = words()
    new = resect.adapt.vocabulary(model, 12, new="mean")
    values = keras.ops.convert_to_numpy(new.get_layer("words").embeddings)
    np.testing.assert_allclose(values[11], values[:11].mean(axis=0), rtol=1e-5, atol=1e-6)


def test_several_embeddings_need_a_name():
    ids, kinds = (keras.Input((5,), dtype="int32", name=name) for name in ("ids", "kinds"))
    both = layers.Add(name="add")(
        [layers.Embedding(9, 4, name="words")(ids), layers.Embedding(2, 4, name="types")(kinds)]
    )
    model = randomise(keras.Model([ids, kinds], both, name="typed"))
    with pytest.raises(AmbiguousError, match="2 layers with a vocabulary: 'words', 'types'"):
        resect.adapt.vocabulary(model, 12)
    new = resect.adapt.vocabulary(model, 12, "words")
    assert (new.get_layer("words").input_dim, new.get_layer("types").input_dim) == (12, 2)


def test_what_is_refused():
    with pytest.raises(EditError, match="has 11 words, and would have 10: some ids"):
        resect.adapt.vocabulary(words(), 10)
    with pytest.raises(EditError, match="The model has 0 layers with a vocabulary: none"):
        resect.adapt.vocabulary(mlp(), 10)
    with pytest.raises(EditError, match=r"'lstm' \(LSTM\) has no vocabulary"):
        resect.adapt.vocabulary(words(), 12, "lstm")
    with pytest.raises(ValueError, match="new must be"):
        Vocabulary(12, new="zeros")


def test_a_class_of_the_users_own_needs_a_rule():
    class Words(layers.Embedding):
        """An embedding by another name."""

    model = keras.Sequential([keras.Input((5,), dtype="int32"), Words(11, 4, name="own")])
    randomise(model)
    with pytest.raises(EditError, match="0 layers with a vocabulary"):
        resect.adapt.vocabulary(model, 12)
    rule = rule_of(layers.Embedding)
    assert isinstance(rule, Rule)
    register(Words, rule)
    new = resect.adapt.vocabulary(model, 12)
    np.testing.assert_array_equal(run(new, IDS), run(model, IDS))


def test_variables_of_one_name_are_not_confused():
    """As in KerasHub's `TokenAndPositionEmbedding`: two parts, each with its `embeddings`."""

    class Both(layers.Layer):
        def __init__(self, words: int, **kwargs):
            super().__init__(**kwargs)
            self.words = words
            self.one, self.two = layers.Embedding(words, 4), layers.Embedding(words, 4)

        def build(self, shape):
            self.one.build(shape)
            self.two.build(shape)

        def call(self, ids):
            return self.one(ids) + self.two(ids)

        def get_config(self):
            return {**super().get_config(), "words": self.words}

    register(Both, Rule(words={"embeddings": 0}, vocabulary="words"))
    model = keras.Sequential([keras.Input((5,), dtype="int32"), Both(11, name="both")])
    with pytest.raises(ShapeError, match="several of its variables are called embeddings"):
        resect.adapt.vocabulary(randomise(model), 12)


def composite(words: int = 11) -> keras.Model:
    """KerasHub's embedding of tokens and positions, read in reverse for the logits."""
    hub = pytest.importorskip("keras_hub")
    ids = keras.Input((5,), dtype="int32", name="ids")
    embedding = hub.layers.TokenAndPositionEmbedding(words, 5, 4, name="both")
    x = layers.GRU(4, return_sequences=True, name="gru")(embedding(ids))
    return randomise(keras.Model(ids, layers.Dense(3, name="out")(x), name="composite"))


def test_words_and_positions_in_one_layer():
    model = composite()
    plan = resect.plan(model).then(Vocabulary(15, new="mean"))
    new = plan.apply()
    resect.verify(model, new, plan=plan)
    np.testing.assert_array_equal(run(new, IDS), run(model, IDS))
    parts = [{v.path: v for v in m.get_layer("both").variables} for m in (new, model)]
    assert list(parts[0]) == list(parts[1])
    words, positions = (keras.ops.convert_to_numpy(v) for v in parts[0].values())
    assert (words.shape, positions.shape) == ((15, 4), (5, 4))
    np.testing.assert_allclose(words[11:], np.tile(words[:11].mean(axis=0), (4, 1)), rtol=1e-5)
    np.testing.assert_array_equal(positions, list(parts[1].values())[1])
    assert np.isfinite(run(new, np.full((1, 5), 14, "int32"))).all()
    with pytest.raises(EditError, match="has 11 words, and would have 9"):
        resect.adapt.vocabulary(model, 9)


def test_the_slots_of_the_positions_go_on_and_those_of_the_words_start_afresh():
    model = trained(composite())
    new = resect.adapt.vocabulary(model, 12)
    found, had = slots(new.optimizer), slots(model.optimizer)
    name = "_momentums of both/position_embedding/embeddings"
    np.testing.assert_array_equal(found[name], had[name])
    assert not found["_momentums of both/token_embedding/embeddings"].any()
    train(new)


def test_a_backbone_becomes_a_plain_model_and_reconfigured_stays_one():
    hub = pytest.importorskip("keras_hub")
    model = randomise(hub.models.DistilBertBackbone(11, 1, 2, 8, 16, max_sequence_length=8))
    x = {"token_ids": IDS, "padding_mask": np.ones_like(IDS)}
    plain = resect.adapt.vocabulary(model, 14)
    new = resect.adapt.reconfigure(model, vocabulary_size=14)
    assert type(plain) is not type(model)
    assert type(new) is type(model)
    for each in (plain, new):
        np.testing.assert_array_equal(run(each, x), run(model, x))
        assert each.get_layer("token_and_position_embedding").vocabulary_size == 14
