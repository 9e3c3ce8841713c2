"""Runs the `call` of a model or layer once on symbolic tensors.

What it calls is recorded by Keras. A run that raises, or that changes a variable, is refused with
the line that is to blame.
"""

from __future__ import annotations

import contextlib
import inspect
import linecache
import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from resect.errors import TraceError
from resect.keras_graph import private

_LIBRARY = Path(__file__).parents[1]


@dataclass(frozen=True)
class Subject:
    """What is traced.

    Attributes:
        owner: The model or layer whose `call` it is.
        run: Runs it in a mode, `None` for what it does by default, on the same symbolic tensors
            each time.
    """

    owner: Any
    run: Callable[[bool | None], Any]


def symbolic_run(subject: Subject, training: bool | None, values: Any = ()) -> Any:
    """What `call` returns for symbolic tensors.

    Args:
        subject: What is run.
        training: The mode.
        values: Pairs of a variable and the value that it is to have meanwhile.

    Raises:
        TraceError: It raises, changes a variable or returns no tensors; names the file and line.
    """
    owner = subject.owner
    around = _Around(lambda: subject.run(training))
    seed = private.global_seed_generator().state
    with keras.StatelessScope(state_mapping=values, initialize_variables=False) as scope:
        before = {id(v): scope.get_current_value(v) for v in owner.variables}
        outputs = around(training=training)
        if around.error is not None:
            raise _stopped(owner, around.error) from around.error
        if scope.get_current_value(seed) is not None:
            raise TraceError(
                f"{line_of_call(owner, r'random')}: {type(owner).__name__}.call draws random "
                "numbers without a layer. In a graph of calls they would always be the same.",
                "Draw them in a layer of its own.",
                owner.name,
            )
        changed = [v for v in owner.variables if scope.get_current_value(v) is not before[id(v)]]
    if changed:
        raise TraceError(
            f"{line_of_call(owner, r'assign')}: {type(owner).__name__}.call updates the variable "
            f"'{changed[0].path}'. A graph of calls would not.",
            "Move the update into a layer of its own.",
            owner.name,
        )
    leaves = keras.tree.flatten(outputs)
    if not leaves or not all(isinstance(leaf, keras.KerasTensor) for leaf in leaves):
        raise TraceError(
            f"{line_of_call(owner, r'return')}: {type(owner).__name__}.call returns something else "
            "than tensors that depend on its inputs.",
            "Return tensors, or lists and dicts of them.",
            owner.name,
        )
    return outputs


@contextlib.contextmanager
def unrecorded(owner: Any) -> Iterator[None]:
    """Takes the calls that are recorded inside on a model's or layer's own layers off again."""
    lengths = [
        (layer, len(layer._inbound_nodes), len(layer._outbound_nodes))
        for layer in owner._flatten_layers()
    ]
    try:
        yield
    finally:
        for layer, inbound, outbound in lengths:
            del layer._inbound_nodes[inbound:]
            del layer._outbound_nodes[outbound:]


def recorded(outputs: Any) -> list[Any]:
    """Every call that Keras recorded on the way to some tensors, the last ones first."""
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


def function_between(inputs: Any, outputs: Any, name: str) -> Any:
    """What Keras recorded between some symbolic tensors, as a `Function`.

    Before Keras 3.14 an input that nothing reads, or that is an output as it stands, is taken for a
    mistake. Such inputs get a reader, which leads nowhere and so is not part of the function.
    """
    if private.INPUTS_MUST_BE_READ:
        for tensor in keras.tree.flatten(inputs):
            if not private.call_lists(private.maker_of(tensor))[1]:
                keras.layers.Identity(name=f"{name}_read")(tensor)
    return private.Function(inputs, outputs, name=name)


class _Around(keras.Layer):
    """Stands for the call around it: layers that are not told the mode take that of this one.

    Attributes:
        error: What its own code has raised, which Keras would dress up.
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


def _stopped(owner: Any, error: Exception) -> TraceError:
    """The error of a trace, with the last line of the user's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_library(frame.filename)]
    if not own:
        place, line = line_of_call(owner, r"def call"), ""
    else:
        place = f"{own[-1].filename}:{own[-1].lineno}"
        line = f"\n  {own[-1].line}"
    return TraceError(
        f"{place}: {type(owner).__name__}.call cannot be traced on symbolic tensors.{line}\n"
        f"  {type(error).__name__}: {_first_line(error)}",
        "Write that line with keras.ops, or move it into a layer of its own.",
        owner.name,
    )


def _is_library(filename: str) -> bool:
    path = Path(filename)
    if {"site-packages", "dist-packages"} & set(path.parts) or filename.startswith("<frozen"):
        return True
    return _LIBRARY in path.parents


def place_of_call(owner: Any) -> str:
    """File and line of the `call` of a model or layer."""
    return line_of_call(owner, r"def call")


def line_of_call(owner: Any, pattern: str) -> str:
    """File and line of the first line of `call` that looks like the cause."""
    try:
        lines, start = inspect.getsourcelines(type(owner).call)
        filename = inspect.getsourcefile(type(owner)) or "?"
    except (OSError, TypeError):
        return f"{type(owner).__name__}.call"
    linecache.checkcache(filename)
    for offset, line in enumerate(lines):
        if offset and re.search(pattern, line):
            return f"{filename}:{start + offset}"
    return f"{filename}:{start}"


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "")
