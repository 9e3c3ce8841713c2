"""Other outputs: those of layers inside, in addition or instead, or only some of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from resect.adapt.feature_places import (
    features_of,
    listed,
    only,
    surfaced,
    without_unread,
)
from resect.edits.base import Edit, quoted
from resect.edits.truncate import DropUnusedInputs
from resect.errors import EditError, NameClashError
from resect.graph import Graph, Ref, refs
from resect.lookup import resolve
from resect.options import Weights
from resect.plan import plan
from resect.select import Where, output_of


@dataclass(frozen=True)
class Outputs(Edit):
    """Gives a model other outputs.

    Args:
        add: Calls at any depth whose outputs become outputs of the model.
        keep: Of the outputs that there were: all (`True`), none (`False`) or those that are named.
        as_dict: Whether the outputs come in a dict, by name; a dict that there is stays one.
    """

    verb: ClassVar[str] = "outputs"
    uncompiled: ClassVar[str] = "its outputs are others now"
    add: tuple[Where, ...] = ()
    keep: Where = True
    as_dict: bool = False

    def describe(self) -> str:
        kept = {True: "keep the outputs", False: "keep no output"}
        asked = kept[self.keep] if isinstance(self.keep, bool) else f"keep {quoted(self.keep)}"
        return f"{asked} and add {quoted(self.add)}" if self.add else asked

    def pinned(self, graph: Graph) -> Edit:
        add = tuple(feature.spelling(graph) for feature in features_of(self.add, graph))
        keep = self.keep
        if not isinstance(keep, bool):
            keep = tuple(_names(graph, self._kept(graph)))
        return Outputs(add, keep, self.as_dict)

    def apply(self, graph: Graph) -> Graph:
        kept, features = self._kept(graph), features_of(self.add, graph)
        if self.keep is True and not features:
            raise EditError("No layer is named.", "Name those whose outputs are wanted.")
        if not kept and not features:
            raise EditError("The model would have no output.", "Keep or add one.")
        names = [feature.spelling(graph) for feature in features]
        new, tensors = surfaced(graph, features)
        pairs = zip(graph.output_refs, new.output_refs, strict=True)
        left = only(new.outputs, {now for was, now in pairs if was in kept})
        outputs = self._joined(new, left, dict(zip(names, tensors, strict=True)))
        new = new.evolve(outputs=outputs).pruned().ordered()
        return new if self.keep is True else DropUnusedInputs().apply(without_unread(new))

    def _kept(self, graph: Graph) -> set[Ref]:
        """The outputs that stay."""
        if isinstance(self.keep, bool):
            return set(graph.output_refs) if self.keep else set()
        parts = self.keep if isinstance(self.keep, (list, tuple)) else (self.keep,)
        return {ref for part in parts for ref in _meant(graph, part)}

    def _joined(self, graph: Graph, left: Any, added: dict[str, Ref]) -> Any:
        """The structure of the outputs, with those that are added."""
        if isinstance(graph.outputs, dict) or self.as_dict:
            named = left if isinstance(left, dict) else _by_name(graph, left)
            clashing = [name for name in added if named.get(name, added[name]) != added[name]]
            if clashing:
                raise NameClashError(
                    f"There is an output '{clashing[0]}' already.",
                    "Rename the layer, or leave that output out with keep.",
                    clashing[0],
                )
            return {**named, **added}
        outputs = [*listed(left), *added.values()]
        return outputs[0] if len(outputs) == 1 else outputs


def _meant(graph: Graph, where: Where) -> list[Ref]:
    """The outputs that an address means: a key of their dict, or the layer that makes them."""
    if isinstance(graph.outputs, dict) and isinstance(where, str) and where in graph.outputs:
        return refs(graph.outputs[where])
    found, output = [], output_of(where)
    for place in resolve(where, graph):
        made = [r for r in graph.output_refs if not place.path and r.call == place.call]
        made = [r for r in made if output is None or r.output == output]
        if not made:
            names = ", ".join(f"'{graph.tensor_label(ref)}'" for ref in graph.output_refs)
            spelling = place.spelling(graph)
            raise EditError(
                f"'{spelling}' is not an output of the model. Its outputs are {names}.",
                f"To make it one: features(model, '{spelling}').",
                spelling,
            )
        found += made
    return found


def _names(graph: Graph, kept: set[Ref]) -> Iterator[str]:
    """How some of the outputs are addressed."""
    if not isinstance(graph.outputs, dict):
        yield from dict.fromkeys(graph.tensor_label(r) for r in graph.output_refs if r in kept)
        return
    for key, item in graph.outputs.items():
        of_item = refs(item)
        if all(ref in kept for ref in of_item):
            yield key
        else:
            yield from (graph.tensor_label(ref) for ref in of_item if ref in kept)


def _by_name(graph: Graph, structure: Any) -> dict[str, Any]:
    """Outputs that have no names, by the layers that make them."""
    named: dict[str, Any] = {}
    for ref in refs(structure):
        named.setdefault(graph.tensor_label(ref), ref)
    return named


def features(
    model: Any,
    *places: Where,
    keep: Where = True,
    as_dict: bool = False,
    weights: Weights = "copy",
) -> Any:
    """A model that returns what layers inside it compute, beside its outputs or instead of them.

    The layers may lie in nested models, at any depth: such a model gains an output, and whatever
    calls it reads its old outputs as before. Where it is called several times, each call has a
    feature of its own: `"encoder@1/conv"` is that of the second call. `"split:1"` is the second
    output of a layer with several; `"split"` means all of them.

    A list or dict of outputs stays one, the features at its end or under their addresses; one
    output becomes a list, the features behind it.

    Preserved: weights, the outputs that are kept, training mode. Not preserved: the compile state,
    as no loss is known for what is new; unless all outputs are kept, whatever nothing needs any
    more: inputs of the model, and layers of nested models too, if each input of theirs is needed.

    Args:
        model: A built Keras model.
        *places: The layers, in the order that is wanted.
        keep: `True` for all outputs that there were, `False` for none, or the names of some.
        as_dict: Return all outputs in a dict, by name.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model. A `Sequential` with several outputs becomes a Functional model.

    Raises:
        NoMatchError: A place matches nothing.
        AmbiguousError: It lies in a model that is called several times; says how to spell each.
        InputLayerError: It is an input.
        NameClashError: Two outputs in a dict would have one name.

    Example:

    >>> import keras, resect
    >>> stack = [keras.Input((4,)), keras.layers.Dense(8, name="hidden"), keras.layers.Dense(2)]
    >>> model = keras.Sequential(stack)
    >>> resect.adapt.features(model, "hidden").output_shape
    [(None, 2), (None, 8)]
    >>> resect.adapt.features(model, "hidden", keep=False).output_shape
    (None, 8)
    """
    return plan(model).then(Outputs(places, keep, as_dict)).apply(weights=weights)


def outputs(model: Any, places: Where, *, weights: Weights = "copy") -> Any:
    """A model with some of its outputs only; what nothing needs any more goes, inputs included.

    A list of outputs stays a list while there are several, a dict stays a dict. What nothing needs
    goes in nested models too, where each input of theirs is still needed.

    Preserved: weights, the outputs that stay. Not preserved: the compile state.

    Args:
        model: A built Keras model.
        places: The outputs: the layers that make them or, in a dict, their keys; one or several.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model.

    Raises:
        NoMatchError: A place matches nothing.
        EditError: It is not an output of the model.

    Example:

    >>> import keras, resect
    >>> x = keras.Input((4,))
    >>> heads = [keras.layers.Dense(2, name="first")(x), keras.layers.Dense(3, name="second")(x)]
    >>> resect.adapt.outputs(keras.Model(x, heads), "second").output_shape
    (None, 3)
    """
    return plan(model).then(Outputs(keep=places)).apply(weights=weights)
