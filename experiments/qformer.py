"""g. A Q-Former of nine queries in the MLP's place, after it has learned to say what the MLP says of the same
pictures (from captions alone it does not learn which query reads which cell); then the same cold start and
RL, and RL once more with the Q-Former frozen."""
import numpy as np
import torch
from tqdm import tqdm

from connector import QFormer
from experiments.freezing import FREEZE
from experiments.lab import ROOT, arms, beyond, compared, once, recipe, rl, schooled, tiny
from machinery.files import new_folder
from machinery.rows import open_image
from model import load

PICTURES, STEPS, BATCH, LR = 4000, 1200, 64, 2e-3


def imitate(qformer, features, said):
    """Teach a Q-Former to make the tokens said (pictures, queries, d) of features (pictures, patches,
    width)"""
    optimizer = torch.optim.AdamW(qformer.parameters(), weight_decay=0.0)
    bar = tqdm(range(STEPS), desc="the Q-Former learns what the MLP says", dynamic_ncols=True)
    for step in bar:
        some = torch.randint(len(features), (BATCH,))
        error = (qformer(features[some]).view_as(said[some]) - said[some]).square().mean() / said.var()
        optimizer.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(qformer.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1, (step + 1) / 100) * (1 - step / STEPS)
        optimizer.step()
        bar.set_postfix(unexplained=f"{error.item():.3f}")


def imitator(cfg, seed):
    """The base model with a Q-Former that says what its MLP said, as a model folder"""
    folder = ROOT / cfg.out / f"seed{seed}" / "qformer" / "imitator"
    if not folder.exists():
        base, where = recipe(seed, "base.done") / "base", f"{cfg.out}/seed{seed}/qformer"
        fresh = once("connector.py", f"{where}/blank", model=base, connector="qformer", queries=9, seed=seed)
        mlp, vlm = load(str(ROOT / base)), load(str(ROOT / fresh))
        files = sorted((ROOT / tiny(seed, "data/tiny") / "images" / "captions").glob("*.png"))[:PICTURES]
        pixels = np.stack([np.asarray(open_image(str(file))) for file in files])
        pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        with torch.no_grad():
            features = [mlp.family.encode(mlp.hf, {"pixel_values": (some / 255 - 0.85) / 0.25})
                        for some in pixels.split(200)]
            said = torch.cat([mlp.family.connect(mlp.hf, some).view(len(some), 9, -1) for some in features])
        torch.manual_seed(seed)
        qformer, = (m for m in vlm.hf.modules() if isinstance(m, QFormer))
        imitate(qformer, torch.cat(features), said)
        with new_folder(folder) as part:
            vlm.save(part)
    return folder.relative_to(ROOT)


def learned(cfg, seed):
    """(cold start, run of RL) of a model with a Q-Former"""
    start = schooled(seed, f"{cfg.out}/seed{seed}/qformer", imitator(cfg, seed), ("cold_start",))
    return start, rl(cfg, seed, "qformer/rl", model=start, save_every=5)  # checkpoints for `rules`


def models(cfg, seed):
    frozen, (start, free) = FREEZE["connector frozen"], learned(cfg, seed)
    return {"MLP, cold start": recipe(seed, "cold_start.done") / "cold_start", "MLP, RL": rl(cfg, seed, ""),
            "MLP, RL, frozen": rl(cfg, seed, "connector frozen", **frozen),
            "Q-Former, cold start": start, "Q-Former, RL": free,
            "Q-Former, RL, frozen": rl(cfg, seed, "qformer/frozen", model=start, **frozen)}


def run(cfg):
    _, scores = arms(cfg, models)
    return [*compared(scores, "Q-Former, cold start", "MLP, cold start"),
            *compared(scores, "Q-Former, RL", "Q-Former, cold start"),
            *compared(scores, "Q-Former, RL, frozen", "Q-Former, RL"),
            *beyond(scores, ("Q-Former, RL", "Q-Former, RL, frozen"), ("MLP, RL", "MLP, RL, frozen"))]
