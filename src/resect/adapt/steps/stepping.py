"""What a model needs to read a sequence step by step: its states, and what is known before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from resect.adapt.steps.recurrent import is_stateful
from resect.adapt.steps.rules import (
    CONV_LSTM,
    RECURRENT,
    Kind,
    Step,
    argument,
    is_own,
    kind_of,
    reason,
)
from resect.edits.base import is_raw
from resect.errors import EditError, MaskError
from resect.graph import Call, Graph, Ref, Spec, map_refs, refs


@dataclass(frozen=True)
class State:
    """One tensor that a recurrent call hands on from step to step.

    Attributes:
        call: The recurrent call.
        index: Which of its states it is.
        spec: Its shape and dtype.
        given: What it starts as; `None` for zeros.
    """

    call: Call
    index: int
    spec: Spec
    given: Ref | None


@dataclass(frozen=True)
class Stepping:
    """How a graph is given a sequence step by step.

    Attributes:
        inputs: The inputs that are sequences.
        context: Tensors that are known before the first step, and that steps read.
        states: The states, in order.
        structures: For each recurrent call, its states as the layer takes them: indices of states.
    """

    inputs: tuple[Ref, ...]
    context: tuple[Ref, ...]
    states: tuple[State, ...]
    structures: dict[Call, Any]

    @property
    def given(self) -> tuple[Ref, ...]:
        """All that is known before the first step: the context, and states that are not zero."""
        return (*self.context, *(s.given for s in self.states if s.given is not None))


def stepping(graph: Graph, names: tuple[str, ...] | None, masks: bool = False) -> Stepping:
    """How a graph without nested models can be given a sequence step by step.

    Args:
        graph: The graph.
        names: The inputs that are sequences; by default those that the recurrent layers read.
        masks: Whether recurrent layers may read masks.

    Raises:
        EditError: Some call needs more than one step.
        MaskError: Some call that has a state reads a mask.
    """
    inputs = _sequences(graph, names)
    for ref in inputs:
        if len(graph.spec(ref).shape) < 2:
            raise EditError(
                f"Input '{graph.tensor_label(ref)}' {graph.spec(ref)} has no axis of time.",
                "Say which inputs are sequences: inputs=name.",
                graph.tensor_label(ref),
            )
    if not any(_is_recurrent(graph, call) for call in graph.nodes):
        raise _stateless(graph)
    kinds: dict[Ref, Kind] = {}
    context: dict[Ref, None] = {}
    states: list[State] = []
    structures: dict[Call, Any] = {}
    for call, node in graph.nodes.items():
        if graph.is_input(call):
            kinds[Ref(call)] = "steps" if Ref(call) in inputs else "static"
            continue
        kind = _kind(graph, call, kinds, masks)
        if kind[0] != "static":
            initial = set(_initial(graph, call)) if _has_states(graph, call, kinds) else set()
            found = (ref for ref in node.inputs if kinds[ref] == "static" and ref not in initial)
            context |= dict.fromkeys(found)
        if _has_states(graph, call, kinds):
            structures[call] = _structure(graph, call, states)
        kinds |= dict(zip(graph.refs_of(call), kind, strict=True))
    _check(graph, kinds, context, states)
    return Stepping(inputs, tuple(context), tuple(states), structures)


def _check(
    graph: Graph, kinds: dict[Ref, Kind], context: dict[Ref, None], states: list[State]
) -> None:
    if not states:
        raise _stateless(graph)
    for ref in graph.output_refs:
        if kinds[ref] == "static":
            raise EditError(
                f"The output '{graph.tensor_label(ref)}' does not depend on the sequence.",
                "Keep the others only: resect.adapt.outputs(model, ...).",
                graph.tensor_label(ref),
            )
    for ref in context:
        if graph.spec(ref).masked:
            raise MaskError(
                f"The mask of '{graph.tensor_label(ref)}' would be lost between the two models.",
                "Make the model without masks first, such as with mask_zero=False.",
                graph.tensor_label(ref),
            )


def _stateless(graph: Graph) -> EditError:
    return EditError(
        f"{graph.kind} '{graph.name}' has no recurrent layer that reads its inputs.",
        "Without states it can be called on each step as it is.",
    )


def _sequences(graph: Graph, names: tuple[str, ...] | None) -> tuple[Ref, ...]:
    """The inputs that are sequences."""
    if names is not None:
        labels = {graph.tensor_label(ref): ref for ref in graph.input_refs}
        for name in names:
            if name not in labels:
                have = ", ".join(map(repr, labels))
                raise EditError(f"The model has no input {name!r}.", f"It has {have}.", name)
        return tuple(labels[name] for name in names)
    decoders = [call for call in graph.nodes if _is_recurrent(graph, call)]
    decoders = [call for call in decoders if _initial(graph, call)]
    if not decoders:
        return graph.input_refs
    before = graph.ancestors(ref.call for call in decoders for ref in _initial(graph, call))
    found = tuple(ref for ref in graph.input_refs if ref.call not in before)
    if not found:
        raise EditError(
            "Every input leads to the initial states of recurrent layers.",
            "Say which inputs are given step by step: inputs=name.",
        )
    return found


def _is_recurrent(graph: Graph, call: Call) -> bool:
    return graph.layer(call).cls in RECURRENT


def _has_states(graph: Graph, call: Call, kinds: dict[Ref, Kind]) -> bool:
    """Whether a call is recurrent and reads the sequence."""
    if not _is_recurrent(graph, call):
        return False
    data = argument(graph.nodes[call], graph.layer(call), "sequences")
    return any(kinds[ref] == "steps" for ref in refs(data))


def _initial(graph: Graph, call: Call) -> list[Ref]:
    """The initial states that a recurrent call is given."""
    return refs(argument(graph.nodes[call], graph.layer(call), "initial_state"))


def _kind(graph: Graph, call: Call, kinds: dict[Ref, Kind], masks: bool) -> tuple[Kind, ...]:
    """What is known of the outputs of a call."""
    node, layer = graph.nodes[call], graph.layer(call)
    read: dict[Ref, Kind] = {ref: kinds[ref] for ref in node.inputs}
    count = len(graph.refs_of(call))
    if "steps" not in read.values():
        if is_stateful(layer):
            raise EditError(
                f"{graph.title(call)} is stateful, and does not read the sequence step by step.",
                "Make it stateless first: resect.adapt.recurrent(model, stateful=False).",
                graph.label(call),
            )
        known: Kind = "prefix" if "prefix" in read.values() else "static"
        return (known,) * count
    step = Step(layer, node, read, {ref: graph.spec(ref) for ref in read})
    if _has_states(graph, call, kinds):
        _check_recurrent(graph, call, kinds)
        if not masks:
            _check_mask(graph, call)
    elif "prefix" in read.values():
        raise _refused(graph, call, "reads single steps and what is known of the whole sequence")
    if call in graph.mask_calls:  # it makes a mask for each step, which recurrent calls refuse
        mask: Kind = "steps"
        return (mask,) * count
    kind = kind_of(step)
    if kind is None:
        raise _refused(graph, call, reason(layer))
    others: tuple[Kind, ...] = ("prefix",) * (count - 1)
    return (kind, *others)


def _check_recurrent(graph: Graph, call: Call, kinds: dict[Ref, Kind]) -> None:
    layer = graph.layer(call)
    if layer.recipe.get_config().get("go_backwards"):
        raise _refused(graph, call, "reads the sequence from its end")
    if any(kinds[ref] != "static" for ref in _initial(graph, call)):
        raise _refused(graph, call, "starts with a state that is made of the sequence itself")


def _check_mask(graph: Graph, call: Call) -> None:
    """Refuses masks, unless masked steps return zeros, as they do step by step."""
    node, layer = graph.nodes[call], graph.layer(call)
    config = layer.recipe.get_config()
    if config.get("zero_output_for_mask") and config["return_sequences"]:
        return
    data = refs(argument(node, layer, "sequences"))
    masked = any(graph.spec(ref).masked for ref in data)
    if masked or refs(argument(node, layer, "mask")):
        raise MaskError(
            f"{graph.title(call)} reads a mask: behind a padded step it repeats an output that the "
            "step before has made.",
            "Say masks=True if outputs at padded steps do not matter; all others are equal.",
            graph.label(call),
        )


def _refused(graph: Graph, call: Call, why: str) -> EditError:
    layer = graph.layer(call)
    repair = "Take it out first, or cut the model in front of it: resect.split(model, at=...)."
    if is_raw(layer.op):
        repair = "Put a layer of your own in its place, with resect.adapt.register_stepwise."
    elif is_own(layer):
        repair = (
            "If it treats every step by itself, say so: "
            f"resect.adapt.register_stepwise({layer.kind})."
        )
    return EditError(f"{graph.title(call)} {why}.", repair, graph.label(call))


def _structure(graph: Graph, call: Call, states: list[State]) -> Any:
    """The states of a recurrent call in its layer's structure, as indices of `states`."""
    initial = iter(_initial(graph, call))
    first = len(states)

    def add(spec: Spec) -> int:
        states.append(State(call, len(states) - first, spec, next(initial, None)))
        return len(states) - 1

    return [
        [add(spec) for spec in each] if isinstance(each, list) else add(each)
        for each in _specs(graph, call)
    ]


def _specs(graph: Graph, call: Call) -> Iterator[Any]:
    """Shapes and dtypes of the states of a recurrent call, in its layer's structure."""
    node, layer = graph.nodes[call], graph.layer(call)
    data = graph.spec(refs(argument(node, layer, "sequences"))[0])
    dtype = layer.recipe.compute_dtype
    if layer.cls in CONV_LSTM:
        shape = graph.spec(Ref(call)).shape
        if layer.recipe.return_sequences:
            shape = (shape[0], *shape[2:])
        yield from (Spec(shape, dtype), Spec(shape, dtype))
        return
    for size in layer.recipe.state_size:
        if isinstance(size, (list, tuple)):
            yield [Spec((data.shape[0], int(units)), dtype) for units in size]
        else:
            yield Spec((data.shape[0], int(size)), dtype)


def filled(structure: Any, tensors: list[Ref]) -> Any:
    """A structure of indices with the tensors in their places."""
    if isinstance(structure, list):
        return [filled(item, tensors) for item in structure]
    return map_refs(lambda ref: ref, tensors[structure])
