"""a. What happens when a part is frozen during RL?

Paper (section 5.2): with the connector frozen the reward falls sharply, the gradient norm becomes unstable
and the text repetitive; with the encoder frozen the reward is the same and the evaluation gains a little
less. Ours: the GRPO run of `make tiny` with one part frozen, from the same cold start.
"""
from experiments.lab import Config, compared, logged, report, rl_arms
from machinery.files import main

EXPECTED = "without the connector RL collapses; without the encoder it gains a little less."
WHY = ("the tiny connector is well aligned before RL and RL's pictures hardly differ from those it knows, so "
       "there is little that it alone could learn; and 40 steps are few.")
FREEZE = {"nothing frozen": {}, "connector frozen": {"train": ("encoder", "llm")},
          "encoder frozen": {"train": ("connector", "llm")},
          "LLM frozen": {"train": ("encoder", "connector")}}
SIGNS = (("reward", "falls sharply", "lower"), ("grad_norm", "unstable", "higher"),
         ("repetition", "rises", "higher"))  # of the collapse


def run(cfg):
    runs, scores = rl_arms(cfg, FREEZE)
    whole, connector, encoder, llm = FREEZE
    rows = compared(scores, connector, whole, "collapse", "lower")
    rows += [logged(runs, connector, whole, *sign) for sign in SIGNS]
    rows += compared(scores, encoder, whole, "a little less", "lower")
    rows += compared(scores, llm, whole, "", "")
    report("freezing", cfg, rows, EXPECTED, WHY, runs)


if __name__ == "__main__":
    main(run, Config)
