"""Which checkpoint of an RL run each rule would have taken, and what that one scores on the evaluation set.

The rules: critical entropy (what entropy_select.py chose), the highest entropy of all tokens, the largest
share of tokens with high entropy, the highest reward, the lowest loss, the last checkpoint, the best
validation accuracy. No torch.
"""
import math
from dataclasses import dataclass
from pathlib import Path

from machinery.files import Refused, checked, read_json, read_jsonl
from machinery.intervals import pooled, spearman
from machinery.scores import NUMBER, gain, read_scores, refuse_other_questions, stage_result
from machinery.tables import percent, points, print_table

INDICATORS = {"critical_entropy": "critical entropy", "entropy": "entropy of all tokens",
              "entropy_high": "share of high-entropy tokens", "reward": "reward", "low_loss": "lowest loss",
              "step": "last", "accuracy": "validation"}  # what each rule takes the highest of
OR_NONE = (*NUMBER, type(None))
FIELDS = {"step": int, "checkpoint": str, "count": int, "critical_entropy": OR_NONE, "entropy": OR_NONE,
          "entropy_high": OR_NONE, "accuracy": NUMBER}


@dataclass(eq=False)
class Selection:
    """One run: its checkpoints in order, and what was chosen."""
    run: str
    checkpoints: dict  # step: what entropy_select.py measured, "reward", "low_loss" and its score: "result"
    scores: dict       # step: scores.json of its evaluation
    chosen: int        # the step that entropy_select.py took
    by_entropy: bool   # False: too few critical words, validation accuracy chose
    min_count: int     # with fewer critical words a checkpoint's entropy says nothing
    maths: str = "Math"

    def taken(self):
        """{indicator: the step with its highest value, the later one of equals}"""
        steps = {"critical_entropy": self.chosen}
        for key in INDICATORS:
            known = [(c[key], step) for step, c in self.checkpoints.items() if c[key] is not None]
            if key not in steps and known:
                steps[key] = max(known)[1]
        return steps

    def best(self):
        """The step that scores highest on the evaluation set."""
        return max((c["result"]["all"], step) for step, c in self.checkpoints.items())[1]

    def beyond_chosen(self, step):
        """(difference of the mean over all subjects to the chosen checkpoint, its standard error)"""
        names = checkpoint(self.run, self.chosen), checkpoint(self.run, step)
        more = gain(self.scores[self.chosen], self.scores[step], names, self.maths)
        return more["all"], more["all_se"]

    def was_right(self):
        """Is the chosen one the best, or is their difference within its interval of 95%?"""
        difference, error = self.beyond_chosen(self.best())
        return difference <= 1.96 * (error or 0)

    def correlation(self, key):
        """Spearman's between an indicator and the score on the evaluation set, over the checkpoints."""
        rows = [c for c in self.checkpoints.values() if c[key] is not None]
        if key == "critical_entropy":
            rows = [c for c in rows if c["count"] >= self.min_count]
        return spearman([c[key] for c in rows], [c["result"]["all"] for c in rows])


def read_selection(run, maths="Math"):
    """What entropy_select.py, grpo.py and the evaluations of the checkpoints left in the run's folder."""
    again = f"Run `python entropy_select.py --folder {run}` again."
    path = Path(run) / "selection.json"
    about = read_json(path, {"chosen": int, "rule": str, "min_count": int, "checkpoints": list}, again)
    rows = [checked(row, f"{path}, checkpoint {i}", FIELDS, again)
            for i, row in enumerate(about["checkpoints"], 1)]
    checkpoints = {row["step"]: row for row in sorted(rows, key=lambda row: row["step"])}
    if about["chosen"] not in checkpoints:
        raise Refused(f"{path} chose step {about['chosen']}, which is none of its checkpoints. {again}")
    add_rewards(run, checkpoints)
    refuse_missing(run, checkpoints)
    scores = {}
    for step, row in checkpoints.items():
        path = evaluation(run, row)
        scores[step] = read_scores(path)
        if "question_accuracy" not in scores[step]:
            raise Refused(f"{path} does not tell the questions apart: an earlier version wrote it. To write "
                          f"it anew: python eval_mmmu.py score --responses {path.parent}/responses.jsonl")
        row["result"] = stage_result(scores[step], maths)
        first = min(scores)
        refuse_other_questions(scores[first], scores[step], (checkpoint(run, first), checkpoint(run, step)))
    return Selection(str(run), checkpoints, scores, about["chosen"], about["rule"] == "critical_entropy",
                     about["min_count"], maths)


def add_rewards(run, checkpoints):
    """The mean reward, and the mean loss with its sign turned, of the steps that led from the checkpoint
    before to this one."""
    rows = read_jsonl(Path(run) / "metrics.jsonl", {"step": int})
    if not rows:
        raise Refused(f"{run}/metrics.jsonl is not there or holds no step: name the folder of a GRPO run")
    first = 0
    for step, checkpoint in checkpoints.items():
        here = [row for row in rows if first < row["step"] <= step]
        for key, metric, sign in (("reward", "reward", 1), ("low_loss", "loss", -1)):
            values = [row.get(metric) for row in here]
            values = [v for v in values if isinstance(v, NUMBER) and math.isfinite(v)]
            checkpoint[key] = sign * sum(values) / len(values) if values else None
        first = step


def checkpoint(run, step):
    return f"{run}/step_{step:06d}"


def evaluation(run, row):
    return Path(run) / "eval_steps" / row["checkpoint"] / "scores.json"


def refuse_missing(run, checkpoints):
    missing = [row["checkpoint"] for row in checkpoints.values() if not evaluation(run, row).is_file()]
    if not missing:
        return
    raise Refused(
        f"{len(missing)} of {len(checkpoints)} checkpoints of {run} have not been evaluated: "
        f"{' '.join(missing)}. This does it, with the flags of your other evaluations added:\n"
        f"python eval_mmmu.py --model {run} --checkpoints --out {run}/eval_steps")


# ------------------------------------------------------------------------------------------------- printing

def print_rules(runs):
    """What each rule takes in each run, and whether what was chosen is as good as the best."""
    for run in runs:
        print_checkpoints(run)
    taken, lines = [run.taken() for run in runs], []
    for key, name in INDICATORS.items():
        steps = [(run, step[key]) for run, step in zip(runs, taken) if key in step]
        lines += [rule_line(name, run, step) for run, step in steps]
        if len(runs) > 1 and steps:
            results = [run.checkpoints[step]["result"] for run, step in steps]
            more = pooled(*zip(*(run.beyond_chosen(step) for run, step in steps)))
            lines.append([name, f"mean of {len(steps)}", "", *map(percent, means(results)), points(*more)])
    print_table(["rule", "run", "step", "maths %", "others %", "all %", "minus the chosen (95%)"], lines)
    names = {**INDICATORS, "step": "step"}
    lines = [[name, *(digits(run.correlation(key)) for run in runs)] for key, name in names.items()]
    print_table(["Spearman's rho with all %", *(run.run for run in runs)], lines)
    for run in runs:
        print(verdict(run))
    if len(runs) > 1:
        right = [run for run in runs if run.was_right()]
        decided = [run for run in runs if run.by_entropy]
        print(f"Entropy decided in {len(decided)} of {len(runs)} runs and was right in "
              f"{sum(run in right for run in decided)} of them; of all choices {len(right)} were right.")


def print_checkpoints(run):
    lines = []
    for step, c in run.checkpoints.items():
        numbers = (digits(c[key], 3) for key in ("critical_entropy", "entropy", "reward"))
        lines.append([f"step {step}", c["count"], *numbers, percent(c["accuracy"]), *scored(c["result"])])
    print_table([run.run, "critical words", "their entropy", "entropy of all", "reward", "validation %",
                 "maths %", "others %", "all %"], lines)


def rule_line(name, run, step):
    if name == INDICATORS["critical_entropy"] and not run.by_entropy:
        name += " (fallback: validation)"
    more = "the chosen" if step == run.chosen else points(*run.beyond_chosen(step))
    return [name, run.run, step, *scored(run.checkpoints[step]["result"]), more]


def verdict(run):
    best = run.best()
    how = "critical entropy" if run.by_entropy else "validation accuracy, because entropy could not decide"
    text = f"{run.run}: step {run.chosen} was chosen by {how}. "
    if best == run.chosen:
        return text + "It is the best on the evaluation set: right."
    text += f"Step {best} is the best on the evaluation set, {points(*run.beyond_chosen(best))}: "
    return text + ("right, the difference is within its interval." if run.was_right() else "wrong.")


def scored(result):
    return [percent(result[key]) for key in ("maths", "others", "all")]


def means(results):
    values = [[r[key] for r in results] for key in ("maths", "others", "all")]
    return [None if None in v else sum(v) / len(v) for v in values]


def digits(value, many=2):
    return "-" if value is None else f"{value:.{many}f}"
