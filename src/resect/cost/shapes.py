"""Shapes without unknown axes: of a model's inputs, and of what a call returns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from resect.errors import ShapeError
from resect.graph import Call, Graph, Node, Ref, Spec, map_refs
from resect.keras_graph.opening import returned_by

_ITEMSIZE = {"float64": 8, "int64": 8, "uint64": 8, "complex64": 8, "complex128": 16}
_ITEMSIZE |= {"float16": 2, "bfloat16": 2, "int16": 2, "uint16": 2, "int8": 1, "uint8": 1}
_ITEMSIZE |= {"bool": 1, "int4": 1, "float8_e4m3fn": 1, "float8_e5m2": 1, "string": 0}


def byte_count(shape: Sequence[int | None], dtype: str) -> int:
    """Bytes of a tensor; strings count as nothing."""
    return math.prod(size or 0 for size in shape) * _ITEMSIZE.get(dtype, 4)


def bytes_of(specs: Sequence[Spec]) -> int:
    """Bytes of some tensors."""
    return sum(byte_count(spec.shape, spec.dtype) for spec in specs)


def input_specs(graph: Graph, given: Any, batch: int) -> dict[Ref, Spec]:
    """Shapes of a model's inputs, the batch included.

    Args:
        graph: The graph of the model.
        given: The shape of one sample, the same for all inputs; or a list or dict of shapes, in the
            order or by the names of the inputs. `None`: what the model says.
        batch: Number of samples.

    Raises:
        ShapeError: An axis is left unknown, or a given shape does not fit.
    """
    names = [ref.call.layer for ref in graph.input_refs]
    shapes = _by_name(given, names)
    found: dict[Ref, Spec] = {}
    for ref in graph.input_refs:
        name, spec = ref.call.layer, graph.spec(ref)
        shape = shapes.get(name, spec.shape[1:])
        if None in shape or not _fits(shape, spec.shape[1:]):
            raise _free(graph, name, spec, shape)
        first = spec.shape[:1]  # a model for a fixed number of samples keeps it
        size = first[0] if first and first[0] is not None else batch
        found[ref] = Spec((size, *shape), spec.dtype) if spec.shape else spec
    return found


def _by_name(given: Any, names: list[str]) -> dict[str, tuple[int | None, ...]]:
    if given is None:
        return {}
    if isinstance(given, Mapping):
        unknown = [name for name in given if name not in names]
        if unknown:
            raise ShapeError(
                f"The model has no input '{unknown[0]}'.", f"Its inputs are {', '.join(names)}."
            )
        return {name: tuple(shape) for name, shape in given.items()}
    if all(size is None or isinstance(size, int) for size in given):
        return {name: tuple(given) for name in names}
    if len(given) != len(names):
        raise ShapeError(
            f"There are {len(given)} shapes for {len(names)} inputs.",
            f"Give one for each of {', '.join(names)}, without the batch axis.",
        )
    return {name: tuple(shape) for name, shape in zip(names, given, strict=True)}


def _fits(shape: Sequence[int | None], declared: Sequence[int | None]) -> bool:
    pairs = zip(shape, declared, strict=False)
    return len(shape) == len(declared) and all(own in (None, size) for size, own in pairs)


def _free(graph: Graph, name: str, spec: Spec, shape: Sequence[int | None]) -> ShapeError:
    declared = str(spec._replace(shape=spec.shape[1:]))
    if None not in shape:
        return ShapeError(
            f"The input '{name}' takes samples of shape {declared}, not {tuple(shape)}.",
            "Give the shape of one sample, without the batch axis.",
            name,
        )
    example = tuple(128 if size is None else size for size in spec.shape[1:])
    shown = repr(example) if len(graph.input_refs) == 1 else repr({name: example})
    return ShapeError(
        f"The input '{name}' takes samples of shape {declared}: without a length for every axis "
        "there is nothing to count.",
        f"Say which: resect.profile(model, input_shape={shown}).",
        name,
    )


def output_specs(graph: Graph, call: Call, node: Node, specs: Mapping[Ref, Spec]) -> list[Spec]:
    """Shape and dtype of what a call returns, as the layer says itself.

    Raises:
        ShapeError: The layer does not say, or leaves an axis unknown.
    """

    def tensor(ref: Ref) -> keras.KerasTensor:
        return keras.KerasTensor(specs[ref].shape, specs[ref].dtype)

    args, kwargs = map_refs(tensor, (node.args, dict(node.kwargs)))
    label = graph.label(call)
    try:
        returned = returned_by(graph.layer(call).op, args, kwargs)
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")
        shapes = ", ".join(str(specs[ref]) for ref in node.inputs)
        raise ShapeError(
            f"{graph.title(call)} cannot say what it returns for {shapes}: {first}",
            "Give the layer a compute_output_shape.",
            label,
        ) from error
    found = [Spec(tuple(t.shape), str(t.dtype)) for t in returned]
    if any(None in spec.shape for spec in found):
        raise ShapeError(
            f"{graph.title(call)} returns {', '.join(map(str, found))}: an axis depends on the "
            "data.",
            "What follows it cannot be counted. Profile the parts: resect.split(model, at).",
            label,
        )
    return found
