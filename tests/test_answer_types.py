"""Random values of every type of answer against tests/cases/types.txt, whose texts are made with Fraction,
sympy and strings, and nothing of scoring/. N=10000 python -m pytest tests/test_answer_types.py takes more."""
import os
import pathlib
import random
import re
from fractions import Fraction

import pytest
import sympy

from scoring.answers import same_answer, same_batch, unreadable_golds

N = int(os.environ.get("N", 2))
TABLE = (pathlib.Path(__file__).parent / "cases" / "types.txt").read_text(encoding="utf-8")
TYPES = {name: (dict(re.findall(r"(\w+)=(\S.*?)(?= \w=|$)", made)), lines) for name, made, lines in
         re.findall(r"^(\w+): (.*)\n((?:[=!].*\n)+)", TABLE, re.M)}


def value(name, r):
    """(paraphrases, neighbours) of a random value of a type"""
    variables, lines = TYPES[name]
    known = {"Fraction": Fraction, "sympy": sympy, "latex": sympy.latex, "X": sympy.Symbol("x"),
             "Y": sympy.Symbol("y"),
             "randint": r.randint, "choice": r.choice, "sample": r.sample}
    for variable, made in variables.items():
        known[variable] = eval(made, known)
    texts = {"=": [], "!": []}
    for line in re.sub("«(.*?)»", lambda m: str(eval(m[1], known)), lines).splitlines():
        texts[line[0]] += line[2:].split(" ;; ")
    return texts["="], texts["!"]


def wrong(asked, wanted):
    return [pair for pair, (right, _), want in zip(asked, same_batch(asked), wanted) if right is not want]


@pytest.mark.parametrize("name", TYPES)
def test_a_value_equals_its_paraphrases_and_no_neighbour(name):
    r, asked, wanted = random.Random(name), [], []
    for _ in range(N):
        same, other = value(name, r)
        assert len(same) >= 6 and len(other) >= 6
        asked += [(*pair, None) for text in same + other for pair in ((text, same[0]), (same[0], text))]
        wanted += [True] * 2 * len(same) + [False] * 2 * len(other)
    assert wrong(asked, wanted) == []


def test_an_option_is_named_by_its_letter_or_its_text():
    r, asked, wanted = random.Random(0), [], []
    for _ in range(N):
        same, other = value(r.choice([*TYPES]), r)
        options = r.sample([same[0], *r.sample(other, 3)], 4)
        k = options.index(same[0])
        good, bad = "ABCD"[k], "ABCD"[k - 1]
        right = [good, f"({good})", good.lower(), f"{good}. {same[0]}", f"选{good}", same[0],
                 f"\\textbf{{({good})}} {same[0]}", f"The answer is {good}.", f"{good}：{same[0]}"]
        other = options[k - 1]
        false = [bad, f"{good}. {other}", f"{bad}. {same[0]}", other, f"{good} or {bad}", "E"]
        asked += [(text, good, options) for text in right + false]
        wanted += [True] * len(right) + [False] * len(false)
    assert wrong(asked, wanted) == []


def test_the_page():
    """docs/reward.md: `a` = `b` is the same, `a` ≠ `b` is not."""
    page = (pathlib.Path(__file__).parent.parent / "docs" / "reward.md").read_text(encoding="utf-8")
    pairs = re.findall("`([^`]+)` (=|≠) `([^`]+)`", page)
    asked = [(*pair, None) for a, _, b in pairs for pair in ((a, b), (b, a))]
    assert len(pairs) > 75 and wrong(asked, [sign == "=" for _, sign, _ in pairs for _ in "ab"]) == []
    assert same_answer("12", "12 red pencils") and not same_answer("12 red pencils", "12")
    answers, options = ["B", "(B) 16", "16", "故选B", "A", "B. 12", "12", "A or B"], ["12", "16", "18"]
    assert [same_answer(answer, "B", options) for answer in answers] == [True] * 4 + [False] * 4
    assert all(f"`{answer}`" in page for answer in answers)
    nothing = [gold for gold in re.findall("`([^`]+)`", page.partition("Rows whose")[2])][:3]
    assert len(nothing) == 3 == len(unreadable_golds(nothing)) and unreadable_golds(["E"], [["x"] * 4])
