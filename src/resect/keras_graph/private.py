"""Every name of Keras that is not part of its public interface.

When Keras moves something, this is the file to change. The attributes that the rest of the
package reads and writes (`_inbound_nodes`, `_keras_history`, `_value`, …) are unchanged in
Keras 3.10 to 3.15.
"""

from __future__ import annotations

import collections
import contextlib
import gc
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import keras
from keras.src.backend import compute_output_spec
from keras.src.backend.common import global_state
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.backend.common.stateless_scope import in_stateless_scope
from keras.src.layers.core.input_layer import InputLayer
from keras.src.models.functional import Functional
from keras.src.ops.function import Function
from keras.src.ops.node import Node
from keras.src.random.seed_generator import global_seed_generator
from keras.src.utils.tracking import TrackedDict, TrackedList, TrackedSet, Tracker

__all__ = [
    "FRESH_LISTS",
    "INPUTS_MUST_BE_READ",
    "TRACKED",
    "UNCOMPILED",
    "Function",
    "Functional",
    "InputLayer",
    "Node",
    "Tracker",
    "call_lists",
    "compute_output_spec",
    "deep_recursion",
    "fresh_names",
    "garbage_collection_paused",
    "get_keras_mask",
    "global_seed_generator",
    "in_stateless_scope",
    "maker_of",
    "set_keras_mask",
    "uninitialised_variables",
]

# Attributes of an operation that a copy starts without: the calls it took part in, and what
# its last eager call left behind.
FRESH_LISTS = frozenset(
    {"_inbound_nodes", "_outbound_nodes", "_losses", "_loss_ids", "_losses_override"}
)

# Containers that tell their layer what is put into them.
TRACKED: frozenset[Any] = frozenset({TrackedDict, TrackedList, TrackedSet})

# What `compile` and `fit` leave on a model. Copies of models start uncompiled; the compile state
# of the outermost model is carried on purpose, by `training`.
UNCOMPILED: dict[str, Any] = {
    "compiled": False,
    "loss": None,
    "train_function": None,
    "test_function": None,
    "predict_function": None,
    "_compile_loss": None,
    "_compile_metrics": None,
    "_loss_tracker": None,
}
COMPILED_ONLY = frozenset(
    {
        "optimizer", "_optimizer", "_compile_config", "_compiled_trainable_state",
        "stop_training", "stop_evaluating", "stop_predicting", "history", "_jax_state",
        "_jax_state_synced", "_eval_epoch_iterator", "_trainable_variable_shardings",
        "_non_trainable_variable_shardings", "_optimizer_variable_shardings",
        "_metrics_variable_shardings",
    }
)  # fmt: skip


# Before Keras 3.14 a model's input cannot be its output as it stands: something must read it.
INPUTS_MUST_BE_READ = tuple(int(part) for part in keras.__version__.split(".")[:2]) < (3, 14)


def call_lists(operation: Any) -> tuple[list[Any], list[Any]]:
    """The calls that an operation made, and those that read it, as Keras keeps them."""
    return operation._inbound_nodes, operation._outbound_nodes


def maker_of(tensor: Any) -> Any:
    """The operation that a symbolic tensor came from; `None` if nothing is recorded of it."""
    history = getattr(tensor, "_keras_history", None)
    return None if history is None else history.operation


@contextlib.contextmanager
def uninitialised_variables() -> Iterator[None]:
    """Layers that are built inside get variables with a shape and no value.

    Keras keeps a global list of such variables and would initialise them when the next stateless
    scope ends; those made here are taken off it again.
    """
    before = {id(v) for v in _uninitialised()}
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        waiting = _uninitialised()
        waiting[:] = [v for v in waiting if id(v) in before]


def _uninitialised() -> list[Any]:
    return global_state.get_global_attribute("uninitialized_variables", []) or []


@contextlib.contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Keeps Python from searching for garbage while many objects are made, all of which stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def fresh_names(taken: Iterable[str]) -> Iterator[None]:
    """Operations that are made inside are named as in a new session: `add`, then `add_1`.

    Args:
        taken: Names that they must not get.
    """
    uids = collections.defaultdict(int)
    for name in taken:
        base, _, number = name.rpartition("_")
        for prefix, count in ((name, 1), (base, int(number) + 1 if number.isdigit() else 0)):
            if prefix and count:
                uids[prefix] = max(uids[prefix], count)
    before = global_state.get_global_attribute("object_name_uids")
    global_state.set_global_attribute("object_name_uids", uids)
    try:
        yield
    finally:
        global_state.set_global_attribute("object_name_uids", before)


@contextlib.contextmanager
def deep_recursion(depth: int) -> Iterator[None]:
    """Gives Keras, which walks graphs recursively, the room that a graph of `depth` calls needs."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 1_000 + 10 * depth))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)
