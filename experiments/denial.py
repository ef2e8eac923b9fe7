"""h. Where does "I cannot see the image" come from, and what removes it?

Paper (section 6): 47 of 900 responses claim it, with accuracy 51.1 instead of 77.3; where it comes from
is an open question. Ours: the claim is planted in front of three of ten traces of the cold start. Then RL
as in `make tiny`; RL with 0.1 less reward for a claim (experiments/penalty.py); and RL from a cold start
whose planted traces were filtered out, as distill.py does.
"""
from experiments.lab import (
    ROOT, Config, compared, evaluate, flags_of, logged, once, recipe, report, rl, rows_file, tiny)
from machinery.files import main, read_jsonl

EXPECTED = "a claim that does no harm to the answer survives RL; filtering or a penalty removes it."
WHY = "the claim is planted here as a habit without a cause; real models may have learned when to say it."
CLAIM = "I cannot see the image. "


def cold_start(cfg, seed, filtered):
    folder, world = recipe(seed, "rl.done"), tiny(seed, "data/tiny")
    rows = list(enumerate(read_jsonl(ROOT / world / "cold_start.jsonl")))
    if filtered:
        rows = [row for i, row in rows if i % 10 >= 3]
    else:
        rows = [{**row, "solution": CLAIM * (i % 10 < 3) + row["solution"]} for i, row in rows]
    name = "filtered" if filtered else "planted"
    flags = {**flags_of(folder / "cold_start"), **rows_file(cfg, seed, f"denial/{name}", rows, world)}
    return once("sft.py", f"{cfg.out}/seed{seed}/denial/{name}", **flags)


def run(cfg):
    names = "planted, cold start", "planted, RL", "planted, RL with penalty", "filtered, RL"
    scores, runs = {name: [] for name in names}, {name: [] for name in names[1:]}
    for seed in cfg.seeds:
        planted, filtered = cold_start(cfg, seed, False), cold_start(cfg, seed, True)
        models = (planted, rl(cfg, seed, "denial/rl", model=planted),
                  rl(cfg, seed, "denial/penalty", script="-m experiments.penalty", model=planted),
                  rl(cfg, seed, "denial/filtered_rl", model=filtered))
        for name, model in zip(names, models):
            scores[name].append(evaluate(cfg, seed, model))
            if name in runs:
                runs[name].append(model)
    rows = [logged(runs, name, "filtered, RL", "denial", "", "") for name in names[1:3]]
    rows += compared(scores, "planted, RL", "filtered, RL", "", "")
    rows += compared(scores, "planted, RL with penalty", "filtered, RL", "", "")
    report("denial", cfg, rows, EXPECTED, WHY, runs)


if __name__ == "__main__":
    main(run, Config)
