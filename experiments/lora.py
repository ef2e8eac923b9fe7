"""LoRA instead of a whole LLM in RL: rank 8 and three times the learning rate (of 1e-4, 3e-4 and 1e-3 the
best on seed 0), encoder and connector whole."""
from experiments.lab import arms, compared, logged, recipe, rl


def models(cfg, seed):
    return {"cold start": recipe(seed, "rl.done") / "cold_start", "whole LLM": rl(cfg, seed, ""),
            "LoRA, rank 8": rl(cfg, seed, "LoRA, rank 8", lora=8, lr=3e-4)}


def run(cfg):
    runs, scores = arms(cfg, models)
    return [*compared(scores, "LoRA, rank 8", "cold start"), *compared(scores, "whole LLM", "cold start"),
            *compared(scores, "LoRA, rank 8", "whole LLM"),
            logged(runs, "LoRA, rank 8", "whole LLM", "reward")]
