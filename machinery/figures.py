"""The figures that report.py writes: curves of runs, and the stages' scores. No torch."""
import math
import os

import matplotlib
import numpy as np


# Okabe and Ito's colours: colour-blind readers tell them apart
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31"]


def figure_style():
    """matplotlib.pyplot in the style of all figures here; it draws into files, no screen is needed."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    plt.rcParams.update({
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
        "grid.alpha": 0.25, "font.size": 10, "axes.titlesize": 11, "axes.titlelocation": "left",
        "legend.frameon": False, "savefig.dpi": 150})
    return plt


plt = figure_style()


def save_figure(figure, path):
    figure.savefig(f"{path}.part", format="png")
    os.replace(f"{path}.part", path)  # nobody ever finds half a picture
    plt.close(figure)


# ------------------------------------------------------------------------------------------------- curves

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
        lines = [plt.Line2D([], [], color=COLOURS[r % 8], lw=2) for r in range(len(runs))]
        figure.legend(lines, names, loc="outside upper left")
    else:
        figure.suptitle(str(names[0]), x=0.01, ha="left", fontsize=11, color="0.35")
    return figure


def draw_panel(ax, title, keys, runs):
    """One run: a colour a metric. Several runs: a colour a run, and the panel's second metric is dashed."""
    alone = len(runs) == 1
    for k, key in enumerate(keys):
        for r, (steps, values) in ((r, run[key]) for r, run in enumerate(runs) if key in run):
            colour, dash = COLOURS[k if alone else r % 8], "--" if k and not alone else "-"
            half = len(values) // 40 if key != "lr" else 0  # what has no noise is drawn as it is
            if half:  # the raw line stays, faint
                ax.plot(steps, values, dash, color=colour, alpha=0.25, lw=0.8)
            marker = "" if len(steps) > 2 else "o"
            ax.plot(steps, smooth(values, half), dash, color=colour, lw=1.8, marker=marker, ms=4)
        if len(keys) > 1:
            label = key.replace("val_loss", "validation loss")
            ax.plot([], [], dash, color=colour if alone else "0.3", lw=1.8, label=label)
    ax.set_title(title)
    if len(keys) > 1:
        ax.legend(loc="best", fontsize=9)


# ------------------------------------------------------------------------------------------------- results

def draw_results(results, names, maths, path):
    """Left: maths and the others at each stage. Middle: every subject. Right: how long the answers are.

    results: {label of a stage: its line of results.json}
    """
    widths = [1.25, 1.45, 0.8]
    figure, axes = plt.subplots(1, 3, figsize=(12.6, 4.0), width_ratios=widths, layout="constrained")
    left, middle, right = axes
    draw_stages(left, results)
    draw_subjects(middle, results, names, maths)
    lengths = np.array([r["length"] for r in results.values()], float)  # None becomes NaN
    right.plot(range(len(lengths)), lengths, "o-", color="0.25")
    right.set_title("response length, tokens")
    right.margins(x=0.15, y=0.15)
    ticks = [label.replace(" ", "\n") for label in results]
    for ax in axes:
        ax.set_xticks(range(len(ticks)), ticks, fontsize=9)
        ax.grid(axis="x", visible=False)
    save_figure(figure, path)


def draw_stages(ax, results):
    """Points with their intervals. Bars would have to begin at 0, and the differences would be small."""
    keys = {"maths": "maths (trained by RL)", "others": "other subjects (mean)"}
    values = 100 * np.array([[r[key] for r in results.values()] for key in keys], float)  # None becomes NaN
    errors = np.array([[196 * (r[f"{key}_se"] or 0) for r in results.values()] for key in keys])
    top, bottom = np.nanmax(values + errors, 0), np.nanmin(values - errors, 0)  # of a stage's intervals
    for k, label in enumerate(keys.values()):
        x = np.arange(len(results)) + 0.14 * k - 0.07
        ax.errorbar(x, values[k], errors[k], fmt="o-", color=COLOURS[k], label=label, ms=5, lw=1.5,
                    elinewidth=1.2, capsize=3)
        for i in np.flatnonzero(np.isfinite(values[k])):  # the higher number above both intervals
            above = (values[k, i], -k) > (values[1 - k, i], k - 1)
            ax.annotate(f"{values[k, i]:.0f}", (x[i], (top if above else bottom)[i]),
                        xytext=(0, 4 if above else -4), textcoords="offset points", ha="center",
                        va="bottom" if above else "top", fontsize=9, color=COLOURS[k])
    ax.set_title("accuracy, % (with 95% interval)")
    low, high = ax.get_ylim()
    ax.set_ylim(low - 0.06 * (high - low), high + 0.2 * (high - low))  # room for numbers and legend
    ax.set_xlim(-0.5, len(results) - 0.5)
    ax.legend(fontsize=9, loc="upper left", ncols=2, columnspacing=1, handlelength=1.2)


def draw_subjects(ax, results, names, maths):
    """A line a subject, with its name at the right end; of many subjects (MMMU has thirty) the six lowest and
    highest are named."""
    ends = []  # (height, name, colour) of the right end of each line
    others = ["#d55e00", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "0.5"]
    for k, name in enumerate(names):
        values = [100 * r["subjects"].get(name, math.nan) for r in results.values()]
        colour, width = (COLOURS[0], 2.4) if name == maths else (others[k % 6], 1.5)
        ax.plot(range(len(values)), values, "o-", color=colour, lw=width, ms=4)
        if math.isfinite(values[-1]):
            ends.append((values[-1], name.split("_and_")[0].replace("_", " "), colour))
    ends.sort()
    ends = ends if len(ends) <= 14 else ends[:6] + ends[-6:]
    low, high = ax.get_ylim()
    ax.set_ylim(low, high)
    heights = apart([height for height, _, _ in ends], (high - low) / 17, low, high)
    for at, (height, name, colour) in zip(heights, ends):
        ax.annotate(name, (len(results) - 1, height), xytext=(20, at), textcoords=("offset points", "data"),
                    va="center", fontsize=9, color=colour, annotation_clip=False,
                    arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.7, "relpos": (0, 0.5),
                                "shrinkA": 0, "shrinkB": 2})
    ax.set_title("accuracy by subject, %")
    ax.margins(x=0.08)


def apart(heights, gap, low, high):
    """Heights of labels (sorted) moved as little as possible, so that they are `gap` apart and stay between
    low and high. Neighbours that are too close become a block around their mean."""
    blocks = []  # (mean, labels): a label's height less the gaps of those below it
    for i, height in enumerate(heights):
        blocks.append((height - i * gap, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, m), (b, n) = blocks[-2:]
            blocks[-2:] = [((m * a + n * b) / (m + n), m + n)]
    means = np.repeat([mean for mean, _ in blocks], np.array([n for _, n in blocks], int))
    return np.clip(means, low, high - gap * (len(heights) - 1)) + gap * np.arange(len(heights))
