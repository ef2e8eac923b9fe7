"""k. RL against supervised finetuning on the same maths: the model after RL writes a trace for each question
of RL's data (distill.py keeps those that are right), and the cold start is finetuned on them."""
from experiments.lab import arms, compared, flags_of, once, recipe, tiny


def models(cfg, seed):
    folder, where = recipe(seed, "select.done"), f"{cfg.out}/seed{seed}/distilled"
    traces = once("distill.py", f"{where}/traces.jsonl", model=folder / "rl", seed=seed, chunk=512,
                  data=tiny(seed, "data/tiny") / "rl.jsonl", max_new_tokens=160)
    flags = {**flags_of(folder / "cold_start"), "model": folder / "cold_start", "data": traces,
             "image_root": ""}  # its images' paths start from its folder
    return {"cold start": folder / "cold_start", "RL": folder / "rl",
            "finetuned on its traces": once("sft.py", f"{where}/sft", **flags)}


def run(cfg):
    _, scores = arms(cfg, models)
    of = "finetuned on its traces"
    return [*compared(scores, "RL", "cold start", "MathVista +5.9, MMMU +6.4", "higher"),
            *compared(scores, of, "cold start", "MathVista +4.6", "higher", ("maths",)),
            *compared(scores, of, "cold start", "MMMU -2.7", "lower", ("others",)),
            *compared(scores, of, "RL", "MathVista -1.3, MMMU -9.1", "lower")]
