"""The options that several verbs share."""

from __future__ import annotations

from typing import Literal

Weights = Literal["copy", "share"]
"""Whether the edited model gets variables of its own or keeps those of the source."""

OnMismatch = Literal["raise", "reinit", "adapt"]
"""What happens to a kept layer whose weights do not fit the shape that it would be given."""
