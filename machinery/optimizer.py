"""The optimizer: AdamW with a group for each part, and one update that survives a gradient that is not
finite."""
import math

import torch

from machinery.families import PARTS
from machinery.files import Refused, say
from machinery.run import learning_rate


def make_optimizer(vlm, weight_decay):
    """AdamW with a group for each part, whose learning rate `update` sets in every step. It knows frozen
    parts, too: without a gradient they cost nothing, and one that is opened later trains from then on."""
    groups = [{"params": list(of_part.values()), "part": part} for part, of_part in vlm.parts().items()]
    return torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=weight_decay, fused=True)


def learning_rates(cfg, step, steps, warmup):
    """{part: learning rate of this step}: --lr, or the part's own flag, by --schedule"""
    peaks = {part: getattr(cfg, f"lr_{part}") for part in PARTS}
    return {part: learning_rate(step, steps, cfg.lr if peak is None else peak, warmup, cfg.schedule)
            for part, peak in peaks.items()}


def update(vlm, optimizer, lr, clip, run, batch, patience=3):
    """Clip the gradient, step, zero. lr: of all parts, or {part: its own}. Returns the gradient's norm before
    clipping.

    A gradient that is not finite is not applied: the step is skipped, the ids of its rows (`batch`) go to
    bad_steps.jsonl, and `patience` of them in a row stop the run."""
    optimizers = optimizer if isinstance(optimizer, list) else [optimizer]
    for o in optimizers:
        for group in o.param_groups:
            group["lr"] = lr[group["part"]] if isinstance(lr, dict) else lr
    norm = torch.nn.utils.clip_grad_norm_([p for p in vlm.parameters() if p.requires_grad], clip)
    norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
    if math.isfinite(norm):
        for o in optimizers:
            o.step()
        run.bad_steps = 0
    else:
        run.bad_steps += 1
        run.append("bad_steps.jsonl", {"norm": str(norm), "rows": sorted(set(batch))})
        say(f"the gradient is {norm}: step skipped, its rows are in {run.dir / 'bad_steps.jsonl'}")
        if run.bad_steps >= patience:
            raise Refused(f"{patience} steps in a row without a finite gradient: lower --lr, "
                          f"or look at {run.dir / 'bad_steps.jsonl'}")
    for o in optimizers:
        o.zero_grad(set_to_none=True)
    return norm
