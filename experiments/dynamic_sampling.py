"""n. Dynamic sampling: groups that are all right or all wrong are replaced by new ones. Steps are compared,
not seconds."""
from statistics import mean, stdev

from experiments.lab import compared, logged, measured, rl_arms, series

ARMS = {"plain": {}, "dynamic sampling": {"dynamic_sampling": True}}


def swing(run):
    """Standard deviation of the gradient norm over its mean, after the first five steps"""
    values = series(run, "grad_norm")[5:]
    return stdev(values) / mean(values)


def run(cfg):
    runs, scores = rl_arms(cfg, ARMS)
    arms = "dynamic sampling", "plain"
    after, before = ([swing(run) for run in runs[arm]] for arm in arms)
    return [*compared(scores, *arms, "no gain", "equal"),
            measured(*arms, "swing of grad_norm", before, after, "steadier", "lower"),
            logged(runs, *arms, "groups_mixed")]
