"""What `report.py compare` says of several runs: in which flags they differ, and how each metric went."""
from pathlib import Path

import numpy as np

from machinery.files import read_json

BETTER = {"reward": np.argmax, "accuracy": np.argmax, "format": np.argmax, "loss": np.argmin,
          "val_loss": np.argmin}  # of the other metrics neither end is the better one
SHOWN = 3  # flags in a run's line of the legend


def read_flags(run):
    return read_json(Path(run) / "config.json", {"config": dict}, "The run's flags stand in it.")["config"]


def differing_flags(flags):
    """{flag: its value in each run} of the flags in which the runs differ, but --out. flags: {flag: value} of
    each run; "-" where the run's version of the code did not have that flag."""
    names = dict.fromkeys(name for of_run in flags for name in of_run)
    values = {name: [of_run.get(name, "-") for of_run in flags] for name in names if name != "out"}
    return {name: [written(v) for v in row] for name, row in values.items() if any(v != row[0] for v in row)}


def written(value):
    """A flag's value as one would write it on the command line"""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def label(run, differing, i):
    """Run i's line of the legend: out/a: lr 1e-05, seed 1"""
    parts = [f"{name} {values[i]}" for name, values in differing.items() if values[i] != "-"]
    more = [f"{len(parts) - SHOWN} more"] if len(parts) > SHOWN else []
    return run + (": " + ", ".join(parts[:SHOWN] + more) if parts else "")


def course(metric, steps, values):
    """Cells of a metric's line: last, best (or the range, where none is better), mean of the last tenth."""
    if metric in BETTER:
        i = BETTER[metric](values)
        best = f"{values[i]:.4g} (step {steps[i]})"
    else:
        best = f"{values.min():.4g} to {values.max():.4g}"
    return [f"{values[-1]:.4g} (step {steps[-1]})", best, f"{values[-max(1, len(values) // 10):].mean():.4g}"]
