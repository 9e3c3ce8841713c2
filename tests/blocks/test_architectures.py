"""What papers call blocks, in the published architectures."""

from __future__ import annotations

import functools

import keras
import pytest

import resect
from resect.blocks import Blocks
from resect.keras_graph.private import uninitialised_variables
from zoo.models import BACKBONES


@functools.cache
def blocks_of(name: str) -> Blocks:
    with uninitialised_variables():  # blocks depend on no value, and large models take a second
        return resect.blocks(built(name))


def built(name: str) -> keras.Model:
    if name in BACKBONES:
        pytest.importorskip("keras_hub")
        return BACKBONES[name].build()
    build = getattr(keras.applications, name)
    size = 71 if name == "Xception" else 32
    return build(weights=None, input_shape=(size, size, 3), classes=10)


#: By architecture: blocks, those of them that keep the shape, blocks in each stage.
PUBLISHED = {
    # Table 1 of the paper: 3, 4, 6 and 3 bottlenecks; the first of each has a projection
    "ResNet50": (16, 12, (3, 4, 6, 3)),
    # Table 2: expansion blocks repeated 1, 2, 3, 4, 3, 3 and 1 times; 10 have a residual sum
    "MobileNetV2": (17, 10, (2, 3, 4, 3, 3)),
    # Table 1: MBConv 1, 2, 2, 3, 3, 4, 1
    "EfficientNetB0": (16, 9, (2, 2, 3, 3, 4)),
    # 3, 3, 9, 3
    "ConvNeXtTiny": (18, 18, (3, 3, 9, 3)),
    # 5 blocks of convolutions, each ends in a pooling
    "VGG16": (5, 0, ()),
    # Table 1: 6, 12, 24 and 16 dense layers, and 3 transitions between them
    "DenseNet121": (58 + 3, 0, ()),
    # Figure 5: 14 blocks; the 8 of the middle flow have no projection
    "Xception": (14, 8, (9,)),
    "bert": (2, 2, (2,)),
    "llama": (2, 2, (2,)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_blocks_are_those_of_the_paper(name: str):
    count, collapsible, stages = PUBLISHED[name]
    found = blocks_of(name)
    assert len(found.level("block")) == count
    assert len(found.level("block").collapsible()) == collapsible
    sizes = [[child.level for child in s.children].count("block") for s in found.level("stage")]
    assert tuple(sizes) == stages


def test_efficientnet_v2_l():
    """Fused blocks 4, 7, 7, then 10, 19, 25, 7 with squeeze-and-excitation: 79 in 7 stages."""
    found = blocks_of("EfficientNetV2L")
    blocks = found.level("block")
    assert len(blocks) == 79
    assert len(blocks.collapsible()) == 79 - 6  # the first stage keeps the width of the stem
    assert [len(s.children) for s in found.level("stage")] == [4, 7, 7, 10, 19, 25, 7]
    inner = [b.end for b in blocks["block4b"].walk() if b.level == "branch"]
    assert inner == ["block4b_se_excite"]


def test_names_of_blocks():
    found = blocks_of("ResNet50").level("block")
    assert found.names[:4] == ("conv2_block1", "conv2_block2", "conv2_block3", "conv3_block1")
    assert found[1].ends == ("conv2_block1_out", "conv2_block2_out")
    assert blocks_of("ResNet50").level("stage").names == ("conv2", "conv3", "conv4", "conv5")
    inverted = blocks_of("MobileNetV2").level("block")
    assert inverted.names == ("expanded_conv", *(f"block_{i}" for i in range(1, 17)))
    assert inverted["block_2"].ends == ("block_1_project_BN", "block_2_add")


def test_stages_of_convnext():
    convnext = blocks_of("ConvNeXtTiny")
    assert convnext.level("stage").names == tuple(f"convnext_tiny_stage_{i}" for i in range(4))
    assert len(convnext.level("model")) == 4  # the stem, and three that halve the size


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2"])
def test_layers_of_text_backbones(name: str):
    found = blocks_of(name)
    (stage,) = found.level("stage")
    assert [(b.name, b.calls) for b in stage.children] == [
        (f"transformer_layer_{i}", (f"transformer_layer_{i}",)) for i in range(2)
    ]
    assert stage.collapsible


def test_the_embeddings_of_gpt2_part_and_meet():
    blocks = blocks_of("gpt2").level("block")
    assert blocks.names == ("embeddings_add", "transformer_layer_0", "transformer_layer_1")


def test_the_encoder_of_kerashubs_vit_is_one_layer():
    """KerasHub wires its blocks in Python, inside of a layer, where there is no graph."""
    assert blocks_of("vit").level("block").names == ("vit_patching_and_embedding", "vit_encoder")


@pytest.mark.parametrize("name", ["MobileNetV2", "llama"])
def test_all_that_is_collapsible_collapses(name: str):
    if name in BACKBONES:
        pytest.importorskip("keras_hub")
        model = BACKBONES[name].make()
    else:
        model = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=10)
    plan = resect.plan(model)
    found = resect.blocks(model).level("block").collapsible()
    for block in reversed(found[1:]):  # from behind: the end of one is the start of the next
        plan = plan.collapse(*block.ends)
    assert not plan.check()
