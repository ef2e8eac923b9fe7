"""n. Dynamic sampling: groups that are all right or all wrong are replaced by new ones.

Paper: steadier training, no gain at validation. Ours: `--dynamic_sampling`, else the GRPO
run of `make tiny`. It samples more, so a step takes longer; steps are compared, not seconds.
"""
from experiments.lab import Config, Row, compared, logged, report, rl_arms, series
from machinery.files import main

EXPECTED = "no gain at evaluation, a steadier gradient norm."
WHY = "fewer groups are without spread here than in a large set of K12 problems, so fewer are replaced."
ARMS = {"plain": {}, "dynamic sampling": {"dynamic_sampling": True}}


def swing(run):
    """Standard deviation of the gradient norm over its mean, after the first five steps"""
    values = series(run, "grad_norm")[5:]
    middle = sum(values) / len(values)
    return (sum((v - middle) ** 2 for v in values) / (len(values) - 1)) ** 0.5 / middle


def run(cfg):
    runs, scores = rl_arms(cfg, ARMS)
    rows = compared(scores, "dynamic sampling", "plain", "no gain", "equal")
    swings = {arm: [swing(r) for r in of_seeds] for arm, of_seeds in runs.items()}
    more = [b - a for a, b in zip(swings["plain"], swings["dynamic sampling"])]
    rows.append(Row("dynamic sampling", "plain", "swing of grad_norm", "steadier", "lower", more,
                    [None] * len(more), swings["dynamic sampling"]))
    rows.append(logged(runs, "dynamic sampling", "plain", "groups_mixed", "", ""))
    report("dynamic_sampling", cfg, rows, EXPECTED, WHY, runs)


if __name__ == "__main__":
    main(run, Config)
