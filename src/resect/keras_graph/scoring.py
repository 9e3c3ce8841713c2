"""The loss and the metrics of a compiled model, apart from the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from resect.keras_graph.private import set_keras_mask
from resect.keras_graph.training import is_compiled, recreated

_ITS_OWN = ("test_step", "compute_loss", "compute_metrics")


def why_not_scored(model: Any) -> tuple[str, str] | None:
    """Why the numbers of `model.evaluate` cannot be computed from predictions, and what to do."""
    if not is_compiled(model):
        return (
            "The model is not compiled, so it has no loss.",
            "Call model.compile(loss=...) first.",
        )
    for method in _ITS_OWN:
        if getattr(type(model), method) is not getattr(keras.Model, method):
            return (
                f"{type(model).__name__} has a {method} of its own, so that its loss is not "
                "only that of its compile configuration.",
                "Measure a plain model with the same layers: keras.Model(model.inputs, "
                "model.outputs), compiled with a loss.",
            )
    return None


class Scorer(keras.Model):
    """Computes what `evaluate` says of a model, from predictions.

    The losses are the model's own objects; metrics are made anew, so the model's keep their state.

    Args:
        source: A compiled model.
    """

    def __init__(self, source: Any) -> None:
        super().__init__(name="scorer")
        names = getattr(source, "output_names", None)
        if names is not None:
            self.output_names = list(names)
        raw = source._compile_config.config
        self.compile(
            optimizer="sgd",
            loss=raw["loss"],
            loss_weights=raw["loss_weights"],
            metrics=recreated(raw["metrics"]),
            weighted_metrics=recreated(raw["weighted_metrics"]),
        )
        self.built = True

    def start(self, y: Any, predictions: Any, weight: Any) -> list[Any]:
        """Builds metrics for data of that structure; their first states, as arrays."""
        self.compute_loss(y=y, y_pred=predictions, sample_weight=weight, training=False)
        self.compute_metrics(None, y, predictions, weight)
        self.reset_metrics()
        return [keras.ops.convert_to_numpy(v) for v in self.metrics_variables]

    def loss_of(self, y: Any, predictions: Any, weight: Any, extra: Any = 0.0) -> Any:
        """The loss of a batch, `extra` added: what regularisers and layers add to it."""
        if self._compile_loss is None:
            return keras.ops.convert_to_tensor(extra, "float32")
        loss: Any = self.compute_loss(y=y, y_pred=predictions, sample_weight=weight, training=False)
        return loss + keras.ops.cast(extra, loss.dtype)

    def update(
        self, states: Sequence[Any], y: Any, predictions: Any, weight: Any, extra: Any
    ) -> tuple[list[Any], Any]:
        """The states of the metrics after one more batch, and its loss."""
        mapping = list(zip(self.metrics_variables, states, strict=True))
        with keras.StatelessScope(state_mapping=mapping) as scope:
            loss = self.loss_of(y, predictions, weight, extra)
            self.compute_metrics(None, y, predictions, weight)
            found = [scope.get_current_value(v) for v in self.metrics_variables]
        return found, loss

    def results(self, states: Sequence[Any], loss: float) -> dict[str, float]:
        """What `evaluate(return_dict=True)` returns, for states and the mean of the losses.

        A metric with a number for each class becomes several: `f1_score[0]`, `f1_score[1]`, ...
        """
        mapping = [
            (variable, keras.ops.convert_to_tensor(state, variable.dtype))
            for variable, state in zip(self.metrics_variables, states, strict=True)
        ]
        with keras.StatelessScope(state_mapping=mapping):
            found = self.get_metrics_result()
        numbers: dict[str, float] = {}
        for name, value in found.items():
            array: Any = keras.ops.convert_to_numpy(value)
            for place in np.ndindex(array.shape):  # of a metric for each class, several
                numbers[name + "".join(f"[{i}]" for i in place)] = float(array[place])
        return numbers | {"loss": loss}


def masked(tensor: Any, mask: Any) -> Any:
    """The tensor, with that mask attached as Keras attaches it."""
    if mask is not None:
        set_keras_mask(tensor, mask)
    return tensor
