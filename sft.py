"""Stage 1, the cold start: supervised finetuning that teaches "think, then answer" (paper sections 2, 3.2).

The paper samples thought traces from an older reasoner, keeps those whose answer is right and that do not
ramble (12K of 20K; here: distill.py), and finetunes on them. The loss is the usual one: minus the log-prob,
mean over all response tokens of the batch; prompts are masked. The paper gives no hyperparameters for this
stage; the defaults are those of its other supervised runs (section 3.4). The tiny world's base model and
stage 3 (connector_tune.py) go through the same `train`.

    laptop:  python sft.py --model data/tiny/model --data data/tiny/base.jsonl --no-thinking --out out/base
    8 GPUs:  torchrun --nproc_per_node 8 sft.py --model OpenGVLab/InternVL3-8B-hf --data cold_start.jsonl
"""
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal

import torch
from tqdm import tqdm

from data import Processor, read_records, subjects
from machinery.files import Refused, main, read_jsonl, say
from machinery.muon import make_muon
from machinery.optimizer import learning_rates
from machinery.parallel import even_out, share, start_processes, total
from machinery.run import Run, batch_indices
from machinery.supervised import ahead, keep_best, keep_features, rows_with_solutions
from model import PARTS, load_model, make_optimizer, update
from pack import make_packs


@dataclass
class Config:
    model: str = "out/tiny/base"            # where to start: model folder, run folder or hub name
    data: str = "data/tiny/cold_start.jsonl"  # rows with question, images, answer and solution
    columns: tuple[str, ...] = ()           # OURS=THEIRS for columns with other names, e.g. question=problem
    image_root: str = ""                    # folder that image paths start from; "": the data file's
    out: str = "out/cold_start"             # run folder; the same command again goes on where it stopped
    val: str = ""                           # rows for a validation loss, measured with every save ("" = none)
    train: tuple[str, ...] = PARTS          # parts that train: encoder connector llm
    lora: int = 0                           # rank of the LLM's LoRA adapters (8 is enough); 0: none
    thinking: bool = True                   # the prompt ends with <think>, the solution contains </think>
    ask: str = ""                           # said below every question: "Put the final answer in \boxed{}."
    system: str = ""                        # system prompt; "": what the chat template has
    lr: float = 1e-5                        # peak learning rate [3.4]
    lr_encoder: float | None = None         # the encoder's learning rate; None: --lr
    lr_connector: float | None = None       # the connector's
    lr_llm: float | None = None             # the LLM's
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # how the rate falls after the warm-up
    warmup: float = 0.03                    # share of the steps that warm up (grpo.py: a number of steps)
    batch: int = 64                         # rows of an optimizer step, over all processes
    epochs: float = 2.0                     # passes over the data
    max_tokens: int = 16384                 # tokens of one pack: what a forward holds at a time
    max_length: int = 16384                 # rows longer than this (prompt and solution) are left out
    max_tiles: int = 12                     # tiles of an image (InternVL), and a thumbnail if it is several
    pixels: tuple[int, int] = (0, 0)        # fewest, most pixels of an image (Qwen-VL); 0: the model's
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: for a model from nothing, in one process
    weight_decay: float = 0.0               # of the optimizer
    clip: float = 1.0                       # largest gradient norm
    dtype: Literal["auto", "bf16", "fp32"] = "auto"  # bf16: over fp32 weights; auto: bf16 where it is native
    checkpointing: bool = False             # recompute activations: less memory, a third more time
    compile: bool = False                   # torch.compile of the blocks: minutes at the start, then faster
    hybrid: bool = False                    # several nodes: shard inside each, replicate across them (HSDP)
    offload: bool = False                   # weights, gradients, optimizer in host memory: slow, but it fits
    limit_bad: float = 0.01                 # share of unusable rows that is skipped; more is refused
    logger: str = ""                        # gets the metrics, too: wandb, trackio, swanlab
    save_every: int = 500                   # steps between checkpoints; the last step is always saved
    seed: int = 0                           # of the order of the rows


def read_rows(source, cfg, processor):
    """The rows of a file that fit, with their solutions"""
    records = read_records(source, cfg.columns, ("question", "solution"), cfg.limit_bad,
                           image_root=cfg.image_root)
    return rows_with_solutions(records, processor, cfg.thinking, cfg.max_length, source, cfg.limit_bad)


def packs_of(rows, processor, cfg, features=None):
    """Packs of rows; with kept features the images need not be read."""
    groups = [(row.prompt, [row.ids]) for row in rows]
    return make_packs(processor, groups, cfg.max_tokens, pixels=features is None)


@torch.no_grad()
def validation_loss(s, cfg):
    """Mean of minus log-prob over all response tokens of the validation rows."""
    loss = tokens = 0.0
    rows = s.val[s.world.rank::s.world.size]
    for pack, real in even_out(packs_of(rows, s.processor, cfg, s.features), s.world):
        logp, _ = s.vlm(pack.to(s.world.device), s.features(pack) if s.features else None)
        loss, tokens = loss - real * logp.double().sum().item(), tokens + real * len(logp)
    loss, tokens = total([loss, tokens], s.world)
    return loss / tokens


def setup(cfg):
    """What a run works with, by name; `first` is the step that it begins with, of `steps`."""
    world = start_processes(cfg.seed)
    run = Run(cfg.out, cfg, world)
    processor = Processor(cfg.model, cfg.max_tiles, cfg.pixels, cfg.ask, cfg.system)
    rows, val = (read_rows(source, cfg, processor) if source else [] for source in (cfg.data, cfg.val))
    records, val_records = ([row.prompt.record for row in some] for some in (rows, val))
    run.refuse_other_data(data=records, val=val_records)
    run.open_log(cfg.logger)
    if cfg.batch > len(rows) or min(cfg.batch, len(val) or cfg.batch) < world.size:
        raise Refused(f"--batch must be {world.size} to {len(rows)} rows, --val at least {world.size}")
    vlm = load_model(cfg, world)
    optimizer = (make_muon if cfg.optimizer == "muon" else make_optimizer)(vlm, cfg.weight_decay)
    first, steps = run.resume(vlm, optimizer, world), max(1, round(cfg.epochs * len(rows) / cfg.batch))
    say(f"{vlm.table()}\n{len(rows)} rows ({subjects(records)}), {steps} steps, {world.size} process(es)")
    return SimpleNamespace(world=world, run=run, processor=processor, rows=rows, val=val, vlm=vlm,
                           optimizer=optimizer, first=first, steps=steps, features=None)


def train(cfg, patience=None, features_gib=0.0):
    """The loop of stages 1 and 3. patience: stop after so many validation losses without a new best, and keep
    only the best checkpoint; None: neither. features_gib: largest file of a frozen encoder's features."""
    s = setup(cfg)
    file = s.run.dir / "features.bin"  # of a frozen encoder they are the same in every epoch
    if features_gib and "encoder" in s.vlm.frozen:
        s.features = keep_features(file, s.vlm, s.processor, s.rows + s.val,
                                   lambda rows: packs_of(rows, s.processor, cfg), features_gib, s.world)

    def batch_of(step):
        batch = [s.rows[i] for i in batch_indices(len(s.rows), cfg.batch, step, cfg.seed)]
        return batch, packs_of(share(batch, len, s.world), s.processor, cfg, s.features)

    losses = [(m["val_loss"], m["step"]) for m in read_jsonl(s.run.dir / "metrics.jsonl") if "val_loss" in m]
    if patience is not None and not losses:  # if no checkpoint beats the start, the start is selected
        losses.append((round(validation_loss(s, cfg), 6), 0))
        s.run.log(0, {"val_loss": losses[0][0]})
    bar = tqdm(ahead(batch_of, s.first, s.steps), cfg.out, s.steps, initial=s.first, disable=s.world.rank > 0)
    begin = time.time()
    for step, (batch, packs) in bar:  # the next is made while this one trains
        just_validated = patience is not None and losses[-1][1] == step
        if just_validated and keep_best(s.run, losses, s.processor.path, patience):
            say(f"stopped early: {patience} validation losses without a new best")
            break

        # ----------------------------------------------------------------------------------------------- loss
        tokens, loss = sum(len(row.ids) for row in batch), 0.0  # of all ranks, however they are packed
        for pack, real in even_out(packs, s.world):
            logp, _ = s.vlm(pack.to(s.world.device), s.features(pack) if s.features else None)
            part = -real * logp.sum() / tokens
            part.backward()
            loss += part.item()

        # ----------------------------------------------------------------------------------------------- step
        lr = learning_rates(cfg, step, s.steps, cfg.warmup * s.steps)
        norm = update(s.vlm, s.optimizer, lr, cfg.clip, s.run, [row.prompt.record.id for row in batch])

        # ----------------------------------------------------------------------------- validate, log and save
        m = {"loss": total([loss], s.world)[0], "lr": max(lr.values()), "grad_norm": norm, "tokens": tokens}
        measure = step + 1 == s.steps or (step + 1) % cfg.save_every == 0
        if measure and s.val:
            m["val_loss"] = validation_loss(s, cfg)
            losses.append((round(m["val_loss"], 6), step + 1))
        s.run.log(step + 1, {**m, "time_step": time.time() - begin})
        if measure:
            s.run.save(step + 1, s.vlm, s.optimizer, s.world)
        bar.set_postfix(loss=f"{m['loss']:.3f}", lr=f"{m['lr']:.1e}", refresh=False)
        begin = time.time()
    if patience is not None:
        keep_best(s.run, losses, s.processor.path, patience)
    file.unlink(missing_ok=True)
    say(f"done: {s.run.last}")
    return losses


if __name__ == "__main__":
    main(train, Config)
