"""f. Does the entropy of critical tokens tell genuine reflection from imitated one?

Paper (section 5.1): genuine reasoners are uncertain where they write "Wait", imitators are not; whether
that agrees with human labels, and what the tokenizer does to it, is open. Ours, with known truth: one
cold start whose "Wait," and "Alternatively," follow a doubtful digit or a failed try, as in `make tiny`,
and one that gets as many of the same words in front of sentences that are drawn by chance, and none where
there is a reason. Then the probe of entropy_select.py on both.
"""
import random
import re
import sys

from experiments.lab import (
    ROOT, Config, Row, call, compared, evaluate, flags_of, once, recipe, report, rows_file, tiny, words_of)
from machinery.files import main, read_json, read_jsonl

EXPECTED = "the entropy is higher where the word follows a reason than where it decorates."
WHY = ("decoration that falls by chance is uncertain by its making, as a draw is, while a reason makes the "
       "word predictable; imitation in a real model is a fixed phrase.")
WORDS = re.compile(r"(Wait|Alternatively), ")


def decorated(world, seed):
    """The cold start's rows with their critical words taken out and put in front of other sentences"""
    g, rows = random.Random(seed), read_jsonl(ROOT / world / "cold_start.jsonl")
    words = [m for row in rows for m in WORDS.findall(row["solution"])]
    g.shuffle(words)
    thoughts = [WORDS.sub("", row["solution"]).split(". ") for row in rows]
    places = [(i, k) for i, thought in enumerate(thoughts) for k in range(1, len(thought) - 1)]
    for (i, k), word in zip(g.sample(places, len(words)), words):
        thoughts[i][k] = f"{word}, {thoughts[i][k]}"
    return [{**row, "solution": ". ".join(thought)} for row, thought in zip(rows, thoughts)]


def probe(cfg, seed, run, name):
    """What entropy_select.py measures of a run's last checkpoint"""
    where = f"{cfg.out}/seed{seed}/reflection/{name}-probe"
    step = sorted((ROOT / run).glob("step_*"))[-1]
    folder = ROOT / where
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / step.name).exists():
        (folder / step.name).symlink_to(step)
    if not (folder / "selection.json").exists():
        flags = {"folder": where, "data": tiny(seed, "data/tiny") / "val.jsonl", "probe": 128, "samples": 4,
                 "max_new_tokens": 160, "high_entropy": 1}
        call([sys.executable, "entropy_select.py", *words_of(flags)])
    return read_json(folder / "selection.json")["checkpoints"][-1]


def run(cfg):
    scores = {"genuine": [], "decorated": []}
    found = {name: [] for name in scores}
    for seed in cfg.seeds:
        world, folder = tiny(seed, "data/tiny"), recipe(seed, "cold_start.done")
        data = rows_file(cfg, seed, "reflection/decorated", decorated(world, seed), world)
        flags = {**flags_of(folder / "cold_start"), **data}
        models = folder / "cold_start", once("sft.py", f"{cfg.out}/seed{seed}/reflection/decorated", **flags)
        for name, model in zip(scores, models):
            scores[name].append(evaluate(cfg, seed, model))
            found[name].append(probe(cfg, seed, model, name))
    rows = compared(scores, "genuine", "decorated", "", "higher")
    for measure, paper, expected in (("critical_entropy", "higher", "higher"), ("count", "", ""),
                                     ("entropy", "", "")):
        pairs = [(a[measure], b[measure]) for a, b in zip(found["decorated"], found["genuine"])]
        rows.append(Row("genuine", "decorated", measure, paper, expected, [b - a for a, b in pairs],
                        [None] * len(pairs), [b for _, b in pairs]))
    report("reflection", cfg, rows, EXPECTED, WHY)


if __name__ == "__main__":
    main(run, Config)
