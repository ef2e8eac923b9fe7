"""Means with their standard errors, correlations, and tables of both on the terminal. No torch."""
import math

import numpy as np


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
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def spearman(x, y):
    """Rank correlation, ties averaged; None where pearson is."""
    from scipy.stats import rankdata  # takes a second
    return pearson(rankdata(x), rankdata(y))


def print_table(header, rows):
    """Aligned, and at the same time a table that can be pasted into a README."""
    print("\n".join(table_lines(header, rows)) + "\n")


def table_lines(header, rows):
    rows = list(rows)
    widths = [max(len(str(line[i])) for line in [header, *rows]) for i in range(len(header))]
    lines = []
    for first, *cells in (header, *rows):
        padded = [str(first).ljust(widths[0]), *(str(c).rjust(w) for c, w in zip(cells, widths[1:]))]
        lines.append(f"| {' | '.join(padded)} |")
    # the rule below the header; its colons align the columns to the right
    rule = ["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])]
    lines.insert(1, f"|{'|'.join(rule)}|")
    return lines


def percent(value, error=None, sign=""):
    if value is None:
        return "-"
    return f"{100 * value:{sign}.1f}" + (f" ± {100 * error:.1f}" if error is not None else "")


def span(value, error, times=1.96):
    """The interval around a difference, in points: "+17.2 to +22.8"."""
    if value is None or error is None:
        return "-"
    return f"{100 * (value - times * error):+.1f} to {100 * (value + times * error):+.1f}"


def points(value, error):
    """A difference in points with its interval of 95%: "+20.0 (+17.2 to +22.8)"."""
    return percent(value, sign="+") + (f" ({span(value, error)})" if error is not None else "")
