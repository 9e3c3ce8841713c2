"""Traces the `call` of a subclassed model into a graph.

A trace runs `call` once on symbolic inputs and records what it calls. What a trace would get
silently wrong is looked for and refused: a branch on `training`, a variable that `call` updates, a
weight that turns into a constant, a result that differs from the model's own.
"""

from __future__ import annotations

import inspect
import linecache
import re
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from resect.errors import TraceError, UnbuiltError
from resect.graph import Graph
from resect.keras_graph import private
from resect.keras_graph.reading import has_graph, not_a_model, read

_LIBRARIES = ("keras", "keras_hub", "jax", "jaxlib", "torch", "tensorflow", "resect", "optree")


def trace(model: Any, inputs: Any = None) -> Graph:
    """The graph of a subclassed model, on the model's own layers.

    Args:
        model: A built subclassed `keras.Model`.
        inputs: Structure of `keras.Input` tensors as `call` takes it; by default tensors of the
            shapes that the model was built with, in Keras's default float type.

    Raises:
        NotAModelError: Not a Keras 3 model.
        TraceError: `call` cannot be traced, or not exactly; names the file and line.
        UnbuiltError: The model has no weights or no input shape yet.
    """
    if not isinstance(model, keras.Model):
        raise not_a_model(model)
    if has_graph(model) or isinstance(model, keras.Sequential):
        return read(model)
    _check_built(model)
    _check_arguments(model)
    marks = _Marks(model)
    try:
        with private.fresh_names(_names(model, inputs)):  # every trace names its operations alike
            inputs = _default_inputs(model) if inputs is None else inputs
            outputs = _call(model, inputs, None)
        _check_constants(model, inputs, outputs)
        _check_training(model, inputs)
        return _graph(model, inputs, outputs)
    finally:
        marks.restore()


def _names(model: Any, inputs: Any) -> list[str]:
    """The names that are in use before a trace."""
    flat = [] if inputs is None else keras.tree.flatten(inputs)
    given = [tensor._keras_history.operation.name for tensor in flat]
    return [*given, *(layer.name for layer in model._flatten_layers())]


class _Marks:
    """Takes the calls that a trace records on the model's layers off again."""

    def __init__(self, model: Any) -> None:
        self.lengths = [
            (layer, len(layer._inbound_nodes), len(layer._outbound_nodes))
            for layer in model._flatten_layers()
        ]

    def restore(self) -> None:
        for layer, inbound, outbound in self.lengths:
            del layer._inbound_nodes[inbound:]
            del layer._outbound_nodes[outbound:]


def _check_built(model: Any) -> None:
    parts = model._flatten_layers(include_self=False)
    unbuilt = [layer.name for layer in parts if not layer.built]
    if not model.built or unbuilt:
        which = f" (nor have {', '.join(unbuilt[:4])})" if unbuilt else ""
        raise UnbuiltError(
            f"{type(model).__name__} '{model.name}' has not been built{which}: it has no weights.",
            "Call it once on a batch of data: model(batch).",
            model.name,
        )


def _check_arguments(model: Any) -> None:
    """Refuses a `call` that needs several arguments: a Functional model takes one structure."""
    parameters = inspect.signature(model.call).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind <= 1]
    if len(needed) > 1:
        raise _several_arguments(model, needed)


def _several_arguments(model: Any, names: Sequence[str]) -> TraceError:
    return TraceError(
        f"{place_of_call(model)}: {type(model).__name__}.call takes {len(names)} tensors: "
        f"{', '.join(names)}. A Functional model takes one structure.",
        "Let call take a list or a dict, and pass inputs=[keras.Input(...), ...].",
        model.name,
    )


def _default_inputs(model: Any) -> Any:
    shapes = model._build_shapes_dict
    if not shapes:
        raise UnbuiltError(
            f"{type(model).__name__} '{model.name}' does not say what shape its inputs have.",
            "Say it: resect.functional(model, inputs=keras.Input(shape)).",
            model.name,
        )
    if len(shapes) > 1:
        raise _several_arguments(model, [name.removesuffix("_shape") for name in shapes])
    return _inputs_like(next(iter(shapes.values())))


def _inputs_like(shape: Any, name: str | None = None) -> Any:
    """Symbolic inputs for a structure of shapes; those in a dict are named by its keys."""
    if isinstance(shape, dict):
        return {key: _inputs_like(item, key) for key, item in shape.items()}
    if all(size is None or isinstance(size, int) for size in shape):
        return keras.Input(batch_shape=(None, *shape[1:]), name=name)
    return [_inputs_like(item) for item in shape]


def _call(model: Any, inputs: Any, training: bool | None, values: Any = ()) -> Any:
    """One symbolic run of `call`; refuses if it raises or changes a variable."""
    takes_training = "training" in inspect.signature(model.call).parameters
    kwargs = {"training": training} if takes_training else {}
    around = _Around(lambda: model.call(inputs, **kwargs))
    with keras.StatelessScope(state_mapping=values, initialize_variables=False) as scope:
        before = {id(v): scope.get_current_value(v) for v in model.variables}
        outputs = around(training=training)
        if around.error is not None:
            raise _stopped(model, around.error) from around.error
        changed = [v for v in model.variables if scope.get_current_value(v) is not before[id(v)]]
    if changed:
        raise TraceError(
            f"{_where(model, r'assign')}: {type(model).__name__}.call updates the variable "
            f"'{changed[0].path}'. A graph of calls would not.",
            "Move the update into a layer of its own.",
            model.name,
        )
    leaves = keras.tree.flatten(outputs)
    if not leaves or not all(isinstance(leaf, keras.KerasTensor) for leaf in leaves):
        raise TraceError(
            f"{_where(model, r'return')}: {type(model).__name__}.call returns something else than "
            "tensors that depend on its inputs.",
            "Return tensors, or lists and dicts of them.",
            model.name,
        )
    return outputs


class _Around(keras.Layer):
    """Stands for the model: layers that are not told the mode take that of the call around them.

    Attributes:
        error: What the model's own code has raised, which Keras would dress up.
    """

    def __init__(self, run: Callable[[], Any]) -> None:
        super().__init__(autocast=False, name="around")
        self.run = run
        self.error: Exception | None = None
        self.built = True

    def call(self, training: bool | None = None) -> Any:
        try:
            return self.run()
        except Exception as error:
            self.error = error
            return None


def _stopped(model: Any, error: Exception) -> TraceError:
    """The error of a trace, with the last line of the user's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_library(frame.filename)]
    if not own:
        place, line = _where(model, r"def call"), ""
    else:
        place = f"{own[-1].filename}:{own[-1].lineno}"
        line = f"\n  {own[-1].line}"
    return TraceError(
        f"{place}: {type(model).__name__}.call cannot be traced on symbolic tensors.{line}\n"
        f"  {type(error).__name__}: {_first_line(error)}",
        "Write that line with keras.ops, or move it into a layer of its own.",
        model.name,
    )


def _is_library(filename: str) -> bool:
    parts = Path(filename).parts
    if "site-packages" in parts or "dist-packages" in parts or filename.startswith("<frozen"):
        return True
    return "resect" in parts and Path(filename).name in ("tracing.py", "__init__.py", "verbs.py")


# What a trace gets silently wrong


def _check_constants(model: Any, inputs: Any, outputs: Any) -> None:
    """Refuses weights, and tensors computed from weights, among the recorded arguments."""
    constants = _constants(outputs)
    for constant in constants:
        if isinstance(constant, keras.Variable):
            raise _constant_weight(model, f"the weight '{constant.path}'")
    if not constants:
        return
    shifted = [(v, keras.ops.add(v.value, 1)) for v in model.weights if "float" in str(v.dtype)]
    others = _constants(_call(model, inputs, None, shifted))
    for one, other in zip(constants, others, strict=True):
        if not np.array_equal(_numpy(one), _numpy(other)):
            raise _constant_weight(model, f"a tensor of shape {tuple(one.shape)} made of weights")


def _constant_weight(model: Any, what: str) -> TraceError:
    return TraceError(
        f"{_where(model, r'self[.]')}: {type(model).__name__}.call uses {what} outside a layer. "
        "In a graph of calls it would become a constant.",
        "Move the weight and the operation on it into a layer of its own.",
        model.name,
    )


def _constants(outputs: Any) -> list[Any]:
    """The variables and backend tensors among the arguments of all recorded calls."""
    found = []
    for node in _recorded(outputs):
        for leaf in keras.tree.flatten((node.arguments.args, node.arguments.kwargs)):
            if isinstance(leaf, keras.Variable) or keras.ops.is_tensor(leaf):
                found.append(leaf)
    return found


def _recorded(outputs: Any) -> list[Any]:
    seen: dict[int, Any] = {}
    stack = [t._keras_history for t in keras.tree.flatten(outputs)]
    while stack:
        operation, index, _ = stack.pop()
        if operation is None:
            continue
        node = operation._inbound_nodes[index]
        if id(node) not in seen:
            seen[id(node)] = node
            stack.extend(t._keras_history for t in node.input_tensors)
    return list(seen.values())


def _check_training(model: Any, inputs: Any) -> None:
    """Refuses a `call` that takes another way in training mode, or fixes the mode of a layer."""
    traces = {mode: _call(model, inputs, mode) for mode in (False, True)}
    if _shape_of_trace(traces[False]) != _shape_of_trace(traces[True]):
        raise TraceError(
            f"{_where(model, r'if .*training|training .*else')}: {type(model).__name__}.call takes "
            "another way in training mode. A graph has only one.",
            "Put the difference into a layer that takes training, as Dropout does.",
            model.name,
        )
    for mode, outputs in traces.items():
        for node in reversed(_recorded(outputs)):
            if node.arguments.kwargs.get("training") is (not mode):
                raise _fixed_mode(model, node.operation.name, not mode)


def _fixed_mode(model: Any, layer: str, mode: bool) -> TraceError:
    return TraceError(
        f"{_where(model, rf'training *= *{mode}')}: {type(model).__name__}.call always calls "
        f"'{layer}' with training={mode}. In a Functional model Keras overrides that.",
        "Put that call into a layer of its own, which is one call in the graph.",
        model.name,
    )


def _shape_of_trace(outputs: Any) -> Any:
    """What was called with what, in which order and wiring; the mode itself left out."""
    nodes = list(reversed(_recorded(outputs)))
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


def _graph(model: Any, inputs: Any, outputs: Any) -> Graph:
    """Reads the recorded calls, through a Functional that is thrown away."""
    with private.deep_recursion(len(_recorded(outputs))):
        function = private.Function(inputs, outputs, name=model.name)
    graph = read(function)
    return graph.evolve(model=None, name=model.name, edited=True)


def _numpy(tensor: Any) -> Any:
    return keras.ops.convert_to_numpy(tensor)


def place_of_call(model: Any) -> str:
    """File and line of the `call` of a subclassed model."""
    return _where(model, r"def call")


def _where(model: Any, pattern: str) -> str:
    """File and line of the first line of `call` that looks like the cause."""
    try:
        lines, start = inspect.getsourcelines(type(model).call)
        filename = inspect.getsourcefile(type(model)) or "?"
    except (OSError, TypeError):
        return f"{type(model).__name__}.call"
    linecache.checkcache(filename)
    for offset, line in enumerate(lines):
        if offset and re.search(pattern, line):
            return f"{filename}:{start + offset}"
    return f"{filename}:{start}"


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "")
