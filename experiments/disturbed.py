"""a. once more: the connector frozen during RL, where it has something to learn.

Paper (section 5.2): with the connector frozen the reward falls sharply and the text becomes repetitive. Ours:
the cold start of `make tiny` with noise of half their size on the matrices of its connector, and with a
connector that was never aligned; then RL with and without it.
"""
from functools import partial

import torch

from experiments.freezing import FREEZE, SIGNS
from experiments.lab import ROOT, Config, compared, logged, once, recipe, report, rl_arms
from machinery.files import main, new_folder
from model import load

EXPECTED = "without the connector RL cannot repair what it sees, and collapses."
WHY = ("a disturbed connector costs three to five points in the end, and encoder and LLM learn around it as "
       "well as it learns itself; through one that was never aligned nothing is seen, and the reward of "
       "guesses aligns it in 40 steps neither frozen nor free.")


def disturbed(cfg, seed):
    """The cold start with noise on the matrices of its connector, as a model folder"""
    folder = ROOT / cfg.out / f"seed{seed}" / "disturbed"
    if not folder.exists():
        vlm, g = load(str(ROOT / recipe(seed, "cold_start.done") / "cold_start")), torch.Generator()
        with torch.no_grad():
            for p in vlm.parts()["connector"].values():
                if p.ndim == 2:
                    p += 0.5 * p.std() * torch.randn(p.shape, generator=g.manual_seed(seed))
        with new_folder(folder) as part:
            vlm.save(part)
    return str(folder.relative_to(ROOT))


def fresh(cfg, seed):
    """The cold start with a new connector in place of its own"""
    start = recipe(seed, "cold_start.done") / "cold_start"
    return once("connector.py", f"{cfg.out}/seed{seed}/fresh", model=start, connector="mlp", seed=seed)


def run(cfg):
    rows, everything = [], {}
    for kind, start in (("disturbed", disturbed), ("never aligned", fresh)):
        def flags(seed, arm, start=start):
            return {"model": start(cfg, seed), **FREEZE[arm]}

        arms = {f"{kind}, {arm}": partial(flags, arm=arm) for arm in ("nothing frozen", "connector frozen")}
        runs, scores = rl_arms(cfg, arms)
        whole, frozen = arms
        rows += compared(scores, frozen, whole, "collapse", "lower")
        rows += [logged(runs, frozen, whole, *sign) for sign in SIGNS]
        everything |= runs
    report("disturbed", cfg, rows, EXPECTED, WHY, everything)


if __name__ == "__main__":
    main(run, Config)
