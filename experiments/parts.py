"""c. Which parts to tune after RL?

Paper (section 5.6), MMMU: the connector alone 76.0, connector and LLM 73.2, everything 69.7, from 74.5
after RL. Ours: stage 3 as `make tiny` calls it, on the same rows, with more parts; of two learning rates
the one with the lower validation loss counts. Why ours may gain where the paper's loses: stage 3's rows
here are solved in the manner that RL has found, step by step. So once more with rows that answer at once.
"""
from experiments.lab import (
    ROOT, Config, compared, evaluate, flags_of, once, recipe, report, rows_file, tiny)
from machinery.files import main, read_json, read_jsonl

EXPECTED = "the connector alone gains; tuning the LLM, and the encoder too, loses what RL has taught."
WHY = ("stage 3's rows decide here, not its parts: from solutions step by step every part gains, the 1M-"
       "parameter LLM most, because it goes on learning sums; from answers at once even the connector alone "
       "unlearns RL's manner. A pretrained LLM has less to learn from such rows and more to lose.")
ARMS = {"connector": ("connector",), "connector, LLM": ("connector", "llm"),
        "encoder, connector, LLM": ("encoder", "connector", "llm")}
PAPER = {"connector": ("+1.5", "higher"), "connector, LLM": ("-1.3", "lower"),
         "encoder, connector, LLM": ("-4.8", "lower")}
AT_ONCE = ("connector", "connector, LLM")


def at_once(cfg, seed):
    """Stage 3's rows and validation rows, with answers instead of solutions, as flags"""
    world, files = tiny(seed, "data/tiny"), {}
    for flag, name in (("data", "connector"), ("val", "connector_val")):
        rows = [{**row, "solution": f"I see it at once.\n</think>{row['solution'].partition('</think>')[2]}"}
                for row in read_jsonl(ROOT / world / f"{name}.jsonl")]
        made = rows_file(cfg, seed, f"parts/{name}", rows, world)
        files |= {flag: made["data"], "image_root": made["image_root"]}
    return files


def tuned(cfg, seed, train, ending="", **changes):
    """Run folder of stage 3 with these parts; of two rates the one with the lower validation loss"""
    flags = flags_of(recipe(seed, "connector.done") / "connector")
    found = []
    for lr in (1e-3, 3e-4):
        out = once("connector_tune.py", f"{cfg.out}/seed{seed}/parts/{'+'.join(train)}-{lr}{ending}",
                   **{**flags, "train": train, "lr": lr, **changes})
        found.append((read_json(ROOT / out / "selected.json")["val_loss"], out))
    return min(found)[1]


def run(cfg):
    scores = {"after RL": []}
    for seed in cfg.seeds:
        models = {arm: tuned(cfg, seed, train) for arm, train in ARMS.items()}
        models |= {f"{arm}, at once": tuned(cfg, seed, ARMS[arm], "-at_once", **at_once(cfg, seed))
                   for arm in AT_ONCE}
        for arm, model in {"after RL": tiny(seed) / "rl", **models}.items():
            scores.setdefault(arm, []).append(evaluate(cfg, seed, model, chosen=True))
    rows = []
    for arm, (paper, expected) in PAPER.items():
        rows += compared(scores, arm, "after RL", paper, expected)
    for arm in AT_ONCE:
        rows += compared(scores, f"{arm}, at once", "after RL", "", "")
    report("parts", cfg, rows, EXPECTED, WHY)


if __name__ == "__main__":
    main(run, Config)
