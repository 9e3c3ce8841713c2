"""Regions become blocks: which of them papers call a block, and which of those make a stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from resect.blocks.block import Block, Level
from resect.blocks.facts import Facts
from resect.blocks.flow import Region, side_tensors, top_series
from resect.blocks.naming import Tokens, indexed, pattern, runs
from resect.graph import Call, Graph, Ref
from resect.select import Place


@dataclass
class Draft:
    """A block in the making.

    Attributes:
        level: As of `Block`.
        start: The tensor that goes in.
        end: The tensor that comes out.
        name: As of `Block`; where it is empty, the spelling of the last call.
        own: Its calls that are in none of its parts.
        parts: The blocks directly inside.
        model: The model that it lies in.
        single: Whether it is one call.
    """

    level: Level
    start: Ref
    end: Ref
    model: _Model
    name: str = ""
    own: Sequence[Call] = ()
    parts: list[Draft] = field(default_factory=list)
    single: bool = False


class _Model:
    """A graph at a path, with what is known of its regions."""

    def __init__(self, graph: Graph, path: tuple[str, ...], side: Iterable[Ref]) -> None:
        self.graph, self.path = graph, path
        named = tuple(side)
        self.series = top_series(graph, side_tensors(graph, named), named)
        self.facts = Facts(graph, self.series)
        self.position = {call: i for i, call in enumerate(graph.nodes)}

    def spelling(self, ref: Ref) -> str:
        return "/".join([*self.path, self.graph.tensor_label(ref)])


def tree_of(graph: Graph, side: Iterable[tuple[Place, int | None]] = ()) -> tuple[Block, ...]:
    """The outermost blocks of a model; the others are their children, or their children's.

    Args:
        graph: The graph of the model; nested models are looked into.
        side: Calls whose outputs, or the one of that number, a block may read beside the one tensor
            that goes in.
    """
    by_path: dict[tuple[str, ...], list[Ref]] = {}
    for place, output in side:
        meant = graph.at(place.path).refs_of(place.call)
        by_path.setdefault(place.path, []).extend(
            meant if output is None or len(meant) == 1 else [meant[output]]
        )
    outermost: list[Draft] = []
    seen: set[int] = set()
    among: list[tuple[list[Draft], int, list[Draft]]] = []
    waiting: list[tuple[list[Draft], Graph, tuple[str, ...]]] = [(outermost, graph, ())]
    while waiting:
        into, nested, path = waiting.pop()
        model = _Model(nested, path, by_path.get(path, ()))
        drafts = _drafts(model, into)
        for call, parts in _models_in(model, drafts, into, among):
            layer = nested.layer(call)
            if layer.graph is not None and id(layer.op) not in seen:
                seen.add(id(layer.op))  # a model that is called twice is drawn once
                waiting.append((parts, layer.graph, (*path, layer.name)))
    for into, index, parts in reversed(among):
        into[index:index] = parts
    return _frozen(outermost)


def _models_in(
    model: _Model,
    drafts: Sequence[Draft],
    into: list[Draft],
    among: list[tuple[list[Draft], int, list[Draft]]],
) -> Iterator[tuple[Call, list[Draft]]]:
    """The calls of nested models, each with the list that its blocks go into.

    A model with several inputs or outputs, such as a KerasHub backbone within a classifier, is no
    block: its blocks go among those of the model that it lies in, at a place that `among` gets.
    """
    covered = {call for draft in drafts for call in draft.own}
    for draft in drafts:
        if draft.level == "model":
            yield draft.end.call, draft.parts
    for call, position in model.position.items():
        if call not in covered and model.graph.layer(call).graph is not None:
            index = sum(model.position[draft.end.call] < position for draft in into)
            among.append((into, index, []))
            yield call, among[-1][2]


def _drafts(model: _Model, into: list[Draft]) -> list[Draft]:
    """Puts the blocks of one model, nested ones left out, into a list; returns all of them."""
    made: list[Draft] = []
    stack = [(into, series, False, False) for series in reversed(model.series)]
    while stack:
        parts, series, inside, way = stack.pop()
        found = _arranged(model, series, inside)
        if way and len(found) > 1:
            found = [_around("path", found)]
        parts.extend(found)
        for draft, region, within in _opened(found, series, inside):
            made.append(draft)
            stack.extend((draft.parts, inner, within, True) for inner in reversed(region.series))
    return made


def _opened(
    drafts: list[Draft], series: list[Region], inside: bool
) -> Iterator[tuple[Draft, Region, bool]]:
    """The draft of each region of a series, and whether what lies in it lies in a block."""
    by_start = {region.start: region for region in series}
    stack = [(draft, inside) for draft in reversed(drafts)]
    while stack:
        draft, within = stack.pop()
        within = within or draft.level in ("block", "branch")
        if draft.parts:
            stack.extend((part, within) for part in reversed(draft.parts))
        else:
            yield draft, by_start[draft.start], within


def _arranged(model: _Model, series: list[Region], inside: bool) -> list[Draft]:
    """The blocks of a series, those that belong together put together."""
    if inside:
        return [_inner(model, region) for region in series]
    found: list[Draft] = []
    done = 0
    for begin, end, key in _groups(model, series):
        found += [_outer(model, region) for region in series[done:begin]]
        found.append(_named(model, series[begin:end], key))
        done = end
    found += [_outer(model, region) for region in series[done:]]
    return _with_stages(model, found)


def _groups(model: _Model, series: list[Region]) -> list[tuple[int, int, Tokens]]:
    """Where the regions of a series belong together by their names, as slices.

    A chain of single calls is one only where there is another like it: ResNet's `conv1_conv`,
    `conv1_bn`, `conv1_relu` stand alone.
    """
    facts, found = model.facts, []
    keys = facts.keys(series)
    for begin, end in runs(keys):
        group, key = series[begin:end], keys[begin] or ()
        if any(map(facts.weighted, group)) and (len(group) > 1 or not group[0].single):
            found.append((begin, end, key))
    alike = Counter(pattern(key) for _, _, key in found)
    return [
        (begin, end, key)
        for begin, end, key in found
        if not indexed(key)
        or alike[pattern(key)] > 1
        or any(not r.single for r in series[begin:end])
    ]


def _draft(model: _Model, region: Region, level: Level, name: str = "") -> Draft:
    return Draft(level, region.start, region.end, model, name, own=region.own, single=region.single)


def _inner(model: _Model, region: Region) -> Draft:
    """A region that lies in a block."""
    if region.single:
        nested = model.facts.layer(region).graph is not None
        return _draft(model, region, "model" if nested else "call")
    return _draft(model, region, "branch")


def _outer(model: _Model, region: Region) -> Draft:
    """A region that lies in no block, and so may be one."""
    facts = model.facts
    if region.single:
        return _draft(model, region, "block") if facts.composite(region) else _inner(model, region)
    if not facts.weighted(region):
        return _draft(model, region, "branch")
    return _draft(model, region, "stage" if facts.holds_blocks(region) else "block")


def _named(model: _Model, group: list[Region], key: Tokens) -> Draft:
    """The regions whose names begin alike."""
    name = "_".join(key)
    if len(group) == 1:
        return _draft(model, group[0], "block", name)
    return _around("block", [_inner(model, region) for region in group], name)


def _around(level: Level, parts: list[Draft], name: str = "") -> Draft:
    first, last = parts[0], parts[-1]
    return Draft(level, first.start, last.end, first.model, name, parts=parts)


def _with_stages(model: _Model, drafts: list[Draft]) -> list[Draft]:
    """With consecutive blocks that return one shape put together, the first one may change it."""
    found: list[Draft] = []
    run: list[Draft] = []
    pending: list[Draft] = []
    for draft in drafts:
        alike = bool(run) and _alike(model, run[0], run[-1], draft)
        if draft.level == "block" and alike:
            run += [*pending, draft]
            pending = []
        elif draft.level == "block":
            found += [*_stage(model, run), *pending]
            run, pending = [draft], []
        elif alike and draft.level == "call" and not _weighted(model, draft):
            pending.append(draft)  # an activation between two blocks belongs to neither
        else:
            found += [*_stage(model, run), *pending, draft]
            run, pending = [], []
    return [*found, *_stage(model, run), *pending]


def _alike(model: _Model, first: Draft, before: Draft, draft: Draft) -> bool:
    """Whether it returns what the block before it returns, and is no layer of another class."""
    graph = model.graph
    same = graph.spec(before.end).same_type(graph.spec(draft.end))
    kinds = [graph.layer(d.end.call).cls if d.single else None for d in (first, draft)]
    return same and (draft.level != "block" or kinds[0] is kinds[1])


def _weighted(model: _Model, draft: Draft) -> bool:
    return any(model.facts.has_weights(call) for call in draft.own)


def _stage(model: _Model, run: list[Draft]) -> list[Draft]:
    if sum(draft.level == "block" for draft in run) < 2:
        return run
    names = [draft.name or model.graph.label(draft.end.call) for draft in (run[0], run[-1])]
    return [_around("stage", run, model.facts.shared_name(*names) or " … ".join(names))]


# Drafts become values


def _frozen(outermost: list[Draft]) -> tuple[Block, ...]:
    order: list[Draft] = []
    stack = list(outermost)
    while stack:
        order.append(draft := stack.pop())
        stack.extend(draft.parts)
    made: dict[int, Block] = {}
    for draft in reversed(order):
        made[id(draft)] = _block(draft, tuple(made[id(part)] for part in draft.parts))
    return tuple(made[id(draft)] for draft in outermost)


def _block(draft: Draft, children: tuple[Block, ...]) -> Block:
    model = draft.model
    graph, path = model.graph, model.path
    own = tuple(
        (model.position[call], Place(path, call), "/".join([*path, graph.label(call)]))
        for call in draft.own
    )
    return Block(
        name="/".join([*path, draft.name or graph.tensor_label(draft.end)]),
        level=draft.level,
        start=model.spelling(draft.start),
        end=model.spelling(draft.end),
        path=path,
        input=graph.spec(draft.start),
        output=graph.spec(draft.end),
        obstacle=_obstacle(graph, draft.start, draft.end),
        children=children,
        own=own,
    )


def _obstacle(graph: Graph, start: Ref, end: Ref) -> str:
    """Why readers of `end` cannot read `start` instead."""
    before, after = graph.spec(start), graph.spec(end)
    if before.shape != after.shape:
        return f"It makes {after} of {before}."
    if before.dtype != after.dtype:
        return f"It makes {after.dtype} of {before.dtype}."
    others = set(graph.output_refs) - {end} - set(graph.input_refs)
    if graph.is_input(start.call) and not graph.readers(end) and not others:
        return "Nothing would be left of the model."
    return ""
