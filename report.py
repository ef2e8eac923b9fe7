"""Look at what a run did: its curves, its responses, and the table of all stages.

    python report.py curves out/tiny/rl    curves.png: reward, length, entropies, ...; and what looks wrong
    python report.py page out/tiny/rl      rollouts.html: curves, responses side by side
    python report.py table out/tiny        the stages' scores -> results.json and results.png
    python report.py card out/tiny/rl      the checkpoint's model card: a README.md for the hub

Everything here reads files that the other scripts left (metrics.jsonl, rollouts.jsonl, eval/scores.json). No
model is needed, and it works while the run is still going. Two stages answered the same questions, so they
are compared question by question: that is what the intervals of 95% are made of.
"""
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from huggingface_hub import ModelCard, ModelCardData

from machinery.figures import draw_curves, draw_results, save_figure
from machinery.files import (
    TRAINER, Refused, hub_name, main, read_json, read_jsonl, resolve, write_text)
from machinery.page import count_marks, evenly, has_spread, marks_of, read_groups, write_page
from machinery.scores import gain, stage_result
from machinery.signs import signs_of
from machinery.tables import percent, points, print_table
from signals import CRITICAL_WORDS, critical_tokens

STAGES = {"base": "base", "cold_start": "cold start", "rl": "after RL", "connector": "after connector tuning"}
PANELS = {  # title: metrics drawn in it; a panel whose metrics the run never wrote is left out
    "reward": ["reward"],
    "accuracy": ["accuracy"],
    "format": ["format"],
    "response length (tokens)": ["length"],
    "entropy of all tokens (nats)": ["entropy"],
    "entropy of critical tokens (nats)": ["critical_entropy"],
    "share of tokens with high entropy": ["entropy_high"],
    "gradient norm": ["grad_norm"],
    "loss": ["loss", "val_loss"],
    "learning rate": ["lr"],
}


CARD = """---
{front}
---
# {name}

A vision-language model made with nanoR1V, a training code for the recipe of
[Skywork-R1V3](https://arxiv.org/abs/2507.06167), for research: no stage aims at safety. Add the scores of
your own evaluation. The stages that made it, the last one first:

{stages}
"""


@dataclass
class Curves:
    """Draw the curves of one run, or of several in one figure."""
    runs: tyro.conf.Positional[tuple[str, ...]]  # run folders (they hold metrics.jsonl)
    out: str = ""                                # PNG to write; default: curves.png in the (first) run folder
    metrics: tuple[str, ...] = ()                # draw these alone, by their names in metrics.jsonl


@dataclass
class Page:
    """Write a run's sampled responses, group by group, as one HTML page that needs nothing else."""
    run: tyro.conf.Positional[str]   # run folder (it holds rollouts.jsonl)
    out: str = ""                    # HTML file to write; default: rollouts.html in the run folder
    most: int = 5000                 # about so many responses at most, in whole groups from the whole run
    image_size: int = 512            # images larger than this are made smaller (pixels, longer side)
    words: tuple[str, ...] = tuple(CRITICAL_WORDS)  # words to underline


@dataclass
class Table:
    """Gather the stages' evaluation scores into one table, results.json and results.png."""
    folder: tyro.conf.Positional[str] = "out/tiny"  # holds base/, rl/, ..., each with eval/scores.json
    maths: str = "Math"  # the subject that RL trains on; all others make up "others"


@dataclass
class Card:
    """Write a checkpoint's model card: a README.md for the hub, of what the run folders know."""
    run: tyro.conf.Positional[str]  # run folder (its selected or newest checkpoint), or a checkpoint of one
    out: str = ""                   # file to write; default: README.md in the checkpoint's folder


def read_metrics(run):
    """{metric: (steps, values)} of a run, as arrays, without what was not measured (None, NaN)."""
    by_step = {row["step"]: row for row in read_jsonl(Path(run) / "metrics.jsonl")}
    if not by_step:
        raise Refused(f"{run}/metrics.jsonl is not there or holds no step yet: "
                      f"name the folder of a run, wait for its first step")
    series = {}
    for step in sorted(by_step):
        for key, value in by_step[step].items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                steps, values = series.setdefault(key, ([], []))
                steps.append(step)
                values.append(value)
    return {key: (np.array(steps), np.array(values, float)) for key, (steps, values) in series.items()}


def curves(cfg):
    if not cfg.runs:
        raise Refused("name at least one run folder")
    runs, out = [read_metrics(run) for run in cfg.runs], cfg.out or Path(cfg.runs[0]) / "curves.png"
    written = set().union(*runs)
    if missing := sorted({*cfg.metrics} - written):
        raise Refused(f"--metrics {' '.join(missing)}: metrics.jsonl has {', '.join(sorted(written))}")
    wanted = {key: [key] for key in cfg.metrics} or dict(PANELS)
    if "reward" in written and not cfg.metrics:  # GRPO's loss is near zero by construction and says nothing
        del wanted["loss"], wanted["learning rate"]
    panels = {title: drawn for title, keys in wanted.items() if (drawn := [k for k in keys if k in written])}
    save_figure(draw_curves(runs, cfg.runs, panels), out)
    last = max(int(steps[-1]) for run in runs for steps, _ in run.values())
    print(f"{out}: {', '.join(panels)}; up to step {last} (thin: each step, thick: smoothed)")
    for folder in (folder for folder, run in zip(cfg.runs, runs) if "groups_mixed" in run):
        signs = [f"step {step}: {name.upper()}: {seen}"
                 for step, name, seen in signs_of(read_jsonl(Path(folder) / "metrics.jsonl"))]
        print(folder, *(signs or ["no sign of failure"]), sep="\n  ")


def page_response(cfg, row, spread):
    """A row of rollouts.jsonl -> what the page shows of it. spread: whether rewards differ in its group."""
    tokens, spans = row["tokens"], critical_tokens(row["tokens"], cfg.words)
    return {**{key: row.get(key) for key in ("reward", "accuracy", "format", "finish", "advantage")},
            "marks": marks_of(row, spread), "tokens": tokens,
            "entropy": [round(e, 3) if math.isfinite(e) else None for e in row["entropy"]],
            "critical": sorted({k for a, b, _ in spans for k in range(a, b + 1) if tokens[k]})}


def page(cfg):
    path, groups = Path(cfg.run) / "rollouts.jsonl", []
    sizes = [(len(rows), sum(len(row["text"]) for row in rows)) for rows in read_groups(path)]
    if not sizes:
        raise Refused(f"{path} is not there or empty: name the folder of a GRPO run, wait for its first step")
    chosen = evenly(sizes, cfg.most)
    for first, *rows in (rows for i, rows in enumerate(read_groups(path)) if i in chosen):
        spread = has_spread([first, *rows])
        groups.append({**{key: first[key] for key in ("step", "id", "question", "images")},
                       "gold": str(first.get("gold")), "size": first.get("group"),
                       "right": first.get("group_right"),
                       "responses": [page_response(cfg, row, spread) for row in (first, *rows)]})
    out, metrics = Path(cfg.out or Path(cfg.run) / "rollouts.html"), Path(cfg.run) / "metrics.jsonl"
    images = write_page(out, str(cfg.run), groups, sum(n for n, _ in sizes), cfg.image_size,
                        read_metrics(cfg.run) if metrics.exists() else {})
    shown, lost = sum(len(group["responses"]) for group in groups), [*images.values()].count(None)
    print(f"{out}: {shown} of {sum(n for n, _ in sizes)} responses in {len(groups)} groups, "
          f"{len(images) - lost} images; {lost} images could not be read")
    print(", ".join(f"{name} {n}" for name, n in count_marks(groups).items()))


def table(cfg):
    folder, results, scores = Path(cfg.folder), {}, {}
    for stage in STAGES:
        path = folder / stage / "eval" / "scores.json"
        if path.is_file():
            scores[stage] = read_json(path)
            results[stage] = stage_result(scores[stage], cfg.maths)
            results[stage]["gains"] = {one: gain(scores[one], scores[stage], (folder / one, folder / stage),
                                                 cfg.maths) for one in scores if one != stage}
        else:
            print(f"{STAGES[stage]}: no scores at {path} yet")
    if not results:
        raise Refused(f"no stage under {folder} has been evaluated: run `python eval_mmmu.py "
                      f"--model {folder}/rl --out {folder}/rl/eval` for each stage first")
    gains = {f"{STAGES[two]} - {STAGES[one]}": results[two]["gains"][one]
             for one, two in zip(results, list(results)[1:])}
    names = sorted({n for r in results.values() for n in r["subjects"]}, key=lambda n: (n != cfg.maths, n))
    for first, columns, cell in (("%", {STAGES[stage]: r for stage, r in results.items()}, percent),
                                 ("points gained", gains, points)):
        cells = [{"maths": cell(r["maths"], r["maths_se"]), "others": cell(r["others"], r["others_se"]),
                  **{n: cell(value, r["subjects_se"][n]) for n, value in r["subjects"].items()}}
                 for r in columns.values()]
        if columns:
            print_table([first, *columns], [[n.replace("_", " "), *(column.get(n, "-") for column in cells)]
                                            for n in ("maths", "others", *names)])
    lengths = {STAGES[stage]: r["length"] and round(r["length"], 1) for stage, r in results.items()}
    print(f"length, tokens: {lengths}")
    write_text(folder / "results.json", json.dumps(results, indent=1) + "\n")
    draw_results({STAGES[s]: r for s, r in results.items()}, names, folder / "results.png")
    print("± is one standard error; in brackets: 95% interval of the differences question by question.\n"
          f"Written: {folder}/results.json, {folder}/results.png")


def card(cfg):
    """The config.json of the run and of those before it, with what the hub reads. A folder may be of another
    run today than it was then."""
    checkpoint = Path(resolve(cfg.run, "RUN"))
    out, run, stages = Path(cfg.out or checkpoint / "README.md"), checkpoint.parent, {}
    if out.exists():
        raise Refused(f"{out} is there already, and somebody may have written into it: "
                      f"delete it, or name another file with --out")
    while run not in stages and (run / "config.json").is_file():
        about = read_json(run / "config.json")
        if "config" not in about:  # of a model, not of a run
            break
        stages[run], start = about, Path(about["config"]["model"])
        run = start.parent if start.name.startswith("step_") else start
    if not stages:
        raise Refused(f"{checkpoint} is no checkpoint of a run folder: nothing is known of how it was made")
    front = ModelCardData(license="other", license_name="FILL-IN-the-license-of-the-base-model",
                          base_model=str(start) if hub_name(str(start)) else None, tags=["nanoR1V"],
                          pipeline_tag="image-text-to-text")
    told = [f"`{folder}`\n\n```json\n{json.dumps(about, indent=1, ensure_ascii=False)}\n```"
            for folder, about in stages.items()]
    text = CARD.format(front=front.to_yaml(), name=checkpoint.parent.name, stages="\n\n".join(told))
    ModelCard(text).save(out)
    print(f"{out}: read it before you upload it (a license that is not known here is left to fill in; paths "
          f"and flags of the run are shown). Then:\n"
          f"hf upload OWNER/NAME {checkpoint} . --exclude \"{TRAINER}/*\"")


def report(cfg):
    {Curves: curves, Page: page, Table: table, Card: card}[type(cfg)](cfg)


if __name__ == "__main__":
    main(report, Curves | Page | Table | Card)
