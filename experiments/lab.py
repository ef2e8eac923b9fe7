"""What the experiments share: runs of the stage scripts, each made once, and the comparison of their
scores.

An experiment is a list of arms and a few calls. `recipe` is `make tiny` itself; `rl` is its GRPO run
again with other flags; `evaluate` asks the same questions of every model (400 of maths, 5 x 200 others,
each twice). All of it lies in out/tiny, out/tiny-seed1, ... and out/experiments; what is finished is not
made again, and what was interrupted goes on, because the scripts themselves do.

Two models of one seed answered the same questions. So a difference is taken question by question, its 95%
interval is that of all seeds' questions together, and the smallest effect that could be seen is two
standard errors of it. `report` writes results/NAME.json and NAME.png, from which `python -m
experiments.table` makes the README.
"""
import json
import math
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from experiments import table
from experiments.table import Row
from machinery.files import Refused, read_json, read_jsonl, say, write_json, write_text
from machinery.run import versions
from machinery.scores import gain, read_scores, stage_result

ROOT = Path(__file__).parent.parent
MINUTES = {}  # of each run that this experiment asked for, whenever it was made
QUESTIONS = {"max_new_tokens": 160, "chunk": 2048, "rollout_batch": 2048, "runs": 2}  # as in the Makefile
PROBE = {"probe": 128, "samples": 4, "max_new_tokens": 160, "high_entropy": 1}  # and there, of the probe


@dataclass
class Config:
    seeds: tuple[int, ...] = (0, 1, 2)  # of the world, its trained model and all that follows
    out: str = "out/experiments"        # runs that `make tiny` does not make


# -------------------------------------------------------------------------------------------- runs, once each

def tiny(seed, what="out/tiny"):
    """The folder of `make tiny` with that seed, or of its world ("data/tiny")."""
    return Path(what + (f"-seed{seed}" if seed else ""))


def recipe(seed, *targets):
    """`make tiny SEED=seed` up to targets such as "rl.done". Returns its folder."""
    folder = tiny(seed)
    if missing := [str(folder / t) for t in targets if not (ROOT / folder / t).exists()]:
        call(["make", "-o", ".venv/ready", f"PY={sys.executable}", f"SEED={seed}", *missing])
    return folder


def call(words):
    if (done := subprocess.run([str(w) for w in words], cwd=ROOT)).returncode:
        raise Refused(f"{' '.join(map(str, words))} ended with {done.returncode}: what it said stands above. "
                      f"The same command goes on from there.")


def words_of(flags):
    """{flag: value} -> words of a command line"""
    words = []
    for name, value in flags.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, (list, tuple)):
            words += [f"--{name}", *value] if value else []
        elif value not in (None, ""):
            words += [f"--{name}", value]
    return words


def once(script, out, **flags):
    """Run a stage script with `--out out`, unless it has finished there with these flags. Returns out. Where
    it was run with others, the script itself refuses to go on."""
    out = Path(out)
    finished, words = ROOT / f"{out}.finished", [*script.split(), *map(str, words_of({**flags, "out": out}))]
    before = read_json(finished) if finished.exists() else {}
    if before.get("command") != words:
        begin = time.time()
        call([sys.executable, *words])
        before = {"minutes": (time.time() - begin) / 60, "command": words}
        write_json(finished, before)
    MINUTES[str(out)] = before["minutes"]
    return out


def flags_of(run):
    """All flags of a run but --out, from its config.json"""
    flags = read_json(ROOT / run / "config.json", {"config": dict})["config"]
    return {name: value for name, value in flags.items() if name != "out"}


def schooled(seed, where, model, stages=("captions", "base", "cold_start")):
    """The last of these stages of `make tiny`, one behind the other, with its flags but another model"""
    folder = recipe(seed, "cold_start.done")
    for stage in stages:
        model = once("sft.py", f"{where}/{stage}", **{**flags_of(folder / stage), "model": model})
    return model


def taught(seed, where, **flags):
    """The cold start of a tiny model of another kind, from nothing (flags of tiny/blank_model.py)"""
    blank = once("tiny/blank_model.py", f"{where}/model", seed=seed, **flags)
    return schooled(seed, where, once("tiny/encoder.py", f"{where}/encoder", model=blank, seed=seed))


def rl(cfg, seed, name, script="grpo.py", **changes):
    """`make tiny`'s GRPO run, but for the changes; one checkpoint, the last, unless save_every is among them.
    Returns the run folder, which without changes is that of `make tiny`."""
    run = recipe(seed, "rl.done") / "rl"
    if not changes:
        return run
    flags = flags_of(run)
    flags["save_every"] = changes.get("steps", flags["steps"])
    return once(script, f"{cfg.out}/seed{seed}/{name.replace(' ', '_')}", **{**flags, **changes})


def rows_file(cfg, seed, name, rows, images):
    """JSON lines for a stage, as its flags; image paths in the rows start from the folder `images`"""
    path = ROOT / cfg.out / f"seed{seed}" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return {"data": path.relative_to(ROOT), "image_root": images}


def rl_arms(cfg, arms):
    """arms {name: changes, or function of the seed that returns them} -> ({name: [run of each seed]},
    {name: [scores of each seed]})"""
    runs, scores = {name: [] for name in arms}, {name: [] for name in arms}
    for seed in cfg.seeds:
        for name, changes in arms.items():
            run = rl(cfg, seed, name, **(changes(seed) if callable(changes) else changes))
            runs[name].append(run)
            scores[name].append(evaluate(cfg, seed, run))
    return runs, scores


def evaluated(cfg, seed, model, name="eval", chosen=False):
    """Where `evaluate` leaves scores.json and responses.jsonl"""
    return f"{cfg.out}/seed{seed}/{name}/{str(model).replace('/', '+')}" + "+chosen" * chosen


def evaluate(cfg, seed, model, name="eval", chosen=False, **flags):
    """scores.json of a model, or of a run's last checkpoint (chosen: of its selected one), on the evaluation
    questions of that seed."""
    steps = [] if chosen else sorted((ROOT / model).glob("step_*"))
    flags = {"data": tiny(seed, "data/tiny") / "mmmu", **QUESTIONS, **flags}
    out = evaluated(cfg, seed, model, name, chosen)
    once("eval_mmmu.py", out, model=steps[-1].relative_to(ROOT) if steps else model, **flags)
    return read_scores(ROOT / out / "scores.json")


def selected(seed, run):
    """A run of several checkpoints once entropy_select.py has chosen one, with the flags of `make tiny`"""
    if not (ROOT / run / "selection.json").exists():
        flags = {"folder": run, "data": tiny(seed, "data/tiny") / "val.jsonl", "seed": seed, **PROBE}
        call([sys.executable, "entropy_select.py", *words_of(flags)])
    return run


def series(run, metric):
    """Values of a metric, step by step, where there was something to measure"""
    values = (row.get(metric) for row in read_jsonl(ROOT / run / "metrics.jsonl", {"step": int}))
    return [v for v in values if v is not None]


def mean_of_last(run, metric, last):
    return mean(series(run, metric)[-last:])


# ------------------------------------------------------------------------------------------------ comparisons

def compared(scores, arm, against, paper, expected, measures=("maths", "others")):
    """Rows of an arm against another. scores {arm: [of each seed]}; paper: what it says, expected: its
    direction. What it calls a collapse is five points or more."""
    rows = []
    for measure in measures:
        row = Row(arm, against, measure, paper, expected, at_least=0.05 * ("collapse" in paper))
        for before, after in zip(scores[against], scores[arm], strict=True):
            g = gain(before, after, (against, arm))
            row.values.append(g[measure])
            row.errors.append(g[f"{measure}_se"])
            row.levels.append(stage_result(after)[measure])
        rows.append(row)
    return rows


def beyond(scores, arm, against, paper, expected, measures=("maths", "others")):
    """Rows of how much more one gain is than another: arm and against are (before, after), names in scores"""
    rows = []
    for measure in measures:
        row = Row(f"{arm[1]} - {arm[0]}", f"{against[1]} - {against[0]}", measure, paper, expected)
        ours, theirs = (compared(scores, after, before, "", "", (measure,))[0]
                        for before, after in (arm, against))
        row.values = [a - b for a, b in zip(ours.values, theirs.values)]
        row.errors = [math.hypot(a, b) for a, b in zip(ours.errors, theirs.errors)]
        row.levels = ours.values
        rows.append(row)
    return rows


def logged(runs, arm, against, metric, paper, expected, last=10):
    """A row of a metric that grpo.py logs, mean of the last steps. runs {arm: [of each seed]}"""
    row = Row(arm, against, metric, paper, expected)
    for pair in zip(runs[against], runs[arm], strict=True):
        before, after = (mean_of_last(run, metric, last) for run in pair)
        row.values.append(after - before)
        row.errors.append(None)
        row.levels.append(after)
    return row


def report(name, cfg, rows, expected, why, runs=None):
    """Write results/NAME.json, draw NAME.png, print the rows. expected: what was expected, why: why it may
    differ at this size, a sentence each. runs {arm: [of each seed]}: their rewards are drawn, too."""
    told = {"name": name, "expected": expected, "why": why, "seeds": list(cfg.seeds), **versions(),
            "minutes": sum(MINUTES.values()), "runs": MINUTES, "rows": [vars(row) for row in rows]}
    table.RESULTS.mkdir(exist_ok=True)
    write_json(table.RESULTS / f"{name}.json", told)
    rewards = {arm: [series(run, "reward") for run in runs] for arm, runs in (runs or {}).items()}
    table.draw(rows, rewards, table.RESULTS / f"{name}.png")
    say("\n".join(table.lines(rows)))
    say(f"{name}: {told['minutes']:.1f} minutes of runs beside those of make tiny")
