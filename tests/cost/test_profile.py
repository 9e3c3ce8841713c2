"""Totals, memory, shapes, selection and printing."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from keras import layers, ops

import resect
from resect.errors import ShapeError
from tests.common import mlp, nested, predictions, residual
from tests.cost.models import perceptron


class TestCounting:
    def test_each_call_has_a_row(self):
        found = resect.profile(mlp())
        assert [(row.name, row.kind, row.parameters, row.multiply_adds) for row in found] == [
            ("hidden", "Dense", 56, 48),
            ("middle", "Dense", 72, 64),
            ("logits", "Dense", 27, 24),
        ]
        assert (found.parameters, found.weight_bytes, found.multiply_adds) == (155, 620, 136)
        assert found.activation_bytes == 4 * (8 + 8 + 3)

    def test_weights_count_once_and_arithmetic_at_every_call(self):
        x = inputs = keras.Input((4,), name="x")
        shared = layers.Dense(4, name="shared")
        for _ in range(3):
            x = shared(x)
        found = resect.profile(keras.Model(inputs, x))
        assert [row.name for row in found] == ["shared@0", "shared@1", "shared@2"]
        assert [row.parameters for row in found] == [20, 0, 0]
        assert found.multiply_adds == 3 * 16

    def test_nested_models_are_counted_call_by_call(self):
        model = nested()
        found = resect.profile(model)
        assert [row.name for row in found] == ["backbone/dense_1", "backbone/dense_2", "logits"]
        assert found.parameters == model.count_params()

    def test_a_model_called_twice_computes_twice(self):
        base = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="inner")], name="base")
        inputs = keras.Input((4,), name="x")
        found = resect.profile(keras.Model(inputs, base(base(inputs))))
        assert [row.name for row in found] == ["base@0/inner", "base@1/inner"]
        assert (found.parameters, found.multiply_adds) == (20, 32)

    def test_one_variable_in_two_layers_counts_once(self):
        class Tied(layers.Layer):
            def __init__(self, source: layers.Dense, **options: object):
                super().__init__(**options)
                self.kernel = source.kernel

            def call(self, x):
                return ops.matmul(x, ops.transpose(self.kernel))

        x = inputs = keras.Input((4,), name="x")
        source = layers.Dense(6, name="source")
        x = source(x)
        x = Tied(source, name="tied")(x)
        found = resect.profile(keras.Model(inputs, x))
        assert [row.parameters for row in found] == [4 * 6 + 6, 0]
        assert found.multiply_adds == 2 * 4 * 6

    def test_bytes_are_those_of_the_dtypes(self):
        x = inputs = keras.Input((4,), name="x")
        x = layers.Dense(8, dtype="mixed_float16", name="half")(x)
        found = resect.profile(keras.Model(inputs, layers.Dense(2, name="whole")(x)))
        assert found["half"].weight_bytes == 4 * 40
        assert found["half"].activation_bytes == 2 * 8
        assert found["whole"].activation_bytes == 4 * 2

    def test_the_source_is_untouched(self):
        model = mlp()
        before = predictions(model)
        nodes = [len(layer._inbound_nodes) for layer in model.layers]
        resect.profile(model, latency=True)
        np.testing.assert_array_equal(before, predictions(model))
        assert nodes == [len(layer._inbound_nodes) for layer in model.layers]


class TestPeak:
    def test_in_a_chain_a_call_and_what_it_reads(self):
        assert resect.profile(perceptron()).peak_bytes == 4 * max(
            256 + 512, 256 + 512 + 384, 256 + 384 + 10
        )

    def test_a_skip_connection_keeps_its_tensor(self):
        found = resect.profile(residual())
        # the input stays, as the caller holds it: 4; then stem 5, branch 5, add 5
        assert found.peak_bytes == 4 * (4 + 5 + 5 + 5)

    def test_a_nested_model_needs_room_inside(self):
        inner = keras.Sequential([keras.Input((4,)), layers.Dense(100), layers.Dense(4)])
        inputs = keras.Input((4,), name="x")
        found = resect.profile(keras.Model(inputs, inner(inputs)))
        assert found.peak_bytes == 4 * (4 + 100 + 4)

    def test_what_nothing_reads_is_let_go(self):
        inputs = keras.Input((8,), name="x")
        used, _ = ops.split(layers.Dense(8)(inputs), 2, axis=-1)
        found = resect.profile(keras.Model(inputs, layers.Dense(20)(used)))
        assert found.peak_bytes == 4 * (8 + 4 + 20)

    def test_it_grows_with_the_batch(self):
        one, many = (resect.profile(mlp(), batch_size=n) for n in (1, 16))
        assert many.peak_bytes == 16 * one.peak_bytes
        assert many.parameters == one.parameters


class TestShapes:
    def model(self) -> keras.Model:
        image = keras.Input((None, None, 3), name="image")
        return keras.Model(image, layers.Conv2D(4, 3, name="conv")(image))

    def test_an_open_axis_is_asked_for(self):
        with pytest.raises(ShapeError) as caught:
            resect.profile(self.model())
        assert str(caught.value) == (
            "The input 'image' takes samples of shape (None, None, 3): without a length for every "
            "axis there is nothing to count.\n"
            "Say which: resect.profile(model, input_shape=(128, 128, 3))."
        )

    @pytest.mark.parametrize("shape", [(8, 8, 3), {"image": (8, 8, 3)}, [(8, 8, 3)]])
    def test_it_is_given(self, shape: object):
        found = resect.profile(self.model(), shape)
        assert found.multiply_adds == 6 * 6 * 27 * 4
        assert found["conv"].output_shapes == ((1, 6, 6, 4),)

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((8, 8, 4), "takes samples of shape"),
            ((8, 8), "takes samples of shape"),
            ({"photo": (8, 8, 3)}, "no input 'photo'"),
            ([(8, 8, 3), (1,)], "2 shapes for 1 inputs"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, shape: object, message: str):
        with pytest.raises(ShapeError, match=message):
            resect.profile(self.model(), shape)

    def test_a_batch_that_is_folded_into_another_axis(self):
        x = inputs = keras.Input((6, 4), name="x")
        x = ops.reshape(x, (-1, 4))
        x = layers.Dense(5, name="dense")(x)
        found = resect.profile(keras.Model(inputs, x), batch_size=2)
        assert found["dense"].multiply_adds == 2 * 6 * 4 * 5

    def test_a_model_for_a_fixed_number_of_samples_keeps_it(self):
        x = keras.Input(batch_shape=(3, 4), name="x")
        found = resect.profile(keras.Model(x, layers.Dense(5, name="dense")(x)))
        assert (found.batch, found.multiply_adds) == (3, 3 * 4 * 5)

    def test_several_inputs_take_one_shape(self):
        one, other = keras.Input((None, 4), name="one"), keras.Input((None, 4), name="other")
        model = keras.Model([one, other], layers.Add()([one, other]))
        assert resect.profile(model, (3, 4)).activation_bytes == 48
        with pytest.raises(ShapeError, match=r"input_shape=\{'other': \(128, 4\)\}"):
            resect.profile(model, {"one": (3, 4)})


class TestValues:
    def test_it_prints_as_a_table(self):
        assert str(resect.profile(mlp())) == (
            "Sequential 'mlp'\n"
            "\n"
            "call    class  output shape  parameters  multiply-adds  activations\n"
            "hidden  Dense  (1, 8)                56             48         32 B\n"
            "middle  Dense  (1, 8)                72             64         32 B\n"
            "logits  Dense  (1, 3)                27             24         12 B\n"
            "\n"
            "for           features (1, 6)\n"
            "parameters    155 (620 B)\n"
            "multiply-adds 136\n"
            "activations   76 B\n"
            "at once       88 B"
        )

    def test_it_is_sorted_and_limited(self):
        found = resect.profile(mlp())
        assert [row.name for row in found.sorted("parameters")] == ["middle", "hidden", "logits"]
        assert [row.name for row in found.sorted("name")] == ["hidden", "logits", "middle"]
        text = found.table(sort="multiply_adds", limit=1)
        assert "middle" in text
        assert "… 2 more" in text
        assert "hidden" not in text

    def test_long_tables_are_shortened(self):
        stack = [layers.Dense(2, name=f"dense_{i}") for i in range(50)]
        assert "… 30 more" in str(resect.profile(keras.Sequential([keras.Input((2,)), *stack])))

    def test_it_becomes_json_and_records(self):
        found = resect.profile(nested())
        loaded = json.loads(found.to_json())
        assert loaded["parameters"] == found.parameters
        assert loaded["input_shapes"] == {"features": [1, 4]}
        assert loaded["calls"][0]["name"] == "backbone/dense_1"
        assert found.records()[-1]["multiply_adds"] == 15

    def test_the_cost_of_a_block(self):
        model = residual()
        found = resect.profile(model)
        (block,) = resect.blocks(model).level("block")
        part = found.of(block.calls)
        assert part.parameters == 30
        assert part.multiply_adds == 25
        assert resect.profile(nested()).of(["backbone"]).multiply_adds == 45
        with pytest.raises(KeyError):
            found.of(["nothing"])
        with pytest.raises(KeyError):
            found["nothing"]
        assert found[0].name == "stem"
        assert len(found[1:]) == 3

    def test_what_a_collapsed_block_saves_is_what_it_cost(self):
        model = residual()
        before = resect.profile(model)
        (block,) = resect.blocks(model).level("block")
        after = resect.profile(resect.collapse(model, *block.ends))
        assert before.multiply_adds - after.multiply_adds == before.of(block.calls).multiply_adds

    def test_equal_models_have_equal_costs(self):
        assert resect.profile(mlp()) == resect.profile(resect.clone(mlp()))


class TestLatency:
    def test_it_is_measured_on_request(self, backend: str):
        assert resect.profile(mlp()).latency is None
        found = resect.profile(mlp(), latency=True)
        assert found.latency is not None
        assert 0 < found.latency.fastest <= found.latency.median <= found.latency.slowest
        assert (found.latency.runs, found.latency.backend) == (20, backend)
        assert f"median of 20 on {backend}" in str(found)
        assert json.loads(found.to_json())["latency"]["runs"] == 20

    def test_a_graph_takes_no_time(self):
        graph = resect.read(mlp())
        assert resect.profile(graph) == resect.profile(mlp())
        with pytest.raises(TypeError, match="pass the model, not its graph"):
            resect.profile(graph, latency=True)

    def test_strings_cannot_be_made_up(self):
        words = keras.Input((1,), dtype="string", name="words")
        model = keras.Model(words, layers.Identity()(words))
        with pytest.raises(ShapeError, match="takes strings"):
            resect.profile(model, latency=True)

    def test_models_that_take_words_and_several_inputs(self):
        words = keras.Input((None,), dtype="int32", name="words")
        other = keras.Input((3,), name="other")
        x = layers.GlobalAveragePooling1D()(layers.Embedding(9, 3)(words))
        model = keras.Model({"words": words, "other": other}, layers.Add()([x, other]))
        found = resect.profile(model, {"words": (5,)}, latency=True)
        assert found.latency is not None
        assert model.predict_function is None
