"""What an adaptation of the data format decides for each layer and each nested model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from resect.adapt.calls import model_key
from resect.adapt.layout.answers import answer_of
from resect.adapt.layout.layouts import Answer, DataFormat, Layout, Site, same_of
from resect.adapt.layout.rules import data_format_of
from resect.edits.base import is_raw
from resect.errors import EditError
from resect.graph import Graph, Layer
from resect.keras_graph.making import changed_layer, template_layer


class Nested(NamedTuple):
    """What became of a nested model: the layouts it takes and gives, and its graph."""

    given: tuple[Layout, ...]
    graph: Graph
    returned: tuple[Layout, ...]


class Decisions:
    """What became of each layer and nested model: the same wherever it is called.

    Attributes:
        to: The data format that is wanted.
        stayed: The layers that have the other data format and keep it.
    """

    def __init__(self, to: DataFormat) -> None:
        self.to: DataFormat = to
        self.stayed: dict[str, None] = {}
        self._layouts: dict[int, Layout | None] = {}
        self._made: dict[tuple[int, str], Layer] = {}
        self._models: dict[tuple[int, str], Nested] = {}

    def nested(self, layer: Layer, inner: Graph, convert: Callable[[], Nested]) -> Nested:
        """A nested model, converted the first time that it is met."""
        key = (model_key(inner), layer.part)
        if key not in self._models:
            self._models[key] = convert()
        return self._models[key]

    def untouched(self, layer: Layer, inner: Graph, title: str) -> Nested:
        """A nested model that is given a mask, and stays as it is."""
        given, returned = (
            tuple(same_of(inner, ref) for ref in found)
            for found in (inner.input_refs, inner.output_refs)
        )
        key = (model_key(inner), layer.part)
        found = self._models.setdefault(key, Nested(given, inner, returned))
        if found.graph is not inner:
            raise _conflict(title, layer.name)
        return found

    def layout(self, site: Site, title: str, choose: Callable[[], Layout | None]) -> Layout | None:
        """The layout that a layer reads: the same at each of its calls; `None` for the old one."""
        key = id(site.layer.op)
        if key not in self._layouts:
            layout = choose()
            answer = None if layout is None else answer_of(site, layout)
            if answer is None and data_format_of(site) not in (None, self.to):
                self.stayed[site.layer.name] = None
            if answer is None or answer.config is not None:
                self._layouts[key] = None if answer is None else layout
            return None if answer is None else layout
        layout = self._layouts[key]
        if layout is not None and answer_of(site, layout) is None:
            raise _conflict(title, site.layer.name)
        return layout

    def layer(self, site: Site, answer: Answer) -> Layer:
        """What becomes of a layer."""
        layer = site.layer
        if answer.config is None:
            return layer
        if is_raw(layer.op):
            new = type(layer.recipe).from_config(answer.config(site.config))
            return template_layer(layer.name, _named(new, layer.name))
        key = (id(layer.op), layer.name)
        if key not in self._made:
            self._made[key] = changed_layer(layer, answer.config, values=answer.values)
        return self._made[key]


def _named(operation: Any, name: str) -> Any:
    operation.name = name
    return operation


def _conflict(title: str, name: str) -> EditError:
    return EditError(
        f"{title} is called on tensors with different layouts, and would have to become two "
        "different layers.",
        "Replace it by a copy at one of the places.",
        name,
    )
