"""Asks Keras what a call returns, on layers that have variables with a shape and no value."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras

from resect.graph import Change, Graph, Layer, Node, Ref, Spec, VariableSpec, map_refs
from resect.keras_graph import private
from resect.keras_graph.copying import Copier
from resect.keras_graph.making import from_config
from resect.keras_graph.reading import parts_of, spec_of
from resect.keras_graph.state import key_of, needs_batch_size, variable_specs

# How messages of Keras begin before they come to the point.
_PREAMBLES = ("Exception encountered", "Arguments", "Could not automatically infer")


class MisfitError(Exception):
    """A call that cannot take its inputs; says why."""


class WeightsMisfitError(MisfitError):
    """A call that could take its inputs, had its weights other shapes."""


@dataclass
class Outcome:
    """What Keras says of a call.

    Attributes:
        outputs: What it returns.
        skeleton: The layer as it is built for its new input shape, if it is another than before.
    """

    outputs: tuple[Spec, ...]
    skeleton: Any = None


class Asker:
    """Asks about the calls of one graph.

    Args:
        graph: The graph; it tells which outputs are read.
        spec: The specs of its tensors, as far as they are known.

    Attributes:
        made: The layers that are not the source's, as they were built, by name.
    """

    def __init__(self, graph: Graph, spec: Callable[[Ref], Spec]) -> None:
        self.made: dict[str, Any] = {}
        self._graph = graph
        self._spec = spec
        self._masks: dict[int, Ref] = {}  # masks of symbolic tensors, by identity
        self._kept_alive: list[Any] = []

    def made_outputs(self, node: Node, layer: Layer, make: Callable[[], Any]) -> tuple[Spec, ...]:
        """The outputs of a layer that is not the source's.

        Args:
            node: Its call.
            layer: The layer.
            make: Makes it, the first time that it is asked about.

        Raises:
            MisfitError: It cannot take what it is given.
        """
        args, kwargs = self._arguments(node)
        with private.uninitialised_variables():
            if layer.name not in self.made:
                self.made[layer.name] = make()
            made = self.made[layer.name]
            with _without_states(made), _answering():
                outputs = self._specs(made(*args, **kwargs))
            if len(outputs) > 1 and any(isinstance(arg, (list, tuple)) for arg in args):
                self._check_merges(node, args, kwargs, len(outputs))
            return outputs

    def kept_outputs(self, node: Node, layer: Layer) -> Outcome:
        """The outputs of a layer of the source that is given another shape or dtype.

        Raises:
            WeightsMisfitError: It could take them, had its weights other shapes.
            MisfitError: It cannot.
        """
        if self.strings_changed(node):
            raise MisfitError("strings and numbers are not the same to it.")
        args, kwargs = self._arguments(node)
        if not isinstance(layer.op, keras.Layer):
            with private.uninitialised_variables(), _answering():
                return Outcome(self._specs(_shadow(layer.op).compute_output_spec(*args, **kwargs)))
        fresh = _fresh(layer)
        if fresh is None and layer.change is not None:
            raise MisfitError("it cannot be made anew from its configuration.")
        if fresh is None:
            with private.uninitialised_variables(), _answering():
                return Outcome(self._specs(_shadow(layer.op)(*args, **kwargs)))
        with private.uninitialised_variables(), _without_states(fresh), _answering():
            outputs = self._specs(fresh(*args, **kwargs))
            if layer.change is not None and layer.change.built is not None:
                layer.change.built(fresh)
        if any(needs_batch_size(part) for part in parts_of(fresh)):
            raise MisfitError("it is stateful, which needs inputs of a fixed batch size.")
        if layer.change is not None:
            _check_change(layer, layer.change, fresh)
            return Outcome(outputs, fresh)
        misfit = _misfitting(variable_specs(layer.op), variable_specs(fresh))
        if misfit:
            raise WeightsMisfitError(misfit)
        same = variable_specs(layer.op) == variable_specs(fresh)
        return Outcome(outputs, fresh if same else None)

    def strings_changed(self, node: Node) -> bool:
        """Whether a call gets strings for numbers or numbers for strings, which Keras lets pass."""
        dtypes = zip(map(self._spec, node.inputs), node.seen, strict=True)
        return any((now.dtype == "string") != (before.dtype == "string") for now, before in dtypes)

    def _check_merges(self, node: Node, args: Any, kwargs: Any, count: int) -> None:
        """Refuses a layer that takes one tensor, where it is given several.

        Some layers answer a list of shapes with a list of shapes, and fail when they run; others
        return the list, and all but its first tensor would be lost.
        """
        layer = self.made[node.call.layer]
        try:
            found = private.compute_output_spec(layer.call, *args, **kwargs)
        except Exception as error:
            raise MisfitError(f"it takes one tensor. ({_reason(error)})") from error
        if len(keras.tree.flatten(found)) != count:
            raise MisfitError("it takes one tensor.")
        wanted = {ref.output for ref in self._graph.output_refs if ref.call == node.call}
        wanted |= {i for i in range(count) if self._graph.readers(Ref(node.call, i))}
        if len(wanted) < count:
            raise MisfitError(f"it returns {count} tensors, and {len(wanted)} would be used.")

    def _arguments(self, node: Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return map_refs(lambda r: self._symbolic(self._spec(r)), (node.args, dict(node.kwargs)))

    def _symbolic(self, spec: Spec) -> Any:
        tensor = keras.KerasTensor(spec.shape, dtype=spec.dtype, sparse=spec.sparse)
        if spec.mask is not None:
            mask = keras.KerasTensor(spec.shape[:2], dtype="bool")
            private.set_keras_mask(tensor, mask)
            if spec.mask is not True:
                self._masks[id(mask)] = spec.mask
                self._kept_alive.append(mask)
        return tensor

    def _specs(self, outputs: Any) -> tuple[Spec, ...]:
        return tuple(spec_of(tensor, self._masks) for tensor in keras.tree.flatten(outputs))


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """Whatever Keras or a layer raises inside is why the call does not fit."""
    try:
        yield
    except Exception as error:
        raise MisfitError(_reason(error)) from error


@contextlib.contextmanager
def _without_states(operation: Any) -> Iterator[None]:
    """Keras cannot make the states of a recurrent layer while variables have no values."""
    stateful = [part for part in parts_of(operation) if getattr(part, "stateful", False)]
    for part in stateful:
        part.stateful = False
    try:
        yield
    finally:
        for part in stateful:
            part.stateful = True


# What weights are held in where they are quantized; other integers, such as ids, are themselves.
_QUANTIZED = ("int4", "int8", "uint8")


def _check_change(layer: Layer, change: Change, fresh: Any) -> None:
    """Every variable of a changed layer must be accounted for, before and after.

    Raises:
        MisfitError: One would be lost, or would start afresh unasked; or one that is to get
            another value is quantized, or not the only one of its name.
    """
    left = []
    for each in (layer.op, fresh):
        keys = [key_of(variable, change.values) for variable in getattr(each, "weights", ())]
        specs = variable_specs(each)
        for key, spec in zip(keys, specs, strict=True):
            if key is None or change.values[key] is None:
                continue
            if keys.count(key) > 1:
                raise MisfitError(f"several of its variables are called {key}.")
            if spec.dtype in _QUANTIZED:
                raise MisfitError(f"its {spec.name} is quantized ({spec.dtype}).")
        left.append([spec for key, spec in zip(keys, specs, strict=True) if key is None])
    was, now = left
    if sorted(was) == sorted(now) and (was == now or len(set(was)) == len(was)):
        return
    if misfit := _misfitting(tuple(was), tuple(now)):
        raise WeightsMisfitError(misfit)
    odd = sorted({v.name for v in {*was} ^ {*now}}) or [v.name for v in was]
    raise MisfitError(
        f"a layer of its configuration has other variables ({', '.join(odd)}) than it has."
    )


def _fresh(layer: Layer) -> Any:
    """An unbuilt layer of the same configuration; `None` where there is no such thing."""
    with private.uninitialised_variables():
        try:
            return from_config(layer.recipe, layer.name)
        except Exception:  # no usable configuration: a copy of the built layer is asked
            return None


def _shadow(operation: Any) -> Any:
    """A copy around the same variables: calling it leaves no calls on the source."""
    from resect.keras_graph.writing import copy_model

    return Copier("share", copy_model).layer(operation)


def _misfitting(was: tuple[VariableSpec, ...], now: tuple[VariableSpec, ...]) -> str:
    """Says which weights have another shape now; `""` if none has."""
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for variable in was:
        shapes.setdefault(variable.name, []).append(variable.shape)
    for variable in now:
        if variable.shape not in shapes.get(variable.name, [variable.shape]):
            held = " or ".join(map(str, shapes[variable.name]))
            return f"its {variable.name} is {held} and would have to be {variable.shape}."
    return ""


def _reason(error: BaseException) -> str:
    """The first sentence of what Keras said, without colours and its report of the arguments."""
    text = re.sub(r"\x1b\[\d+m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(_PREAMBLES)]
    said = (kept or lines or [type(error).__name__])[0]
    return said if said.endswith((".", "!", "?")) else f"{said}."
