"""KerasHub's vision models at toy size: a few narrow blocks on images of 32 pixels."""

from __future__ import annotations

from typing import Any

import keras

from zoo.entry import Entry, by_name

IMAGE = (32, 32, 3)
VIT: dict[str, Any] = dict(
    image_shape=IMAGE, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16
)
RESNET: dict[str, Any] = dict(
    input_conv_filters=[64],
    input_conv_kernel_sizes=[7],
    stackwise_num_filters=[64, 16, 16],
    stackwise_num_blocks=[2, 2, 2],
    stackwise_num_strides=[1, 2, 2],
    block_type="basic_block",
    image_shape=IMAGE,
)
MIT: dict[str, Any] = dict(
    image_shape=IMAGE,
    num_layers=2,
    layerwise_depths=[2, 2],
    hidden_dims=[4, 8],
    layerwise_num_heads=[1, 2],
    layerwise_sr_ratios=[8, 4],
    layerwise_patch_sizes=[7, 3],
    layerwise_strides=[4, 2],
    max_drop_path_rate=0.1,
)
HGNET: dict[str, Any] = dict(
    depths=[1, 1],
    embedding_size=8,
    hidden_sizes=[16, 32],
    stem_channels=[3, 8, 8],
    hidden_act="relu",
    use_learnable_affine_block=True,
    stackwise_stage_filters=[[8, 8, 16, 1, 1, 3], [16, 8, 32, 1, 1, 3]],
    apply_downsample=[False, True],
    use_lightweight_conv_block=[False, True],
    out_features=["stem", "stage1", "stage2"],
    image_shape=IMAGE,
)
MOBILENET: dict[str, Any] = dict(
    stackwise_expansion=[[16, 16], [24, 24]],
    stackwise_num_blocks=[2, 2],
    stackwise_num_filters=[[8, 8], [16, 16]],
    stackwise_kernel_size=[[3, 3], [5, 5]],
    stackwise_num_strides=[[2, 1], [2, 1]],
    stackwise_se_ratio=[[None, None], [0.25, 0.25]],
    stackwise_activation=[["relu", "relu"], ["hard_swish", "hard_swish"]],
    stackwise_padding=[[1, 1], [2, 2]],
    output_num_filters=32,
    input_num_filters=8,
    depthwise_filters=8,
    depthwise_stride=2,
    depthwise_residual=False,
    squeeze_and_excite=0.5,
    last_layer_filter=24,
    image_shape=IMAGE,
)
EFFICIENTNET: dict[str, Any] = dict(
    stackwise_kernel_sizes=[3, 3],
    stackwise_num_repeats=[2, 2],
    stackwise_input_filters=[8, 8],
    stackwise_output_filters=[8, 16],
    stackwise_expansion_ratios=[1, 4],
    stackwise_squeeze_and_excite_ratios=[0.0, 0.25],
    stackwise_strides=[1, 2],
    stackwise_block_types=["fused", "unfused"],
    stackwise_force_input_filters=[0, 0],
    stackwise_nores_option=[False, False],
    stackwise_width_coefficients=[1.0, 1.0],
    stackwise_depth_coefficients=[1.0, 1.0],
    input_shape=IMAGE,
)
CSPNET: dict[str, Any] = dict(
    stem_filters=8,
    stem_kernel_size=3,
    stem_strides=1,
    stem_padding="same",
    stackwise_strides=2,
    stackwise_depth=[1, 2],
    stackwise_num_filters=[16, 24],
    block_type="dark_block",
    stage_type="csp",
    down_growth=True,
    bottle_ratio=(0.5, 1.0),
    block_ratio=(1.0, 0.5),
    expand_ratio=(2.0, 1.0),
    image_shape=IMAGE,
)


def _vision(name: str, kind: str, config: dict[str, Any], /, **more: Any) -> Entry:
    """An entry for a class of `keras_hub.models`, imported only when the model is built."""

    def build() -> keras.Model:
        import keras_hub

        return getattr(keras_hub.models, kind)(**config, **more)

    return Entry(name, build)


def _on(name: str, kind: str, encoder: tuple[str, dict[str, Any]], /, **more: Any) -> Entry:
    """An entry for a model that wraps an image encoder."""

    def build() -> keras.Model:
        import keras_hub

        encoder_kind, config = encoder
        image_encoder = getattr(keras_hub.models, encoder_kind)(**config)
        return getattr(keras_hub.models, kind)(image_encoder=image_encoder, **more)

    return Entry(name, build)


def _vae() -> keras.Model:
    from keras_hub.src.models.vae.vae_backbone import VAEBackbone

    return VAEBackbone(
        encoder_num_filters=[32, 32],
        encoder_num_blocks=[1, 1],
        decoder_num_filters=[32, 32],
        decoder_num_blocks=[1, 1],
        sampler_method="mode",
        image_shape=IMAGE,
    )


VISION = by_name(
    _vision("cspnet", "CSPNetBackbone", CSPNET),
    _on(
        "deeplab_v3",
        "DeepLabV3Backbone",
        ("ResNetBackbone", RESNET),
        spatial_pyramid_pooling_key="P4",
        low_level_feature_key="P2",
        upsampling_size=4,
        dilation_rates=[2, 4],
        projection_filters=8,
        image_shape=IMAGE,
    ),
    _vision("deit", "DeiTBackbone", VIT, intermediate_dim=32),
    _vision(
        "densenet",
        "DenseNetBackbone",
        dict(stackwise_num_repeats=[2, 2, 2], growth_rate=4, image_shape=IMAGE),
    ),
    _vision("dinov2", "DINOV2Backbone", VIT, intermediate_dim=32, position_embedding_shape=IMAGE),
    _vision("dinov3", "DINOV3Backbone", VIT, intermediate_dim=32),
    _vision("efficientnet", "EfficientNetBackbone", EFFICIENTNET),
    _vision("hgnetv2", "HGNetV2Backbone", HGNET),
    _vision("mit", "MiTBackbone", MIT),
    _vision("mobilenet", "MobileNetBackbone", MOBILENET),
    _vision("resnet", "ResNetBackbone", RESNET),
    _vision(
        "resnet_v2",
        "ResNetBackbone",
        {**RESNET, "block_type": "bottleneck_block"},
        use_pre_activation=True,
    ),
    _on(
        "retinanet",
        "RetinaNetBackbone",
        ("ResNetBackbone", RESNET),
        min_level=2,
        max_level=4,
        use_p5=False,
        image_shape=IMAGE,
    ),
    _on("segformer", "SegFormerBackbone", ("MiTBackbone", MIT), projection_filters=16),
    _vision(
        "swin_transformer",
        "SwinTransformerBackbone",
        dict(image_shape=IMAGE, embed_dim=8, depths=(2, 2), num_heads=(2, 2), window_size=4),
    ),
    Entry("vae", _vae),
    _vision(
        "vgg",
        "VGGBackbone",
        dict(stackwise_num_repeats=[2, 2], stackwise_num_filters=[8, 16], image_shape=IMAGE),
    ),
    _vision("vit", "ViTBackbone", VIT, mlp_dim=32),
    _vision(
        "vit_det",
        "ViTDetBackbone",
        dict(
            image_shape=IMAGE,
            patch_size=8,
            hidden_size=16,
            num_layers=2,
            intermediate_dim=32,
            num_heads=2,
        ),
        global_attention_layer_indices=[1],
        num_output_channels=8,
        window_size=2,
    ),
    _vision(
        "xception",
        "XceptionBackbone",
        dict(
            stackwise_conv_filters=[[8, 16], [16, 16]],
            stackwise_pooling=[True, False],
            image_shape=IMAGE,
        ),
    ),
)
