"""b. Which rule picks the best checkpoint of an RL run?

Paper (section 5.1): the entropy of critical tokens tracks the validation accuracy; the reward keeps rising
for a model that only imitates, so it can not choose. Ours: eight checkpoints each of the GRPO run of `make
tiny`, of one whose learning rate is ten times too high, of the runs from a weaker base, with a Q-Former and
with a Qwen2.5-VL. Each rule takes one of them, and the evaluation's held-out questions judge it (700 of
each run; seven rules, and the best checkpoint in hindsight).
"""
from statistics import mean

from experiments import qformer, qwen, weak_base
from experiments.lab import QUESTIONS, ROOT, Config, Row, once, recipe, report, rl, selected, tiny
from machinery.files import main
from machinery.intervals import pooled
from machinery.rules import INDICATORS, read_selection

EXPECTED = "critical entropy tracks accuracy over the checkpoints, and picks better than the reward."
WHY = ("critical words are frequent here where a search needs them, and RL makes the model sure of them "
       "while it becomes right more often. What keeps the rule from checkpoints that have collapsed "
       "(learning rate 1e-3) is the accuracy gate in front of it; so it beats the last checkpoint.")


def runs_of(cfg, seed):
    """{name: RL run with eight checkpoints}"""
    return {"make tiny": recipe(seed, "select.done") / "rl",
            "learning rate 1e-3": rl(cfg, seed, "rules/lr_1e-3", lr=1e-3, save_every=5),
            "half the training": weak_base.learned(cfg, seed, "half the training")[1],
            "Q-Former": qformer.learned(cfg, seed)[1],
            "Qwen2.5-VL": qwen.learned(cfg, seed)[1]["nothing frozen"]}


def judged(seed, run):
    """The run's checkpoints with what every rule looks at, and their scores"""
    flags = {**QUESTIONS, "data": tiny(seed, "data/tiny") / "mmmu", "runs": 1}
    once("eval_mmmu.py", f"{run}/eval_steps", model=selected(seed, run), checkpoints=True, limit=700, **flags)
    return read_selection(ROOT / run)


def lost(run, key):
    """(what the chosen checkpoint has more than that of a rule, in accuracy over all subjects; its error)"""
    difference, error = run.beyond_chosen(run.best() if key == "best" else run.taken()[key])
    return -difference, error or 0.0  # the same checkpoint: no error


def picked(found, key, name):
    """Row: what the checkpoint that critical entropy chose has more than another rule's, mean of the runs"""
    row = Row("critical entropy", name, "all", *("can not choose", "higher") if key == "reward" else ("", ""))
    for runs in found:
        value, error = pooled(*zip(*(lost(run, key) for run in runs)))
        row.values.append(value)
        row.errors.append(error)
        row.levels.append(mean(run.checkpoints[run.chosen]["result"]["all"] for run in runs))
    return row


def tracked(found, key, name):
    """Row: Spearman's correlation over the eight checkpoints, mean of the runs that have one"""
    expected = ("tracks it", "higher") if key == "critical_entropy" else ("", "")
    row = Row(name, "accuracy", "rho", *expected, errors=[None] * len(found))
    for runs in found:
        known = [rho for rho in (run.correlation(key) for run in runs) if rho is not None]
        row.values.append(mean(known) if known else 0.0)  # what never changes tracks nothing
    row.levels = row.values
    return row


def run(cfg):
    found = [[judged(seed, run) for run in runs_of(cfg, seed).values()] for seed in cfg.seeds]
    others = {key: name for key, name in INDICATORS.items() if key != "critical_entropy"}
    rows = [picked(found, key, name) for key, name in {**others, "best": "the best in hindsight"}.items()]
    rows += [tracked(found, key, name) for key, name in INDICATORS.items()]
    report("rules", cfg, rows, EXPECTED, WHY)


if __name__ == "__main__":
    main(run, Config)
