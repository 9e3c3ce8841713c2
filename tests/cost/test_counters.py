"""The counts are those of PyTorch's FlopCounterMode and of JAX's compiled cost analysis.

Both count two operations a multiply-add. PyTorch counts matrix products and convolutions and
nothing else, so the counts are equal; its fused attention for processors it leaves out, so PyTorch
is told not to use it. JAX counts element-wise arithmetic too and leaves out what padding adds, so
models with little of either are compared.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest

import resect
from tests.blocks.models import vision_transformer
from tests.cost import models
from zoo.models import APPLICATIONS, BACKBONES
from zoo.randomise import inputs_for

SMALL = [models.perceptron, models.network, models.transformer]


def counted_by_torch(model: keras.Model, inputs: object) -> float:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(inputs, training=False)
    return counter.get_total_flops() / 2


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="PyTorch's own counter")
class TestTorch:
    @pytest.mark.parametrize(
        "build",
        [*SMALL, models.custom, vision_transformer],
        ids=lambda build: build.__name__,
    )
    def test_small_models(self, build: Callable[[], keras.Model]):
        model = build()
        found = resect.profile(model, batch_size=3)
        assert not found.uncounted
        assert found.multiply_adds == counted_by_torch(model, inputs_for(model, 3, 0))

    def test_recurrent_layers(self):
        """Keras may run one step more on PyTorch, to see what a step returns."""
        model = models.recurrent()
        found = resect.profile(model, batch_size=3)
        counted = counted_by_torch(model, inputs_for(model, 3, 0))
        assert found.multiply_adds <= counted <= found.multiply_adds * 7 / 6

    @pytest.mark.parametrize("name", ["ResNet50", "MobileNetV2", "bert", "gpt2", "bart", "mixtral"])
    def test_published_models(self, name: str):
        if name in BACKBONES:
            pytest.importorskip("keras_hub")
        entry = (APPLICATIONS | BACKBONES)[name]
        model = entry.make()
        inputs = keras.tree.map_structure(lambda array: array[:1], entry.inputs(model))
        shapes = [array.shape[1:] for array in keras.tree.flatten(inputs)]
        found = resect.profile(model, shapes)
        assert not found.uncounted
        assert found.multiply_adds == counted_by_torch(model, inputs)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX's own counter")
class TestJax:
    @pytest.mark.parametrize("build", [*SMALL, models.custom], ids=lambda build: build.__name__)
    def test_small_models(self, build: Callable[[], keras.Model]):
        import jax

        model = build()
        x = np.zeros((3, *model.inputs[0].shape[1:]), "float32")
        compiled = jax.jit(lambda x: model(x, training=False)).lower(x).compile()
        analysis = compiled.cost_analysis()
        flops = (analysis[0] if isinstance(analysis, list) else analysis)["flops"]
        found = resect.profile(model, batch_size=3).multiply_adds
        assert found == pytest.approx(flops / 2, rel=0.02)
