"""Figures that notebooks show, without matplotlib's global state. Imported with matplotlib only."""

from __future__ import annotations

import io
from typing import cast

from matplotlib.axes import Axes
from matplotlib.figure import Figure


class Picture(Figure):
    """A figure that a notebook shows."""

    def _repr_png_(self) -> bytes:
        target = io.BytesIO()
        self.savefig(target, format="png", dpi=100)
        return target.getvalue()


class Drawing(Axes):
    """Axes that a notebook shows, with the figure that they are in."""

    def _repr_png_(self) -> bytes:
        target = io.BytesIO()
        cast(Figure, self.get_figure(root=True)).savefig(target, format="png", dpi=100)
        return target.getvalue()
