"""Stochastic depth: residual branches that are left out at random while training."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import keras

from resect.adapt.modules.branches import (
    AmbiguousBranchError,
    Branch,
    NoBranchError,
    branch_of,
    leaks,
    sums,
)
from resect.adapt.modules.placing import Putting, policy_for
from resect.edits.base import Edit, by_path, quoted, spellings
from resect.errors import EditError, MergeError
from resect.graph import Call, Graph
from resect.lookup import resolve
from resect.options import Weights
from resect.plan import plan
from resect.select import Place, Where

Schedule = Literal["linear", "constant"]


@dataclass(frozen=True)
class StochasticDepth(Edit):
    """Drops residual branches while training.

    Args:
        rate: Of the last branch.
        where: The sums; every residual sum without.
        schedule: `"linear"` from the first to the last, or `"constant"`.
        seed: Of the first branch; each gets one of its own.
    """

    verb: ClassVar[str] = "stochastic_depth"
    rate: float
    where: Where = None
    schedule: Schedule = "linear"
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(f"rate must be between 0 and 1, not {self.rate}.")
        if self.schedule not in get_args(Schedule):
            raise ValueError(f'schedule must be "linear" or "constant", not {self.schedule!r}.')

    def describe(self) -> str:
        where = "" if self.where is None else f" of {quoted(self.where)}"
        return f"drop residual branches{where} at {self.schedule} rate {self.rate:g}"

    def pinned(self, graph: Graph) -> Edit:
        places = tuple(_found(graph, self.where)[0])
        return dataclasses.replace(self, where=spellings(places, graph))

    def notes(self, graph: Graph) -> tuple[str, ...]:
        return _found(graph, self.where)[1]

    def apply(self, graph: Graph) -> Graph:
        branches, _ = _found(graph, self.where)
        drops = {place: self._drop(i, len(branches)) for i, place in enumerate(branches)}
        for path, calls in by_path(branches).items():
            nested = graph.at(path)
            taken = set(nested.layers)
            for call in calls:
                place = Place(path, call)
                nested = _dropped(nested, call, branches[place], drops[place], taken)
            graph = graph.with_nested(path, nested.ordered())
        return graph

    def _drop(self, number: int, count: int) -> dict[str, Any]:
        rate = self.rate * (number + 1) / count if self.schedule == "linear" else self.rate
        return {"rate": rate, "seed": None if self.seed is None else self.seed + number}


def _dropped(
    graph: Graph, call: Call, branch: Branch, options: dict[str, Any], taken: set[str]
) -> Graph:
    """A graph in which a branch is dropped before it is added."""
    put = Putting(graph, call, call.layer, taken)
    noise_shape = (None, *[1] * (len(graph.spec(branch.ref).shape) - 1))
    drop = keras.layers.Dropout(
        noise_shape=noise_shape,
        name="stochastic_depth",
        dtype=policy_for(put, branch.ref),
        **options,
    )
    ref = put(drop, branch.ref)
    return graph.substitute({branch.ref: ref}, only=[call]).add(put.nodes, put.layers)


def _found(graph: Graph, where: Where) -> tuple[dict[Place, Branch], tuple[str, ...]]:
    """The residual sums that are meant, in the order of depth, and why others are passed over."""
    chosen = None if where is None else set(resolve(where, graph))
    places = list(sums(graph))
    if chosen is not None:
        places = [p for p in places if p in chosen] + [p for p in chosen if p not in places]
    found: dict[Place, Branch] = {}
    passed: dict[Place, str] = {}
    unclear: dict[Place, str] = {}
    for place in places:
        try:
            found[place] = _branch(graph, place, strict=chosen is None)
        except AmbiguousBranchError as why:
            unclear[place] = str(why)
        except NoBranchError as why:
            passed[place] = str(why)
    _refuse(graph, found, unclear, passed, chosen is not None)
    notes = (f"{place.spelling(graph)} is left as it is: {why}" for place, why in passed.items())
    return found, tuple(notes)


def _branch(graph: Graph, place: Place, *, strict: bool) -> Branch:
    """The branch of a sum; where it was not asked for, only if it is surely that of a block."""
    nested = graph.at(place.path)
    branch = branch_of(nested, place.call)
    reader = leaks(nested, place.call, branch)
    if strict and reader is not None:
        raise NoBranchError(f"'{nested.label(reader)}' reads what lies in its branch")
    last = nested.layer(branch.ref.call)
    shape = getattr(last.recipe, "noise_shape", None)
    if issubclass(last.cls, keras.layers.Dropout) and shape and set(shape[1:]) == {1}:
        raise NoBranchError(f"'{last.name}' drops its branch already, with a rate to configure")
    return branch


def _refuse(
    graph: Graph,
    found: dict[Place, Branch],
    unclear: dict[Place, str],
    passed: dict[Place, str],
    named: bool,
) -> None:
    """Refuses what is ambiguous, what was named and is no residual sum, and to do nothing.

    Raises:
        MergeError: It is not clear which of two tensors is the branch.
        EditError: There is no residual sum, or what was named is none.
    """
    if unclear:
        place, why = next(iter(unclear.items()))
        others = quoted([p.spelling(graph) for p in found]) or "others"
        raise MergeError(f"{_title(graph, place)}: {why}.", f"Name the sums you mean: {others}.")
    if passed and (named or not found):
        place, why = next(iter(passed.items()))
        repair = "Name sums of a branch and a shortcut."
        raise EditError(f"{_title(graph, place)}: {why}.", repair, place.spelling(graph))
    if not found:
        raise EditError(f"'{graph.name}' has no residual sum.", "Nothing is to be done.")


def _title(graph: Graph, place: Place) -> str:
    return f"'{place.spelling(graph)}' ({graph.at(place.path).layer(place.call).kind})"


def stochastic_depth(
    model: Any,
    rate: float,
    where: Where = None,
    *,
    schedule: Schedule = "linear",
    seed: int | None = None,
    weights: Weights = "copy",
) -> Any:
    """A model whose residual branches are left out at random while it is trained.

    From Huang et al., "Deep Networks with Stochastic Depth" (2016). For every sample, the branch of
    each residual block is dropped with a probability, and otherwise counts `1 / (1 - rate)` times,
    so that nothing has to be scaled in inference, where the paper does. It is a stock
    `keras.layers.Dropout` whose noise has one value a sample, in front of the sum.

    A sum is an `Add` layer or the operation `+`, of two tensors. Its branch is the one with more
    layers with weights between it and the last call that both come through (more calls, where
    neither has any); the other is the shortcut, which may project.

    Preserved: what the model computes in inference, exactly; all weights, the compile state and the
    optimizer's slots. Not preserved: what it computes in training mode.

    Args:
        model: A built Keras model.
        rate: The probability of the last branch; between 0 and 1.
        where: The sums, at any depth. By default all residual ones: sums of tensors with nothing
            in common are passed over, as are those with a branch that others read from (feature
            pyramids) and those with a branch that is dropped already; the plan lists them.
        schedule: `"linear"`: the rate of the l-th of L branches is `l / L` times `rate`, in the
            order in which data flows; `"constant"`: all have the same.
        seed: A seed; each branch gets one of its own, counted on from it.
        weights: `"copy"` or `"share"`.

    Returns:
        A new model.

    Raises:
        NoMatchError: `where` matches nothing.
        EditError: There is no residual sum, or what `where` names is none.
        MergeError: Either of two tensors could be the branch.

    Example:

    >>> import keras, resect
    >>> x = inputs = keras.Input((8,))
    >>> for name in ("one", "two"):
    ...     x = keras.layers.Add(name=name)([x, keras.layers.Dense(8)(x)])
    >>> new = resect.adapt.stochastic_depth(keras.Model(inputs, x), 0.2)
    >>> [new.get_layer(f"{name}_stochastic_depth").rate for name in ("one", "two")]
    [0.1, 0.2]
    """
    edit = StochasticDepth(rate, where, schedule, seed)
    return plan(model).then(edit).apply(weights=weights)
