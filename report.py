"""Look at what a run did: its curves, its responses, and the table of all stages.

    python report.py curves out/tiny/rl              curves.png: reward, length, entropies, gradient norm, ...
    python report.py curves out/a out/b              the same panels, one colour a run
    python report.py page out/tiny/rl                rollouts.html: responses, tokens coloured by entropy
    python report.py table out/tiny                  the stages' scores -> results.json and results.png
    python report.py seeds out/tiny out/tiny-seed1   mean and spread of several tables

Everything here reads files that the other scripts left (metrics.jsonl, rollouts.jsonl, eval/scores.json). No
model is needed, and it works while the run is still going.
"""
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import tyro

matplotlib.use("Agg")  # draw into files; no screen needed
import matplotlib.pyplot as plt

from machinery.files import Refused, checked, main, read_json, read_jsonl, write_text, writing
from machinery.page import write_page
from signals import CRITICAL_WORDS, critical_tokens

STAGES = {"base": "base", "cold_start": "cold start", "rl": "after RL", "connector": "after connector tuning"}
# Okabe and Ito's colours: colour-blind readers tell them apart
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
PANELS = {  # title: metrics drawn in it; a panel whose metrics the run never wrote is left out
    "reward": ["reward"],
    "accuracy and format": ["accuracy", "format"],
    "response length (tokens)": ["length"],
    "entropy of all tokens (nats)": ["entropy"],
    "entropy of critical tokens (nats)": ["critical_entropy"],
    "share of tokens with high entropy": ["entropy_high"],
    "gradient norm": ["grad_norm"],
    "loss": ["loss", "val_loss"],
    "learning rate": ["lr"],
}
NUMBER = (int, float)
ROLLOUT = {"step": int, "id": str, "question": str, "text": str, "images": list}  # what the page cannot lack
plt.rcParams.update({
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.alpha": 0.25, "font.size": 10, "axes.titlesize": 11, "axes.titlelocation": "left",
    "legend.frameon": False, "savefig.dpi": 150})


@dataclass
class Curves:
    """Draw the curves of one run, or of several in one figure."""
    runs: tyro.conf.Positional[tuple[str, ...]]  # run folders (they hold metrics.jsonl)
    out: str = ""                                # PNG to write; default: curves.png in the (first) run folder


@dataclass
class Page:
    """Write a run's sampled responses as one HTML page that needs nothing else."""
    run: tyro.conf.Positional[str]   # run folder (it holds rollouts.jsonl)
    out: str = ""                    # HTML file to write; default: rollouts.html in the run folder
    most: int = 300                  # at most so many responses, evenly spread over the run
    image_size: int = 512            # images larger than this are made smaller (pixels, longer side)
    words: tuple[str, ...] = tuple(CRITICAL_WORDS)  # words to underline


@dataclass
class Table:
    """Gather the stages' evaluation scores into one table, results.json and results.png."""
    folder: tyro.conf.Positional[str] = "out/tiny"  # holds base/, rl/, ..., each with eval/scores.json
    maths: str = "Math"  # the subject that RL trains on; all others make up "others"


@dataclass
class Seeds:
    """Mean and spread of several runs of the whole recipe."""
    folders: tyro.conf.Positional[tuple[str, ...]]  # folders in which `report.py table` left results.json


# ------------------------------------------------------------------------------------------------- curves

def read_metrics(run):
    """{metric: (steps, values)} of a run, as arrays."""
    by_step = {row["step"]: row for row in read_jsonl(Path(run) / "metrics.jsonl", {"step": int})}
    if not by_step:
        raise Refused(f"{run}/metrics.jsonl is not there or holds no step yet: "
                      f"name the folder of a run, wait for its first step")
    series = {}
    for step in sorted(by_step):
        for key, value in by_step[step].items():
            if isinstance(value, (int, float)) and math.isfinite(value):  # None, NaN: nothing was measured
                steps, values = series.setdefault(key, ([], []))
                steps.append(step)
                values.append(value)
    return {key: (np.array(steps), np.array(values, float)) for key, (steps, values) in series.items()}


def smooth(values, half):
    """Mean over up to `half` neighbours on either side: those that exist, near the ends."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    i = np.arange(len(values))
    first, last = np.maximum(i - half, 0), np.minimum(i + half + 1, len(values))
    return (total[last] - total[first]) / (last - first)


def panels_of(runs):
    """{title: metrics}: what there is to draw of these runs."""
    written = set().union(*runs)
    panels = {title: [key for key in keys if key in written] for title, keys in PANELS.items()}
    if "reward" in written:  # in GRPO the loss is near zero by construction and says nothing
        del panels["loss"], panels["learning rate"]
    return {title: keys for title, keys in panels.items() if keys}


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


def curves(cfg):
    if not cfg.runs:
        raise Refused("name a run folder: python report.py curves out/tiny/rl")
    runs = [read_metrics(run) for run in cfg.runs]
    panels = panels_of(runs)
    if not panels:
        raise Refused(f"{cfg.runs[0]}/metrics.jsonl holds nothing that is drawn here (reward, loss, ...)")
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
        figure.legend(lines, cfg.runs, loc="outside upper left", ncols=3)
    else:
        figure.suptitle(str(cfg.runs[0]), x=0.01, ha="left", fontsize=11, color="0.35")
    out = Path(cfg.out or Path(cfg.runs[0]) / "curves.png")
    save_figure(figure, out)
    last = max(int(steps[-1]) for run in runs for steps, _ in run.values())
    print(f"{out}: {', '.join(panels)}; up to step {last}")


def save_figure(figure, path):
    with writing(path):
        figure.savefig(f"{path}.part", format="png")
        os.replace(f"{path}.part", path)  # nobody ever finds half a picture
    plt.close(figure)


# ------------------------------------------------------------------------------------------------- page

def marked_tokens(tokens, words):
    """Indices of the tokens that write a critical word (every token that holds one of its letters)."""
    marked = set()
    for first, last, _ in critical_tokens(tokens, words):
        marked.update(i for i in range(first, last + 1) if tokens[i])
    return sorted(marked)


def page_row(cfg, row):
    """A row of rollouts.jsonl -> what the page shows of it."""
    tokens = row.get("tokens") or [row["text"]]
    entropy = row.get("entropy") or [0.0] * len(tokens)
    if [type(t) for t in tokens] != [str] * len(entropy) or not all(isinstance(e, NUMBER) for e in entropy):
        raise Refused(f"{cfg.run}/rollouts.jsonl step {row['step']} ({row['id']}): {len(tokens)} tokens but "
                      f"{len(entropy)} entropies, or one is no text or number. Delete that line.")
    same = ("step", "id", "question", "images", "reward", "accuracy", "format", "finish", "advantage")
    return {**{key: row.get(key) for key in same},
            "options": row.get("options") or [], "gold": str(row.get("gold")), "tokens": tokens,
            "entropy": [round(e, 3) if math.isfinite(e) else None for e in entropy],
            "critical": marked_tokens(tokens, cfg.words)}


def page(cfg):
    rows = read_jsonl(Path(cfg.run) / "rollouts.jsonl", ROLLOUT)
    if not rows:
        raise Refused(f"{cfg.run}/rollouts.jsonl is not there or empty: "
                      f"name the folder of a GRPO run, wait for its first step")
    # evenly over the run
    chosen = np.linspace(0, len(rows) - 1, min(cfg.most, len(rows))).round().astype(int)
    shown = [page_row(cfg, rows[i]) for i in chosen]
    out = Path(cfg.out or Path(cfg.run) / "rollouts.html")
    images = write_page(out, str(cfg.run), shown, len(rows), cfg.image_size)
    lost = sum(v is None for v in images.values())
    print(f"{out}: {len(shown)} of {len(rows)} responses, {len(images) - lost} images"
          + (f"; {lost} images could not be read" if lost else ""))


# ------------------------------------------------------------------------------------------------- table

def read_scores(path):
    """scores.json of an evaluation."""
    again = "Evaluate that stage again."
    scores = read_json(path, {"subjects": dict}, again)
    for name, s in scores["subjects"].items():
        checked(s, f"{path}, {name}", {"n": int, "rule": NUMBER, "rule_se": (*NUMBER, type(None))}, again)
    return checked(scores, path, {"length": (*NUMBER, type(None))}, again)


def stage_result(scores, maths="Math"):
    """One stage's line of results.json from its scores.json. `others` is the mean over the other subjects."""
    by_subject = dict(sorted(scores["subjects"].items()))
    accuracy, error = {name: s["rule"] for name, s in by_subject.items()}, {}
    for name, s in by_subject.items():  # as the evaluation measured it, otherwise that of a share
        error[name] = s.get("rule_se")
        if error[name] is None:
            error[name] = math.sqrt(max(0.0, s["rule"] * (1 - s["rule"])) / max(1, s["n"]))
    rest = [name for name in accuracy if name != maths]
    return {"maths": accuracy.get(maths), "maths_se": error.get(maths),
            "others": sum(accuracy[n] for n in rest) / len(rest) if rest else None,
            "others_se": math.sqrt(sum(error[n] ** 2 for n in rest)) / len(rest) if rest else None,
            "subjects": accuracy, "subjects_se": error,
            "n": {name: s["n"] for name, s in by_subject.items()}, "length": scores.get("length")}


def percent(value, error=None, sign=""):
    if value is None:
        return "-"
    return f"{100 * value:{sign}.1f}" + (f" ± {100 * error:.1f}" if error is not None else "")


def gain(results, one, two, key):
    """(difference, its standard error) between two stages, or (None, None).

    The error is that of two independent samples of questions. Both stages answer the same questions, so it is
    rather too large than too small.
    """
    a, b = results.get(one, {}).get(key), results.get(two, {}).get(key)
    if a is None or b is None:
        return None, None
    return b - a, math.hypot(results[one].get(key + "_se") or 0, results[two].get(key + "_se") or 0)


def stage_line(stage, r):
    length = "-" if r["length"] is None else f"{r['length']:.1f}"
    return [STAGES[stage], percent(r["maths"], r["maths_se"]), percent(r["others"], r["others_se"]), length]


def print_table(header, rows):
    """Aligned, and at the same time a table that can be pasted into a README."""
    widths = [max(len(str(line[i])) for line in [header, *rows]) for i in range(len(header))]
    lines = []
    for first, *cells in (header, *rows):
        padded = [str(first).ljust(widths[0]), *(str(c).rjust(w) for c, w in zip(cells, widths[1:]))]
        lines.append(f"| {' | '.join(padded)} |")
    # the rule below the header; its colons align the columns to the right
    rule = ["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])]
    lines.insert(1, f"|{'|'.join(rule)}|")
    print("\n".join(lines) + "\n")


def table(cfg):
    folder, results = Path(cfg.folder), {}
    for stage in STAGES:
        path = folder / stage / "eval" / "scores.json"
        if path.is_file():
            results[stage] = stage_result(read_scores(path), cfg.maths)
        else:
            print(f"{STAGES[stage]}: no scores at {path} yet")
    if not results:
        raise Refused(f"no stage under {folder} has been evaluated: run `python eval_mmmu.py "
                      f"--model {folder}/rl --out {folder}/rl/eval` for each stage first")
    print_table(["", "maths %", "others %", "length"], [stage_line(s, r) for s, r in results.items()])
    lines = []
    for one, two in zip(results, list(results)[1:]):
        gains = (percent(*gain(results, one, two, key), sign="+") for key in ("maths", "others"))
        lines.append([f"{STAGES[two]} - {STAGES[one]}", *gains])
    if lines:
        print_table(["points gained", "maths", "others"], lines)
    names = sorted({n for r in results.values() for n in r["subjects"]}, key=lambda n: (n != cfg.maths, n))
    lines = []
    for n in names:
        cells = (percent(r["subjects"].get(n), r["subjects_se"].get(n)) for r in results.values())
        lines.append([n.replace("_", " "), *cells])
    print_table(["subject %", *(STAGES[s] for s in results)], lines)
    write_text(folder / "results.json", json.dumps(results, indent=1) + "\n")
    draw_results(results, names, cfg.maths, folder / "results.png")
    print(f"± is one standard error. Written: {folder}/results.json, {folder}/results.png")


def draw_results(results, names, maths, path):
    """Left: maths and the others at each stage. Middle: every subject. Right: how long the answers are."""
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
    ticks = [STAGES[s].replace(" ", "\n") for s in results]
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


# ------------------------------------------------------------------------------------------------- seeds

def spread(values, scale=100, sign=""):
    """ "mean ± standard deviation (smallest to largest)" """
    if any(v is None for v in values):
        return "-"
    v = scale * np.array(values)
    text = f"{v.mean():{sign}.1f}"
    if len(v) > 1:
        text += f" ± {v.std(ddof=1):.1f} ({v.min():{sign}.1f} to {v.max():{sign}.1f})"
    return text


def seeds(cfg):
    if not cfg.folders:
        raise Refused("name the folders: python report.py seeds out/tiny out/tiny-seed1 out/tiny-seed2")
    tables = []
    for folder in cfg.folders:
        again = f"Run `python report.py table {folder}` first."
        results = read_json(f"{folder}/results.json", remedy=again)
        fields = {key: (*NUMBER, type(None)) for key in ("maths", "others", "length")}
        tables.append({s: checked(r, f"{folder}/results.json", fields, again) for s, r in results.items()})
    stages = [s for s in STAGES if all(s in t for t in tables)]
    columns = {"maths": 100, "others": 100, "length": 1}  # key: scale
    lines = []
    for s in stages:
        cells = (spread([t[s].get(k) for t in tables], scale) for k, scale in columns.items())
        lines.append([STAGES[s], *cells])
    print_table(["", "maths %", "others %", "length"], lines)
    lines = []
    for one, two in zip(stages, stages[1:]):  # the gain is taken run by run
        gains = ([gain(t, one, two, key)[0] for t in tables] for key in ("maths", "others"))
        lines.append([f"{STAGES[two]} - {STAGES[one]}", *(spread(values, sign="+") for values in gains)])
    print_table(["points gained", "maths", "others"], lines)
    print(f"{len(tables)} runs of the recipe: mean ± standard deviation over them (smallest to largest)")


def report(cfg):
    {Curves: curves, Page: page, Table: table, Seeds: seeds}[type(cfg)](cfg)


if __name__ == "__main__":
    main(report, Curves | Page | Table | Seeds)
