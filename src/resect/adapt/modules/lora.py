"""Low-rank adaptation, by what Keras itself has for it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from resect.adapt.base import Changed, change_layers
from resect.adapt.modules.freezing import frozen, operations
from resect.adapt.modules.lora_parts import AFRESH, NAMES, lora_parts
from resect.edits.base import Edit, quoted, spellings
from resect.errors import EditError
from resect.graph import Change, Graph, Layer
from resect.lookup import resolve
from resect.options import Weights
from resect.plan import plan
from resect.select import Place, Where


@dataclass(frozen=True)
class Lora(Edit):
    """Enables LoRA in layers.

    Args:
        where: The layers.
        rank: Of the factors.
        alpha: The factors' product counts `alpha / rank`.
        parts: In layers that are made of layers: globs of the names of those that are meant.
        freeze: Whether nothing but the factors is to be trained.
    """

    verb: ClassVar[str] = "lora"
    where: Where
    rank: int = 8
    alpha: float | None = None
    parts: tuple[str, ...] | None = None
    freeze: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, not {self.rank}.")

    def describe(self) -> str:
        alpha = "" if self.alpha is None else f", alpha {self.alpha:g}"
        parts = "" if self.parts is None else f" ({', '.join(self.parts)})"
        rest = ", and freeze everything else" if self.freeze else ""
        return f"enable LoRA (rank {self.rank}{alpha}) in {quoted(self.where)}{parts}{rest}"

    def pinned(self, graph: Graph) -> Edit:
        places = resolve(self.where, graph)
        return dataclasses.replace(self, where=spellings(places, graph))

    def apply(self, graph: Graph) -> Graph:
        places = resolve(self.where, graph)
        for place in places:
            _check_not_nested(graph, place)
        changed = change_layers(graph, places, self._changed)
        if not self.freeze:
            return changed
        chosen = {id(graph.at(p.path).layer(p.call).op) for p in places}
        return frozen(changed, operations(graph) - chosen)

    def _changed(self, layer: Layer) -> Changed:
        if layer.origin not in ("kept", "rebuilt"):
            raise EditError(
                f"'{layer.name}' ({layer.kind}) has no trained weights yet.",
                "Leave it out, or apply the plan so far first.",
                layer.name,
            )
        targets = lora_parts(layer.op, self.parts)
        if not targets:
            raise EditError(_why_not(layer, self.parts), _REPAIR, layer.name)
        for part in targets:
            _check(layer, part)
        return Changed(lambda config: {**config, "trainable": True}, AFRESH, built=self._enable)

    def _enable(self, layer: Any) -> None:
        for part in lora_parts(layer, self.parts):
            part.enable_lora(self.rank, lora_alpha=self.alpha)
        if self.freeze:
            for variable in layer.variables:
                if variable.name not in NAMES:
                    variable.trainable = False


_REPAIR = (
    "Keras has LoRA for Dense, EinsumDense, Embedding and convolutions; leave it out of `where`."
)


def _why_not(layer: Layer, names: tuple[str, ...] | None) -> str:
    title = f"'{layer.name}' ({layer.kind})"
    could = [part.name for part in lora_parts(layer.op, None)]
    if could:
        return f"{title} has no part called {quoted(names)}: LoRA could be in {quoted(could)}."
    return f"Keras has no LoRA for {title}."


def _check_not_nested(graph: Graph, place: Place) -> None:
    nested = graph.at(place.path)
    if nested.layer(place.call).graph is not None:
        raise EditError(
            f"{nested.title(place.call)} is a nested model.",
            f"Select layers in it, such as '{place.spelling(graph)}/*'.",
            place.spelling(graph),
        )


def _check(layer: Layer, part: Any) -> None:
    """Refuses a layer that Keras cannot enable LoRA in.

    Raises:
        EditError: It has LoRA already, or a constraint, or a quantization that has no room for it.
    """
    name = layer.name if part is layer.op else f"{layer.name}/{part.name}"
    title = f"'{name}' ({type(part).__name__})"
    change = layer.change or Change(None)
    if (part.lora_enabled and not change.thawed) or change.built is not None:
        raise EditError(
            f"{title} has LoRA already.", "Merge it first, on its own: merge_lora.", name
        )
    for kind in ("kernel_constraint", "embeddings_constraint"):
        if getattr(part, kind, None) is not None:
            raise EditError(
                f"{title} has a {kind}, which the factors would get around.",
                f"Take it off: resect.adapt.configure(model, {layer.name!r}, {kind}=None).",
                name,
            )
    mode = getattr(part, "quantization_mode", None)
    if mode not in (None, "int8", "int4"):
        raise EditError(
            f"{title} is quantized ({mode}), and Keras has no LoRA there.",
            "Enable LoRA before that.",
            name,
        )


def lora(
    model: Any,
    where: Where,
    rank: int = 8,
    *,
    alpha: float | None = None,
    parts: tuple[str, ...] | None = None,
    freeze: bool = False,
    weights: Weights = "copy",
) -> Any:
    """A model with low-rank adaptation in some layers.

    From Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2022): to a kernel that is
    frozen, `alpha / rank` times the product of two small factors is added. It is Keras's own, as
    by `layer.enable_lora(rank, lora_alpha=alpha)` on the copies of the layers; the source has none
    of it. The second factor starts at zero: the new model computes what the old one did until it
    is trained.

    Preserved: what the model computes, until it is trained; all weights, the compile state, and the
    optimizer's slots of what is still trained. The factors start with fresh slots. Biases are
    trained as before, unless `freeze` says otherwise. A regularizer of a kernel is that of its
    factors, as Keras has it.

    Two facts of Keras: a file holds the merged weights, and a model that is loaded from it has
    factors that are both zero, which no training moves. Load first and enable LoRA then; or save
    what `merge_lora` returns. A layer that is made of layers (`MultiHeadAttention`) is loaded
    without LoRA, merged.

    Args:
        model: A built Keras model.
        where: The layers, at any depth: Dense, EinsumDense, Embedding, convolutions, wrappers of
            these, and layers that are made of these. A shared layer has one pair of factors. One
            that was frozen has its factors trained, and nothing else.
        rank: Of the factors.
        alpha: How much the product counts, times the rank; the rank by default, so once.
        parts: In layers that are made of layers: globs of the names of those that are meant, such
            as `("query", "value")`; all by default.
        freeze: Whether nothing else is to be trained (`trainable=False`), biases and the head
            included: thaw what is, `adapt.configure(new, "logits", trainable=True)`.
        weights: `"copy"` or `"share"`; kernels that are shared cannot be frozen in one model only,
            so freeze the source first.

    Returns:
        A new model.

    Raises:
        NoMatchError: `where` matches nothing.
        EditError: Keras has no LoRA for a layer; or it has a constraint, or LoRA already.
        CopyError: With `weights="share"`, a kernel would be frozen in the source too.

    Example:

    >>> import keras, resect
    >>> stack = [keras.Input((16,)), keras.layers.Dense(16, use_bias=False, name="a")]
    >>> new = resect.adapt.lora(keras.Sequential(stack), "a", rank=2)
    >>> [(variable.name, tuple(variable.shape)) for variable in new.trainable_variables]
    [('lora_kernel_a', (16, 2)), ('lora_kernel_b', (2, 16))]
    """
    edit = Lora(where, rank, alpha, None if parts is None else tuple(parts), freeze)
    return plan(model).then(edit).apply(weights=weights)
