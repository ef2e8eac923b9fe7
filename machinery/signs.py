"""The paper's failure signatures, found in a run's metrics (sections 5.2 to 5.6, 6.5)."""
from statistics import median

SOME_STEPS = 10  # a step of a few responses is mostly chance: comparisons wait until there are so many


def signs_of(steps):
    """Yield (step, name, what is seen) whenever a sign appears that the step before did not show. steps: rows
    of metrics.jsonl."""
    before = {}
    for k in range(1, len(steps) + 1):
        now = failure_signs(steps[:k])
        yield from ((steps[k - 1]["step"], name, now[name]) for name in sorted(now.keys() - before.keys()))
        before = now


def failure_signs(steps):
    """{name: what is seen} of the signs that the last step's metrics show, also beside those before."""
    m, some, best = steps[-1], len(steps) >= SOME_STEPS, max(m["reward"] for m in steps)
    entropy, high = steps[0]["entropy"], steps[0]["entropy_high"]
    norm = median(m["grad_norm"] for m in steps)
    signs = (
        ("reward collapse", some and m["reward"] < 0.5 * best,
         f"reward {m['reward']:.2f}, its best was {best:.2f}: a lower --lr?"),
        ("repetition", m["repetition"] > 0.3,
         f"{m['repetition']:.0%} of the text repeats itself"),
        ("entropy shoots up", some and m["entropy"] > 3 * entropy + 0.5,
         f"{m['entropy']:.2f}, at the start {entropy:.2f}: it unlearns; a lower --lr?"),
        ("entropy vanishes", some and m["entropy"] < 0.05 * entropy,
         f"{m['entropy']:.4f}, at the start {entropy:.2f}: nothing is explored any more"),
        ("high entropy spreads", some and m["entropy_high"] > 3 * high + 0.02 and m["entropy"] < entropy,
         f"{m['entropy_high']:.1%} of the tokens are above --high_entropy, at the start {high:.1%}, and the "
         f"mean entropy is lower"),
        ("gradient norm explodes", some and m["grad_norm"] > 10 * norm,
         f"{m['grad_norm']:.2g}, its median is {norm:.2g}: a lower --lr or --clip_high?"),
        ("lengths at the limit", m["truncated"] > 0.2,
         f"{m['truncated']:.0%} of the responses are cut off: raise --max_new_tokens, or it rambles"),
        ("image denial", m["denial"] > 0.05,
         f"{m['denial']:.0%} of the responses claim not to see the image"),
        ("sampler/trainer gap", m["gap"] > 0.05,
         f"{m['gap']:.3f} nats a token: stale weights, other pixels or another temperature?"),
        ("no signal", m["groups_mixed"] < 0.05,
         f"only {m['groups_mixed']:.0%} of the groups have right and wrong answers"))
    return {name: text for name, bad, text in signs if bad}
