"""Blocks of small models: what is found, what counts as one tensor in, what can be collapsed."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers, ops

import resect
from resect.blocks import Block, Blocks
from resect.errors import NoMatchError
from tests.blocks.models import (
    conditioned,
    masked_encoder,
    small_resnet,
    vision_transformer,
)
from tests.common import nested, randomise, residual, two_branches, two_heads
from zoo.randomise import outputs_of


def named(found: Blocks) -> list[tuple[str, str, str]]:
    return [(block.name, *block.ends) for block in found]


def assert_collapses(model: keras.Model, block: Block) -> None:
    """The model without the block computes what its plan means."""
    plan = resect.plan(model).collapse(*block.ends)
    assert resect.verify(model, plan.apply(), plan=plan)


class TestLevels:
    def test_a_residual_network_has_blocks_in_stages(self):
        model = small_resnet()
        found = resect.blocks(model)
        assert named(found.level("block")) == [
            ("stage1_block1", "stem", "stage1_block1_out"),
            ("stage1_block2", "stage1_block1_out", "stage1_block2_out"),
            ("stage2_block1", "stage1_block2_out", "stage2_block1_out"),
            ("stage2_block2", "stage2_block1_out", "stage2_block2_out"),
        ]
        assert named(found.level("stage")) == [
            ("stage1", "stem", "stage1_block2_out"),
            ("stage2", "stage1_block2_out", "stage2_block2_out"),
        ]
        assert found.level("block").collapsible().names == (
            "stage1_block1",
            "stage1_block2",
            "stage2_block2",
        )
        obstacle = found["stage2_block1"].obstacle
        assert obstacle == "It makes (None, 4, 4, 12) of (None, 8, 8, 6)."
        for block in found.level("block").collapsible():
            assert_collapses(model, block)

    def test_the_inside_of_a_block_is_branches_paths_and_calls(self):
        block = resect.blocks(small_resnet())["stage2_block1"]
        assert [(b.level, b.name) for b in block.walk()] == [
            ("block", "stage2_block1"),
            ("branch", "stage2_block1_add"),
            ("path", "stage2_block1_2_conv"),
            ("call", "stage2_block1_1_conv"),
            ("call", "stage2_block1_1_bn"),
            ("call", "stage2_block1_1_relu"),
            ("call", "stage2_block1_2_conv"),
            ("call", "stage2_block1_0_conv"),
            ("call", "stage2_block1_out"),
        ]
        assert len(block) == len(block.calls) == 7
        assert block.calls[-2:] == ("stage2_block1_add", "stage2_block1_out")
        assert [place.call.layer for place in block.places] == list(block.calls)

    def test_without_names_the_branches_are_the_blocks(self):
        x = inputs = keras.Input((4,), name="x")
        x = layers.Dense(5)(x)
        for _ in range(3):
            x = layers.ReLU()(layers.Add()([x, layers.Dense(5)(x)]))
        model = keras.Model(inputs, layers.Dense(2)(x))
        found = resect.blocks(model)
        assert named(found.level("block")) == [
            ("add", "dense", "add"),
            ("add_1", "re_lu", "add_1"),
            ("add_2", "re_lu_1", "add_2"),
        ]
        assert named(found.level("stage")) == [("add … add_2", "dense", "add_2")]

    def test_a_chain_of_calls_is_calls(self):
        model = keras.Sequential(
            [keras.Input((4,), name="x"), layers.Dense(4, name="a"), layers.Dense(2, name="b")]
        )
        found = resect.blocks(model)
        assert [(b.level, *b.ends) for b in found] == [("call", "x", "a"), ("call", "a", "b")]
        assert found.collapsible().names == ("a",)
        assert_collapses(model, found["a"])

    def test_chains_are_blocks_where_their_names_repeat(self):
        stack: list = [keras.Input((6,), name="x"), layers.Dense(6, name="stem1_dense")]
        for i in range(2):
            stack += [layers.Dense(6, name=f"unit{i}_dense"), layers.ReLU(name=f"unit{i}_act")]
        found = resect.blocks(keras.Sequential(stack))
        assert found.level("block").names == ("unit0", "unit1")

    def test_a_skip_connection_around_blocks_is_a_stage(self):
        x = inputs = keras.Input((4,), name="x")
        first = x = layers.Dense(5, name="head")(x)
        for i in range(2):
            x = layers.Add(name=f"sum{i}")([x, layers.Dense(5, name=f"inner{i}")(x)])
        x = layers.Add(name="long")([first, layers.Dense(5, name="tail")(x)])
        found = resect.blocks(keras.Model(inputs, x))
        assert found.level("block").names == ("sum0", "sum1")
        assert found.level("stage").names == ("long", "sum0 … sum1")

    def test_a_block_behind_a_tensor_that_is_also_read_elsewhere(self):
        inputs = keras.Input((4,), name="x")
        tap = x = layers.Dense(5, name="tap")(inputs)
        for i in range(2):
            x = layers.Add(name=f"sum{i}")([x, layers.Dense(5, name=f"inner{i}")(x)])
        heads = [layers.Dense(2, name="one")(tap), layers.Dense(3, name="other")(x)]
        model = randomise(keras.Model(inputs, heads))
        found = resect.blocks(model).level("block")
        assert named(found) == [("sum0", "tap", "sum0"), ("sum1", "sum0", "sum1")]
        for block in found:
            assert_collapses(model, block)

    def test_operations_that_part_and_meet_are_no_block(self):
        x = inputs = keras.Input((4,), name="x")
        x = layers.Dense(5, name="dense")(x)
        x = x * ops.sigmoid(x)
        found = resect.blocks(keras.Model(inputs, layers.Dense(2, name="logits")(x)))
        assert not found.level("block")
        assert found.level("branch").collapsible().names == ("multiply",)

    def test_a_layer_made_of_layers_is_a_block(self):
        x = inputs = keras.Input((4, 6), name="x")
        for i in range(2):
            x = layers.Bidirectional(layers.LSTM(3, return_sequences=True), name=f"both_{i}")(x)
        found = resect.blocks(keras.Model(inputs, x))
        assert found.level("block").names == ("both_0", "both_1")
        assert found.level("stage").names == ("both_0 … both_1",)

    def test_a_transformer_layer_is_one_block_by_its_name(self):
        model = vision_transformer(3)
        found = resect.blocks(model).level("block")
        assert named(found) == [
            ("layer_0", "positions", "layer_0_add_2"),
            ("layer_1", "layer_0_add_2", "layer_1_add_2"),
            ("layer_2", "layer_1_add_2", "layer_2_add_2"),
        ]
        assert len(found.collapsible()) == 3
        halves = [child.name for child in found[0].children]
        assert halves == ["layer_0_add_1", "layer_0_add_2"]
        assert_collapses(model, found[1])


class TestOneTensorIn:
    @pytest.mark.parametrize(("name", "dtype"), [("padding_mask", "int32"), ("valid", "bool")])
    def test_a_mask_hides_no_block(self, name: str, dtype: str):
        model = masked_encoder(name, dtype)
        found = resect.blocks(model).level("block")
        assert named(found) == [("add_0", "tokens", "add_0"), ("add_1", "add_0", "add_1")]
        assert found[0].calls == ("inner_0", "multiply", "add_0")
        assert_collapses(model, found[1])

    def test_any_other_input_does(self):
        model = masked_encoder("valid", "int32")
        assert not resect.blocks(model).level("block")
        assert len(resect.blocks(model, side="valid").level("block")) == 2

    def test_side_tensors_are_named(self):
        model = conditioned()
        assert not resect.blocks(model).level("block")
        found = resect.blocks(model, side="embedding").level("block")
        assert found.names == ("add_0", "add_1", "add_2")
        assert_collapses(model, found[1])
        with pytest.raises(NoMatchError):
            resect.blocks(model, side="clock")

    def test_what_makes_a_side_tensor_has_blocks_too(self):
        """As an encoder has, whose output every layer of a decoder reads."""
        both = [keras.Input((4,), name="source"), keras.Input((4,), name="target")]
        x, y = both
        for i in range(2):
            x = layers.Add(name=f"encoder_{i}")([x, layers.Dense(4, name=f"up_{i}")(x)])
        for i in range(2):
            seen = layers.Dense(4, name=f"cross_{i}")(layers.Multiply()([x, y]))
            y = layers.Add(name=f"decoder_{i}")([y, seen])
        model = randomise(keras.Model(both, y))
        found = resect.blocks(model, side="encoder_1").level("block")
        assert found.names == ("encoder_0", "encoder_1", "decoder_0", "decoder_1")
        assert_collapses(model, found[1])
        assert_collapses(model, found[3])

    def test_a_tensor_that_every_layer_hands_on_is_named_by_its_output(self):
        x = inputs = keras.Input((4, 3), name="x")
        states: list = []
        for i in range(3):
            lstm = layers.LSTM(3, return_sequences=True, return_state=True, name=f"lstm_{i}")
            x, *states = lstm(x, initial_state=states or None)
        model = randomise(keras.Model(inputs, x))
        assert named(resect.blocks(model)) == [("lstm_2:0", "x", "lstm_2:0")]
        side = [f"lstm_{i}:{k}" for i in range(2) for k in (1, 2)]
        found = resect.blocks(model, side=side)
        assert [b.ends for b in found][1] == ("lstm_0:0", "lstm_1:0")

    def test_a_model_that_returns_nothing_but_masks_has_none_aside(self):
        mask = keras.Input((4,), name="mask")
        model = keras.Model(mask, layers.Dense(4, name="dense")(mask))
        assert resect.blocks(model).names == ("dense",)

    def test_implicit_masks_are_no_tensors(self):
        words = keras.Input((5,), dtype="int32", name="words")
        x = layers.Embedding(9, 4, mask_zero=True, name="embedding")(words)
        x = layers.LSTM(4, return_sequences=True, name="first")(x)
        x = layers.LSTM(4, name="second")(x)
        model = randomise(keras.Model(words, x))
        found = resect.blocks(model)
        assert found.names == ("embedding", "first", "second")
        assert_collapses(model, found["first"])


class TestStructure:
    def test_nested_models_are_looked_into(self):
        model = nested()
        found = resect.blocks(model)
        assert [(b.level, b.name) for b in found] == [
            ("model", "backbone"),
            ("call", "backbone/dense_1"),
            ("call", "backbone/dense_2"),
            ("call", "logits"),
        ]
        inner = found["backbone/dense_2"]
        assert inner.path == ("backbone",)
        assert inner.ends == ("backbone/dense_1", "backbone/dense_2")
        assert_collapses(model, inner)

    def test_blocks_of_nested_models_have_paths(self):
        inner = small_resnet()
        image = keras.Input((8, 8, 3), name="photo")
        outer = randomise(keras.Model(image, layers.Dense(2, name="top")(inner(image))))
        found = resect.blocks(outer).level("block")
        assert found.names[0] == "small_resnet/stage1_block1"
        assert len(found.collapsible()) == 3
        assert_collapses(outer, found[1])

    def test_nested_models_with_several_inputs_are_looked_into(self):
        x = words = keras.Input((4,), name="words")
        scale = keras.Input((1,), name="scale")
        for i in range(2):
            x = layers.Add(name=f"add_{i}")([x, layers.Dense(4, name=f"inner_{i}")(x)])
        last = layers.Multiply(name="scaled")([x, scale])
        body = keras.Model({"words": words, "scale": scale}, [x, last], name="body")
        entry = layers.Dense(4, name="entry")(words)
        first, last = body({"scale": scale, "words": entry})
        logits = layers.Dense(2, name="logits")(last)
        model = randomise(keras.Model([words, scale], [first, logits], name="outer"))
        found = resect.blocks(model)
        assert [block.name for block in found if block.level in ("call", "block")] == [
            "entry", "body/add_0", "body/inner_0", "body/add_1", "body/inner_1", "logits"
        ]  # fmt: skip
        assert found["body/add_1"].path == ("body",)
        assert_collapses(model, found["body/add_1"])

    def test_a_model_called_twice_is_looked_into_once(self):
        base = keras.Sequential(
            [keras.Input((4,), name="in"), layers.Dense(4, name="inner")], name="base"
        )
        inputs = keras.Input((4,), name="x")
        model = keras.Model(inputs, base(base(inputs)))
        assert resect.blocks(model).names == ("base@0", "base/inner", "base@1")
        assert [b.end for b in resect.blocks(model).level("model")] == ["base@0", "base@1"]

    def test_each_call_of_a_shared_layer_is_its_own(self):
        x = inputs = keras.Input((4,), name="x")
        shared = layers.Dense(4, name="shared")
        for i in range(3):
            x = layers.Add(name=f"add_{i}")([x, shared(x)])
        model = randomise(keras.Model(inputs, x))
        found = resect.blocks(model).level("block")
        assert [b.calls for b in found][1] == ("shared@1", "add_1")
        assert_collapses(model, found[1])

    def test_several_inputs_and_outputs(self):
        assert {*resect.blocks(two_branches()).names} == {"shared@0", "shared@1", "logits"}
        assert {*resect.blocks(two_heads()).names} == {"hidden", "first", "second"}

    def test_one_of_several_outputs_is_spelled(self):
        inputs = keras.Input((8,), name="x")
        left, right = ops.split(layers.Dense(8, name="dense")(inputs), 2, axis=-1)
        left = layers.Dense(4, name="inner")(left)
        model = randomise(keras.Model(inputs, layers.Concatenate(name="join")([left, right])))
        found = resect.blocks(model)
        assert found["inner"].ends == ("split:0", "inner")
        assert_collapses(model, found["inner"])
        assert named(found.level("block")) == [("join", "dense", "join")]

    def test_nothing_that_would_leave_nothing(self):
        model = keras.Sequential([keras.Input((4,), name="x"), layers.Dense(4, name="only")])
        (block,) = resect.blocks(model)
        assert block.obstacle == "Nothing would be left of the model."

    def test_another_dtype_is_an_obstacle(self):
        inputs = keras.Input((4,), name="x")
        x = ops.cast(layers.Dense(4, name="dense")(inputs), "float16")
        model = keras.Model(inputs, layers.Dense(2, name="logits")(x))
        assert resect.blocks(model)["cast"].obstacle == "It makes float16 of float32."

    def test_every_collapsible_region_collapses(self):
        """With any of the one-tensor regions made a wire, the model is what its plan means."""
        model = small_resnet()
        for block in resect.blocks(model).collapsible():
            assert not resect.plan(model).collapse(*block.ends).check()

    def test_a_subclassed_model_is_traced_first(self):
        class Net(keras.Model):
            def __init__(self):
                super().__init__()
                self.a, self.b = layers.Dense(4, name="a"), layers.Dense(4, name="b")

            def call(self, x):
                return self.a(x) + self.b(self.a(x))

        model = Net()
        model(np.zeros((1, 4), "float32"))
        assert resect.blocks(resect.functional(model)).level("block")

    def test_ten_thousand_calls_in_a_row(self):
        graph = resect.read(residual())
        found = resect.blocks(_chain(graph, 10_000))
        assert len(found) == 10_003 + 1
        assert len(found.level("path")) == 0


def _chain(graph: resect.Graph, length: int) -> resect.Graph:
    """The graph with `length` copies of a call in a row behind its output."""
    (last,) = graph.output_refs
    node, layer = graph.nodes[last.call], graph.layer(last.call)
    nodes, made = [], []
    for i in range(length):
        call = last.call._replace(layer=f"logits_{i}")
        nodes.append(dataclasses.replace(node, call=call, args=(last,)))
        made.append(dataclasses.replace(layer, name=call.layer))
        last = last._replace(call=call)
    return graph.add(nodes, made).evolve(outputs=last)


class TestValues:
    def test_a_selection_is_a_sequence(self):
        found = resect.blocks(small_resnet()).level("block")
        assert isinstance(found[1:], Blocks)
        assert found[1:].names == found.names[1:]
        assert found["stage1_block1_out"] is found[0]
        assert found.where(lambda block: len(block) == 7).names == ("stage2_block1",)
        with pytest.raises(NoMatchError, match="No block of Functional 'small_resnet' is called"):
            found["stage9"]
        with pytest.raises(ValueError, match="'blocks' is no level"):
            found.level("blocks")

    def test_a_name_means_the_block_of_that_name_and_not_the_stage_that_ends_there(self):
        x = inputs = keras.Input((4,))
        for i in range(3):
            x = layers.Add(name=f"sum_{i}")([x, layers.Dense(4, name=f"inner{i}")(x)])
        found = resect.blocks(keras.Model(inputs, x))
        assert [block.name for block in found if block.end == "sum_2"] == ["sum_0 … sum_2", "sum_2"]
        assert found["sum_2"].ends == ("sum_1", "sum_2")
        assert found["sum_0 … sum_2"].level == "stage"

    def test_a_call_means_the_smallest_block_that_ends_there(self):
        found = resect.blocks(small_resnet())
        ending = [block for block in found if block.end == "stage1_block1_out"]
        assert found["stage1_block1_out"] is ending[-1]

    def test_outermost_leaves_out_what_lies_in_another(self):
        found = resect.blocks(small_resnet())
        assert found.level("block", "stage", "call").outermost().names == (
            "stem",
            "stage1",
            "stage2",
            "pool",
            "logits",
        )

    def test_values_compare_and_do_not_change(self):
        model = small_resnet()
        assert resect.blocks(model) == resect.blocks(model)
        assert len({*resect.blocks(model), *resect.blocks(model)}) == len(resect.blocks(model))
        with pytest.raises(dataclasses.FrozenInstanceError):
            resect.blocks(model)[0].name = "other"

    def test_the_source_is_untouched(self):
        model = small_resnet()
        data = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
        before, marks = outputs_of(model, data), [len(la._inbound_nodes) for la in model.layers]
        str(resect.blocks(model))
        np.testing.assert_array_equal(before, outputs_of(model, data))
        assert marks == [len(la._inbound_nodes) for la in model.layers]

    def test_it_prints_as_a_tree(self):
        text = str(resect.blocks(residual()))
        assert text == (
            "Functional 'residual': 1 block, 3 calls\n"
            "\n"
            "name    level  from -> to        shape                   calls  collapsible\n"
            "stem    call   features -> stem  (None, 4) -> (None, 5)      1\n"
            "add     block  stem -> add       (None, 5)                   2  yes\n"
            "logits  call   add -> logits     (None, 5) -> (None, 3)      1"
        )
        (block,) = resect.blocks(residual()).level("block")
        assert str(block) == "block 'add' stem -> add (None, 5) -> (None, 5)"
        assert str(resect.blocks(residual()).level("path")) == "Functional 'residual': no blocks"
