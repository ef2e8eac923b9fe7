"""c. Which parts to tune after RL?

Paper (section 5.6), MMMU: the connector alone 76.0, connector and LLM 73.2, everything 69.7, from 74.5
after RL. Ours: stage 3 as `make tiny` calls it, on the same rows, with more parts; of two learning rates
the one with the lower validation loss counts.
"""
from experiments.lab import ROOT, Config, compared, evaluate, flags_of, once, recipe, report, tiny
from machinery.files import main, read_json

EXPECTED = "the connector alone gains; tuning the LLM, and the encoder too, loses what RL has taught."
WHY = ("an LLM of 1M parameters goes on learning manner and sums from stage 3's solutions; a pretrained "
       "one has less to learn there and more to lose.")
ARMS = {"connector": ("connector",), "connector, LLM": ("connector", "llm"),
        "encoder, connector, LLM": ("encoder", "connector", "llm")}
PAPER = {"connector": ("+1.5", "higher"), "connector, LLM": ("-1.3", "lower"),
         "encoder, connector, LLM": ("-4.8", "lower")}


def tuned(cfg, seed, train):
    """Run folder of stage 3 with these parts; of two rates the one with the lower validation loss"""
    flags = flags_of(recipe(seed, "connector.done") / "connector")
    found = []
    for lr in (1e-3, 3e-4):
        out = once("connector_tune.py", f"{cfg.out}/seed{seed}/parts/{'+'.join(train)}-{lr}",
                   **{**flags, "train": train, "lr": lr})
        found.append((read_json(ROOT / out / "selected.json")["val_loss"], out))
    return min(found)[1]


def run(cfg):
    scores = {"after RL": [], **{arm: [] for arm in ARMS}}
    for seed in cfg.seeds:
        scores["after RL"].append(evaluate(cfg, seed, tiny(seed) / "rl", chosen=True))
        for arm, train in ARMS.items():
            scores[arm].append(evaluate(cfg, seed, tuned(cfg, seed, train), chosen=True))
    rows = []
    for arm, (paper, expected) in PAPER.items():
        rows += compared(scores, arm, "after RL", paper, expected)
    report("parts", cfg, rows, EXPECTED, WHY)


if __name__ == "__main__":
    main(run, Config)
