"""f. Does the entropy of critical tokens tell genuine reflection from imitated one?

Paper (section 5.1): genuine reasoners are uncertain where they write "Wait", imitators are not; whether
that agrees with human labels, and what the tokenizer does to it, is open. Ours, with known truth: one
cold start whose "Wait," and "Alternatively," follow a doubtful digit or a failed try, as in `make tiny`,
one that gets as many of the same words in front of sentences that are drawn by chance, and none where there
is a reason, and one with the habit of saying them in the second sentence of thoughts that begin at the top
or at the left. With the tiny tokenizer, where each of these words is one token, and with one that spells
them. Then the probe of entropy_select.py, and a rule against it: how much more uncertain the model is at
these words than at the beginnings of its other sentences.
"""
import json
import random
import re
import shutil
import sys
from statistics import mean

from experiments.lab import (
    PROBE, ROOT, Config, Row, call, compared, evaluate, flags_of, once, recipe, report, rows_file, tiny,
    words_of)
from machinery.files import main, new_folder, read_json, read_jsonl, resolve
from signals import critical_tokens

EXPECTED = "the entropy is higher where the word follows a reason than where it decorates."
WHY = ("entropy measures how far the text so far tells that the word comes, not whether it has a reason: "
       "words drawn by chance have most of it, those with a reason less, a fixed habit least. The paper's "
       "imitators would be of the last kind. The rule against it, entropy beyond that of other sentences, "
       "tells a habit from a reason, too, and leaves a quarter of the advantage that a draw has.")
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


def habitual(world):
    """The same rows with the words where the beginning of the thought tells: no draw, and no reason"""
    rows, words = read_jsonl(ROOT / world / "cold_start.jsonl"), {"top": "Wait", "left": "Alternatively"}
    thoughts = [WORDS.sub("", row["solution"]).split(". ") for row in rows]
    for thought in thoughts:
        if len(thought) > 2 and (word := words.get(thought[0].split()[0])):
            thought[1] = f"{word}, {thought[1]}"
    return [{**row, "solution": ". ".join(thought)} for row, thought in zip(rows, thoughts)]


def spelling(cfg, seed):
    """The base model with a tokenizer that would rather spell a critical word than take its token"""
    folder = ROOT / cfg.out / f"seed{seed}" / "reflection" / "speller"
    if not folder.exists():
        with new_folder(folder) as part:
            shutil.copytree(resolve(str(ROOT / recipe(seed, "base.done") / "base")), part, dirs_exist_ok=True)
            tokenizer = read_json(part / "tokenizer.json")
            for piece in tokenizer["model"]["vocab"]:  # [text, log-probability]
                if re.search("wait|alternatively", piece[0], re.IGNORECASE):
                    piece[1] = -1000.0
            (part / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder.relative_to(ROOT)


def finetuned(cfg, seed, name):
    """The cold start with these solutions and this tokenizer"""
    flags, kind = flags_of(recipe(seed, "cold_start.done") / "cold_start"), name.partition(",")[0]
    if name == "genuine":
        return tiny(seed) / "cold_start"
    if kind != "genuine":
        world = tiny(seed, "data/tiny")
        rows = decorated(world, seed) if kind == "decorated" else habitual(world)
        flags |= rows_file(cfg, seed, f"reflection/{kind}", rows, world)
    if name.endswith("spelled"):
        flags["model"] = spelling(cfg, seed)
    return once("sft.py", f"{cfg.out}/seed{seed}/reflection/{name.replace(', ', '_')}", **flags)


def probe(cfg, seed, run, name):
    """What entropy_select.py measures of a run's last checkpoint, and the rule against it"""
    where = f"{cfg.out}/seed{seed}/reflection/{name.replace(', ', '_')}-probe"
    step = sorted((ROOT / run).glob("step_*"))[-1]
    folder = ROOT / where
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / step.name).exists():
        (folder / step.name).symlink_to(step)
    if not (folder / "selection.json").exists():
        flags = {"folder": where, "data": tiny(seed, "data/tiny") / "val.jsonl", **PROBE}
        call([sys.executable, "entropy_select.py", *words_of(flags)])
    responses = read_jsonl(folder / "probe" / f"{step.name}.jsonl")
    return {**read_json(folder / "selection.json")["checkpoints"][-1], "contrast": contrast(responses)}


def contrast(responses):
    """Mean entropy (nats) at the first letter of critical words - that where other sentences begin"""
    at_words, elsewhere = [], []
    for row in (row for row in responses if "tokens" in row):  # the first line tells how they were made
        words = {first for first, _, _ in critical_tokens(row["tokens"])}
        begins = [i + 1 for i, piece in enumerate(row["tokens"][:-1]) if piece.endswith(". ")]
        at_words += [row["entropy"][i] for i in words]
        elsewhere += [row["entropy"][i] for i in begins if i not in words]
    return mean(at_words) - mean(elsewhere)


def run(cfg):
    names = ["genuine", "decorated", "habit", "genuine, spelled", "decorated, spelled"]
    scores, found = {name: [] for name in names}, {name: [] for name in names}
    for seed in cfg.seeds:
        for name in names:
            model = finetuned(cfg, seed, name)
            scores[name].append(evaluate(cfg, seed, model))
            found[name].append(probe(cfg, seed, model, name))
    rows = []
    for arm, against in ((names[0], names[1]), (names[0], names[2]), (names[3], names[4])):
        rows += compared(scores, arm, against, "", "")
        for measure, paper, expected in (("critical_entropy", "higher", "higher"), ("contrast", "", ""),
                                         ("count", "", ""), ("entropy", "", "")):
            pairs = [(a[measure], b[measure]) for a, b in zip(found[against], found[arm])]
            rows.append(Row(arm, against, measure, paper, expected, [b - a for a, b in pairs],
                            [None] * len(pairs), [b for _, b in pairs]))
    report("reflection", cfg, rows, EXPECTED, WHY)


if __name__ == "__main__":
    main(run, Config)
