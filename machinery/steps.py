"""What belongs to a step, as pure functions of its number: its rows, its seed, its learning rate.

This is what makes resume exact: the batch and the random numbers of step k depend on (seed, k, rank) alone.
So a checkpoint is weights + optimizer + k, and there is no state of a data loader or of a generator that
could be forgotten.
"""
import math
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np


def seed_of(seed, step, rank=0, what=0):
    """One 63-bit seed for (run seed, step, rank, purpose): different everywhere, the same after a resume."""
    return int(np.random.SeedSequence([seed, step, rank, what]).generate_state(1, np.uint64)[0] >> 1)


@lru_cache(maxsize=4)
def permutation(n, seed, epoch):
    return np.random.default_rng([seed, epoch]).permutation(n)


def batch_indices(n, batch, step, seed):
    """Rows of step `step` (from 0): every row once an epoch, in an order that only (seed, epoch) decides."""
    where = range(step * batch, (step + 1) * batch)
    return [int(permutation(n, seed, i // n)[i % n]) for i in where]


def learning_rate(step, steps, peak, warmup, schedule):
    """Of optimizer step `step` (from 0): linear warm-up over `warmup` steps, then constant, linear or cosine
    to 0."""
    if step < warmup:
        return peak * min(1.0, (step + 1) / warmup)  # a warm-up of 0.3 steps must not begin above the peak
    done = (step - warmup) / max(1, steps - warmup)
    left = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
    return peak * left[schedule]


def ahead(make, first, last):
    """(step, make(step)) for each step. While one step trains, a thread makes the next one (images are read,
    cut and laid into packs). make must not talk to other processes: their collectives need the same order
    everywhere."""
    with ThreadPoolExecutor(1) as thread:
        soon = thread.submit(make, first)
        for step in range(first, last):
            now = soon.result()
            if step + 1 < last:
                soon = thread.submit(make, step + 1)
            yield step, now
