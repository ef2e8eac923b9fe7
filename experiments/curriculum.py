"""i. A curriculum: searches among six lines and sums of two lines (rl_hard.jsonl) from step 20 on, alone or
mixed with normal ones; judged on normal problems and on 300 hard ones that no run trains on."""
from experiments.lab import ROOT, arms, compared, evaluate, recipe, rl, rows_file, tiny
from machinery.files import read_jsonl

ARMS = {"normal": (), "normal, then hard": ("normal problems fall", "lower"), "normal, then mixed": ()}


def files(cfg, seed):
    """Flags of sets: hard questions, the same one by one with normal ones, and 300 that no run trains on"""
    recipe(seed, "rl.done")
    world = tiny(seed, "data/tiny")
    hard, normal = (read_jsonl(ROOT / world / f"{name}.jsonl") for name in ("rl_hard", "rl"))
    sets = {"hard": hard[300:], "mixed": [row for pair in zip(hard[300:], normal) for row in pair],
            "held_out": hard[:300]}
    return {name: rows_file(cfg, seed, f"curriculum/{name}", rows, world) for name, rows in sets.items()}


def models(cfg, seed):
    made = {"normal": rl(cfg, seed, "")}
    for name in ("hard", "mixed"):
        file = files(cfg, seed)[name]
        made[f"normal, then {name}"] = rl(cfg, seed, f"curriculum/{name}", curriculum=file["data"],
                                          curriculum_at=20, image_root=file["image_root"])
    return made


def run(cfg):
    runs, normal = arms(cfg, models)
    hard = {arm: [evaluate(cfg, seed, run, "eval-hard", **files(cfg, seed)["held_out"])
                  for seed, run in zip(cfg.seeds, of)] for arm, of in runs.items()}
    rows = []
    for arm, told in [*ARMS.items()][1:]:
        row, = compared(hard, arm, "normal", measures=("maths",))
        row.arm += ", on hard ones"
        rows += [*compared(normal, arm, "normal", *told), row]
    return rows
