"""c. Which parts to tune after RL? Stage 3 as `make tiny` calls it, on the same rows, with more parts; and
once more with rows that answer at once. Of two learning rates the one with the lower validation loss counts,
so evaluation questions choose nothing."""
from experiments.lab import ROOT, compared, evaluate, flags_of, once, recipe, rows_file, tiny
from machinery.files import read_json, read_jsonl

ARMS = {"connector": ("+1.5", "higher"), "connector, LLM": ("-1.3", "lower"),
        "encoder, connector, LLM": ("-4.8", "lower"),
        "connector, at once": ("", ""), "connector, LLM, at once": ("", "")}


def at_once(cfg, seed):
    """Stage 3's rows and validation rows, with answers instead of solutions, as flags"""
    world, files = tiny(seed, "data/tiny"), {"image_root": tiny(seed, "data/tiny")}
    for flag, name in (("data", "connector"), ("val", "connector_val")):
        rows = [{**row, "solution": f"I see it at once.\n</think>{row['solution'].partition('</think>')[2]}"}
                for row in read_jsonl(ROOT / world / f"{name}.jsonl")]
        files[flag] = rows_file(cfg, seed, f"parts/{name}", rows, world)["data"]
    return files


def tuned(cfg, seed, arm):
    """Run folder of stage 3 with these parts; of two rates the one with the lower validation loss"""
    flags, found = flags_of(recipe(seed, "connector.done") / "connector"), []
    parts = arm.removesuffix(", at once")
    if parts != arm:
        flags |= at_once(cfg, seed)
    for lr in (1e-3, 3e-4):
        out = once("connector_tune.py", f"{cfg.out}/seed{seed}/parts/{arm.replace(', ', '+')}-{lr}",
                   **{**flags, "train": parts.lower().split(", "), "lr": lr})
        found.append((read_json(ROOT / out / "selected.json")["val_loss"], out))
    return min(found)[1]


def run(cfg):
    scores = {"after RL": [evaluate(cfg, seed, tiny(seed) / "rl", chosen=True) for seed in cfg.seeds]}
    rows = []
    for arm, (paper, expected) in ARMS.items():
        scores[arm] = [evaluate(cfg, seed, tuned(cfg, seed, arm), chosen=True) for seed in cfg.seeds]
        rows += compared(scores, arm, "after RL", paper, expected)
    return rows
