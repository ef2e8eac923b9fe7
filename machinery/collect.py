"""Sampling and rewarding at the same time. A reader of the recipe may skip this file."""
import time
from concurrent.futures import ThreadPoolExecutor


def sample_and_reward(generate, reward):
    """Call generate(done=...) and reward(rollouts) on all that it makes, in a thread: what is complete is
    rewarded while later responses are still being sampled.

    generate calls done(i, rollouts) for each prompt whose responses are complete. Returns what generate
    returns, and the seconds that were spent waiting for rewards after the last response. What reward raises
    is raised here.
    """
    complete, jobs = [], []

    def reward_complete():
        rollouts = []
        while complete:
            rollouts += complete.pop()
        if rollouts:  # an earlier call may have taken all
            reward(rollouts)

    def done(i, rollouts):
        complete.append(rollouts)
        jobs.append(thread.submit(reward_complete))

    with ThreadPoolExecutor(1) as thread:
        sampled = generate(done=done)
        begin = time.time()
        for job in jobs:
            job.result()
    return sampled, time.time() - begin
