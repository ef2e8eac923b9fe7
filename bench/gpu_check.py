"""The first hour on a GPU, in order: `python -m bench.gpu_check`, or some of it: `--parts b c`.

    a  versions, memory, environment
    b  packs of three families against fp32 on the CPU: a wrong layout, window or alignment shows at once
    c  the packs' attention, fused and by SDPA, against fp32
    d  an update of two shapes, random weights: time, share of peak, memory beside recipes/plan.py's
    e  the RL of `make tiny`, its curves beside those of a CPU (evidence/tiny)
    f  vLLM beside a trainer, where it is installed: gap of the log-probs, sync, memory after each phase
    g  kill -9 in the middle of a GRPO run, then the same command again

A row goes to bench/gpu/PART.json when it is measured, and what is there is not measured again: a command that
was cut off goes on. `--device cpu --shapes small --out out/try` tries the script; its numbers mean nothing.
"""
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Literal
from unittest.mock import patch

import torch
from PIL import Image
from torch.utils import benchmark, collect_env

import pack
from recipes import plan
from connector import make_connectors, visual_tokens
from data import Processor, Prompt, Record, read_records
from machinery.families import family_of
from machinery.files import (
    Refused, main, newest_checkpoint, read_json, read_jsonl, say, versions, write_json)
from machinery.model_folder import blank_hf, read_decided
from machinery.parallel import World
from model import PARTS, VLM, load, make_optimizer, update
from tests.families import make_qwen, make_qwen3, save_blank_model

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12, "L40": 181e12}  # FLOP/s, dense bf16
KERNELS = {"fused": pack.fused, "SDPA": lambda x: False}  # pack.fused decides who computes it
BOUNDS = {"fp32 SDPA": (2e-4, 0.99999), "bf16 SDPA": (0.3, 0.98), "bf16 fused": (0.3, 0.98)}  # of (b)


@dataclass
class Config:
    parts: tuple[Literal["a", "b", "c", "d", "e", "f", "g"], ...] = tuple("abcdefg")
    device: str = "cuda"                # cpu tries the script, not the GPU
    shapes: tuple[str, ...] = ("recipes/configs/InternVL3-2B", "recipes/configs/InternVL3-8B")  # of (d)
    tokens: int = 16384                 # of a pack; other sizes follow it
    model: str = "out/tiny/cold_start"  # of (e), (f) and (g): `make tiny` makes it
    data: str = "data/tiny/rl.jsonl"    # their prompts, likewise
    out: str = "bench/gpu"              # a JSON file for each part


def flops(shape, packs, patches):
    """Model FLOPs of an update; patches: of a picture"""
    total = 0
    for row in packs:
        segments = row.layout.segments.tolist()
        pairs = sum(n * prefix + n * (n + 1) // 2 for _, n, _, prefix in segments)
        seen = patches * len(row.images["pixel_values"])
        total += plan.flops(shape, len(row.ids), pairs, len(row.source), seen, patches)
    return total


def seconds(work, cfg):  # a mean of five calls, behind two that warm up
    return benchmark.Timer("work()", globals={"work": work}).timeit(5 if cfg.tokens > 1024 else 1).mean


def machine(cfg, kinds=("CUDA", "NCCL", "OMP", "PYTORCH", "VLLM")):
    gpu = cfg.device == "cuda" and torch.cuda.get_device_properties(0)
    return {**versions(), "driver": collect_env.get_nvidia_driver_version(collect_env.run),
            "GPU": gpu and f"{gpu.name} {gpu.major}.{gpu.minor}, {gpu.total_memory / plan.GIB:.1f} GiB",
            "host GiB": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / plan.GIB,
            **{name: bool(find_spec(name)) for name in ("flash_attn_interface", "vllm")},
            **{name: value for name, value in sorted(os.environ.items()) if name.startswith(kinds)}}


def parity(make, cfg):
    """Of a pack of one image, several, none, several tiles, with responses of unequal length"""
    torch.backends.cudnn.allow_tf32, records, found = False, [], {"good": True}
    for i, sizes in enumerate([[(48, 48)], [(60, 140), (97, 33)], [], [(48, 96)]]):
        noise = [Image.effect_noise((width, height), 90).convert("RGB") for height, width in sizes]
        records.append(Record(str(i), "What is the sum?", noise, sizes=sizes))

    def computed(device, dtype, kernel):
        processor, vlm = Processor(where, max_tiles=4), load(where, device, dtype)
        responses = [[*range(n)] for n in (5, 30, 17)]
        row, = pack.make_packs(processor, [(p, responses) for p in processor.prompts(records)])
        with patch.object(pack, "fused", KERNELS[kernel]):
            logp, entropy = vlm(row.to(device))
            (logp.sum() + entropy.sum()).backward()
        return logp.detach().cpu(), torch.cat([p.grad.flatten().double().cpu() for p in vlm.parameters()])
    with tempfile.TemporaryDirectory() as where:
        make(Path(where), seed=0)
        exact, gradient = computed("cpu", "fp32", "SDPA")
        for kind, (most, least) in BOUNDS.items():
            logp, own = computed(cfg.device, *kind.split())
            worst, angle = float((logp - exact).abs().max()), float(torch.cosine_similarity(own, gradient, 0))
            found |= {f"{kind}: log-probs": worst, f"{kind}: gradient's cosine": angle}
            found["good"] &= worst < most and angle > least
    return found


def attend(size, cfg):
    """A pack's attention in bf16, 16 heads of queries and 4 of keys and values, against the same in fp32"""
    row, found = synthetic(read_decided(cfg.shapes[0]), cfg.tokens).to(cfg.device), {"good": True}
    *qkv, up = [torch.randn(len(row.ids), n, size, device=cfg.device).bfloat16() for n in (16, 4, 4, 16)]
    forward = partial(row.layout.attend, 0, scale=size ** -0.5)

    def both(qkv):
        out = forward(*[t.requires_grad_() for t in qkv])
        return out.detach(), *torch.autograd.grad(out, qkv, up.to(out.dtype))
    exact = both([t.float() for t in qkv])
    for kernel, fused in KERNELS.items():
        with patch.object(pack, "fused", fused):
            errors = [float((x - y).norm() / y.norm()) for x, y in zip(both(qkv), exact)]
            found |= {f"{kernel}: error": errors[0], f"{kernel}: of gradients": max(errors[1:]),
                      f"{kernel}: ms": 1e3 * seconds(partial(both, qkv), cfg),
                      f"{kernel}: ms, forward": 1e3 * seconds(partial(forward, *qkv), cfg)}
            found["good"] &= max(errors) < 0.02
    return found


def synthetic(config, tokens, samples=8, tiles=3):
    """A pack as GRPO makes them, of random ids and pixels: two prompts, each with `tiles` and `samples`"""
    visual, tile = tiles * visual_tokens(config), family_of(config).blank()["pixel_values"].shape[1:]
    P = visual + tokens // 64
    n = (tokens // 2 - P) // samples
    processor = SimpleNamespace(image_id=config.image_token_id, positions=lambda prompt: torch.arange(P),
                           pixels=lambda prompt: {"pixel_values": torch.randn(tiles, *tile)})
    row = []
    for k in range(2):
        ids = torch.randint(0, 500, (P,))
        ids[4:4 + visual] = config.image_token_id
        responses = torch.randint(0, 500, (samples, n)).tolist()
        row.append((Prompt(None, [], ids.tolist()), list(enumerate(responses, start=k * samples))))
    return pack.make_pack(processor, row)


def step_of(shape, compiled, cfg):
    config, s = read_decided(shape), plan.shape(shape)
    vlm = VLM(blank_hf(config, make_connectors, cfg.device), shape, torch.bfloat16).train_only(PARTS).train()
    vlm.hf.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if compiled:
        vlm.compile_blocks()
    row, optimizer = synthetic(config, cfg.tokens).to(cfg.device), make_optimizer(vlm, 0.0)
    asked = plan.Config(model=shape, gpus=1, tokens=len(row.ids), visual=len(row.visual_at), rollout="none")
    planned = sum(plan.memory(s, asked)["training"].values())
    packs = 2 if cfg.device == "cpu" or planned < 0.94 * torch.cuda.mem_get_info()[1] / plan.GIB else 1

    def step():
        for _ in range(packs):  # planned is a pack beside the gradients of another, where that fits
            (-vlm(row)[0].mean()).backward()
        update(vlm, optimizer, 1e-6, 1.0, SimpleNamespace(dir=Path(cfg.out)), [])
    took, N = seconds(step, cfg), packs * len(row.ids)
    speed = flops(s, packs * [row], visual_tokens(config) * s["patches"]) / took
    found = {"packs": packs, "seconds": took, "tokens": N, "tokens/s": N / took, "TFLOP/s": speed / 1e12}
    if cfg.device == "cuda":
        peak, name = torch.cuda.max_memory_allocated() / plan.GIB, torch.cuda.get_device_name()
        found |= {"share of peak": speed / next((p for gpu, p in PEAK.items() if gpu in name), float("nan")),
                  "peak GiB": peak, "good": packs == 1 or abs(peak / planned - 1) < 0.1}
    return {**found, "planned GiB": planned}


def rl(cfg, out, steps, save_every, kill_at=0):
    """The metrics of grpo.py, run with the flags of `make tiny`; kill -9 as soon as there are `kill_at`"""
    command = read_json("evidence/tiny/rl/config.json")["command"].split()  # a flag's last value counts
    command += ["--prompts", "4", "--samples", "8", "--max_new_tokens", "8"] if cfg.tokens < 1024 else []
    process = subprocess.Popen([sys.executable, *command, "--model", cfg.model, "--data", cfg.data,
                                "--out", out, "--steps", str(steps), "--save_every", str(save_every)])
    while kill_at and process.poll() is None:
        if len(read_jsonl(f"{out}/metrics.jsonl")) >= kill_at:
            process.kill()
        time.sleep(0.02)
    assert not process.wait() or kill_at, "grpo.py stopped; why, it says above"
    return read_jsonl(f"{out}/metrics.jsonl")


def curves(cfg):
    steps, found = 40 if cfg.tokens > 1024 else 5, {}
    with tempfile.TemporaryDirectory() as where:
        runs = {"": rl(cfg, where, steps, steps), ", CPU": read_jsonl("evidence/tiny/rl/metrics.jsonl")}
    for run, rows in runs.items():
        for name in ("reward", "length", "entropy", "time_step"):  # means of five steps
            found[name + run] = [mean(row[name] for row in rows[i:i + 5]) for i in range(0, len(rows), 5)]
    last, theirs = mean(found["reward"][-2:]), mean(found["reward, CPU"][-2:])
    return {**found, "good": steps < 40 or abs(last - theirs) < 0.1 and last > mean(found["reward"][:2])}


def killed(cfg):
    """On a GPU later steps drift, because the backward's sums are atomic; the first is sampled as before."""
    with tempfile.TemporaryDirectory() as where:
        whole, before = rl(cfg, f"{where}/a", 8, 3), rl(cfg, f"{where}/b", 8, 3, kill_at=5)
        at = int(newest_checkpoint(f"{where}/b", with_trainer=True).name[5:])
        after = rl(cfg, f"{where}/b", 8, 3)
    found = {"killed after": len(before), "resumed from": at}
    for name in ("reward", "length", "grad_norm"):
        found[name] = [row[name] for row in whole]
        found[f"{name}: again"] = [abs(a[name] - b[name]) for a, b in zip(before[at:], after[at:])]
        found[f"{name}: drift"] = [abs(a[name] - b[name]) for a, b in zip(whole, after)]
    drift = max(found["grad_norm: drift"]) if cfg.device == "cpu" else found["reward: again"][0] - 0.02
    return {**found, "good": [row["step"] for row in after] == [*range(1, 9)] and drift <= 0}


@torch.no_grad()
def sampling(cfg):
    from rollout import VLLMSampler
    say("where the engine's Model Runner V2 makes trouble: VLLM_USE_V2_MODEL_RUNNER=0")
    processor, vlm, found = Processor(cfg.model, max_tiles=1), load(cfg.model, cfg.device, "bf16"), {}

    def note(phase):  # what all processes hold of the GPU
        free, whole = torch.cuda.mem_get_info() if cfg.device == "cuda" else (0, 0)
        found[f"GiB {phase}"] = (whole - free) / plan.GIB
        return time.time()
    note("trainer alone")
    sampler = VLLMSampler(vlm, processor, World(0, 1, torch.device(cfg.device)), "bf16", memory=0.35)
    for p in vlm.parameters():  # so the gap also says whether what is new in them arrives
        p.mul_(1 + 0.05 * torch.randn_like(p))
    begin = note("engine awake")
    sampler.sync(vlm)
    synced = note("synced")
    groups = sampler.generate(processor.prompts(read_records(cfg.data)[:cfg.tokens // 256]), 16, 160, seed=1)
    tokens, took = sum(len(r.ids) for g in groups for r in g), note("asleep") - synced
    row, = pack.make_packs(processor, [(g[0].prompt, [r.ids for r in g]) for g in groups[:4]])
    sampled = torch.cat([r.logp for g in groups[:4] for r in g])
    gap = float((vlm(row.to(cfg.device))[0].cpu() - sampled).abs().mean())
    note("trainer at work")
    return {**found, "sync s": synced - begin, "tokens/s": tokens / took, "gap": gap, "good": gap < 0.05,
            "fp32 products": torch.backends.cuda.matmul.fp32_precision}


def line(part, name, row):  # of Markdown
    row = json.loads(json.dumps(row), parse_float=lambda x: f"{float(x):.4g}")
    return f"| {part} | {name} | {'; '.join(f'{k} {v}' for k, v in row.items())} |".replace("'", "")


def measure(part, cfg):  # its rows that are not there yet; returns those that are not good
    file, device = Path(cfg.out) / f"{part}.json", cfg.device == "cuda" and torch.cuda.get_device_name()
    file.parent.mkdir(parents=True, exist_ok=True)
    found = read_json(file) if file.exists() else {"device": device, "rows": {}}
    if found["device"] != device:
        raise Refused(f"{file} is of {found['device']}: remove it, or measure to another --out")
    families = {"InternVL": save_blank_model, "Qwen2.5-VL": make_qwen, "Qwen3-VL": make_qwen3}
    shapes = [(shape, more) for shape in cfg.shapes for more in ("", ", --compile")]
    rows = {"a": {"machine": machine}, "b": {name: partial(parity, make) for name, make in families.items()},
            "c": {f"attention of {n}": partial(attend, n) for n in (64, 72, 80, 128)},
            "d": {Path(shape).name + more: partial(step_of, shape, more) for shape, more in shapes},
            "e": {"RL of make tiny": curves}, "g": {"kill -9": killed},
            "f": {"vLLM": sampling} if find_spec("vllm") and find_spec("vllm.config") else {}}
    if not rows[part]:
        say(f"({part}) left out: vLLM is not installed")
    for name, work in rows[part].items():
        if name not in found["rows"]:
            gc.collect()
            if cfg.device == "cuda":
                torch.cuda.synchronize()  # raises when an error before has lost the GPU to this process
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            try:
                found["rows"][name] = work(cfg)
            except Exception:  # whatever it is: the other rows are wanted all the same
                found["rows"][name] = {"good": False, "error": traceback.format_exc().splitlines()[-7:]}
            write_json(file, found)
        say(line(part, name, found["rows"][name]))
    return [f"({part}) {name}" for name, row in found["rows"].items() if not row.get("good", True)]


def check(cfg):
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise Refused("no GPU here; --device cpu tries the script itself")
    if cfg.shapes == ("small",):
        cfg = replace(cfg, shapes=(str(save_blank_model(Path(cfg.out) / "small", seed=0)),), tokens=256)
    if bad := sum((measure(part, cfg) for part in cfg.parts), []):
        raise Refused(f"not as it should be: {', '.join(bad)}")


if __name__ == "__main__":
    main(check, Config)
