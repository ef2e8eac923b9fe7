"""o. RL without a cold start, the prompt alone asking for a thought.

Paper: responses never become longer, and the run collapses late. Ours: the base model,
which has never seen <think>, in the GRPO run of `make tiny`.
"""
from experiments.lab import Config, compared, logged, recipe, report, rl_arms
from machinery.files import main

EXPECTED = "without a cold start the responses stay short, and the policy ends lower."
WHY = ("the base model here already writes steps in half of its answers, so RL finds the manner without "
       "being taught the format first; 40 steps end before a late collapse.")


def run(cfg):
    arms = {"with cold start": {},
            "from the base model": lambda seed: {"model": str(recipe(seed, "base.done") / "base")}}
    runs, scores = rl_arms(cfg, arms)
    of = ("from the base model", "with cold start")
    rows = compared(scores, *of, "collapses late", "lower")
    rows += [logged(runs, *of, "length", "stays short", "lower"), logged(runs, *of, "format", "", "")]
    report("no_cold_start", cfg, rows, EXPECTED, WHY, runs)


if __name__ == "__main__":
    main(run, Config)
