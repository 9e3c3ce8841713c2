"""Golden drawings: what a graph looks like, and what each edit makes of it.

Each drawing was written by hand, from what the edit is said to mean; only the order of calls that
do not need each other is Keras's. `assert_surgery` compares it with the plan, and the plan with the
model that was written.
"""

from __future__ import annotations

import textwrap
from typing import Any

import keras
import pytest
from keras import layers, ops

import resect
from resect.edits import (
    Append,
    Collapse,
    Edit,
    Head,
    Insert,
    Pop,
    Prepend,
    Remove,
    Rename,
    Replace,
    Tail,
    Truncate,
)
from tests.surgery import assert_surgery
from zoo.randomise import randomise

# Models: small, with fixed names


def mlp() -> keras.Model:
    stack = [
        keras.Input((4,), name="x"),
        layers.Dense(6, activation="relu", name="hidden"),
        layers.Dropout(0.5, name="drop"),
        layers.Dense(3, name="logits"),
    ]
    return randomise(keras.Sequential(stack, name="mlp"))


def residual() -> keras.Model:
    x = keras.Input((8, 8, 2), name="image")
    stem = layers.Conv2D(4, 3, padding="same", name="stem")(x)
    y = layers.Conv2D(4, 3, padding="same", name="conv")(stem)
    y = layers.ReLU(name="relu")(y)
    y = layers.Add(name="add")([stem, y])
    y = layers.GlobalAveragePooling2D(name="pool")(y)
    return randomise(keras.Model(x, layers.Dense(3, name="logits")(y), name="residual"))


def nested() -> keras.Model:
    inner = keras.Input((4,), name="inner_x")
    y = layers.Dense(5, name="inner_1")(inner)
    y = layers.ReLU(name="relu")(y)
    encoder = keras.Model(inner, layers.Dense(4, name="inner_2")(y), name="encoder")
    x = keras.Input((4,), name="x")
    y = layers.Dense(3, name="logits")(encoder(x))
    return randomise(keras.Model(x, y, name="nested"))


def shared() -> keras.Model:
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    both = layers.Dense(5, name="both")
    y = layers.Subtract(name="minus")([both(left), both(right)])
    return randomise(keras.Model([left, right], layers.Dense(3, name="logits")(y), name="shared"))


def multi_io() -> keras.Model:
    inputs = {"wide": keras.Input((4,), name="wide"), "high": keras.Input((3,), name="high")}
    w = layers.Dense(5, name="w")(inputs["wide"])
    h = layers.Dense(5, name="h")(inputs["high"])
    outputs = {
        "product": layers.Multiply(name="product")([w, h]),
        "area": layers.Dense(2, name="area")(w),
    }
    return randomise(keras.Model(inputs, outputs, name="multi_io"))


def raw_ops() -> keras.Model:
    x = keras.Input((6,), name="x")
    y = layers.Dense(6, name="dense")(x)
    first, second = ops.split(y, 2, axis=-1)
    y = ops.relu(first) * second + 1.0
    return randomise(keras.Model(x, layers.Dense(2, name="logits")(y), name="raw_ops"))


def masked() -> keras.Model:
    ids = keras.Input((6,), dtype="int32", name="ids")
    y = layers.Embedding(10, 4, mask_zero=True, name="embedding")(ids)
    y = layers.LSTM(4, name="lstm")(y)
    return randomise(keras.Model(ids, layers.Dense(3, name="logits")(y), name="masked"))


SOURCES = {
    mlp: """
        Sequential 'mlp'
          x       InputLayer  (None, 4)
          hidden  Dense       (None, 6)  <- x
          drop    Dropout     (None, 6)  <- hidden
          logits  Dense       (None, 3)  <- drop
          -> logits
    """,
    residual: """
        Functional 'residual'
          image   InputLayer              (None, 8, 8, 2)
          stem    Conv2D                  (None, 8, 8, 4)  <- image
          conv    Conv2D                  (None, 8, 8, 4)  <- stem
          relu    ReLU                    (None, 8, 8, 4)  <- conv
          add     Add                     (None, 8, 8, 4)  <- stem, relu
          pool    GlobalAveragePooling2D  (None, 4)        <- add
          logits  Dense                   (None, 3)        <- pool
          -> logits
    """,
    nested: """
        Functional 'nested'
          x          InputLayer  (None, 4)
          encoder    Functional  (None, 4)  <- x
            inner_x  InputLayer  (None, 4)
            inner_1  Dense       (None, 5)  <- inner_x
            relu     ReLU        (None, 5)  <- inner_1
            inner_2  Dense       (None, 4)  <- relu
            -> inner_2
          logits     Dense       (None, 3)  <- encoder
          -> logits
    """,
    shared: """
        Functional 'shared'
          right   InputLayer  (None, 4)
          left    InputLayer  (None, 4)
          both@0  Dense       (None, 5)  <- left
          both@1  Dense       (None, 5)  <- right
          minus   Subtract    (None, 5)  <- both@0, both@1
          logits  Dense       (None, 3)  <- minus
          -> logits
    """,
    multi_io: """
        Functional 'multi_io'
          high     InputLayer  (None, 3)
          wide     InputLayer  (None, 4)
          w        Dense       (None, 5)  <- wide
          h        Dense       (None, 5)  <- high
          product  Multiply    (None, 5)  <- w, h
          area     Dense       (None, 2)  <- w
          -> area, product
    """,
    raw_ops: """
        Functional 'raw_ops'
          x         InputLayer  (None, 6)
          dense     Dense       (None, 6)            <- x
          split     Split       (None, 3) (None, 3)  <- dense
          relu      Relu        (None, 3)            <- split:0
          multiply  Multiply    (None, 3)            <- relu, split:1
          add       Add         (None, 3)            <- multiply
          logits    Dense       (None, 2)            <- add
          -> logits
    """,
    masked: """
        Functional 'masked'
          ids        InputLayer  (None, 6)
          embedding  Embedding   (None, 6, 4)  <- ids
          not_equal  NotEqual    (None, 6)     <- ids
          lstm       LSTM        (None, 4)     <- embedding, not_equal
          logits     Dense       (None, 3)     <- lstm
          -> logits
    """,
}

Drawn = tuple[Any, Edit, str]

EDITED: dict[str, Drawn] = {
    "a Sequential without a layer stays one": (
        mlp,
        Remove("drop"),
        """
        Sequential 'mlp'
          x       InputLayer  (None, 4)
          hidden  Dense       (None, 6)  <- x
          logits  Dense       (None, 3)  <- hidden
          -> logits
        """,
    ),
    "pop two": (
        mlp,
        Pop(2),
        """
        Sequential 'mlp'
          x       InputLayer  (None, 4)
          hidden  Dense       (None, 6)  <- x
          -> hidden
        """,
    ),
    "remove a layer whose reader starts afresh": (
        mlp,
        Remove("hidden", on_mismatch="reinit"),
        """
        Sequential 'mlp'
          x         InputLayer  (None, 4)
          drop      Dropout     (None, 4)  <- x
          logits *  Dense       (None, 3)  <- drop
          -> logits
        """,
    ),
    "remove a layer whose reader gets a projection": (
        mlp,
        Remove("hidden", on_mismatch="adapt"),
        """
        Sequential 'mlp'
          x                  InputLayer  (None, 4)
          drop               Dropout     (None, 4)  <- x
          drop_projection +  Dense       (None, 6)  <- drop
          logits             Dense       (None, 3)  <- drop_projection
          -> logits
        """,
    ),
    "two layers behind the input": (
        mlp,
        Prepend([layers.Rescaling(0.5, name="scale"), layers.GaussianNoise(0.1, name="noise")]),
        """
        Sequential 'mlp'
          x        InputLayer     (None, 4)
          scale +  Rescaling      (None, 4)  <- x
          noise +  GaussianNoise  (None, 4)  <- scale
          hidden   Dense          (None, 6)  <- noise
          drop     Dropout        (None, 6)  <- hidden
          logits   Dense          (None, 3)  <- drop
          -> logits
        """,
    ),
    "a residual block becomes a wire": (
        residual,
        Collapse("stem", "add"),
        """
        Functional 'residual'
          image   InputLayer              (None, 8, 8, 2)
          stem    Conv2D                  (None, 8, 8, 4)  <- image
          pool    GlobalAveragePooling2D  (None, 4)        <- stem
          logits  Dense                   (None, 3)        <- pool
          -> logits
        """,
    ),
    "an add goes, the skip stays": (
        residual,
        Remove("add", keep="stem"),
        """
        Functional 'residual'
          image   InputLayer              (None, 8, 8, 2)
          stem    Conv2D                  (None, 8, 8, 4)  <- image
          pool    GlobalAveragePooling2D  (None, 4)        <- stem
          logits  Dense                   (None, 3)        <- pool
          -> logits
        """,
    ),
    "an add goes, the branch stays": (
        residual,
        Remove("add", keep="relu"),
        """
        Functional 'residual'
          image   InputLayer              (None, 8, 8, 2)
          stem    Conv2D                  (None, 8, 8, 4)  <- image
          conv    Conv2D                  (None, 8, 8, 4)  <- stem
          relu    ReLU                    (None, 8, 8, 4)  <- conv
          pool    GlobalAveragePooling2D  (None, 4)        <- relu
          logits  Dense                   (None, 3)        <- pool
          -> logits
        """,
    ),
    "on one of two edges": (
        residual,
        Insert(layers.Dropout(0.5, name="drop"), between=("stem", "add")),
        """
        Functional 'residual'
          image   InputLayer              (None, 8, 8, 2)
          stem    Conv2D                  (None, 8, 8, 4)  <- image
          conv    Conv2D                  (None, 8, 8, 4)  <- stem
          relu    ReLU                    (None, 8, 8, 4)  <- conv
          drop +  Dropout                 (None, 8, 8, 4)  <- stem
          add     Add                     (None, 8, 8, 4)  <- drop, relu
          pool    GlobalAveragePooling2D  (None, 4)        <- add
          logits  Dense                   (None, 3)        <- pool
          -> logits
        """,
    ),
    "on all edges": (
        residual,
        Insert(layers.Dropout(0.5, name="drop"), after="stem"),
        """
        Functional 'residual'
          image   InputLayer              (None, 8, 8, 2)
          stem    Conv2D                  (None, 8, 8, 4)  <- image
          drop +  Dropout                 (None, 8, 8, 4)  <- stem
          conv    Conv2D                  (None, 8, 8, 4)  <- drop
          relu    ReLU                    (None, 8, 8, 4)  <- conv
          add     Add                     (None, 8, 8, 4)  <- drop, relu
          pool    GlobalAveragePooling2D  (None, 4)        <- add
          logits  Dense                   (None, 3)        <- pool
          -> logits
        """,
    ),
    "the head of a cut through a skip": (
        residual,
        Head("conv"),
        """
        Functional 'residual_head'
          image  InputLayer  (None, 8, 8, 2)
          stem   Conv2D      (None, 8, 8, 4)  <- image
          conv   Conv2D      (None, 8, 8, 4)  <- stem
          -> stem, conv
        """,
    ),
    "the tail of a cut through a skip": (
        residual,
        Tail("conv"),
        """
        Functional 'residual_tail'
          stem +  InputLayer              (None, 8, 8, 4)
          conv +  InputLayer              (None, 8, 8, 4)
          relu    ReLU                    (None, 8, 8, 4)  <- conv
          add     Add                     (None, 8, 8, 4)  <- stem, relu
          pool    GlobalAveragePooling2D  (None, 4)        <- add
          logits  Dense                   (None, 3)        <- pool
          -> logits
        """,
    ),
    "another layer inside a nested model": (
        nested,
        Replace("encoder/relu", layers.Activation("tanh", name="tanh")),
        """
        Functional 'nested'
          x          InputLayer  (None, 4)
          encoder    Functional  (None, 4)  <- x
            inner_x  InputLayer  (None, 4)
            inner_1  Dense       (None, 5)  <- inner_x
            tanh +   Activation  (None, 5)  <- inner_1
            inner_2  Dense       (None, 4)  <- tanh
            -> inner_2
          logits     Dense       (None, 3)  <- encoder
          -> logits
        """,
    ),
    "from inside a nested model on": (
        nested,
        Truncate(start="encoder/relu"),
        """
        Functional 'nested'
          encoder +     InputLayer  (None, 5)
          encoder_tail  Functional  (None, 4)  <- encoder
            inner_1 +   InputLayer  (None, 5)
            relu        ReLU        (None, 5)  <- inner_1
            inner_2     Dense       (None, 4)  <- relu
            -> inner_2
          logits        Dense       (None, 3)  <- encoder_tail
          -> logits
        """,
    ),
    "one call of a shared layer": (
        shared,
        Replace("both@1", layers.Dense(5, name="own")),
        """
        Functional 'shared'
          right   InputLayer  (None, 4)
          left    InputLayer  (None, 4)
          both    Dense       (None, 5)  <- left
          own +   Dense       (None, 5)  <- right
          minus   Subtract    (None, 5)  <- both, own
          logits  Dense       (None, 3)  <- minus
          -> logits
        """,
    ),
    "all calls of a shared layer": (
        shared,
        Replace("both", layers.Dense(5, name="new")),
        """
        Functional 'shared'
          right    InputLayer  (None, 4)
          left     InputLayer  (None, 4)
          new@0 +  Dense       (None, 5)  <- left
          new@1 +  Dense       (None, 5)  <- right
          minus    Subtract    (None, 5)  <- new@0, new@1
          logits   Dense       (None, 3)  <- minus
          -> logits
        """,
    ),
    "up to an inner layer, without the input that it does not need": (
        multi_io,
        Truncate(end="area"),
        """
        Functional 'multi_io'
          wide  InputLayer  (None, 4)
          w     Dense       (None, 5)  <- wide
          area  Dense       (None, 2)  <- w
          -> area
        """,
    ),
    "an operation of several outputs, behind one of them": (
        raw_ops,
        Insert(layers.Dense(3, name="mix"), after="split:1"),
        """
        Functional 'raw_ops'
          x         InputLayer  (None, 6)
          dense     Dense       (None, 6)            <- x
          split     Split       (None, 3) (None, 3)  <- dense
          relu      Relu        (None, 3)            <- split:0
          mix +     Dense       (None, 3)            <- split:1
          multiply  Multiply    (None, 3)            <- relu, mix
          add       Add         (None, 3)            <- multiply
          logits    Dense       (None, 2)            <- add
          -> logits
        """,
    ),
    "a layer for an operation": (
        raw_ops,
        Replace("add", layers.Rescaling(1.0, offset=1.0, name="shift")),
        """
        Functional 'raw_ops'
          x         InputLayer  (None, 6)
          dense     Dense       (None, 6)            <- x
          split     Split       (None, 3) (None, 3)  <- dense
          relu      Relu        (None, 3)            <- split:0
          multiply  Multiply    (None, 3)            <- relu, split:1
          shift +   Rescaling   (None, 3)            <- multiply
          logits    Dense       (None, 2)            <- shift
          -> logits
        """,
    ),
    "a layer that hands a mask on": (
        masked,
        Insert(layers.Dropout(0.5, name="drop"), before="lstm"),
        """
        Functional 'masked'
          ids        InputLayer  (None, 6)
          embedding  Embedding   (None, 6, 4)  <- ids
          not_equal  NotEqual    (None, 6)     <- ids
          drop +     Dropout     (None, 6, 4)  <- embedding
          lstm       LSTM        (None, 4)     <- drop, not_equal
          logits     Dense       (None, 3)     <- lstm
          -> logits
        """,
    ),
    "other names, and a layer behind": (
        residual,
        Rename.of({"conv": "convolution", "logits": "old_logits"}),
        """
        Functional 'residual'
          image        InputLayer              (None, 8, 8, 2)
          stem         Conv2D                  (None, 8, 8, 4)  <- image
          convolution  Conv2D                  (None, 8, 8, 4)  <- stem
          relu         ReLU                    (None, 8, 8, 4)  <- convolution
          add          Add                     (None, 8, 8, 4)  <- stem, relu
          pool         GlobalAveragePooling2D  (None, 4)        <- add
          old_logits   Dense                   (None, 3)        <- pool
          -> old_logits
        """,
    ),
    "behind the output": (
        shared,
        Append(layers.Softmax(name="probabilities")),
        """
        Functional 'shared'
          right            InputLayer  (None, 4)
          left             InputLayer  (None, 4)
          both@0           Dense       (None, 5)  <- left
          both@1           Dense       (None, 5)  <- right
          minus            Subtract    (None, 5)  <- both@0, both@1
          logits           Dense       (None, 3)  <- minus
          probabilities +  Softmax     (None, 3)  <- logits
          -> probabilities
        """,
    ),
}


@pytest.mark.parametrize(
    ("build", "drawing"), SOURCES.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_a_model_is_drawn(build: Any, drawing: str) -> None:
    assert str(resect.read(build())) == textwrap.dedent(drawing).strip()


@pytest.mark.parametrize(("build", "edit", "drawing"), EDITED.values(), ids=EDITED)
def test_an_edit_is_drawn(build: Any, edit: Edit, drawing: str) -> None:
    assert_surgery(build(), edit, drawing)
