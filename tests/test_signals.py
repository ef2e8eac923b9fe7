"""signals.py and scoring/denial.py: what counts as a critical word, as a repetition, as a claim of not seeing
the image."""
import pathlib

import pytest

from scoring.denial import denies_image
from signals import critical_spans, critical_tokens, repetition

CASES = pathlib.Path(__file__).parent / "cases"


def sentences(name):
    lines = (CASES / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and line[0] != "#"]


# --------------------------------------------------------------------------------------------- critical words
@pytest.mark.parametrize("text, found", [
    ("Wait, 5+11 is 16.", ["wait"]),
    ("wait WAIT Wait", ["wait"] * 3),
    ("Let me double-check: check it again.", ["double-check", "check", "again"]),
    ("Double-Check", ["double-check"]),
    ("Hmm... maybe; however, but!", ["hmm", "maybe", "however", "but"]),
    ("waiting awaits button checked butter verifying", []),
    ("a cross-check is another word", []),
    ("x = 5--wait", ["wait"]),
    ("嗯wait我", ["wait"]),
    ("wait_time wait2 2wait", []),
    ("(Alternatively)", ["alternatively"]),
    ("", []),
])
def test_critical_words(text, found):
    assert [word for _, _, word in critical_spans(text)] == found


@pytest.mark.parametrize("pieces, found", [
    (["Wa", "it", ", x", " but"], [(0, 1, "wait"), (3, 3, "but")]),
    (["wait"], [(0, 0, "wait")]),                                    # the whole text
    (["w", "a", "i", "t"], [(0, 3, "wait")]),
    (["", "Wait", "", "", "!"], [(1, 1, "wait")]),                  # empty pieces hold nothing
    (["", "Wa", "", "it", ""], [(1, 3, "wait")]),
    (["so, hm", "m"], [(0, 1, "hmm")]),                              # at the end
    ([" but wait,"], [(0, 0, "but"), (0, 0, "wait")]),               # two in one token
    (["dou", "ble-", "check"], [(0, 2, "double-check")]),
    (["butter", "wait", "s"], []),
    ([], []), ([""], []),
])
def test_critical_tokens(pieces, found):
    assert critical_tokens(pieces) == found


def test_own_words():
    assert critical_spans("等等，这不对。但是，等等",
                          ["等等", "但是"]) == [(0, 2, "等等"), (7, 9, "但是"), (10, 12, "等等")]
    assert critical_spans("a+b. On the other hand, c.",
                          ["on the other hand"]) == [(5, 22, "on the other hand")]
    assert critical_spans("double-check", ["check"]) == []  # another word when only "check" is listed
    assert critical_spans("Wait", []) == [] == critical_tokens(["wait"], [])
    assert critical_tokens(["等", "等，", "wait"], ["等等"]) == [(0, 1, "等等")]


# -------------------------------------------------------------------------------------------------- the image
@pytest.mark.parametrize("wrap", ["{}", "The angle is 30. {} So the sum is 16.", "Okay.\n{}\nThen x = 5"])
def test_denials_and_look_alikes(wrap):
    denials, others = sentences("denial.txt"), sentences("look_alike.txt")
    assert sum(denies_image(wrap.format(s)) for s in denials) >= 0.96 * len(denials) > 100
    assert [s for s in others if denies_image(wrap.format(s))] == [] != others
    assert not denies_image("") and not denies_image("\0\ud800")


# ------------------------------------------------------------------------------------------------- repetition
def test_repetition():
    assert repetition("") == repetition("one two three") == 0.0
    assert repetition(" ".join(f"word{i}" for i in range(200))) == 0.0
    assert repetition("so we add five and eleven and get sixteen. " * 40) > 0.9
    assert repetition("哈" * 300) > 0.95
    assert repetition("42 " * 20000) > 0.99
    half = " ".join(f"word{i}" for i in range(100))
    # 193 8-grams: 93 come twice, 7 cross the seam
    assert repetition(half + " " + half) == pytest.approx(1 - 100 / 193)
