"""a. What happens when a part is frozen during RL? The GRPO run of `make tiny`, from the same cold start."""
from experiments.lab import compared, logged, rl_arms

FREEZE = {"nothing frozen": {}, "connector frozen": {"train": ("encoder", "llm")},
          "encoder frozen": {"train": ("connector", "llm")},
          "LLM frozen": {"train": ("encoder", "connector")}}
SIGNS = (("reward", "falls sharply", "lower"), ("grad_norm", "unstable", "higher"),
         ("repetition", "rises", "higher"))  # of the collapse


def collapse(runs, scores, frozen, whole):
    """Rows of the collapse that the paper saw with a frozen connector"""
    return [*compared(scores, frozen, whole, "collapse", "lower"),
            *(logged(runs, frozen, whole, *sign) for sign in SIGNS)]


def run(cfg):
    runs, scores = rl_arms(cfg, FREEZE)
    whole, connector, encoder, llm = FREEZE
    return [*collapse(runs, scores, connector, whole),
            *compared(scores, encoder, whole, "a little less", "lower"), *compared(scores, llm, whole)]
