"""Distillation: a model trained towards what another one says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
from keras import ops

from resect.errors import SurgeryError
from resect.keras_graph.training import compiled_with

Kind = Literal["logits", "probabilities", "values"]

#: What the model's loss says of an output: its kind, and whether each number is its own class.
Form = tuple[Kind, bool]

_CLASSES = {
    "CategoricalCrossentropy",
    "SparseCategoricalCrossentropy",
    "CategoricalFocalCrossentropy",
}
_BINARY = {"BinaryCrossentropy", "BinaryFocalCrossentropy"}
_VALUES = {
    "MeanSquaredError", "MeanAbsoluteError", "MeanSquaredLogarithmicError",
    "MeanAbsolutePercentageError", "Huber", "LogCosh", "CosineSimilarity",
}  # fmt: skip
_TINY = 1e-7


def kinds_of(model: Any, said: Kind | None) -> list[Form | None]:
    """For each output what it is; `None` for those that have no loss.

    Args:
        model: A compiled model.
        said: What the user says of them; `None`: what the losses say.

    Raises:
        SurgeryError: The loss of an output says nothing of what it is.
    """
    if said not in ("logits", "probabilities", "values", None):
        raise ValueError(f'outputs must be "logits", "probabilities" or "values", not {said!r}.')
    names = list(getattr(model, "output_names", None) or ["output"])
    losses = _losses(model, names)
    return [_kind(model, i, losses[i], said, name) for i, name in enumerate(names)]


def _losses(model: Any, names: Sequence[str]) -> list[Any]:
    loss = model.loss
    if isinstance(loss, dict):
        return [loss.get(name) for name in names]
    if isinstance(loss, (list, tuple)):
        return list(loss)
    return [loss] * len(names)


def _kind(model: Any, i: int, loss: Any, said: Kind | None, name: str) -> Form | None:
    if loss is None:
        return None
    found = keras.losses.get(loss)
    cls = _class_of(found)
    single = model.outputs[i].shape[-1] == 1
    if said is not None:
        return said, cls in _BINARY or single
    if cls in _CLASSES | _BINARY:
        logits = bool(getattr(found, "from_logits", False))
        return "logits" if logits else "probabilities", cls in _BINARY or single
    if cls in _VALUES:
        return "values", False
    raise SurgeryError(
        f"The loss of the output '{name}' does not say whether it is logits, probabilities or "
        "numbers, so nothing says what it would be to imitate it.",
        'Say it: Distill(outputs="logits"), "probabilities" or "values"; or give a function of '
        "your own as recover.",
        name,
    )


def _class_of(loss: Any) -> str:
    """The name of a loss of Keras, or that of the class that its function belongs to."""
    if isinstance(loss, keras.losses.Loss):
        return next(
            (c.__name__ for c in type(loss).__mro__ if c.__module__.startswith("keras.")), ""
        )
    if getattr(loss, "__module__", "").startswith("keras."):
        return "".join(part.capitalize() for part in loss.__name__.split("_"))
    return ""


class Soft(keras.losses.Loss):
    """How far predictions are from softened ones.

    Args:
        form: What the predictions are.
        temperature: What logits are divided by.
    """

    def __init__(self, form: Form, temperature: float) -> None:
        super().__init__(name="soft")
        self.form, self.temperature = form, temperature

    def call(self, y_true: Any, y_pred: Any) -> Any:
        kind, single = self.form
        if kind == "values":
            return ops.mean(ops.square(y_pred - y_true), axis=-1)
        teacher, pupil = (self._logs(y, kind, single) for y in (y_true, y_pred))
        divergence: Any = ops.sum(ops.exp(teacher) * (teacher - pupil), axis=-1)
        if single:
            divergence = ops.mean(divergence, axis=-1)
        return self.temperature**2 * divergence

    def _logs(self, y: Any, kind: Kind, single: bool) -> Any:
        """Logarithms of the softened probabilities, classes along the last axis."""
        if single:
            if kind == "probabilities":
                y = ops.clip(y, _TINY, 1 - _TINY)
                no: Any = ops.log1p(-y)
                y = ops.log(y) - no
            y = ops.stack([y, ops.zeros_like(y)], axis=-1)
        elif kind == "probabilities":
            y = ops.log(ops.maximum(y, _TINY))
        return ops.log_softmax(y / self.temperature, axis=-1)


class Distiller(keras.Model):
    """A model while it is trained towards another one. Its optimizer is the model's own.

    Args:
        model: Compiled; what is trained.
        teacher: What it is trained towards; frozen, a copy that may be used up.
        kinds: Of each output.
        temperature: What logits are divided by.
        alpha: The share of the teacher in the loss.
    """

    def __init__(
        self,
        model: Any,
        teacher: Any,
        kinds: Sequence[Form | None],
        temperature: float,
        alpha: float,
    ) -> None:
        super().__init__(name="distiller")
        self.pupil, self.teacher, self.alpha = model, teacher, alpha
        self.soft = [None if kind is None else Soft(kind, temperature) for kind in kinds]
        self.compile(
            optimizer=model.optimizer,
            run_eagerly=model.run_eagerly,
            jit_compile=model.jit_compile,
            auto_scale_loss=False,
        )
        self.built = True

    def call(self, x: Any, training: bool | None = None) -> Any:
        return self.pupil(x, training=training)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        said = keras.tree.map_structure(ops.stop_gradient, self.teacher(x, training=False))
        soft = self._soft(said, y_pred, sample_weight)
        hard = self.pupil.compute_loss(x, y, y_pred, sample_weight, training)
        # What regularisers and layers add is in `hard`, and is to count in full.
        added: Any = ops.zeros(())
        for loss in self.pupil.losses:
            added = added + ops.sum(loss)
        return self.alpha * soft + (1 - self.alpha) * hard + self.alpha * added

    def _soft(self, said: Any, y_pred: Any, sample_weight: Any) -> Any:
        ones, others = keras.tree.flatten(said), keras.tree.flatten(y_pred)
        weights = keras.tree.flatten(sample_weight)
        weights = weights * len(ones) if len(weights) == 1 else weights
        shares = self._shares(len(ones))
        total: Any = ops.zeros(())
        for loss, one, other, weight, share in zip(
            self.soft, ones, others, weights, shares, strict=True
        ):
            if loss is not None:
                own = None if weight is None else ops.copy(weight)  # PyTorch writes into it
                term: Any = loss(one, other, own)
                total = total + share * term
        return total

    def _shares(self, count: int) -> list[float]:
        """The weights of the outputs in the loss that the model is compiled with."""
        weights = compiled_with(self.pupil, "loss_weights")
        if weights is None:
            return [1.0] * count
        if isinstance(weights, dict):
            return [float(weights.get(name, 1.0)) for name in self.pupil.output_names]
        flat = list(weights) if isinstance(weights, (list, tuple)) else [weights]
        return [float(weight) for weight in flat]
