"""Axes to draw on, colours, large numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from resect.errors import SurgeryError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

#: Of Okabe and Ito, "Color universal design", 2008: told apart by people who are colour-blind, and
#: by how light they are on a grey print.
BLUE, ORANGE, GREY, INK = "#0072B2", "#E69F00", "#B5B5B5", "#222222"

#: From dark blue to light yellow, as light grows with the number.
COLOURS = "cividis"

_LARGE = 10_000


def axes(ax: Axes | None, width: float, height: float) -> Axes:
    """The given axes, or those of a new figure of a size in inches.

    Raises:
        SurgeryError: Matplotlib is not installed.
    """
    try:
        from resect.plots.pictures import Drawing, Picture
    except ImportError as error:
        raise SurgeryError(
            "Pictures are drawn by matplotlib, which is not installed.",
            'pip install "resect[plots]"',
        ) from error
    if ax is not None:
        return ax
    return Picture(figsize=(width, height), layout="constrained").add_subplot(axes_class=Drawing)


def plain(ax: Axes, title: str) -> None:
    """No frame but the two axes; the title, in lines that fit."""
    ax.spines[["top", "right"]].set_visible(False)
    if title:
        ax.set_title(textwrap.fill(title, 60), fontsize=11)


def name_axis(axis: Axis, label: str, values: Sequence[float]) -> None:
    """A label in lines that fit; large numbers as `1.5 M`."""
    from matplotlib.ticker import EngFormatter

    axis.set_label_text(textwrap.fill(label, 60))
    if any(abs(value) >= _LARGE for value in values):
        axis.set_major_formatter(EngFormatter())


def same_lengths(what: str, **columns: Sequence[object] | None) -> None:
    """Refuses columns of different lengths.

    Raises:
        ValueError: They differ.
    """
    found = {name: len(column) for name, column in columns.items() if column is not None}
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{count} {name}" for name, count in found.items())
        raise ValueError(f"{what} takes as many of each, and there are {listed}.")
