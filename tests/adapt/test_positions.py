"""Position embeddings of vision transformers follow the size of the image."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import resect
from resect import adapt
from resect.adapt import InputShape
from resect.adapt.positions import resized
from resect.errors import EditError
from tests.common import predictions, primed, randomise, weights_of
from tests.surgery import assert_surgery


@keras.saving.register_keras_serializable(package="resect_positions")
class Patches(keras.layers.Layer):
    """Patches of an image, a class token before them, and what belongs to each position."""

    def __init__(self, units: int, image_size: Any, patch_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.patch_size = units, patch_size
        self.image_size = tuple(image_size)
        self.cut = layers.Conv2D(units, patch_size, strides=patch_size, name="cut")

    def build(self, shape: Any) -> None:
        self.cut.build(shape)
        count = (self.image_size[0] // self.patch_size) * (self.image_size[1] // self.patch_size)
        self.grid = self.add_weight(shape=(1, count, self.units), name="pos_embed")
        self.built = True

    def call(self, image: Any) -> Any:
        return ops.reshape(self.cut(image), (-1, self.grid.shape[1], self.units)) + self.grid

    def get_config(self) -> dict[str, Any]:
        own = {n: getattr(self, n) for n in ("units", "image_size", "patch_size")}
        return {**super().get_config(), **own}


class Unknown(Patches):
    """The same, of which nothing is said."""


adapt.register(Patches, adapt.Rule(positions=adapt.Positions("pos_embed")))


def vision(size: tuple[int, int], cls: type = Patches) -> keras.Model:
    image = keras.Input((*size, 3), name="image")
    x = cls(6, size, 4, name="patches")(image)
    x = layers.Dense(4, activation="gelu", name="dense")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return randomise(keras.Model(image, layers.Dense(2, name="logits")(x), name="vision"))


def same_weights(model: Any, other: Any) -> Any:
    for variable, source in zip(other.weights, model.weights, strict=True):
        assert variable.name == source.name
        variable.assign(source.value)
    return other


@pytest.mark.parametrize("size", [(24, 16), (8, 8), (8, 16)])
def test_a_model_is_as_if_it_had_been_built_for_the_size(size):
    model = primed(vision((16, 8)))
    new = assert_surgery(model, InputShape((*size, 3)))
    np.testing.assert_allclose(
        predictions(new), predictions(same_weights(new, vision(size))), rtol=1e-5, atol=1e-6
    )
    old, grid = (
        ops.convert_to_numpy(m.get_layer("patches").grid).reshape(*g, 6)
        for m, g in ((model, (4, 2)), (new, (size[0] // 4, size[1] // 4)))
    )
    expected = ops.image.resize(
        old[None], grid.shape[:2], "bicubic", antialias=True, data_format="channels_last"
    )
    np.testing.assert_allclose(ops.convert_to_numpy(expected)[0], grid, atol=2e-5)


def test_the_same_size_is_the_identity():
    model = vision((16, 8))
    new = adapt.input_shape(model, (16, 8, 3))
    for one, other in zip(weights_of(model), weights_of(new), strict=True):
        np.testing.assert_array_equal(one, other)


def test_nested_ones_are_reached_and_any_size_is_refused():
    image = keras.Input((16, 8, 3), name="photo")
    model = randomise(keras.Model(image, vision((16, 8))(image), name="outer"))
    new = assert_surgery(model, InputShape((8, 16, 3)))
    assert new.get_layer("vision").get_layer("patches").image_size == (8, 16)
    with pytest.raises(EditError, match="cannot take images of any size"):
        adapt.input_shape(model, (None, 8, 3))


def test_positions_without_a_rule_are_refused():
    model = vision((16, 8), Unknown)
    with pytest.raises(EditError, match=r"'patches' \(Unknown\) has position embeddings"):
        adapt.input_shape(model, (8, 16, 3))  # as many patches: Keras would see no difference


@pytest.mark.nobackend
def test_what_stands_before_the_grid_stays_and_a_plane_stays_a_plane():
    rows, columns = np.mgrid[0:6, 0:4].astype("float32")
    plane = (2 * rows + columns)[..., None]
    flat = np.concatenate([[[7.0], [9.0]], plane.reshape(24, 1)]).astype("float32")
    new = resized(flat, (6, 4), (12, 8))
    np.testing.assert_array_equal(new[:2], flat[:2])
    inner = new[2:].reshape(12, 8)[4:-4, 4:-4]
    np.testing.assert_allclose(np.diff(inner, axis=0), 1.0, atol=1e-5)
    np.testing.assert_allclose(np.diff(inner, axis=1), 0.5, atol=1e-5)
    with pytest.raises(EditError, match="no grid of 9 x 4"):
        resized(flat, (9, 4), (2, 2))


def small(hub: Any, name: str, size: tuple[int, int]) -> Any:
    options = {"patch_size": 8, "num_layers": 1, "num_heads": 2, "hidden_dim": 8}
    wide = {"ViTBackbone": "mlp_dim"}.get(name, "intermediate_dim")
    if name in ("ViTBackbone", "DeiTBackbone"):
        options["patch_size"] = (8, 8)
    made = getattr(hub.models, name)(**options, **{wide: 16}, image_shape=(*size, 3))
    return randomise(made)


@pytest.mark.parametrize("name", ["ViTBackbone", "DeiTBackbone"])
def test_backbones_of_kerashub(name):
    hub = pytest.importorskip("keras_hub")
    model = small(hub, name, (32, 32))
    # The configurations of these layers of KerasHub are not those that their constructors take: a
    # model of them that is no backbone cannot be loaded.
    new = assert_surgery(model, InputShape((48, 24, 3)), reload=False)
    other = same_weights(new, small(hub, name, (48, 24)))
    np.testing.assert_allclose(predictions(new), predictions(other), rtol=1e-5, atol=1e-6)


def test_square_images_only_where_the_layer_takes_no_others():
    pytest.importorskip("keras_hub")
    from keras_hub.src.models.siglip.siglip_layers import SigLIPVisionEmbedding

    image = keras.Input((16, 16, 3), name="image")
    x = SigLIPVisionEmbedding(6, 4, 16, name="patches")(image)
    model = randomise(keras.Model(image, x, name="siglip"))
    ids = model.get_layer("patches").position_ids
    ids.assign(np.arange(16)[None])
    new = assert_surgery(model, InputShape((24, 24, 3)))
    found = ops.convert_to_numpy(new.get_layer("patches").position_ids)
    np.testing.assert_array_equal(found, np.arange(36)[None])
    with pytest.raises(EditError, match="takes square images only"):
        adapt.input_shape(model, (24, 16, 3))


def test_sequences_stay_below_the_positions_that_there_are():
    hub = pytest.importorskip("keras_hub")
    ids = keras.Input((6,), dtype="int32", name="ids")
    x = hub.layers.TokenAndPositionEmbedding(9, 8, 4, name="words")(ids)
    model = randomise(keras.Model(ids, x, name="text"))
    assert resect.adapt.input_shape(model, (8,)).output_shape == (None, 8, 4)
    with pytest.raises(EditError, match=r"'words' .* has 8 positions, and would need 9"):
        adapt.input_shape(model, (9,))
