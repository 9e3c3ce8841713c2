"""Which `training` argument reaches each call of a model that is called without one.

When a model is called with `training=True` or `False`, as `fit` and `predict` do, Keras hands that
to every call, whatever was recorded. Without it, a call runs with what it recorded; one that
recorded nothing takes over what the last call before it ran with, in the order of execution, and
a nested model hands its own on to all that is in it. Here that is followed call by call.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

from resect.edits.base import call_parameters, is_raw
from resect.errors import EditError
from resect.graph import Call, Graph, Layer, Node
from resect.keras_graph.reading import sublayers

Path = tuple[Call, ...]

#: Nothing, or `False`: a layer may have run sublayers with it, and Keras remembers theirs.
_NOTHING_OR_FALSE: Any = object()


@dataclass
class Training:
    """The `training` argument of every call, nested calls included.

    Attributes:
        on: What the call runs with, by the calls that lead to it.
        recorded: The calls that get it because a nested model around them was called with it.
        mixed: Whether any call has recorded `True`: then the order of the calls matters.
    """

    on: dict[Path, bool | None] = field(default_factory=dict)
    recorded: set[Path] = field(default_factory=set)
    mixed: bool = False


def training_of(graph: Graph, *, apart: str = "") -> Training:
    """Follows the `training` argument through a model that is called without one.

    Args:
        graph: The graph of the model.
        apart: The `part` of models that are followed as if each were called by itself.

    Raises:
        EditError: What a nested model is called with cannot be told, and matters.
    """
    walk = _Walk(apart)
    walk.found.mixed = _records_training(graph)
    walk.run(graph, (), None, False)
    return walk.found


def takes_training(operation: Any) -> bool:
    """Whether the `call` of a layer takes `training`."""
    return not is_raw(operation) and "training" in call_parameters(operation)


def hides_training(operation: Any) -> bool:
    """Whether a layer takes no `training`, but has sublayers that do."""
    return not takes_training(operation) and any(map(takes_training, sublayers(operation)))


class _Walk:
    def __init__(self, apart: str) -> None:
        self.apart = apart
        self.found = Training()
        self.last: Any = None  # what the last call ran with

    def run(self, graph: Graph, path: Path, given: Any, recorded: bool) -> None:
        """Follows the calls of a graph, which hands `given` on unless it is `None`."""
        for call, node in graph.nodes.items():
            layer = graph.layer(call)
            if graph.is_input(call) or is_raw(layer.op):
                continue
            if layer.graph is not None and layer.part and layer.part == self.apart:
                before, self.last = self.last, None
                self.run(layer.graph, (*path, call), None, False)
                self.last = before
                continue
            own = recorded_training(layer, node)
            value = self._value(given, own, layer)
            self.found.on[*path, call] = False if value is _NOTHING_OR_FALSE else value
            if recorded:
                self.found.recorded.add((*path, call))
            self.last = value
            if layer.graph is not None:
                self._inside(layer, (*path, call), value, recorded or own is not None)
            elif value is None and hides_training(layer.op):
                self.last = _NOTHING_OR_FALSE

    def _value(self, given: Any, own: Any, layer: Layer) -> Any:
        for value in (given, own, self.last):
            if value is not None:
                return value
        parameter = call_parameters(layer.recipe).get("training")
        known = parameter is not None and parameter.default is not inspect.Parameter.empty
        return parameter.default if parameter is not None and known else None

    def _inside(self, layer: Layer, path: Path, value: Any, recorded: bool) -> None:
        assert layer.graph is not None
        if value is _NOTHING_OR_FALSE:
            if _records_training(layer.graph):
                raise EditError(
                    f"Layers of '{layer.name}' were called with training=True, and whether it "
                    "hands them something else depends on the sublayers of an earlier layer.",
                    "Call the nested model with an explicit training argument.",
                    layer.name,
                )
            value = False
        self.run(layer.graph, path, value, recorded)


def recorded_training(layer: Layer, node: Node) -> Any:
    """The `training` argument that a call recorded, `None` without one."""
    if "training" in node.kwargs:
        return node.kwargs["training"]
    names = list(call_parameters(layer.recipe))
    position = names.index("training") if "training" in names else len(node.args)
    return node.args[position] if position < len(node.args) else None


def _records_training(graph: Graph) -> bool:
    return any(
        bool(recorded_training(nested.layer(call), node))
        for _, nested in graph.walk()
        for call, node in nested.nodes.items()
        if not nested.is_input(call) and not is_raw(nested.layer(call).op)
    )
