"""The paper's findings, rerun in miniature: each file here whose `run` returns rows is one of them.

    python -m experiments freezing qwen     these, three seeds each; what is finished is not made again
    python -m experiments                   all: hours

The rows are printed and left in results/NAME.json; README.md says what was expected and what came out.
"""
from dataclasses import dataclass
from importlib import import_module

import tyro

from experiments.lab import ROOT
from experiments.rows import RESULTS, lines
from machinery.files import main, write_json
from machinery.run import versions

FILES = sorted((ROOT / "experiments").glob("*.py"))
NAMES = [file.stem for file in FILES if "\ndef run(cfg)" in file.read_text()]


@dataclass
class Config:
    names: tyro.conf.Positional[tuple[str, ...]] = tuple(NAMES)  # which experiments
    seeds: tuple[int, ...] = (0, 1, 2)  # of the world, its trained model and all that follows
    out: str = "out/experiments"        # runs that `make tiny` does not make


def run_all(cfg):
    for name in cfg.names:
        rows = import_module(f"experiments.{name}").run(cfg)
        write_json(RESULTS / f"{name}.json", {"name": name, "seeds": list(cfg.seeds), **versions(),
                                              "rows": [vars(row) for row in rows]})
        print("\n".join(lines(rows)))


if __name__ == "__main__":
    main(run_all, Config)
