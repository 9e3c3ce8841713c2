"""A sequence model for decoding step by step: a step, its states as inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import keras
import numpy as np

from resect.adapt.base import with_input
from resect.adapt.nested.flatten import Flatten
from resect.adapt.steps.rules import argument
from resect.adapt.steps.stepping import Stepping, filled, stepping
from resect.edits.base import Edit, call_parameters
from resect.edits.truncate import DropUnusedInputs
from resect.errors import EditError
from resect.graph import Call, Graph, Layer, Node, Ref, Spec
from resect.keras_graph.making import changed_layer, identity_layer, input_layer
from resect.options import Weights
from resect.plan import plan

Names = tuple[str, ...] | None


@dataclass(frozen=True)
class StepModel(Edit):
    """What a sequence model does at a step: states are inputs and outputs.

    Args:
        inputs: Names of the inputs that are given step by step; `None` finds them.
        steps: How many steps at once; `None` for any number.
        masks: Whether recurrent layers may read masks; see `stepwise`.
    """

    verb: ClassVar[str] = "step_model"
    uncompiled: ClassVar[str] = "its outputs are others now"
    inputs: Names = None
    steps: int | None = 1
    masks: bool = False

    def describe(self) -> str:
        return f"read {_listed(self.inputs)} step by step"

    def pinned(self, graph: Graph) -> Edit:
        return self

    def apply(self, graph: Graph) -> Graph:
        graph = _flat(graph)
        how = stepping(graph, self.inputs, self.masks)
        names = _names(graph, how)
        made = [input_layer(name, spec) for name, spec in names]
        nodes = [Node(Call(n), outputs=(spec,)) for n, spec in names]
        tensors = [Ref(Call(name)) for name, _ in names]
        context, states = tensors[: len(how.context)], tensors[len(how.context) :]
        new = graph.substitute(dict(zip(how.context, context, strict=True)))
        new = new.add(nodes, made)
        for call, structure in how.structures.items():
            new = _with_states(new, call, filled(structure, states))
        for ref in how.inputs:
            shape = graph.spec(ref).shape
            new = with_input(new, ref.call, (shape[0], self.steps, *shape[2:]))
        last = [Ref(state.call, 1 + state.index) for state in how.states]
        outputs = [*new.output_refs, *last]
        new = new.evolve(inputs=[*how.inputs, *tensors], outputs=outputs)
        return new.pruned().ordered()


@dataclass(frozen=True)
class StepStart(Edit):
    """What a sequence model computes before the first step: an encoder.

    Args:
        inputs: As those of `StepModel`.
        masks: Likewise.
    """

    verb: ClassVar[str] = "step_start"
    uncompiled: ClassVar[str] = "its outputs are others now"
    inputs: Names = None
    masks: bool = False

    def describe(self) -> str:
        return f"compute all that does not depend on {_listed(self.inputs)}"

    def pinned(self, graph: Graph) -> Edit:
        return self

    def apply(self, graph: Graph) -> Graph:
        graph = _flat(graph)
        given = stepping(graph, self.inputs, self.masks).given
        if not given:
            raise EditError(
                "Nothing is known before the first step: every state starts at zero.",
                "The model of a step is all that is needed.",
            )
        outputs = []
        for ref in given:
            if graph.is_input(ref.call):
                layer = identity_layer(graph.free_name(f"{ref.call.layer}_given"))
                graph = graph.add([Node(Call(layer.name), (ref,))], [layer])
                ref = Ref(Call(layer.name))
            outputs.append(ref)
        new = graph.evolve(outputs=outputs).pruned()
        return DropUnusedInputs().apply(new).ordered()


def _listed(names: Names) -> str:
    return "the sequence" if names is None else ", ".join(map(repr, names))


def _flat(graph: Graph) -> Graph:
    nested = any(layer.graph is not None for layer in graph.layers.values())
    return Flatten().apply(graph) if nested else graph


def _names(graph: Graph, how: Stepping) -> list[tuple[str, Spec]]:
    """Names and specs of the inputs that are added."""
    found: list[tuple[str, Spec]] = []
    for ref in how.context:
        found.append((f"{ref.call.layer}_given", graph.spec(ref)))
    for state in how.states:
        shared = f"_{state.call.number}" if graph.is_shared(state.call.layer) else ""
        found.append((f"{state.call.layer}{shared}_state_{state.index}", state.spec))
    taken: list[str] = []
    for at, (name, spec) in enumerate(found):
        taken.append(graph.free_name(name, taken))
        found[at] = (taken[-1], spec._replace(mask=None, sparse=False))
    return found


def _with_states(graph: Graph, call: Call, states: Any) -> Graph:
    """A recurrent call that is given its states and returns them."""
    node, layer = graph.nodes[call], graph.layer(call)
    kept = {
        name: argument(node, layer, name)
        for name in call_parameters(layer.op)
        if name not in ("sequences", "initial_state")
    }
    kwargs = {name: value for name, value in kept.items() if name in node.kwargs or value}
    data = argument(node, layer, "sequences")
    new = Node(call, (data,), {**kwargs, "initial_state": states})
    known = dict(zip(node.inputs, node.seen, strict=True))
    new = replace(new, seen=tuple(known.get(ref) or graph.spec(ref) for ref in new.inputs))
    return replace(
        graph.with_layer(_returning(layer)), nodes={**graph.nodes, call: new}, edited=True
    )


def _returning(layer: Layer) -> Layer:
    config = layer.recipe.get_config()
    wanted = {"return_state": True, "stateful": False}
    if all(config[name] == value for name, value in wanted.items()):
        return layer
    return changed_layer(layer, lambda old: {**old, **wanted})


@dataclass(frozen=True)
class Stepwise:
    """A sequence model, taken apart for decoding step by step.

    Attributes:
        step: Takes `[*inputs, *memory]` of one step and returns `[*outputs, *states]`.
        start: Computes from the other inputs what is known before the first step; `None` where
            there is nothing.
        context: How many tensors of the memory stay as they are from step to step.
        given: For each state, whether `start` computes what it begins with; others are zeros.
    """

    step: Any
    start: Any
    context: int
    given: tuple[bool, ...]

    def begin(self, inputs: Any = None, batch_size: int = 1) -> list[Any]:
        """The memory before the first step, as arrays.

        Args:
            inputs: What `start` takes, such as the sentence to translate.
            batch_size: How many sequences there will be, where there is no `start`.
        """
        found: list[Any] = []
        if self.start is not None:
            found = keras.tree.flatten(self.start.predict_on_batch(inputs))
            batch_size = found[0].shape[0]
        known = iter(found)
        memory = [next(known) for _ in range(self.context)]
        places = self.step.inputs[len(self.step.inputs) - len(self.given) :]
        for given, tensor in zip(self.given, places, strict=True):
            zeros = (batch_size, *tensor.shape[1:])
            memory.append(next(known) if given else np.zeros(zeros, "float32"))
        return memory

    def __call__(self, inputs: Any, memory: list[Any]) -> tuple[Any, list[Any]]:
        """The outputs of a step (an array, or a list of them), and the memory for the next.

        Args:
            inputs: The next step: `(batch, 1, ...)`; several in a list.
            memory: What `begin` or the step before returned.
        """
        now = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        found = keras.tree.flatten(self.step.predict_on_batch([*now, *memory]))
        outputs = found[: len(found) - len(self.given)]
        new = [*memory[: self.context], *found[len(outputs) :]]
        return (outputs[0] if len(outputs) == 1 else outputs), new


def stepwise(
    model: Any,
    *,
    inputs: str | list[str] | tuple[str, ...] | None = None,
    steps: int | None = 1,
    masks: bool = False,
    weights: Weights = "copy",
) -> Stepwise:
    """A sequence model for decoding step by step, as text generation and live signals need it.

    The model of a step takes the next step of the sequence, `(batch, 1, ...)`, and the states of
    all recurrent layers, and returns its outputs and the new states. Of an encoder and a decoder,
    what does not depend on the decoder's sequence becomes a model of its own, `start`: it computes
    the initial states, and whatever else the steps read, such as the encoder's outputs for
    attention. Nested models are dissolved.

    Preserved: the weights, bit by bit. Outputs that the model returns for each step are, one after
    another, those of the whole sequence; an output that it returns once (`return_sequences=False`,
    `x[:, -1]`) is at each step that of the sequence so far.
    Not preserved: the compile configuration; states of stateful layers, which begin anew.

    Args:
        model: A built Keras model.
        inputs: Names of the inputs that are given step by step. By default all; where recurrent
            layers are given initial states, those that these do not depend on.
        steps: How many steps at once; `None` for any number.
        masks: Whether recurrent layers may read masks, such as that of
            `Embedding(mask_zero=True)`. States and outputs at steps that are not masked are equal
            then. At a masked step a recurrent layer repeats its last output; step by step it
            returns zeros there.
        weights: `"copy"` or `"share"`.

    Returns:
        The models, which can be called step by step.

    Raises:
        EditError: A layer looks at several steps at once: one that reads from the end
            (`Bidirectional`, `go_backwards`), convolution or pooling over time, `Flatten`,
            attention within the sequence; or a layer without a rule (`register_stepwise`).
        MaskError: A recurrent layer reads a mask, or one would be lost between the two models.

    Example:

    >>> import keras, resect
    >>> import numpy as np
    >>> x = keras.Input((None, 3))
    >>> y = keras.layers.Dense(2)(keras.layers.GRU(4, return_sequences=True)(x))
    >>> stepper = resect.adapt.stepwise(keras.Model(x, y))
    >>> memory = stepper.begin(batch_size=2)
    >>> outputs, memory = stepper(np.ones((2, 1, 3)), memory)
    >>> outputs.shape, [state.shape for state in memory]
    ((2, 1, 2), [(2, 4)])
    """
    names = (inputs,) if isinstance(inputs, str) else None if inputs is None else tuple(inputs)
    whole = plan(model)
    step = whole.then(StepModel(names, steps, masks)).apply(weights=weights)
    how = stepping(_flat(whole.source), names, masks)
    start = whole.then(StepStart(names, masks)).apply(weights=weights) if how.given else None
    given = tuple(state.given is not None for state in how.states)
    return Stepwise(step, start, len(how.context), given)
