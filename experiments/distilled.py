"""k. RL against supervised finetuning on the same maths.

Paper, MathVista / MMMU from 71.3 / 68.1: RL 77.2 / 74.5; supervised finetuning on traces
that the final model wrote for the same questions 75.9 / 65.4: it learns the subject and forgets others.
Ours: the model after RL writes a trace for each question of RL's data (distill.py keeps those that are
right), and the cold start is finetuned on them, as stage 1 of `make tiny` was.
"""
from experiments.lab import Config, compared, evaluate, flags_of, once, recipe, report, tiny
from machinery.files import main

EXPECTED = ("finetuning on traces nearly reaches RL in maths, and falls below the cold start in other "
            "subjects.")
WHY = ("all subjects of the tiny world share one language and one manner, so traces of maths lift others, "
       "too: not as far as RL does, but above the cold start, where the paper's fall below it.")


def finetuned(cfg, seed):
    folder = recipe(seed, "select.done")
    where = f"{cfg.out}/seed{seed}/distilled"
    traces = once("distill.py", f"{where}/traces.jsonl", model=folder / "rl", seed=seed, chunk=512,
                  data=tiny(seed, "data/tiny") / "rl.jsonl", max_new_tokens=160)
    flags = flags_of(folder / "cold_start")
    return once("sft.py", f"{where}/sft", **{**flags, "model": folder / "cold_start", "data": traces,
                                             "image_root": ""})  # its images' paths start from its folder


def run(cfg):
    scores = {"cold start": [], "RL": [], "finetuned on its traces": []}
    for seed in cfg.seeds:
        models = recipe(seed, "rl.done") / "cold_start", tiny(seed) / "rl", finetuned(cfg, seed)
        for name, model in zip(scores, models):
            scores[name].append(evaluate(cfg, seed, model))
    of, rows = "finetuned on its traces", []
    rows += compared(scores, "RL", "cold start", "MathVista +5.9, MMMU +6.4", "higher")
    rows += compared(scores, of, "cold start", "MathVista +4.6", "higher", ("maths",))
    rows += compared(scores, of, "cold start", "MMMU -2.7", "lower", ("others",))
    rows += compared(scores, of, "RL", "MathVista -1.3, MMMU -9.1", "lower")
    report("distilled", cfg, rows, EXPECTED, WHY)


if __name__ == "__main__":
    main(run, Config)
