"""Names of any length, in the room that there is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, cos, isfinite, pi, sin
from typing import TYPE_CHECKING, Any, Literal

from resect.plots.drawing import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

SMALL = 8
LONGEST = 36

_POINTS_PER_INCH = 72
_RINGS = (7, 12, 18, 26, 36, 48, 62)
_BESIDE = 12
# right, left, above, below, then what lies between
_DIRECTIONS = (0, 8, 4, 12, 2, 14, 6, 10, 1, 15, 7, 9, 3, 13, 5, 11)


def shortened(name: str, longest: int = LONGEST) -> str:
    """A name without its middle, if it is too long.

    >>> shortened("encoder/transformer_layer_11/feedforward_layer_norm")
    'encoder/transforme…orward_layer_norm'
    """
    if len(name) <= longest:
        return name
    head = longest // 2
    return f"{name[:head]}…{name[head + 1 - longest :]}"


def name_ticks(ax: Axes, side: Literal["x", "y"], names: Sequence[str]) -> None:
    """Names along one side: all of them, or every second, every third, … where they do not fit."""
    figure = ax.get_figure(root=True)
    size = ax.get_position().transformed(ax.figure.transSubfigure).size
    inches = (size[0] if side == "x" else size[1]) / (figure.dpi if figure else 100)
    fitting = max(int(inches * _POINTS_PER_INCH / (1.1 * SMALL)), 1)
    places = range(0, len(names), ceil(len(names) / fitting) or 1)
    turned = side == "x" and _crowded(names, inches)
    style: dict[str, Any] = {"rotation": 90} if turned else {}
    axis = ax.xaxis if side == "x" else ax.yaxis
    axis.set_ticks(places, [shortened(names[i]) for i in places], fontsize=SMALL, **style)


def _crowded(names: Sequence[str], inches: float) -> bool:
    """Whether names beside each other would touch."""
    widest = max((len(shortened(name)) for name in names), default=0)
    return len(names) * (widest + 1) * 0.6 * SMALL > inches * _POINTS_PER_INCH


def place_labels(ax: Axes, points: Sequence[tuple[float, float]], names: Sequence[str]) -> None:
    """Names beside points, so that none lies on another or on a point.

    Each goes to the nearest free place, with a thin line where that is not beside its point.
    """
    drawn = [point for point in points if all(map(isfinite, point))]
    named = [(p, n) for p, n in zip(points, names, strict=len(names) > 0) if n and p in drawn]
    figure = ax.get_figure(root=True)
    if not named or figure is None:
        return
    figure.draw_without_rendering()  # places the axes
    radius = 4 * figure.dpi / _POINTS_PER_INCH
    spots = ax.transData.transform(drawn)
    taken = [_box(x - radius, y - radius, 2 * radius, 2 * radius) for x, y in spots]
    missing = sum(not _place(ax, point, shortened(name), taken) for point, name in named)
    if missing:
        text = f"{missing} more {'name does' if missing == 1 else 'names do'} not fit"
        place: dict[str, Any] = dict(transform=ax.transAxes, ha="right", va="bottom")
        ax.text(1, 1.005, text, fontsize=SMALL, in_layout=False, **place)


def _place(ax: Axes, point: tuple[float, float], name: str, taken: list[Bbox]) -> bool:
    """Writes a name at the first free place around a point, if there is one."""
    probe = ax.text(*point, name, fontsize=SMALL)
    extent = probe.get_window_extent()
    probe.remove()
    figure = ax.get_figure(root=True)
    scale = (figure.dpi if figure else 100) / _POINTS_PER_INCH
    x, y = ax.transData.transform(point)
    inside = ax.get_window_extent()
    for right, up, beside in _offsets():
        left = right - (0 if right > 1 else 1 if right < -1 else 0.5) * extent.width / scale
        below = up - 0.5 * extent.height / scale
        box = _box(x + left * scale, y + below * scale, extent.width, extent.height)
        fits = inside.contains(*box.min) and inside.contains(*box.max)
        if fits and not any(box.overlaps(other) for other in taken):
            taken.append(box)
            line = None if beside else dict(arrowstyle="-", color="#888888", lw=0.5, shrinkB=3)
            style: dict[str, Any] = dict(ha="left", va="bottom", fontsize=SMALL, color=INK)
            written = ax.annotate(
                name, point, (left, below), textcoords="offset points", arrowprops=line, **style
            )
            written.set_in_layout(False)  # or the axes would move, and the places with them
            return True
    return False


def _offsets() -> Iterator[tuple[float, float, bool]]:
    """Where a name may start, in points from its own, and whether that is beside it."""
    for distance in _RINGS:
        for direction in _DIRECTIONS:
            angle = 2 * pi * direction / len(_DIRECTIONS)
            yield distance * cos(angle), distance * sin(angle), distance <= _BESIDE


def _box(left: float, below: float, width: float, height: float) -> Bbox:
    from matplotlib.transforms import Bbox

    return Bbox.from_bounds(left, below, width, height)
