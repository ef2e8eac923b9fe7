"""Tables of finished runs: what the README quotes, printed from out/ or evidence/.

    python -m experiments.tables seeds evidence/tiny*         several seeds: means, spread, gains, intervals
    python -m experiments.tables losses out/tiny/rl           tiny world: what wrong answers are lost to
    python -m experiments.tables rules out/tiny/rl            which checkpoint each rule would take, its score
    python -m experiments.tables board CLONE/out/tiny*        for docs/board.md: beside the same seeds in out/
"""
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from experiments.losses import print_losses
from experiments.rows import t_times
from experiments.rules import print_rules, read_selection
from machinery.files import main, read_json
from machinery.intervals import mean_and_error, pooled
from machinery.tables import percent, print_table, span
from report import STAGES


@dataclass
class Config:
    what: tyro.conf.Positional[Literal["seeds", "losses", "rules", "board"]]
    folders: tyro.conf.Positional[tuple[str, ...]]  # of `make tiny` (seeds, board), or run folders
    world: str = ""         # losses: folder with truth.json; default: where the questions came from
    together: bool = False  # losses: one set of tables of all the runs (the same stage of several seeds)


def spread(values, scale=100, sign=""):
    """ "mean ± standard deviation (smallest to largest)" """
    if any(v is None for v in values):
        return "-"
    v = scale * np.array(values)
    more = f" ± {v.std(ddof=1):.1f} ({v.min():{sign}.1f} to {v.max():{sign}.1f})" if len(v) > 1 else ""
    return f"{v.mean():{sign}.1f}{more}"


def gains_of_runs(gains):
    """Rows of a table: what the same stage gained in several runs, for maths, the others and every single one
    of them: points, 95% over questions, 95% over runs, smallest, largest, two standard errors."""
    pairs = {key: [(g[key], g[f"{key}_se"]) for g in gains] for key in ("maths", "others")}
    pairs |= {n: [(g["subjects"][n], g["subjects_se"][n]) for g in gains] for n in gains[0]["subjects"]
              if n != gains[0]["trained"] and all(n in g["subjects"] for g in gains)}
    rows = []
    for name, of_runs in pairs.items():
        values, errors = zip(*of_runs)
        if None in values:  # there is no maths, or nothing else
            continue
        mean, error = pooled(values, errors)
        _, between = mean_and_error(values)
        times = t_times(len(values) - 1) if len(values) > 1 else None
        smallest, largest = (percent(end(values), sign="+") for end in (min, max))
        rows.append([name.replace("_", " "), percent(mean, sign="+"), span(mean, error),
                     span(mean, between, times), smallest, largest, percent(error and 2 * error)])
    return rows


def seeds(folders):
    """Folders in which `report.py table` left results.json"""
    runs = [read_json(Path(folder) / "results.json") for folder in folders]
    stages = [s for s in STAGES if all(s in t for t in runs)]
    columns = {"maths": 100, "others": 100, "length": 1}  # key: scale
    lines = [[STAGES[s], *(spread([t[s][k] for t in runs], scale) for k, scale in columns.items())]
             for s in stages]
    print_table(["", "maths %", "others %", "length"], lines)
    pairs = {f"{STAGES[two]} - {STAGES[one]}": [t[two]["gains"][one] for t in runs]  # taken run by run
             for one, two in zip(stages, stages[1:])}
    print_table(["points gained", "maths", "others"],
                [[name, *(spread([g[key] for g in gains], sign="+") for key in ("maths", "others"))]
                 for name, gains in pairs.items()])
    print(f"runs of the recipe: {len(runs)}; mean ± standard deviation over them (smallest to largest)\n")
    for name, gains in pairs.items():
        header = "points", "95%, questions", "95%, runs", "smallest", "largest", "could be seen"
        print_table([name, *header], gains_of_runs(gains))
    print("95%, questions: from the differences question by question, of all runs together. 95%, runs: from "
          "the gains of\nthe runs (t), which holds what differs from run to run, too. Could be seen: how "
          "large a gain has to be for\nso many questions to show it (two standard errors).")


def board(folders):
    """Mean accuracy of all subjects after the whole recipe, seed by seed beside the recipe as it is."""
    def accuracy(folder):
        return read_json(folder / "results.json")["connector"]["all"]

    here, plain = ([accuracy(at / Path(folder).name) for folder in folders]
                   for at in (Path(folders[0]).parent, Path("out")))
    print(f"| {spread(here)} | {spread([a - b for a, b in zip(here, plain)], sign='+')} | {len(here)} |")


def tables(cfg):
    if cfg.what == "losses":
        print_losses(cfg.folders, cfg.world, cfg.together)
    elif cfg.what == "rules":
        print_rules(list(map(read_selection, cfg.folders)))
    else:
        {"seeds": seeds, "board": board}[cfg.what](cfg.folders)


if __name__ == "__main__":
    main(tables, Config)
