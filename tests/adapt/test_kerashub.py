"""The adaptations on KerasHub's backbones, made small: subclasses with layers of their own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import resect
from resect import adapt
from resect.errors import AmbiguousError, EditError, TraceError
from tests.common import assert_close
from tests.surgery import Source
from zoo.randomise import inputs_for, outputs_of, randomise
from zoo.text import TEXT
from zoo.vision import VISION

pytest.importorskip("keras_hub")

TEXTS = ("bert", "gpt2", "bart")
IMAGES = ("resnet", "mobilenet", "vit")
#: Blocks of each that are one opaque call.
BLOCKS = {
    "bert": ["transformer_layer_*"],
    "gpt2": ["transformer_layer_*"],
    "bart": ["transformer_encoder_layer_*", "transformer_decoder_layer_*"],
    "mobilenet": ["block_*"],
    "vit": ["vit_encoder"],
}


@pytest.fixture(scope="module")
def hub() -> Any:
    """Makes each backbone once; at the end it must be what it was."""
    made: dict[str, Any] = {}

    def backbone(name: str) -> Any:
        if name not in made:
            model = randomise((TEXT | VISION)[name].build())
            made[name] = (model, Source.of(model))
        return made[name][0]

    yield backbone
    for _, source in made.values():
        source.assert_untouched()


def computed(model: Any, inputs: Any = None) -> Any:
    return outputs_of(model, inputs_for(model) if inputs is None else inputs)


def assert_same(model: Any, new: Any, *, reload: bool = True) -> None:
    """Both compute the same, and a file of the new one too."""
    inputs = inputs_for(model)
    assert_close(computed(new, inputs), computed(model, inputs), 1e-4)
    if reload:
        assert_reloads(new, inputs)


def assert_reloads(new: Any, inputs: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        new.save(path)
        loaded = keras.saving.load_model(path)
    assert_close(computed(loaded, inputs), computed(new, inputs), 1e-5)


def around(model: Any) -> Any:
    """A model that the backbone is nested in."""
    copy = resect.clone(model)
    inputs = keras.tree.map_structure(
        lambda t: keras.Input(t.shape[1:], dtype=t.dtype, name=t.name), copy.input
    )
    return keras.Model(inputs, copy(inputs), name="around")


def classifier(model: Any) -> Any:
    """The backbone with a head for five classes."""
    copy = resect.clone(model)
    x = keras.tree.flatten(copy.output)[-1]
    x = layers.GlobalAveragePooling2D(name="gap")(x) if len(x.shape) == 4 else x[:, 0]
    x = layers.Dense(5, activation="softmax", name="head")(x)
    return randomise(keras.Model(copy.input, x, name="classifier"))


# What has the outputs that it had


@pytest.mark.parametrize("name", [*TEXTS, "resnet", "mobilenet", "vit"])
def test_flattened(hub, name):
    model = hub(name)
    new = adapt.flatten(around(model))
    assert not any(isinstance(layer, keras.Model) for layer in new.layers)
    assert_same(model, new, reload=name != "vit")  # KerasHub cannot load a ViT's first layer


@pytest.mark.parametrize("name", ["bert", "gpt2", "bart", "mobilenet", "vit"])
def test_opened(hub, name):
    model = hub(name)
    opened = adapt.inline(model, BLOCKS[name])
    assert len(opened.layers) > len(model.layers)
    assert_same(model, opened, reload=name in TEXTS)
    if name == "mobilenet":  # what its blocks normalise is reached only then
        folded = adapt.fold_batchnorm(opened)
        assert not any(isinstance(la, layers.BatchNormalization) for la in folded.layers)
        assert_same(model, folded, reload=False)


def test_what_cannot_be_opened_is_refused(hub):
    with pytest.raises(TraceError, match=r"position_embedding.py:\d+: PositionEmbedding.call"):
        adapt.inline(hub("bert"), "position_embedding")


@pytest.mark.parametrize("name", ["bert", "bart", "mobilenet", "vit"])
def test_adapters_in_the_blocks(hub, name):
    model = hub(name)
    new = adapt.adapters(model, BLOCKS[name], 4, freeze=True)
    assert_same(model, new, reload=name == "bert")
    assert new.trainable_variables
    assert all("adapter" in variable.path for variable in new.trainable_variables)


@pytest.mark.parametrize("name", ["bert", "gpt2", "resnet", "vit"])
def test_lora_in_the_blocks_and_merged(hub, name):
    model = hub(name)
    new = adapt.lora(model, BLOCKS.get(name, layers.Conv2D), rank=2)
    assert_same(model, new, reload=False)
    randomise(new, seed=3)
    merged = adapt.merge_lora(new)
    assert len(merged.variables) == len(model.variables)
    assert_same(new, merged, reload=name != "vit")


@pytest.mark.parametrize("name", ["bert", "gpt2", "bart", "resnet", "mobilenet", "vit"])
def test_frozen(hub, name):
    model = hub(name)
    new = adapt.configure(model, resect.select(name="*", cls=keras.Layer), trainable=False)
    assert not new.trainable_variables
    assert_same(model, new, reload=False)


@pytest.mark.parametrize(
    ("name", "field"), [("bert", "dropout"), ("bart", "dropout"), ("vit", "dropout_rate")]
)
def test_dropout_inside_the_blocks(hub, name, field):
    model = hub(name)
    new = adapt.configure(model, BLOCKS[name], **{field: 0.4})
    assert_same(model, new, reload=name != "vit")
    inputs = inputs_for(model)
    noisy, calm = (keras.tree.flatten(new(inputs, training=t))[-1] for t in (True, False))
    assert not np.allclose(*(keras.ops.convert_to_numpy(y) for y in (noisy, calm)), atol=0.01)


@pytest.mark.parametrize("name", ["bert", "resnet", "vit"])
def test_modules_that_start_as_the_identity(hub, name):
    model = hub(name)
    where = {"resnet": "stack2_block1_2_conv"}.get(name) or BLOCKS[name][0]
    assert_same(model, adapt.squeeze_excite(model, where, ratio=2), reload=name == "resnet")
    if name == "resnet":
        assert_same(model, adapt.stochastic_depth(model, 0.2))


@pytest.mark.parametrize("name", ["bert", "bart"])
def test_stripped(hub, name):
    new = adapt.strip(hub(name))
    assert not any(isinstance(layer, layers.Dropout) for layer in new.layers)
    assert_same(hub(name), new)


def test_folded(hub):
    new = adapt.fold_batchnorm(hub("resnet"))
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in new.layers)
    assert_same(hub("resnet"), new)


# Other inputs


def test_images_of_another_size(hub):
    model = hub("vit")
    new = adapt.input_shape(model, (64, 64, 3))
    images = inputs_for(new)
    built = type(model).from_config({**model.get_config(), "image_shape": (64, 64, 3)})
    built.set_weights(new.get_weights())
    assert_close(computed(new, images), computed(built, images))


@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_grayscale_images(hub, name):
    new = adapt.channels(hub(name), 1)
    gray = inputs_for(new)
    assert_close(computed(new, gray), computed(hub(name), np.repeat(gray, 3, axis=-1)), 1e-4)


@pytest.mark.parametrize("name", TEXTS)
def test_more_words(hub, name):
    if name == "bert":
        with pytest.raises(AmbiguousError, match="'token_embedding', 'segment_embedding'"):
            adapt.vocabulary(hub(name), 24)
    new = adapt.vocabulary(hub(name), 24, "token_embedding")
    assert new.get_layer("token_embedding").input_dim == 24
    assert_same(hub(name), new)


def test_words_of_images_are_refused(hub):
    with pytest.raises(EditError, match=r"0 layers with a vocabulary: none.*\n.*register"):
        adapt.vocabulary(hub("resnet"), 24)


def test_preprocessing(hub):
    model = hub("resnet")
    new = adapt.put_preprocessing_in(model, layers.Rescaling(1 / 127.5, offset=-1))
    images = inputs_for(model)
    assert_close(computed(new, images), computed(model, images / 127.5 - 1), 1e-4)
    prepare, rest = adapt.take_preprocessing_out(new)
    assert_close(computed(rest, computed(prepare, images)), computed(new, images), 1e-5)


def test_channels_first(hub):
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow has no channels-first convolutions on a CPU")
    model = hub("resnet")
    images = inputs_for(model)
    new = adapt.data_format(model, "channels_first")
    turned = np.moveaxis(computed(new, np.moveaxis(images, -1, 1)), 1, -1)
    assert_close(turned, computed(model, images), 1e-4)


# Heads


@pytest.mark.parametrize("name", ["bert", "gpt2", "bart", "resnet", "vit"])
def test_classes_and_logits(hub, name):
    model = classifier(hub(name))
    inputs = inputs_for(model)
    logits = computed(adapt.logits(model), inputs)
    assert_close(np.asarray(keras.ops.softmax(logits)), computed(model, inputs))
    more = computed(adapt.logits(adapt.classes(model, 7)), inputs)
    assert more.shape[-1] == 7
    assert_close(more[:, :5], logits)
    fewer = adapt.classes(model, keep=[3, 1])
    assert_close(computed(adapt.logits(fewer), inputs), logits[:, [3, 1]])


def test_a_backbone_has_no_classes(hub):
    with pytest.raises(AmbiguousError, match="2 outputs to give other classes to"):
        adapt.classes(hub("bert"), 7)
    with pytest.raises(EditError, match="No output ends with a softmax or sigmoid"):
        adapt.logits(hub("gpt2"))


def test_fully_convolutional(hub):
    model = classifier(hub("resnet"))
    new = adapt.fully_convolutional(model)
    images = inputs_for(model)
    assert_close(np.squeeze(computed(new, images)), computed(model, images), 1e-4)


# Several models


@pytest.mark.parametrize("name", ["bert", "resnet"])
def test_split_stacked_and_merged(hub, name):
    model = hub(name)
    at = {"bert": "transformer_layer_0", "resnet": "stack1_block0_add"}[name]
    assert_same(model, adapt.stack(*resect.split(model, at)))
    other = randomise(resect.clone(model), seed=9)
    inputs = inputs_for(model)
    mean = [
        (one + two) / 2
        for one, two in zip(
            *(keras.tree.flatten(computed(m, inputs)) for m in (model, other)), strict=True
        )
    ]
    merged = adapt.merge([model, other], how="average")
    assert_close(keras.tree.flatten(computed(merged, inputs)), mean, 1e-4)


@pytest.mark.parametrize("name", ["gpt2", "mobilenet"])
def test_a_block_of_another_model(hub, name):
    model = hub(name)
    block = {"gpt2": "transformer_layer_1", "mobilenet": "block_2_1"}[name]
    other = randomise(resect.clone(model), seed=9)
    new = adapt.graft(model, block, block, other, block, block)
    by_hand = resect.clone(model)
    by_hand.get_layer(block).set_weights(other.get_layer(block).get_weights())
    assert_same(by_hand, new)


@pytest.mark.parametrize("name", ["bert", "gpt2", "bart", "resnet", "mobilenet", "vit"])
def test_transferred(hub, name):
    model = hub(name)
    fresh = randomise(type(model).from_config(model.get_config()), seed=8)
    new, report = adapt.transfer(model, fresh)
    assert "0 of the target left, 0 of the source left" in str(report)
    assert type(new) is type(model)
    assert_same(model, new, reload=False)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_fewer_blocks_of_the_same_class(hub, name):
    model = hub(name)
    new = adapt.reconfigure(model, keep=[1])
    assert (type(new), new.num_layers) == (type(model), 1)
    assert_same(resect.remove(model, "transformer_layer_0"), new)
