"""Which checkpoint of an RL run each rule takes, and what the evaluation's held-out questions say of it."""
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from machinery.files import Refused, read_json, read_jsonl
from machinery.intervals import pooled, spearman
from machinery.scores import gain, stage_result
from machinery.tables import percent, points, print_table

INDICATORS = {"critical_entropy": "critical entropy", "entropy": "entropy of all tokens",
              "entropy_high": "share of high-entropy tokens", "reward": "reward", "low_loss": "lowest loss",
              "step": "last", "accuracy": "validation"}  # what each rule takes the highest of


@dataclass(eq=False)
class Selection:
    """One run: its checkpoints in order, and what was chosen."""
    run: str
    checkpoints: dict  # step: what entropy_select.py measured, "reward", "low_loss" and its score: "result"
    scores: dict       # step: scores.json of its evaluation
    chosen: int        # the step that entropy_select.py took
    by_entropy: bool   # False: too few critical words, validation accuracy chose
    min_count: int     # with fewer critical words a checkpoint's entropy says nothing

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
        more = gain(self.scores[self.chosen], self.scores[step], (self.run, self.run))
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
        checkpoints[step] = {**row, "result": stage_result(scores[step])}
        for key, metric, sign in (("reward", "reward", 1), ("low_loss", "loss", -1)):
            # of the steps that led from the checkpoint before to this one
            values = [m[metric] for m in steps if first < m["step"] <= step and m.get(metric) is not None]
            checkpoints[step][key] = sign * sum(values) / len(values) if values else None
        first = step
    return Selection(str(run), checkpoints, scores, about["chosen"], about["rule"] == "critical_entropy",
                     about["min_count"])


# ------------------------------------------------------------------------------------------------- printing

def print_rules(runs):
    """What each rule takes in each run, and whether what was chosen is as good as the best."""
    taken, lines = [run.taken() for run in runs], []
    for key, name in INDICATORS.items():
        steps = [(run, step[key]) for run, step in zip(runs, taken) if key in step]
        for run, step in steps:
            more = "the chosen" if step == run.chosen else points(*run.beyond_chosen(step))
            lines.append([name, run.run, step, *scored([run.checkpoints[step]]), more])
        if len(runs) > 1 and steps:
            more = pooled(*zip(*(run.beyond_chosen(step) for run, step in steps)))
            lines.append([name, f"mean of {len(steps)}", "",
                          *scored([run.checkpoints[step] for run, step in steps]), points(*more)])
    print_table(["rule", "run", "step", "maths %", "others %", "all %", "minus the chosen (95%)"], lines)
    lines = [[name.replace("last", "step"), *(digits(run.correlation(key)) for run in runs)]
             for key, name in INDICATORS.items()]
    print_table(["Spearman's rho with all %", *(run.run for run in runs)], lines)
    for run in runs:
        counts, best = [c["count"] for c in run.checkpoints.values()], run.best()
        print(f"{run.run}: step {run.chosen} was chosen by {'entropy' if run.by_entropy else 'validation'} "
              f"({min(counts)} to {max(counts)} critical words). Best on the evaluation set: step {best}, "
              f"{points(*run.beyond_chosen(best))}: {'right' if run.was_right() else 'wrong'}.")


def scored(checkpoints):
    """Accuracy in maths, the others and all: means of these checkpoints"""
    values = [[c["result"][key] for c in checkpoints] for key in ("maths", "others", "all")]
    return [percent(None if None in v else mean(v)) for v in values]


def digits(value):
    return "-" if value is None else f"{value:.2f}"
