"""The processes of a run: one under plain python, several under torchrun; and the precision that their device
computes in."""
import atexit
import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

import torch
import torch.distributed as dist

from machinery.files import Refused, say
from machinery.torchrun import follow_parent

BF16_SINCE = (8, 0)  # compute capability of the first GPUs with bf16 (A100, RTX 30); vLLM is for these, too


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
        if device == "cpu" and torch.backends.mps.is_available():
            say("Apple's GPU (mps) is not used: the run computes on the processor")
    device = torch.device(device)
    if device.type not in ("cuda", "cpu"):
        raise Refused(f"--device {device}: the devices are cuda and cpu")
    if device.type == "cuda":
        capability(device)
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


@lru_cache(maxsize=None)
def capability(device):
    """Compute capability of a GPU; refused when this build of torch has no code for GPUs as old."""
    found, name = torch.cuda.get_device_capability(device), torch.cuda.get_device_name(device)
    known = [int(arch[3:].rstrip("af")) for arch in torch.cuda.get_arch_list() if arch.startswith("sm_")]
    if known and 10 * found[0] + found[1] < min(known):
        raise Refused(f"{name} has compute capability {found[0]}.{found[1]}; this torch begins at "
                      f"{min(known) / 10}. Install a torch for older GPUs, or hide this one "
                      f"(CUDA_VISIBLE_DEVICES=) to compute on the processor.")
    if found < BF16_SINCE:
        say(f"{name} has no bf16 (compute capability {found[0]}.{found[1]}, it comes with 8.0): --dtype auto "
            f"is fp32 here, and there is no --rollout vllm")
    return found


def half_will_do(vlm):
    """Weights that wait in bf16: matrices that do not train, of a file in bf16, when bf16 is computed in.

    That takes half the memory of fp32 and changes no number: autocast rounds a matrix to bf16 for every
    product, and of one that was read from bf16 nothing is lost. The output layer is multiplied in fp32.
    """
    if not vlm.autocast_dtype == vlm.file_dtype == torch.bfloat16:
        return []
    linear = [m for m in vlm.hf.modules() if isinstance(m, torch.nn.Linear) and m is not vlm.hf.lm_head]
    return [m.weight for m in linear if not m.weight.requires_grad]


def compute_dtype(dtype, device):
    """--dtype as autocast wants it: torch.bfloat16 over fp32 weights, or None for fp32. auto: bf16 where the
    processor has it. fp16 is not offered: without scaling of the loss its small gradients are zero."""
    if dtype not in ("auto", "bf16", "fp32"):
        raise Refused(f"--dtype {dtype}: it is auto, bf16 or fp32")
    device = torch.device(device)
    if device.type == "cuda":
        native = capability(device) >= BF16_SINCE
        if dtype == "bf16" and not native:
            raise Refused(f"--dtype bf16: {torch.cuda.get_device_name(device)} has no bf16; use --dtype fp32")
    else:
        native = torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if dtype == "bf16" or (dtype == "auto" and native) else None


def refuse_vllm():
    """vLLM is asked for: refused, before it is imported, where it can not run."""
    if torch.cuda.is_available() and capability(torch.device("cuda")) < BF16_SINCE:
        raise Refused(f"--rollout vllm: {torch.cuda.get_device_name()} is older than compute capability 8.0; "
                      f"use --rollout torch")
    if sys.platform == "darwin":
        raise Refused("--rollout vllm: not on a Mac; use --rollout torch")
