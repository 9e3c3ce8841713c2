"""The rows of the grid: the place that each kind of model is edited at.

A row is a kind of model and the call in it that the kind is named for: the shared layer, the layer
with the mask, the one within a nested model. Edits that apply to a place are made there or next to
it. Kinds with two such places have two rows; those that are not listed are edited in the middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import keras
import numpy as np

from tests.kinds import KINDS, Kind
from tests.surgery import Source

#: By kind: the calls that it is edited at, as `resect` addresses them.
FOCUS: dict[str, tuple[str, ...]] = {
    "mha_masked": ("attention",),
    "mha_scores": ("attention", "pool"),
    "dot_attention": ("additive",),
    "transformer_encoder": ("block_0_norm_1", "add_2"),
    "autoencoder": ("encoder", "decoder/up_1"),
    "grouped_query_attention": ("attention",),
    "unet_like": ("bottom", "concat_1"),
    "inception_like": ("three",),
    "squeeze_excite": ("reduce", "excite"),
    "conv_1d_3d": ("conv_3d",),
    "functional_residual": ("block_2_conv", "block_3_add"),
    "functional_multi_io_list": ("left_dense", "concat"),
    "functional_multi_io_dict": ("width_dense", "multiply"),
    "functional_nested_structure": ("last_dense",),
    "functional_merges": ("one", "add"),
    "layer_with_call_arguments": ("extra", "bn"),
    "optional_input": ("add_if_present",),
    "kerashub_bert_tiny": ("transformer_layer_0",),
    "kerashub_gpt2_tiny": ("transformer_layer_0",),
    "kerashub_classifier": ("bert_backbone", "bert_backbone/transformer_layer_1"),
    "nested_functional": ("encoder", "encoder/encoder_bn", "encoder/encoder_add"),
    "nested_sequential": ("head", "head/head_dense"),
    "nested_two_levels": ("middle/inner", "middle/inner/inner_bn"),
    "nested_called_twice": ("encoder@1", "encoder", "encoder/encoder_bn"),
    "nested_dict_io": ("inner", "inner/query_dense"),
    "nested_used_directly_too": ("encoder_dense_1", "encoder/encoder_dense_1"),
    "nested_fine_tuned": ("base", "base/base_bn"),
    "call_training_false": ("base", "base/base_bn"),
    "raw_ops": ("relu", "concatenate"),
    "raw_ops_last": ("dense", "softmax"),
    "raw_ops_several_outputs": ("split", "logits"),
    "constants": ("where",),
    "constant_tensor": ("add",),
    "attention_by_hand": ("softmax", "project"),
    "quantized_int8": ("dense",),
    "quantized_int4": ("dense",),
    "quantized_float8": ("dense",),
    "quantized_int8_lora": ("dense",),
    "lora_dense": ("conv", "embedding"),
    "lora_in_mha": ("attention",),
    "mixed_within": ("conv",),
    "normalization_adapted": ("normalization",),
    "normalization_fixed": ("normalization",),
    "discretization": ("bins",),
    "integer_lookup": ("lookup",),
    "string_lookup": ("lookup",),
    "text_vectorization": ("vectorize",),
    "seeded_dropout": ("dropout",),
    "augmentation": ("translation",),
    "lstm_masked": ("lstm", "embedding"),
    "masking_layer": ("gru", "masking"),
    "gru_initial_state": ("gru",),
    "lstm_return_state": ("decoder", "encoder"),
    "stateful_rnn": ("lstm",),
    "bidirectional": ("both_lstm",),
    "time_distributed_layer": ("each_bn",),
    "time_distributed_model": ("each_frame",),
    "sequential_nested": ("block", "block/block_dense"),
    "normalizations": ("spectral_norm",),
    "shared_layer": ("shared@1", "shared"),
    "shared_layer_deep": ("a@1", "b"),
    "shared_input_depths": ("shared@1", "second"),
    "shared_batch_norm": ("bn@0", "bn"),
    "shared_merge": ("add@1", "dense_1"),
    "embedding_tied": ("embedding@1", "dense"),
    "subclassed_loop": ("norm@1", "block_1"),
    "subclassed_composed": ("middle", "stem/stem_dense"),
    "subclassed_dict_io": ("left_dense",),
    "subclassed_inside": ("simple",),
    "frozen_nested": ("inner", "inner/dense_2"),
    "frozen_sublayer": ("attention",),
    "custom_layer_dict_output": ("split", "multiply"),
    "custom_layer_add_loss": ("penalty",),
    "custom_layer_without_config": ("apply",),
}


@dataclass(frozen=True)
class Row:
    """A kind of model, and where it is edited.

    Attributes:
        kind: The kind.
        focus: The address of a call; `""` for the one in the middle.
    """

    kind: Kind
    focus: str = ""

    @property
    def name(self) -> str:
        """How tests and tables call it: `lstm_masked at embedding`."""
        return f"{self.kind.name} at {self.focus}" if self.focus else self.kind.name

    @property
    def runs_here(self) -> bool:
        """Whether Keras can run the kind on this backend."""
        return keras.backend.backend() not in self.kind.unsupported

    def source(self) -> tuple[Any, Source]:
        """The model, made once for all rows of the kind, and what it was when it was made."""
        return _made(self.kind.name)


ROWS = {
    row.name: row
    for kind in KINDS.values()
    for row in (Row(kind, focus) for focus in FOCUS.get(kind.name, ("",)))
}


@lru_cache(maxsize=1)
def _made(name: str) -> tuple[Any, Source]:
    model = KINDS[name].make(seed=1)
    if "trains" in KINDS[name].tags and not model.compiled:
        model.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9), loss="mse")
        model.optimizer.build(model.trainable_variables)
        model.optimizer.iterations.assign(7)
        rng = np.random.default_rng(1)
        for slot in model.optimizer.momentums:
            if slot is not None:  # float8 scales have none
                slot.assign(rng.normal(size=slot.shape))
    return model, Source.of(model)
