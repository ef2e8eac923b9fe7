"""A Q-Former learns to say what the MLP says of the same pictures, because from captions alone it does not
learn which query reads which cell."""
import numpy as np
import torch
from tqdm import tqdm

from connector import QFormer
from machinery.files import new_folder
from machinery.rows import open_image
from model import load

PICTURES, STEPS, BATCH, LR = 4000, 1200, 64, 2e-3


def imitate(base, fresh, seed, out):
    """base: a model folder with an MLP; fresh: the same with a blank Q-Former; out: the folder of the latter,
    taught on pictures of the seed's world"""
    mlp, vlm = load(str(base)), load(str(fresh))
    files = sorted((seed.world / "images" / "base").glob("*.png"))[:PICTURES]
    pixels = np.stack([np.asarray(open_image(str(file))) for file in files])
    pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    with torch.no_grad():
        features = [mlp.family.encode(mlp.hf, {"pixel_values": (some / 255 - 0.85) / 0.25})
                    for some in pixels.split(200)]                                # (pictures, patches, width)
        said = torch.cat([mlp.family.connect(mlp.hf, some).view(len(some), 9, -1) for some in features])
        features = torch.cat(features)
    torch.manual_seed(seed.number)
    qformer, = (m for m in vlm.hf.modules() if isinstance(m, QFormer))
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
    with new_folder(out) as part:
        vlm.save(part)
