"""Muon, `--optimizer muon` of sft.py: it teaches a model from nothing several times faster than AdamW."""
import re
from collections import defaultdict

import torch

from machinery.files import Refused

OUTSIDE = re.compile("embed|lm_head|position")  # what is looked up by a number, and the head


def make_muon(vlm, weight_decay):
    """[Muon for the matrices inside, AdamW for embeddings, head, norms and biases], with a group for each
    part, as from make_optimizer."""
    if vlm.sharded:
        raise Refused("--optimizer muon: in one process only, because its matrices must be whole")
    groups = ([], [])
    for part, tensors in vlm.parts().items():
        learns = {name: p for name, p in tensors.items() if p.requires_grad}
        inside = {name for name, p in learns.items() if p.ndim == 2 and not OUTSIDE.search(name)}
        for group, names in zip(groups, (inside, learns.keys() - inside)):
            if names:
                group.append({"params": [p for name, p in learns.items() if name in names], "part": part})
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
