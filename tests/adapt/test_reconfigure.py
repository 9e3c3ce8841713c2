"""The same class with fewer blocks, more words or other settings, and the weights that stay."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import resect
from resect.adapt import reconfigure
from resect.errors import AmbiguousError, EditError, NoMatchError, ShapeError, UnbuiltError
from resect.keras_graph.units import all_layers
from tests.adapt.models import run
from tests.common import assert_equal, mlp, predictions, randomise, train, trained, weights_of

# Classes of a user's own


@keras.saving.register_keras_serializable("tests")
class Tower(keras.Model):
    """Residual blocks of two layers, whose parts Keras names, between two layers."""

    def __init__(self, depth: int, width: int = 4, rates: Any = None, **kwargs: Any) -> None:
        x = inputs = keras.Input((3,), name="features")
        x = layers.Dense(width, name="stem")(x)
        for i in range(depth):
            rate = 0.0 if rates is None else rates[i]
            y = layers.Dense(width, activation="relu", name=f"block_{i + 1}_expand")(x)
            y = layers.Dropout(rate, name=f"block_{i + 1}_drop")(y)
            y = layers.Dense(width, name=f"block_{i + 1}_project")(y)
            x = layers.Add()([x, y])
        x = layers.BatchNormalization(name="norm")(x)
        super().__init__(inputs, layers.Dense(2)(x), **kwargs)
        self.depth, self.width, self.layer_rates = depth, width, rates

    def get_config(self) -> dict[str, Any]:
        config = {"depth": self.depth, "width": self.width, "rates": self.layer_rates}
        return {**config, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Tower:
        return cls(**config)


@keras.saving.register_keras_serializable("tests")
class Written(keras.Model):
    """No graph: blocks in a list, called in Python; the even ones are followed by a ReLU."""

    def __init__(self, num_blocks: int, alternate: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_blocks, self.alternate = num_blocks, alternate
        self.blocks = [
            layers.Dense(4, activation="relu" if alternate and i % 2 else None, name=f"b{i}")
            for i in range(num_blocks)
        ]
        self.head = layers.Dense(2)

    def build(self, input_shape: Any) -> None:
        for block in self.blocks:
            block.build((None, 4))
        self.head.build((None, 4))
        self.built = True

    def call(self, x: Any) -> Any:
        for block in self.blocks:
            x = block(x)
        return self.head(x)

    def get_config(self) -> dict[str, Any]:
        return {"num_blocks": self.num_blocks, "alternate": self.alternate, "name": self.name}


def tower(depth: int = 5, **options: Any) -> Tower:
    return randomise(Tower(depth, name="tower", **options))


def written(blocks: int = 4, **options: Any) -> Written:
    model = Written(blocks, name="written", **options)
    model.build((None, 4))
    return randomise(model)


def without(model: Any, *blocks: int) -> Any:
    """The same edit on the graph: the residual blocks become wires."""
    adds = [la.name for la in model.layers if isinstance(la, layers.Add)]
    for i in sorted(blocks, reverse=True):
        model = resect.collapse(model, adds[i - 1] if i else "stem", adds[i])
    return model


def test_equal_to_the_same_edit_on_the_graph():
    model = tower()
    before = weights_of(model)
    new = reconfigure(model, keep=[0, 2, 4])
    assert type(new) is Tower
    assert new.depth == 3
    assert_equal([predictions(new)], [predictions(without(model, 1, 3))])
    assert_equal(weights_of(model), before)
    assert_equal([predictions(reconfigure(model, keep=range(5)))], [predictions(model)])


@keras.saving.register_keras_serializable("tests")
class Block(layers.Dense):
    """A class after which Keras would number layers as users do: `block`, `block_1`."""


@keras.saving.register_keras_serializable("tests")
class Stack(keras.Model):
    """Blocks that are named like their class, counted from 0."""

    def __init__(self, depth: int, **kwargs: Any) -> None:
        x = inputs = keras.Input((3,), name="features")
        for i in range(depth):
            x = Block(3, name=f"block_{i}")(x)
        super().__init__(inputs, x, **kwargs)
        self.depth = depth

    def get_config(self) -> dict[str, Any]:
        return {"depth": self.depth, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Stack:
        return cls(**config)


def test_blocks_that_are_named_like_their_class_and_counted_by_hand():
    model = randomise(Stack(4, name="stack"))
    new = reconfigure(model, keep=[0, 3])
    edited = resect.collapse(model, "block_0", "block_2")
    np.testing.assert_array_equal(predictions(new), predictions(edited))


def test_in_another_order_and_twice():
    model = tower(3)
    new = reconfigure(model, depth=4, keep=(2, 0, 0, -2))
    for at, was in enumerate((2, 0, 0, 1)):
        for part in ("expand", "project"):
            names = [f"block_{i + 1}_{part}" for i in (at, was)]
            made, old = new.get_layer(names[0]), model.get_layer(names[1])
            assert_equal(made.get_weights(), old.get_weights())
    train(trained(new))
    assert_equal(weights_of(model), weights_of(tower(3)))


def test_a_subclassed_model_without_a_graph():
    model = written()
    new = reconfigure(model, num_blocks=2, keep=[1, 3])
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    expected = model.head(model.blocks[3](model.blocks[1](x)))
    np.testing.assert_array_equal(run(new, x), ops.convert_to_numpy(expected))


def test_a_list_with_an_entry_for_each_block_follows():
    class Rated(Tower):
        def __init__(self, depth: int, layer_rates: Any, **kwargs: Any) -> None:
            super().__init__(depth, rates=layer_rates, **kwargs)

        def get_config(self) -> dict[str, Any]:
            return {"depth": self.depth, "layer_rates": self.layer_rates, "name": self.name}

    model = randomise(Rated(3, [0.1, 0.2, 0.3]))
    new = reconfigure(model, keep=[0, 2])
    assert [new.get_layer(f"block_{i}_drop").rate for i in (1, 2)] == [0.1, 0.3]
    with pytest.raises(EditError, match=r"'block_3_drop' would become 'block_2_drop', whose rate"):
        reconfigure(randomise(Tower(3, rates=[0.1, 0.2, 0.3])), keep=[0, 2])


def test_a_block_whose_place_decides_what_it_does_stays_in_its_place():
    model = written(alternate=True)
    with pytest.raises(EditError, match=r"'b3' would become 'b0', whose activation differ"):
        reconfigure(model, keep=[3, 1])
    new = reconfigure(model, keep=[2, 1])
    assert_equal(new.blocks[0].get_weights(), model.blocks[2].get_weights())


def test_a_model_that_was_changed_after_it_was_made_is_refused():
    model = tower(3)
    model.get_layer("block_2_drop").rate = 0.4
    with pytest.raises(EditError, match="'block_2_drop' has another rate than the config"):
        reconfigure(model, keep=[0, 1])
    model = written()
    model.blocks[1].activation = keras.activations.relu
    with pytest.raises(EditError, match="'b1' has another activation than the config"):
        reconfigure(model, keep=[0, 1])


class Wired(keras.Model):
    """Blocks that are called in training mode, but for the first."""

    def __init__(self, depth: int, **kwargs: Any) -> None:
        x = inputs = keras.Input((3,), name="features")
        for i in range(depth):
            drop = layers.Dropout(0.5, name=f"drop_{i}")
            x = drop(layers.Dense(3, name=f"dense_{i}_own")(x), training=i > 0)
        super().__init__(inputs, x, **kwargs)
        self.depth = depth

    def get_config(self) -> dict[str, Any]:
        return {"depth": self.depth, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Wired:
        return cls(**config)


def test_a_block_that_is_called_otherwise_by_its_place():
    model = randomise(Wired(3))
    with pytest.raises(EditError, match="'drop_1' would become 'drop_0', whose arguments differ"):
        reconfigure(model, keep=[1, 2])
    assert reconfigure(model, keep=[0, 2]).depth == 2


def test_other_settings_keep_all_weights():
    model = tower(3)
    new = reconfigure(model, rates=[0.5, 0.5, 0.5])
    assert new.get_layer("block_2_drop").rate == 0.5
    assert_equal([predictions(new)], [predictions(model)])
    both = reconfigure(model, rates=[0.5, 0.5], keep=[0, 1])
    assert_equal([predictions(both)], [predictions(without(model, 2))])


def test_flags_lora_and_the_optimizer_go_on():
    model = tower(3)
    model.get_layer("block_3_expand").trainable = False
    model.get_layer("block_3_project").enable_lora(2, lora_alpha=6)
    model = trained(randomise(model))
    new = reconfigure(model, keep=[0, 2])
    assert not new.get_layer("block_2_expand").trainable
    assert new.get_layer("block_2_project").lora_alpha == 6
    assert_equal([predictions(new)], [predictions(without(model, 1))])
    assert int(new.optimizer.iterations) == 2
    names = {"block_2_project/lora_kernel_a": "block_3_project/lora_kernel_a"}
    for mine, theirs in names.items():
        slots = [
            [s.numpy() if hasattr(s, "numpy") else np.asarray(s) for s in found]
            for found in (slots_of(new, mine), slots_of(model, theirs))
        ]
        assert_equal(*([ops.convert_to_numpy(s) for s in found] for found in slots))
        assert any(np.any(s != 0) for s in slots[0])
    train(new)


def slots_of(model: Any, path: str) -> list[Any]:
    (place,) = [
        i for i, v in enumerate(model.optimizer._trainable_variables) if v.path.endswith(path)
    ]
    optimizer = model.optimizer
    return [ops.convert_to_numpy(s[place]) for s in (optimizer._momentums, optimizer._velocities)]


def test_what_is_new_starts_afresh_if_that_is_said():
    model = tower(2)
    new = reconfigure(model, depth=3, on_mismatch="reinit")
    taken_out = without(new, 2)
    assert_equal([predictions(taken_out)], [predictions(model)])
    wider = reconfigure(model, width=6, on_mismatch="reinit")
    assert wider.get_layer("stem").kernel.shape == (3, 6)
    assert weights_of(wider)[-1].shape == (2,)


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (
            tower,
            {"depth": 3},
            EditError,
            "with depth=3.\n  depth=3 does not say which of the 5 blocks go on",
        ),
        (tower, {"depth": 6}, ShapeError, r"'block_6_expand' is new: nothing says"),
        (tower, {"depth": 3, "keep": [0]}, EditError, "keep names 1 blocks, and depth=3"),
        (tower, {"keep": [0, 5]}, EditError, "There is no block 5"),
        (tower, {"keep": []}, EditError, "No block would be left"),
        (tower, {"width": 6}, ShapeError, r"'stem' \(Dense\): kernel \(3, 4\) float32 -> \(3, 6\)"),
        (tower, {"height": 6}, NoMatchError, "has no 'height'.\n  It has depth, width, rates"),
        (mlp, {"keep": [0]}, EditError, "'mlp' is described by its graph"),
        (tower, {"width": "wide"}, EditError, "cannot be made anew with this configuration"),
        (lambda: Written(3), {"keep": [0]}, UnbuiltError, "has no variables yet"),
        (tower, {"on_mismatch": "adapt"}, ValueError, "on_mismatch must be"),
    ],
)
def test_what_is_refused(model: Any, options: Any, error: type, message: str):
    with pytest.raises(error, match=message):
        reconfigure(model(), **options)


# KerasHub


@pytest.fixture(scope="module")
def hub() -> Any:
    return pytest.importorskip("keras_hub")


MERGES = (
    "a i",
    "ai r",
    "p l",
    "pl a",
    "n e",
    "pla ne",
    "p o",
    "r t",
    "po rt",
    "Ġ a",
    "Ġ po",
    "Ġpo rt",
)


@pytest.fixture(scope="module")
def gpt2(hub: Any) -> Any:
    """A decoder with a tokenizer of its own."""
    tokens = {*"!apilrnetoĠ", "<|endoftext|>", *(merge.replace(" ", "") for merge in MERGES)}
    vocabulary = {token: i for i, token in enumerate(sorted(tokens))}
    tokenizer = hub.models.GPT2Tokenizer(vocabulary=vocabulary, merges=list(MERGES))
    preprocessor = hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=12)
    backbone = hub.models.GPT2Backbone(len(vocabulary), 4, 2, 8, 16, max_sequence_length=16)
    model = randomise(hub.models.GPT2CausalLM(backbone, preprocessor))
    model.compile(sampler="greedy")
    return model


@pytest.fixture(scope="module", params=["llama", "gemma"])
def decoder(hub: Any, request: pytest.FixtureRequest) -> Any:
    """A decoder that takes tokens."""
    sizes = dict(vocabulary_size=30, num_layers=3, hidden_dim=8, intermediate_dim=16)
    if request.param == "llama":
        backbone = hub.models.LlamaBackbone(num_query_heads=4, num_key_value_heads=2, **sizes)
        model = hub.models.LlamaCausalLM(backbone, None)
    else:
        sizes |= {"num_query_heads": 2, "num_key_value_heads": 1, "head_dim": 4}
        model = hub.models.GemmaCausalLM(hub.models.GemmaBackbone(**sizes), None)
    randomise(model)
    model.compile(sampler="greedy")
    return model


PROMPT = {
    "token_ids": np.array([[1, 5, 9, 3, 0, 0, 0, 0]], "int32"),
    "padding_mask": np.array([[1, 1, 1, 1, 0, 0, 0, 0]], "int32"),
}


def generated(model: Any) -> np.ndarray:
    return np.asarray(model.generate(PROMPT, stop_token_ids=None)["token_ids"])


def logits(model: Any) -> np.ndarray:
    return run(model, PROMPT)


def edited(model: Any, block: str) -> Any:
    """The backbone with one block less, edited as a graph."""
    return resect.remove(model.backbone, block)


def test_decoders_generate(decoder):
    same = reconfigure(decoder, keep=range(3))
    np.testing.assert_array_equal(generated(same), generated(decoder))
    new = reconfigure(decoder, num_layers=2, keep=[0, 2])
    assert type(new) is type(decoder)
    assert type(new.backbone) is type(decoder.backbone)
    names = [la.name for la in decoder.backbone.layers]
    (block,) = [n for n in names if n.endswith("_1") and ("transformer" in n or "block" in n)]
    expected = run(edited(decoder, block), PROMPT)
    np.testing.assert_array_equal(run(new.backbone, PROMPT), expected)
    tokens = generated(new)
    assert tokens.shape == (1, 8)
    assert tokens[0, 4] == np.argmax(logits(new)[0, 3])


def test_a_task_with_its_preprocessor(gpt2, tmp_path: Path):
    text = "airplane at air"
    same = reconfigure(gpt2, keep=range(4))
    assert same.generate(text, max_length=12) == gpt2.generate(text, max_length=12)
    new = reconfigure(gpt2, keep=[0, 1, 3])
    ids = gpt2.preprocessor(text)[0]
    np.testing.assert_array_equal(
        run(new.backbone, {k: v[None] for k, v in ids.items()}),
        run(edited(gpt2, "transformer_layer_2"), {k: v[None] for k, v in ids.items()}),
    )
    answer = new.generate(text, max_length=12)
    assert answer.startswith(text)
    assert new.preprocessor is not gpt2.preprocessor
    new.save_to_preset(str(tmp_path / "preset"))
    loaded = type(gpt2).from_preset(str(tmp_path / "preset"))
    loaded.compile(sampler="greedy")
    assert loaded.backbone.num_layers == 3
    assert loaded.generate(text, max_length=12) == answer


def test_it_can_be_quantized_and_adapted(gpt2):
    new = reconfigure(gpt2, keep=[0, 3])
    new.backbone.enable_lora(2)
    again = reconfigure(new, keep=[1])
    assert again.backbone.get_layer(
        "transformer_layer_0"
    )._self_attention_layer._query_dense.lora_enabled
    np.testing.assert_array_equal(logits(again), logits(reconfigure(gpt2, keep=[3])))


def test_a_quantized_task_goes_on_quantized(gpt2):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras names the layers that it cannot quantize
        small = reconfigure(gpt2, keep=[0, 3])
        small.generate("air", max_length=8)  # builds the tokenizer, without which Keras refuses
        small.quantize("int8")
        swapped = reconfigure(small, keep=[1, 0])
        assert swapped.generate("air", max_length=8).startswith("air")
        back = reconfigure(swapped, keep=[1, 0])
        assert {v.dtype for v in back.weights} == {v.dtype for v in small.weights} > {"float32"}
        np.testing.assert_array_equal(logits(back), logits(small))
        one = reconfigure(small, keep=[1])
        graph = resect.remove(small.backbone, "transformer_layer_0")
        np.testing.assert_array_equal(run(one.backbone, PROMPT), run(graph, PROMPT))


def test_more_words_in_a_backbone(gpt2):
    had = gpt2.backbone.vocabulary_size
    new = reconfigure(gpt2, vocabulary_size=had + 5)
    np.testing.assert_allclose(logits(new)[..., :had], logits(gpt2), rtol=1e-5, atol=1e-6)
    assert np.abs(logits(new)[..., had:]).max() > 0
    with pytest.raises(ShapeError, match="'gpt2_backbone/token_embedding'"):
        reconfigure(gpt2, vocabulary_size=had - 1)


def test_fields_at_several_places_are_spelled(gpt2):
    with pytest.raises(AmbiguousError, match='"backbone/dtype" or'):
        reconfigure(gpt2, dtype="float32")
    new = reconfigure(gpt2, **{"backbone/dropout": 0.3})
    assert new.backbone.dropout == 0.3
    np.testing.assert_array_equal(logits(new), logits(gpt2))


def test_an_encoder_and_a_classifier(hub):
    backbone = hub.models.BertBackbone(30, 3, 2, 8, 16, max_sequence_length=10)
    model = randomise(hub.models.BertTextClassifier(backbone, 4))
    new = reconfigure(model, keep=[0, 2])
    assert new.num_classes == 4
    graph = resect.remove(model.backbone, "transformer_layer_1")
    x = {**PROMPT, "segment_ids": np.zeros((1, 8), "int32")}
    assert_equal(*(list(run(m, x).values()) for m in (new.backbone, graph)))
    assert_equal(new.get_layer("logits").get_weights(), model.get_layer("logits").get_weights())
    other = reconfigure(model, num_classes=5, on_mismatch="reinit")
    assert_equal(*(list(run(m.backbone, x).values()) for m in (other, model)))


def test_layers_that_are_named_after_their_model(hub):
    """DINOv2 names its layers after the model, if that is given a name when it is made."""
    sizes = {"patch_size": 8, "num_layers": 3, "hidden_dim": 8, "num_heads": 2}
    sizes |= {"intermediate_dim": 16, "image_shape": (16, 16, 3)}
    sizes["position_embedding_shape"] = (16, 16)
    model = randomise(hub.models.DINOV2Backbone(**sizes))
    same, new = reconfigure(model, keep=range(3)), reconfigure(model, keep=[2, 0])
    image = {"images": np.ones((1, 16, 16, 3), "float32")}
    ones, others = (keras.tree.flatten(run(m, image)) for m in (same, model))
    assert_equal(ones, others)
    ones, others = (
        [la for _, _, la in all_layers(m) if type(la).__name__ == "DINOV2Layer"]
        for m in (new, model)
    )
    assert_equal(ones[0].get_weights(), others[2].get_weights())
    assert_equal(ones[1].get_weights(), others[0].get_weights())
