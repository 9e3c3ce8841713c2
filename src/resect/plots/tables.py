"""A table of numbers as colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from resect.plots.drawing import COLOURS, axes, same_lengths
from resect.plots.labels import SMALL, name_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CELL = 1.35 * SMALL / 72
_LARGEST = 14.0


def matrix(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    *,
    ax: Axes | None = None,
    title: str = "",
    label: str = "",
) -> Axes:
    """Draws a table of numbers as squares, the larger the lighter.

    Args:
        rows: Names of the rows.
        columns: Names of the columns.
        values: One row of numbers each; `nan` stays blank.
        ax: Where to draw; by default a new figure, as large as the names need.
        title: What stands above.
        label: What the numbers are.

    Returns:
        The axes; the colour bar stands beside them.

    Raises:
        ValueError: The lengths differ.
        SurgeryError: Matplotlib is not installed.

    Example:

    >>> from resect import plots
    >>> ax = plots.matrix(["a", "b"], ["a", "b"], [[1, 0.3], [0.3, 1]], label="CKA")
    >>> ax.images[0].get_array().shape
    (2, 2)
    """
    same_lengths("matrix", rows=rows, values=values)
    for row in values:
        same_lengths("A row of a matrix", columns=columns, values=row)
    room = 2.0
    width, height = (min(max(_CELL * len(names), 2.5), _LARGEST) for names in (columns, rows))
    ax = axes(ax, width + room + 1, height + room)
    table = np.ma.masked_invalid(np.asarray(values, dtype="float64"))
    table = table.reshape(len(rows), len(columns))
    image = ax.imshow(table, cmap=COLOURS, interpolation="nearest", aspect="equal")
    name_ticks(ax, "y", rows)
    name_ticks(ax, "x", columns)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if title:
        ax.set_title(title, fontsize=11)
    figure = ax.get_figure(root=False)
    if figure is not None:
        figure.colorbar(image, ax=ax, label=label, fraction=0.046, pad=0.02)
    return ax
