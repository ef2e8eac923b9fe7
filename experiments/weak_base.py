"""e. Does RL activate reasoning that is there, or create it? The same recipe on a weaker base.

Paper: an open question (it asks for weaker base models). Ours: a base trained on half of the rows, then
the same cold start and the same RL, beside `make tiny`'s. If RL activates what is there, it gains less
where less is there.
"""
from experiments.lab import Config, beyond, compared, evaluate, flags_of, once, recipe, report, rl
from machinery.files import main

EXPECTED = "the paper does not say; if RL only activates, it gains less on the weaker base."
WHY = "a base with half of its rows is weaker in sums and reading as much as in reasoning."


def weaker(cfg, seed):
    """(cold start, run of RL) from a base that saw half of the rows"""
    folder, where = recipe(seed, "rl.done"), f"{cfg.out}/seed{seed}/weak"
    base = flags_of(folder / "base")
    base = once("sft.py", f"{where}/base", **{**base, "epochs": base["epochs"] / 2})
    cold = once("sft.py", f"{where}/cold_start", **{**flags_of(folder / "cold_start"), "model": base})
    return cold, rl(cfg, seed, "weak/rl", model=cold)


def run(cfg):
    names = "cold start", "RL", "weak cold start", "weak RL"
    scores, runs = {name: [] for name in names}, {"RL": [], "weak RL": []}
    for seed in cfg.seeds:
        folder = recipe(seed, "rl.done")
        models = (folder / "cold_start", folder / "rl", *weaker(cfg, seed))
        for name, model in zip(names, models):
            scores[name].append(evaluate(cfg, seed, model))
            if name in runs:
                runs[name].append(model)
    rows = compared(scores, "weak cold start", "cold start", "", "")
    rows += compared(scores, "weak RL", "weak cold start", "", "")
    rows += beyond(scores, ("weak cold start", "weak RL"), ("cold start", "RL"), "", "")
    report("weak_base", cfg, rows, EXPECTED, WHY, runs)


if __name__ == "__main__":
    main(run, Config)
