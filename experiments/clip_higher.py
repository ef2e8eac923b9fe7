"""m. Clip-higher with several gradient steps a batch.

Paper: it ends in exploding gradient norm and loss, and collapse. With one gradient step a
batch the ratio is exactly 1 and no clip does anything, so here a batch is learned in four steps
(--minibatches 4), with the clip at 0.2 on both sides, and with 0.28 (DAPO's) and 1.0 above.
"""
from experiments.lab import Config, compared, logged, report, rl_arms
from machinery.files import main

EXPECTED = "clip-higher makes the gradient norm explode and the policy collapse."
WHY = ("four small steps a batch leave the ratios near 1 (of a thousand tokens two are clipped), so a clip "
       "has little to do; the paper's runs are longer, and their responses thirty times as long.")
ARMS = {"one step a batch": {}, "4 steps, clip 0.2": {"minibatches": 4},
        "4 steps, clip-higher 0.28": {"minibatches": 4, "clip_high": 0.28},
        "4 steps, clip-higher 1.0": {"minibatches": 4, "clip_high": 1.0}}


def run(cfg):
    runs, scores = rl_arms(cfg, ARMS)
    _, base, *higher = ARMS
    rows = compared(scores, base, "one step a batch", "", "")
    for arm in higher:
        rows += compared(scores, arm, base, "collapse", "lower")
        rows.append(logged(runs, arm, base, "grad_norm", "explodes", "higher"))
    rows.append(logged(runs, higher[-1], base, "clip_fraction", "", ""))
    report("clip_higher", cfg, rows, EXPECTED, WHY, runs)


if __name__ == "__main__":
    main(run, Config)
