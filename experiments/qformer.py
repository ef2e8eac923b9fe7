"""g. Is the connector as decisive when it is a Q-Former instead of an MLP?

Paper: an open question. Ours: the encoder of `make tiny` with a Q-Former of nine queries, taken through
captions, base, cold start and RL with the same flags; then RL once more with the Q-Former frozen.
"""
from experiments.freezing import FREEZE
from experiments.lab import Config, beyond, compared, evaluate, once, recipe, report, rl, schooled
from machinery.files import main

EXPECTED = "the paper does not say."
WHY = "nine cells fall on exactly nine tokens of the MLP, which a Q-Former has to learn to address."


def learned(cfg, seed):
    """(cold start, run of RL) of a model with a Q-Former"""
    where = f"{cfg.out}/seed{seed}/qformer"
    encoder = recipe(seed, "rl.done") / "encoder"
    start = schooled(seed, where, once("connector.py", f"{where}/model", model=encoder, connector="qformer",
                                       queries=9))
    return start, rl(cfg, seed, "qformer/rl", model=start, save_every=5)  # checkpoints for `rules`


def run(cfg):
    frozen, scores, runs = FREEZE["connector frozen"], {}, {}
    for seed in cfg.seeds:
        start, free = learned(cfg, seed)
        models = {"MLP, cold start": recipe(seed, "cold_start.done") / "cold_start",
                  "MLP, RL": rl(cfg, seed, ""),
                  "MLP, RL, frozen": rl(cfg, seed, "connector frozen", **frozen),
                  "Q-Former, cold start": start, "Q-Former, RL": free,
                  "Q-Former, RL, frozen": rl(cfg, seed, "qformer/frozen", model=start, **frozen)}
        for name, model in models.items():
            scores.setdefault(name, []).append(evaluate(cfg, seed, model))
            if "RL" in name:
                runs.setdefault(name, []).append(model)
    rows = compared(scores, "Q-Former, cold start", "MLP, cold start", "", "")
    rows += compared(scores, "Q-Former, RL", "Q-Former, cold start", "", "")
    rows += compared(scores, "Q-Former, RL, frozen", "Q-Former, RL", "", "")
    rows += beyond(scores, ("Q-Former, RL", "Q-Former, RL, frozen"), ("MLP, RL", "MLP, RL, frozen"), "", "")
    report("qformer", cfg, rows, EXPECTED, WHY, runs)


if __name__ == "__main__":
    main(run, Config)
