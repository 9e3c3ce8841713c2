"""Graphs without Keras: order, reach, names, drawings."""

from __future__ import annotations

import pytest

from resect.errors import CycleError
from resect.graph import Call, Graph, Layer, Node, Ref, Spec, map_refs, refs

pytestmark = pytest.mark.nobackend


class Dense:
    """Stands for a layer."""


class Add:
    """Stands for another."""


def layer(name: str, cls: type = Dense, graph: Graph | None = None) -> Layer:
    return Layer(name, cls(), cls, graph)


def node(name: str, *reads: Ref, number: int = 0, **kwargs: object) -> Node:
    return Node(Call(name, number), reads, kwargs, outputs=(Spec((None, 4), "float32"),))


def model(nodes: list[Node], inputs: object, outputs: object, **layers: Layer) -> Graph:
    named = {n.call.layer: layers.get(n.call.layer, layer(n.call.layer)) for n in nodes}
    return Graph("m", "Functional", named, {n.call: n for n in nodes}, inputs, outputs)


X, A, B = Ref(Call("x")), Ref(Call("a")), Ref(Call("b"))
S0, S1 = Ref(Call("s")), Ref(Call("s", 1))


def residual() -> Graph:
    nodes = [node("x"), node("a", X), node("b", A), node("add", A, B)]
    return model(nodes, X, Ref(Call("add")), add=layer("add", Add))


def shared() -> Graph:
    return model([node("x"), node("s", X), node("a", S0), node("s", A, number=1)], X, S1)


def test_the_drawing_names_every_call_and_what_it_reads() -> None:
    assert str(residual()) == "\n".join(
        [
            "Functional 'm'",
            "  x    Dense  (None, 4)",
            "  a    Dense  (None, 4)  <- x",
            "  b    Dense  (None, 4)  <- a",
            "  add  Add    (None, 4)  <- a, b",
            "  -> add",
        ]
    )


def test_calls_of_a_shared_layer_are_numbered() -> None:
    graph = shared()
    assert [graph.label(call) for call in graph.nodes] == ["x", "s@0", "a", "s@1"]
    assert graph.calls_of("s") == (Call("s"), Call("s", 1))


def test_a_nested_graph_is_drawn_once_and_indented() -> None:
    inner = model([node("x"), node("a", X)], X, A)
    nodes = [node("x"), node("s", X), node("s", S0, number=1)]
    graph = model(nodes, X, S1, s=layer("s", graph=inner))
    assert str(graph).splitlines() == [
        "Functional 'm'",
        "  x    Dense  (None, 4)",
        "  s@0  Dense  (None, 4)  <- x",
        "    x  Dense  (None, 4)",
        "    a  Dense  (None, 4)  <- x",
        "    -> a",
        "  s@1  Dense  (None, 4)  <- s@0",
        "  -> s@1",
    ]


def test_reach() -> None:
    graph = residual()
    assert graph.ancestors([Call("b")]) == {Call("x"), Call("a"), Call("b")}
    assert graph.descendants([Call("b")]) == {Call("b"), Call("add")}
    assert graph.readers(A) == (Call("b"), Call("add"))


def test_substituting_leaves_the_graph_itself_alone() -> None:
    graph = residual()
    drawing = str(graph)
    changed = graph.substitute({B: A}).pruned()
    assert str(graph) == drawing
    assert list(changed.nodes) == [Call("x"), Call("a"), Call("add")]
    assert changed.edited
    assert not graph.edited


def test_only_some_calls_are_rewired_if_asked() -> None:
    changed = residual().substitute({A: X}, only=[Call("b")])
    assert changed.nodes[Call("b")].inputs == (X,)
    assert changed.nodes[Call("add")].inputs == (A, B)


def test_ordering_keeps_the_present_order_where_it_can() -> None:
    graph = residual()
    shuffled = graph.evolve(nodes=dict(reversed(graph.nodes.items())))
    assert next(iter(shuffled.ordered().nodes)) == Call("x")
    assert list(graph.ordered().nodes) == list(graph.nodes)


def test_calls_of_one_layer_keep_their_numbers_order() -> None:
    nodes = [node("x"), node("s", X, number=1), node("s", X), node("add", S1, S0)]
    graph = model(nodes, X, Ref(Call("add")))
    assert [c.number for c in graph.ordered().nodes if c.layer == "s"] == [0, 1]


def test_a_cycle_is_refused() -> None:
    graph = residual().substitute({X: B}, only=[Call("a")])
    with pytest.raises(CycleError, match="its own output"):
        graph.ordered()


def test_ten_thousand_calls_in_a_row() -> None:
    nodes = [node("x")]
    for i in range(10_000):
        nodes.append(node(f"d{i}", Ref(nodes[-1].call)))
    graph = model(list(reversed(nodes)), X, Ref(nodes[-1].call)).ordered()
    assert len(graph.ancestors([nodes[-1].call])) == 10_001
    assert len(graph.pruned()) == 10_001


def test_free_names() -> None:
    graph = residual()
    assert graph.free_name("c") == "c"
    assert graph.free_name("a") == "a_1"
    assert graph.free_name("a", taken=["a_1"]) == "a_2"


def test_data_inputs_leave_masks_and_states_out() -> None:
    call = node("lstm", A, mask=B, initial_state=[X, X])
    assert call.data_inputs == (A,)
    assert call.inputs == (A, X, X, B)


def test_calls_that_only_make_masks() -> None:
    nodes = [node("x"), node("a", X), node("ne", X), node("s", A, mask=Ref(Call("ne")))]
    assert model(nodes, X, S0).mask_calls == {Call("ne")}


def test_structures_keep_their_form_and_dicts_are_read_by_sorted_key() -> None:
    structure = {"z": [A, 1], "a": (B, None)}
    assert list(refs(structure)) == [B, A]
    assert map_refs(lambda ref: X, structure) == {"z": [X, 1], "a": (X, None)}
