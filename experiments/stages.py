"""j. Does RL on maths alone carry over to other subjects, and does connector-only tuning add to it?

Paper, MMMU: cold start 68.1, after RL 74.5, after connector-only tuning 76.0. Ours are the runs of `make
tiny` themselves. Maths is the trained subject, the five others are not.
"""
from experiments.lab import ROOT, Config, compared, recipe, report
from machinery.files import main
from machinery.scores import read_scores

EXPECTED = "RL lifts subjects that it never saw, and tuning the connector alone lifts them once more."
WHY = ("what RL changes here is a manner (answer step by step) that all subjects share, and the connector "
       "has only dark pictures left to learn.")
STAGES = {"cold start": "cold_start", "after RL": "rl", "after connector tuning": "connector"}


def run(cfg):
    scores = {name: [] for name in STAGES}
    for seed in cfg.seeds:
        folder = recipe(seed, *(f"{stage}/eval/scores.json" for stage in STAGES.values()))
        for name, stage in STAGES.items():
            scores[name].append(read_scores(ROOT / folder / stage / "eval" / "scores.json"))
    rows = compared(scores, "after RL", "cold start", "MMMU +6.4", "higher")
    rows += compared(scores, "after connector tuning", "after RL", "MMMU +1.5", "higher")
    report("stages", cfg, rows, EXPECTED, WHY)


if __name__ == "__main__":
    main(run, Config)
