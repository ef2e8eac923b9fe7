"""Means with their errors, intervals of 95%, correlations. Plain numpy, no torch.

An error here is always a standard error; None where one value does not tell it.
"""
import math

import numpy as np

T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)  # 1 to 10 degrees of freedom


def mean_and_error(values):
    """(mean, its standard error)."""
    values = np.asarray(list(values), float)
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else None
    return float(values.mean()), None if error is None else float(error)


def pooled(means, errors):
    """(mean of independent means, its standard error); (None, None) of none."""
    means, errors = list(means), list(errors)
    if not means:
        return None, None
    known = all(error is not None for error in errors)
    return sum(means) / len(means), math.hypot(*errors) / len(means) if known else None


def t_times(freedom):
    """How many standard errors an interval of 95% reaches to either side when the errors were measured on
    freedom + 1 values: 2.78 for five runs, 1.96 for very many."""
    if freedom <= len(T):
        return T[freedom - 1]
    z = 1.959964  # its expansion for many degrees of freedom
    terms = ((z ** 3 + z) / 4, (5 * z ** 5 + 16 * z ** 3 + 3 * z) / 96,
             (3 * z ** 7 + 19 * z ** 5 + 17 * z ** 3 - 15 * z) / 384)
    return z + sum(term / freedom ** power for power, term in enumerate(terms, 1))


def pearson(x, y):
    """Correlation of two lists; None with fewer than three points or when one of them does not vary."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum()))


def ranks(values):
    """1 for the smallest; equal values share the mean of their ranks."""
    values = np.asarray(values, float)
    return np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])


def spearman(x, y):
    """Rank correlation, ties averaged; None where pearson is."""
    return pearson(ranks(x), ranks(y))
