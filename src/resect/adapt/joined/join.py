"""Two models made one: one behind the other, side by side, or a part of one in the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from resect.adapt.joined.joining import (
    LAYERS,
    How,
    check_fits,
    combined,
    joined,
    matched,
    output_names,
    returned,
    shared_inputs,
    with_own_inputs,
)
from resect.adapt.joined.regions import region
from resect.edits.base import Edit, quoted, spelled
from resect.errors import EditError
from resect.graph import Graph
from resect.keras_graph.reading import read
from resect.lookup import resolve_one
from resect.options import OnMismatch, Weights
from resect.plan import plan
from resect.select import Where


@dataclass(frozen=True)
class Stack(Edit):
    """Puts another model behind the outputs.

    Args:
        second: The other model.
    """

    verb: ClassVar[str] = "stack"
    uncompiled: ClassVar[str] = "it is made of two models"
    second: Any

    def describe(self) -> str:
        return f"stack '{self.second.name}' on it"

    def pinned(self, graph: Graph) -> Edit:
        return self

    def apply(self, graph: Graph) -> Graph:
        inner = read(self.second)
        given = matched(output_names(graph), graph.output_refs, inner)
        check_fits(
            f"'{self.second.name}' takes {{wanted}}, and '{graph.name}' returns {{given}}.",
            [graph.spec(ref) for ref in given],
            [inner.spec(ref) for ref in inner.input_refs],
            "Put a layer between them that makes one of the other: append it to the first.",
        )
        graph, tensors = joined(graph, self.second, inner, given)
        return graph.evolve(outputs=returned(inner, tensors)).pruned().ordered()


@dataclass(frozen=True)
class Merge(Edit):
    """Puts other models beside the model.

    Args:
        others: The other models.
        how: What becomes of outputs that correspond: `"average"`, `"add"`, `"concatenate"`, or
            `None` to return them all.
        share_inputs: Whether all read the same inputs.
    """

    verb: ClassVar[str] = "merge"
    uncompiled: ClassVar[str] = "it is made of several models"
    others: tuple[Any, ...]
    how: How | None = None
    share_inputs: bool = True

    def describe(self) -> str:
        names = ", ".join(f"'{other.name}'" for other in self.others)
        return f"merge with {names}" + ("" if self.how is None else f" ({self.how})")

    def pinned(self, graph: Graph) -> Edit:
        return self

    def apply(self, graph: Graph) -> Graph:
        if self.how is not None and self.how not in LAYERS:
            raise EditError(
                f"There is no way {self.how!r} to merge outputs.",
                f"There are {', '.join(map(repr, LAYERS))} and None, which returns them all.",
            )
        structures = [graph.outputs]
        wholes = [graph, *(read(other) for other in self.others)]
        for other, inner in zip(self.others, wholes[1:], strict=True):
            if self.share_inputs:
                given = shared_inputs(graph, inner)
            else:
                graph, given = with_own_inputs(graph, inner)
            held = graph.evolve(outputs=structures)
            held, tensors = joined(held, other, inner, given)
            structures = [*held.outputs, returned(inner, tensors)]
            graph = held.evolve(outputs=structures)
        if self.how is not None:
            specs = [[whole.spec(ref) for ref in whole.output_refs] for whole in wholes]
            graph = combined(graph, structures, specs, self.how)
        return graph.ordered()


@dataclass(frozen=True)
class Graft(Edit):
    """Puts a region of another model in the place of one of this.

    Args:
        start: The first call that goes.
        end: The last call that goes.
        donor: The other model.
        donor_start: The first call of what comes.
        donor_end: The last call of what comes.
        on_mismatch: What happens to layers whose weights do not fit any more.
    """

    verb: ClassVar[str] = "graft"
    uncompiled: ClassVar[str] = "it is made of two models"
    start: Where
    end: Where
    donor: Any
    donor_start: Where
    donor_end: Where
    on_mismatch: OnMismatch = "raise"

    def describe(self) -> str:
        gone = f"{quoted(self.start)} to {quoted(self.end)}"
        comes = f"{quoted(self.donor_start)} to {quoted(self.donor_end)} of '{self.donor.name}'"
        return f"graft {comes} in the place of {gone}"

    def pinned(self, graph: Graph) -> Edit:
        donor = read(self.donor)
        ends = {}
        for name, whole in (("", graph), ("donor_", donor)):
            for which in (f"{name}start", f"{name}end"):
                where = getattr(self, which)
                ends[which] = spelled(where, resolve_one(where, whole).spelling(whole))
        return dataclasses.replace(self, **ends)

    def apply(self, graph: Graph) -> Graph:
        source = read(self.donor)
        gone = region(graph, self.start, self.end)
        comes = region(source, self.donor_start, self.donor_end)
        inner = comes.graph(source)
        if len(gone.reads) != len(comes.reads):
            raise EditError(
                f"What is to go reads {len(gone.reads)} tensors, and what is to come "
                f"{len(comes.reads)}.",
                "Choose regions that begin alike.",
            )
        within = graph.at(gone.path)
        new, _ = joined(within, self.donor, inner, gone.reads, instead_of=gone.end)
        return graph.with_nested(gone.path, new.pruned().ordered())


def stack(first: Any, second: Any, *, weights: Weights = "copy") -> Any:
    """One model behind another: `stack(a, b)(x) == b(a(x))`, in one flat graph.

    Outputs of the first are inputs of the second: by key where both are dicts with the same keys,
    in order otherwise. Names are kept; where both have a layer of one name, that of the second is
    preceded by the name of its model. A layer that belongs to both becomes a shared layer. As in a
    nested model, inputs of another dtype or rank are converted.

    Preserved: weights, trainable flags, what the two compute one after the other, in inference and
    in training mode. Not preserved: the compile states; the name of the second model.

    Args:
        first: A built Keras model.
        second: Another, with a graph of its own.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model. Two `Sequential` make a `Sequential` while that is a chain.

    Raises:
        ShapeError: The second does not take what the first returns.
        ReadError: The second has no graph.
        EditError: The second is more than its graph; see `resect.adapt.flatten`.

    Example:

    >>> import keras, resect
    >>> first = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, name="one")])
    >>> second = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2, name="two")])
    >>> [layer.name for layer in resect.adapt.stack(first, second).layers]
    ['one', 'two']
    """
    return plan(first).then(Stack(second)).apply(weights=weights)


def merge(
    models: Sequence[Any],
    how: How | None = None,
    *,
    share_inputs: bool = True,
    weights: Weights = "copy",
) -> Any:
    """Models side by side, in one flat graph: an ensemble, or a model with several heads.

    Names are kept; where two have a layer of one name, that of the later is preceded by the name of
    its model: a file that is loaded twice can be merged. A layer that belongs to several becomes a
    shared layer, called once for each.

    Preserved: weights, trainable flags, what each model computes. Not preserved: the compile
    states; the names of the models but the first.

    Args:
        models: Built Keras models.
        how: What becomes of their outputs: `"average"`, `"add"`, `"concatenate"` (the last axis),
            output by output; or `None` for a list with the outputs of each.
        share_inputs: Whether all read the same inputs, which must then be alike; matched by name
            where the names agree, in order otherwise. If not, the inputs of all follow each other
            in a list, or in a dict if all take dicts.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model.

    Raises:
        ShapeError: Inputs that are to be shared, or outputs that are to be merged, are not alike.
        EditError: The outputs have different structures; or a model is more than its graph.
        ReadError: One of the others has no graph.

    Example:

    >>> import keras, resect
    >>> stack = [keras.Input((4,)), keras.layers.Dense(2, name="logits")]
    >>> ensemble = resect.adapt.merge([keras.Sequential(stack)] * 2, how="average")
    >>> ensemble.output_shape
    (None, 2)
    """
    first, *others = models
    return plan(first).then(Merge(tuple(others), how, share_inputs)).apply(weights=weights)


def graft(
    model: Any,
    start: Where,
    end: Where,
    donor: Any,
    donor_start: Where,
    donor_end: Where,
    *,
    on_mismatch: OnMismatch = "raise",
    weights: Weights = "copy",
) -> Any:
    """A region of one model replaced by a region of another, with its weights.

    A region is all that lies between two calls, these included. What the first region read, the
    second reads; what read the first, reads the second.

    Preserved: the weights of what stays and of what comes; names; those of the donor that are
    taken are preceded by its own. Not preserved: the compile state.

    Args:
        model: A built Keras model.
        start: The first call that goes.
        end: The last call that goes.
        donor: Another built model, with a graph of its own.
        donor_start: The first call that comes.
        donor_end: The last call that comes.
        on_mismatch: What happens to layers whose weights do not fit what they are fed now.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model.

    Raises:
        CutError: An end does not depend on its start, or something outside a region reads its
            inside.
        EditError: The regions do not read equally many tensors; or the donor is more than its
            graph.
        ShapeError: A layer does not fit what it is fed now.
        MaskError: The region of the donor reads a tensor with a mask.

    Example:

    >>> import keras, resect
    >>> stack = [
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, name="a"),
    ...     keras.layers.Dense(2, name="b"),
    ... ]
    >>> model, donor = (
    ...     keras.Sequential(stack),
    ...     keras.Sequential(
    ...         [keras.Input((4,)), *[keras.layers.Dense(8, name=name) for name in ("c", "d")]]
    ...     ),
    ... )
    >>> [layer.name for layer in resect.adapt.graft(model, "a", "a", donor, "c", "d").layers]
    ['c', 'd', 'b']
    """
    edit = Graft(start, end, donor, donor_start, donor_end, on_mismatch)
    return plan(model).then(edit).apply(weights=weights)
