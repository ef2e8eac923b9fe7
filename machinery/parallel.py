"""Several processes, one model: torchrun's processes, the precision of their device, FSDP2, and a balanced
load. Parallelism comes from outside: the model knows nothing of it."""
import atexit
import math
import os
import threading
import time
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.nn as nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard)
from torch.distributed.tensor import DTensor, distribute_tensor

from machinery.files import Refused

# -------------------------------------------------------------------------------------------------- processes

@dataclass
class World:
    rank: int
    size: int
    device: torch.device

    def barrier(self):
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier()


def start_processes(seed, device="auto"):
    """Join the other processes when torchrun started us, be a world of one under plain python. Seeds torch"""
    size, gpu = int(os.environ.get("WORLD_SIZE", 1)), f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    device = torch.device((gpu if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=30))
        atexit.register(lambda: dist.is_initialized() and dist.destroy_process_group())
        threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    torch.manual_seed(seed)
    return World(dist.get_rank() if size > 1 else 0, size, device)


def end_with(parent):
    """A torchrun that is killed (kill -9, out of memory) would leave processes that go on training."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def total(values, world, op="sum"):
    """Sum (or max) of a list of floats over all ranks. Every rank must call it."""
    if world.size == 1:
        return list(values)
    tensor = torch.tensor(list(values), dtype=torch.float64)  # gloo carries it on every device
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX if op == "max" else dist.ReduceOp.SUM)
    return tensor.tolist()


def gather(obj, world):
    """A list of every rank's (picklable) object, in rank order. Every rank must call it."""
    everyone = [obj] * world.size
    if world.size > 1:
        dist.all_gather_object(everyone, obj)
    return everyone


# -------------------------------------------------------------------------------------------------- precision

def has_bf16(device):
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # since A100 and RTX 30; vLLM is for these
    return torch.cpu._is_avx512_bf16_supported()


def compute_dtype(dtype, device):
    """--dtype as autocast wants it: torch.bfloat16 over fp32 weights, or None for fp32. auto: bf16 where the
    processor has it. fp16 is not offered: without scaling of the loss its small gradients are zero."""
    if dtype not in ("auto", "bf16", "fp32"):
        raise Refused(f"--dtype {dtype}: it is auto, bf16 or fp32")
    return torch.bfloat16 if dtype == "bf16" or (dtype == "auto" and has_bf16(device)) else None


def bf16_weights(vlm):
    """Weights that wait in bf16: matrices of parts that cost no gradient, of a file in bf16, when bf16 is
    computed in. That takes half the memory of fp32 and changes no number: autocast rounds a matrix to bf16
    for every product, and of one that was read from bf16 nothing is lost. The output layer is multiplied in
    fp32."""
    if not vlm.autocast_dtype == vlm.file_dtype == torch.bfloat16:
        return []
    linear = [m for m in vlm.hf.modules() if isinstance(m, torch.nn.Linear) and m is not vlm.hf.lm_head]
    return [m.weight for m in linear if not m.weight.requires_grad]


# ------------------------------------------------------------------------------------------------------ FSDP2

def shard(vlm, world, hybrid=False, offload=False, whole=False):
    """FSDP2 under torchrun: every block of encoder and LLM, then the root. Nothing in one process.

    Only rank 0 needs weights (load(..., world=world)): they are sent a tensor at a time and every rank keeps
    its part, in fp32 where bf16 will not do. hybrid: every node holds a whole copy and shards it among its
    own processes, so that only gradients cross the network between nodes. offload: weights, gradients and
    optimizer wait in host memory. whole: nothing is divided; every process gets all of a model that waits in
    host memory. On the device "meta" the model is divided and nothing is filled in."""
    if world.size == 1 and not whole:
        return vlm
    weights = tensors(vlm)
    half = {id(t): torch.bfloat16 for t in bf16_weights(vlm)}
    replace_tensors(vlm, lambda t: torch.empty_like(
        t, device="meta", dtype=half.get(id(t), torch.float32) if t.is_floating_point() else None))
    if not whole:
        divide(vlm, world, hybrid, offload)
    if world.device.type != "meta":
        replace_tensors(vlm, lambda t: torch.empty_like(
            t, device="cpu" if offload and isinstance(t, DTensor) else world.device))
        send_weights(vlm, weights, world)
    return vlm


def divide(vlm, world, hybrid, offload):
    """Wrap every block and the root; each rank will hold its part of their parameters."""
    node = int(os.environ.get("LOCAL_WORLD_SIZE", world.size)) if hybrid else world.size
    shape = {"copies": world.size // node, "shards": node} if node < world.size else {"shards": node}
    device = "cuda" if world.device.type == "cuda" else "cpu"
    policy = dict(
        mesh=init_device_mesh(device, tuple(shape.values()), mesh_dim_names=tuple(shape)),
        mp_policy=MixedPrecisionPolicy(vlm.autocast_dtype, torch.float32, cast_forward_inputs=False),
        offload_policy=CPUOffloadPolicy(pin_memory=device == "cuda") if offload else OffloadPolicy())
    blocks = set(vlm.hf._no_split_modules or ())
    for module in list(vlm.hf.modules()):
        if type(module).__name__ in blocks:
            fully_shard(module, **policy)
    fully_shard(vlm, **policy)
    vlm.sharded = True
    # FSDP would average gradients. Our losses are divided by the whole batch of all ranks already, so they
    # have to be added up. The sum is asked for by name because gloo has no reduction with a built-in factor.
    for module in vlm.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def refresh_dtypes(vlm):
    """FSDP noted what its parameters were in at the first forward; some have become fp32 since."""
    for module in vlm.modules():
        if isinstance(module, FSDPModule):
            for group in module._get_fsdp_state()._fsdp_param_groups:
                group.lazy_init()


def tensors(vlm):
    """{name: tensor} of parameters and buffers, tied ones once"""
    return {name: t.detach() for name, t in (*vlm.named_parameters(), *vlm.named_buffers())}


@torch.no_grad()
def send_weights(vlm, weights, world):
    """Send rank 0's weights ({name: tensor}, emptied on the way) to all ranks; each keeps its part."""
    if isinstance(vlm, FSDPModule):
        vlm.reshard()  # a forward without backward leaves the root gathered, in memory of its own
    for name, t in tensors(vlm).items():
        if world.rank == 0:
            whole = weights.pop(name).to(world.device, t.dtype)
        else:
            whole = torch.empty(t.shape, dtype=t.dtype, device=world.device)
        if world.size > 1:
            dist.broadcast(whole, 0)
        if isinstance(t, DTensor):
            parted = distribute_tensor(whole, t.device_mesh, t.placements, src_data_rank=None)
            t.to_local().copy_(parted.to_local())
        else:
            t.copy_(whole)


def replace_tensors(vlm, make):
    """Replace every parameter and buffer t by make(t). Tied ones stay tied, unlike with Module.to_empty"""
    new = {}  # id of an old tensor -> (the new one, the old one); kept, so that its id is not reused
    for module in vlm.modules():
        for tensors in (module._parameters, module._buffers):
            for name, t in tensors.items():
                if t is not None and id(t) not in new:
                    made = make(t)
                    is_parameter = isinstance(t, nn.Parameter)
                    new[id(t)] = (nn.Parameter(made, t.requires_grad) if is_parameter else made), t
                if t is not None:
                    tensors[name] = new[id(t)][0]


# -------------------------------------------------------------------------------------- dealing work to ranks

def share(rows, cost, world):
    """This rank's part of the rows, in order: the costliest are dealt first, each to the rank that has least
    to do so far."""
    todo, rank_of = [0.0] * world.size, {}
    for i in sorted(range(len(rows)), key=lambda i: -cost(rows[i])):
        rank_of[i] = todo.index(min(todo))
        todo[rank_of[i]] += cost(rows[i])
    return [row for i, row in enumerate(rows) if rank_of[i] == world.rank]


def even_out(packs, world):
    """[(pack, weight)], as many on every rank: a rank with fewer packs repeats its smallest with weight 0,
    because under FSDP each forward is a meeting of all ranks."""
    most = int(total([len(packs)], world, "max")[0])
    smallest = min(packs, key=lambda pack: len(pack.ids))
    return [(pack, 1.0) for pack in packs] + [(smallest, 0.0)] * (most - len(packs))


def deal(groups, steps, matters, max_tokens, world):
    """This rank's part of each of the batch's gradient steps, whoever sampled it: [([Group], tokens)], a pair
    for each step. tokens: response tokens of the step on all ranks, before anything is left out.

    groups: those that this rank sampled (rollout.Group). Every rank learns of all of them, and each makes the
    same plan:

        sampled     rank 0: A C E     rank 1: B D F   F is longer than max_tokens, C and E do not matter
        in order    A B C D E F                       as the prompts were drawn, for any number of ranks
        two steps   A B C | D E F
        left out    A B   | D F                       those that do not matter, but every rank keeps one
        cut         A B   | D F1 F2                   long groups, into parts of about max_tokens
        balanced    rank 0: A | D F1  rank 1: B | F2  the longest first, to the rank with least to do
    """
    def cost(group):
        return len(group.prompt.full) + sum(len(r.ids) for r in group.rollouts)

    everyone = [group for of_ranks in zip(*gather(groups, world)) for group in of_ranks]
    size, dealt = len(everyone) // steps, []
    for step in (everyone[i:i + size] for i in range(0, len(everyone), size)):
        keep = max(world.size, sum(map(matters, step)))  # every rank keeps something to do
        parts = []
        for group in sorted(step, key=matters, reverse=True)[:keep]:
            n, cuts = len(group.rollouts), math.ceil(cost(group) / max_tokens)
            ends = [k * n // cuts for k in range(cuts + 1)]
            parts += [replace(group, rollouts=group.rollouts[a:b]) for a, b in zip(ends, ends[1:]) if a < b]
        dealt.append((share(parts, cost, world), sum(len(r.ids) for group in step for r in group.rollouts)))
    return dealt
