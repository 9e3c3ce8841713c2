"""Labelled points; those that no other beats, and the way through them."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

from resect.plots.drawing import BLUE, GREY, INK, ORANGE, axes, name_axis, plain, same_lengths
from resect.plots.fronts import Better, Point, front
from resect.plots.labels import place_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE = (7.5, 5.5)


def scatter(
    x: Sequence[float],
    y: Sequence[float],
    names: Sequence[str] | None = None,
    *,
    ax: Axes | None = None,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
) -> Axes:
    """Draws points, each with its name beside it.

    Args:
        x: Where each point is, from left to right; a point with a `nan` is not drawn.
        y: Where each point is, from below.
        names: What stands beside each point; `""` for nothing. A name that finds no room is left
            out, and a line above the picture says how many are.
        ax: Where to draw; by default a new figure.
        title: What stands above.
        x_label: What `x` is.
        y_label: What `y` is.

    Returns:
        The axes.

    Raises:
        ValueError: The lengths differ.
        SurgeryError: Matplotlib is not installed.

    Example:

    >>> from resect import plots
    >>> ax = plots.scatter([1e6, 2e6], [0.1, 0.4], ["a", "b"], x_label="parameters")
    >>> sorted(text.get_text() for text in ax.texts)
    ['a', 'b']
    """
    same_lengths("scatter", x=x, y=y, names=names)
    ax = _prepared(axes(ax, *_SIZE), list(zip(x, y, strict=True)), title, x_label, y_label)
    ax.scatter(x, y, s=32, color=BLUE, edgecolor="white", linewidth=0.6, zorder=3)
    place_labels(ax, list(zip(x, y, strict=True)), () if names is None else names)
    return ax


def pareto(
    points: Sequence[Point],
    *,
    x: str = "",
    y: str = "",
    names: Sequence[str] | None = None,
    path: Sequence[int] | None = None,
    better: tuple[Better, Better] = ("lower", "lower"),
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """Draws points, the front of those that no other beats as a line of steps, and a way.

    Points that are beaten are faded. On the better side of the steps there is no point.

    Args:
        points: Pairs of coordinates; a point with a `nan` is not drawn.
        x: What the first coordinate is.
        y: What the second coordinate is.
        names: What stands beside each point; `""` for nothing.
        path: Positions of points, in the order in which a dashed line goes through them, such as
            the models that shrinking went through.
        better: Which way is better, of each coordinate: `("lower", "higher")` for accuracy against
            cost.
        ax: Where to draw; by default a new figure.
        title: What stands above.

    Returns:
        The axes.

    Raises:
        ValueError: The lengths differ, or `better` holds something else.
        IndexError: The path goes through a point that there is not.
        SurgeryError: Matplotlib is not installed.

    Example:

    >>> from resect import plots
    >>> points = [(4e6, 0.91), (3e6, 0.92), (2e6, 0.85), (3e6, 0.80)]
    >>> ax = plots.pareto(
    ...     points,
    ...     x="multiply-adds",
    ...     y="accuracy",
    ...     names=["model", "without block_2", "without block_2 and block_0", ""],
    ...     path=[0, 1, 2],
    ...     better=("lower", "higher"),
    ... )
    >>> ax.get_xlabel()
    'multiply-adds (lower is better)'
    """
    same_lengths("pareto", points=points, names=names)
    best = front(points, better)
    labels = [f"{text} ({way} is better)".strip() for text, way in zip((x, y), better, strict=True)]
    ax = _prepared(axes(ax, *_SIZE), points, title, *labels)
    way = [points[i] for i in (() if path is None else path)]
    if way:
        ax.plot(*zip(*way, strict=True), color=ORANGE, linestyle="--", linewidth=1.8, zorder=2)
    others = [point for i, point in enumerate(points) if i not in best]
    if others:
        ax.scatter(*zip(*others, strict=True), s=26, color=GREY, edgecolor="white", zorder=3)
    if best:
        chosen = [points[i] for i in best]
        _steps(ax, chosen, better)
        ax.scatter(*zip(*chosen, strict=True), s=40, color=BLUE, edgecolor=INK, zorder=4)
    place_labels(ax, points, () if names is None else names)
    return ax


def _prepared(ax: Axes, points: Sequence[Point], title: str, x: str, y: str) -> Axes:
    """The axes, named and without points."""
    known = [point for point in points if all(map(isfinite, point))]
    plain(ax, title)
    name_axis(ax.xaxis, x, [point[0] for point in known])
    name_axis(ax.yaxis, y, [point[1] for point in known])
    ax.grid(color="#E5E5E5", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.margins(0.1)
    return ax


def _steps(ax: Axes, chosen: Sequence[Point], better: tuple[Better, Better]) -> None:
    """The border of what the chosen points beat, from edge to edge of the axes."""
    ax.autoscale_view()
    ends_x, ends_y = ax.get_xlim(), ax.get_ylim()
    ax.set(xlim=ends_x, ylim=ends_y)
    # What costs more is beaten by what was reached at less cost: the step is where the next starts.
    where = "post" if better[0] == "lower" else "pre"
    worst_y = ends_y[1] if better[1] == "lower" else ends_y[0]
    outer = [(ends_x[1], chosen[-1][1])] if better[0] == "lower" else [(ends_x[0], chosen[0][1])]
    first = [(chosen[0][0], worst_y)] if better[0] == "lower" else [(chosen[-1][0], worst_y)]
    line = [*first, *chosen, *outer] if better[0] == "lower" else [*outer, *chosen, *first]
    ax.step(*zip(*line, strict=True), where=where, color=BLUE, linewidth=1.6, zorder=2.5)
