"""Means with their errors, and correlations. No torch.

An error here is always a standard error; None where one value does not tell it.
"""
import math

import numpy as np
from scipy.stats import rankdata


def mean_and_error(values):
    """(mean, its standard error)."""
    values = np.asarray(list(values), float)
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return float(values.mean()), error


def pooled(means, errors):
    """(mean of independent means, its standard error); (None, None) of none."""
    if not means:
        return None, None
    return sum(means) / len(means), None if None in errors else math.hypot(*errors) / len(means)


def pearson(x, y):
    """Correlation of two lists; None with fewer than three points or when one of them does not vary."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum()))


def spearman(x, y):
    """Rank correlation, ties averaged; None where pearson is."""
    return pearson(rankdata(x), rankdata(y))
