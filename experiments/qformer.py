"""g. Is the connector as decisive when it is a Q-Former instead of an MLP?

Paper: an open question. Ours: in the base model of `make tiny` a Q-Former of nine queries takes the MLP's
place, after it has learned to say what the MLP says of the same pictures; then the same cold start and RL,
and RL once more with the Q-Former frozen. (Taken through captions and base with the MLP's flags, a Q-Former
does not learn which query reads which cell: it answers as one that is blind.)
"""
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

from connector import QFormer
from experiments.freezing import FREEZE
from experiments.lab import ROOT, Config, beyond, compared, evaluate, once, recipe, report, rl, schooled, tiny
from machinery.files import main, new_folder
from machinery.pictures import open_image
from model import load

EXPECTED = "the paper does not say."
WHY = ("a Q-Former is not more decisive here but less: frozen it gains more in maths. It begins as an "
       "imitation of the MLP, and what RL moves in it at the MLP's learning rate seems to cost more than it "
       "brings.")
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


def run(cfg):
    frozen, scores, runs = FREEZE["connector frozen"], {}, {}
    for seed in cfg.seeds:
        again, (start, free) = partial(rl, cfg, seed), learned(cfg, seed)
        models = {"MLP, cold start": recipe(seed, "cold_start.done") / "cold_start", "MLP, RL": again(""),
                  "MLP, RL, frozen": again("connector frozen", **frozen), "Q-Former, cold start": start,
                  "Q-Former, RL": free,
                  "Q-Former, RL, frozen": again("qformer/frozen", model=start, **frozen)}
        for name, model in models.items():
            scores.setdefault(name, []).append(evaluate(cfg, seed, model))
            if "RL" in name:
                runs.setdefault(name, []).append(model)
    rows = compared(scores, "Q-Former, cold start", "MLP, cold start", "", "")
    rows += compared(scores, "Q-Former, RL", "Q-Former, cold start", "", "")
    rows += compared(scores, "Q-Former, RL, frozen", "Q-Former, RL", "", "")
    rows += beyond(scores, ("Q-Former, RL", "Q-Former, RL, frozen"), ("MLP, RL", "MLP, RL, frozen"), "", "")
    report("qformer", cfg, rows, EXPECTED, WHY, runs)


if __name__ == "__main__":
    main(run, Config)
