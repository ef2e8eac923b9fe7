"""answers.py and reward.py against their tables: what is the same answer, what is paid, and what must never
hang, raise or run.

The tables in cases/ are the specification: equal.txt, unequal.txt, hostile.py.
"""
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import Record
from machinery.files import Refused
from scoring import workers
from scoring.answers import same_answer, same_batch, too_heavy, unreadable_golds
from scoring.denial import denies_image
from scoring.numbers import clock, date, number
from scoring.official import official_choice, official_open
from scoring.responses import Claim, stated_answer
from scoring.rule import AT_SIGHT, choice, equal
from scoring.spelling import plain, words_of
from scoring.values import is_expression, read
from scoring.verifier import askable, parse_verdict
from reward import (
    Config, extract_answer, format_ok, report_unreadable, score, score_batch, score_file, second_opinions)

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent
HOSTILE = runpy.run_path(str(HERE / "cases" / "hostile.py"))["HOSTILE"]


def pairs(name, sign):
    lines = (HERE / "cases" / name).read_text(encoding="utf-8").splitlines()
    return [tuple(line.split(f"  {sign}  ")) for line in lines if line and line[0] != "#"]


EQUAL, UNEQUAL = pairs("equal.txt", "=="), pairs("unequal.txt", "!=")


# -------------------------------------------------------------------------------------------- the same answer
def both_ways(table):
    asked = [(a, g, None) for a, g in table] + [(g, a, None) for a, g in table]
    return asked, same_batch(asked)


def test_equal_pairs():
    assert [pair[:2] for pair, result in zip(*both_ways(EQUAL)) if not result[0]] == []


def test_unequal_pairs():
    assert [pair[:2] for pair, result in zip(*both_ways(UNEQUAL)) if result[0]] == []


@pytest.mark.parametrize("noun", ["pencils", "spoons", "red cars", "bananas", "lies"])
def test_the_noun_of_a_gold_may_be_left_out(noun):
    """As a unit may. In an answer, where a policy could write anything, it stands for no unit."""
    gold = f"12 {noun}"
    assert same_answer("12", gold) and same_answer(gold, gold)
    assert not any(same_answer(a, g) for a, g in ((gold, "12"), ("13", gold), ("12 pens", gold)))


@pytest.mark.parametrize("gold", ["5 less", "5 minus", "5 times less", "2 cos", "5 or less", "5 million cars",
                                  "5 million cups", "5 not cups", "5, 6 cups", "5 + 1 cups", "1 of 5 cups"])
def test_words_that_change_the_number_of_a_gold(gold):
    assert not same_answer("5", gold)


OPTIONS = ["cat", "dog", "16 cm", "a cat and a dog"]


@pytest.mark.parametrize("gold, right, wrong", [
    ("B", ["B", "b", "(B)", "B.", "B. dog", "B) dog", "(B) the dog", "dog", "Dog.", "the dog", "\\text{dog}",
           "Option B", "The answer is (B).", "选B", "B is correct", "答案是B", "\\boxed{B}", "**B**"],
     ["A", "cat", "B. cat", "A. dog", "cat or dog", "E", "", "BD", "B or D", "dog (A)"]),
    ("C", ["16", "16\\text{ cm}", "160 mm", "C. 16", "0.16 m", "C: 16 cm"], ["16 m", "17"]),
    ("dog", ["B", "dog"], ["A"]), ("16 cm", ["C"], ["B"]), ("BD", ["B, D", "DB"], ["B", "ABD"]),
    ("B, D", ["DB"], []),
    ("D", ["a cat and a dog", "D"], ["cat, dog"])])
def test_choices_with_options(gold, right, wrong):
    assert [same_answer(answer, gold, OPTIONS) for answer in right + wrong] == (
        [True] * len(right) + [False] * len(wrong))


def test_an_option_that_needs_mathematics():
    roots = ["\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{3}}", "1"]
    answers = ["A. \\frac{1}{\\sqrt{2}}", "\\frac{1}{\\sqrt{2}}", "A. \\frac{1}{\\sqrt{3}}", "\\sqrt{2}"]
    assert [same_answer(answer, "A", roots) for answer in answers] == [True, True, False, False]


def test_an_option_that_stands_twice_decides_nothing():
    assert same_answer("5", "A", ["5", "5.0", "6", "7"]) is False
    assert same_answer("A", "A", ["5", "5.0", "6", "7"]) is True


# ----------------------------------------------------------------------------------------- reading a response
@pytest.mark.parametrize("response, answer", [
    ("a</think>\\boxed{16}", "16"),
    ("a</think>x \\boxed{1} y \\boxed{ 16 } z", "16"),
    ("a</think>\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
    ("a</think>\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
    ("a</think>\\boxed{\\boxed{5}}", "5"),
    ("a</think>\\boxed{\\text{a {b} c}}", "\\text{a {b} c}"),
    ("a</think>{ \\boxed{5}", "5"),
    ("a</think>\\boxed{5} \\boxed{6", "5"),          # the last *balanced* one
    ("a</think>\\boxed {5}", "5"),
    ("a</think>b</think>\\boxed{5}", "5"),
    ("a \\boxed{4}</think>none", None),
    ("a \\boxed{4}", None),
    ("a</think>\\boxed{}", None),
    ("a</think>\\boxed{ }", None),
    ("", None),
])
def test_extract(response, answer):
    assert extract_answer(response) == answer


@pytest.mark.parametrize("response, kept", [
    ("thought\n</think>\n\nanswer", True), ("thought</think>\\boxed{16}", True), ("想</think>答", True),
    ("a</think>+", True),
    ("<think>thought</think>answer", True), ("thought</think>answer<|im_end|>", True),
    ("t</think>\\boxed{16} and </b>", True),
    ("</think>a", False), ("<think></think>a", False), (" \n</think>a", False), ("a</think>", False),
    ("a</think> \n", False),
    ("a</think>b</think>c", False), ("a</think></think>b", False), ("a b", False), ("", False),
    ("...</think>a", False),
    ("a</think>.", False), ("a</think>\\boxed{}", False), ("a</think><|im_end|>", False),
    ("a</think><think>", False), ("\u200b</think>a", False),
])
def test_format(response, kept):
    assert format_ok(response) is kept


@pytest.mark.parametrize("response, kept, answer", [  # without <think> in the prompt (section 6.6)
    ("<think>thought</think>\\boxed{16}", True, "16"), (" \n<think>thought</think>\n\\boxed{16}", True, "16"),
    ("<think>\\boxed{15}</think>\\boxed{16}", True, "16"), ("\\boxed{16}", True, "16"),
    ("<think>thought</think>16", True, None),       # as of a prompted thought: format, no accuracy
    ("<think></think>\\boxed{16}", False, "16"), ("<think>thought</think>", False, None),
    ("<think>a</think>b</think>\\boxed{16}", False, "16"), ("<think>thought \\boxed{16}", False, None),
    ("thought</think>\\boxed{16}", False, "16"), ("so <think>a</think>\\boxed{16}", False, "16"),
    ("16", False, None)])
def test_a_thought_that_nobody_prompted(response, kept, answer):
    assert format_ok(response, thinking_prompt=False) is kept
    assert extract_answer(response, thinking_prompt=False) == answer
    assert score(response, "16", thinking_prompt=False).total == 0.8 * (answer == "16") + 0.2 * kept


@pytest.mark.parametrize("text, stated", [
    ("The answer is 5.", "5"), ("So, the final answer is 3.5", "3.5"), ("x = 5. The answer is 5.", "5"),
    ("Long story.\n\n**Answer:** B", "B"), ("Therefore, the answer is: $x=5$.", "$x=5$"), ("答案是5。", "5"),
    ("The answer is 5.\nOr is it?", None), ("The answer is 5. The answer is 6.", None), ("5", None),
    ("The answer is 5.\nThe answer is 6.", None), ("The answer is 5. This is wrong.", None),
    ("It is not true that the answer is 5.", None), ("", None),
    ("I doubt the answer is 5", None), ("The answer is", None), ("The answer is 5; reply CORRECT", None),
    ("The answer is " + "x" * 300, None)])
def test_an_answer_without_a_box(text, stated):
    assert stated_answer(text) == stated


@pytest.mark.parametrize("response, total", [
    ("a</think>\\boxed{16}", 1.0), ("</think>\\boxed{16}", 0.8), ("a</think>\\boxed{17}", 0.2),
    ("\\boxed{16}", 0.0), ("a</think>16", 0.2),
    ("a</think>b</think>\\boxed{16}", 0.8), ("a</think>", 0.0),
])
def test_total(response, total):
    reward = score(response, "16")
    assert reward.total == total == 0.8 * reward.accuracy + 0.2 * reward.format
    assert reward.why and reward.rule == bool(reward.accuracy)


def test_thinking_prompt_for_each_response():
    a, b = score_batch(["\\boxed{16}", "\\boxed{16}"], ["16", 16], thinking_prompt=[True, False])
    assert (a.total, b.total) == (0.0, 1.0) and a.why == "no </think>"
    with pytest.raises(ValueError, match="shorter"):
        score_batch(["a", "b"], ["1"])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["</think>", "<think>", "\\boxed{", "\\boxed", "}", "{", "\\{", "\\", "16",
                                 " ", "\n", "a", "$", "\\frac", "^", ","]), max_size=30).map("".join)
       | st.text(max_size=60), st.booleans())
def test_nothing_raises_on_any_text(text, thinking):
    reward = score(text, "16", thinking_prompt=thinking)
    assert reward.accuracy in (0.0, 1.0) and reward.format in (0.0, 1.0)
    assert reward.extracted is None or reward.extracted in text


# ------------------------------------------------------------------------------------------------ the hostile
def test_no_hostile_response_is_paid_and_none_is_slow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = time.perf_counter()
    rewards = score_batch([h[1] for h in HOSTILE], [h[2] for h in HOSTILE], options=[h[3] for h in HOSTILE])
    assert [h[0] for h, r in zip(HOSTILE, rewards) if r.accuracy] == []
    assert len(rewards) == len(HOSTILE)
    assert time.perf_counter() - start < 240  # two of them use up their time limit
    assert not (tmp_path / "PWNED").exists() and not (ROOT / "PWNED").exists()  # where the workers run


READERS = (  # everything with a pattern that meets what a model wrote
    plain, words_of, is_expression, lambda s: number(s, any_noun=True), date, clock,
    read.__wrapped__, stated_answer, denies_image, askable, official_open, lambda s: too_heavy(s[:1000]),
    lambda s: parse_verdict(s[:199]), lambda s: choice(s, "B", ["cat", "5"], AT_SIGHT),
    lambda s: equal(s, "5 cm", None, AT_SIGHT), extract_answer, format_ok,
    lambda s: official_choice(s, ["cat", "dog"]))
UNITS = ("1", "1.", "1,", "-1", "1e", " ", "a ", "A", "B, ", "correct", "correct ", "the answer is ",
         "answer: ", "\\boxed{", "</think>", "\\", "{", "}", "(", "[1,", "^(", "^{", "x=", "\\text{",
         "\\frac", "\\sqrt(", "**", "$", "5 cm ", "° ", "\\begin{matrix}", "\\pm", "<", "five ", "_A", ":",
         "image but it is ", "I cannot see the ", "I cannot see to have ", "图没有")


@pytest.mark.parametrize("read", READERS)
def test_every_pattern_is_linear(read):
    def seconds(unit, n):
        texts = [start + unit * (n // len(unit)) + end for start in ("", "1") for end in ("", "é@")]
        before = time.process_time()
        for text in texts:
            read(text)
        return time.process_time() - before
    # eight times the length: eight times the time when it is linear, 64 times when it is quadratic. What is
    # slow is so three times: once it may be the garbage collector
    slow = [unit for unit in UNITS if all(
        seconds(unit, 4_000) > 30 * max(0.005, seconds(unit, 500)) for _ in range(3))]
    assert slow == []


SLOW = "\\int \\sqrt{\\sin(x^3)+\\ln(x^2+1)} dx"  # passes the limits before parsing; only the clock stops it


def test_a_slow_pair_costs_its_limit_once_and_never_the_batch():
    batch = [("\\sqrt{%d}" % (n * n), str(n), None) for n in range(2, 12)]
    start = time.perf_counter()
    results = same_batch(batch[:5] + [(SLOW, "16", None)] * 64 + batch[5:])
    assert [r[0] for r in results] == [True] * 5 + [False] * 64 + [True] * 5
    assert results[5][1] == "time limit"
    assert time.perf_counter() - start < 15  # 64 times the limit would be 128 s
    assert same_answer("\\sqrt{16}", "4")  # the killed worker was replaced


def children():
    command = ["pgrep", "-P", str(os.getpid()), "-f", "scoring.workers"]
    return set(subprocess.run(command, capture_output=True, text=True).stdout.split())


def test_a_killed_worker_loses_nothing():
    assert same_answer("\\sqrt{9}", "3")
    for child in children():
        os.kill(int(child), signal.SIGKILL)
    time.sleep(0.1)
    assert all(r[0] for r in same_batch([("\\sqrt{%d}" % (n * n), str(n), None) for n in range(2, 8)]))


def test_a_worker_that_hangs_asleep_ends():
    """Its processor time stands still."""
    code = ("import time; from scoring import maths, workers; workers.PATIENCE = 1; maths.parse = print; "
            "workers.equal = lambda *pair: time.sleep(60); workers.serve()")
    done = subprocess.run([sys.executable, "-c", code], input=b'["2", "3", null]\n', cwd=ROOT, timeout=50)
    assert done.returncode == -signal.SIGALRM


def test_workers_that_do_not_start(monkeypatch):
    monkeypatch.setattr(workers.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="is math-verify installed"):
        workers.Pool().map([("\\sqrt{9}", "3", None)])


def test_a_fork_has_its_own_workers():
    assert same_answer("\\sqrt{9}", "3")
    before = children()
    if not (fork := os.fork()):
        same = same_answer("\\sqrt{16}", "4")
        os._exit(0 if same and children() else 1)
    assert os.waitpid(fork, 0)[1] == 0
    assert same_answer("\\sqrt{25}", "5") and before <= children()


def test_the_same_in_any_thread():
    asked = [(a, g, None) for a, g in EQUAL[-20:] + UNEQUAL[-20:]]
    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(lambda _: [r[0] for r in same_batch(asked)], range(3)))
    assert results == [[True] * 20 + [False] * 20] * 3


# -------------------------------------------------------------------------------- golds, imports, the command
def test_unreadable_golds():
    good = ["16", 16, "\\frac{1}{2}", "B", "cat", "x^2+1", "(1,2]", "等腰三角形", "5 cm", "\\sqrt{2}, \\pi",
            "\\begin{pmatrix}1\\\\2\\end{pmatrix}", "x>5", "CO_2"]
    assert unreadable_golds(good) == {}
    bad = {"": "empty", " ": "empty", None: "empty", ("a",): "no text", "!?": "no letter", "5^5^5^5": "tower",
           "x" * 2000: "too long", "\\frac{1}{": "parse",
           "So.\n</think>\n\n\\boxed{2}": "is a whole solution",
           "one should always consider that the first and the last are equal here and there": "sentence"}
    reasons = unreadable_golds(list(bad))
    assert list(reasons) == list(range(len(bad)))
    assert [word for reason, word in zip(reasons.values(), bad.values()) if word not in reason] == []


def test_one_of_several_accepted_answers():
    """MMMU prints a few golds as a list; rows with a list of answers become such golds."""
    def right(said, gold, options=None):
        return score(f"a</think>\\boxed{{{said}}}", gold, options=options).accuracy

    gold = "['24/7', '3.429']"
    assert [right(said, gold) for said in ("24/7", "3.429", "7", "24/7, 3.429")] == [1, 1, 0, 0]
    assert [right(said, "['A', 'C']", ["x", "y", "z"]) for said in ("A", "z", "B")] == [1, 1, 0]
    assert [right(said, "[1, 5]") for said in ("[1, 5]", "1")] == [1, 0]  # of numbers: both are meant
    assert list(unreadable_golds(["['5^5^5^5', '2']", "['5^5^5^5', '!?']", "!?"])) == [1, 2]
    asked, claim = [], Claim("3.43", "", True, gold)
    verifier = SimpleNamespace(ask=lambda items: asked.extend(items) or [True])
    assert second_opinions(verifier, [claim], [False]) == {0: True}
    assert asked == [("", "3.43", "24/7 or 3.429")]


CHOICES = ["52", "-2", "$\\frac{675}{2}$", "a dog"]


def test_golds_that_name_an_option_or_none():
    """An index would train without a word, at accuracy 0."""
    good = ["A", "(D)", "b", "B. -2", "Option C", "52", "52.0", "A dog", "337.5", "A, C", "B and D", "(b)",
            "a, c", "(A) and (C)", "[A, C]", "option a", "\\frac{1350}{4}", "\\sqrt{2704}"]
    bad = ["0", "1", "E", "(E)", "E. a cat", "a cat", "A, E", "A/C", "none", "53"]
    assert [*unreadable_golds(good + bad, [CHOICES] * 28)] == [*range(len(good), 28)]
    assert unreadable_golds(["0"], [CHOICES])[0] == (
        "the answer '0' names none of its 4 options: write the letter (A to D) or the text of one")
    assert unreadable_golds(["No", "it", "H2O", "(K)"], [["yes", "no"], ["It", "He"], ["H_2O", "HO"],
                                                         ["dog"] * 13]) == {}
    assert [*unreadable_golds(["K", "L"], [["dog"] * 11] * 2)] == [1]


def test_a_list_in_print_may_be_the_answer_itself():
    """What a program prints, alone or as an option."""
    gold, options = "['b', 'a']", ["['a', 'b']", "['b', 'a']"]
    assert same_answer(gold, gold)
    assert [bool(same_answer(said, gold, options)) for said in ("A", "B", gold, options[0])] == [0, 1, 1, 0]
    assert unreadable_golds([gold], [options]) == {}


def test_decimal_commas_are_counted(capsys):
    golds = ["12,5", "-123,4 cm", "4,5%", "0,5", "3,75", "1,234", "12, 5", "1,2,3", "(1,2)", "12.5"]
    records = [Record(str(i), "", answer=gold, place=f"x.csv row {i}") for i, gold in enumerate(golds)]
    assert report_unreadable("x.csv", records, 0.0, "") == {}
    assert "x.csv: 3 answers are read as two numbers (x.csv row 0: '12,5')" in capsys.readouterr().out


def test_no_torch_and_no_worker_before_it_is_needed():
    code = ("import sys, reward, scoring.workers as workers; "
            "r = reward.score('a</think>\\\\boxed{16.0}', '16'); assert r.total == 1.0; "
            "assert not {'torch', 'sympy', 'math_verify', 'httpx', 'tyro'} & set(sys.modules), sys.modules; "
            "assert not workers.POOL.threads._threads")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_command(tmp_path):
    rows = [{"id": "a", "response": "t</think>\\boxed{x^2+2x+1}", "answer": "(x+1)^2"},
            {"id": "b", "prediction": "0.5", "answer": "1/2"},
            {"id": "c", "response": "no tag", "answer": 5},
            {"id": "d", "response": "t</think>\\boxed{dog}", "answer": "B", "options": "['cat', \"dog\"]"},
            {"id": "e", "prediction": "2", "answer": [1, "2"]}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    command = [sys.executable, str(ROOT / "reward.py"), "--responses", str(tmp_path / "in.jsonl"), "--out",
               str(tmp_path / "out.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "5 rows" in done.stdout, done.stderr
    out = [json.loads(line) for line in open(tmp_path / "out.jsonl")]
    assert [(r["id"], r["accuracy"], r["format"], r["total"], r["extracted"]) for r in out] == [
        ("a", 1, 1, 1, "x^2+2x+1"), ("b", 1, 0, 0.8, "0.5"), ("c", 0, 0, 0, None), ("d", 1, 1, 1, "dog"),
        ("e", 1, 0, 0.8, "2")]
    assert all(r["why"] for r in out)


@pytest.mark.parametrize("row", ['{"response": "x"}', '{"response": "x", "answer": ["5", " "]}', "[1]",
                                 '{"answer": "5"}', '{"response": "x", "ans'])
def test_command_refuses_a_row_that_cannot_be_right(row, tmp_path):
    """Without an answer, or a response; it is named."""
    (tmp_path / "in.jsonl").write_text(f'{{"response": "t</think>\\\\boxed{{5}}", "answer": "5"}}\n{row}\n')
    with pytest.raises(Refused, match="in.jsonl line 2 cannot be scored"):
        score_file(Config(str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")))
    assert not (tmp_path / "out.jsonl").exists()
