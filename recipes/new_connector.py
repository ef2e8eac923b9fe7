"""Put a fresh connector into an InternVL: a new model folder, which goes into every stage as its --model.

    python recipes/new_connector.py --model MODEL --connector qformer --queries 64 --out out/qformer

With a Q-Former, with the family's own MLP again, or with a class that you have added to connector.py. Train
it first, alone (sft.py --train connector): what it says means nothing to the LLM yet.
"""
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

if not __package__:  # started by its path: the top folder of the repository comes first
    sys.path[0] = str(Path(__file__).parent.parent)

import torch

from connector import CONNECTORS, make_connectors, visual_tokens
from machinery.families import family_of
from machinery.files import Refused, main, new_folder, resolve, say
from machinery.model_folder import load_hf, save_folder


@dataclass
class Config:
    model: str = "out/tiny/base"                  # an InternVL: model folder, run folder or hub name
    out: str = "out/qformer"                      # the new model folder; train its connector first (sft.py)
    connector: Literal[tuple(CONNECTORS)] = "qformer"  # with fresh weights
    queries: int = 64                             # visual tokens a tile (qformer)
    seed: int = 0                                 # of the fresh weights


def replace(cfg):
    kind = CONNECTORS[cfg.connector]
    hf, source, dtype = load_hf(cfg.model, make_connectors)
    config, family = hf.config, family_of(hf.config)
    if not family.tiled:
        raise Refused(f"--connector {cfg.connector}: only an InternVL takes another one, {cfg.model} is a "
                      f"{config.model_type}")
    config.connector = None if cfg.connector in family.connectors.values() else cfg.connector
    setattr(config, cfg.connector, {name: getattr(cfg, name) for name in getattr(kind, "options", ())})
    config.image_seq_length = visual_tokens(config)
    torch.manual_seed(cfg.seed)
    fresh = kind.of(config)
    if hasattr(fresh, "reset"):
        torch.manual_seed(cfg.seed)
        fresh.reset(like=hf.get_input_embeddings().weight.detach())
    hf.set_submodule(family.connector[0], fresh)
    with new_folder(cfg.out) as folder:
        save_folder(hf, folder, source, dtype)
    size = sum(p.numel() for p in fresh.parameters())
    say(f"{cfg.out}: {resolve(cfg.model)} with a fresh {cfg.connector} connector of {size:,} parameters")


if __name__ == "__main__":
    main(replace, Config)
