"""Every kind of model that the promise names, each as a small model that builds in a moment.

    from tests.kinds import KINDS

    kind = KINDS["functional_residual"]
    model = kind.make(seed=0)          # built, with random, non-trivial weights
    inputs = kind.inputs(model)        # random inputs in the model's own structure
    outputs_of(model, inputs)          # what it computes, as numpy arrays
    kind.reload(model, tmp_path)       # saved and loaded again

Importing the package registers all of them. Layers have fixed names, so tests and drawings can
refer to them; only operations between layers are named by Keras.
"""

from tests.kinds import (
    attention,
    convolution,
    custom,
    functional,
    hub,
    nested,
    operations,
    precision,
    preprocessing,
    recurrent,
    sequential,
    shared,
    subclassed,
    trainability,
)
from tests.kinds.registry import KINDS, PLAIN, TAGS, Kind, kind, select
from zoo.randomise import inputs_for, outputs_of, randomise

__all__ = [
    "KINDS",
    "PLAIN",
    "TAGS",
    "Kind",
    "inputs_for",
    "kind",
    "outputs_of",
    "randomise",
    "select",
]

del (
    attention,
    convolution,
    custom,
    functional,
    hub,
    nested,
    operations,
    precision,
    preprocessing,
    recurrent,
    sequential,
    shared,
    subclassed,
    trainability,
)
