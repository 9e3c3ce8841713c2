"""Means over batches, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# The 97.5 % quantiles of the normal distribution, and of Student's t by degrees of freedom.
_NORMAL = 1.959964
_QUANTILES = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


class Estimate(NamedTuple):
    """A mean with its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def estimate(values: Sequence[float], weights: Sequence[float]) -> Estimate:
    """The weighted mean of what each batch says, and Student's interval for it.

    Args:
        values: One number a batch.
        weights: How much each batch counts, such as its number of samples.

    Example:

    >>> estimate([1.0, 3.0], [1, 1])
    Estimate(mean=2.0, low=-10.706, high=14.706)
    """
    found = np.asarray(values, "float64")
    share = np.asarray(weights, "float64")
    share = share / share.sum() if share.sum() else np.full(len(found), 1 / max(len(found), 1))
    mean = float(share @ found)
    count = int((share > 0).sum())
    if count < 2:
        return Estimate(mean, float("nan"), float("nan"))
    error = float(np.sqrt(count / (count - 1) * (share**2 @ (found - mean) ** 2)))
    half = error * _quantile(count - 1)
    return Estimate(mean, mean - half, mean + half)


def _quantile(freedom: int) -> float:
    """Student's 97.5 % quantile; of many degrees of freedom by the first terms of a series.

    >>> round(_quantile(10), 3), round(_quantile(40), 3), round(_quantile(10**6), 3)
    (2.228, 2.021, 1.96)
    """
    if freedom <= len(_QUANTILES):
        return _QUANTILES[freedom - 1]
    z = _NORMAL
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def cosines(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Cosines of the angles between vectors along the last axis; of two zeros, 1.

    Example:

    >>> cosines(np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[1.0, 1.0], [0.0, 0.0]])).round(3)
    array([0.707, 1.   ])
    """
    products = (ones * others).sum(axis=-1)
    lengths = np.linalg.norm(ones, axis=-1) * np.linalg.norm(others, axis=-1)
    same = (ones == others).all(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(lengths > 0, products / lengths, same.astype("float64"))


def unbiased_hsic(ones: np.ndarray, others: np.ndarray) -> float:
    """The unbiased estimate of the Hilbert-Schmidt independence criterion.

    Song et al., "Feature selection via dependence maximization", 2012, as minibatches use it in
    Nguyen, Raghu and Kornblith, "Do wide and deep networks learn the same things?", 2021.

    Args:
        ones: Inner products of samples with each other, of shape (samples, samples), 4 or more.
        others: Those of other representations of the same samples.
    """
    count = len(ones)
    k, m = ones - np.diag(np.diag(ones)), others - np.diag(np.diag(others))
    trace = (k * m).sum()
    sums = k.sum() * m.sum() / ((count - 1) * (count - 2))
    cross = 2 * (k.sum(axis=0) @ m.sum(axis=0)) / (count - 2)
    return float((trace + sums - cross) / (count * (count - 3)))
