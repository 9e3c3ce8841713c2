"""KerasHub's models of text together with images, sound or latents, at toy size."""

from __future__ import annotations

from typing import Any

import keras

from zoo.entry import Entry, by_name

IMAGE = (32, 32, 3)

#: The two halves of CLIP and its successors: a ViT over 8-pixel patches, and a text transformer.
VISION_ENCODER: dict[str, Any] = dict(
    patch_size=8, hidden_dim=16, num_layers=2, num_heads=2, intermediate_dim=32, image_shape=IMAGE
)
TEXT_ENCODER: dict[str, Any] = dict(
    vocabulary_size=16,
    embedding_dim=16,
    hidden_dim=16,
    num_layers=2,
    num_heads=2,
    intermediate_dim=32,
)


def _contrastive(name: str, family: str, **more: Any) -> Entry:
    """An entry for a pair of encoders trained to agree: CLIP and its successors."""

    def build() -> keras.Model:
        from keras_hub import models

        vision = getattr(models, f"{family}VisionEncoder")
        text = getattr(models, f"{family}TextEncoder")
        return getattr(models, f"{family}Backbone")(
            vision_encoder=vision(**VISION_ENCODER, name="vision_encoder"),
            text_encoder=text(**TEXT_ENCODER, max_sequence_length=8, name="text_encoder"),
            **more,
        )

    return Entry(name, build)


def _whisper() -> keras.Model:
    import keras_hub

    return keras_hub.models.WhisperBackbone(
        vocabulary_size=16,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        num_mels=8,
        max_encoder_sequence_length=16,
        max_decoder_sequence_length=8,
    )


def _moonshine() -> keras.Model:
    import keras_hub

    return keras_hub.models.MoonshineBackbone(
        vocabulary_size=16,
        filter_dim=16,
        encoder_num_layers=2,
        decoder_num_layers=2,
        hidden_dim=16,
        intermediate_dim=32,
        encoder_num_heads=2,
        decoder_num_heads=2,
    )


def _pali_gemma() -> keras.Model:
    import keras_hub

    return keras_hub.models.PaliGemmaBackbone(
        vocabulary_size=16,
        image_size=16,
        num_layers=2,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=16,
        intermediate_dim=32,
        head_dim=8,
        vit_patch_size=8,
        vit_num_heads=2,
        vit_hidden_dim=8,
        vit_num_layers=2,
        vit_intermediate_dim=16,
    )


def _sam() -> keras.Model:
    import keras_hub

    return keras_hub.models.SAMBackbone(
        image_encoder=keras_hub.models.ViTDetBackbone(
            hidden_size=16,
            num_layers=2,
            intermediate_dim=32,
            num_heads=2,
            global_attention_layer_indices=[1],
            patch_size=8,
            num_output_channels=8,
            window_size=2,
            image_shape=IMAGE,
        ),
        prompt_encoder=keras_hub.layers.SAMPromptEncoder(
            hidden_size=8,
            image_embedding_size=(4, 4),
            input_image_size=IMAGE[:2],
            mask_in_channels=4,
        ),
        mask_decoder=keras_hub.layers.SAMMaskDecoder(
            hidden_size=8,
            num_layers=2,
            intermediate_dim=16,
            num_heads=2,
            embedding_dim=8,
            num_multimask_outputs=3,
            iou_head_depth=2,
            iou_head_hidden_dim=8,
        ),
    )


def _flux() -> keras.Model:
    import keras_hub

    return keras_hub.models.FluxBackbone(
        input_channels=16,
        hidden_size=32,
        mlp_ratio=2.0,
        num_heads=2,
        depth=1,
        depth_single_blocks=1,
        axes_dim=[4, 6, 6],
        theta=10_000,
        use_bias=True,
        guidance_embed=True,
        image_shape=(16, 16),
        text_shape=(8, 16),
        image_ids_shape=(16, 3),
        text_ids_shape=(8, 3),
        y_shape=(16,),
    )


def _stable_diffusion_3() -> keras.Model:
    import keras_hub
    from keras_hub.src.models.vae.vae_backbone import VAEBackbone

    def clip(name: str, width: int) -> keras.Model:
        return keras_hub.models.CLIPTextEncoder(16, width, width, 2, 2, 32, "gelu", -2, name=name)

    return keras_hub.models.StableDiffusion3Backbone(
        mmdit_patch_size=2,
        mmdit_hidden_dim=32,
        mmdit_num_layers=2,
        mmdit_num_heads=2,
        mmdit_position_size=16,
        mmdit_qk_norm=None,
        mmdit_dual_attention_indices=None,
        vae=VAEBackbone([32] * 4, [1] * 4, [32] * 4, [1] * 4, sampler_method="mode", name="vae"),
        clip_l=clip("clip_l", 16),
        clip_g=clip("clip_g", 32),
        image_shape=IMAGE,
    )


MULTIMODAL = by_name(
    _contrastive("clip", "CLIP", projection_dim=16),
    _contrastive("metaclip_2", "MetaCLIP2", projection_dim=16),
    _contrastive("siglip", "SigLIP"),
    Entry("flux", _flux),
    Entry(
        "moonshine",
        _moonshine,
        shapes={"encoder_input_values": (4096, 1), "encoder_padding_mask": (4096,)},
    ),
    Entry("pali_gemma", _pali_gemma),
    Entry(
        "sam",
        _sam,
        shapes={"points": (2, 2), "labels": (2,), "boxes": (1, 2, 2), "masks": (1, 16, 16, 1)},
        constants={"labels": 1},
    ),
    # One step divides by zero, and the scheduler goes by the number that it was first called with.
    Entry("stable_diffusion_3", _stable_diffusion_3, constants={"num_steps": 4}),
    Entry("whisper", _whisper, shapes={"encoder_features": (16, 8)}),
)
