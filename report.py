"""Look at what a run did: its curves, its responses, and the table of all stages.

    python report.py curves out/tiny/rl              curves.png: reward, accuracy, format, length, entropies, gradient norm
    python report.py curves out/a out/b              the same panels, one colour a run
    python report.py page out/tiny/rl                rollouts.html: responses, tokens coloured by entropy; one file, no network
    python report.py table out/tiny                  the stages' scores -> results.json and results.png
    python report.py seeds out/tiny out/tiny-seed1   mean and spread of several tables

Everything here reads files that the other scripts left (metrics.jsonl, rollouts.jsonl, eval/scores.json). No model is
needed, and it works while the run is still going.
"""
import base64
import io
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

from common import Refused, main, read_jsonl, write_text
from signals import CRITICAL_WORDS, critical_spans

STAGES = {"base": "base", "cold_start": "cold start", "rl": "after RL", "connector": "after connector tuning"}
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]  # Okabe-Ito: colour-blind readers tell them apart
PANELS = [  # title, metrics drawn in it; a panel whose metrics the run never wrote is left out
    ("reward", ["reward"]),
    ("accuracy and format", ["accuracy", "format"]),
    ("response length (tokens)", ["length"]),
    ("entropy of all tokens (nats)", ["entropy"]),
    ("entropy of critical tokens (nats)", ["critical_entropy"]),
    ("gradient norm", ["grad_norm"]),
    ("loss", ["loss", "val_loss"]),  # supervised stages only: a GRPO loss is near zero by construction and says nothing
    ("learning rate", ["lr"]),
]
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
                     "grid.alpha": 0.25, "font.size": 10, "axes.titlesize": 11, "axes.titlelocation": "left",
                     "legend.frameon": False, "savefig.dpi": 150})


@dataclass
class Curves:
    """Draw the curves of one run, or of several in one figure."""
    runs: tyro.conf.Positional[tuple[str, ...]]   # run folders (they hold metrics.jsonl)
    out: str = ""                                 # PNG to write; default: curves.png in the (first) run folder


@dataclass
class Page:
    """Write a run's sampled responses as one HTML page that needs nothing else."""
    run: tyro.conf.Positional[str]                # run folder (it holds rollouts.jsonl)
    out: str = ""                                 # HTML file to write; default: rollouts.html in the run folder
    most: int = 300                               # at most so many responses, evenly spread over the run
    image_size: int = 512                         # images larger than this are made smaller (pixels, longer side)
    words: tuple[str, ...] = tuple(CRITICAL_WORDS)  # words to underline


@dataclass
class Table:
    """Gather the stages' evaluation scores into one table, results.json and results.png."""
    folder: tyro.conf.Positional[str] = "out/tiny"  # holds base/, cold_start/, rl/, connector/, each with eval/scores.json
    maths: str = "Math"                           # the subject that RL trains on; all others make up "others"


@dataclass
class Seeds:
    """Mean and spread of several runs of the whole recipe."""
    folders: tyro.conf.Positional[tuple[str, ...]]  # folders in which `report.py table` left results.json


# ---------------------------------------------------------------------------------------------------------------- reading
def read_metrics(run):
    """{metric: (steps, values)} of a run, as arrays."""
    by_step = {row["step"]: row for row in read_jsonl(Path(run) / "metrics.jsonl")}
    if not by_step:
        raise Refused(f"{run}/metrics.jsonl is not there or holds no step yet: name the folder of a run, wait for its first step")
    series = {}
    for step in sorted(by_step):
        for key, value in by_step[step].items():
            if isinstance(value, (int, float)) and math.isfinite(value):  # None and NaN: nothing to measure in that step
                series.setdefault(key, []).append((step, value))
    return {key: (np.array([s for s, _ in points]), np.array([v for _, v in points], float)) for key, points in series.items()}


def smooth(values, half):
    """Mean over up to `half` neighbours on either side: those that exist, near the ends."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    i = np.arange(len(values))
    first, last = np.maximum(i - half, 0), np.minimum(i + half + 1, len(values))
    return (total[last] - total[first]) / (last - first)


# ---------------------------------------------------------------------------------------------------------------- curves
def curves(cfg):
    if not cfg.runs:
        raise Refused("name a run folder: python report.py curves out/tiny/rl")
    runs = [read_metrics(run) for run in cfg.runs]
    panels = [(title, [k for k in keys if any(k in run for run in runs)]) for title, keys in PANELS]
    panels = [(title, keys) for title, keys in panels if keys]
    if any("reward" in run for run in runs):  # a GRPO run: six panels, no loss, no learning rate
        panels = [(title, keys) for title, keys in panels if title not in ("loss", "learning rate")]
    if not panels:
        raise Refused(f"{cfg.runs[0]}/metrics.jsonl holds nothing that is drawn here (reward, loss, ...)")
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 2.9 * rows), squeeze=False, layout="constrained")
    for ax, (title, keys) in zip(axes.flat, panels):
        for r, run in enumerate(runs):
            for k, key in enumerate(keys):
                if key not in run:
                    continue
                steps, values = run[key]
                # one run: a colour a metric. several runs: a colour a run, and the second metric of a panel is dashed
                colour, dash = (COLOURS[r % 6], "--" if k else "-") if len(runs) > 1 else (COLOURS[k], "-")
                half = len(values) // 40
                if half:  # the raw line stays, faint
                    ax.plot(steps, values, dash, color=colour, alpha=0.25, lw=0.8)
                ax.plot(steps, smooth(values, half), dash, color=colour, lw=1.8, marker="" if len(steps) > 2 else "o", ms=4)
                if len(keys) > 1 and r == 0:
                    label = key.replace("val_loss", "validation loss")
                    ax.plot([], [], dash, color=colour if len(runs) == 1 else "0.3", lw=1.8, label=label)
        ax.set_title(title)
        if len(keys) > 1:
            ax.legend(loc="best", fontsize=9)
    for ax in axes.flat[len(panels):]:
        ax.set_visible(False)
    for i, ax in enumerate(axes.flat[:len(panels)]):
        if i + columns >= len(panels):
            ax.set_xlabel("step")
    if len(runs) > 1:
        lines = [plt.Line2D([], [], color=COLOURS[r % 6], lw=2) for r in range(len(runs))]
        figure.legend(lines, cfg.runs, loc="outside upper left", ncols=3)
    else:
        figure.suptitle(str(cfg.runs[0]), x=0.01, ha="left", fontsize=11, color="0.35")
    out = Path(cfg.out or Path(cfg.runs[0]) / "curves.png")
    save_figure(figure, out)
    last = max(int(steps[-1]) for run in runs for steps, _ in run.values())
    print(f"{out}: {', '.join(title for title, _ in panels)}; up to step {last}")


def save_figure(figure, path):
    figure.savefig(f"{path}.part", format="png")
    os.replace(f"{path}.part", path)  # nobody ever finds half a picture
    plt.close(figure)


# ---------------------------------------------------------------------------------------------------------------- page
def inline_image(path, size):
    """An image file as a data: address; None when it cannot be read."""
    from PIL import Image
    try:
        with Image.open(path) as image:
            image = image.convert("RGB")
    except (OSError, ValueError):
        return None
    image.thumbnail((size, size))
    png, jpeg = io.BytesIO(), io.BytesIO()
    image.save(png, "PNG", optimize=True)
    image.save(jpeg, "JPEG", quality=85)
    drawing = len(png.getvalue()) < 2 * len(jpeg.getvalue())  # drawings stay PNG, photographs become JPEG
    kind, data = ("png", png) if drawing else ("jpeg", jpeg)
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"


def critical_tokens(tokens, words):
    """Indices of the tokens that write a critical word (every token that holds one of its letters)."""
    ends = np.cumsum([len(t) for t in tokens])
    marked = set()
    for start, end, _ in critical_spans("".join(tokens), words):
        first, last = np.searchsorted(ends, start, side="right"), np.searchsorted(ends, end - 1, side="right")
        marked.update(i for i in range(int(first), int(last) + 1) if tokens[i])
    return sorted(marked)


def page(cfg):
    rows = read_jsonl(Path(cfg.run) / "rollouts.jsonl")
    if not rows:
        raise Refused(f"{cfg.run}/rollouts.jsonl is not there or empty: name the folder of a GRPO run, wait for its first step")
    chosen = np.linspace(0, len(rows) - 1, min(cfg.most, len(rows))).round().astype(int)  # evenly over the run
    kept = [rows[i] for i in chosen]
    images, shown = {}, []
    for r in kept:
        for path in r["images"]:
            if path not in images:
                images[path] = inline_image(path, cfg.image_size)
        tokens = r.get("tokens") or [r["text"]]
        entropy = r.get("entropy") or [0.0] * len(tokens)
        if len(tokens) != len(entropy):
            raise Refused(f"{cfg.run}/rollouts.jsonl step {r['step']} ({r['id']}): {len(tokens)} tokens but {len(entropy)} entropies")
        shown.append({**{k: r.get(k) for k in ("step", "id", "question", "images", "reward", "accuracy", "format", "finish", "advantage")},
                      "options": r.get("options") or [], "gold": str(r["gold"]), "tokens": tokens,
                      "entropy": [round(e, 3) if math.isfinite(e) else None for e in entropy],
                      "critical": critical_tokens(tokens, cfg.words)})
    # the darkest colour; the one token in a hundred above it shares it
    top = max(0.01, float(np.quantile([e for r in shown for e in r["entropy"] if e is not None] or [1.0], 0.99)))
    data = {"run": str(cfg.run), "top": round(top, 2), "rows": shown, "images": images, "all": len(rows)}
    # inside <script> only "</" could end the data early, and texts are full of </think>; "<\/" is the same string to JSON
    code = json.dumps(data, allow_nan=False).replace("</", "<\\/").replace("<!--", "<\\u0021--")
    text = HTML.replace("__DATA__", code)
    out = Path(cfg.out or Path(cfg.run) / "rollouts.html")
    write_text(out, text)
    lost = sum(v is None for v in images.values())
    print(f"{out}: {len(shown)} of {len(rows)} responses, {len(images) - lost} images"
          + (f"; {lost} images could not be read" if lost else ""))


HTML = r"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>rollouts</title><style>
body { margin: 0; font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff; display: flex; height: 100vh }
nav { width: 230px; flex: none; overflow-y: auto; border-right: 1px solid #ddd; background: #fafafa; font-size: 13px }
nav button { display: flex; gap: 8px; width: 100%; border: 0; background: none; padding: 3px 12px; font: inherit; cursor: pointer }
nav button[aria-current=true] { background: #dbe9f6 }
nav div { flex: 1; text-align: left } nav span { min-width: 44px; text-align: right; color: #666 }
nav b { width: 14px; color: #b3361b } nav b.right { color: #137a4b }
main { flex: 1; overflow-y: auto; padding: 20px 28px; max-width: 980px }
h1 { font-size: 16px; margin: 0 0 14px; color: #555; font-weight: 500 }
.top { display: flex; gap: 24px; flex-wrap: wrap; align-items: flex-start }
img { display: block; width: 220px; image-rendering: pixelated; border: 1px solid #ccc; margin-bottom: 6px }
img.large { width: auto; max-width: 420px; image-rendering: auto }
.text { flex: 1; min-width: 280px; white-space: pre-wrap }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; margin: 12px 0 0 } dt { color: #666 } dd { margin: 0 }
#answer { white-space: pre-wrap; overflow-wrap: anywhere; font: 15px/1.9 ui-monospace, monospace; margin-top: 18px;
          border: 1px solid #ddd; border-radius: 6px; padding: 12px 16px }
#answer i { color: #aaa; font-style: normal } .critical { border-bottom: 3px solid #0072b2 }
.legend { display: flex; gap: 10px; align-items: center; margin-top: 18px; font-size: 13px; color: #555; flex-wrap: wrap }
.bar { width: 140px; height: 12px; border: 1px solid #ccc; background: linear-gradient(90deg, rgba(230,110,0,0), rgba(230,110,0,.85)) }
@media (max-width: 700px) { body { display: block; height: auto } nav { width: auto; max-height: 30vh } }
</style></head><body><nav id="list"></nav><main><h1 id="head"></h1>
<div class="top"><div id="images"></div><div class="text"><div id="question"></div><dl id="facts"></dl></div></div>
<div class="legend"><span>token entropy</span> 0 <div class="bar"></div> <span id="max"></span> <span class="critical">critical word</span>
<span>(arrow keys: next and previous; point at a token for its entropy)</span></div>
<div id="answer"></div></main>
<script id="data" type="application/json">__DATA__</script>
<script>
const at = id => document.getElementById(id), data = JSON.parse(at("data").textContent), rows = data.rows;
const make = (kind, text, where) => { const e = document.createElement(kind); e.textContent = text; where.append(e); return e };
let now = -1;

rows.forEach((r, i) => {
  const b = make("button", "", at("list"));
  b.onclick = () => show(i);
  make("b", r.accuracy ? "\u2713" : "\u2717", b).className = r.accuracy ? "right" : "";
  make("div", "step " + r.step, b);
  make("span", Number(r.reward).toFixed(2), b);
  make("span", r.tokens.length + " tok", b);
});

function show(i) {
  if (i < 0 || i >= rows.length) return;
  const r = rows[now = i], buttons = at("list").children, critical = new Set(r.critical);
  for (let j = 0; j < rows.length; j++) buttons[j].setAttribute("aria-current", j === i);
  buttons[i].scrollIntoView({ block: "nearest" });
  at("head").textContent = [data.run, "step " + r.step, r.id, `response ${i + 1} of ${rows.length}`].join(" \u00b7 ")
    + (data.all > rows.length ? ` (${data.all} in the file)` : "");
  for (const id of ["images", "facts", "answer"]) at(id).replaceChildren();
  r.images.forEach(p => {
    if (!data.images[p]) return make("div", "image not found: " + p, at("images"));
    const m = make("img", "", at("images"));
    m.alt = p; m.src = data.images[p];
    m.onload = () => { if (m.naturalWidth > 160) m.className = "large" };
  });
  at("question").textContent = r.question + r.options.map((o, k) => "\n" + String.fromCharCode(65 + k) + ". " + o).join("");
  const facts = [["gold", r.gold], ["reward", `${Number(r.reward).toFixed(2)}  (accuracy ${r.accuracy}, format ${r.format})`],
                 ["length", `${r.tokens.length} tokens` + (r.finish === "length" ? ", cut at the limit" : "")]];
  if (r.advantage != null) facts.push(["advantage", Number(r.advantage).toFixed(2)]);
  for (const [k, v] of facts) { make("dt", k, at("facts")); make("dd", v, at("facts")) }
  r.tokens.forEach((t, k) => {
    const s = make("span", "", at("answer")), e = r.entropy[k] ?? NaN;
    t.split("\n").forEach((piece, n) => { if (n) { make("i", "\u21b5", s); s.append("\n") } s.append(piece) });
    if (!t) make("i", "\u25aa", s);  // a token without text: the end of the response, or a part of a character
    s.style.background = `rgba(230,110,0,${(0.85 * Math.min(1, (e || 0) / data.top)).toFixed(3)})`;
    s.title = `${JSON.stringify(t)}  ${e.toFixed(2)} nats`;
    if (critical.has(k)) s.className = "critical";
  });
}

document.onkeydown = e => {
  const by = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[e.key];
  if (by) { e.preventDefault(); show(now + by) }
};
at("max").textContent = data.top + " nats and more";
document.title = "rollouts of " + data.run;
show(rows.length - 1);
</script></body></html>
"""


# ---------------------------------------------------------------------------------------------------------------- table
def stage_result(scores, maths="Math"):
    """One stage's line of results.json from its scores.json. `others` is the mean over subjects, each with the same weight."""
    by_subject = dict(sorted(scores["subjects"].items()))
    accuracy, error = {name: s["rule"] for name, s in by_subject.items()}, {}
    for name, s in by_subject.items():  # as the evaluation measured it, else that of a share
        error[name] = s["rule_se"] if s.get("rule_se") is not None else math.sqrt(s["rule"] * (1 - s["rule"]) / s["n"])
    rest = [name for name in accuracy if name != maths]
    return {"maths": accuracy.get(maths), "maths_se": error.get(maths),
            "others": sum(accuracy[n] for n in rest) / len(rest) if rest else None,
            "others_se": math.sqrt(sum(error[n] ** 2 for n in rest)) / len(rest) if rest else None,
            "subjects": accuracy, "subjects_se": error, "n": {name: s["n"] for name, s in by_subject.items()},
            "length": scores.get("length")}


def percent(value, error=None, sign=""):
    if value is None:
        return "-"
    return f"{100 * value:{sign}.1f}" + (f" ± {100 * error:.1f}" if error is not None else "")


def gain(results, one, two, key):
    """(difference, its standard error) between two stages, or (None, None). The error is that of two independent samples
    of questions; both stages answer the same ones, so it errs on the safe side."""
    a, b = results.get(one, {}).get(key), results.get(two, {}).get(key)
    if a is None or b is None:
        return None, None
    return b - a, math.hypot(results[one].get(key + "_se") or 0, results[two].get(key + "_se") or 0)


def print_table(header, rows):
    """Aligned, and at the same time a table that can be pasted into a README."""
    widths = [max(len(str(line[i])) for line in [header, *rows]) for i in range(len(header))]
    for cells in (header, None, *rows):
        if cells is None:  # the rule below the header; its colons align the columns to the right
            print("|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|")
        else:
            print("| " + " | ".join(str(c).rjust(w) if i else str(c).ljust(w) for i, (c, w) in enumerate(zip(cells, widths))) + " |")
    print()


def read_json(path, otherwise):
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refused(f"{path} is not there: {otherwise}")
    except json.JSONDecodeError as e:
        raise Refused(f"{path} is not JSON ({e}): {otherwise}")


def table(cfg):
    folder, results = Path(cfg.folder), {}
    for stage in STAGES:
        path = folder / stage / "eval" / "scores.json"
        if path.is_file():
            results[stage] = stage_result(read_json(path, "evaluate that stage again"), cfg.maths)
        else:
            print(f"{STAGES[stage]}: no scores at {path} yet")
    if not results:
        raise Refused(f"no stage under {folder} has been evaluated: run `python eval_mmmu.py --model {folder}/rl "
                      f"--out {folder}/rl/eval` for each stage first")
    print_table(["", "maths %", "others %", "length"],
                [[STAGES[s], percent(r["maths"], r["maths_se"]), percent(r["others"], r["others_se"]),
                  "-" if r["length"] is None else f"{r['length']:.1f}"] for s, r in results.items()])
    steps = [(one, two, f"{STAGES[two]} - {STAGES[one]}") for one, two in zip(results, list(results)[1:])]
    if steps:
        print_table(["points gained", "maths", "others"],
                    [[name, *(percent(*gain(results, one, two, k), sign="+") for k in ("maths", "others"))] for one, two, name in steps])
    names = sorted({n for r in results.values() for n in r["subjects"]}, key=lambda n: (n != cfg.maths, n))
    print_table(["subject %", *(STAGES[s] for s in results)],
                [[n.replace("_", " "), *(percent(r["subjects"].get(n), r["subjects_se"].get(n)) for r in results.values())] for n in names])
    write_text(folder / "results.json", json.dumps(results, indent=1) + "\n")
    draw_results(results, names, cfg.maths, folder / "results.png")
    print(f"± is one standard error. Written: {folder}/results.json, {folder}/results.png")


def draw_results(results, names, maths, path):
    """Left: maths and the others at each stage. Middle: every subject. Right: how long the answers are."""
    stages = list(results)
    x = np.arange(len(stages))
    ticks = [STAGES[s].replace("after connector tuning", "after\nconnector\ntuning").replace(" ", "\n") for s in stages]
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12.6, 4.0), width_ratios=[1.25, 1.45, 0.8], layout="constrained")
    for k, (key, label) in enumerate([("maths", "maths (trained by RL)"), ("others", "other subjects (mean)")]):
        values = [100 * (results[s][key] or 0) for s in stages]
        bars = left.bar(x + 0.4 * k - 0.2, values, 0.38, color=COLOURS[k], label=label,
                        yerr=[196 * (results[s][key + "_se"] or 0) for s in stages], error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "0.25"})
        left.bar_label(bars, [f"{v:.0f}" for v in values], padding=2, fontsize=9)
    left.set_title("accuracy, % (bars: 95% interval)")
    left.set_ylim(0, 118)
    left.set_yticks(range(0, 101, 20))
    left.legend(fontsize=9, loc="upper left", ncols=2, columnspacing=1, handlelength=1.2)
    ends = []  # (height, name, colour) of the labels at the right end of the lines
    for k, name in enumerate(names):
        values = [100 * results[s]["subjects"].get(name, math.nan) for s in stages]
        colour = COLOURS[0] if name == maths else ["#d55e00", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "0.5"][k % 6]
        middle.plot(x, values, "o-", color=colour, lw=2.4 if name == maths else 1.5, ms=4)
        ends.append([values[-1], name.split("_and_")[0].replace("_", " "), colour])
    ends = sorted(e for e in ends if math.isfinite(e[0]))[:12]  # of MMMU's thirty subjects the labels would be a wall
    low, high = middle.get_ylim()
    gap, below = (high - low) / 17, -math.inf
    for end in ends:  # labels keep a line's distance
        end[0] = below = max(end[0], below + gap)
    down = max(0.0, ends[-1][0] - high) if ends else 0.0
    for height, name, colour in ends:
        middle.annotate(name, (x[-1], height - down), xytext=(8, 0), textcoords="offset points", va="center", fontsize=9, color=colour)
    middle.set_title("accuracy by subject, %")
    middle.margins(x=0.08)
    right.plot(x, [results[s]["length"] if results[s]["length"] is not None else math.nan for s in stages], "o-", color="0.25")
    right.set_title("response length, tokens")
    right.set_ylim(0, 1.1 * right.get_ylim()[1])
    right.margins(x=0.15)
    for ax in (left, middle, right):
        ax.set_xticks(x, ticks, fontsize=9)
        ax.grid(axis="x", visible=False)
    save_figure(figure, path)


# ---------------------------------------------------------------------------------------------------------------- seeds
def seeds(cfg):
    if not cfg.folders:
        raise Refused("name the folders: python report.py seeds out/tiny out/tiny-seed1 out/tiny-seed2")
    tables = [read_json(Path(f) / "results.json", f"run `python report.py table {f}` first") for f in cfg.folders]
    stages = [s for s in STAGES if all(s in t for t in tables)]

    def cell(values, scale=100, sign=""):  # mean ± standard deviation (smallest to largest)
        if any(v is None for v in values):
            return "-"
        v = scale * np.array(values)
        return f"{v.mean():{sign}.1f}" + (f" ± {v.std(ddof=1):.1f} ({v.min():{sign}.1f} to {v.max():{sign}.1f})" if len(v) > 1 else "")

    columns = (("maths", 100), ("others", 100), ("length", 1))
    print_table(["", "maths %", "others %", "length"],
                [[STAGES[s], *(cell([t[s][k] for t in tables], scale) for k, scale in columns)] for s in stages])
    steps = [(one, two, f"{STAGES[two]} - {STAGES[one]}") for one, two in zip(stages, stages[1:])]
    print_table(["points gained", "maths", "others"],  # the gain is taken run by run
                [[name, *(cell([gain(t, one, two, k)[0] for t in tables], sign="+") for k in ("maths", "others"))] for one, two, name in steps])
    print(f"{len(tables)} runs of the recipe: mean ± standard deviation over them (smallest to largest)")


def report(cfg):
    {Curves: curves, Page: page, Table: table, Seeds: seeds}[type(cfg)](cfg)


if __name__ == "__main__":
    main(report, Curves | Page | Table | Seeds)
