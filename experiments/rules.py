"""Which checkpoint of an RL run each rule takes, and what the evaluation's held-out questions say of it."""
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np

from machinery.files import Refused, read_json, read_jsonl
from machinery.tables import percent, points, pooled, print_table, spearman
from machinery.scores import gain, stage_result

INDICATORS = {"critical_entropy": "critical entropy", "entropy": "entropy of all tokens",
              "entropy_high": "share of high-entropy tokens", "reward": "reward", "low_loss": "lowest loss",
              "step": "last", "gated": "last within the accuracy gate", "accuracy": "validation",
              "doubtful": "accuracy on doubtful questions"}  # what each rule takes the highest of
RULES = {**INDICATORS, "all": "the best in hindsight"}


@dataclass(eq=False)
class Selection:
    """One run: its checkpoints in order, and what was chosen."""
    run: str
    checkpoints: dict  # step: what entropy_select.py measured, "reward", "low_loss", and "all": its accuracy
    scores: dict       # step: scores.json of its evaluation
    chosen: int        # the step that entropy_select.py took
    min_count: int     # with fewer critical words a checkpoint's entropy says nothing

    def taken(self, rule):
        """The step with the highest value, the later one of equals"""
        known = [(c[rule], step) for step, c in self.checkpoints.items() if c[rule] is not None]
        return self.chosen if rule == "critical_entropy" or not known else max(known)[1]

    def beyond_chosen(self, rule):
        """(what the rule's checkpoint has more than the chosen one, mean over all subjects; its error)"""
        more = gain(self.scores[self.chosen], self.scores[self.taken(rule)], (self.run, self.run))
        return more["all"], more["all_se"] or 0.0

    def correlation(self, key):
        """Spearman's between an indicator and the score on the evaluation set, over the checkpoints."""
        rows = [c for c in self.checkpoints.values() if c[key] is not None
                and (key != "critical_entropy" or c["count"] >= self.min_count)]
        return spearman([c[key] for c in rows], [c["all"] for c in rows])


def read_selection(run):
    """What entropy_select.py, grpo.py and the evaluations of the checkpoints left in the run's folder."""
    about, steps, first = read_json(Path(run) / "selection.json"), read_jsonl(Path(run) / "metrics.jsonl"), 0
    checkpoints, scores = {}, {}
    for row in sorted(about["checkpoints"], key=lambda row: row["step"]):
        step, path = row["step"], Path(run) / "eval_steps" / row["checkpoint"] / "scores.json"
        if not path.is_file():
            raise Refused(f"{path} is not there. This makes it, with the flags of your other evaluations:\n"
                          f"python eval_mmmu.py --model {run} --checkpoints --out {run}/eval_steps")
        scores[step] = read_json(path)
        checkpoints[step] = {**row, "all": stage_result(scores[step])["all"]}
        for key, metric, sign in (("reward", "reward", 1), ("low_loss", "loss", -1)):
            # of the steps that led from the checkpoint before to this one
            values = [m[metric] for m in steps if first < m["step"] <= step and m.get(metric) is not None]
            checkpoints[step][key] = sign * mean(values) if values else None
        first = step
        checkpoints[step]["gated"] = None if "below the best" in row.get("set_aside", "") else step
    for row, value in zip(checkpoints.values(), on_doubtful(checkpoints.values())):
        row["doubtful"] = value
    return Selection(str(run), checkpoints, scores, about["chosen"], about["min_count"])


def on_doubtful(checkpoints, share=0.25):
    """Accuracy of each checkpoint and the one before on the validation questions of which the run is least
    sure, those that are right about half of the time; after UGCS (arXiv 2511.09864), which takes them from
    the rollouts of a window of steps"""
    right = np.array([c["question_accuracy"] for c in checkpoints])                # (checkpoints, questions)
    doubtful = np.abs(right.mean(0) - 0.5).argsort(kind="stable")[:max(1, int(share * right.shape[1]))]
    of_each = right[:, doubtful].mean(1)
    return [float(of_each[max(0, i - 1):i + 1].mean()) for i in range(len(of_each))]


def print_rules(runs):
    """A line for each rule; steps and correlations are those of the runs, one after the other."""
    lines = []
    for rule, name in RULES.items():
        steps = [run.taken(rule) for run in runs]
        accuracy = mean(run.checkpoints[step]["all"] for run, step in zip(runs, steps))
        more = pooled(*zip(*(run.beyond_chosen(rule) for run in runs)))
        rho = [run.correlation(rule) for run in runs]
        lines.append([name, " ".join(map(str, steps)), percent(accuracy), points(*more),
                      " ".join("-" if r is None else f"{r:.2f}" for r in rho)])
    print_table(["rule", "steps", "accuracy %", "minus critical entropy's (95%)", "Spearman's rho"], lines)
