"""The one helper that a test of an edit needs: apply it, and prove everything that can be proved.

    assert_surgery(model, Remove("dropout"), '''
        Functional 'net'
          x       InputLayer  (None, 4)
          logits  Dense       (None, 3)  <- x
          -> logits
    ''')

What an edit means is said by the drawing, what it computes by the oracle of `resect.verify`, which
evaluates the edited graph on the layers of the source. The rest is the promise: the source is
untouched, what stays stays, and what comes out is plain Keras.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

import resect
from resect.edits import Edit
from resect.graph import Graph, Layer, Ref, map_refs
from resect.keras_graph.reading import has_graph
from resect.keras_graph.writing import result_kind

Surgery = Edit | resect.Plan | Callable[[resect.Plan], resect.Plan]


def assert_surgery(
    model: Any,
    surgery: Surgery,
    expected_drawing: str | None = None,
    inputs: Any = None,
    *,
    weights: Any = "copy",
    training: bool = True,
    reload: bool = True,
    before: Source | None = None,
) -> Any:
    """Applies an edit and proves that the result is what was asked for.

    Args:
        model: The source.
        surgery: An edit, a plan, or a function that adds edits to an empty plan.
        expected_drawing: What `str(plan.result)` must be; indentation does not matter.
        inputs: Arrays in the structure of the result's inputs; random ones by default.
        weights: `"copy"` or `"share"`.
        training: Whether to compare in training mode too.
        reload: Whether to save the result, load it and compare.
        before: What the source must be afterwards; by default what it is now.

    Returns:
        The edited model.
    """
    plan = as_plan(model, surgery)
    before = before or Source.of(model)
    new = plan.apply(weights)
    if expected_drawing is not None:
        drawing = str(plan.result)
        assert drawing == textwrap.dedent(expected_drawing).strip(), f"it is\n{drawing}"
    assert_plain_keras(model, new)
    written = resect.read(new)
    assert wiring(written) == wiring(plan.result), f"not as planned:\n{written}\n{plan.result}"
    pairs = assert_kept(plan.result, new, shared=weights == "share")
    assert_compiled(plan, new, pairs)
    resect.verify(
        model, new, plan=plan, inputs=inputs, training=training, reload=reload, tolerance=1e-5
    )
    if weights == "copy":
        assert_independent(model, new)
    before.assert_untouched()
    return new


def as_plan(model: Any, surgery: Surgery) -> resect.Plan:
    """The plan that an edit, a plan or a function of a plan stands for."""
    if isinstance(surgery, resect.Plan):
        return surgery
    plan = resect.plan(model)
    return plan.then(surgery) if isinstance(surgery, Edit) else surgery(plan)


# The source


@dataclass(frozen=True)
class Source:
    """All that an edit must leave alone in the model that it starts from.

    Attributes:
        model: The model.
        facts: What is true of it, by what each fact is about.
    """

    model: Any
    facts: dict[str, Any]

    @classmethod
    def of(cls, model: Any) -> Source:
        """The model as it is now."""
        return cls(model, dict(_facts(model)))

    def assert_untouched(self) -> None:
        """The model is still what it was: every fact about it is."""
        now = dict(_facts(self.model))
        changed = [name for name in {**self.facts, **now} if self.facts.get(name) != now.get(name)]
        assert not changed, f"the source has changed: {', '.join(changed)}"


def _facts(model: Any) -> Iterator[tuple[str, Any]]:
    for number, operation in enumerate(_operations(model)):
        about = f"{number} {operation.name}"
        calls = [len(operation._inbound_nodes), len(operation._outbound_nodes)]
        yield f"calls of {about}", (id(operation), calls)
        if isinstance(operation, keras.Layer):
            flags = (operation.trainable, operation._trainable, operation.built)
            yield f"flags of {about}", (flags, operation.dtype_policy.name)
            yield f"losses of {about}", len(operation._losses)
    optimizer = getattr(model, "optimizer", None)
    yield "optimizer", (id(optimizer), getattr(optimizer, "built", None))
    for number, variable in enumerate(_all_variables(model)):
        about = f"{number} {variable.path}"
        yield f"value of {about}", (id(variable), variable.trainable, bits(variable))
    yield (
        "compile state",
        (
            getattr(model, "compiled", None),
            id(getattr(model, "_compile_config", None)),
            [id(metric) for metric in getattr(model, "_metrics", [])],
        ),
    )
    yield "attributes", sorted(vars(model))
    try:
        yield "config", repr(model.get_config())
    except NotImplementedError:  # a layer without a configuration
        yield "config", None


def _operations(model: Any) -> list[Any]:
    """The model, and every layer and operation at any depth."""
    found = {id(layer): layer for layer in model._flatten_layers()}
    if has_graph(model):
        for _, graph in resect.read(model).walk():
            found |= {id(layer.op): layer.op for layer in graph.layers.values()}
    return list(found.values())


def _states(model: Any) -> list[Any]:
    """Recurrent states, which Keras does not count among the variables."""
    states = [getattr(layer, "states", None) for layer in model._flatten_layers()]
    return [leaf for leaf in keras.tree.flatten(states) if isinstance(leaf, keras.Variable)]


def bits(variable: Any) -> bytes:
    """The value of a variable, bit by bit."""
    return np.asarray(keras.ops.convert_to_numpy(variable.value)).tobytes()


# The result


def assert_plain_keras(model: Any, new: Any) -> None:
    """The result is of a class of Keras, or of the source's own, and holds nothing of resect."""
    assert isinstance(new, keras.Model)
    assert type(new) is type(model) or type(new).__module__.split(".")[0] == "keras"
    for operation in _operations(new):
        assert not type(operation).__module__.startswith("resect")
        held = [value for value in vars(operation).values() if value is not None]
        assert not any(type(value).__module__.startswith("resect") for value in held)


def wiring(graph: Graph) -> list[str]:
    """The lines of a drawing, without what only a plan knows, and in any order.

    A plan knows where layers come from and what a model was before it became a plain Functional.
    Its calls keep their numbers, which Keras counts afresh, and their order, which Keras sorts by
    depth.
    """
    return sorted(str(_plain(graph)).splitlines())


def _plain(graph: Graph) -> Graph:
    def counted(structure: Any) -> Any:
        return map_refs(lambda r: Ref(graph.made[r.call], r.output), structure)

    nodes = {}
    for call, node in graph.nodes.items():
        args, kwargs = counted((node.args, dict(node.kwargs)))
        made = graph.made[call]
        nodes[made] = dataclasses.replace(node, call=made, args=args, kwargs=kwargs)
    return dataclasses.replace(
        graph,
        nodes=nodes,
        layers={name: _plain_layer(layer) for name, layer in graph.layers.items()},
        inputs=counted(graph.inputs),
        outputs=counted(graph.outputs),
        kind=result_kind(graph),
    )


def _plain_layer(layer: Layer) -> Layer:
    if layer.graph is None:
        return dataclasses.replace(layer, origin="kept")
    nested = _plain(layer.graph)
    cls = type(nested.kind, (), {})  # drawn as what it becomes
    return dataclasses.replace(layer, origin="kept", graph=nested, cls=cls)


def assert_kept(graph: Graph, new: Any, *, shared: bool = False) -> list[tuple[Any, Any]]:
    """Every layer that was kept is what it was: class, flags, policy, variables and their paths.

    Args:
        graph: The planned graph.
        new: The model that was written from it.
        shared: Whether the variables must be the source's own.

    Returns:
        Every variable of a kept layer, and what it is now.
    """
    pairs: list[tuple[Any, Any]] = []
    for name, layer in graph.layers.items():
        made = _by_name(new, name)
        if layer.graph is not None and layer.origin != "new":
            assert made.trainable == layer.op.trainable, f"{name} has another trainable flag"
            pairs += assert_kept(layer.graph, made, shared=shared)
        elif layer.origin in ("kept", "rebuilt") and isinstance(layer.op, keras.Layer):
            if layer.change is None:
                _assert_same_layer(layer, made, shared)
            pairs += _kept_variables(layer, made, shared)
    return pairs


def _assert_same_layer(layer: Layer, made: Any, shared: bool) -> None:
    old = layer.op
    assert type(made) is type(old)
    assert made is not old, f"{layer.name} is the source's own layer"
    parts = zip(old._flatten_layers(), made._flatten_layers(), strict=True)
    for part, other in parts:
        flags = (part.trainable, part.dtype_policy.name)
        assert (other.trainable, other.dtype_policy.name) == flags, f"{part.name} has other flags"


def _kept_variables(layer: Layer, made: Any, shared: bool) -> list[tuple[Any, Any]]:
    """The variables of a layer, with what they are now; those that a change makes anew left out."""
    values = {} if layer.change is None else layer.change.values
    olds, news = ([v for v in la.variables if v.name not in values] for la in (layer.op, made))
    renamed = layer.name != layer.op.name
    for variable, other in zip(olds, news, strict=True):
        assert (other is variable) == shared, f"{variable.path} is shared, or not, against the wish"
        assert renamed or other.path == variable.path
        assert other.trainable == variable.trainable, f"{variable.path} has another trainable flag"
        assert bits(other) == bits(variable), f"{variable.path} has another value"
    return list(zip(olds, news, strict=True))


def _by_name(model: Any, name: str) -> Any:
    function = model._functional if isinstance(model, keras.Sequential) else model
    (found,) = [operation for operation in function.operations if operation.name == name]
    return found


def assert_independent(model: Any, new: Any) -> None:
    """Nothing that is written to the result reaches the source."""
    written, kept = _all_variables(new), _all_variables(model)
    if keras.backend.backend() == "jax":  # there, writing replaces the array
        held = {variable._value.unsafe_buffer_pointer() for variable in kept}
        shared = [v for v in written if v._value.unsafe_buffer_pointer() in held]
        assert not shared, f"{shared[0].path} is an array of the source"
        return
    values = [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in written]
    before = [bits(variable) for variable in kept]
    for variable, value in zip(written, values, strict=True):
        variable.assign(np.asarray(value + 1, value.dtype))
    reached = [v.path for v, was in zip(kept, before, strict=True) if bits(v) != was]
    for variable, value in zip(written, values, strict=True):
        variable.assign(value)
    assert not reached, f"{reached[0]} of the source changes with the result"


def _all_variables(model: Any) -> list[Any]:
    optimizer = getattr(model, "optimizer", None)
    slots = [] if optimizer is None else optimizer.variables
    return [*model.variables, *_states(model), *slots]


def assert_compiled(plan: resect.Plan, new: Any, pairs: list[tuple[Any, Any]]) -> None:
    """The result is compiled if the plan says so, with an optimizer of its own that goes on.

    Args:
        plan: The plan.
        new: What came of it.
        pairs: Every variable of a kept layer, and what it is now.
    """
    source = plan.model
    carried = any(note.startswith("compile state: carried") for note in plan.notes)
    assert bool(new.compiled) == carried
    if not carried or source.optimizer is None:
        return
    assert type(new.optimizer) is type(source.optimizer)
    assert new.optimizer is not source.optimizer
    assert new.optimizer.built == source.optimizer.built
    assert bits(new.optimizer.iterations) == bits(source.optimizer.iterations)
    had, has = _slots(source.optimizer), _slots(new.optimizer)
    for old, variable in pairs:
        assert has.get(id(variable)) == had.get(id(old)), f"{old.path} has lost its slots"


def _slots(optimizer: Any) -> dict[int, list[bytes]]:
    """What an optimizer remembers of each variable."""
    variables = getattr(optimizer, "_trainable_variables", [])
    lists = [
        v for k, v in vars(optimizer).items() if isinstance(v, list) and not k.endswith("variables")
    ]
    lists = [slots for slots in lists if len(slots) == len(variables)]
    return {
        id(variable): [bits(slots[i]) for slots in lists if isinstance(slots[i], keras.Variable)]
        for i, variable in enumerate(variables)
    }
