"""The order of a tensor's axes: where each axis of the old tensor is in the new one.

A layout is a permutation, as `transpose` takes it: axis `i` of the new tensor is axis `layout[i]`
of the old one. `(0, 3, 1, 2)` makes `(batch, channels, height, width)` of
`(batch, height, width, channels)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from resect.adapt.base import Config, Values
from resect.graph import Graph, Layer, Node, Ref, Shape, Spec

Layout = tuple[int, ...]
DataFormat = Literal["channels_first", "channels_last"]


def unchanged(rank: int) -> Layout:
    """The layout in which nothing moves."""
    return tuple(range(rank))


def moved(rank: int, to: DataFormat, lead: int = 0) -> Layout:
    """The layout in which the channels move to where `to` has them.

    Args:
        rank: Number of axes, that of the batch included; with fewer than three nothing moves.
        to: The data format that the new tensor has; the old one has the other.
        lead: Number of axes between the batch and the feature map, such as time.
    """
    start = 1 + lead
    if rank < start + 2:
        return unchanged(rank)
    front, rest = tuple(range(start)), tuple(range(start, rank))
    if to == "channels_first":
        return (*front, rest[-1], *rest[:-1])
    return (*front, *rest[1:], rest[0])


def moves(rank: int, to: DataFormat) -> tuple[Layout, Layout]:
    """The layouts of a feature map, and of one for each step of a sequence."""
    return moved(rank, to), moved(rank, to, 1)


def inverse(layout: Layout) -> Layout:
    """The layout that takes a tensor back."""
    return tuple(layout.index(axis) for axis in range(len(layout)))


def then(first: Layout, second: Layout) -> Layout:
    """One layout after the other."""
    return tuple(first[axis] for axis in second)


def between(have: Layout, want: Layout) -> Layout:
    """What takes a tensor from one layout to another."""
    return then(inverse(have), want)


def shape_in(layout: Layout, shape: Sequence[Any]) -> tuple[Any, ...]:
    """A shape, or anything that has one item for each axis, in a layout."""
    return tuple(shape[axis] for axis in layout)


def axis_in(layout: Layout, axis: int) -> int:
    """Where an axis is in a layout; one counted from the end is counted from the end again."""
    rank = len(layout)
    found = layout.index(axis % rank)
    return found if axis >= 0 else found - rank


def axes_in(layout: Layout, axes: Any) -> Any:
    """Where an axis, or each of several, is; `None` stays `None`."""
    if axes is None:
        return None
    if isinstance(axes, Iterable):
        found = [axis_in(layout, axis) for axis in axes]
        return tuple(found) if isinstance(axes, tuple) else found
    return axis_in(layout, int(axes))


def without(layout: Layout, axes: Iterable[int]) -> Layout:
    """The layout that is left when axes of the old tensor are reduced away."""
    gone = {axis % len(layout) for axis in axes}
    left = [axis for axis in layout if axis not in gone]
    return tuple(sorted(left).index(axis) for axis in left)


def is_row(shape: Shape) -> bool:
    """Whether at most one axis besides the batch is longer than 1: the order does not matter."""
    return sum(size != 1 for size in shape[1:]) <= 1


def constant_in(layout: Layout, value: Any) -> np.ndarray | None:
    """A constant that is broadcast against a tensor, as it has to be in a layout of that tensor.

    Returns:
        The array; `None` if it has more axes than the tensor.
    """
    array, rank = np.asarray(value), len(layout)
    if array.ndim > rank:
        return None
    array = np.transpose(array.reshape((1,) * (rank - array.ndim) + array.shape), layout)
    while array.ndim and array.shape[0] == 1:
        array = array[0]
    return array


@dataclass(frozen=True, eq=False)
class Site:
    """A call as a rule sees it, in the old layout.

    Attributes:
        layer: The layer.
        node: The call.
        inputs: Specs of what it reads.
        outputs: Specs of what it returns.
        to: The data format that is wanted.
    """

    layer: Layer
    node: Node
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    to: DataFormat

    @property
    def config(self) -> Config:
        """The configuration of the layer."""
        return self.layer.recipe.get_config()

    @property
    def converts(self) -> bool:
        """Whether its configuration has the other data format."""
        return self.config.get("data_format") not in (None, self.to)


class Answer(NamedTuple):
    """What a call becomes when all that it reads comes in one layout.

    Attributes:
        outputs: The layouts of what it returns.
        config: From the layer's configuration to the one that it needs; `None` if it may stay.
        values: How variables come to other values.
    """

    outputs: tuple[Layout, ...]
    config: Callable[[Config], Config] | None = None
    values: Values | None = None


Rule = Callable[[Site, Layout], Answer | None]


def updated(**changes: Any) -> Callable[[Config], Config]:
    """The change of a configuration that sets fields."""
    return lambda config: {**config, **changes}


def same(site: Site, layout: Layout) -> tuple[Layout, ...]:
    """One layout for each output."""
    return (layout,) * len(site.outputs)


def same_of(graph: Graph, ref: Ref) -> Layout:
    """The layout in which a tensor of a graph is as it was."""
    return unchanged(len(graph.spec(ref).shape))
