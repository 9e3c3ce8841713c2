"""Minimum cuts against brute force, on small random graphs without Keras."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resect.cut import bytes_per_sample, find_cut, head_graph
from resect.errors import CutError
from resect.graph import Call, Graph, Layer, Node, Ref, Spec

pytestmark = pytest.mark.nobackend


class Op:
    """Stands for a layer."""


def graph_of(sizes: list[int], reads: list[list[int]], outputs: list[int]) -> Graph:
    """A graph of calls `n0, n1, …`; `n0` is the input, `sizes` the number of floats of each."""
    nodes, layers = {}, {}
    for i, (size, sources) in enumerate(zip(sizes, reads, strict=True)):
        call = Call(f"n{i}")
        args = tuple(Ref(Call(f"n{j}")) for j in sources)
        spec = Spec((None, size), "float32")
        nodes[call] = Node(call, args, outputs=(spec,))
        layers[call.layer] = Layer(call.layer, Op(), Op)
    return Graph(
        "random",
        "Functional",
        layers,
        nodes,
        inputs=Ref(Call("n0")),
        outputs=[Ref(Call(f"n{i}")) for i in outputs],
    )


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    count = draw(st.integers(3, 8))
    sizes = draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))
    reads: list[list[int]] = [[]]
    for i in range(1, count):
        sources = st.lists(st.integers(0, i - 1), min_size=1, max_size=3, unique=True)
        reads.append(sorted(draw(sources)))
    read = {j for sources in reads for j in sources}
    ends = [i for i in range(count) if i not in read]
    extra = draw(st.lists(st.integers(0, count - 1), max_size=1))
    return graph_of(sizes, reads, sorted({*ends, *extra}))


def crossing(graph: Graph, head: set[Call]) -> int:
    """Bytes per sample of the tensors that leave a set of calls."""
    outputs = set(graph.output_refs)
    total = 0
    for call in head:
        ref = Ref(call)
        if ref in outputs or any(reader not in head for reader in graph.readers(ref)):
            total += bytes_per_sample(graph.spec(ref))
    return total


def smallest(graph: Graph, before: set[Call], after: set[Call]) -> int:
    """The size of the best cut, found by trying all of them."""
    free = [call for call in graph.nodes if call not in before | after]
    best = None
    for chosen in itertools.product([False, True], repeat=len(free)):
        head = before | {call for call, inside in zip(free, chosen, strict=True) if inside}
        if all(ref.call in head for call in head for ref in graph.nodes[call].inputs):
            size = crossing(graph, head)
            best = size if best is None else min(best, size)
    assert best is not None
    return best


@given(graphs(), st.data())
def test_no_cut_is_smaller(graph: Graph, data: st.DataObject) -> None:
    at = data.draw(st.sampled_from(list(graph.nodes)))
    cut = find_cut(graph, [at], graph.consumers(at))
    before = graph.ancestors([at]) | {Call("n0")}
    after = graph.descendants(graph.consumers(at))
    assert before <= cut.head
    assert after <= cut.tail
    assert cut.head | cut.tail == set(graph.nodes)
    for call in cut.head:
        assert all(ref.call in cut.head for ref in graph.nodes[call].inputs)
    assert crossing(graph, set(cut.head)) == smallest(graph, before, after)
    assert {ref.call for ref in cut.boundary} <= cut.head
    assert len(head_graph(graph, cut).output_refs) == len(cut.boundary)


def test_a_call_cannot_lie_on_both_sides() -> None:
    graph = graph_of([1, 1, 1], [[], [0], [1]], [2])
    with pytest.raises(CutError, match="both sides of the cut"):
        find_cut(graph, [Call("n2")], [Call("n1")])


def test_a_branch_goes_to_the_side_that_makes_the_boundary_small() -> None:
    # n1 is cut off; n2 (large) and n3 (small) are a branch of their own that meets it in n4.
    graph = graph_of([4, 4, 100, 1, 4], [[], [0], [0], [2], [1, 3]], [4])
    cut = find_cut(graph, [Call("n1")], graph.consumers(Call("n1")))
    assert set(cut.boundary) == {Ref(Call("n1")), Ref(Call("n3"))}
    graph = graph_of([4, 4, 100, 50, 4], [[], [0], [0], [2], [1, 3]], [4])
    cut = find_cut(graph, [Call("n1")], graph.consumers(Call("n1")))
    assert set(cut.boundary) == {Ref(Call("n0")), Ref(Call("n1"))}


def test_unknown_axes_count_as_one_and_half_precision_as_two_bytes() -> None:
    assert bytes_per_sample(Spec((None, None, 3), "float32")) == 12
    assert bytes_per_sample(Spec((8, 3), "bfloat16")) == 6
    assert bytes_per_sample(Spec((None,), "int32")) == 4
