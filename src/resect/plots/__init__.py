"""Pictures of what was measured: rankings, costs, similarities, trade-offs.

    bars      numbers with their intervals, one bar each
    scatter   labelled points
    matrix    a table of numbers as colours
    pareto    points, those that no other beats, and the way through them
    front     which points no other beats

    ranking   draws bars
    points    draws scatter and pareto
    tables    draws matrix
    fronts    finds what no other point beats
    labels    names of any length, in the room that there is
    drawing   axes to draw on, colours, large numbers
    pictures  figures that notebooks show

Each draws on the `Axes` that it is given, or on a figure of its own, and returns the `Axes`:
`ax.figure.savefig("ranking.png")` writes it, and a notebook shows it where it is the last line of
a cell. Nothing global changes, and no display is needed. Matplotlib is imported when the first
picture is drawn: `pip install "resect[plots]"`.
"""

from __future__ import annotations

from resect.plots.fronts import front
from resect.plots.points import pareto, scatter
from resect.plots.ranking import bars
from resect.plots.tables import matrix

__all__ = ["bars", "front", "matrix", "pareto", "scatter"]
