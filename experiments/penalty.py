"""grpo.py with 0.1 less reward for a response that claims not to see the image: a fork of one line."""
from dataclasses import replace

import grpo
from machinery.files import main
from signals import denies_image

rewards = grpo.set_rewards


def set_rewards(rollouts, cfg, verifier):
    rewards(rollouts, cfg, verifier)
    for r in rollouts:
        r.reward = replace(r.reward, total=r.reward.total - 0.1 * denies_image(r.text))


if __name__ == "__main__":
    grpo.set_rewards = set_rewards
    main(grpo.train, grpo.Config)
