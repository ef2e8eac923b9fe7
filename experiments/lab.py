"""What the findings share: runs of the stage scripts, each made once, and the comparison of their scores.

A finding returns rows, from a few calls. `Seed.recipe` is `make tiny` itself; `Seed.rl` is its GRPO run again
with other flags; `Seed.evaluate` asks the same questions of every model (400 of maths, 5 x 200 others, each
twice). All of it lies in out/tiny, out/tiny-seed1, ... and out/experiments; what is finished is not made
again, and what was interrupted goes on, because the scripts themselves do.
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

# as in the Makefile: of eval_mmmu.py, and of entropy_select.py
QUESTIONS = {"max_new_tokens": 160, "chunk": 2048, "rollout_batch": 2048, "runs": 2, "dtype": "fp32"}
PROBE = {"probe": 128, "samples": 4, "max_new_tokens": 160, "high_entropy": 1, "dtype": "fp32"}


def call(words):
    if (done := subprocess.run([str(w) for w in words])).returncode:
        raise Refused(f"{' '.join(map(str, words))} ended with {done.returncode}: what it said stands above. "
                      f"The same command goes on from there.")


def words_of(flags):
    """{flag: value} -> words of a command line"""
    words = []
    for name, value in flags.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif value not in (None, "", [], ()):
            words += [f"--{name}", *(value if isinstance(value, (list, tuple)) else [value])]
    return words


def once(script, out, **flags):
    """Run a stage script with `--out out`, unless it has finished there with these flags. Returns out. Where
    it was run with others, the script itself refuses to go on."""
    finished, words = Path(f"{out}.finished"), [script, *map(str, words_of({**flags, "out": out}))]
    if not finished.exists() or read_json(finished) != words:
        call([sys.executable, *words])
        write_json(finished, words)
    return Path(out)


def series(run, metric):
    """Values of a metric, step by step, where there was something to measure"""
    values = (row.get(metric) for row in read_jsonl(run / "metrics.jsonl"))
    return [v for v in values if v is not None]


class Seed:
    """A seed of the world, of its trained model and of all that follows."""

    def __init__(self, number, out):
        more = f"-seed{number}" if number else ""
        self.number, self.out = number, Path(out) / f"seed{number}"  # of runs that `make tiny` does not make
        self.folder, self.world = Path(f"out/tiny{more}"), Path(f"data/tiny{more}")  # of `make tiny`

    def recipe(self, *targets):
        """`make tiny` with this seed, up to targets such as "rl.done". Returns its folder."""
        if missing := [str(self.folder / t) for t in targets if not (self.folder / t).exists()]:
            call(["make", "-o", ".venv/ready", f"PY={sys.executable}", f"SEED={self.number}", *missing])
        return self.folder

    def again(self, stage, where, **changes):
        """A stage of `make tiny` with its flags but for the changes"""
        script = {"rl": "grpo.py", "connector": "connector_tune.py"}.get(stage, "sft.py")
        flags = read_json(self.recipe(f"{stage}.done") / stage / "config.json")["config"] | changes
        del flags["out"]
        return once(script, self.out / where.replace(" ", "_"), **flags)

    def rl(self, name, **changes):
        """`make tiny`'s GRPO run, but for the changes; one checkpoint, the last, unless save_every is among
        them. Returns the run folder, which without changes is that of `make tiny`."""
        run = self.recipe("rl.done") / "rl"
        if not changes:
            return run
        steps = read_json(run / "config.json")["config"]["steps"]
        return self.again("rl", name, **{"save_every": steps, **changes})

    def schooled(self, where, model, stages=("base", "cold_start")):
        """The last of these stages of `make tiny`, one behind the other, from another model"""
        for stage in stages:
            model = self.again(stage, f"{where}/{stage}", model=model)
        return model

    def taught(self, where, **flags):
        """The cold start of a tiny model of another kind, from nothing (flags of tiny/blank_model.py)"""
        blank = once("tiny/blank_model.py", self.out / where / "model", seed=self.number, **flags)
        encoder = once("tiny/encoder.py", self.out / where / "encoder", model=blank, seed=self.number)
        return self.schooled(where, encoder)

    def rows(self, name):
        """Of one of the world's files"""
        self.recipe("encoder.done")  # the first stage that has a world
        return read_jsonl(self.world / f"{name}.jsonl")

    def rows_file(self, name, rows):
        """JSON lines for a stage, as its flags; the rows' pictures are the world's"""
        path = self.out / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        return {"data": path, "image_root": self.world}

    def evaluated(self, model, name="eval", chosen=False):
        """Where `evaluate` leaves scores.json and responses.jsonl"""
        return self.out / name / (str(model).replace("/", "+") + "+chosen" * chosen)

    def evaluate(self, model, name="eval", chosen=False, **flags):
        """scores.json of a model, or of a run's last checkpoint (chosen: of its selected one), on the
        evaluation questions"""
        steps, out = sorted(model.glob("step_*")), self.evaluated(model, name, chosen)
        flags = {"data": self.world / "mmmu", **QUESTIONS, **flags}
        once("eval_mmmu.py", out, model=steps[-1] if steps and not chosen else model, **flags)
        return read_json(out / "scores.json")

    def selected(self, run, **flags):
        """A run of several checkpoints once entropy_select.py has chosen one, as in `make tiny`"""
        if not (run / "selection.json").exists():
            flags = {"folder": run, "data": self.world / "val.jsonl", "seed": self.number, **PROBE, **flags}
            call([sys.executable, "entropy_select.py", *words_of(flags)])
        return run


# ------------------------------------------------------------------------------------------------ comparisons

def arms(seeds, models_of, **asked):
    """models_of(seed) -> {name: model or run}; asked: `evaluate`'s flags. Returns ({name: [of each seed]},
    {name: [its scores]})"""
    of_seeds = [models_of(seed) for seed in seeds]
    runs = {name: [models[name] for models in of_seeds] for name in of_seeds[0]}
    return runs, {name: [seed.evaluate(model, **asked) for seed, model in zip(seeds, of)]
                  for name, of in runs.items()}


def rl_arms(seeds, changes):
    """`arms` of RL runs. changes {name: flags}"""
    return arms(seeds, lambda seed: {name: seed.rl(name, **of) for name, of in changes.items()})


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
