"""g. Is the connector as decisive when it is a Q-Former instead of an MLP?

Paper: an open question. Ours: the encoder of `make tiny` with a Q-Former of nine queries, taken through
captions, base, cold start and RL with the same flags; then RL once more with the Q-Former frozen.
"""
from experiments.lab import Config, beyond, compared, evaluate, flags_of, once, recipe, report, rl, rl_arms
from machinery.files import main

EXPECTED = "the paper does not say."
WHY = "nine cells fall on exactly nine tokens of the MLP, which a Q-Former has to learn to address."
FROZEN = {"train": ("encoder", "llm")}


def cold_start(cfg, seed):
    """The cold start of a model with a Q-Former"""
    folder, where = recipe(seed, "rl.done"), f"{cfg.out}/seed{seed}/qformer"
    model = once("connector.py", f"{where}/model", model=folder / "encoder", connector="qformer", queries=9)
    for stage in ("captions", "base", "cold_start"):
        model = once("sft.py", f"{where}/{stage}", **{**flags_of(folder / stage), "model": model})
    return model


def run(cfg):
    runs, scores = rl_arms(cfg, {"MLP, RL": {}, "MLP, RL, frozen": FROZEN})
    names = "MLP, cold start", "Q-Former, cold start", "Q-Former, RL", "Q-Former, RL, frozen"
    scores |= {name: [] for name in names}
    runs |= {name: [] for name in names[2:]}
    for seed in cfg.seeds:
        start = cold_start(cfg, seed)
        free = rl(cfg, seed, "qformer/rl", model=start)
        frozen = rl(cfg, seed, "qformer/frozen", model=start, **FROZEN)
        for name, model in zip(names, (recipe(seed) / "cold_start", start, free, frozen)):
            scores[name].append(evaluate(cfg, seed, model))
            if name in runs:
                runs[name].append(model)
    rows = compared(scores, "Q-Former, cold start", "MLP, cold start", "", "")
    rows += compared(scores, "Q-Former, RL", "Q-Former, cold start", "", "")
    rows += beyond(scores, ("Q-Former, RL", "Q-Former, RL, frozen"), ("MLP, RL", "MLP, RL, frozen"), "", "")
    report("qformer", cfg, rows, EXPECTED, WHY, runs)


if __name__ == "__main__":
    main(run, Config)
