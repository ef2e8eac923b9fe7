"""What the experiments share: runs of the stage scripts, each made once, and the comparison of their scores.

An experiment returns rows, from a few calls. `recipe` is `make tiny` itself; `rl` is its GRPO run again with
other flags; `evaluate` asks the same questions of every model (400 of maths, 5 x 200 others, each twice). All
of it lies in out/tiny, out/tiny-seed1, ... and out/experiments; what is finished is not made again, and what
was interrupted goes on, because the scripts themselves do.

Two models of one seed answered the same questions. So a difference is taken question by question, and its 95%
interval is that of all seeds' questions together.
"""
import json
import math
import subprocess
import sys
from pathlib import Path
from statistics import mean

from experiments.rows import Row
from machinery.files import Refused, read_json, read_jsonl, write_json, write_text
from machinery.scores import gain, stage_result

ROOT = Path(__file__).parent.parent
QUESTIONS = {"max_new_tokens": 160, "chunk": 2048, "rollout_batch": 2048, "runs": 2}  # as in the Makefile
PROBE = {"probe": 128, "samples": 4, "max_new_tokens": 160, "high_entropy": 1}  # and there, of the probe


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
    finished, words = ROOT / f"{out}.finished", [script, *map(str, words_of({**flags, "out": out}))]
    if not finished.exists() or read_json(finished)["command"] != words:
        call([sys.executable, *words])
        write_json(finished, {"command": words})
    return Path(out)


def flags_of(run):
    """All flags of a run but --out, from its config.json"""
    flags = read_json(ROOT / run / "config.json")["config"]
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


def rl(cfg, seed, name, **changes):
    """`make tiny`'s GRPO run, but for the changes; one checkpoint, the last, unless save_every is among them.
    Returns the run folder, which without changes is that of `make tiny`."""
    run = recipe(seed, "rl.done") / "rl"
    if not changes:
        return run
    flags = flags_of(run)
    flags["save_every"] = changes.get("steps", flags["steps"])
    return once("grpo.py", f"{cfg.out}/seed{seed}/{name.replace(' ', '_')}", **{**flags, **changes})


def rows_file(cfg, seed, name, rows, images):
    """JSON lines for a stage, as its flags; image paths in the rows start from the folder `images`"""
    path = ROOT / cfg.out / f"seed{seed}" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return {"data": path.relative_to(ROOT), "image_root": images}


def arms(cfg, models_of):
    """models_of(cfg, seed) -> {name: model or run}. Returns ({name: [of each seed]}, {name: [its scores]})"""
    of_seeds = [models_of(cfg, seed) for seed in cfg.seeds]
    runs = {name: [models[name] for models in of_seeds] for name in of_seeds[0]}
    return runs, {name: [evaluate(cfg, *pair) for pair in zip(cfg.seeds, of)] for name, of in runs.items()}


def rl_arms(cfg, changes):
    """`arms` of RL runs. changes {name: flags}"""
    return arms(cfg, lambda cfg, seed: {name: rl(cfg, seed, name, **of) for name, of in changes.items()})


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
    return read_json(ROOT / out / "scores.json")


def selected(of, run, **flags):
    """A run of several checkpoints once entropy_select.py has chosen one, with the flags of `make tiny`"""
    if not (ROOT / run / "selection.json").exists():
        flags = {"folder": run, "data": tiny(of, "data/tiny") / "val.jsonl", "seed": of, **PROBE, **flags}
        call([sys.executable, "entropy_select.py", *words_of(flags)])
    return run


def series(run, metric):
    """Values of a metric, step by step, where there was something to measure"""
    values = (row.get(metric) for row in read_jsonl(ROOT / run / "metrics.jsonl"))
    return [v for v in values if v is not None]


# ------------------------------------------------------------------------------------------------ comparisons

def compared(scores, arm, against, paper="", expected="", measures=("maths", "others")):
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


def beyond(scores, arm, against):
    """Rows of how much more one gain is than another: arm and against are (before, after), names in scores"""
    rows = []
    for ours, theirs in zip(compared(scores, *arm[::-1]), compared(scores, *against[::-1])):
        row = Row(f"{arm[1]} - {arm[0]}", f"{against[1]} - {against[0]}", ours.measure, levels=ours.values)
        row.values = [a - b for a, b in zip(ours.values, theirs.values)]
        row.errors = [math.hypot(a, b) for a, b in zip(ours.errors, theirs.errors)]
        rows.append(row)
    return rows


def measured(arm, against, measure, before, after, paper="", expected=""):
    """A row of anything else that was measured, before and after: a value of each seed"""
    more = [b - a for a, b in zip(before, after, strict=True)]
    return Row(arm, against, measure, paper, expected, more, [None] * len(more), after)


def logged(runs, arm, against, metric, paper="", expected="", last=10):
    """A row of a metric that grpo.py logs, mean of the last steps. runs {arm: [of each seed]}"""
    before, after = ([mean(series(run, metric)[-last:]) for run in runs[name]] for name in (against, arm))
    return measured(arm, against, metric, before, after, paper, expected)
