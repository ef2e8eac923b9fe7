"""d. The recipe with a tiny Qwen2.5-VL (tiny/blank_model.py), whose connector is the merger; RL once more
with the merger frozen; and the merger alone tuned after RL, as stage 3 does it."""
from experiments.freezing import FREEZE, collapse
from experiments.lab import arms, compared, evaluate, flags_of, once, recipe, rl, selected, taught


def learned(cfg, seed):
    """(cold start, {arm: run of RL}) of the tiny Qwen2.5-VL"""
    start = taught(seed, f"{cfg.out}/seed{seed}/qwen", family="qwen2_5_vl")
    arms = {arm: FREEZE[arm] for arm in ("nothing frozen", "connector frozen")}
    return start, {arm: rl(cfg, seed, f"qwen/{arm}", model=start, save_every=5, **changes)
                   for arm, changes in arms.items()}


def run(cfg):
    runs, scores = arms(cfg, lambda cfg, seed: {"cold start": (found := learned(cfg, seed))[0], **found[1]})
    scores |= {"chosen": [], "merger tuned": []}
    for seed, run in zip(cfg.seeds, runs["nothing frozen"]):
        flags = {**flags_of(recipe(seed, "connector.done") / "connector"), "model": selected(seed, run)}
        tuned = once("connector_tune.py", f"{cfg.out}/seed{seed}/qwen/connector", **flags)
        for name, model in (("chosen", run), ("merger tuned", tuned)):
            scores[name].append(evaluate(cfg, seed, model, chosen=True))
    return [*compared(scores, "nothing frozen", "cold start", "MMMU +6.4", "higher"),
            *collapse(runs, scores, "connector frozen", "nothing frozen"),
            *compared(scores, "merger tuned", "chosen", "MMMU +1.5", "higher")]
