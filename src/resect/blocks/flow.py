"""The tensors of a graph as the vertices that blocks begin and end with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from resect.blocks.dominators import Regions, regions
from resect.blocks.forks import partial_forks
from resect.graph import Call, Graph, Node, Ref, refs


@dataclass
class Region:
    """One tensor in, one tensor out, and no smaller such region begins with the one going in.

    Attributes:
        start: The tensor that goes in.
        end: The tensor that comes out.
        own: Its calls that lie in no region inside it, in topological order.
        series: The regions directly inside it, where one begins with what another ends with in one
            list.
    """

    start: Ref
    end: Ref
    own: list[Call] = field(default_factory=list)
    series: list[list[Region]] = field(default_factory=list)

    @property
    def single(self) -> bool:
        """Whether it is one call."""
        return not self.series and len(self.own) == 1


def top_series(
    graph: Graph, side: Iterable[Ref] = (), named: Iterable[Ref] = ()
) -> list[list[Region]]:
    """The outermost regions of a graph; the others lie in them.

    Args:
        graph: The graph; nested ones are not looked into.
        side: Tensors that a region may read beside the one that goes in.
        named: Those of them on the way to which, if it is another way, regions are looked for too,
            as in an encoder.
    """
    flow = _Flow(graph, frozenset(side), named)
    flow.put_before(partial_forks(flow.before))
    return _nest(flow, regions(flow.before))


def side_tensors(graph: Graph, named: Iterable[Ref] = ()) -> set[Ref]:
    """The tensors that a region may read beside the one that goes in.

    They are model inputs of dtype bool or with a name that ends in `mask`, the tensors that are
    named, and whatever is computed from those alone. If the outputs are among them, there are none.
    """
    side = {ref for ref in graph.input_refs if _looks_like_a_mask(graph, ref)} | set(named)
    for call, node in graph.nodes.items():
        read = _reads(node)
        if read and all(ref in side for ref in read):
            side.update(graph.refs_of(call))
    return set(named) if side.issuperset(graph.output_refs) else side


def _looks_like_a_mask(graph: Graph, ref: Ref) -> bool:
    name = ref.call.layer
    return graph.spec(ref).dtype == "bool" or name == "mask" or name.endswith("_mask")


def _reads(node: Node) -> list[Ref]:
    """The tensors that a call reads as data, each once: not those that it is given as masks."""
    kwargs = {k: v for k, v in node.kwargs.items() if k != "mask" and not k.endswith("_mask")}
    return list(dict.fromkeys(refs(node.args) + refs(kwargs)))


class _Flow:
    """Vertices for the tensors that outputs need, each after those that it is computed from.

    A tensor that several calls read has a vertex for each reader behind its own, so that a region
    can begin where the ways part. Vertex 0 stands before the inputs, the last one behind the
    outputs.

    Attributes:
        tensors: The tensor of each vertex, `None` for the first and the last.
        calls: The call that returns it, where the vertex is the first that stands for the call.
        before: For each vertex those with an edge to it.
    """

    def __init__(self, graph: Graph, side: frozenset[Ref], named: Iterable[Ref] = ()) -> None:
        self.tensors: list[Ref | None] = [None]
        self.calls: dict[int, Call] = {}
        self.before: list[list[int]] = [[]]
        self.vertex: dict[Ref, int] = {}
        outputs = [ref for ref in dict.fromkeys(graph.output_refs) if ref not in side]
        reads = {c: [r for r in _reads(n) if r not in side] for c, n in graph.nodes.items()}
        needed = {ref.call for ref in _readers(reads, outputs)}
        outputs += [ref for ref in named if ref.call not in needed]
        self.readers = _readers(reads, outputs)
        for call in graph.nodes:
            live = [ref for ref in graph.refs_of(call) if ref in self.readers]
            if not live:
                continue
            sources = [self._read(ref) for ref in reads[call]] or [0]
            for ref in live:
                self.vertex[ref] = self._append(ref, sources)
            self.calls[self.vertex[live[0]]] = call
        self._append(None, [self._read(ref) for ref in outputs] or [0])

    def _read(self, ref: Ref) -> int:
        several = self.readers[ref] > 1
        return self._append(ref, [self.vertex[ref]]) if several else self.vertex[ref]

    def put_before(self, groups: list[list[int]]) -> None:
        """Puts a vertex of the same tensor before each group of readers of one tensor."""
        waiting = {min(group): group for group in groups}
        number: list[int] = []  # by their old numbers, the new numbers of the vertices
        instead: dict[int, int] = {}
        tensors, before = self.tensors, self.before
        self.tensors, self.before = [], []
        for vertex, sources in enumerate(before):
            if vertex in waiting:
                added = self._append(tensors[vertex], [number[source] for source in sources])
                instead.update(dict.fromkeys(waiting[vertex], added))
            fork = instead.get(vertex)
            now = [number[source] for source in sources] if fork is None else [fork]
            number.append(self._append(tensors[vertex], now))
        self.calls = {number[vertex]: call for vertex, call in self.calls.items()}

    def _append(self, tensor: Ref | None, before: list[int]) -> int:
        self.tensors.append(tensor)
        self.before.append(before)
        return len(self.before) - 1


def _readers(reads: dict[Call, list[Ref]], outputs: list[Ref]) -> dict[Ref, int]:
    """How many calls, the outputs of the model included, read each tensor that outputs need."""
    count = dict.fromkeys(outputs, 1)
    needed: set[Call] = {ref.call for ref in outputs}
    stack = list(needed)
    while stack:
        for ref in reads[stack.pop()]:
            count[ref] = count.get(ref, 0) + 1
            if ref.call not in needed:
                needed.add(ref.call)
                stack.append(ref.call)
    return count


def _nest(flow: _Flow, found: Regions) -> list[list[Region]]:
    """The regions as a tree, without those that begin before the inputs or end behind the outputs.

    What lies in one of those two is put where the region itself would be.
    """
    made: dict[int, Region] = {}
    outermost: list[list[Region]] = []
    series_of: dict[int, list[Region]] = {}
    for entry, leave in found.exit.items():
        start, end = flow.tensors[entry], flow.tensors[leave]
        if start is None or end is None:
            continue
        made[entry] = region = Region(start, end)
        series = series_of.pop(entry, None)
        if series is None:
            series = []
            around = made.get(_real(found, found.around[entry], made))
            (outermost if around is None else around.series).append(series)
        series.append(region)
        series_of[leave] = series
    owner = {found.exit[entry]: region for entry, region in made.items()}
    for vertex, call in flow.calls.items():
        around = owner.get(vertex) or made.get(_real(found, found.around[vertex], made))
        if around is not None:
            around.own.append(call)
    return outermost


def _real(found: Regions, entry: int, made: dict[int, Region]) -> int:
    """The innermost region from one outwards that begins and ends with a tensor."""
    while entry >= 0 and entry not in made:
        entry = found.around[entry]
    return entry
