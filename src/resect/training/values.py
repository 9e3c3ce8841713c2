"""All that training changes in a model, as arrays: what a step leaves behind."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from resect.errors import SurgeryError

#: The name of what a generator of random numbers keeps.
SEED = "seed_generator_state"


@dataclass(frozen=True, eq=False)
class Values:
    """The variables of a model and of its optimizer.

    Attributes:
        paths: The names of the model's variables, in its order.
        arrays: Their values.
        optimizer: The values of the optimizer's; empty where there is none.
        started: Whether it has been in use: then it counts steps, even if it keeps nothing else.
    """

    paths: tuple[str, ...]
    arrays: tuple[np.ndarray, ...]
    optimizer: tuple[np.ndarray, ...] = ()
    started: bool = False

    def same(self, other: Values) -> bool:
        """Whether they are equal, bit by bit."""
        pairs = zip(self._all(), other._all(), strict=False)
        return (
            self.paths == other.paths
            and (len(self.optimizer), self.started) == (len(other.optimizer), other.started)
            and all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
        )

    def _all(self) -> Sequence[np.ndarray]:
        return [*self.arrays, *self.optimizer]


def values_of(model: Any, optimizer: Any = None) -> Values:
    """What a model holds.

    Args:
        model: The model.
        optimizer: Whose state goes on with it; by default its own.
    """
    optimizer = optimizer or getattr(model, "optimizer", None)
    return Values(
        tuple(_path(variable) for variable in model.variables),
        tuple(_array(variable) for variable in model.variables),
        tuple(_array(variable) for variable in getattr(optimizer, "variables", ())),
        bool(getattr(optimizer, "built", False)),
    )


def give(model: Any, values: Values) -> Any:
    """A model, with those values in it.

    Raises:
        SurgeryError: They are not those of such a model.
    """
    fit_together(model, values)
    _assign(model.variables, values.arrays)
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not values.optimizer:
        return model
    if values.started and not optimizer.built:
        optimizer.build(model.trainable_variables)
    # One that was not in use has but counters; a copy that was loaded has fresh slots as well.
    count = len(optimizer.variables if values.started else values.optimizer)
    _assign(optimizer.variables[:count], values.optimizer)
    return model


def reseed(model: Any, seed: int) -> None:
    """Has all generators of random numbers in a model begin anew."""
    states = [variable for variable in model.variables if _path(variable) == SEED]
    for number, state in enumerate(states):
        drawn = int(np.random.SeedSequence((seed, number)).generate_state(1)[0]) % 2**31
        state.assign(np.array([drawn, 0]))


def fit_together(model: Any, values: Values) -> None:
    """Raises if a model has other variables than those.

    Raises:
        SurgeryError: It has.
    """
    ours = [(_path(v), tuple(v.shape)) for v in model.variables]
    theirs = [(p, a.shape) for p, a in zip(values.paths, values.arrays, strict=True)]
    if ours == theirs:
        return
    pairs = itertools.zip_longest(ours, theirs)
    what = next(" ".join(map(str, a or b or ())) for a, b in pairs if a != b)
    raise SurgeryError(
        "The recovered model has other variables than the one that was to be recovered, "
        f"first of all {what}.",
        "Train the model that recover is given, or return one with the same layers.",
    )


def _assign(variables: Sequence[Any], arrays: Sequence[np.ndarray]) -> None:
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _path(variable: Any) -> str:
    """Its path; of a seed, whose generator Keras numbers in every session, only what it is."""
    path = variable.path
    return SEED if path.endswith(SEED) else path


def _array(variable: Any) -> np.ndarray:
    """The value; of types that NumPy does not know itself, in the next larger one, exactly."""
    array = np.array(keras.ops.convert_to_numpy(variable.value))
    return array.astype("float32") if array.dtype.kind == "V" else array
