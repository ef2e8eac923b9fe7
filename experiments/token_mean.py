"""grpo.py with a mean over all tokens of a gradient step instead of one over each response's: a fork of one
line (forks/token_mean.diff)."""
from dataclasses import replace

import grpo
from machinery.files import main

loss = grpo.grpo_loss


def grpo_loss(logp, entropy, micro, cfg):
    return loss(logp, entropy, replace(micro, length=micro.tokens / micro.responses), cfg)


if __name__ == "__main__":
    grpo.grpo_loss = grpo_loss
    main(grpo.train, grpo.Config)
