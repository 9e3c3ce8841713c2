"""What a trace would get silently wrong, and how that is seen."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from resect.errors import TraceError
from resect.keras_graph.symbolic import Subject, line_of_call, recorded, symbolic_run


def check_constants(subject: Subject, outputs: Any) -> None:
    """Refuses weights, and tensors computed from weights, among the recorded arguments.

    Args:
        subject: What was traced.
        outputs: What came of it.

    Raises:
        TraceError: There are some.
    """
    owner = subject.owner
    constants = _constants(outputs)
    for constant in constants:
        if isinstance(constant, keras.Variable):
            raise _constant_weight(owner, f"the weight '{constant.path}'")
    if not constants:
        return
    shifted = [(v, keras.ops.add(v.value, 1)) for v in owner.weights if "float" in str(v.dtype)]
    others = _constants(symbolic_run(subject, None, shifted))
    for one, other in zip(constants, others, strict=True):
        if not np.array_equal(_numpy(one), _numpy(other)):
            raise _constant_weight(owner, f"a tensor of shape {tuple(one.shape)} made of weights")


def _constant_weight(owner: Any, what: str) -> TraceError:
    return TraceError(
        f"{line_of_call(owner, r'self[.]')}: {type(owner).__name__}.call uses {what} outside a "
        "layer. In a graph of calls it would become a constant.",
        "Move the weight and the operation on it into a layer of its own.",
        owner.name,
    )


def _constants(outputs: Any) -> list[Any]:
    """The variables and backend tensors among the arguments of all recorded calls."""
    found = []
    for node in recorded(outputs):
        for leaf in keras.tree.flatten((node.arguments.args, node.arguments.kwargs)):
            if isinstance(leaf, keras.Variable) or keras.ops.is_tensor(leaf):
                found.append(leaf)
    return found


def check_training(subject: Subject) -> None:
    """Refuses a `call` that takes another way in training mode, or fixes the mode of a layer.

    Raises:
        TraceError: It does.
    """
    owner = subject.owner
    traces = {mode: symbolic_run(subject, mode) for mode in (False, True)}
    if _shape_of_trace(traces[False]) != _shape_of_trace(traces[True]):
        raise TraceError(
            f"{line_of_call(owner, r'if .*training|training .*else')}: "
            f"{type(owner).__name__}.call takes another way in training mode. "
            "A graph has only one.",
            "Put the difference into a layer that takes training, as Dropout does.",
            owner.name,
        )
    for mode, outputs in traces.items():
        for node in reversed(recorded(outputs)):
            told = node.arguments.kwargs.get("training", mode)
            if told is (not mode) or (told is None and mode):  # which Keras takes for False
                raise _fixed_mode(owner, node.operation.name, told)


def _fixed_mode(owner: Any, layer: str, mode: bool | None) -> TraceError:
    return TraceError(
        f"{line_of_call(owner, rf'training *= *{mode}')}: {type(owner).__name__}.call always calls "
        f"'{layer}' with training={mode}. In a Functional model Keras overrides that.",
        "Put that call into a layer of its own, which is one call in the graph.",
        owner.name,
    )


def _shape_of_trace(outputs: Any) -> Any:
    """What was called with what, in which order and wiring; the mode itself left out."""
    nodes = list(reversed(recorded(outputs)))
    tensors = {id(t): (i, k) for i, n in enumerate(nodes) for k, t in enumerate(n.outputs)}

    def plain(structure: Any) -> Any:
        return keras.tree.map_structure(lambda leaf: tensors.get(id(leaf), _plain(leaf)), structure)

    calls = []
    for node in nodes:
        kwargs = {k: v for k, v in node.arguments.kwargs.items() if k != "training"}
        calls.append((_settings(node.operation), plain(node.arguments.args), plain(kwargs)))
    return calls, plain(outputs)


def _settings(operation: Any) -> Any:
    """A layer itself; of a raw operation the class and what it was told."""
    if isinstance(operation, keras.Layer):
        return operation.name
    own = {k: _plain(v) for k, v in vars(operation).items() if k != "name" and k[0] != "_"}
    return type(operation).__name__, own


def _plain(value: Any) -> Any:
    """A value that can be compared: constants by value, everything else by its kind."""
    if isinstance(value, (int, float, complex, str, bytes, slice, type(None), type(...))):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return value.shape, str(value.dtype), value.tobytes()
    if keras.ops.is_tensor(value):
        return _plain(np.asarray(_numpy(value)))
    return type(value).__name__


def _numpy(tensor: Any) -> Any:
    return keras.ops.convert_to_numpy(tensor)
