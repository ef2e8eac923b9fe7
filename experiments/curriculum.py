"""i. A curriculum: normal problems first, then hard ones. What happens to the normal ones?

Paper: the reward still rises, and the accuracy on normal problems falls; how to learn hard problems
without losing the medium ones is an open question. Ours: searches among six lines and sums of two lines
(rl_hard.jsonl) from step 20 on, and one idea against forgetting: from step 20 on hard and normal ones
mixed. Both are judged on the evaluation's maths (normal) and on 300 hard questions that no run trains on,
and so is RL on normal problems alone.
"""
from experiments.lab import ROOT, Config, compared, evaluate, recipe, report, rl, rows_file, tiny
from machinery.files import main, read_jsonl

EXPECTED = "with hard problems alone the hard ones gain and normal ones fall; mixing keeps the normal ones."
WHY = ("hard problems here are longer searches of the same kind, so what they teach serves normal ones, "
       "too, and little is lost; with as many normal ones among them no loss is resolved.")
HELD_OUT = 300


def hard_rows(seed):
    return read_jsonl(ROOT / tiny(seed, "data/tiny") / "rl_hard.jsonl")


def mixed_rows(seed):
    hard, normal = hard_rows(seed)[HELD_OUT:], read_jsonl(ROOT / tiny(seed, "data/tiny") / "rl.jsonl")
    return [row for pair in zip(hard, normal) for row in pair]


def run(cfg):
    arms = ("normal", "normal, then hard", "normal, then mixed")
    normal, hard, runs = ({arm: [] for arm in arms} for _ in range(3))
    for seed in cfg.seeds:
        recipe(seed, "rl.done")
        world = tiny(seed, "data/tiny")
        sets = {"hard": hard_rows(seed)[HELD_OUT:], "mixed": mixed_rows(seed),
                "held_out": hard_rows(seed)[:HELD_OUT]}
        files = {name: rows_file(cfg, seed, f"curriculum/{name}", rows, world) for name, rows in sets.items()}
        for arm in arms:
            file = files.get(arm.split()[-1])
            changes = {"curriculum": file["data"], "curriculum_at": 20, "image_root": world} if file else {}
            model = rl(cfg, seed, f"curriculum/{arm}", **changes)
            runs[arm].append(model)
            normal[arm].append(evaluate(cfg, seed, model))
            hard[arm].append(evaluate(cfg, seed, model, "eval-hard", **files["held_out"]))
    rows = []
    for arm, paper, expected in (("normal, then hard", "normal problems fall", "lower"),
                                 ("normal, then mixed", "", "")):  # of mixing it says nothing
        rows += compared(normal, arm, "normal", paper, expected)
        row, = compared(hard, arm, "normal", "", "", ("maths",))
        row.arm += ", on hard ones"
        rows.append(row)
    report("curriculum", cfg, rows, EXPECTED, WHY, runs)


if __name__ == "__main__":
    main(run, Config)
