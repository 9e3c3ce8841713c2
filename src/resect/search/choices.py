"""What may differ between variants: choices that a trial makes, and the edits that they come to.

A choice is a function of a trial and a plan that returns a longer plan. The trial is Optuna's:
`trial.suggest_categorical(name, values)`, `trial.suggest_float(name, low, high)` and the like.
Places are those of the original; what earlier choices have taken out is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import keras

from resect.adapt.activations import Activations as SwapActivations
from resect.adapt.activations import activation_of
from resect.adapt.modules.adapters import Adapters
from resect.adapt.modules.placing import data_format_at, policy_of
from resect.blocks import Block, blocks
from resect.edits import Edit, Insert, Site
from resect.errors import NoMatchError
from resect.graph import Graph
from resect.lookup import resolve_calls
from resect.plan import Plan
from resect.select import Place, Where
from resect.shrink.paths import places, still

#: A function of Optuna's trial and a plan that returns a plan.
Choice = Callable[[Any, Plan], Plan]

Kind = Literal["batch", "layer", "group"]


@dataclass(frozen=True)
class Remove:
    """Which blocks are taken out: any number of them up to a most, each number as likely.

    Args:
        blocks: The blocks; by default all that `resect.blocks` calls blocks and that keep the
            shape.
        at_most: The most that go; by default half of them, and at least one.
        name: What its parameters are called.

    Example:

    >>> Remove(at_most=2).at_most
    2
    """

    blocks: Sequence[Block] | None = None
    at_most: int | None = None
    name: str = "remove"

    def __call__(self, trial: Any, plan: Plan) -> Plan:
        named = self._named(plan)
        most = max(1, len(named) // 2) if self.at_most is None else self.at_most
        count = trial.suggest_int(self.name, 0, min(most, len(named)))
        slots = [f"{self.name} {number}" for number in range(1, count + 1)]
        chosen = {trial.suggest_categorical(slot, list(named)) for slot in slots}
        # From the end: the block before one that goes is what then feeds the rest.
        for name in reversed([name for name in named if name in chosen]):
            ends = still(plan, named[name])
            plan = plan if ends is None else plan.collapse(*ends)
        return plan

    def _named(self, plan: Plan) -> dict[str, Block]:
        """The blocks, each by a name that no other one has."""
        found = self.blocks
        if found is None:
            found = blocks(plan.source).level("block").collapsible()
        if not found:
            raise NoMatchError(
                f"{plan.source.kind} '{plan.source.name}' has no block that could go.",
                "print(resect.blocks(model)) shows its blocks, and which of them keep the shape.",
            )
        names = [block.name for block in found]
        return {block.name if names.count(block.name) == 1 else block.end: block for block in found}


@dataclass(frozen=True)
class Dropout:
    """How much is dropped behind calls.

    Args:
        after: The calls.
        rates: The rates to choose from; 0 means none.
        together: Whether all places have one rate.
        layer: The class of the layer, such as `keras.layers.SpatialDropout2D`: it takes a rate, a
            name and a dtype.
        name: What its parameters are called.

    Example:

    >>> Dropout(after="relu_*", rates=(0.0, 0.5)).rates
    (0.0, 0.5)
    """

    after: Where
    rates: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    together: bool = False
    layer: Any = keras.layers.Dropout
    name: str = "dropout"

    def __call__(self, trial: Any, plan: Plan) -> Plan:
        return _at_places(trial, plan, self, self.rates, self._edit)

    def _edit(self, graph: Graph, place: Place, rate: float) -> Edit | None:
        if not rate:
            return None
        named = f"{place.call.layer}_{self.name}"
        template = self.layer(rate, name=named, dtype=_policy_at(graph, place))
        return Insert(template, after=place.spelling(graph))


@dataclass(frozen=True)
class Normalization:
    """Which normalization is put behind calls.

    Args:
        after: The calls.
        kinds: What to choose from: `"batch"`, `"layer"`, `"group"` and `None`.
        together: Whether all places have the same.
        name: What its parameters are called.

    Example:

    >>> Normalization(after=keras.layers.Dense).kinds
    (None, 'batch', 'layer')
    """

    after: Where
    kinds: Sequence[Kind | None] = (None, "batch", "layer")
    together: bool = False
    name: str = "normalization"

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in (None, *get_args(Kind))]
        if unknown:
            raise ValueError(f'kinds are "batch", "layer", "group" and None, not {unknown[0]!r}.')

    def __call__(self, trial: Any, plan: Plan) -> Plan:
        return _at_places(trial, plan, self, self.kinds, self._edit)

    def _edit(self, graph: Graph, place: Place, kind: Kind | None) -> Edit | None:
        if kind is None:
            return None
        inner = graph.at(place.path)
        axis = 1 if data_format_at(inner, place.call) == "channels_first" else -1
        named = {
            "axis": axis,
            "name": f"{place.call.layer}_{self.name}",
            "dtype": _policy_at(graph, place),
        }
        return Insert(_normalizing(kind, named), after=place.spelling(graph))


def _normalizing(kind: Kind, named: dict[str, Any]) -> Any:
    """What `Insert` takes: a layer, or how it is made for a shape."""
    if kind == "batch":
        return keras.layers.BatchNormalization(**named)
    if kind == "layer":
        return keras.layers.LayerNormalization(**named)

    def group(site: Site) -> Any:
        channels = site.shape[named["axis"]] or 1
        groups = max(number for number in range(1, 33) if channels % number == 0)
        return keras.layers.GroupNormalization(groups, **named)

    return group


def _policy_at(graph: Graph, place: Place) -> str | None:
    """The dtype policy of a new layer behind a call: what it returns is of the same dtype."""
    outputs = graph.at(place.path).nodes[place.call].outputs or ()
    return policy_of(outputs[0].dtype) if outputs else None


@dataclass(frozen=True)
class Bottleneck:
    """Which bottleneck is put behind calls: `adapt.adapters`, which change nothing until trained.

    Args:
        after: The calls; the last axis of what they return holds the features.
        sizes: The units to choose from; 0 means none.
        together: Whether all places have the same.
        activation: Name of the activation of those units.
        name: What its parameters are called.

    Example:

    >>> Bottleneck(after="block_*_add", sizes=(0, 16)).sizes
    (0, 16)
    """

    after: Where
    sizes: Sequence[int] = (0, 8, 32)
    together: bool = False
    activation: str = "gelu"
    name: str = "bottleneck"

    def __call__(self, trial: Any, plan: Plan) -> Plan:
        return _at_places(trial, plan, self, self.sizes, self._edit)

    def _edit(self, graph: Graph, place: Place, size: int) -> Edit | None:
        return Adapters(place.spelling(graph), size, self.activation) if size else None


@dataclass(frozen=True)
class Activation:
    """Which activations take the place of one.

    Args:
        old: The activation that is there.
        new: Those to choose from, beside it.
        where: The layers that have it; all of them without.
        together: Whether all of them change alike.
        name: What its parameters are called.

    Example:

    >>> Activation("relu").new
    ('gelu', 'silu')
    """

    old: str
    new: Sequence[str] = ("gelu", "silu")
    where: Where = None
    together: bool = True
    name: str = "activation"

    verb: ClassVar[str] = "activation"

    def __call__(self, trial: Any, plan: Plan) -> Plan:
        graph = plan.source
        having = [place for place in self._candidates(graph) if self._has(graph, place)]
        if not having:
            raise NoMatchError(
                f"No layer of {graph.kind} '{graph.name}' has the activation '{self.old}'.",
                "print(resect.read(model)) lists every call.",
            )
        options = list(dict.fromkeys((self.old, *self.new)))
        there = places(plan.result)
        rest = [place for place in having if place in there]
        if self.together:
            new = trial.suggest_categorical(self.name, options)
            return self._swapped(plan, rest, new)
        for place in rest:
            new = trial.suggest_categorical(f"{self.name} {place.spelling(graph)}", options)
            plan = self._swapped(plan, [place], new)
        return plan

    def _candidates(self, graph: Graph) -> Iterator[Place]:
        if self.where is not None:
            yield from resolve_calls(self.where, graph)
            return
        for path, inner in graph.walk():
            yield from (Place(path, call) for call in inner.nodes if not inner.is_input(call))

    def _has(self, graph: Graph, place: Place) -> bool:
        return activation_of(graph.at(place.path).layer(place.call)) == self.old

    def _swapped(self, plan: Plan, chosen: Sequence[Place], new: str) -> Plan:
        if new == self.old or not chosen:
            return plan
        spelled = tuple(dict.fromkeys(place.spelling(plan.result) for place in chosen))
        return plan.then(SwapActivations(((self.old, new),), spelled))


@dataclass(frozen=True)
class OneOf:
    """One of several ways to go on with a plan.

    Args:
        name: What the parameter is called.
        options: By name, a function of a plan that returns a plan; or `None`, which changes
            nothing.

    Example:

    >>> wide = OneOf("head", {"as it is": None, "without": lambda plan: plan.pop()})
    >>> list(wide.options)
    ['as it is', 'without']
    """

    name: str
    options: Mapping[str, Callable[[Plan], Plan] | None]

    def __call__(self, trial: Any, plan: Plan) -> Plan:
        chosen = self.options[trial.suggest_categorical(self.name, list(self.options))]
        return plan if chosen is None else chosen(plan)


def _at_places(
    trial: Any,
    plan: Plan,
    choice: Any,
    values: Sequence[Any],
    edit: Callable[[Graph, Place, Any], Edit | None],
) -> Plan:
    """A plan with what a trial chooses for each place that is left."""
    source, result = plan.source, plan.result
    there = places(result)
    rest = [place for place in resolve_calls(choice.after, source) if place in there]
    edits: list[Edit | None] = []
    for place in rest:
        name = choice.name if choice.together else f"{choice.name} {place.spelling(source)}"
        edits.append(edit(result, place, trial.suggest_categorical(name, list(values))))
    return plan.then(*(each for each in edits if each is not None))
