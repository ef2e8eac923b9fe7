"""Stage 1, the cold start: supervised finetuning that teaches "think, then answer" (paper sections 2 and 3.2).

The paper samples thought traces from an older reasoner, keeps those whose answer is right and that do not ramble (about
12K of 20K; here: distill.py), and finetunes on them. The loss is the usual one: minus the log-prob of the response, mean
over all response tokens of the batch, prompts not learned. The paper gives no hyperparameters for this stage; the
defaults are those of its other supervised runs (section 3.4). The tiny world's base model is trained with the same file.

    laptop:  python sft.py --model data/tiny/model --data data/tiny/base.jsonl --no-thinking --lr 1e-3 --out out/base
    8 GPUs:  torchrun --nproc_per_node 8 sft.py --model OpenGVLab/InternVL3-8B-hf --data cold_start.jsonl
"""
import time
from dataclasses import dataclass
from typing import Literal

import torch
from tqdm import tqdm

from common import Refused, Run, ahead, batch_indices, learning_rate, main, resume, save, say, start, total
from data import END_THINK, Chat, read_records, subjects
from model import PARTS, even_out, load, make_optimizer, shard, share, update


@dataclass
class Config:
    model: str = "out/tiny/base"                  # where to start: model folder, run folder or hub name
    data: str = "data/tiny/cold_start.jsonl"      # rows with question, images, answer and solution
    columns: tuple[str, ...] = ()                 # OURS=THEIRS where the data names its columns otherwise: question=problem
    out: str = "out/cold_start"                   # run folder; the same command again goes on where it stopped
    val: str = ""                                 # rows for a validation loss, measured with every save ("" = none)
    train: tuple[str, ...] = PARTS                # parts that train: encoder connector llm
    thinking: bool = True                         # the prompt ends with <think>, the solution closes it with </think>
    lr: float = 1e-5                              # peak learning rate [3.4]
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # how the learning rate falls after the warm-up
    warmup: float = 0.03                          # share of the steps that warm up
    batch: int = 64                               # rows of an optimizer step, over all processes
    epochs: float = 2.0                           # passes over the data
    max_tokens: int = 16384                       # tokens of one pack: what a forward holds at a time
    max_length: int = 16384                       # rows longer than this (prompt and solution) are left out
    max_tiles: int = 12                           # tiles of an image (InternVL), and a thumbnail when there are several
    pixels: tuple[int, int] = (0, 0)              # fewest and most pixels of an image (Qwen-VL); 0 = what the model folder says
    optimizer: str = "adamw"                      # adamw, or muon: for a model from nothing, in one process
    weight_decay: float = 0.0                     # of the optimizer
    clip: float = 1.0                             # gradient norm at most
    dtype: str = "auto"                           # bf16: computing in bf16 over fp32 weights; fp32; auto: bf16 where the processor has it
    checkpointing: bool = False                   # recompute activations in the backward: less memory, a third more time
    hybrid: bool = False                          # several nodes: each holds a whole copy, only gradients cross the network
    offload: bool = False                         # weights, gradients and optimizer wait in host memory: slow, but a model fits
    limit_bad: float = 0.01                       # share of unusable rows that is skipped; more is refused
    save_every: int = 500                         # steps between checkpoints; the last step is always saved
    seed: int = 0                                 # of the order of the rows


def supervised(records, chat, thinking, max_length):
    """Records -> [(prompt, solution ids)], the end token appended. Checks that solution and thinking mode agree."""
    for r in records:
        r.solution = (r.solution or "").removeprefix("<think>").lstrip("\n")
        if thinking and END_THINK not in r.solution:
            raise Refused(f"row {r.id}: the solution has no {END_THINK}, but --thinking teaches the thinking mode. "
                          f"Mend the row, or train the direct mode with --no-thinking.")
        if not thinking and END_THINK in r.solution:
            raise Refused(f"row {r.id}: the solution has a {END_THINK}, but --no-thinking teaches the direct mode")
    prompts = chat.prompts(records, thinking, max_length)
    ids = chat.tokenizer([p.record.solution for p in prompts], add_special_tokens=False)["input_ids"]
    if wrong := [p.record.id for p, i in zip(prompts, ids) if chat.image_id in i]:
        raise Refused(f"row {wrong[0]}: the solution contains {chat.image_mark} literally, which stands for an image. Mend the row.")
    rows = [(p, i + [chat.tokenizer.eos_token_id]) for p, i in zip(prompts, ids)]
    fits = [(p, i) for p, i in rows if len(p.full) + len(i) <= min(max_length, chat.context)]
    if len(fits) < len(rows):
        say(f"left out: {len(rows) - len(fits)} of {len(rows)} rows are longer than {min(max_length, chat.context)} tokens with their solution")
    if not fits:
        raise Refused("no row fits --max_length")
    return fits


def batch_of(step, rows, chat, cfg, world, pixels=True):
    """The rows of a step on all ranks, and the packs of this rank's part of them."""
    batch = [rows[i] for i in batch_indices(len(rows), cfg.batch, step, cfg.seed)]
    mine = share(batch, lambda row: len(row[0].full) + len(row[1]), world)
    return batch, chat.packs([(p, [ids]) for p, ids in mine], cfg.max_tokens, pixels=pixels)


@torch.no_grad()
def validation_loss(vlm, chat, rows, cfg, world, features=None):
    """Mean of minus log-prob over all response tokens of the validation rows. features: see connector_tune.py."""
    loss = tokens = 0.0
    packs = chat.packs([(p, [ids]) for p, ids in rows[world.rank::world.size]], cfg.max_tokens, pixels=features is None)
    for pack, weight in even_out(packs, world):
        logp, _ = vlm(pack.to(world.device), features(pack) if features else None)
        loss, tokens = loss - weight * logp.double().sum().item(), tokens + weight * len(logp)
    loss, tokens = total([loss, tokens], world)
    return loss / tokens


def train(cfg):
    world = start(cfg.seed)
    run = Run(cfg.out, cfg, world, may_change=("save_every", "max_tokens", "checkpointing", "hybrid", "offload"))
    chat = Chat(cfg.model, cfg.max_tiles, cfg.pixels)
    records = read_records(cfg.data, cfg.columns, need=("question", "solution"), limit_bad=cfg.limit_bad)
    rows = supervised(records, chat, cfg.thinking, cfg.max_length)
    val = supervised(read_records(cfg.val, cfg.columns, need=("question", "solution")), chat, cfg.thinking, cfg.max_length) if cfg.val else []
    if min(cfg.batch, len(val) or cfg.batch) < world.size:
        raise Refused(f"--batch {cfg.batch} or the {len(val)} validation rows are fewer than the {world.size} processes")
    vlm = load(cfg.model, world.device, cfg.dtype, cfg.train, checkpointing=cfg.checkpointing, world=world)
    vlm = shard(vlm, world, cfg.hybrid, cfg.offload)
    optimizer = make_optimizer(vlm, cfg.weight_decay, cfg.optimizer)
    first = resume(run, vlm, optimizer, world)
    steps = max(1, round(cfg.epochs * len(rows) / cfg.batch))
    say(f"{vlm.table()}\n{len(rows)} rows ({subjects(records)}), {steps} steps of {cfg.batch}, {world.size} process(es) on {world.device}")

    bar = tqdm(total=steps, initial=first, desc=cfg.out, disable=world.rank > 0, unit="step", dynamic_ncols=True)
    begin = time.time()
    for step, (batch, packs) in ahead(lambda step: batch_of(step, rows, chat, cfg, world), first, steps):
        tokens = sum(len(ids) for _, ids in batch)  # of the whole step on all ranks: the normaliser does not know of packs
        loss = 0.0
        for pack, weight in even_out(packs, world):
            logp, _ = vlm(pack.to(world.device))
            part = -weight * logp.sum() / tokens
            part.backward()
            loss += part.item()

        lr = learning_rate(step, steps, cfg.lr, cfg.warmup * steps, cfg.schedule)
        norm = update(vlm, optimizer, lr, cfg.clip, run, [p.record.id for p, _ in batch])

        last = step + 1 == steps
        metrics = {"loss": total([loss], world)[0], "lr": lr, "grad_norm": norm, "tokens": tokens}
        if val and (last or (step + 1) % cfg.save_every == 0):
            metrics["val_loss"] = validation_loss(vlm, chat, val, cfg, world)
        run.log(step + 1, {**metrics, "time_step": time.time() - begin})
        if last or (step + 1) % cfg.save_every == 0:
            save(run, step + 1, vlm, optimizer, world)
        bar.set_postfix(loss=f"{metrics['loss']:.3f}", lr=f"{lr:.1e}", refresh=False)
        bar.update()
        begin = time.time()
    bar.close()
    say(f"done: {run.last}")


if __name__ == "__main__":
    main(train, Config)
