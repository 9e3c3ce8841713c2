"""Runs segments of a program on the source's own layers, in inference, leaving nothing behind."""

from __future__ import annotations

import functools
import gc
import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import keras

from resect.errors import SurgeryError
from resect.graph import Ref, Spec, map_refs
from resect.importance.backends import bytes_in, compiled, compiles, values_of
from resect.importance.program import Segment, Step, numbered
from resect.keras_graph.fingerprints import fingerprint
from resect.keras_graph.private import get_keras_mask
from resect.keras_graph.scoring import masked


class Held(NamedTuple):
    """A value between two segments, with the mask that Keras attaches to it."""

    tensor: Any
    mask: Any = None

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return sum(bytes_in(part) for part in self if part is not None)


Values = Mapping[Ref, Held]


class Executor:
    """Runs segments, each compiled where the backend compiles, and segments that are alike once.

    Attributes:
        compilations: How many functions there are to compile.
    """

    def __init__(self) -> None:
        self._functions: dict[Hashable, Callable[..., Any]] = {}
        self._prepared: dict[int, tuple[Callable[..., Any], list[Any]]] = {}
        self._alive: list[Segment] = []

    @property
    def compilations(self) -> int:
        return len(self._functions)

    def run(self, segment: Segment, values: Values) -> tuple[dict[Ref, Held], Any]:
        """What a segment makes of values; what its layers add to the loss, `None` for nothing."""
        function, variables = self._function(segment)
        given = [tuple(values[ref]) for ref in segment.inputs]
        made, loss = function(variables, given)
        gc.collect(1)  # calls of layers, and compiling, leave cycles that hold what they were given
        held = {ref: Held(*pair) for ref, pair in zip(segment.outputs, made, strict=True)}
        return held, loss

    def _function(self, segment: Segment) -> tuple[Callable[..., Any], list[Any]]:
        found = self._prepared.get(id(segment))
        if found is None:
            self._alive.append(segment)  # so that its id stays its own
            variables = variables_of(segment.steps) if compiles() else []
            key = _key(segment) if compiles() else id(segment)
            if key not in self._functions:
                self._functions[key] = compiled(_runner(segment, variables))
            found = self._prepared[id(segment)] = self._functions[key], values_of(variables)
        return found


def variables_of(steps: Sequence[Step]) -> list[Any]:
    """The variables of the layers of some steps, each once."""
    found = {
        id(variable): variable
        for step in steps
        for variable in getattr(step.operation, "variables", ())
    }
    return list(found.values())


def _key(segment: Segment) -> Hashable:
    seen: dict[int, int] = {}
    wiring, _ = numbered(segment)
    operations = tuple(
        ("conversion", step.spec and step.spec[:2])
        if step.operation is None
        else fingerprint(step.operation, seen)
        for step in segment.steps
    )
    return operations, fingerprint(wiring, seen)


def _runner(segment: Segment, variables: Sequence[Any]) -> Callable[..., Any]:
    def run(values: list[Any], given: Sequence[tuple[Any, Any]]) -> tuple[list[Any], Any]:
        mapping = list(zip(variables, values, strict=True))
        held = {ref: Held(*pair) for ref, pair in zip(segment.inputs, given, strict=True)}
        with keras.StatelessScope(mapping, collect_losses=True) as scope:
            made = evaluate(segment.steps, held, scope)
            losses: list[Any] = [keras.ops.sum(loss) for loss in scope.losses]
        return [tuple(made[ref]) for ref in segment.outputs], sum(losses) if losses else None

    return run


def evaluate(
    steps: Sequence[Step],
    values: Values,
    scope: Any,
    changed: Callable[[Ref, Any], Any] | None = None,
) -> dict[Ref, Held]:
    """Every value that steps make, and those that they were given.

    Args:
        steps: The steps.
        values: What they read.
        scope: The stateless scope that this runs in.
        changed: What is done to a value before anything reads it.

    Raises:
        SurgeryError: A layer updates a variable in inference.
    """
    before = dict(scope.state_mapping)
    tensors = {ref: masked(held.tensor, held.mask) for ref, held in values.items()}
    outermost = _Outermost()
    outermost.waiting.append(lambda: _calls(steps, tensors, changed))
    outermost(training=False)
    after = scope.state_mapping
    if len(after) > len(before) or any(after[key] is not old for key, old in before.items()):
        raise _stateful(steps, {k for k, value in after.items() if value is not before.get(k)})
    return {ref: Held(tensor, get_keras_mask(tensor)) for ref, tensor in tensors.items()}


def _stateful(steps: Sequence[Step], updated: set[int]) -> SurgeryError:
    def of(operation: Any) -> list[Any]:
        states = keras.tree.flatten(getattr(operation, "states", None) or [])
        return [*getattr(operation, "variables", ()), *states]

    owners = (s.operation for s in steps if updated & {id(v) for v in of(s.operation)})
    name = getattr(next(owners, None), "name", "a layer")
    return SurgeryError(
        f"'{name}' updates its state in inference, so what a batch gives depends on the batches "
        "before it.",
        "Measure a model without that state: for recurrent layers, "
        "resect.adapt.recurrent(model, stateful=False).",
        name,
    )


class _Outermost(keras.Layer):
    """Stands for the model, inside which layers are called.

    A layer that takes no `training` argument hands on the one of the call around it. What is run
    is let go at once: layers are garbage that Python frees only now and then.
    """

    def __init__(self) -> None:
        super().__init__(autocast=False, name="outermost")
        self.waiting: list[Callable[[], None]] = []
        self.built = True

    def call(self, training: bool = False) -> None:
        self.waiting.pop()()


def _calls(
    steps: Sequence[Step], tensors: dict[Ref, Any], changed: Callable[[Ref, Any], Any] | None
) -> None:
    for step in steps:
        args, kwargs = map_refs(tensors.__getitem__, (step.args, dict(step.kwargs)))
        if step.operation is None:
            assert step.spec is not None
            made = [converted(args[0], step.spec)]
        else:
            if isinstance(step.operation, keras.Layer) and _takes_training(
                cast(Any, type(step.operation))
            ):
                kwargs["training"] = False
            made = keras.tree.flatten(step.operation(*args, **kwargs))
        if changed is not None:
            made = [changed(ref, t) for ref, t in zip(step.outputs, made, strict=False)]
        tensors.update(zip(step.outputs, made, strict=False))


@functools.cache
def _takes_training(layer: Any) -> bool:
    return "training" in inspect.signature(layer.call).parameters


def converted(value: Any, spec: Spec) -> Any:
    """As a model takes it: of that dtype, with a last axis of one added or dropped."""
    mask = get_keras_mask(value) if keras.ops.is_tensor(value) else None
    tensor: Any = keras.ops.convert_to_tensor(value, dtype=spec.dtype, sparse=spec.sparse)
    rank, wanted = len(tensor.shape), len(spec.shape)
    if rank == wanted + 1 and tensor.shape[-1] == 1:
        tensor = keras.ops.squeeze(tensor, axis=-1)
    elif rank == wanted - 1 and spec.shape[-1] == 1:
        tensor = keras.ops.expand_dims(tensor, axis=-1)
    return masked(tensor, mask) if mask is not None else tensor
