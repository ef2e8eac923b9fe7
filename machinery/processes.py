"""The processes of a run: one under plain python, several under torchrun; and the precision that their device
computes in."""
import atexit
import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from machinery.files import Refused
from machinery.torchrun import follow_parent


@dataclass
class World:
    rank: int
    size: int
    device: torch.device

    def barrier(self):
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier()


def start(seed, device="auto"):
    """Join the other processes when torchrun started us, be a world of one under plain python. Seeds
    torch."""
    size, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    if device == "auto":
        device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=30))
        atexit.register(leave)
        follow_parent()
    torch.manual_seed(seed)
    return World(dist.get_rank() if size > 1 else 0, size, device)


def leave():
    """Part from the other processes; without it torch complains at exit."""
    if dist.is_initialized():
        dist.destroy_process_group()


def total(values, world, op="sum"):
    """Sum (or max) of a list of floats over all ranks. Every rank must call it."""
    if world.size == 1:
        return list(values)
    tensor = torch.tensor(list(values), dtype=torch.float64)  # gloo carries it on every device
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX if op == "max" else dist.ReduceOp.SUM)
    return tensor.tolist()


def gather(obj, world):
    """A list of every rank's (picklable) object, in rank order. Every rank must call it."""
    if world.size == 1:
        return [obj]
    everyone = [None] * world.size
    dist.all_gather_object(everyone, obj)
    return everyone


def compute_dtype(dtype, device):
    """--dtype as autocast wants it: torch.bfloat16 over fp32 weights, or None for fp32. auto: bf16 where the
    processor has it."""
    if dtype not in ("auto", "bf16", "fp32"):
        raise Refused(f"--dtype {dtype}: it is auto, bf16 or fp32")
    native = torch.device(device).type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if dtype == "bf16" or (dtype == "auto" and native) else None
