"""What the names of layers say about which of them belong together.

Structure alone does not tell where a block without a skip connection ends: MobileNetV2's
`block_1_expand`, `block_1_expand_BN`, … are a chain like any other. Their names tell. A prefix that
ends with a number counts, `block_1`, `conv2_block1` or `block4a`; and one without a number counts
if what follows it is also found behind one with a number, as in `expanded_conv_depthwise`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

Tokens = tuple[str, ...]

_INDEX = re.compile(r"\d+[a-z]?$")
_RANK = re.compile(r"[123]d$")  # `conv2d` counts nothing


def tokens_of(name: str, kind: str) -> Tokens | None:
    """The parts of a name, `None` for a name that Keras has made from the class.

    >>> (
    ...     tokens_of("conv2_block1_add", "Add"),
    ...     tokens_of("conv2d_4", "Conv2D"),
    ... )
    (('conv2', 'block1', 'add'), None)
    """
    if re.fullmatch(rf"{_snake_case(kind)}(_\d+)?", name):
        return None
    return tuple(name.split("_"))


def _snake_case(kind: str) -> str:
    spaced = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", kind)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", spaced).lower()


def common(prefixes: Iterable[Tokens | None]) -> Tokens | None:
    """The longest prefix that all have; those without a name of their own have any.

    >>> common([("block", "1", "expand"), None, ("block", "1", "add")])
    ('block', '1')
    """
    shared: Tokens | None = None
    for prefix in prefixes:
        if prefix is None or shared is None:
            shared = prefix if shared is None else shared
            continue
        length = 0
        while length < min(len(shared), len(prefix)) and shared[length] == prefix[length]:
            length += 1
        shared = shared[:length]
    return shared


def indexed(prefix: Tokens | None) -> Tokens:
    """The longest part of a prefix that ends with a number; empty if there is none.

    >>> indexed(("block", "1", "expand")), indexed(("block4a", "se")), indexed(("my", "conv2d"))
    (('block', '1'), ('block4a',), ())
    """
    prefix = prefix or ()
    for length in range(len(prefix), 0, -1):
        token = prefix[length - 1]
        if _INDEX.search(token) and not _RANK.search(token):
            return prefix[:length]
    return ()


def pattern(prefix: Tokens) -> str:
    """A prefix without its numbers: what the prefixes of similar blocks have in common.

    >>> pattern(("conv2", "block13"))
    'conv#_block#'
    """
    return re.sub(r"\d+", "#", "_".join(prefix))


def runs(keys: Sequence[Tokens | None]) -> list[tuple[int, int]]:
    """Where the same key stands several times in a row.

    Args:
        keys: One for each item; empty for an item that belongs to none, `None` for one without a
            name of its own, which belongs to the run that it stands in the middle of.

    Returns:
        Start and end of every run, as of a slice; runs of one item too.

    Example:

    >>> runs([(), ("a",), None, ("a",), None, ("b",)])
    [(1, 4), (5, 6)]
    """
    found: list[tuple[int, int]] = []
    current: Tokens = ()
    for i, key in enumerate(keys):
        if key and key == current:
            found[-1] = (found[-1][0], i + 1)
        elif key:
            found.append((i, i + 1))
        if key is not None:
            current = key
    return found
