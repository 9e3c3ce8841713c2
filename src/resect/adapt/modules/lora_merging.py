"""Low-rank factors merged into the weights that they belong to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from resect.adapt.base import Changed, as_float, change_layers, chosen_or_all
from resect.adapt.modules.lora_parts import FACTORS, lora_parts, variable_of, weight_of
from resect.edits.base import Edit, quoted, spellings
from resect.errors import EditError
from resect.graph import Graph, Layer
from resect.keras_graph.state import path_ends
from resect.options import Weights
from resect.plan import plan
from resect.select import Place, Where


@dataclass(frozen=True)
class MergeLora(Edit):
    """Merges factors into the weights that they belong to, and leaves plain layers.

    Args:
        where: The layers; every layer with LoRA without.
    """

    verb: ClassVar[str] = "merge_lora"
    where: Where = None

    def describe(self) -> str:
        return "merge LoRA" + ("" if self.where is None else f" in {quoted(self.where)}")

    def pinned(self, graph: Graph) -> Edit:
        return MergeLora(spellings(self._places(graph), graph))

    def apply(self, graph: Graph) -> Graph:
        return change_layers(graph, self._places(graph), _merged)

    def _places(self, graph: Graph) -> tuple[Place, ...]:
        found = tuple(
            place
            for place in chosen_or_all(graph, self.where)
            if _has_lora(graph.at(place.path).layer(place.call))
        )
        if not found:
            raise EditError(
                f"No layer has LoRA in {quoted(self.where or graph.name)}.",
                "Enable it first: lora. What this plan has enabled has nothing to merge yet.",
            )
        return found


def _has_lora(layer: Layer) -> bool:
    if layer.graph is not None or layer.origin not in ("kept", "rebuilt"):
        return False
    return any(getattr(part, "lora_enabled", False) for part in lora_parts(layer.op, None))


def _merged(layer: Layer) -> Changed:
    parts = [part for part in lora_parts(layer.op, None) if part.lora_enabled]
    for part in parts:
        what = weight_of(part)
        if "float" not in str(variable_of(part, what).dtype):
            raise EditError(
                f"'{layer.name}' ({layer.kind}) is quantized: its {what} would be rounded anew.",
                "Merge before you quantize; or save the model and load it, which rounds.",
                layer.name,
            )
    ends, values, thawed = path_ends(layer.op), {}, set()
    for part in parts:
        what = weight_of(part)
        weight, *factors = (ends[id(variable_of(part, n))] for n in (what, *FACTORS[what]))
        values |= {weight: _sum(part, weight, *factors), **dict.fromkeys(factors)}
        if part.trainable:
            thawed.add(weight)
    return Changed(_without_lora, values, thawed=frozenset(thawed))


def _sum(part: Any, weight: str, one: str, other: str) -> Callable[[Mapping[str, Any]], Any]:
    """The weight with the product of its factors added, as a function of the old values."""
    scale = part.lora_alpha / part.lora_rank

    def total(old: Mapping[str, Any]) -> np.ndarray:
        product = np.matmul(as_float(old[one]), as_float(old[other]))
        return as_float(old[weight]) + scale * product

    return total


def _without_lora(config: Any) -> Any:
    """A configuration in which no layer has LoRA, the layers in wrappers included."""
    if isinstance(config, dict):
        kept = {k: v for k, v in config.items() if k not in ("lora_rank", "lora_alpha")}
        return {key: _without_lora(value) for key, value in kept.items()}
    return config


def merge_lora(model: Any, where: Where = None, *, weights: Weights = "copy") -> Any:
    """A model without low-rank adaptation, its product added to the weights.

    Preserved: what the model computes, but for rounding; all other weights.
    Not preserved: the factors. What they were added to is trained again if the layer is.

    Args:
        model: A built Keras model with layers that LoRA is enabled in.
        where: The layers; every layer with LoRA without.
        weights: `"copy"` or `"share"`; what is merged is new, and not shared.

    Returns:
        A new model, its layers as they would be had LoRA never been enabled.

    Raises:
        NoMatchError: `where` matches nothing.
        EditError: No layer has LoRA, or one that has it is quantized.

    Example:

    >>> import keras, resect
    >>> stack = [keras.Input((16,)), keras.layers.Dense(16, use_bias=False, name="a")]
    >>> new = resect.adapt.lora(keras.Sequential(stack), "a", rank=2)
    >>> [variable.name for variable in resect.adapt.merge_lora(new).trainable_variables]
    ['kernel']
    """
    return plan(model).then(MergeLora(where)).apply(weights=weights)
