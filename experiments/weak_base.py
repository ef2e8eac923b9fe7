"""e. Does RL activate reasoning that is there, or create it? The same recipe on weaker bases.

Paper: an open question (it asks for weaker base models). Ours: a base trained on half of the rows, and one
whose LLM is half as wide, from nothing; then the same cold start and the same RL, beside `make tiny`'s. If RL
activates what is there, it gains less where less is there.
"""
from experiments.lab import (
    Config, beyond, compared, evaluate, flags_of, once, recipe, report, rl, schooled, taught)
from machinery.files import main

EXPECTED = "the paper does not say; if RL only activates, it gains less on the weaker bases."
WHY = ("it gains less on both, as it would if it only activated; but a weaker base is weaker in sums and "
       "reading, too, and steps that are calculated wrong are worth less to any RL.")
BASES = ("half the training", "half the width")


def learned(cfg, seed, base):
    """(cold start, run of RL) from a weaker base"""
    folder = recipe(seed, "rl.done")
    where = f"{cfg.out}/seed{seed}/{base.replace(' ', '_')}"
    if base == "half the width":
        start = taught(seed, where, width=64)
    else:
        flags = flags_of(folder / "base")
        half = once("sft.py", f"{where}/base", **{**flags, "epochs": flags["epochs"] / 2})
        start = schooled(seed, where, half, ("cold_start",))
    return start, rl(cfg, seed, f"{base}/rl", model=start, save_every=5)  # checkpoints for `rules`


def run(cfg):
    scores, runs = {}, {}
    for seed in cfg.seeds:
        folder = recipe(seed, "rl.done")
        models = {"whole": (folder / "cold_start", folder / "rl"),
                  **{base: learned(cfg, seed, base) for base in BASES}}
        for base, (start, run) in models.items():
            scores.setdefault(f"{base}, cold start", []).append(evaluate(cfg, seed, start))
            scores.setdefault(f"{base}, RL", []).append(evaluate(cfg, seed, run))
            runs.setdefault(base, []).append(run)
    rows = []
    for base in BASES:
        start, end = f"{base}, cold start", f"{base}, RL"
        rows += compared(scores, start, "whole, cold start", "", "")
        rows += compared(scores, end, start, "", "")
        rows += beyond(scores, (start, end), ("whole, cold start", "whole, RL"), "", "")
    report("weak_base", cfg, rows, EXPECTED, WHY, runs)


if __name__ == "__main__":
    main(run, Config)
