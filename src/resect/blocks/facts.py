"""What is known of each region: the names in it, whether it has weights, what lies in it."""

from __future__ import annotations

from collections.abc import Sequence

from resect.blocks.flow import Region
from resect.blocks.naming import Tokens, common, indexed, pattern, runs, tokens_of
from resect.graph import Call, Graph, Layer
from resect.keras_graph.reading import sublayers


class Facts:
    """Facts about the regions of one graph, each worked out once, in time linear in its size."""

    def __init__(self, graph: Graph, outermost: list[list[Region]]) -> None:
        self._graph = graph
        self._layers: dict[str, bool] = {}
        self._weighted: dict[int, bool] = {}
        self._names: dict[int, Tokens | None] = {}
        self._named: dict[int, int] = {}
        every = _every(outermost)
        for region in reversed(every):
            inner = [part for series in region.series for part in series]
            names = [self._tokens(call) for call in region.own]
            self._names[id(region)] = common([*names, *(self._names[id(p)] for p in inner)])
            count = sum(name is not None for name in names)
            self._named[id(region)] = count + sum(self._named[id(part)] for part in inner)
            self._weighted[id(region)] = any(
                [*map(self.has_weights, region.own), *map(self.weighted, inner)]
            )
        several = [r for r in every if not r.single and self.weighted(r)]
        self._patterns = {pattern(indexed(self._prefix(region))) for region in several} - {""}

    def layer(self, region: Region) -> Layer:
        """The layer that a region of a single call calls."""
        return self._graph.layer(region.own[0])

    def has_weights(self, call: Call) -> bool:
        """Whether the layer of a call has weights."""
        if call.layer not in self._layers:
            self._layers[call.layer] = bool(getattr(self._graph.layer(call).op, "weights", ()))
        return self._layers[call.layer]

    def weighted(self, region: Region) -> bool:
        """Whether anything in a region has weights."""
        return self._weighted[id(region)]

    def composite(self, region: Region) -> bool:
        """Whether a single call is of a layer that is made of several layers with weights."""
        layer = self.layer(region)
        if layer.graph is not None:
            return False
        parts = [p for p in sublayers(layer.op) if p.weights and not sublayers(p)]
        return len(parts) > 1

    def holds_blocks(self, region: Region) -> bool:
        """Whether regions that part and meet again stand one after the other in a region.

        Then it is a skip connection around blocks, and no block itself, unless the names of all
        its calls say otherwise.
        """
        if indexed(self._prefix(region)):
            return False
        return any(
            sum(not part.single and self.weighted(part) for part in series) > 1
            for series in region.series
        )

    def keys(self, series: Sequence[Region]) -> list[Tokens | None]:
        """By what names each region of a series belongs with others, see `naming.runs`."""
        keys = [self._key(region) for region in series]
        names = [self._names[id(region)] or () for region in series]
        endings, last = set[Tokens](), set[Tokens]()
        for begin, end in runs(keys):
            length = len(keys[begin] or ())
            endings.update(name[length:] for name in names[begin:end])
            last.add(names[end - 1][length:])
        guesses = [
            self._by_ending(region, endings) if key == () else None if key is None else ()
            for region, key in zip(series, keys, strict=True)
        ]
        for begin, end in runs(guesses):
            # It must end as the others end, or any convolution with its activation would do.
            if names[end - 1][len(guesses[begin] or ()) :] in last:
                keys[begin:end] = guesses[begin:end]
        return keys

    def shared_name(self, *names: str) -> str:
        """What the names of blocks have in common up to a number; empty if nothing."""
        return "_".join(indexed(common(tuple(name.split("_"))[:-1] for name in names)))

    def _tokens(self, call: Call) -> Tokens | None:
        return tokens_of(call.layer, self._graph.layer(call).kind)

    def _prefix(self, region: Region) -> Tokens | None:
        names = self._names[id(region)]
        # The whole name of a single call says nothing of what it belongs to.
        return names[:-1] if names and self._named[id(region)] == 1 else names

    def _key(self, region: Region) -> Tokens | None:
        """The part of its name that ends with a number; of several, one that branches have too."""
        prefix = self._prefix(region)
        if prefix is None:
            return None
        longest = key = indexed(prefix)
        while key and pattern(key) not in self._patterns:
            key = indexed(key[:-1])
        return key or longest

    def _by_ending(self, region: Region, endings: set[Tokens]) -> Tokens:
        """The part of a name without a number, where what follows is also found behind one."""
        prefix, name = self._prefix(region) or (), self._names[id(region)] or ()
        if not region.single and self.holds_blocks(region):
            return ()
        lengths = range(1, len(prefix) + 1)
        return next((prefix[:n] for n in lengths if name[n:] in endings), ())


def _every(outermost: list[list[Region]]) -> list[Region]:
    """All regions, each before those that lie in it."""
    found: list[Region] = []
    stack = [region for series in outermost for region in series]
    while stack:
        found.append(region := stack.pop())
        stack.extend(part for series in region.series for part in series)
    return found
