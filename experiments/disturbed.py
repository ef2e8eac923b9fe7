"""a. once more: the connector frozen during RL, where it has something to learn: with noise of half their
size on its matrices, or never aligned."""
import torch

from experiments.freezing import FREEZE, collapse
from experiments.lab import ROOT, arms, once, recipe, rl
from machinery.files import new_folder
from model import load


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
    def models(cfg, seed):
        return {f"{kind}, {arm}": rl(cfg, seed, f"{kind}, {arm}", model=start(cfg, seed), **FREEZE[arm])
                for kind, start in (("disturbed", disturbed), ("never aligned", fresh))
                for arm in ("nothing frozen", "connector frozen")}

    found = arms(cfg, models)
    return [row for kind in ("disturbed", "never aligned")
            for row in collapse(*found, f"{kind}, connector frozen", f"{kind}, nothing frozen")]
