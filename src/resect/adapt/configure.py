"""Settings of layers: dropout rates, regularizers, constraints, dtype policies, trainable flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import keras

from resect.adapt.base import Changed, change_layers
from resect.edits.base import Edit, quoted, spellings
from resect.errors import EditError
from resect.graph import Graph, Layer
from resect.lookup import resolve
from resect.options import Weights
from resect.plan import plan
from resect.select import Where


@dataclass(frozen=True)
class Configure(Edit):
    """Gives layers other settings.

    Args:
        where: The layers.
        settings: Pairs of a field of their configuration and its value.
    """

    verb: ClassVar[str] = "configure"
    where: Where
    settings: tuple[tuple[str, Any], ...]

    def describe(self) -> str:
        listed = ", ".join(f"{name}={_shown(value)}" for name, value in self.settings)
        return f"configure {quoted(self.where)}: {listed}"

    def pinned(self, graph: Graph) -> Edit:
        return Configure(spellings(resolve(self.where, graph), graph), self.settings)

    def apply(self, graph: Graph) -> Graph:
        return change_layers(graph, resolve(self.where, graph), self._changed)

    def _changed(self, layer: Layer) -> Changed:
        return Changed(lambda config: {**config, **self._checked(layer, config)})

    def _checked(self, layer: Layer, config: dict[str, Any]) -> dict[str, Any]:
        for name, _ in self.settings:
            if name not in config or name == "name":
                raise EditError(
                    f"'{layer.name}' ({layer.kind}) has no setting {name!r}.",
                    _repair(layer, config) if name != "name" else "Use resect.rename.",
                    layer.name,
                )
        return dict(self.settings)


def _repair(layer: Layer, config: dict[str, Any]) -> str:
    if not isinstance(layer.op, keras.Layer):
        return 'It is an operation: select(name="*", cls=keras.Layer) leaves those out.'
    return f"It has {', '.join(field for field in config if field != 'name')}."


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, (str, int, float, bool)) else type(value).__name__


def configure(model: Any, where: Where, *, weights: Weights = "copy", **settings: Any) -> Any:
    """A model with other settings in some of its layers.

    Dropout rates, regularizers, initializers, constraints, dtype policies, `trainable`: whatever
    the configuration of the layers has a field for. Weights, and what is not a weight, stay.

    Preserved: the weights; in inference, what the model computes, unless a setting is about that.
    Not preserved: nothing else.

    Args:
        model: A built Keras model.
        where: The layers, at any depth.
        weights: `"copy"` or `"share"`; variables that are shared cannot get another regularizer,
            constraint or `trainable`.
        **settings: Fields of the layers' configuration, and what they are to be.

    Returns:
        A new model.

    Raises:
        NoMatchError: `where` matches nothing.
        EditError: A layer has no such setting, or does not take the value.
        ShapeError: With the setting a layer would have other variables.

    Example:

    >>> import keras, resect
    >>> stack = [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dropout(0.5, name="drop")]
    >>> model = keras.Sequential(stack)
    >>> new = resect.adapt.configure(model, keras.layers.Dropout, rate=0.1)
    >>> new.get_layer("drop").rate
    0.1
    """
    return plan(model).then(Configure(where, tuple(settings.items()))).apply(weights=weights)
