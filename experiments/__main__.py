"""The paper's findings, rerun in miniature: each function of findings.py that FINDINGS names.

    python -m experiments freezing qwen     these, three seeds each; what is finished is not made again
    python -m experiments                   all: hours

The rows are printed and left in results/NAME.json, and results/story.png shows all that are there; README.md
says what was expected and what came out.
"""
from dataclasses import dataclass
from typing import Literal

import tyro

from experiments.controls import CONTROLS
from experiments.findings import FINDINGS
from experiments.lab import Seed
from experiments.rows import RESULTS, draw_story, lines
from machinery.files import main, versions, write_json


@dataclass
class Config:
    names: tyro.conf.Positional[tuple[Literal[tuple(FINDINGS)], ...]] = tuple(FINDINGS)  # which
    seeds: tuple[int, ...] = (0, 1, 2)  # of the world, its trained model and all that follows
    out: str = "out/experiments"        # runs that `make tiny` does not make


def run(cfg):
    for name in cfg.names:
        rows = FINDINGS[name]([Seed(number, cfg.out) for number in cfg.seeds])
        write_json(RESULTS / f"{name}.json", {"name": name, "seeds": list(cfg.seeds), **versions(),
                                              "rows": [vars(row) for row in rows]})
        print("\n".join(lines(rows)))
    draw_story(tuple(control.__name__ for control in CONTROLS))


if __name__ == "__main__":
    main(run, Config)
