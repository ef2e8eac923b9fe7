"""d. The same with a model of Qwen2.5-VL's class, whose connector is the merger.

Paper: only InternVL3 was trained; that its findings hold for other models is an open check. Ours: a
Qwen2.5-VL of the size of `make tiny`'s model (tiny/blank_model.py: windowed encoder, merger, positions in
three rows), taken through encoder, captions, base, cold start and RL with the same flags; RL once more with
the merger frozen; and the merger alone tuned after RL, as stage 3 does it.
"""
from experiments.freezing import FREEZE, SIGNS
from experiments.lab import (
    Config, compared, evaluate, flags_of, logged, once, recipe, report, rl, selected, taught)
from machinery.files import main

EXPECTED = "RL gains in all subjects, needs the merger, and tuning it alone afterwards adds breadth."
WHY = "as with the InternVL of this size, the merger is well aligned before RL, so little is left to learn."


def learned(cfg, seed):
    """(cold start, {arm: run of RL}) of the tiny Qwen2.5-VL"""
    start = taught(seed, f"{cfg.out}/seed{seed}/qwen", family="qwen2_5_vl")
    arms = {arm: FREEZE[arm] for arm in ("nothing frozen", "connector frozen")}
    return start, {arm: rl(cfg, seed, f"qwen/{arm}", model=start, save_every=5, **changes)
                   for arm, changes in arms.items()}


def tuned(cfg, seed, run):
    flags = flags_of(recipe(seed, "connector.done") / "connector")
    return once("connector_tune.py", f"{cfg.out}/seed{seed}/qwen/connector", **{**flags, "model": run})


def run(cfg):
    scores, runs = {}, {}
    for seed in cfg.seeds:
        start, arms = learned(cfg, seed)
        chosen = selected(seed, arms["nothing frozen"])
        models = {"cold start": start, **arms, "chosen": chosen, "merger tuned": tuned(cfg, seed, chosen)}
        for name, model in models.items():
            chosen = name in ("chosen", "merger tuned")
            scores.setdefault(name, []).append(evaluate(cfg, seed, model, chosen=chosen))
        for name, model in arms.items():
            runs.setdefault(name, []).append(model)
    whole, connector = runs
    rows = compared(scores, whole, "cold start", "MMMU +6.4", "higher")
    rows += compared(scores, connector, whole, "collapse", "lower")
    rows += [logged(runs, connector, whole, *sign) for sign in SIGNS]
    rows += compared(scores, "merger tuned", "chosen", "MMMU +1.5", "higher")
    report("qwen", cfg, rows, EXPECTED, WHY, runs)


if __name__ == "__main__":
    main(run, Config)
