"""o. RL without a cold start.

Paper: with the prompt alone asking for a thought, responses never become longer, and the run collapses late.
Ours: the base model, which has never seen <think>, in the GRPO run of `make tiny`, with prompts as it knows
them (--no-thinking). With <think> in them it is never paid: its reward stays 0. Where the growth comes from:
the share of answers that write steps, and the length of these alone, before and after that run.
"""
from statistics import mean

from experiments.lab import (
    ROOT, Config, Row, compared, evaluate, evaluated, logged, recipe, report, rl, series)
from machinery.files import main, read_jsonl

EXPECTED = "without a cold start the responses stay short, and the policy ends lower."
WHY = ("the base model here writes steps in half of its answers already, and RL makes that nearly all of "
       "them; answers by steps themselves hardly grow, as the last rows show. 40 steps end before a late "
       "collapse.")


def growth(lengths):
    """Tokens that responses are longer in the last ten steps than in the first five"""
    return sum(lengths[-10:]) / 10 - sum(lengths[:5]) / 5


def manner(folder):
    """{"share by steps": of the answers, "tokens by steps": mean length of those that write anything before
    the answer}, from the responses of an evaluation"""
    rows = read_jsonl(ROOT / folder / "responses.jsonl", {"response": str, "tokens": int})
    steps = [row["tokens"] for row in rows if row["response"].partition("\\boxed")[0].strip()]
    return {"share by steps": len(steps) / len(rows), "tokens by steps": mean(steps)}


def run(cfg):
    arm, against = "from the base model", "from the cold start"
    runs, scores, manners = {arm: [], against: []}, {arm: [], against: []}, {"before": [], "after": []}
    for seed in cfg.seeds:
        runs[against].append(rl(cfg, seed, against))
        scores[against].append(evaluate(cfg, seed, runs[against][-1]))
        runs[arm].append(rl(cfg, seed, arm, model=recipe(seed, "base.done") / "base", thinking=False))
        scores[arm].append(evaluate(cfg, seed, runs[arm][-1], mode="nothink"))
        base = recipe(seed, "base/eval/scores.json") / "base"
        manners["before"].append(manner(base / "eval"))
        manners["after"].append(manner(evaluated(cfg, seed, runs[arm][-1])))
    rows = compared(scores, arm, against, "collapses late", "lower")
    grown = {name: [growth(series(r, "length")) for r in of_seeds] for name, of_seeds in runs.items()}
    more = [b - a for a, b in zip(grown[against], grown[arm])]
    rows.append(Row(arm, against, "growth of length", "none", "lower", more, [None] * len(more), grown[arm]))
    rows.append(logged(runs, arm, against, "format", "", ""))
    for measure in ("share by steps", "tokens by steps"):
        before, after = ([of_seed[measure] for of_seed in manners[when]] for when in ("before", "after"))
        rows.append(Row(arm, "the base model itself", measure, "", "", [b - a for a, b in zip(before, after)],
                        [None] * len(after), after))
    report("no_cold_start", cfg, rows, EXPECTED, WHY, runs)


if __name__ == "__main__":
    main(run, Config)
