"""l. A high against a low learning rate in RL.

Paper (section 5.4): with 1e-5 the reward rises faster than with 1e-6 at first; later the entropy shoots
up or collapses and the policy unlearns. Ours: 1e-4 is the rate of `make tiny`; ten times less and ten
times more.
"""
from experiments.lab import Config, compared, logged, report, rl_arms
from machinery.files import main

EXPECTED = "the low rate gains less in 40 steps, the high one unlearns."
WHY = "rates of a model with 2M parameters are larger, so only their order can be compared."
ARMS = {"lr 1e-4": {}, "lr 1e-5": {"lr": 1e-5}, "lr 1e-3": {"lr": 1e-3}}


def run(cfg):
    runs, scores = rl_arms(cfg, ARMS)
    rows = compared(scores, "lr 1e-5", "lr 1e-4", "slower", "lower")
    rows += compared(scores, "lr 1e-3", "lr 1e-4", "unlearns", "lower")
    rows += [logged(runs, arm, "lr 1e-4", "entropy", "", "") for arm in ("lr 1e-5", "lr 1e-3")]
    report("learning_rate", cfg, rows, EXPECTED, WHY, runs)


if __name__ == "__main__":
    main(run, Config)
