"""Where LoRA is: the layers that Keras has it for, their factors, and what those are added to."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

from resect.keras_graph.reading import sublayers

#: The factors of what Keras has LoRA for, and what they are added to.
FACTORS = {
    "kernel": ("lora_kernel_a", "lora_kernel_b"),
    "embeddings": ("lora_embeddings_a", "lora_embeddings_b"),
}
NAMES = frozenset(name for pair in FACTORS.values() for name in pair)
AFRESH: Mapping[str, None] = dict.fromkeys(sorted(NAMES))


def lora_parts(layer: Any, names: tuple[str, ...] | None) -> list[Any]:
    """The layers in a layer that Keras can enable LoRA in: itself, or those it is made of.

    Args:
        layer: A layer, built.
        names: Globs of the names of the parts that are meant; `None` for all.
    """
    if hasattr(layer, "enable_lora"):
        return [layer]
    found = [part for part in sublayers(layer) if hasattr(part, "enable_lora")]
    unique = list({id(part): part for part in found}.values())
    if names is None:
        return unique
    return [p for p in unique if any(fnmatch.fnmatchcase(p.name, name) for name in names)]


def weight_of(part: Any) -> str:
    """The name of the variable that the factors of a layer are added to."""
    return next(name for name, (one, _) in FACTORS.items() if variable_of(part, one) is not None)


def variable_of(part: Any, name: str) -> Any:
    """The variable of a layer that has a name; `None` if there is none."""
    return next((v for v in part.variables if v.name == name), None)
