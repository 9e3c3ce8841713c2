"""Inputs that nothing reads, and those that are outputs as they stand: made, or refused by name."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import resect
from resect import oracle
from resect.errors import UnusedInputError
from resect.keras_graph.private import INPUTS_MUST_BE_READ
from tests.common import data_for, randomise
from tests.surgery import assert_surgery


def two_ways(name: str) -> keras.Model:
    a, b = keras.Input((4,), name=f"{name}_a"), keras.Input((5,), name=f"{name}_b")
    outputs = [layers.Dense(3, name="dense")(a), layers.Dropout(0.1, name="drop")(b)]
    return randomise(keras.Model([a, b], outputs, name=name))


@pytest.mark.parametrize("where", ["drop", "inner/drop"])
def test_an_edit_may_leave_an_output_that_is_an_input(where):
    model = two_ways("inner")
    if "/" in where:
        given = [keras.Input((4,), name="a"), keras.Input((5,), name="b")]
        model = keras.Model(given, model(given), name="outer")
    new = assert_surgery(model, lambda plan: plan.remove(where))
    inputs = data_for(model)[0]
    pairs = zip(*(oracle.run_model(m, inputs) for m in (model, new)), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-6)


class Ignoring(keras.Model):
    def __init__(self) -> None:
        super().__init__(name="ignoring")
        self.dense = layers.Dense(3)

    def call(self, given: Any) -> Any:
        return self.dense(given[0])


def test_a_model_that_ignores_an_input_is_traced_or_refused_by_name():
    model = Ignoring()
    arrays = [np.ones((2, 4), "float32"), np.ones((2, 5), "float32")]
    model(arrays)
    inputs = [keras.Input((4,), name="read"), keras.Input((5,), name="unread")]
    if INPUTS_MUST_BE_READ:
        with pytest.raises(UnusedInputError, match="Nothing reads the input 'unread' of 'ignor"):
            resect.functional(model, inputs=inputs)
        return
    new = resect.functional(model, inputs=inputs)
    np.testing.assert_allclose(*(oracle.run_model(m, arrays) for m in (model, new)), rtol=1e-6)
