"""Numbers with their intervals, one bar each."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

from resect.plots.drawing import BLUE, INK, axes, name_axis, plain, same_lengths
from resect.plots.labels import name_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def bars(
    names: Sequence[str],
    values: Sequence[float],
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    *,
    ax: Axes | None = None,
    title: str = "",
    label: str = "",
) -> Axes:
    """Draws one bar for each number, from the top down, with its confidence interval.

    Args:
        names: What the numbers belong to.
        values: The numbers; `nan` leaves a gap.
        low: Lower ends of their intervals; `nan` where there is none.
        high: Upper ends.
        ax: Where to draw; by default a new figure, as high as the bars need.
        title: What stands above.
        label: What the numbers are.

    Returns:
        The axes.

    Raises:
        ValueError: The lengths differ.
        SurgeryError: Matplotlib is not installed.

    Example:

    >>> from resect import plots
    >>> ax = plots.bars(["a", "b"], [0.5, 1.5], [0.4, 1.0], [0.6, 2.0], label="change of the loss")
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['a', 'b']
    """
    same_lengths("bars", names=names, values=values, low=low, high=high)
    ax = axes(ax, 7, 1.3 + 0.24 * max(len(names), 2))
    places = range(len(names))
    ax.barh(places, values, height=0.72, color=BLUE)
    if low is not None and high is not None:
        for place, *ends in zip(places, low, high, strict=True):
            if all(map(isfinite, ends)):
                ax.plot(ends, (place, place), color=INK, linewidth=1.4, marker="|", markersize=5)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_ylim(len(names) - 0.4, -0.6)
    name_ticks(ax, "y", names)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    ax.set_axisbelow(True)
    plain(ax, title)
    name_axis(ax.xaxis, label, values)
    return ax
