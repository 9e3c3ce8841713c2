"""A space: choices one after the other; and when two variants are the same one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from resect.blocks import Block
from resect.graph import Graph, Layer, Node, Ref, map_refs
from resect.plan import Plan
from resect.search.choices import Choice
from resect.training.identity import plain


@dataclasses.dataclass(frozen=True)
class Space:
    """Choices, made one after the other.

    Attributes:
        choices: Functions of a trial and a plan.
    """

    choices: tuple[Choice, ...]

    @classmethod
    def of(cls, given: Any) -> Space:
        """What the user gave: a choice, or several.

        Raises:
            TypeError: It is something else.
        """
        choices = tuple(given) if isinstance(given, Iterable) else (given,)
        for choice in choices:
            if not callable(choice) or isinstance(choice, type):
                raise TypeError(
                    "A space is one or several choices, such as resect.search.Remove(), or "
                    f"functions of a trial and a plan that return a plan; not {choice!r}."
                )
        if not choices:
            raise TypeError("A space without choices has nothing to search.")
        return cls(choices)

    def plan(self, trial: Any, plan: Plan) -> Plan:
        """The plan that a trial chooses.

        Args:
            trial: Optuna's trial.
            plan: The plan that does nothing.

        Raises:
            TypeError: A choice returned no plan of that model.
        """
        for choice in self.choices:
            found = choice(trial, plan)
            if not isinstance(found, Plan) or found.model is not plan.model:
                raise TypeError(
                    f"{_name(choice)} returned {type(found).__name__}, and not the plan that it "
                    "was given, with edits added."
                )
            plan = found
        return plan

    def described(self) -> list[Any]:
        """The choices as JSON, the same in every process."""
        return [_described(choice) for choice in self.choices]


def _name(choice: Any) -> str:
    return getattr(choice, "__qualname__", type(choice).__name__)


def _described(value: Any) -> Any:
    if isinstance(value, Block):
        return list(value.ends)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _described(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(key): _described(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_described(item) for item in value]
    return plain(value)


# The same variant


def variant_key(graph: Graph, params: Mapping[str, Any]) -> str:
    """A hash that is equal for graphs that compute the same from the same source.

    New layers go by their class, configuration and place, and not by their names. Where something
    in the graph has no such description, `params` take part, so that variants count as the same
    only if they were chosen alike.

    Args:
        graph: The edited graph.
        params: What the trial chose.
    """
    digest = _Digest()
    found: list[Any] = [[list(path), digest.graph(inner)] for path, inner in graph.walk()]
    if not digest.exact:
        found.append(dict(params))
    return hashlib.sha256(json.dumps(found, sort_keys=True, default=repr).encode()).hexdigest()


_NAMELESS = ("<none>", "<lambda>", "<locals>")


class _Digest:
    """Writes graphs down as JSON.

    Attributes:
        exact: Whether nothing was met that cannot be written down.
    """

    def __init__(self) -> None:
        self.exact = True

    def graph(self, graph: Graph) -> Any:
        names = self._names(graph)
        calls = sorted(self._node(graph, node, names) for node in graph.nodes.values())
        ends = [self._value(graph.inputs, names), self._value(graph.outputs, names)]
        return [graph.kind, calls, ends]

    def _names(self, graph: Graph) -> dict[str, str]:
        """By layer, a name that does not depend on what Keras called it."""
        names: dict[str, str] = {}
        counts: dict[str, int] = {}
        for name in dict.fromkeys(call.layer for call in graph.nodes):
            layer = graph.layers[name]
            if layer.origin == "new":
                counts[layer.kind] = counts.get(layer.kind, -1) + 1
                names[name] = f"new {layer.kind} {counts[layer.kind]}"
            else:  # one that was renamed is still the layer that it was
                names[name] = f"{name} {layer.op.name}"
        return names

    def _node(self, graph: Graph, node: Node, names: Mapping[str, str]) -> str:
        layer = graph.layer(node.call)
        given = self._value((node.args, dict(node.kwargs)), names)
        parts = [names[node.call.layer], node.call.number, self._layer(layer), given]
        return json.dumps(parts, sort_keys=True, default=repr)

    def _layer(self, layer: Layer) -> Any:
        found: list[Any] = [layer.kind, layer.origin, layer.part]
        if layer.origin == "new":
            found.append(self._template(layer.op))
            found.append(getattr(layer.template, "name", None))  # whose weights it takes over
        if layer.change is not None:
            found.append(self._template(layer.change.template))
            self.exact = self.exact and not layer.change.values and layer.change.built is None
        return found

    def _template(self, template: Any) -> Any:
        try:
            config = {k: v for k, v in template.get_config().items() if k != "name"}
            text = json.dumps(config, sort_keys=True)
        except Exception:  # whatever a class of the user's own may raise or hold
            text = "<none>"
        # What is written down does not tell apart functions without a name, and need not say all
        # of a class of the user's own, or of a layer that was adapted.
        library = type(template).__module__.startswith(("keras.", "keras_hub."))
        told = library and not hasattr(template, "adapt")
        self.exact = self.exact and told and not any(mark in text for mark in _NAMELESS)
        weights = getattr(template, "weights", ())
        return [text, [_digest(np.asarray(weight)) for weight in weights]]

    def _value(self, value: Any, names: Mapping[str, str]) -> Any:
        def spelled(ref: Ref) -> Any:
            return _Tensor([names[ref.call.layer], ref.call.number, ref.output])

        return self._plain(map_refs(spelled, value))

    def _plain(self, value: Any) -> Any:
        if isinstance(value, _Tensor):
            return {"tensor": list(value)}
        if isinstance(value, np.ndarray):
            return {"array": _digest(value)}
        if isinstance(value, slice):
            return {"slice": [self._plain(v) for v in (value.start, value.stop, value.step)]}
        if isinstance(value, Mapping):
            return {str(key): self._plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._plain(item) for item in value]
        return plain(value)


class _Tensor(list):
    """A tensor as names and numbers, told from a list of the user's."""


def _digest(array: np.ndarray) -> str:
    data = array.tolist() if array.dtype.hasobject else array.tobytes()
    return hashlib.sha256(repr((str(array.dtype), array.shape, data)).encode()).hexdigest()
