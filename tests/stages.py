"""Small runs of the three stages, what several files of tests ask of them, and a spy."""
import functools
import inspect
import multiprocessing
import os
import socket
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file

import connector_tune
import grpo
import sft
from machinery.files import read_jsonl
from machinery.parallel import World
from reward import Reward
from rollout import Rollout

ONE = World(0, 1, torch.device("cpu"))
TINY = dict(dtype="fp32", lr=1e-3)


class Stop(Exception):
    """The run ends here, as if it had been killed."""


def reward_of(responses, golds, thinking=True, options=None, verifier=None, questions=None):
    """A reward that a random model earns now and then: by a checksum of the text."""
    out = []
    for text in responses:
        right, neat = zlib.crc32(text.encode()) % 2, zlib.crc32(text.encode()) // 2 % 2
        out.append(Reward(float(right), float(neat), 0.8 * right + 0.2 * neat, None, "rule"))
    return out


def all_get(reward):
    return lambda responses, *_: [reward] * len(responses)


class Given:
    """A sampler whose responses depend on the prompt alone: not on rank, step or weights."""

    def __init__(self, processor, old=-3.0):
        self.processor, self.old, self.asked, self.seeds = processor, old, [], []

    def generate(self, prompts, n, max_new_tokens, temperature, seed):
        self.asked += [p.record.id for p in prompts]
        self.seeds.append(seed)
        return [[self.rollout(p, k) for k in range(n)] for p in prompts]

    def rollout(self, prompt, k):
        g = torch.Generator().manual_seed(zlib.crc32(f"{prompt.record.id} {k}".encode()))
        n = int(torch.randint(1, 12, (1,), generator=g))
        ids = torch.randint(0, self.processor.image_id - 10, (n,), generator=g).tolist()
        pieces = self.processor.pieces(ids)
        old, text = torch.full((n,), self.old), "".join(pieces)
        return Rollout(prompt, ids, old, torch.zeros(n), text, pieces, "stop")

    def sync(self, vlm):
        pass


def micro_batch(adv, length, old_logp, responses=2, pack=None, **more):
    given = dict(sampled_logp=old_logp, old_logp=old_logp, ref_logp=None, tokens=len(adv), **more)
    return grpo.MicroBatch(pack, 1.0, [], adv, length, responses=responses, **given)


def run_sft(tiny, out, steps=4, **changes):
    options = dict(model=str(tiny / "model"), data=str(tiny / "cold_start.jsonl"), batch=6,
                   epochs=steps * 6 / 60, save_every=2)
    sft.train(sft.Config(out=str(out), **{**TINY, **options, **changes}))


def run_grpo(tiny, out, steps=4, **changes):
    options = dict(model=str(tiny / "model"), data=str(tiny / "rl.jsonl"), prompts=4, samples=4,
                   max_new_tokens=8, save_every=2)
    grpo.train(grpo.Config(out=str(out), steps=steps, **{**TINY, **options, **changes}))


def run_connector(tiny, out, steps=4, **changes):
    options = dict(model=str(tiny / "model"), data=str(tiny / "connector.jsonl"),
                   val=str(tiny / "connector_val.jsonl"), batch=6, epochs=steps * 6 / 60, save_every=2)
    connector_tune.train(connector_tune.Config(out=str(out), **{**TINY, **options, **changes}))


STAGES = {"sft": (sft, functools.partial(run_sft, optimizer="muon")), "grpo": (grpo, run_grpo),
          "connector": (connector_tune, run_connector)}  # the last two with AdamW


def metrics(out):
    rows = read_jsonl(out / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith("time_")} for row in rows]


def rollout_rows(out):
    return read_jsonl(out / "rollouts.jsonl")


def weights(out, step=4):
    return (out / f"step_{step:06d}" / "model.safetensors").read_bytes()


def same_run(a, b, step=4):
    assert metrics(a) == metrics(b) and metrics(a)[-1]["step"] == step
    assert rollout_rows(a) == rollout_rows(b)
    assert weights(a, step) == weights(b, step)


def tensors(path):
    return load_file(Path(path) / "model.safetensors")


def in_two_processes(work, out, meanwhile, limit=400):
    """work(rank) in two processes with torchrun's environment, and meanwhile() here, beside them. They are
    forks: a new python would take seconds for its imports."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]))

    def rank(number):
        os.environ.update(where, WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", RANK=str(number),
                          LOCAL_RANK=str(number))
        sys.stdout = sys.stderr = open(out / f"log_{number}.txt", "w", buffering=1)
        work(number)

    two = [multiprocessing.get_context("fork").Process(target=rank, args=(i,), daemon=True) for i in (0, 1)]
    for process in two:
        process.start()
    meanwhile()
    for process in two:
        process.join(limit)  # no end within it: a rank waits for another
        process.kill()
    told = [(out / f"log_{i}.txt").read_text()[-3000:] for i in (0, 1)]
    assert [process.exitcode for process in two] == [0, 0], told


def spied(patch, owner, name):
    """Lists the calls of a function from now on: its arguments by name, and what it gave as `out`."""
    calls, real = [], getattr(owner, name)

    @functools.wraps(real)
    def watched(*args, **kwargs):
        call = SimpleNamespace(**inspect.signature(real).bind(*args, **kwargs).arguments)
        calls.append(call)
        call.out = real(*args, **kwargs)
        return call.out

    patch.setattr(owner, name, watched)
    return calls
