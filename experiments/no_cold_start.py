"""o. RL without a cold start: from the base model, with prompts as it knows them (--no-thinking). Where the
growth of its responses comes from: the share that write steps, and the length of these alone."""
from statistics import mean

from experiments.lab import ROOT, compared, evaluate, evaluated, logged, measured, recipe, rl, series
from machinery.files import read_jsonl


def growth(lengths):
    """Tokens that responses are longer in the last ten steps than in the first five"""
    return sum(lengths[-10:]) / 10 - sum(lengths[:5]) / 5


def manner(folder):
    """{"share by steps": of the answers, "tokens by steps": mean length of those that write anything before
    the answer}, from the responses of an evaluation"""
    rows = read_jsonl(ROOT / folder / "responses.jsonl")
    steps = [row["tokens"] for row in rows if row["response"].partition("\\boxed")[0].strip()]
    return {"share by steps": len(steps) / len(rows), "tokens by steps": mean(steps)}


def run(cfg):
    arm, against = "from the base model", "from the cold start"
    runs, scores, manners = {arm: [], against: []}, {arm: [], against: []}, []
    for seed in cfg.seeds:
        base = recipe(seed, "base/eval/scores.json") / "base"
        runs[against].append(rl(cfg, seed, against))
        runs[arm].append(rl(cfg, seed, arm, model=base, thinking=False))
        scores[against].append(evaluate(cfg, seed, runs[against][-1]))
        scores[arm].append(evaluate(cfg, seed, runs[arm][-1], mode="nothink"))
        manners.append((manner(base / "eval"), manner(evaluated(cfg, seed, runs[arm][-1]))))
    before, after = ([growth(series(run, "length")) for run in runs[name]] for name in (against, arm))
    rows = [*compared(scores, arm, against, "collapses late", "lower"),
            measured(arm, against, "growth of length", before, after, "none", "lower"),
            logged(runs, arm, against, "format")]
    for measure in ("share by steps", "tokens by steps"):
        before, after = ([pair[k][measure] for pair in manners] for k in (0, 1))
        rows.append(measured(arm, "the base model itself", measure, before, after))
    return rows
