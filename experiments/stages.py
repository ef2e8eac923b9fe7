"""j. Does RL on maths alone carry over to other subjects, and does connector-only tuning add to it? The runs
of `make tiny` themselves."""
from experiments.lab import ROOT, compared, recipe
from machinery.files import read_json

STAGES = {"cold start": "cold_start", "after RL": "rl", "after connector tuning": "connector"}


def run(cfg):
    scores = {name: [read_json(ROOT / recipe(seed, f"{stage}/eval/scores.json") / stage / "eval/scores.json")
                     for seed in cfg.seeds] for name, stage in STAGES.items()}
    return [*compared(scores, "after RL", "cold start", "MMMU +6.4", "higher"),
            *compared(scores, "after connector tuning", "after RL", "MMMU +1.5", "higher")]
