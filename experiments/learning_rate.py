"""l. A high against a low learning rate in RL: ten times less and more than `make tiny`'s."""
from experiments.lab import compared, logged, rl_arms

ARMS = {"lr 1e-4": {}, "lr 1e-5": {"lr": 1e-5}, "lr 1e-3": {"lr": 1e-3}}


def run(cfg):
    runs, scores = rl_arms(cfg, ARMS)
    return [*compared(scores, "lr 1e-5", "lr 1e-4", "slower", "lower"),
            *compared(scores, "lr 1e-3", "lr 1e-4", "unlearns", "lower"),
            *(logged(runs, arm, "lr 1e-4", "entropy") for arm in ("lr 1e-5", "lr 1e-3"))]
