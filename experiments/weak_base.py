"""e. Does RL activate reasoning that is there, or create it? The recipe from a base trained on half of the
rows, and from one whose LLM is half as wide."""
from experiments.lab import arms, beyond, compared, flags_of, once, recipe, rl, schooled, taught

BASES = ("half the training", "half the width")


def learned(cfg, seed, base):
    """(cold start, run of RL) from a weaker base"""
    where = f"{cfg.out}/seed{seed}/{base.replace(' ', '_')}"
    if base == "half the width":
        start = taught(seed, where, width=64)
    else:
        flags = flags_of(recipe(seed, "rl.done") / "base")
        half = once("sft.py", f"{where}/base", **{**flags, "epochs": flags["epochs"] / 2})
        start = schooled(seed, where, half, ("cold_start",))
    return start, rl(cfg, seed, f"{base}/rl", model=start, save_every=5)  # checkpoints for `rules`


def models(cfg, seed):
    folder = recipe(seed, "rl.done")
    pairs = {base: learned(cfg, seed, base) for base in BASES}
    pairs["whole"] = folder / "cold_start", folder / "rl"
    return {f"{base}, {stage}": model for base, pair in pairs.items()
            for stage, model in zip(("cold start", "RL"), pair)}


def run(cfg):
    rows, (_, scores) = [], arms(cfg, models)
    for start, end in ((f"{base}, cold start", f"{base}, RL") for base in BASES):
        rows += compared(scores, start, "whole, cold start")
        rows += compared(scores, end, start)
        rows += beyond(scores, (start, end), ("whole, cold start", "whole, RL"))
    return rows
