"""What adaptations share: layers that go on with another configuration, at any depth."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from resect.edits.replace import accepted
from resect.graph import Call, Graph, Layer, Ref, Shape
from resect.keras_graph.making import changed_layer, resized_input
from resect.lookup import resolve
from resect.select import Place, Where

Config = dict[str, Any]
Values = Mapping[str, Callable[[Mapping[str, Any]], Any] | None]


class Changed(NamedTuple):
    """What a layer becomes.

    Attributes:
        config: From its configuration to the one that it is to have.
        values: How variables come to other values; see `resect.graph.Change`.
        cls: Its class, if it is to be of another.
        built: What is done to it once it is built; see `resect.graph.Change`.
        thawed: Names of variables with other values that are trained from now on; see there.
    """

    config: Callable[[Config], Config]
    values: Values | None = None
    cls: type | None = None
    built: Callable[[Any], Any] | None = None
    thawed: frozenset[str] = frozenset()


def change_layers(
    graph: Graph, places: Iterable[Place], how: Callable[[Layer], Changed | None]
) -> Graph:
    """A graph in which some layers go on with another configuration.

    A layer that stands in several of the nested graphs is changed in all of them; the shapes of
    its outputs are asked for anew.

    Args:
        graph: The outermost graph.
        places: Calls of the layers, at any depth.
        how: From a layer to what it becomes; `None` leaves it as it is.

    Raises:
        EditError: A layer cannot be made anew from its configuration.
    """
    done: dict[int, Layer | None] = {}
    chosen = {id(graph.at(p.path).layer(p.call).op) for p in places}
    paths = sorted((path for path, _ in graph.walk()), key=len, reverse=True)
    for path in paths:
        nested = graph.at(path)
        layers: dict[str, Layer] = {}
        for name, layer in nested.layers.items():
            if id(layer.op) not in chosen or layer.graph is not None:
                continue
            if id(layer.op) not in done:
                what = how(layer)
                done[id(layer.op)] = what and _changed_layer(layer, what)
            if (changed := done[id(layer.op)]) is not None:
                layers[name] = dataclasses.replace(changed, name=name)
        if layers:
            graph = graph.with_nested(path, _with_layers(nested, layers))
    return graph


def _changed_layer(layer: Layer, what: Changed) -> Layer:
    return changed_layer(layer, **what._asdict())


def _with_layers(graph: Graph, layers: Mapping[str, Layer]) -> Graph:
    nodes = dict(graph.nodes)
    for call, node in graph.nodes.items():
        if call.layer not in layers:
            continue
        layer, kwargs = layers[call.layer], node.kwargs
        if layer.cls is not graph.layer(call).cls:  # which may take other arguments
            kwargs = accepted(node, layer.recipe, graph.label(call))
        nodes[call] = dataclasses.replace(node, kwargs=kwargs, outputs=None, tensors=())
    return graph.evolve(layers={**graph.layers, **layers}, nodes=nodes)


def chosen_or_all(graph: Graph, where: Where) -> tuple[Place, ...]:
    """The places that an address means; every call at any depth without one."""
    if where is not None:
        return resolve(where, graph)
    return tuple(
        Place(path, call)
        for path, nested in graph.walk()
        for call in nested.nodes
        if not nested.is_input(call)
    )


def producer(graph: Graph, ref: Ref) -> Place:
    """The call that makes a tensor, in the innermost of the nested models that return it."""
    path: tuple[str, ...] = ()
    while (inner := graph.layer(ref.call).graph) is not None:
        path, ref, graph = (*path, ref.call.layer), inner.output_refs[ref.output], inner
    return Place(path, ref.call)


def initialised(initializer: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Fresh values for new rows or columns of a variable.

    Args:
        initializer: A Keras initializer, its name or its configuration; `None` for zeros.
        shape: Shape of the array.
    """
    make: Any = keras.initializers.get("zeros" if initializer is None else initializer)
    return np.array(keras.ops.convert_to_numpy(make(shape, "float32")), "float32")


def with_input(graph: Graph, call: Call, shape: Shape) -> Graph:
    """The graph of a model with another shape for one of its inputs."""
    node = graph.nodes[call]
    assert node.outputs is not None
    spec = node.outputs[0]._replace(shape=shape)
    layer = resized_input(graph.layer(call), shape)
    node = dataclasses.replace(node, outputs=(spec,), tensors=())
    return graph.evolve(
        layers={**graph.layers, call.layer: layer}, nodes={**graph.nodes, call: node}
    )


def as_float(values: Any) -> np.ndarray:
    """The values of a variable, to compute with: narrow floats as float32, float64 as it is."""
    array = np.asarray(values)
    return array if array.dtype == np.float64 else array.astype("float32")
