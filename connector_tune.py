"""Stage 3, connector-only tuning: win back breadth after reinforcement learning on maths alone (paper sections 3.4, 5.6).

Only the connector learns, supervised, on samples of many subjects: the reasoning that the LLM has learned stays as it is.
In the paper this lifts MMMU from 74.5 to 76.0, while tuning the LLM too lowers it to 73.2, and the encoder as well to
69.7 (--train connector llm does the comparison). Two epochs, global batch 64, lr 1e-5, cosine, warm-up 0.03, early
stopping on the validation loss; the best checkpoint is kept and written to selected.json.

Nothing before the connector changes, so the encoder runs once over the data and its features are read from a file in
every later epoch (when the encoder is frozen and the file stays below --features_gib).

    laptop:  python connector_tune.py --lr 3e-4
    8 GPUs:  torchrun --nproc_per_node 8 connector_tune.py --model out/grpo --data breadth.jsonl --val breadth_val.jsonl
"""
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from tqdm import tqdm

from common import Refused, Run, ahead, discard, learning_rate, main, newest_checkpoint, read_jsonl, resume, save, say, start, total, write_text
from data import Chat, read_records, subjects
from model import even_out, load, make_optimizer, shard, update
from sft import batch_of, supervised, validation_loss


@dataclass
class Config:
    model: str = "out/tiny/rl"                    # where to start; of a run folder the selected checkpoint
    data: str = "data/tiny/connector.jsonl"       # rows of many subjects with question, images, answer and solution
    columns: tuple[str, ...] = ()                 # OURS=THEIRS where the data names its columns otherwise: question=problem
    val: str = "data/tiny/connector_val.jsonl"    # rows for the validation loss
    out: str = "out/connector"                    # run folder; the same command again goes on where it stopped
    train: tuple[str, ...] = ("connector",)       # parts that train: encoder connector llm
    thinking: bool = True                         # the prompt ends with <think>, the solution closes it with </think>
    lr: float = 1e-5                              # peak learning rate [3.4]
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # how the learning rate falls after the warm-up
    warmup: float = 0.03                          # share of the steps that warm up [3.4]
    batch: int = 64                               # rows of an optimizer step, over all processes [3.4]
    epochs: float = 2.0                           # passes over the data [3.4]
    val_every: int = 25                           # steps between validation losses (and checkpoints)
    patience: int = 3                             # stop after so many validation losses without a new best
    max_tokens: int = 16384                       # tokens of one pack: what a forward holds at a time
    max_length: int = 16384                       # rows longer than this (prompt and solution) are left out [3.4]
    max_tiles: int = 12                           # tiles of an image (InternVL), and a thumbnail when there are several
    pixels: tuple[int, int] = (0, 0)              # fewest and most pixels of an image (Qwen-VL); 0 = what the model folder says
    features_gib: float = 200.0                   # largest file of encoder features; beyond it they are computed every time
    weight_decay: float = 0.0                     # of AdamW
    clip: float = 1.0                             # gradient norm at most
    dtype: str = "auto"                           # bf16: computing in bf16 over fp32 weights; fp32; auto: bf16 where the processor has it
    checkpointing: bool = False                   # recompute activations in the backward: less memory, a third more time
    hybrid: bool = False                          # several nodes: each holds a whole copy, only gradients cross the network
    offload: bool = False                         # weights, gradients and optimizer wait in host memory: slow, but a model fits
    limit_bad: float = 0.01                       # share of unusable rows that is skipped; more is refused
    seed: int = 0                                 # of the order of the rows


class Features:
    """The frozen encoder's features of all rows in one memory-mapped file: (tiles of all rows, patches, width).

    Call it with a pack and it returns the features of the pack's images, in order.
    """

    def __init__(self, path, vlm, chat, rows, cfg, world):
        self.device, self.at, tiles = world.device, {}, 0
        for p, _ in rows:  # where each row's tiles lie
            n = p.full.count(chat.image_id) // chat.per_tile
            self.at[id(p)] = slice(tiles, tiles + n)
            tiles += n
        one = even_out([chat.pack([(rows[0][0], [])])], world)[0][0]
        with torch.no_grad():
            like = vlm(one.to(world.device), only_features=True)
        self.blank = torch.zeros_like(like[:1])       # for packs without images
        self.fits = tiles * self.blank.nbytes <= cfg.features_gib * 2 ** 30
        if not self.fits or not tiles:
            say(f"encoder features would take {tiles * self.blank.nbytes / 2 ** 30:.1f} GiB (--features_gib {cfg.features_gib}): computed every time")
            return
        done = Path(f"{path}.done")
        if world.rank == 0:
            path.touch()
        if world.size > 1:
            dist.barrier()
        shape = (tiles, *self.blank.shape[1:])
        self.data = torch.from_file(str(path), shared=True, size=math.prod(shape), dtype=like.dtype).view(shape)
        if not done.exists():
            mine = rows[world.rank::world.size]
            packs = even_out(chat.packs([(p, [[0]]) for p, _ in mine], cfg.max_tokens), world)
            for pack, real in tqdm(packs, desc="encoder, once", disable=world.rank > 0, unit="pack", leave=False, dynamic_ncols=True):
                with torch.no_grad():
                    features = vlm(pack.to(world.device), only_features=True)
                begin = 0
                for p in pack.prompts if real and pack.images else ():
                    here = self.at[id(p)]
                    self.data[here] = features[begin:begin + here.stop - here.start].cpu()
                    begin += here.stop - here.start
        if world.size > 1:
            dist.barrier()
        done.touch()

    def __call__(self, pack):
        parts = [self.data[self.at[id(p)]] for p in pack.prompts]
        return torch.cat(parts).to(self.device) if len(pack.visual_at) else self.blank


def train(cfg):
    world = start(cfg.seed)
    run = Run(cfg.out, cfg, world, may_change=("max_tokens", "checkpointing", "hybrid", "offload", "features_gib"))
    chat = Chat(cfg.model, cfg.max_tiles, cfg.pixels)
    records, val_records = (read_records(source, cfg.columns, need=("question", "solution"), limit_bad=cfg.limit_bad) for source in (cfg.data, cfg.val))
    rows, val = (supervised(r, chat, cfg.thinking, cfg.max_length) for r in (records, val_records))
    if min(cfg.batch, len(val)) < world.size:
        raise Refused(f"--batch {cfg.batch} or the {len(val)} validation rows are fewer than the {world.size} processes")
    vlm = load(cfg.model, world.device, cfg.dtype, cfg.train, checkpointing=cfg.checkpointing, world=world)
    vlm = shard(vlm, world, cfg.hybrid, cfg.offload)
    optimizer = make_optimizer(vlm, cfg.weight_decay)
    first = resume(run, vlm, optimizer, world)
    steps = max(1, round(cfg.epochs * len(rows) / cfg.batch))
    say(f"{vlm.table()}\n{len(rows)} rows ({subjects(records)}), {steps} steps of {cfg.batch}, {world.size} process(es) on {world.device}")
    file = run.dir / "features.bin"
    features = Features(file, vlm, chat, rows + val, cfg, world) if "encoder" in vlm.frozen else None
    features = features if features and features.fits else None

    seen = [(m["val_loss"], m["step"]) for m in read_jsonl(run.dir / "metrics.jsonl") if m.get("val_loss") is not None]
    bar = tqdm(total=steps, initial=first, desc=cfg.out, disable=world.rank > 0, unit="step", dynamic_ncols=True)
    begin = time.time()
    for step, (batch, packs) in ahead(lambda step: batch_of(step, rows, chat, cfg, world, features is None), first, steps):
        if gave_up(seen, cfg.patience):
            break
        tokens = sum(len(ids) for _, ids in batch)
        loss = 0.0
        for pack, weight in even_out(packs, world):
            logp, _ = vlm(pack.to(world.device), features(pack) if features else None)
            part = -weight * logp.sum() / tokens
            part.backward()
            loss += part.item()

        lr = learning_rate(step, steps, cfg.lr, cfg.warmup * steps, cfg.schedule)
        norm = update(vlm, optimizer, lr, cfg.clip, run, [p.record.id for p, _ in batch])

        metrics = {"loss": total([loss], world)[0], "lr": optimizer.param_groups[0]["lr"], "grad_norm": norm, "tokens": tokens}
        if measure := (step + 1 == steps or (step + 1) % cfg.val_every == 0):
            metrics["val_loss"] = validation_loss(vlm, chat, val, cfg, world, features)
            seen.append((round(metrics["val_loss"], 6), step + 1))
        run.log(step + 1, {**metrics, "time_step": time.time() - begin})
        if measure:
            save(run, step + 1, vlm, optimizer, world)
            keep_best(run, seen)
        bar.set_postfix(loss=f"{metrics['loss']:.3f}", best=f"{min(seen)[0]:.4f}" if seen else "-", refresh=False)
        bar.update()
        begin = time.time()
    bar.close()
    if gave_up(seen, cfg.patience):
        say(f"stopped early: {cfg.patience} validation losses without a new best")
    if world.rank == 0:
        keep_best(run, seen)
        for path in (file, Path(f"{file}.done")):
            path.unlink(missing_ok=True)
    say(f"done: best validation loss {min(seen)[0]:.4f} at step {min(seen)[1]} (selected.json)")


def gave_up(seen, patience):
    """seen: [(validation loss, step)] in order. True when the last `patience` brought no new best."""
    return len(seen) > patience and min(seen)[1] < seen[-patience][1]


def keep_best(run, seen):
    """Point selected.json at the best checkpoint, and drop the others but the newest (which a resume needs)."""
    if run.rank == 0:
        loss, step = min(seen)
        write_text(run.dir / "selected.json", json.dumps({"step": step, "checkpoint": f"step_{step:06d}", "rule": "lowest validation loss", "val_loss": loss}))
        for old in run.dir.glob("step_*"):
            if old.name != f"step_{step:06d}" and old != newest_checkpoint(run.dir):
                discard(old)


if __name__ == "__main__":
    main(train, Config)
