"""Which values of a metric are better."""

from __future__ import annotations

from typing import Any, Literal

import keras

from resect.keras_graph.training import compiled_with

Better = Literal["higher", "lower"]

# What is better, by the name of a metric's class or of its function.
_HIGHER = {
    "Accuracy", "BinaryAccuracy", "CategoricalAccuracy", "SparseCategoricalAccuracy",
    "TopKCategoricalAccuracy", "SparseTopKCategoricalAccuracy", "AUC", "Precision", "Recall",
    "TruePositives", "TrueNegatives", "SensitivityAtSpecificity", "SpecificityAtSensitivity",
    "PrecisionAtRecall", "RecallAtPrecision", "F1Score", "FBetaScore", "R2Score", "IoU",
    "BinaryIoU", "MeanIoU", "OneHotIoU", "OneHotMeanIoU", "CosineSimilarity",
    "PearsonCorrelation", "ConcordanceCorrelation",
}  # fmt: skip
_LOWER = {
    "FalsePositives", "FalseNegatives", "MeanSquaredError", "RootMeanSquaredError",
    "MeanAbsoluteError", "MeanAbsolutePercentageError", "MeanSquaredLogarithmicError",
    "LogCoshError", "BinaryCrossentropy", "CategoricalCrossentropy",
    "SparseCategoricalCrossentropy", "KLDivergence", "Poisson", "Hinge", "SquaredHinge",
    "CategoricalHinge",
}  # fmt: skip
# Names that Keras resolves by the loss and the shapes.
_SHORT: dict[Any, Better] = {
    "accuracy": "higher",
    "acc": "higher",
    "crossentropy": "lower",
    "ce": "lower",
}


def direction_of(name: str, model: Any) -> Better | None:
    """Which values of a metric are better; `None` where nothing says so."""
    if name == "loss" or name in {f"{output}_loss" for output in _outputs(model)}:
        return "lower"
    for metric in _metrics(model):
        named = _names(metric)
        if name in named or name in {f"{o}_{each}" for o in _outputs(model) for each in named}:
            return _direction(metric)
    return None


def _outputs(model: Any) -> list[str]:
    return list(getattr(model, "output_names", None) or [])


def _metrics(model: Any) -> list[Any]:
    """What the model is compiled with, each as what it stands for."""
    found = [compiled_with(model, argument) for argument in ("metrics", "weighted_metrics")]
    return [metric for metric in keras.tree.flatten(found) if metric is not None]


def _object(metric: Any) -> Any:
    return keras.metrics.get(metric) if isinstance(metric, str) else metric


def _names(metric: Any) -> set[str]:
    """What its numbers may be called."""
    found = _object(metric) if metric not in _SHORT else None
    names = [metric, getattr(found, "name", None), getattr(found, "__name__", None)]
    return {name for name in names if isinstance(name, str)}


def _direction(metric: Any) -> Better | None:
    if isinstance(metric, str) and metric in _SHORT:
        return _SHORT[metric]
    found = _object(metric)
    names = [c.__name__ for c in type(found).__mro__ if c.__module__.startswith("keras.")]
    if getattr(found, "__module__", "").startswith("keras.") and hasattr(found, "__name__"):
        names = ["".join(part.capitalize() for part in found.__name__.split("_"))]
    for each in names:
        if each in _HIGHER | _LOWER:
            return "higher" if each in _HIGHER else "lower"
    return None
