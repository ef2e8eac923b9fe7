"""The figures that report.py writes: curves of runs, and the stages' scores. No torch."""
import math
import os

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

# Okabe and Ito's colours: colour-blind readers tell them apart
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31"]

matplotlib.use("Agg")  # it draws into files, no screen is needed
plt.rcParams.update({
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.alpha": 0.25, "font.size": 10, "axes.titlesize": 11, "axes.titlelocation": "left",
    "legend.frameon": False, "savefig.dpi": 150})


def save_figure(figure, path):
    figure.savefig(f"{path}.part", format="png")
    os.replace(f"{path}.part", path)  # nobody ever finds half a picture
    plt.close(figure)


# ------------------------------------------------------------------------------------------------- curves

def smooth(values, half):
    """Mean over up to `half` neighbours on either side: those that exist, near the ends."""
    window = np.ones(2 * half + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def draw_curves(runs, names, panels):
    """A figure with a panel for each of {title: metrics}. runs: as report.read_metrics gives them. One run: a
    colour a metric. Several runs: a colour a run, and the panel's second metric is dashed."""
    alone, columns = len(runs) == 1, min(4 if len(panels) > 6 else 3, len(panels))
    rows = math.ceil(len(panels) / columns)
    size = (4.2 * columns, 2.9 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat[len(panels):]:
        ax.set_visible(False)
    for ax, (title, keys) in zip(axes.flat, panels.items()):
        ax.set(title=title, xlabel="step")
        for k, key in enumerate(keys):
            for r, (steps, values) in ((r, run[key]) for r, run in enumerate(runs) if key in run):
                colour, dash = COLOURS[(k if alone else r) % 8], "--" if k and not alone else "-"
                half = len(values) // 40 if key != "lr" else 0  # what has no noise is drawn as it is
                if half:  # the raw line stays, faint
                    ax.plot(steps, values, dash, color=colour, alpha=0.25, lw=0.8)
                marker = "" if len(steps) > 2 else "o"
                ax.plot(steps, smooth(values, half), dash, color=colour, lw=1.8, marker=marker, ms=4)
            if len(keys) > 1:
                ax.plot([], [], dash, color=colour if alone else "0.3", lw=1.8, label=key)
                ax.legend(loc="best", fontsize=9)
    lines = [plt.Line2D([], [], color="0.35" if alone else COLOURS[r % 8], lw=2) for r in range(len(runs))]
    figure.legend(lines, names, loc="outside upper left")
    return figure


# ------------------------------------------------------------------------------------------------- results

def draw_results(results, names, path):
    """Left: maths and the others at each stage. Middle: every subject. Right: how long the answers are.
    results: {label of a stage: its line of results.json}; names: subjects, maths first"""
    figure, axes = plt.subplots(1, 3, figsize=(12.6, 4.0), width_ratios=[1.25, 1.45, 0.8],
                                layout="constrained")
    left, middle, right = axes
    x = np.arange(len(results))
    # points with their intervals: bars would have to begin at 0, and the differences would be small
    for k, (key, label) in enumerate({"maths": "maths (trained by RL)", "others": "other subjects"}.items()):
        values = 100 * np.array([r[key] for r in results.values()], float)  # None becomes NaN
        errors = [196 * (r[f"{key}_se"] or 0) for r in results.values()]
        left.errorbar(x + 0.14 * k, values, errors, fmt="o-", color=COLOURS[k], label=label, ms=5, capsize=3)
        for i in np.flatnonzero(np.isfinite(values)):
            left.annotate(f"{values[i]:.0f}", (x[i] + 0.14 * k, values[i]), xytext=(10 * k - 5, 3),
                          textcoords="offset points", ha=("right", "left")[k], fontsize=9, color=COLOURS[k])
    left.set_title("accuracy, % (with 95% interval)")
    for k, name in enumerate(names):
        values = [100 * r["subjects"].get(name, math.nan) for r in results.values()]
        middle.plot(x, values, "o-", color=COLOURS[k % 8], lw=1.2 if k else 2.4, ms=4,
                    label=name.replace("_", " ") if len(names) <= 12 else None)
    middle.set_title("accuracy by subject, %")
    right.plot(x, np.array([r["length"] for r in results.values()], float), "o-", color="0.25")
    right.set_title("response length, tokens")
    for ax in axes:
        ax.margins(x=0.15, y=0.2)
        ax.set_xticks(x, [label.replace(" ", "\n") for label in results], fontsize=9)
        ax.grid(axis="x", visible=False)
    for ax in (left, middle) if len(names) <= 12 else (left,):
        ax.legend(fontsize=8, loc="best")
    save_figure(figure, path)
