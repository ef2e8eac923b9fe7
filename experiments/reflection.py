"""f. Does the entropy of critical tokens tell genuine reflection from imitated one? Three cold starts:
"Wait," and "Alternatively," follow a doubt or a failed try, as in `make tiny`; as many of them stand
in front of sentences that are drawn by chance; or they follow from how a thought begins, a habit."""
import random
import re

from experiments.lab import (
    ROOT, arms, compared, flags_of, measured, once, recipe, rows_file, selected, tiny)
from machinery.files import read_json, read_jsonl

WORDS = re.compile(r"(Wait|Alternatively), ")


def decorated(rows, seed):
    """The cold start's rows with their critical words taken out and put in front of other sentences"""
    g, words = random.Random(seed), [m for row in rows for m in WORDS.findall(row["solution"])]
    g.shuffle(words)
    thoughts = [WORDS.sub("", row["solution"]).split(". ") for row in rows]
    places = [(i, k) for i, thought in enumerate(thoughts) for k in range(1, len(thought) - 1)]
    for (i, k), word in zip(g.sample(places, len(words)), words):
        thoughts[i][k] = f"{word}, {thoughts[i][k]}"
    return [{**row, "solution": ". ".join(thought)} for row, thought in zip(rows, thoughts)]


def habitual(rows, seed=0):
    """The same rows with the words where the beginning of the thought tells: no draw, and no reason"""
    thoughts = [WORDS.sub("", row["solution"]).split(". ") for row in rows]
    for thought in thoughts:
        word = {"top": "Wait", "left": "Alternatively"}.get(thought[0].split()[0])
        if len(thought) > 2 and word:
            thought[1] = f"{word}, {thought[1]}"
    return [{**row, "solution": ". ".join(thought)} for row, thought in zip(rows, thoughts)]


def finetuned(cfg, seed, name, change):
    """The cold start with these solutions"""
    flags, world = flags_of(recipe(seed, "cold_start.done") / "cold_start"), tiny(seed, "data/tiny")
    rows = change(read_jsonl(ROOT / world / "cold_start.jsonl"), seed)
    flags |= rows_file(cfg, seed, f"reflection/{name}", rows, world)
    return once("sft.py", f"{cfg.out}/seed{seed}/reflection/{name}", **flags)


def probe(cfg, seed, run, name):
    """What entropy_select.py measures of a run's last checkpoint"""
    folder = ROOT / cfg.out / f"seed{seed}" / "reflection" / f"{name}-probe"
    step = sorted((ROOT / run).glob("step_*"))[-1]
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / step.name).exists():
        (folder / step.name).symlink_to(step)
    selected(seed, folder.relative_to(ROOT), seed=0)
    return read_json(folder / "selection.json")["checkpoints"][-1]


def models(cfg, seed):
    return {"genuine": recipe(seed, "cold_start.done") / "cold_start",
            "decorated": finetuned(cfg, seed, "decorated", decorated),
            "habit": finetuned(cfg, seed, "habit", habitual)}


def run(cfg):
    rows, (runs, scores) = [], arms(cfg, models)
    found = {name: [probe(cfg, seed, run, name) for seed, run in zip(cfg.seeds, of)]
             for name, of in runs.items()}
    for against in ("decorated", "habit"):
        rows += compared(scores, "genuine", against)
        for measure, told in (("critical_entropy", ("higher", "higher")), ("count", ()), ("entropy", ())):
            before, after = ([of[measure] for of in found[name]] for name in (against, "genuine"))
            rows.append(measured("genuine", against, measure, before, after, *told))
    return rows
