"""The tiny world's encoder learns to see: it names the single cells of a picture, of every subject, light
and dark.

A real vision-language model joins an encoder that has seen millions of pictures with an LLM that has read
millions of texts. Here both come trained in a minute or two: this file teaches the encoder, and sft.py the
LLM (base.jsonl). Neither knows the other's language yet: that is the connector's work.

A linear layer on four neighbouring patches, which is where the connector will look, tells place, colour and
value of the cell that they show; afterwards it is thrown away. A five is a five in every subject, but what
stands on dark paper has other names than what stands on white. The handwriting is that of base and cold
start; the encoder meets that of reinforcement learning later, that of validation and evaluation never.

    python tiny/encoder.py --model data/tiny/model --seed 0 --out out/tiny/encoder
"""
import random
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from tqdm import tqdm
from transformers import AutoModelForImageTextToText

from pictures import COLOURS, make_pools, make_scene
from questions import SUBJECTS

COLOURS = ("", *COLOURS)  # of what is in a cell, where it has one
SIZES = (9, len(COLOURS), 10)  # places, colours, values from 0 to 9


@dataclass
class Config:
    model: str = "data/tiny/model"  # the untrained model
    out: str = "out/tiny/encoder"   # the same with a trained encoder
    steps: int = 500                # gradient steps
    pictures: int = 64              # pictures of a step, a third of them dark but in Math
    lr: float = 2e-3                # peak learning rate of AdamW
    seed: int = 0                   # of the pictures and of the linear layer


def batch(rng, pools, n):
    """n pictures, and what to name: pixels (n, 3, 48, 48) as the image processor gives them; dark (n,);
    colour and value of each cell (n, 9). The three cells above each other of a bar are its."""
    scenes = []
    for _ in range(n):
        subject = rng.choice(("Math", "Math", *SUBJECTS))  # handwriting is the hardest
        scenes.append(make_scene(rng, pools, subject, subject != "Math" and rng.random() < 1 / 3))
    pixels = torch.from_numpy(np.stack([scene.pixels for scene in scenes])).permute(0, 3, 1, 2).float() / 255
    tiles = [scene.tiles * (9 // len(scene.tiles)) for scene in scenes]
    colour = torch.tensor([[COLOURS.index(tile.colour) for tile in nine] for nine in tiles])
    value = torch.tensor([[tile.value for tile in nine] for nine in tiles])
    return (pixels - 0.85) / 0.25, torch.tensor([scene.dark for scene in scenes]), colour, value


def cells(model, pixels):
    """pixels (n, 3, 48, 48) -> what the encoder makes of each cell, (n, 9, 512): its four patches side by
    side. Qwen's encoder takes the patches in the order of the cells, each twice (as two frames), and knows no
    class token."""
    if model.config.model_type == "internvl":
        x = model.model.vision_tower(pixel_values=pixels).last_hidden_state[:, 1:]
        return by_cell(x.unflatten(1, (6, 6)))                                            # (n, 36, 128)
    patches = pixels.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5)            # (n, 6, 6, 3, 8, 8)
    twice = patches.unsqueeze(4).expand(-1, -1, -1, -1, 2, -1, -1)
    x = by_cell(twice.flatten(3)).reshape(len(pixels) * 36, -1)                           # (n * 36, 384)
    grids = torch.tensor([[1, 6, 6]] * len(pixels))
    return model.model.visual(x, grid_thw=grids).last_hidden_state.view(len(pixels), 9, -1)


def by_cell(x):
    """(n, 6, 6, width) -> (n, 9, 4 * width)"""
    return x.unflatten(2, (3, 2)).unflatten(1, (3, 2)).transpose(2, 3).flatten(1, 2).flatten(2)


def encoder_of(model):
    """The encoder's parameters; Qwen's merger, which lies inside, is the connector"""
    visual = model.model.vision_tower if model.config.model_type == "internvl" else model.model.visual
    return [p for name, p in visual.named_parameters() if not name.startswith("merger.")]


def named(head, features, dark):
    """Logits of place, colour and value, (n, 9, ...) each. Light and dark paper have names of their own: what
    has learned to read the one (the connector) cannot read the other yet."""
    place, light, night = head(features).split((SIZES[0], sum(SIZES[1:]), sum(SIZES[1:])), -1)
    return place, *torch.where(dark[:, None, None], night, light).split(SIZES[1:], -1)


def teach(cfg):
    torch.manual_seed(cfg.seed)
    rng = random.Random(f"{cfg.seed} encoder")
    pools = make_pools(random.Random(f"{cfg.seed} train"), "train", looks=120, copies=30)
    model = AutoModelForImageTextToText.from_pretrained(cfg.model, dtype=torch.float32)
    head = torch.nn.Linear(512, SIZES[0] + 2 * sum(SIZES[1:]))
    weights = [*encoder_of(model), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, weight_decay=0.05)
    places = torch.arange(SIZES[0]).expand(cfg.pictures, -1)
    bar = tqdm(range(cfg.steps), desc="the encoder learns to see", dynamic_ncols=True)
    for step in bar:
        pixels, dark, colour, value = batch(rng, pools, cfg.pictures)
        logits = named(head, cells(model, pixels), dark)
        loss = sum(F.cross_entropy(x.flatten(0, 1), y.flatten())
                   for x, y in zip(logits, (places, colour, value)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = cfg.lr * min(1, (step + 1) / 40) * (1 - step / cfg.steps)
        optimizer.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.3f}")
    return model


def main(cfg):
    if not Path(cfg.model).is_dir():
        sys.exit(f"\n--model {cfg.model}: no such folder. python tiny/make.py makes data/tiny/model.")
    model = teach(cfg)
    shutil.copytree(cfg.model, cfg.out, dirs_exist_ok=True)
    model.save_pretrained(cfg.out)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
