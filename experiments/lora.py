"""LoRA instead of a whole LLM in RL: how much of the gain do adapters of rank 8 have?

Paper: it trains every parameter; adapters are what fits a small card. Ours: the GRPO run of `make tiny` with
`--lora 8` and three times its learning rate (of 1e-4, 3e-4 and 1e-3 the best on seed 0), encoder and
connector whole.
"""
from experiments.lab import Config, compared, evaluate, logged, recipe, report, rl_arms
from machinery.files import main

EXPECTED = "adapters reach a part of what the whole LLM gains in as many steps."
WHY = "a matrix of 128 x 128 with rank 8 is a larger share of it than one of 5,120 x 5,120."
ARMS = {"whole LLM": {}, "LoRA, rank 8": {"lora": 8, "lr": 3e-4}}


def run(cfg):
    runs, scores = rl_arms(cfg, ARMS)
    scores["cold start"] = [evaluate(cfg, seed, recipe(seed) / "cold_start") for seed in cfg.seeds]
    rows = compared(scores, "LoRA, rank 8", "cold start", "", "")
    rows += compared(scores, "whole LLM", "cold start", "", "")
    rows += compared(scores, "LoRA, rank 8", "whole LLM", "", "")
    rows.append(logged(runs, "LoRA, rank 8", "whole LLM", "reward", "", ""))
    report("lora", cfg, rows, EXPECTED, WHY, runs)


if __name__ == "__main__":
    main(run, Config)
