"""The figures that report.py writes: curves of runs, and the stages' scores. No torch."""
import math
import os

import matplotlib
import numpy as np

matplotlib.use("Agg")  # draw into files; no screen needed
import matplotlib.pyplot as plt

from machinery.files import writing

# Okabe and Ito's colours: colour-blind readers tell them apart
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
plt.rcParams.update({
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.alpha": 0.25, "font.size": 10, "axes.titlesize": 11, "axes.titlelocation": "left",
    "legend.frameon": False, "savefig.dpi": 150})


def save_figure(figure, path):
    with writing(path):
        figure.savefig(f"{path}.part", format="png")
        os.replace(f"{path}.part", path)  # nobody ever finds half a picture
    plt.close(figure)


def smooth(values, half):
    """Mean over up to `half` neighbours on either side: those that exist, near the ends."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    i = np.arange(len(values))
    first, last = np.maximum(i - half, 0), np.minimum(i + half + 1, len(values))
    return (total[last] - total[first]) / (last - first)


def draw_curves(runs, names, panels):
    """A figure with a panel for each of {title: metrics}. runs: as report.read_metrics gives them."""
    columns = min(4 if len(panels) > 6 else 3, len(panels))
    rows = math.ceil(len(panels) / columns)
    size = (4.2 * columns, 2.9 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for i, (ax, (title, keys)) in enumerate(zip(axes.flat, panels.items())):
        draw_panel(ax, title, keys, runs)
        if i + columns >= len(panels):  # there is no panel below
            ax.set_xlabel("step")
    for ax in axes.flat[len(panels):]:
        ax.set_visible(False)
    if len(runs) > 1:
        lines = [plt.Line2D([], [], color=COLOURS[r % 6], lw=2) for r in range(len(runs))]
        figure.legend(lines, names, loc="outside upper left", ncols=3)
    else:
        figure.suptitle(str(names[0]), x=0.01, ha="left", fontsize=11, color="0.35")
    return figure


def draw_panel(ax, title, keys, runs):
    """One run: a colour a metric. Several runs: a colour a run, and the panel's second metric is dashed."""
    alone = len(runs) == 1
    for r, run in enumerate(runs):
        for k, key in enumerate(keys):
            if key not in run:
                continue
            steps, values = run[key]
            colour, dash = COLOURS[k if alone else r % 6], "--" if k and not alone else "-"
            half = len(values) // 40
            if half:  # the raw line stays, faint
                ax.plot(steps, values, dash, color=colour, alpha=0.25, lw=0.8)
            marker = "" if len(steps) > 2 else "o"
            ax.plot(steps, smooth(values, half), dash, color=colour, lw=1.8, marker=marker, ms=4)
            if len(keys) > 1 and r == 0:
                label = key.replace("val_loss", "validation loss")
                ax.plot([], [], dash, color=colour if alone else "0.3", lw=1.8, label=label)
    ax.set_title(title)
    if len(keys) > 1:
        ax.legend(loc="best", fontsize=9)


def draw_results(results, names, maths, path):
    """Left: maths and the others at each stage. Middle: every subject. Right: how long the answers are.

    results: {label of a stage: its line of results.json}
    """
    widths = [1.25, 1.45, 0.8]
    figure, axes = plt.subplots(1, 3, figsize=(12.6, 4.0), width_ratios=widths, layout="constrained")
    left, middle, right = axes
    draw_stages(left, results)
    draw_subjects(middle, results, names, maths)
    lengths = [r["length"] if r["length"] is not None else math.nan for r in results.values()]
    right.plot(range(len(lengths)), lengths, "o-", color="0.25")
    right.set_title("response length, tokens")
    right.set_ylim(0, 1.1 * right.get_ylim()[1])
    right.margins(x=0.15)
    ticks = [label.replace(" ", "\n") for label in results]
    for ax in axes:
        ax.set_xticks(range(len(ticks)), ticks, fontsize=9)
        ax.grid(axis="x", visible=False)
    save_figure(figure, path)


def draw_stages(ax, results):
    x = np.arange(len(results))
    labels = {"maths": "maths (trained by RL)", "others": "other subjects (mean)"}
    for k, (key, label) in enumerate(labels.items()):
        values = [100 * (r[key] or 0) for r in results.values()]
        errors = [196 * (r[key + "_se"] or 0) for r in results.values()]  # 1.96 standard errors
        bars = ax.bar(x + 0.4 * k - 0.2, values, 0.38, color=COLOURS[k], label=label, yerr=errors,
                      error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "0.25"})
        ax.bar_label(bars, [f"{v:.0f}" for v in values], padding=2, fontsize=9)
    ax.set_title("accuracy, % (bars: 95% interval)")
    ax.set_ylim(0, 118)
    ax.set_yticks(range(0, 101, 20))
    ax.legend(fontsize=9, loc="upper left", ncols=2, columnspacing=1, handlelength=1.2)


def draw_subjects(ax, results, names, maths):
    """A line a subject, with its name at the right end."""
    ends = []  # (height, name, colour) of the right end of each line
    others = ["#d55e00", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "0.5"]
    for k, name in enumerate(names):
        values = [100 * r["subjects"].get(name, math.nan) for r in results.values()]
        colour, width = (COLOURS[0], 2.4) if name == maths else (others[k % 6], 1.5)
        ax.plot(range(len(values)), values, "o-", color=colour, lw=width, ms=4)
        if math.isfinite(values[-1]):
            ends.append((values[-1], name.split("_and_")[0].replace("_", " "), colour))
    ends = sorted(ends)[:12]  # of MMMU's thirty subjects the labels would be a wall
    low, high = ax.get_ylim()
    heights, gap = [], (high - low) / 17
    for height, _, _ in ends:  # labels keep a line's distance
        heights.append(max(height, heights[-1] + gap) if heights else height)
    down = max(0.0, heights[-1] - high) if ends else 0.0
    for height, (_, name, colour) in zip(heights, ends):
        ax.annotate(name, (len(results) - 1, height - down), xytext=(8, 0), textcoords="offset points",
                    va="center", fontsize=9, color=colour)
    ax.set_title("accuracy by subject, %")
    ax.margins(x=0.08)
