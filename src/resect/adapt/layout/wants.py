"""In which layout each tensor will be wanted: looked at from the outputs back to the inputs."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from resect.adapt.layout.answers import answer_of
from resect.adapt.layout.layouts import DataFormat, Layout, Site, then, unchanged
from resect.adapt.layout.rules import demanded
from resect.edits.base import is_raw
from resect.graph import Call, Graph, Ref, refs


def site_of(graph: Graph, call: Call, to: DataFormat) -> Site:
    """A call as the rules see it."""
    node = graph.nodes[call]
    inputs = tuple(graph.spec(ref) for ref in node.inputs)
    return Site(graph.layer(call), node, inputs, node.outputs or (), to)


def order_of(site: Site) -> Layout | None:
    """The axes of a call that does nothing but transpose; `None` for every other one."""
    cls = site.layer.cls
    if cls is keras.layers.Permute:
        return (0, *site.layer.recipe.dims)
    if not (is_raw(site.layer.op) and cls.__name__ == "Transpose" and len(site.inputs) == 1):
        return None
    rank = len(site.inputs[0].shape)
    axes = site.config.get("axes")
    order = tuple(axis % rank for axis in axes) if axes is not None else tuple(range(rank))[::-1]
    return order if order[0] == 0 else None


def reshapes(site: Site) -> bool:
    """Whether a call is one of a `Reshape`."""
    return site.layer.cls is keras.layers.Reshape


def wanted(graph: Graph, outputs: Sequence[Layout | None], to: DataFormat) -> dict[Ref, Layout]:
    """The layouts in which tensors are wanted; those that are not wanted in any are left out.

    Args:
        graph: The graph of a model.
        outputs: In which layouts its outputs are wanted.
        to: The data format that is wanted.
    """
    wants = {r: w for r, w in zip(graph.output_refs, outputs, strict=False) if w is not None}
    for call in reversed(tuple(graph.nodes)):
        if not graph.is_input(call):
            wants |= _of_call(graph, call, wants, to)
    return {ref: w for ref, w in wants.items() if w != unchanged(len(w))}


def _of_call(
    graph: Graph, call: Call, wants: dict[Ref, Layout], to: DataFormat
) -> dict[Ref, Layout]:
    """What a call wants to read, given what is wanted of it."""
    site, returned = site_of(graph, call, to), graph.refs_of(call)
    if any(spec.masked for spec in site.inputs):
        return {}
    if (inner := site.layer.graph) is not None:
        given = refs(site.node.args)
        if len(given) != len(inner.input_refs):
            return {}
        found = wanted(inner, [wants.get(ref) for ref in returned], to)
        pairs = zip(given, inner.input_refs, strict=True)
        return {ref: found[inside] for ref, inside in pairs if inside in found}
    if (layout := demanded(site)) is not None:
        return {site.node.inputs[0]: layout}
    want = next((wants[ref] for ref in returned if ref in wants), None)
    if want is None:
        return {}
    if (order := order_of(site)) is not None:
        return {site.node.inputs[0]: then(order, want)}
    return dict.fromkeys(site.node.inputs, want) if _passes(site, want) else {}


def _passes(site: Site, want: Layout) -> bool:
    answer = answer_of(site, want)
    return answer is not None and want in answer.outputs
