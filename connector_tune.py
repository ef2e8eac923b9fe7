"""Stage 3, connector-only tuning: win back breadth after reinforcement learning on maths alone (paper 3.4).

Only the connector learns, supervised, on samples of many subjects: the reasoning that the LLM has learned
stays as it is. In the paper this lifts MMMU from 74.5 to 76.0, while tuning the LLM too lowers it to 73.2,
and the encoder as well to 69.7 (compare with --train connector llm). Two epochs, global batch 64, lr
1e-5, cosine, warm-up 0.03, early stopping on the validation loss; the best checkpoint is kept and written to
selected.json.

The loop is that of stage 1 (sft.train) with other defaults, early stopping, and one economy. Nothing
before the connector changes, so the encoder runs once over the data, and its features are read from a file in
every later epoch (when the encoder is frozen and the file stays below --features_gib).

    laptop:  python connector_tune.py --lr 3e-4
    8 GPUs:  torchrun --nproc_per_node 8 connector_tune.py --model out/grpo --data breadth.jsonl --val v.jsonl
"""
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

import sft
from machinery.files import Refused, main, say


@dataclass
class Config(sft.Config):
    model: str = "out/tiny/rl"              # where to start; of a run folder the selected checkpoint
    data: str = "data/tiny/connector.jsonl"  # rows of many subjects with question, images, solution
    val: str = "data/tiny/connector_val.jsonl"  # rows for the validation loss
    out: str = "out/connector"              # run folder; the same command again goes on where it stopped
    train: tuple[str, ...] = ("connector",)  # parts that train: encoder connector llm
    # steps between validation losses (and checkpoints)
    save_every: Annotated[int, arg(aliases=["--val_every", "--val-every"])] = 25
    patience: int = 3                       # stop after so many validation losses without a new best
    features_gib: float = 200.0             # largest file of encoder features; else computed every time


def train(cfg):
    if not cfg.val:
        raise Refused("--val: early stopping needs validation rows")
    loss, step = min(sft.train(cfg, cfg.patience, cfg.features_gib))
    say(f"best validation loss {loss:.4f} at step {step} (selected.json)" if step else
        f"no checkpoint has a lower validation loss than the start, {loss:.4f}: selected.json names "
        f"{cfg.model}. A lower --lr?")


if __name__ == "__main__":
    main(train, Config)
