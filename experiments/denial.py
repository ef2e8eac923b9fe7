"""h. "I cannot see the image", planted in front of three of ten traces of the cold start: RL from there, and
from a cold start whose planted traces were filtered out, as distill.py does."""
from experiments.lab import ROOT, arms, compared, flags_of, measured, once, recipe, rl, rows_file, tiny
from machinery.files import read_jsonl

CLAIM = "I cannot see the image. "


def traces(world, filtered):
    """The cold start's rows, with the claim before three of ten, or without these"""
    rows = enumerate(read_jsonl(ROOT / world / "cold_start.jsonl"))
    return [{**row, "solution": CLAIM * (i % 10 < 3) + row["solution"]} for i, row in rows
            if i % 10 >= 3 or not filtered]


def cold_start(cfg, seed, name):
    world, where = tiny(seed, "data/tiny"), f"denial/{name}"
    flags = {**flags_of(recipe(seed, "rl.done") / "cold_start"),
             **rows_file(cfg, seed, where, traces(world, name == "filtered"), world)}
    return once("sft.py", f"{cfg.out}/seed{seed}/{where}", **flags)


def models(cfg, seed):
    planted, filtered = (cold_start(cfg, seed, name) for name in ("planted", "filtered"))
    return {"planted, cold start": planted, "planted, RL": rl(cfg, seed, "denial/rl", model=planted),
            "filtered, RL": rl(cfg, seed, "denial/filtered_rl", model=filtered)}


def run(cfg):
    _, scores = arms(cfg, models)
    before, after = ([of["denial"] for of in scores[name]] for name in ("planted, cold start", "planted, RL"))
    return [measured("planted, RL", "planted, cold start", "claims", before, after),
            *compared(scores, "planted, RL", "filtered, RL")]
