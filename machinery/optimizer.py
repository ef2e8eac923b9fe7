"""The optimizer: AdamW with a group for each part, and one update that survives a gradient that is not
finite."""
import math
import re
from collections import defaultdict

import torch

from machinery.families import PARTS
from machinery.files import Refused, say
from machinery.run import learning_rate


def make_optimizer(vlm, weight_decay, kind="adamw"):
    """AdamW with a group for each part, whose learning rate `update` sets in every step. It knows frozen
    parts, too: without a gradient they cost nothing, and one that is opened later trains from then on.
    "muon": [Muon for the matrices inside, AdamW for embeddings, head, norms and biases], which teaches a
    model from nothing several times faster."""
    parts = {part: list(tensors.items()) for part, tensors in vlm.parts().items()}
    if kind == "adamw":
        groups = [{"params": [p for _, p in named], "part": part} for part, named in parts.items() if named]
        return torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)
    if kind != "muon" or vlm.sharded:
        raise Refused(f"--optimizer {kind}: it is adamw, or muon in one process (its matrices must be whole)")
    outside = re.compile("embed|lm_head|position")
    inside = {id(p) for named in parts.values() for name, p in named
              if p.ndim == 2 and not outside.search(name)}
    groups = [[{"params": some, "part": part} for part, named in parts.items()
               if (some := [p for _, p in named if p.requires_grad and (id(p) in inside) == muon])]
              for muon in (True, False)]
    return [Muon(groups[0], weight_decay=weight_decay),
            torch.optim.AdamW(groups[1], weight_decay=weight_decay, fused=True)]


class Muon(torch.optim.Muon):
    """torch's Muon, with the matrices of one shape side by side and in fp32. torch takes them one by one in
    bf16, which on a processor without bf16 is three quarters of a step of the tiny model (1.7 s of 2.2 s;
    here 0.05 s)."""

    @torch.no_grad()
    def step(self, closure=None):  # torch names it when a run is resumed, with gradients of zero
        for group in self.param_groups:
            alike = defaultdict(list)  # shape -> matrices
            for p in group["params"]:
                if p.grad is not None:
                    alike[p.shape].append(p)
            for shape, matrices in alike.items():
                for p in matrices:
                    state = self.state[p]
                    if not state:
                        state["momentum_buffer"] = torch.zeros_like(p)
                    state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
                ahead = [p.grad.lerp(self.state[p]["momentum_buffer"], group["momentum"]) for p in matrices]
                size = group["lr"] * 0.2 * max(shape) ** 0.5  # as large as a step of AdamW
                for p, direction in zip(matrices, orthogonal(torch.stack(ahead), group)):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=size)


def orthogonal(x, group):
    """x (n, rows, columns) -> matrices whose singular values are all near 1 (Newton and Schulz's
    iteration)."""
    if x.shape[1] > x.shape[2]:
        return orthogonal(x.mT, group).mT
    a, b, c = group["ns_coefficients"]
    x = x / x.flatten(1).norm(dim=1).clamp(min=group["eps"])[:, None, None]
    for _ in range(group["ns_steps"]):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x


def learning_rates(cfg, step, steps, warmup):
    """{part: learning rate of this step}: --lr, or the part's own flag, by --schedule"""
    peaks = {part: getattr(cfg, f"lr_{part}") for part in PARTS}
    return {part: learning_rate(step, steps, cfg.lr if peak is None else peak, warmup, cfg.schedule)
            for part, peak in peaks.items()}


def update(vlm, optimizer, lr, clip, run, batch, patience=3):
    """Clip the gradient, step, zero. lr: of all parts, or {part: its own}. Returns the gradient's norm before
    clipping.

    A gradient that is not finite is not applied: the step is skipped, the ids of its rows (`batch`) go to
    bad_steps.jsonl, and `patience` of them in a row stop the run.
    """
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
