"""The options that several verbs share."""

from __future__ import annotations

from typing import Literal

Weights = Literal["copy", "share"]
"""Whether the edited model gets variables of its own or keeps those of the source."""

OnMismatch = Literal["raise", "reinit", "adapt"]
"""What happens to a kept layer whose weights do not fit the shape that it would be given."""


def check_weights(weights: str) -> None:
    """Refuses what is neither.

    Raises:
        ValueError: `weights` is neither `"copy"` nor `"share"`.
    """
    if weights not in ("copy", "share"):
        raise ValueError(f'weights must be "copy" or "share", not {weights!r}.')
