"""p. Thinking budget (generated tokens), no thought, banned words, and a prompt that only asks for a
thought.

Paper (section 6): MMMU 61.6, 67.7, 72.3, 75.2, 76.0 with 1K, 2K, 4K, 8K, 16K generated tokens; 68.9
without <think> in the prompt (263 tokens instead of 1,272), 74.1 with "Wait", "Alternatively", "Hmm"
banned. Ours: the model behind the whole recipe, with a limit on the generated tokens that cuts most, some
and no responses.
"""
from experiments.lab import Config, Row, compared, evaluate, recipe, report
from machinery.files import main

EXPECTED = "accuracy falls with the budget, most without a thought, a little without the critical words."
WHY = ("thoughts have some 40 tokens and one search in them, so a budget decides whether there is an "
       "answer at all, and only searches use the critical words.")
FULL = "160 tokens"
ARMS = {FULL: {}, "60 tokens": {"max_new_tokens": 60}, "45 tokens": {"max_new_tokens": 45},
        "30 tokens": {"max_new_tokens": 30}, "no <think>": {"mode": "nothink"},
        "Wait, Alternatively, Hmm banned": {"mode": "nowait", "ban": ("wait", "alternatively", "hmm")}}
PAPER = {"60 tokens": "8K: -0.8", "45 tokens": "4K: -3.7", "30 tokens": "1K: -14.4", "no <think>": "-7.1",
         "Wait, Alternatively, Hmm banned": "-1.9"}


def run(cfg):
    scores = {arm: [] for arm in ARMS}
    for seed in cfg.seeds:
        model = recipe(seed, "connector.done") / "connector"
        for arm, flags in ARMS.items():
            name = "eval-" + "-".join(str(v) for v in flags.values() if isinstance(v, (int, str)))
            scores[arm].append(evaluate(cfg, seed, model, name, **flags))
    rows = []
    for arm, paper in PAPER.items():
        rows += compared(scores, arm, FULL, paper, "lower")
        lengths = [[s["length"] for s in scores[a]] for a in (FULL, arm)]
        more = [b - a for a, b in zip(*lengths)]
        rows.append(Row(arm, FULL, "length", "shorter", "lower", more, [None] * len(more), lengths[1]))
    report("budget", cfg, rows, EXPECTED, WHY)


if __name__ == "__main__":
    main(run, Config)
