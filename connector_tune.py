"""Stage 3, connector-only tuning: win back breadth after reinforcement learning on maths alone (paper
sections 3.4, 5.6).

Only the connector learns, supervised, on samples of many subjects: the reasoning that the LLM has learned
stays as it is. In the paper this lifts MMMU from 74.5 to 76.0, while tuning the LLM too lowers it to 73.2,
and the encoder as well to 69.7 (--train connector llm does the comparison). Two epochs, global batch 64, lr
1e-5, cosine, warm-up 0.03, early stopping on the validation loss; the best checkpoint is kept and written to
selected.json.

The loop is that of stage 1 (sft.supervise) with other defaults, early stopping, and one economy. Nothing
before the connector changes, so the encoder runs once over the data, and its features are read from a file in
every later epoch (when the encoder is frozen and the file stays below --features_gib).

    laptop:  python connector_tune.py --lr 3e-4
    8 GPUs:  torchrun --nproc_per_node 8 connector_tune.py --model out/grpo --data breadth.jsonl --val v.jsonl
"""
from dataclasses import dataclass
from typing import Literal

from machinery.files import Refused, main, say
from machinery.loggers import Logger
from sft import gave_up, supervise


@dataclass
class Config:
    model: str = "out/tiny/rl"              # where to start; of a run folder the selected checkpoint
    data: str = "data/tiny/connector.jsonl"  # rows of many subjects with question, images, solution
    columns: tuple[str, ...] = ()           # OURS=THEIRS for columns with other names, e.g. question=problem
    image_root: str = ""                    # folder that image paths start from; "": the data file's
    val: str = "data/tiny/connector_val.jsonl"  # rows for the validation loss
    out: str = "out/connector"              # run folder; the same command again goes on where it stopped
    train: tuple[str, ...] = ("connector",)  # parts that train: encoder connector llm
    lora: int = 0                           # the LLM learns by adapters of this rank (8 is enough); 0: whole
    thinking: bool = True                   # the prompt ends with <think>, the solution has its </think>
    ask: str = ""                           # said below every question: "Put the final answer in \boxed{}."
    system: str = ""                        # system prompt; "": what the chat template has
    lr: float = 1e-5                        # peak learning rate [3.4]
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # how the rate falls after the warm-up
    warmup: float = 0.03                    # share of the steps that warm up [3.4]
    batch: int = 64                         # rows of an optimizer step, over all processes [3.4]
    epochs: float = 2.0                     # passes over the data [3.4]
    val_every: int = 25                     # steps between validation losses (and checkpoints)
    patience: int = 3                       # stop after so many validation losses without a new best
    max_tokens: int = 16384                 # tokens of one pack: what a forward holds at a time
    max_length: int = 16384                 # rows longer than this (prompt and solution) are left out [3.4]
    max_tiles: int = 12                     # tiles of an image (InternVL), and a thumbnail if it is several
    pixels: tuple[int, int] = (0, 0)        # fewest, most pixels of an image (Qwen-VL); 0: the model's
    features_gib: float = 200.0             # largest file of encoder features; else computed every time
    weight_decay: float = 0.0               # of AdamW
    clip: float = 1.0                       # gradient norm at most
    dtype: str = "auto"                     # bf16 (over fp32 weights), fp32; auto: bf16 where it is native
    checkpointing: bool = False             # recompute activations: less memory, a third more time
    compile: bool = False                   # torch.compile of the blocks: minutes at the start, then faster
    hybrid: bool = False                    # several nodes: a whole copy on each, only gradients travel
    offload: bool = False                   # weights, gradients, optimizer in host memory: slow, but it fits
    limit_bad: float = 0.01                 # share of unusable rows that is skipped; more is refused
    logger: Logger = ""                     # gets the metrics, too: wandb, trackio, swanlab, tensorboard
    seed: int = 0                           # of the order of the rows


def train(cfg):
    if not cfg.val:
        raise Refused("--val: early stopping needs validation rows")
    run, losses = supervise(cfg, cfg.val_every, may_change=("features_gib",), patience=cfg.patience,
                            features_gib=cfg.features_gib)
    if gave_up(losses, cfg.patience):
        say(f"stopped early: {cfg.patience} validation losses without a new best")
    loss, step = min(losses)
    say(f"done: best validation loss {loss:.4f} at step {step} (selected.json)" if step else
        f"done: no checkpoint has a lower validation loss than the start, {loss:.4f}: selected.json names "
        f"{cfg.model}. A lower --lr?")


if __name__ == "__main__":
    main(train, Config)
