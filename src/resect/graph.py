"""A model as an immutable graph of calls. No Keras, no backend.

A `Graph` is a table of layers and a sequence of calls. A layer that is shared stands in the
table once and is called several times; a nested model is a layer that has a graph of its own.
Whatever a Keras layer is, it is opaque here: `Layer.op` is carried along and never looked into.

    Graph
    ├── layers    name -> Layer(name, op, cls, graph of a nested model)
    ├── nodes     Call(layer, number) -> Node(args, kwargs with Ref leaves, output specs)
    ├── inputs    any structure of Ref
    └── outputs   any structure of Ref

Everything that changes a graph returns a new one.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

from resect.errors import CycleError

Shape = tuple[int | None, ...]


class Call(NamedTuple):
    """One call of a layer: the layer's name and which of its calls it is."""

    layer: str
    number: int = 0


class Ref(NamedTuple):
    """One tensor: an output of a call."""

    call: Call
    output: int = 0


class Spec(NamedTuple):
    """What is known of a tensor before it has a value.

    Attributes:
        shape: Shape with the batch axis first; `None` for an axis of any length.
        dtype: Name of the dtype, such as `"float32"`.
        sparse: Whether the tensor comes from a sparse input.
        mask: The tensor that Keras attaches to it as its mask: a `Ref` where the graph has a call
            that makes it, `True` where it is made at run time, `None` where there is none.
    """

    shape: Shape
    dtype: str
    sparse: bool = False
    mask: Ref | Literal[True] | None = None

    @property
    def masked(self) -> bool:
        """Whether Keras attaches a mask to it."""
        return self.mask is not None

    def same_type(self, other: Spec) -> bool:
        """Whether both have one shape and one dtype."""
        return self.shape == other.shape and self.dtype == other.dtype

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.shape))}{',' if len(self.shape) == 1 else ''})"


class VariableSpec(NamedTuple):
    """Name, shape and dtype of one variable of a layer."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class Change:
    """What becomes of a layer of the source that goes on with another configuration.

    Attributes:
        template: The unbuilt layer of that configuration, opaque here.
        values: By its name, or by the end of its path, how a variable comes to a value that is not
            simply its old one: a function of the old values by name (or by that end of the path),
            or `None` for a variable that starts afresh or is left out. Every other variable keeps
            its value, and must keep its shape.
        built: What is done to the layer once it is built and no configuration says, such as
            enabling LoRA. A variable that this freezes is frozen, and none is thawed.
        thawed: Of the keys of `values`, those whose variables are trained from now on if the layer
            is.
    """

    template: Any
    values: Mapping[str, Callable[[Mapping[str, Any]], Any] | None] = field(default_factory=dict)
    built: Callable[[Any], Any] | None = None
    thawed: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class Layer:
    """What is called: a layer, a raw operation or a nested model.

    Attributes:
        name: Unique among the layers of its graph.
        op: The Keras operation behind it, opaque here.
        cls: The class of `op`.
        graph: The graph of a nested model, `None` for everything else.
        origin: `"kept"` is copied from `op` with its values; `"rebuilt"` is built anew for another
            input shape, around the same values; `"new"` is made from the template
            `op`; `"reinit"` is a layer of the source that starts afresh because its weights no
            longer fit.
        template: The layer that a `"new"` layer of the same class takes fitting values from.
        variables: Of a layer that is not what it was, once its input shape is known.
        skeleton: Of a `"rebuilt"` layer: what it is built as, with variables that have no values.
        part: Which part of `op` this is, where a nested model was cut in two.
        change: Of a layer of the source that goes on with another configuration.
    """

    name: str
    op: Any
    cls: type
    graph: Graph | None = None
    origin: Literal["kept", "rebuilt", "new", "reinit"] = "kept"
    template: Any = None
    variables: tuple[VariableSpec, ...] | None = None
    skeleton: Any = None
    part: str = ""
    change: Change | None = None

    @property
    def recipe(self) -> Any:
        """What a fresh layer of its configuration is made from."""
        return self.op if self.change is None else self.change.template

    @property
    def kind(self) -> str:
        """The name of the class, as it is printed."""
        return self.cls.__name__


@dataclass(frozen=True, eq=False)
class Node:
    """One call.

    Attributes:
        call: Its key.
        args: Positional arguments; every tensor among them is a `Ref`.
        kwargs: Keyword arguments, likewise.
        outputs: Specs of the flat outputs; `None` while they are not known.
        seen: Specs of the inputs that `outputs` hold for.
        tensors: The Keras tensors that were recorded for the outputs, opaque here.
    """

    call: Call
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[Spec, ...] | None = None
    seen: tuple[Spec, ...] = ()
    tensors: tuple[Any, ...] = ()

    @cached_property
    def inputs(self) -> tuple[Ref, ...]:
        """Every tensor that it reads, in order, repeated where it is read twice."""
        return tuple(refs(self.args) + refs(dict(self.kwargs)))

    @cached_property
    def data_inputs(self) -> tuple[Ref, ...]:
        """The tensors that carry data: each once, without masks and recurrent states."""
        carried = {k: v for k, v in self.kwargs.items() if not _is_side_argument(k)}
        return tuple(dict.fromkeys(refs(self.args) + refs(carried)))

    def substitute(self, mapping: Mapping[Ref, Ref]) -> Node:
        """The same call with other tensors put in."""
        if not any(ref in mapping for ref in self.inputs):
            return self
        args, kwargs = map_refs(lambda r: mapping.get(r, r), (self.args, dict(self.kwargs)))
        return dataclasses.replace(self, args=args, kwargs=kwargs)


def _is_side_argument(name: str) -> bool:
    return name == "mask" or name.endswith("_mask") or name == "initial_state"


@dataclass(frozen=True, eq=False)
class Graph:
    """A model: calls in topological order, between inputs and outputs.

    Attributes:
        name: Name of the model.
        kind: `"Functional"`, `"Sequential"`, or the name of a subclass of either.
        layers: The layers by name.
        nodes: The calls by key, each after everything that it reads.
        inputs: Structure of `Ref`, as the model takes its inputs.
        outputs: Structure of `Ref`, as the model returns its outputs.
        model: The Keras model that it was read from, opaque here.
        edited: Whether it differs from what was read.
    """

    name: str
    kind: str
    layers: Mapping[str, Layer]
    nodes: Mapping[Call, Node]
    inputs: Any
    outputs: Any
    model: Any = None
    edited: bool = False

    # Queries

    def __len__(self) -> int:
        return len(self.nodes)

    def layer(self, call: Call) -> Layer:
        """The layer that a call is a call of."""
        return self.layers[call.layer]

    def spec(self, ref: Ref) -> Spec:
        """What is known of a tensor. Its producer's outputs must be known."""
        outputs = self.nodes[ref.call].outputs
        assert outputs is not None, f"the outputs of {ref.call} are not known yet"
        return outputs[ref.output]

    def refs_of(self, call: Call) -> tuple[Ref, ...]:
        """The tensors that a call returns."""
        outputs = self.nodes[call].outputs
        return tuple(Ref(call, i) for i in range(len(outputs or (None,))))

    def calls_of(self, layer: str) -> tuple[Call, ...]:
        """The calls of a layer, in order."""
        return self._calls.get(layer, ())

    def is_input(self, call: Call) -> bool:
        """Whether the call stands for an input of the model."""
        return call in self._input_calls

    def is_shared(self, layer: str) -> bool:
        """Whether a layer is called more than once."""
        return len(self.calls_of(layer)) > 1

    def label(self, call: Call) -> str:
        """The user's spelling of a call: `name`, or `name@number` for a shared layer."""
        return f"{call.layer}@{call.number}" if self.is_shared(call.layer) else call.layer

    def title(self, call: Call) -> str:
        """Spelling and class of a call: `'conv1' (Conv2D)`."""
        return f"'{self.label(call)}' ({self.layer(call).kind})"

    def tensor_label(self, ref: Ref) -> str:
        """The user's spelling of a tensor: its call, and which output if there are several."""
        several = len(self.nodes[ref.call].outputs or ()) > 1
        return f"{self.label(ref.call)}:{ref.output}" if several else self.label(ref.call)

    @cached_property
    def input_refs(self) -> tuple[Ref, ...]:
        """The inputs, flat."""
        return tuple(refs(self.inputs))

    @cached_property
    def output_refs(self) -> tuple[Ref, ...]:
        """The outputs, flat."""
        return tuple(refs(self.outputs))

    @cached_property
    def _input_calls(self) -> frozenset[Call]:
        return frozenset(ref.call for ref in self.input_refs)

    @cached_property
    def _calls(self) -> dict[str, tuple[Call, ...]]:
        calls: dict[str, list[Call]] = {}
        for call in self.nodes:
            calls.setdefault(call.layer, []).append(call)
        return {layer: tuple(sorted(found)) for layer, found in calls.items()}

    @cached_property
    def made(self) -> dict[Call, Call]:
        """The number that each call gets when the calls are made in order, as Keras numbers them.

        In an edited graph calls keep the numbers that they had in the source.
        """
        made: dict[Call, Call] = {}
        count: dict[str, int] = {}
        for call in self.nodes:
            count[call.layer] = count.get(call.layer, -1) + 1
            made[call] = Call(call.layer, count[call.layer])
        return made

    @cached_property
    def _readers(self) -> dict[Ref, tuple[Call, ...]]:
        readers: dict[Ref, list[Call]] = {}
        for node in self.nodes.values():
            for ref in dict.fromkeys(node.inputs):
                readers.setdefault(ref, []).append(node.call)
        return {ref: tuple(found) for ref, found in readers.items()}

    @cached_property
    def mask_calls(self) -> frozenset[Call]:
        """The calls that serve nothing but masks, such as the `NotEqual` behind an Embedding."""
        data = [ref.call for ref in self.output_refs] + list(self._input_calls)
        needed = _reach(data, lambda call: (ref.call for ref in self.nodes[call].data_inputs))
        return frozenset(self.nodes) - needed

    def readers(self, ref: Ref) -> tuple[Call, ...]:
        """The calls that read a tensor."""
        return self._readers.get(ref, ())

    def consumers(self, call: Call) -> tuple[Call, ...]:
        """The calls that read any output of a call."""
        found = (reader for ref in self.refs_of(call) for reader in self.readers(ref))
        return tuple(dict.fromkeys(found))

    def ancestors(self, calls: Iterable[Call]) -> set[Call]:
        """The calls and everything that they need."""
        return _reach(calls, lambda call: (ref.call for ref in self.nodes[call].inputs))

    def descendants(self, calls: Iterable[Call]) -> set[Call]:
        """The calls and everything that needs them."""
        return _reach(calls, self.consumers)

    def walk(self, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Graph]]:
        """This graph and every nested one, each with the path of layer names that leads to it."""
        stack: list[tuple[tuple[str, ...], Graph]] = [(path, self)]
        while stack:
            path, graph = stack.pop()
            yield path, graph
            nested = [((*path, n), la.graph) for n, la in graph.layers.items() if la.graph]
            stack.extend(reversed(nested))

    def at(self, path: tuple[str, ...]) -> Graph:
        """The graph of the nested model that a path of layer names leads to."""
        graph = self
        for name in path:
            nested = graph.layers[name].graph
            assert nested is not None, f"{name} is not a nested model"
            graph = nested
        return graph

    def free_name(self, name: str, taken: Iterable[str] = ()) -> str:
        """`name`, or `name_1`, `name_2`, … whichever no layer has yet."""
        return free_name(name, {*self.layers, *taken})

    # Changes: each returns a new graph

    def evolve(self, **changes: Any) -> Graph:
        """A graph with some fields changed."""
        return dataclasses.replace(self, **{"edited": True, **changes})

    def substitute(
        self, mapping: Mapping[Ref, Ref], *, only: Iterable[Call] | None = None
    ) -> Graph:
        """Reads other tensors instead.

        Args:
            mapping: Which tensor is read instead of which.
            only: The calls to rewire; by default all calls and the outputs of the model.
        """
        chosen = None if only is None else set(only)
        nodes = {
            call: node.substitute(mapping) if chosen is None or call in chosen else node
            for call, node in self.nodes.items()
        }
        outputs = self.outputs
        if chosen is None:
            outputs = map_refs(lambda r: mapping.get(r, r), outputs)
        return self.evolve(nodes=nodes, outputs=outputs)

    def add(self, nodes: Iterable[Node], layers: Iterable[Layer]) -> Graph:
        """With more calls and layers. Call `ordered` once everything is wired."""
        return self.evolve(
            nodes={**self.nodes, **{node.call: node for node in nodes}},
            layers={**self.layers, **{layer.name: layer for layer in layers}},
        )

    def with_layer(self, layer: Layer) -> Graph:
        """With a layer of the same name put in the place of another."""
        return self.evolve(layers={**self.layers, layer.name: layer})

    def with_nested(self, path: tuple[str, ...], nested: Graph) -> Graph:
        """With another graph in the nested model at a path, wherever that model is called."""
        if not path:
            return nested
        owner = self.at(path[:-1]).layers[path[-1]]
        return _put(self, owner.op, owner.part, nested)

    def pruned(self) -> Graph:
        """Without the calls that no output needs; inputs stay."""
        needed = self.ancestors(ref.call for ref in self.output_refs) | self._input_calls
        nodes = {call: node for call, node in self.nodes.items() if call in needed}
        names = {call.layer for call in nodes}
        layers = {name: layer for name, layer in self.layers.items() if name in names}
        return self.evolve(nodes=nodes, layers=layers)

    def ordered(self) -> Graph:
        """With the calls in topological order, as near to the present order as possible.

        Calls of one layer keep their order wherever the wiring allows it, because Keras numbers
        them in the order in which they are made.

        Raises:
            CycleError: The wiring has a cycle.
        """
        if self._is_ordered():
            return self
        order = _topological(self._predecessors(numbered=True))
        if order is None:
            order = _topological(self._predecessors(numbered=False))
        if order is None:
            raise CycleError(
                "The rewired graph would feed a layer its own output.",
                "Choose another place, or a tensor to read that does not depend on it.",
            )
        return dataclasses.replace(self, nodes={call: self.nodes[call] for call in order})

    def _is_ordered(self) -> bool:
        """Whether each call comes after what it reads and after the earlier calls of its layer."""
        seen: set[Call] = set()
        for call, node in self.nodes.items():
            if call.number and not self._earlier(call) <= seen:
                return False
            if any(ref.call not in seen for ref in node.inputs):
                return False
            seen.add(call)
        return True

    def _earlier(self, call: Call) -> set[Call]:
        return {other for other in self._calls[call.layer] if other.number < call.number}

    def _predecessors(self, *, numbered: bool) -> dict[Call, list[Call]]:
        before = {call: [ref.call for ref in node.inputs] for call, node in self.nodes.items()}
        if numbered:
            for calls in self._calls.values():
                for first, second in itertools.pairwise(calls):
                    before[second].append(first)
        return before

    def __str__(self) -> str:
        from resect.drawing import draw  # it draws what is defined here

        return "\n".join(draw(self))


def _put(graph: Graph, op: Any, part: str, nested: Graph) -> Graph:
    """Puts a graph into every layer that stands for a nested model, at any depth."""
    layers = dict(graph.layers)
    for name, layer in graph.layers.items():
        if layer.graph is None:
            continue
        inner = (
            nested if layer.op is op and layer.part == part else _put(layer.graph, op, part, nested)
        )
        if inner is not layer.graph:
            layers[name] = dataclasses.replace(layer, graph=inner)
    changed = any(layers[name] is not layer for name, layer in graph.layers.items())
    return graph.evolve(layers=layers) if changed else graph


def free_name(name: str, taken: Container[str]) -> str:
    """`name`, or `name_1`, `name_2`, … whichever is not taken."""
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    return candidate


# Structures


def map_refs(fn: Callable[[Ref], Any], structure: Any) -> Any:
    """A structure of tuples, lists and dicts with every `Ref` replaced by `fn(ref)`."""
    if type(structure) is Ref:
        return fn(structure)
    if isinstance(structure, tuple):
        items = [map_refs(fn, item) for item in structure]
        return type(structure)(*items) if hasattr(structure, "_fields") else tuple(items)
    if isinstance(structure, list):
        return [map_refs(fn, item) for item in structure]
    if isinstance(structure, dict):
        return {key: map_refs(fn, item) for key, item in structure.items()}
    return structure


def refs(structure: Any) -> list[Ref]:
    """Every `Ref` of a structure, in Keras's order: dicts by sorted key."""
    if type(structure) is Ref:
        return [structure]
    if isinstance(structure, dict):
        structure = [structure[key] for key in sorted(structure, key=str)]
    if not isinstance(structure, (tuple, list)):
        return []
    found: list[Ref] = []
    for item in structure:
        if type(item) is Ref:
            found.append(item)
        elif isinstance(item, (tuple, list, dict)):
            found += refs(item)
    return found


# Walks, all with a stack of their own: graphs are deeper than Python's


def _reach(starts: Iterable[Call], step: Callable[[Call], Iterable[Call]]) -> set[Call]:
    seen = set(starts)
    stack = list(seen)
    while stack:
        for call in step(stack.pop()):
            if call not in seen:
                seen.add(call)
                stack.append(call)
    return seen


def _topological(before: Mapping[Call, list[Call]]) -> list[Call] | None:
    """Depth-first from each call in the present order; `None` if there is a cycle."""
    done: dict[Call, None] = {}
    for root in before:
        if root in done:
            continue
        stack = [(root, iter(before[root]))]
        on_stack = {root}
        while stack:
            call, waiting = stack[-1]
            ahead = next((c for c in waiting if c not in done), None)
            if ahead is None:
                stack.pop()
                on_stack.discard(call)
                done[call] = None
            elif ahead in on_stack:
                return None
            else:
                on_stack.add(ahead)
                stack.append((ahead, iter(before[ahead])))
    return list(done)
