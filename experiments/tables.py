"""Tables of finished runs: what the README quotes, printed from out/ or evidence/.

    python -m experiments.tables seeds evidence/tiny*         several seeds: means, spread, gains, intervals
    python -m experiments.tables losses out/tiny/rl           tiny world: what wrong answers are lost to
    python -m experiments.tables rules out/tiny/rl            which checkpoint each rule would take, its score
    python -m experiments.tables board CLONE/out/tiny*        for docs/board.md: beside the same seeds in out/
    python -m experiments.tables clock out/tiny*              minutes from nothing to an accuracy
"""
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from experiments.losses import print_losses
from experiments.rules import print_rules, read_selection
from machinery.files import Refused, main, read_json
from machinery.scores import stage_result
from machinery.tables import percent, pooled, print_table, span
from report import STAGES


@dataclass
class Config:
    what: tyro.conf.Positional[Literal["seeds", "losses", "rules", "board", "clock"]]
    folders: tyro.conf.Positional[tuple[str, ...]]  # of `make tiny` (seeds, board, clock), or run folders


def spread(values, scale=100, sign=""):
    """ "mean ± standard deviation (smallest to largest)" """
    v = scale * np.array(values)
    more = f" ± {v.std(ddof=1):.1f} ({v.min():{sign}.1f} to {v.max():{sign}.1f})" if len(v) > 1 else ""
    return f"{v.mean():{sign}.1f}{more}"


def gains_of_runs(gains):
    """Rows of a table: what the same stage gained in several runs, for maths, the others and every single one
    of them: points, 95% over questions, smallest, largest."""
    rows = []
    for name in ("maths", "others", *(n for n in gains[0]["subjects"] if n != gains[0]["trained"])):
        of_runs = [(g[name], g[f"{name}_se"]) if name in g else (g["subjects"][name], g["subjects_se"][name])
                   for g in gains]
        values, errors = zip(*of_runs)
        mean, error = pooled(values, errors)
        rows.append([name.replace("_", " "), percent(mean, sign="+"), span(mean, error),
                     percent(min(values), sign="+"), percent(max(values), sign="+")])
    return rows


def seeds(folders):
    """Folders in which `report.py table` left results.json"""
    runs = [read_json(Path(folder) / "results.json") for folder in folders]
    stages = [s for s in STAGES if all(s in t for t in runs)]
    columns = {"maths": 100, "others": 100, "length": 1}  # key: scale
    print_table([f"{len(runs)} runs: mean ± standard deviation", "maths %", "others %", "length"],
                [[STAGES[s], *(spread([t[s][k] for t in runs], scale) for k, scale in columns.items())]
                 for s in stages])
    for one, two in zip(stages, stages[1:]):  # 95%: from the differences question by question, of all runs
        print_table([f"{STAGES[two]} - {STAGES[one]}", "points", "95%, questions", "smallest", "largest"],
                    gains_of_runs([t[two]["gains"][one] for t in runs]))


def board(folders):
    """Mean accuracy of all subjects after the whole recipe, seed by seed beside the recipe as it is."""
    def accuracy(folder):
        return read_json(folder / "results.json")["connector"]["all"]

    here, plain = ([accuracy(at / Path(folder).name) for folder in folders]
                   for at in (Path(folders[0]).parent, Path("out")))
    print(f"| {spread(here)} | {spread([a - b for a, b in zip(here, plain)], sign='+')} | {len(here)} |")


def clock(folders, goals=(0.5, 0.55, 0.6)):
    """Minutes of the stages until a model that is right so often (mean of all subjects) lies in a folder: a
    checkpoint of RL or, behind it and the selection, the last stage's. Evaluations are not counted. A
    stage's minutes are those of the first folder: every seed has the same steps, so one alone need have had
    the machine to itself."""
    rows = []
    lines = (line.split("\t") for line in (Path(folders[0]) / "times.tsv").read_text().splitlines())
    spent = {stage: int(seconds) / 60 for stage, seconds in lines}
    begin = sum(spent[stage] for stage in ("world", "encoder", "base", "cold start"))
    for folder in map(Path, folders):
        steps = sorted((folder / "rl" / "eval_steps").glob("step_*/scores.json"))
        reached = [(begin + spent["RL"] * (k + 1) / len(steps), path) for k, path in enumerate(steps)]
        reached.append((begin + spent["RL"] + spent["selection"] + spent["connector"],
                        folder / "connector" / "eval" / "scores.json"))
        reached = [(f"{minutes:.1f}", stage_result(read_json(path))["all"]) for minutes, path in reached]
        first = [next((minutes for minutes, score in reached if score >= goal), "-") for goal in goals]
        rows.append([folder, *first, reached[-1][0], percent(reached[-1][1])])
    print_table(["minutes to", *(f"{goal:.0%}" for goal in goals), "all", "in the end, %"], rows)


def rules(folders):
    print_rules(list(map(read_selection, folders)))


def tables(cfg):
    if missing := [folder for folder in cfg.folders if not Path(folder).is_dir()]:
        raise Refused(f"no such folder: {', '.join(missing)}")
    {"seeds": seeds, "losses": print_losses, "rules": rules, "board": board,
     "clock": clock}[cfg.what](cfg.folders)


if __name__ == "__main__":
    main(tables, Config)
