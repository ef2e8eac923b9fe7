"""a. once more: the connector frozen during RL, where it has something to learn.

Paper (section 5.2): with the connector frozen the reward falls sharply and the text becomes repetitive. Ours:
the cold start of `make tiny` with noise of half their size on the matrices of its connector; then RL with and
without it.
"""
import torch

from experiments.freezing import FREEZE, SIGNS
from experiments.lab import ROOT, Config, compared, logged, recipe, report, rl_arms
from machinery.files import main, new_folder
from model import load

EXPECTED = "without the connector RL cannot repair what it sees, and collapses."
WHY = "encoder and LLM can learn around a disturbed connector, too, in a model as small as this."


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


def run(cfg):
    whole, frozen = "nothing frozen", "connector frozen"
    arms = {f"disturbed, {arm}": lambda seed, arm=arm: {"model": disturbed(cfg, seed), **FREEZE[arm]}
            for arm in (whole, frozen)}
    runs, scores = rl_arms(cfg, arms)
    whole, frozen = arms
    rows = compared(scores, frozen, whole, "collapse", "lower")
    rows += [logged(runs, frozen, whole, *sign) for sign in SIGNS]
    report("disturbed", cfg, rows, EXPECTED, WHY, runs)


if __name__ == "__main__":
    main(run, Config)
