"""How a plan prints: its edits, what becomes of each layer, and the totals."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table

from resect.graph import Call, Graph, Layer, VariableSpec
from resect.keras_graph.state import variable_specs
from resect.keras_graph.writing import result_kind
from resect.text import byte_size, rendered

if TYPE_CHECKING:
    from resect.plan import Plan

_CONTEXT = 1  # unchanged rows shown around each changed one
_ITEMSIZE = {"float64": 8, "int64": 8, "uint64": 8, "float16": 2, "bfloat16": 2, "int16": 2}
_ITEMSIZE |= {"uint16": 2, "int8": 1, "uint8": 1, "bool": 1, "int4": 1}


@dataclass(frozen=True)
class Row:
    """One call of a plan's table.

    Attributes:
        status: `"kept"`, `"removed"`, `"inserted"`, `"replaced"`, `"re-initialised"`, `"renamed"`,
            `"reshaped"`, `"changed"`.
        name: The user's spelling.
        kind: The layer's class, or `before -> after`.
        shape: Output shape, or `before -> after`.
        parameters: Number of parameters, `None` where they are counted in another row.
    """

    status: str
    name: str
    kind: str
    shape: str
    parameters: str


def plan_text(plan: Plan) -> str:
    """The text that `print(plan)` shows."""
    before, after = plan.source, plan.result
    lines = [edits_text(plan)]
    problems = plan.check()
    if problems:
        count = f" ({len(problems)} problems)" if len(problems) > 1 else ""
        lines += ["", f"It cannot be applied{count}:"]
        lines += ["\n".join(f"  {line}" for line in str(p).splitlines()) for p in problems]
        return "\n".join(lines)
    lines += ["", rendered(_table(list(rows(before, after))))]
    lines += ["", _totals(before, after)]
    lines += [f"note: {note}" for note in plan.notes]
    return "\n".join(lines)


def edits_text(plan: Plan) -> str:
    """The model and the edits, one a line."""
    lines = [f"Plan for {plan.source.kind} '{plan.source.name}'"]
    lines += [f"  {i}. {edit.describe()}" for i, edit in enumerate(plan.edits, 1)]
    return "\n".join(lines)


def _table(all_rows: list[Row]) -> Table:
    table = Table("", "layer", "class", "output shape", box=None, pad_edge=False)
    table.add_column("parameters", justify="right")
    shown = _near_changes(all_rows)
    skipped = 0
    for i, row in enumerate(all_rows):
        if i not in shown:
            skipped += 1
            continue
        if skipped:
            table.add_row("", f"… {skipped} kept", "", "", "")
            skipped = 0
        status = "" if row.status == "kept" else row.status
        table.add_row(status, row.name, row.kind, row.shape, row.parameters)
    if skipped:
        table.add_row("", f"… {skipped} kept", "", "", "")
    return table


def _near_changes(all_rows: list[Row]) -> set[int]:
    if len(all_rows) <= 12:
        return set(range(len(all_rows)))
    changed = [i for i, row in enumerate(all_rows) if row.status != "kept"]
    ends = [0, len(all_rows) - 1]
    near = {j for i in changed + ends for j in range(i - _CONTEXT, i + _CONTEXT + 1)}
    return near | {i + 1 for i in near if i + 2 in near}  # a single row is not worth leaving out


def rows(before: Graph, after: Graph) -> Iterator[Row]:
    """Every call of either graph, removed ones where they were."""
    for path, old, new in _pairs(before, after):
        yield from _replaced(list(_rows(path, old, new)))


def _pairs(before: Graph, after: Graph) -> Iterator[tuple[str, Graph, Graph]]:
    """The two forms of the model and of each nested model that was changed."""
    yield "", before, after
    originals = {
        id(la.op): la.graph for _, g in before.walk() for la in g.layers.values() if la.graph
    }
    for path, graph in after.walk():
        for name, layer in graph.layers.items():
            original = originals.get(id(layer.op))
            if layer.graph is None or original is None or layer.graph is original:
                continue
            yield "/".join([*path, name]) + "/", original, layer.graph


def _rows(path: str, old: Graph, new: Graph) -> Iterator[Row]:
    was = {_key(old, call): call for call in old.nodes}
    now = {_key(new, call) for call in new.nodes}
    waiting = deque(old.nodes)

    def gone(until: Call | None) -> Iterator[Row]:
        """The removed calls up to a kept one; without one, up to the next that is kept."""
        while waiting and (until is not None or _key(old, waiting[0]) not in now):
            call = waiting.popleft()
            if call == until:
                return
            if _key(old, call) not in now:
                yield _removed(path, old, call)

    for call in new.nodes:
        source = was.get(_key(new, call))
        yield from gone(source)
        yield _present(path, old, source, new, call)
    yield from (_removed(path, old, call) for call in waiting if _key(old, call) not in now)


def _replaced(found: list[Row]) -> Iterator[Row]:
    """The rows, with those of an old and a new layer of one name as a single one."""
    new = {row.name for row in found if row.status == "inserted"}
    gone = {row.name: row for row in found if row.status == "removed" and row.name in new}
    for row in found:
        if row.name not in gone:
            yield row
        elif row.status == "inserted":
            yield _replacement(gone[row.name], row)


def _replacement(old: Row, new: Row) -> Row:
    parameters = _change(old.parameters.lstrip("-") or "0", new.parameters.lstrip("+") or "0")
    return Row(
        "replaced",
        new.name,
        _change(old.kind, new.kind),
        _change(old.shape, new.shape),
        "" if parameters == "0" else parameters,
    )


def _change(old: str, new: str) -> str:
    return old if old == new else f"{old} -> {new}"


def _key(graph: Graph, call: Call) -> Any:
    layer = graph.layer(call)
    return (id(layer.op), call.number, layer.part != "tail", layer.origin == "new")


def _removed(path: str, graph: Graph, call: Call) -> Row:
    layer = graph.layer(call)
    count = parameter_count(layer) if call == graph.calls_of(call.layer)[0] else 0
    parameters = f"-{count:,}" if count else ""
    return Row("removed", path + graph.label(call), layer.kind, _shape(graph, call), parameters)


def _present(path: str, old: Graph, was: Call | None, new: Graph, call: Call) -> Row:
    layer = new.layer(call)
    shape, status, name = _shape(new, call), "kept", path + new.label(call)
    first = call == new.calls_of(call.layer)[0]
    count = parameter_count(layer) if first else 0
    parameters = f"{count:,}" if count else ""
    if layer.origin == "new":
        status, parameters = "inserted", f"+{count:,}" if count else ""
    elif layer.origin == "reinit" or layer.change is not None:
        status = "re-initialised" if layer.origin == "reinit" else "changed"
        held = parameter_count_of(variable_specs(layer.op))
        parameters = f"{held:,} -> {count:,}" if first and held != count else parameters
    if was is not None:
        if _shape(old, was) != shape:
            shape = f"{_shape(old, was)} -> {shape}"
            status = "reshaped" if status == "kept" else status
        if old.label(was) != new.label(call) and was.layer != call.layer:
            name, status = f"{path}{old.label(was)} -> {new.label(call)}", "renamed"
    kind = layer.kind if was is None else _change(old.layer(was).kind, layer.kind)
    return Row(status, name, kind, shape, parameters)


def _shape(graph: Graph, call: Call) -> str:
    outputs = graph.nodes[call].outputs or ()
    return " ".join(str(spec) for spec in outputs)


def _totals(before: Graph, after: Graph) -> str:
    table = Table("", "before", "after", box=None, pad_edge=False)
    old, new = total_variables(before), total_variables(after)
    table.add_row("calls", str(_calls(before)), str(_calls(after)))
    table.add_row("parameters", f"{parameter_count_of(old):,}", f"{parameter_count_of(new):,}")
    table.add_row("bytes", byte_size(_bytes(old)), byte_size(_bytes(new)))
    table.add_row("class", result_kind(before), result_kind(after))
    return rendered(table)


def _calls(graph: Graph) -> int:
    return sum(1 for _, g in graph.walk() for call in g.nodes if not g.is_input(call))


# Counting


def layer_variables(layer: Layer) -> tuple[VariableSpec, ...]:
    """The variables of a layer, those of a nested model included."""
    if layer.graph is not None:
        return total_variables(layer.graph)
    return variable_specs(layer.op) if layer.variables is None else layer.variables


def total_variables(graph: Graph) -> tuple[VariableSpec, ...]:
    """The variables of a graph; those of a layer that stands at two depths count once."""
    found: list[VariableSpec] = []
    seen: set[Any] = set()
    for _, nested in graph.walk():
        for layer in nested.layers.values():
            key = (id(layer.op), layer.name if layer.origin == "new" else "")
            if layer.graph is None and key not in seen:
                seen.add(key)
                found.extend(layer_variables(layer))
    return tuple(found)


def parameter_count(layer: Layer) -> int:
    """Number of parameters of a layer, seed generators left out."""
    return parameter_count_of(layer_variables(layer))


def parameter_count_of(variables: tuple[VariableSpec, ...]) -> int:
    """Number of parameters in some variables."""
    return sum(math.prod(variable.shape) for variable in variables)


def _bytes(variables: tuple[VariableSpec, ...]) -> int:
    return sum(math.prod(v.shape) * _ITEMSIZE.get(v.dtype, 4) for v in variables)
