"""KerasHub's language models at toy size: two layers, sixteen features, a vocabulary of sixteen."""

from __future__ import annotations

from typing import Any

import keras

from zoo.entry import Entry, by_name

#: What most transformers take, and what those with grouped key-value heads take.
MULTI_HEAD: dict[str, Any] = dict(
    vocabulary_size=16, num_layers=2, num_heads=2, hidden_dim=16, intermediate_dim=32
)
GROUPED: dict[str, Any] = dict(
    vocabulary_size=16,
    num_layers=2,
    num_query_heads=4,
    num_key_value_heads=2,
    hidden_dim=16,
    intermediate_dim=32,
)
EXPERTS: dict[str, Any] = dict(num_experts=4, top_k=2)

#: How the configuration of one half of a T5Gemma is spelt, for `encoder` and `decoder` alike.
T5GEMMA_HALF: dict[str, Any] = dict(
    hidden_dim=16,
    intermediate_dim=32,
    num_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    layer_types=["sliding_attention", "full_attention"],
)


def _text(name: str, kind: str, config: dict[str, Any], /, **more: Any) -> Entry:
    """An entry for a class of `keras_hub.models`, imported only when the model is built."""

    def build() -> keras.Model:
        import keras_hub

        return getattr(keras_hub.models, kind)(**config, **more)

    return Entry(name, build)


def _t5gemma(name: str, kind: str) -> Entry:
    halves = {
        f"{half}_{key}": value
        for half in ("encoder", "decoder")
        for key, value in T5GEMMA_HALF.items()
    }
    return _text(
        name,
        kind,
        halves,
        vocabulary_size=16,
        query_pre_attn_scalar=1.0,
        cross_attention_hidden_size=16,
        sliding_window=4,
    )


def _without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


ENCODERS = by_name(
    _text(
        "albert",
        "AlbertBackbone",
        MULTI_HEAD,
        embedding_dim=8,
        num_groups=1,
        num_inner_repetitions=1,
    ),
    _text("bert", "BertBackbone", MULTI_HEAD),
    _text("deberta_v3", "DebertaV3Backbone", MULTI_HEAD, max_sequence_length=16, bucket_size=8),
    _text("distil_bert", "DistilBertBackbone", MULTI_HEAD),
    _text(
        "electra",
        "ElectraBackbone",
        _without(MULTI_HEAD, "vocabulary_size"),
        vocab_size=16,
        embedding_dim=8,
    ),
    _text("esm", "ESMBackbone", MULTI_HEAD),
    _text("f_net", "FNetBackbone", _without(MULTI_HEAD, "num_heads")),
    _text("roberta", "RobertaBackbone", MULTI_HEAD),
    _text("roformer_v2", "RoformerV2Backbone", MULTI_HEAD, head_size=8),
    _text("xlm_roberta", "XLMRobertaBackbone", MULTI_HEAD),
    _text("xlnet", "XLNetBackbone", MULTI_HEAD),
)

DECODERS = by_name(
    _text("bloom", "BloomBackbone", MULTI_HEAD),
    _text("falcon", "FalconBackbone", _without(MULTI_HEAD, "num_heads"), num_attention_heads=2),
    _text("gemma", "GemmaBackbone", GROUPED, head_dim=4),
    _text(
        "gemma2",
        "GemmaBackbone",
        GROUPED,
        head_dim=4,
        use_post_ffw_norm=True,
        use_post_attention_norm=True,
        attention_logit_soft_cap=50,
        final_logit_soft_cap=30,
        use_sliding_window_attention=True,
        sliding_window_size=4,
    ),
    _text("gemma3", "Gemma3Backbone", GROUPED, head_dim=4, image_size=16),
    _text("gpt2", "GPT2Backbone", MULTI_HEAD),
    _text("gpt_neo_x", "GPTNeoXBackbone", MULTI_HEAD),
    _text("gpt_oss", "GptOssBackbone", GROUPED, **EXPERTS, sliding_window=4),
    _text("llama", "LlamaBackbone", GROUPED),
    _text("llama3", "Llama3Backbone", GROUPED),
    _text("mistral", "MistralBackbone", GROUPED, sliding_window=4),
    _text("mixtral", "MixtralBackbone", GROUPED, **EXPERTS, sliding_window=4),
    _text("opt", "OPTBackbone", MULTI_HEAD),
    _text("phi3", "Phi3Backbone", GROUPED),
    _text("qwen", "QwenBackbone", GROUPED),
    _text("qwen3", "Qwen3Backbone", GROUPED, head_dim=4),
    _text("qwen3_moe", "Qwen3MoeBackbone", GROUPED, **EXPERTS, head_dim=4, moe_intermediate_dim=16),
    _text(
        "qwen_moe",
        "QwenMoeBackbone",
        GROUPED,
        **EXPERTS,
        moe_intermediate_dim=16,
        shared_expert_intermediate_dim=16,
    ),
    _text(
        "rwkv7",
        "RWKV7Backbone",
        dict(vocabulary_size=16, num_layers=2, hidden_size=16, head_size=4, intermediate_dim=32),
        gate_lora=8,
        mv_lora=8,
        aaa_lora=8,
        decay_lora=8,
    ),
    _text(
        "smollm3",
        "SmolLM3Backbone",
        dict(
            vocabulary_size=16,
            num_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            hidden_dim=16,
        ),
        intermediate_dim=32,
        attention_bias=False,
        attention_dropout=0.0,
        rope_layer_enabled_list=[True, False],
        layer_types=["attention", "attention"],
        mlp_bias=False,
        layer_norm_epsilon=1e-5,
        max_position_embeddings=32,
        rope_theta=10000.0,
        partial_rotary_factor=1.0,
    ),
)

SEQ2SEQ = by_name(
    _text("bart", "BartBackbone", MULTI_HEAD),
    _text(
        "edrec",
        "EdRecBackbone",
        _without(MULTI_HEAD, "vocabulary_size", "num_layers"),
        vocab_size=16,
        num_layers_enc=2,
        num_layers_dec=2,
    ),
    _text("t5", "T5Backbone", MULTI_HEAD),
    _t5gemma("t5gemma", "T5GemmaBackbone"),
)

TEXT = {**ENCODERS, **DECODERS, **SEQ2SEQ}
