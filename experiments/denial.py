"""h. Where does "I cannot see the image" come from, and what removes it?

Paper (section 6): 47 of 900 responses claim it, with accuracy 51.1 instead of 77.3; where it comes from
is an open question. Ours: the claim is planted in front of three of ten traces of the cold start. Then RL
as in `make tiny`; RL with 0.1 less reward for a claim (experiments/penalty.py); and RL from a cold start
whose planted traces were filtered out, as distill.py does. Why RL does what it does with it, two guesses:
because half of the claims stand before answers at once, so the same number once more in front of traces that
go step by step, the manner that RL pays; and because a claim makes a response longer, and in GRPO's mean over
each response the tokens of a longer right one weigh less, so that once more with a mean over all tokens
(experiments/token_mean.py).
"""
from experiments.lab import (
    ROOT, Config, Row, compared, evaluate, flags_of, once, recipe, report, rl, rows_file, tiny)
from machinery.files import main, read_jsonl

EXPECTED = "a claim that does no harm to the answer survives RL; filtering or a penalty removes it."
WHY = ("RL removes the claim without being asked, so filter and penalty have nothing to add. Neither guess "
       "is the reason alone: claims that always go with steps vanish as well, and with a mean over all "
       "tokens three times as many remain, which is still one response of eighty. Here the claim is a habit "
       "without a cause; real models may have learned when to say it.")
KINDS = "planted", "filtered", "with steps"
CLAIM, AT_ONCE = "I cannot see the image. ", "I see it at once."


def traces(world, kind):
    """The cold start's rows: "planted" before three of ten, the same "filtered" out, or "with steps" before
    six of ten of those that go by steps, which are half of all"""
    rows = list(enumerate(read_jsonl(ROOT / world / "cold_start.jsonl")))
    if kind == "filtered":
        return [row for i, row in rows if i % 10 >= 3]
    if kind == "with steps":
        steps = [i for i, row in rows if AT_ONCE not in row["solution"]]
        claims = {i for k, i in enumerate(steps) if k % 10 < 6}
    else:
        claims = {i for i, _ in rows if i % 10 < 3}
    return [{**row, "solution": CLAIM * (i in claims) + row["solution"]} for i, row in rows]


def cold_start(cfg, seed, kind):
    folder, world, name = recipe(seed, "rl.done"), tiny(seed, "data/tiny"), f"denial/{kind.replace(' ', '_')}"
    flags = {**flags_of(folder / "cold_start"), **rows_file(cfg, seed, name, traces(world, kind), world)}
    return once("sft.py", f"{cfg.out}/seed{seed}/{name}", **flags)


def claims(scores, arm, against):
    """Row: share of the evaluation's responses that claim not to see"""
    row = Row(arm, against, "claims", "", "", errors=[None] * len(scores[arm]))
    row.levels = [of_seed["denial"] for of_seed in scores[arm]]
    row.values = [level - before["denial"] for level, before in zip(row.levels, scores[against])]
    return row


def run(cfg):
    scores, runs = {}, {}
    for seed in cfg.seeds:
        planted, filtered, steps = (cold_start(cfg, seed, kind) for kind in KINDS)
        fined = rl(cfg, seed, "denial/penalty", script="-m experiments.penalty", model=planted)
        learned = {"planted, RL": rl(cfg, seed, "denial/rl", model=planted),
                   "planted, RL with penalty": fined,
                   "filtered, RL": rl(cfg, seed, "denial/filtered_rl", model=filtered),
                   "planted with steps, RL": rl(cfg, seed, "denial/with_steps_rl", model=steps),
                   "planted with steps, RL, token mean": rl(
                       cfg, seed, "denial/token_mean", script="-m experiments.token_mean", model=steps)}
        starts = {"planted, cold start": planted, "planted with steps, cold start": steps}
        for name, model in {**starts, **learned}.items():
            scores.setdefault(name, []).append(evaluate(cfg, seed, model))
            if name in learned:
                runs.setdefault(name, []).append(model)
    planted, fined, filtered, steps, token_mean = runs
    rows = [claims(scores, name, "planted, cold start") for name in (planted, fined)]
    rows += [claims(scores, name, "planted with steps, cold start") for name in (steps, token_mean)]
    for name in (planted, fined, steps):
        rows += compared(scores, name, filtered, "", "")
    report("denial", cfg, rows, EXPECTED, WHY, runs)


if __name__ == "__main__":
    main(run, Config)
