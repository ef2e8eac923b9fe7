"""What wrong answers of the tiny world are lost to, judged by the truth about its pictures.

A solution is a row of sentences. Two kinds are looked at: readings ("top row: 3, 1, 4.", and "Wait, 3, 1, 5."
is a second look at it) and operations ("3 + 1 = 4."). truth.json of a world holds every reading that can be
made: {question: {"kind", "looks": {name: values}}}.
"""
import re
from collections import Counter
from pathlib import Path

from machinery.files import Refused, read_json, read_jsonl
from machinery.tables import percent, print_table

LOSSES = ("no steps", "reading", "arithmetic", "other")  # a wrong answer is lost to the first that fits
SEVERAL = ("two_images", "image_options")  # of several pictures the truth has only what the question names
LOOK = r"(?:[a-z]+ )?\d+"
READING = re.compile(rf"(?:([a-z ]+): )?({LOOK}(?:, {LOOK})*)")
OPERATION = re.compile(r"(\d{1,9}) ([-+]) (\d{1,9}) = (-?\d{1,9})")
COLUMNS = (("right", "responses"), ("by steps", "responses"), ("cells right", "cells"),
           ("operations right", "operations"), *((loss, "responses") for loss in LOSSES))


def solve(text, truth):
    """Of the sentences in front of the box: ([(values, true values) of each name, as it was read last],
    [whether it is right, of each operation])"""
    last, operations, name = {}, [], ""
    for sentence in re.split(r"(?<=\.)\s+|\n+", text):
        sentence = re.sub(r"^((Wait|Alternatively), )*", "", sentence).removesuffix(".")
        if found := OPERATION.fullmatch(sentence):
            a, sign, b, result = found.groups()
            operations.append(int(a) + int(b) * (1 if sign == "+" else -1) == int(result))
        elif found := READING.fullmatch(sentence):
            name = found[1] or name
            last[name] = found[2].split(", ")
    known = {name: truth["looks"].get(name, ()) for name in last
             if name in truth["looks"] or truth["kind"] not in SEVERAL}
    return [(last[name], true) for name, true in known.items()], operations


def count(rows, truth):
    """{subject: counts} and "all". rows: as eval_mmmu.score_rows returns them; truth: truth.json"""
    groups = {}
    for row in rows:
        before, box, after = row["response"].rpartition("\\boxed")
        text = before if box else after
        read, operations = solve(text, truth[row["id"]])
        by_steps = re.search(r"\w", re.sub(r"</?think>|I see it at once", "", text))
        counts = Counter({"responses": 1, "right": row["rule"], "by steps": bool(by_steps),
                          "cells": sum(len(values) for values, _ in read),
                          "cells right": sum(v == t for values, true in read for v, t in zip(values, true)),
                          "operations": len(operations), "operations right": sum(operations)})
        if not row["rule"]:
            reasons = (not by_steps or not row["boxed"] or row.get("finish") == "length",
                       any(values != list(true) for values, true in read), not all(operations), True)
            counts[LOSSES[reasons.index(True)]] = 1
        for name in (row["subject"], "all"):
            groups.setdefault(name, Counter()).update(counts)
    return groups


def read_truth(folder):
    """truth.json of the world that asked the questions of an evaluation"""
    about = folder / "data.json"
    truth = Path(read_json(about)["source"]).parent / "truth.json"
    if truth.stat().st_mtime > about.stat().st_mtime:
        raise Refused(f"{truth} is younger than {about}: the world was made again, and asks other questions")
    return read_json(truth)


def print_losses(runs):
    """A table of each run folder, in %: what was done right, and what the other answers are lost to"""
    from eval_mmmu import score_rows
    for run in map(Path, runs):
        folder = run / "eval" if (run / "eval").is_dir() else run
        _, rows = score_rows(read_jsonl(folder / "responses.jsonl"))
        groups = count(rows, read_truth(folder))
        print(run)
        print_table(["%", "responses", *(what for what, _ in COLUMNS)], [
            [name.replace("_", " "), groups[name]["responses"],
             *(percent(groups[name][what] / groups[name][of] if groups[name][of] else None)
               for what, of in COLUMNS)]
            for name in sorted(groups, key=lambda name: (name == "all", name))])
