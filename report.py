"""Look at what a run did: its curves, its responses, and the table of all stages.

    python report.py curves out/tiny/rl              curves.png: reward, length, entropies, gradient norm, ...
    python report.py compare out/a out/b             several runs: curves, how each ended, which flags differ
    python report.py page out/tiny/rl                rollouts.html: curves, responses side by side
    python report.py table out/tiny                  the stages' scores -> results.json and results.png
    python report.py seeds out/tiny out/tiny-seed1   several tables together: means, spread, intervals
    python report.py losses out/tiny/rl              embedded world: what its wrong answers are lost to
    python report.py rules out/tiny/rl               which checkpoint each rule would take, and its score
    python report.py parts out/tiny                  what tuning more than the connector gains (make parts)
    python report.py times out/tiny                  how long each stage took
    python report.py card out/tiny/rl                the checkpoint's model card: a README.md for the hub

Everything here reads files that the other scripts left (metrics.jsonl, rollouts.jsonl, eval/scores.json). No
model is needed, and it works while the run is still going. Two stages, or two checkpoints, answered the same
questions, so they are compared question by question: that is what the intervals of 95% are made of.
"""
import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from machinery.card import FILL_IN, card_text, refuse_without_run
from machinery.compare import course, differing_flags, label, read_flags
from machinery.figures import draw_curves, draw_results, save_figure
from machinery.files import TRAINER, Refused, checked, main, read_json, read_jsonl, resolve, write_text
from machinery.page import count_marks, evenly, has_spread, marks_of, read_groups, write_page
from machinery.rules import print_rules, read_selection
from machinery.scores import GAINS_HEADER, NUMBER, gain, gains_of_runs, read_scores, stage_result
from machinery.tables import percent, points, print_table, spread
from signals import CRITICAL_WORDS, critical_tokens
from tiny.losses import judge, print_losses, read_truth

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


@dataclass
class Curves:
    """Draw the curves of one run, or of several in one figure."""
    runs: tyro.conf.Positional[tuple[str, ...]]  # run folders (they hold metrics.jsonl)
    out: str = ""                                # PNG to write; default: curves.png in the (first) run folder


@dataclass
class Compare:
    """Several runs: their curves in one figure, how each metric went, and in which flags they differ."""
    runs: tyro.conf.Positional[tuple[str, ...]]  # run folders (they hold metrics.jsonl and config.json)
    out: str = ""                                # PNG to write; default: compare.png in the first run folder


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
class Seeds:
    """Several runs of the whole recipe together: means, their spread, and what each stage gained."""
    folders: tyro.conf.Positional[tuple[str, ...]]  # folders in which `report.py table` left results.json


@dataclass
class Losses:
    """What the wrong answers are lost to, in the embedded world, whose true steps are known."""
    runs: tyro.conf.Positional[tuple[str, ...]]  # folders with eval/, or of an evaluation
    world: str = ""  # folder with truth.json; default: where the questions of the evaluation came from
    together: bool = False  # one set of tables of all the runs (the same stage of several seeds)


@dataclass
class Rules:
    """Which checkpoint of an RL run each rule of selection would take, and what that one scores."""
    runs: tyro.conf.Positional[tuple[str, ...]]  # each holds selection.json and eval_steps/step_*/scores.json
    maths: str = "Math"  # the subject that RL trains on; all others make up "others"


@dataclass
class Parts:
    """After RL: what tuning the connector alone gains, and what other parts gain (paper section 5.6)."""
    folders: tyro.conf.Positional[tuple[str, ...]]  # hold rl/eval and parts/*, tuned and evaluated from rl
    maths: str = "Math"  # the subject that RL trains on; all others make up "others"


@dataclass
class Times:
    """How long each stage took."""
    folder: tyro.conf.Positional[str] = "out/tiny"  # holds times.tsv: stage, tab, seconds


@dataclass
class Card:
    """Write a checkpoint's model card: a README.md for the hub, of what the run folders know."""
    run: tyro.conf.Positional[str]  # run folder (its selected or newest checkpoint), or a checkpoint of one
    scores: tuple[str, ...] = ()    # scores.json that stand elsewhere; those inside the run folder are found
    out: str = ""                   # file to write; default: README.md in the checkpoint's folder


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


def panels_of(runs):
    """{title: metrics}: what there is to draw of these runs."""
    written = set().union(*runs)
    panels = {title: [key for key in keys if key in written] for title, keys in PANELS.items()}
    if "reward" in written:  # in GRPO the loss is near zero by construction and says nothing
        del panels["loss"], panels["learning rate"]
    return {title: keys for title, keys in panels.items() if keys}


def curves(cfg):
    if not cfg.runs:
        raise Refused("name a run folder: python report.py curves out/tiny/rl")
    draw([read_metrics(run) for run in cfg.runs], cfg.runs, cfg.out or Path(cfg.runs[0]) / "curves.png")


def draw(runs, names, out):
    """The figure of these runs' metrics. Returns the metrics that it shows."""
    panels = panels_of(runs)
    if not panels:
        raise Refused(f"{names[0]}: metrics.jsonl holds nothing that is drawn here (reward, loss, ...)")
    save_figure(draw_curves(runs, names, panels), out)
    last = max(int(steps[-1]) for run in runs for steps, _ in run.values())
    print(f"{out}: {', '.join(panels)}; up to step {last}")
    return sum(panels.values(), [])


def compare(cfg):
    if len(cfg.runs) < 2:
        raise Refused("name the folders of two runs or more: python report.py compare out/a out/b")
    runs = [read_metrics(run) for run in cfg.runs]
    differing = differing_flags([read_flags(run) for run in cfg.runs])
    labels = [label(run, differing, i) for i, run in enumerate(cfg.runs)]
    drawn = draw(runs, labels, cfg.out or Path(cfg.runs[0]) / "compare.png")
    lines = []
    for metric in drawn:
        rows = [[name, *course(metric, *run[metric])] for name, run in zip(cfg.runs, runs) if metric in run]
        lines += [[title, *row] for title, row in zip([metric] + [""] * len(rows), rows)]
    print_table(["metric", "run", "last", "best, or from lowest to highest", "mean of the last 10%"], lines)
    if differing:
        lines = [[f"--{flag}", *values] for flag, values in differing.items()]
        print_table(["flags that differ", *cfg.runs], lines)
    else:
        print("No flag differs (but --out).")


# ------------------------------------------------------------------------------------------------- page

def marked_tokens(tokens, words):
    """Indices of the tokens that write a critical word (every token that holds one of its letters)."""
    marked = set()
    for first, last, _ in critical_tokens(tokens, words):
        marked.update(i for i in range(first, last + 1) if tokens[i])
    return sorted(marked)


def page_group(cfg, rows):
    """A group's rows of rollouts.jsonl -> what the page shows of it."""
    first, spread = rows[0], has_spread(rows)
    return {**{key: first[key] for key in ("step", "id", "question", "images")},
            "gold": str(first.get("gold")), "size": first.get("group"), "right": first.get("group_right"),
            "responses": [page_response(cfg, row, spread) for row in rows]}


def page_response(cfg, row, spread):
    tokens = row.get("tokens") or [row["text"]]
    entropy = row.get("entropy") or [0.0] * len(tokens)
    if [type(t) for t in tokens] != [str] * len(entropy) or not all(isinstance(e, NUMBER) for e in entropy):
        raise Refused(f"{cfg.run}/rollouts.jsonl step {row['step']} ({row['id']}): {len(tokens)} tokens but "
                      f"{len(entropy)} entropies, or one is no text or number. Delete that line.")
    return {**{key: row.get(key) for key in ("reward", "accuracy", "format", "finish", "advantage")},
            "marks": marks_of(row, spread), "tokens": tokens,
            "entropy": [round(e, 3) if math.isfinite(e) else None for e in entropy],
            "critical": marked_tokens(tokens, cfg.words)}


def page(cfg):
    path = Path(cfg.run) / "rollouts.jsonl"
    sizes = [(len(rows), sum(len(row["text"]) for row in rows)) for rows in read_groups(path)]
    if not sizes:
        raise Refused(f"{path} is not there or empty: name the folder of a GRPO run, wait for its first step")
    chosen = evenly(sizes, cfg.most)
    groups = [page_group(cfg, rows) for i, rows in enumerate(read_groups(path)) if i in chosen]
    out, curves = Path(cfg.out or Path(cfg.run) / "rollouts.html"), {}
    if (Path(cfg.run) / "metrics.jsonl").exists():
        curves = read_metrics(cfg.run)
    images = write_page(out, str(cfg.run), groups, sum(n for n, _ in sizes), cfg.image_size, curves)
    shown = sum(len(group["responses"]) for group in groups)
    lost = sum(v is None for v in images.values())
    print(f"{out}: {shown} of {sum(n for n, _ in sizes)} responses in {len(groups)} groups, "
          f"{len(images) - lost} images" + (f"; {lost} images could not be read" if lost else ""))
    print(", ".join(f"{name} {n}" for name, n in count_marks(groups).items()))


# ------------------------------------------------------------------------------------------------- table

def stage_line(stage, r):
    length = "-" if r["length"] is None else f"{r['length']:.1f}"
    return [STAGES[stage], percent(r["maths"], r["maths_se"]), percent(r["others"], r["others_se"]), length]


def gained(g, key, subject=None):
    """A cell of what a stage gained: with its interval, or, if its questions are not known, ± its error."""
    value, error = g[key], g[f"{key}_se"]
    if subject:
        value, error = value.get(subject), error.get(subject)
    return points(value, error) if g["paired"] else percent(value, error, sign="+")


def table(cfg):
    folder, results, scores = Path(cfg.folder), {}, {}
    for stage in STAGES:
        path = folder / stage / "eval" / "scores.json"
        if path.is_file():
            scores[stage] = read_scores(path)
            results[stage] = stage_result(scores[stage], cfg.maths)
            results[stage]["gains"] = {one: gain(scores[one], scores[stage], (folder / one, folder / stage),
                                                 cfg.maths) for one in scores if one != stage}
        else:
            print(f"{STAGES[stage]}: no scores at {path} yet")
    if not results and (folder / "config.json").exists():
        raise Refused(f"{folder} is one stage: name the folder that holds the stages, "
                      f"`python report.py table {folder.parent}`")
    if not results:
        raise Refused(f"no stage under {folder} has been evaluated: run `python eval_mmmu.py "
                      f"--model {folder}/rl --out {folder}/rl/eval` for each stage first")
    print_table(["", "maths %", "others %", "length"], [stage_line(s, r) for s, r in results.items()])
    names = sorted({n for r in results.values() for n in r["subjects"]}, key=lambda n: (n != cfg.maths, n))
    gains = {f"{STAGES[two]} - {STAGES[one]}": results[two]["gains"][one]
             for one, two in zip(results, list(results)[1:])}
    if gains:
        print_table(["points gained", "maths", "others"],
                    [[name, gained(g, "maths"), gained(g, "others")] for name, g in gains.items()])
    lines = []
    for n in names:
        cells = (percent(r["subjects"].get(n), r["subjects_se"].get(n)) for r in results.values())
        lines.append([n.replace("_", " "), *cells])
    print_table(["subject %", *(STAGES[s] for s in results)], lines)
    if gains:
        lines = [[n.replace("_", " "), *(gained(g, "subjects", n) for g in gains.values())] for n in names]
        print_table(["points gained", *gains], lines)
    write_text(folder / "results.json", json.dumps(results, indent=1) + "\n")
    draw_results({STAGES[s]: r for s, r in results.items()}, names, cfg.maths, folder / "results.png")
    print("± is one standard error; in brackets: 95% interval of the differences question by question.")
    if old := [s for s in scores if "question_accuracy" not in scores[s]]:
        print(f"The scores.json of {', '.join(old)} does not tell the questions apart: an earlier version "
              f"wrote it.\nGains have the larger error of two independent samples there. To write it anew:\n"
              f"python eval_mmmu.py score --responses {folder}/{old[0]}/eval/responses.jsonl")
    print(f"Written: {folder}/results.json, {folder}/results.png")


# ------------------------------------------------------------------------------------------------- seeds

def read_results(folder):
    """results.json of a folder: {stage: its line}."""
    path, again = f"{folder}/results.json", f"Run `python report.py table {folder}` first."
    fields = {**dict.fromkeys(("maths", "others", "length"), (*NUMBER, type(None))), "gains": dict}
    results = {s: checked(r, path, fields, again) for s, r in read_json(path, remedy=again).items()}
    numbers = dict.fromkeys(("maths", "maths_se", "others", "others_se"), (*NUMBER, type(None)))
    fields = {"paired": bool, "trained": str, "subjects": dict, "subjects_se": dict, **numbers}
    for r in results.values():
        for g in r["gains"].values():
            checked(g, path, fields, again)
    return results


def seeds(cfg):
    if not cfg.folders:
        raise Refused("name the folders: python report.py seeds out/tiny out/tiny-seed1 out/tiny-seed2")
    runs = [read_results(folder) for folder in cfg.folders]
    stages = [s for s in STAGES if all(s in t for t in runs)]
    columns = {"maths": 100, "others": 100, "length": 1}  # key: scale
    lines = []
    for s in stages:
        cells = (spread([t[s].get(k) for t in runs], scale) for k, scale in columns.items())
        lines.append([STAGES[s], *cells])
    print_table(["", "maths %", "others %", "length"], lines)
    pairs = {f"{STAGES[two]} - {STAGES[one]}": [t[two]["gains"][one] for t in runs]  # taken run by run
             for one, two in zip(stages, stages[1:])}
    print_table(["points gained", "maths", "others"],
                [[name, *(spread([g[key] for g in gains], sign="+") for key in ("maths", "others"))]
                 for name, gains in pairs.items()])
    print(f"runs of the recipe: {len(runs)}; mean ± standard deviation over them (smallest to largest)\n")
    for name, gains in pairs.items():
        print_table([name, *GAINS_HEADER], gains_of_runs(gains))
    print("95%, questions: from the differences question by question, of all runs together. 95%, runs: from "
          "the gains of\nthe runs (t), which holds what differs from run to run, too. Could be seen: how "
          "large a gain has to be for\nso many questions to show it (two standard errors).")
    if not all(g["paired"] for gains in pairs.values() for g in gains):
        print("Some scores.json do not tell the questions apart (`report.py table` says which): their error "
              "is that\nof two independent samples, which is larger.")


# ------------------------------------------------------------------------------------------------- losses

def losses(cfg):
    from eval_mmmu import score_rows
    from scoring.mmmu import read_responses
    if not cfg.runs:
        raise Refused("name a run folder: python report.py losses out/tiny/rl")
    judged = []
    for run in cfg.runs:
        folder = Path(run) / "eval" if (Path(run) / "eval").is_dir() else Path(run)
        truth = read_truth(folder, cfg.world)
        _, rows = score_rows(read_responses(folder / "responses.jsonl"))
        judged.append(judge(rows, truth))
        if not cfg.together:
            print(f"{run}\n")
            print_losses(judged[-1:])
    if cfg.together:
        print(f"{len(judged)} runs together: {' '.join(cfg.runs)}\n")
        print_losses(judged)
    print("Cells: the last reading of each name. Operations: true equations. Copied: operands that stand in "
          "the text before.\nWrong answers are lost to manner (at once, no box, cut off), otherwise to a "
          "wrong reading, otherwise\nto arithmetic (a false equation, a wrong operand), otherwise to other "
          "(the wrong line or end, not understood).\nFailed, found: tries whose cells were read right. All "
          "failed: searches in which none of the candidates fits.")


# ------------------------------------------------------------------------------------------------- rules

def rules(cfg):
    if not cfg.runs:
        raise Refused("name the folder of an RL run: python report.py rules out/tiny/rl")
    print_rules([read_selection(run, cfg.maths) for run in cfg.runs])


# ------------------------------------------------------------------------------------------------- parts

def tuned(folder, maths):
    """{(parts, lr): (best validation loss, its step, gains on rl)} of the runs in folder/parts."""
    start, found = read_scores(f"{folder}/rl/eval/scores.json"), {}
    for path in sorted(Path(folder).glob("parts/*/config.json")):
        remedy = "Tune it again."
        flags = checked(read_json(path, {"config": dict}, remedy)["config"], path,
                        {"train": list, "lr": NUMBER}, remedy)
        rows = read_jsonl(path.parent / "metrics.jsonl", {"step": int})
        losses = [(row["val_loss"], row["step"]) for row in rows if row.get("val_loss") is not None]
        if not losses:
            raise Refused(f"{path.parent}/metrics.jsonl holds no validation loss: "
                          f"`make parts` goes on with it")
        scores = read_scores(path.parent / "eval" / "scores.json")
        more = gain(start, scores, (f"{folder}/rl", path.parent), maths)
        found["+".join(flags["train"]), flags["lr"]] = (*min(losses), more)
    if not found:
        raise Refused(f"{folder}/parts holds no tuned run: `make parts` makes them")
    return found


def lower_loss(run, part):
    """Of the runs that tuned these parts, the key of the one with the lowest validation loss; None of none.
    Of equals (both kept their start) the lower learning rate."""
    return min((key for key in run if key[0] == part), key=lambda key: (run[key][0], key[1]), default=None)


def parts(cfg):
    """Of each set of parts the learning rate with the lower validation loss counts."""
    if not cfg.folders:
        raise Refused("name the folders: python report.py parts out/tiny")
    runs = [tuned(folder, cfg.maths) for folder in cfg.folders]
    kinds = sorted({key for run in runs for key in run}, key=lambda key: (key[0].count("+"), key))
    for folder, run in zip(cfg.folders, runs):
        lines = []
        for key in kinds:
            if key in run:
                loss, step, g = run[key]
                mark = " *" if key == lower_loss(run, key[0]) else ""
                lines.append([key[0], f"{key[1]:g}", f"{loss:.4f} (step {step}){mark}",
                              points(g["maths"], g["maths_se"]), points(g["others"], g["others_se"])])
        print_table([f"{folder}: tuned after RL", "lr", "validation loss", "maths", "others"], lines)
    for part in dict.fromkeys(key[0] for key in kinds) if len(runs) > 1 else ():
        chosen = [run[lower_loss(run, part)][2] for run in runs if lower_loss(run, part)]
        print_table([f"{part}, {len(chosen)} runs", *GAINS_HEADER], gains_of_runs(chosen))
    print("Points gained on the checkpoint that RL left, with their interval of 95%, question by question.\n"
          "*: of its learning rates the one with the lower validation loss, which counts.")


# ------------------------------------------------------------------------------------------------- times

def times(cfg):
    path, seconds = Path(cfg.folder) / "times.tsv", {}
    if not path.is_file():
        raise Refused(f"{path} is not there: `make tiny` writes it, a line with the seconds of each stage")
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        match = re.fullmatch(r"([^\t]+)\t(\d+(?:\.\d+)?)\s*", line)
        if line.strip() and not match:
            raise Refused(f"{path} line {number} is not a stage, a tab and seconds: {line[:60]!r}. "
                          f"Delete that line.")
        if match:  # a stage that was interrupted has several lines
            seconds[match[1]] = seconds.get(match[1], 0) + float(match[2])
    if not seconds:
        raise Refused(f"{path} holds no stage yet: wait for the first one")
    seconds["together"] = sum(seconds.values())
    print_table(["stage", "minutes"], [[stage, f"{spent / 60:.1f}"] for stage, spent in seconds.items()])


# ------------------------------------------------------------------------------------------------- card

def scores_of(checkpoint, more):
    """[(folder, scores, flags)] of the evaluations of just these weights."""
    from eval_mmmu import fingerprint
    run, found, left = checkpoint.parent, [], []
    inside = sorted({*run.glob("*/scores.json"), *run.glob("*/*/scores.json")})
    for path in [*inside, *map(Path, more)]:
        scores, config = read_scores(path), path.parent / "config.json"
        if (scores.get("data") or {}).get("weights") == fingerprint(checkpoint):
            flags = read_json(config).get("config", {}) if config.is_file() else {}
            found.append((os.path.relpath(path.parent, run), scores, flags))
        else:
            left.append(path)
    if left:
        print(f"left out: {len(left)} scores.json of other weights, or that do not say of which "
              f"({left[0]}{', ...' if len(left) > 1 else ''})")
    return found


def card(cfg):
    checkpoint = Path(resolve(cfg.run, "RUN"))
    refuse_without_run(checkpoint)
    out = Path(cfg.out or checkpoint / "README.md")
    if out.exists():
        raise Refused(f"{out} is there already, and somebody may have written into it: "
                      f"delete it, or name another file with --out")
    text = card_text(checkpoint, scores_of(checkpoint, cfg.scores))
    write_text(out, text)
    if FILL_IN in text:
        print(f"{out}: the base model's license is not readable here. Fill it in, in line 2.")
    print(f"{out}: read it before you upload it. It shows the run's paths and flags, and takes an OWNER/NAME "
          f"that is no folder here for a name of the hub. Then:\n"
          f"hf upload OWNER/NAME {checkpoint} . --exclude \"{TRAINER}/*\"")


def report(cfg):
    commands = {Curves: curves, Compare: compare, Page: page, Table: table, Seeds: seeds, Losses: losses,
                Rules: rules, Parts: parts, Times: times, Card: card}
    commands[type(cfg)](cfg)


if __name__ == "__main__":
    main(report, Curves | Compare | Page | Table | Seeds | Losses | Rules | Parts | Times | Card)
