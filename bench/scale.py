"""What one update costs: `python -m bench.scale --samples 64 --tokens 128` prints a line of JSON.

The update is grpo.py's own (make_batches, grpo_loss, update), on responses of random ids. A process measures
one point, because its peak memory cannot be reset. The FLOPs are the model's, plan.flops: 2 for each weight
that a token meets forward and 4 backward, attention 4 * width a pair of tokens forward and 8 backward;
nothing is counted for padding or for what is computed twice.
"""
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import torch

import grpo
import plan
from bench.workload import make_model, make_rows, peak_gib
from connector import visual_tokens
from data import Chat
from machinery.files import main, say
from machinery.parallel import start
from model import load, make_optimizer, update
from reward import Reward
from rollout import Group, Rollout


@dataclass
class Config:
    prompts: int = 4          # each with a picture
    samples: int = 16         # responses to each
    tokens: int = 128         # of each response
    visual: int = 256         # tokens of a picture, a square number
    vocabulary: int = 4096
    dtype: str = "fp32"
    repeats: int = 5          # updates that are measured, after one to warm up
    threads: int = 2


def random_groups(prompts, cfg):
    """Responses of random ids with rewards that differ"""
    g, groups = torch.Generator().manual_seed(0), []
    for prompt in prompts:
        ids = torch.randint(0, 500, (cfg.samples, cfg.tokens), generator=g).tolist()
        rollouts = [Rollout(prompt, row, torch.zeros(cfg.tokens), None, "", [], "length") for row in ids]
        for i, r in enumerate(rollouts):
            r.reward = Reward(1.0, 1.0, 1.0, None, "bench")
            r.advantage = torch.full((cfg.tokens,), (-1.0) ** i)
        groups.append(Group(prompt, rollouts))
    return groups


def flops(shape, packs, patches):
    """Model FLOPs of an update; patches: of a picture"""
    total = 0
    for pack in packs:
        segments = pack.layout.segments.tolist()
        pairs = sum(n * prefix + n * (n + 1) // 2 for _, n, _, prefix in segments)
        pictures = len(pack.images["pixel_values"])
        total += plan.flops(shape, len(pack.ids), pairs, len(pack.source), pictures * patches, patches)
    return total


def measure(cfg):
    torch.set_num_threads(cfg.threads)
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        model = folder / "model"
        rows = make_rows(folder, make_model(model, cfg.visual, cfg.vocabulary), cfg.prompts)
        settings = grpo.Config(model=str(model), data=str(rows), prompts=cfg.prompts, samples=cfg.samples,
                               max_new_tokens=cfg.tokens, max_tiles=1)
        world, chat, shape = start(0), Chat(str(model), 1), plan.shape(str(model))
        groups = random_groups(grpo.load_prompts(settings, settings.data, chat), cfg)
        vlm = load(str(model), dtype=cfg.dtype)
        optimizer, run, times = make_optimizer(vlm, 0.0), SimpleNamespace(dir=folder), []
        s = SimpleNamespace(vlm=vlm, reference=None, chat=chat, world=world)
        for _ in range(1 + cfg.repeats):
            begin = time.perf_counter()
            micro_batches, = grpo.make_batches(s, settings, groups)
            for micro in micro_batches:
                logp, entropy = vlm(micro.pack)
                micro.old_logp = logp.detach()
                grpo.grpo_loss(logp, entropy, micro, settings)[0].backward()
            update(vlm, optimizer, 1e-6, 1.0, run, [])
            times.append(time.perf_counter() - begin)
    packs = [micro.pack for micro in micro_batches]
    head = 2 * shape["d"] * cfg.vocabulary * 16 / 2 ** 30  # GiB of table and head: 4 numbers of 4 bytes each
    work = flops(shape, packs, visual_tokens(vlm.hf.config) * shape["patches"])
    seconds = median(times[1:])
    say(json.dumps({"ours_s": seconds, "spread": (max(times[1:]) - min(times[1:])) / seconds,
                    "all_tokens": sum(len(pack.ids) for pack in packs), "gflop": work / 1e9,
                    "gflops": work / 1e9 / seconds, "peak_gib": peak_gib(),
                    "peak_gib_without_vocabulary": peak_gib() - head}))


if __name__ == "__main__":
    main(measure, Config)
