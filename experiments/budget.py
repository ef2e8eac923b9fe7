"""p. Thinking budget (generated tokens), no thought, and banned words: the model behind the whole recipe,
evaluated with a limit that cuts most, some and no responses."""
from experiments.lab import compared, evaluate, measured, recipe

FULL = "160 tokens"
ARMS = {FULL: ({}, ""), "60 tokens": ({"max_new_tokens": 60}, "8K: -0.8"),
        "45 tokens": ({"max_new_tokens": 45}, "4K: -3.7"), "30 tokens": ({"max_new_tokens": 30}, "1K: -14.4"),
        "no <think>": ({"mode": "nothink"}, "-7.1"), "Wait, Alternatively, Hmm banned": (
            {"mode": "nowait", "ban": ("wait", "alternatively", "hmm")}, "-1.9")}


def run(cfg):
    scores, rows = {}, []
    for arm, (flags, paper) in ARMS.items():
        name = "eval-" + "-".join(str(v) for v in flags.values() if isinstance(v, (int, str)))
        scores[arm] = [evaluate(cfg, seed, recipe(seed, "connector.done") / "connector", name, **flags)
                       for seed in cfg.seeds]
        if flags:
            rows += compared(scores, arm, FULL, paper, "lower")
            before, after = ([s["length"] for s in scores[name]] for name in (FULL, arm))
            rows.append(measured(arm, FULL, "length", before, after, "shorter", "lower"))
    return rows
