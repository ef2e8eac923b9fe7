"""experiments/losses.py: hand-written responses of the tiny world, judged against a known truth."""
import hashlib
import json
from collections import Counter

import pytest

from experiments import losses
from machinery.files import Refused

GRID = {"top row": ["3", "1", "4"], "middle row": ["6", "0", "9"], "bottom row": ["2", "2", "8"],
        "left column": ["3", "6", "2"], "top left": ["3"], "centre": ["0"],
        "corner": ["3", "4", "2", "8"]}
COUNTS = {"top row": ["red 3", "blue 5", "red 1"], "centre": ["blue 0"]}
BARS = {"left": ["red 5"], "middle": ["blue 3"], "right": ["green 7"],
        "bars": ["red 5", "blue 3", "green 7"], "left and middle": ["red 5", "blue 3"],
        "left and right": ["red 5", "green 7"], "middle and right": ["blue 3", "green 7"]}
TRUTH = {"grid": {"kind": "sum_line", "dark": True, "looks": GRID},
         "which": {"kind": "which", "dark": False, "looks": GRID, "goal": 12},
         "counts": {"kind": "sum_line", "dark": False, "looks": COUNTS},
         "bars": {"kind": "which", "dark": False, "looks": BARS, "goal": 8},
         "two": {"kind": "two_images", "dark": False, "looks": {"top left": ["3"], "left": ["7"]}},
         "images": {"kind": "image_options", "dark": False, "looks": {"": ["5", "7", "3", "1"]}}}


def row(name, thought, right=True, **more):
    response = f"{thought}\n</think>\n\n\\boxed{{1}}"
    return {"id": name, "subject": "Math", "question": "<image 1> Does it add up to 2 or to 12?",
            "rule": float(right), "response": response, "boxed": True, "finish": "stop", **more}


def counted(*args, **more):
    groups, unknown = losses.count([row(*args, **more)], TRUTH)
    return groups["Math"], unknown


def shares(counts, *names):
    return [(counts[f"{name} right"], counts[name]) for name in names]


# ------------------------------------------------------------------------------------------- what is right

@pytest.mark.parametrize("name, thought, cells, operations, copies", [
    ("grid", "top row: 3, 1, 4. 3 + 1 = 4. 4 + 4 = 8.", (3, 3), (2, 2), (4, 4)),
    ("grid", "top row: 3, 7, 4. 3 + 7 = 10. 10 + 4 = 15.", (2, 3), (1, 2), (4, 4)),
    ("grid", "top row: 3, 1. 3 + 1 = 4.", (2, 2), (1, 1), (2, 2)),         # what is not read is not wrong
    ("grid", "top row: 3, 1, 4, 4. A.", (3, 4), (0, 0), (0, 0)),           # what is not there is
    ("grid", "top left: 3. centre: 0. 3 x 0 = 0.", (2, 2), (1, 1), (2, 2)),
    ("grid", "top row: 3, 1, 4. 3 + 5 = 8.", (3, 3), (1, 1), (1, 2)),      # nothing says 5
    ("grid", "centre: 0. 2 - 0 = 2.", (1, 1), (1, 1), (2, 2)),             # the question says 2
    ("grid", "centre: 0. 1 - 0 = 1.", (1, 1), (1, 1), (1, 2)),             # the 1 of <image 1> is no value
    ("grid", "middle row: 6, 0, 9. Largest 9, smallest 6. 9 - 6 = 3.", (3, 3), (1, 1), (2, 3)),
    ("grid", "top row: 3, 1, 4. 3 + 3 = 6. 6 + 4 = 10.", (3, 3), (2, 2), (3, 4)),  # the 3 twice
    ("grid", "top row: 3, 7, 4. Wait, top row: 3, 1, 4. 3 + 1 = 4.", (3, 3), (1, 1), (2, 2)),  # a second look
    ("grid", "middle row: 6, 0, 9. Wait, 6, 0, 8. 6 + 9 = 15.", (2, 3), (1, 1), (1, 2)),  # of the first look
    ("grid", "middle row: 6, 0, 9. Largest 9, smallest 0. 6 - 0 = 6.", (3, 3), (1, 1), (2, 3)),
    ("two", "top right: 7. left: 7. 7 + 7 = 14.", (1, 1), (1, 1), (2, 2)),  # of another picture's place
    # 2 is asked for, the sum is 4; the 1 is of the try before
    ("which", "top left: 3. centre: 0. 3 + 0 = 4. 2 - 2 = 0.", (2, 2), (1, 2), (3, 4)),
    ("which", "top left: 3. 3 - 2 = 1. Alternatively, centre: 0. 1 + 0 = 1.", (2, 2), (2, 2), (3, 4)),
    ("counts", "top row: red 3, red 5, 1. 3 + 5 = 8.", (1, 3), (1, 1), (2, 2)),  # the colour is part of it
    ("bars", "middle: blue 3. left: red 7. 3 + 7 = 10.", (1, 2), (1, 1), (2, 2)),
    ("bars", "middle and right: green 7, blue 3. 7 + 3 = 10.", (0, 2), (1, 1), (2, 2)),  # the other way round
    ("images", "5, 7, 2, 1. B.", (3, 4), (0, 0), (0, 0))])
def test_what_was_right(name, thought, cells, operations, copies):
    counts, unknown = counted(name, thought)
    assert shares(counts, "cells", "operations", "copies") == [cells, operations, copies]
    assert counts["steps"] == 1 and not unknown


@pytest.mark.parametrize("thought, odd", [
    ("It is a picture. top row: 3, 1, 4.", "It is a picture"), ("3 + 1 = = 4.", "3 + 1 = = 4"),
    ("top row: 3, 1, 4. 5, 6.", "5, 6"), ("Wait, Wait, hm.", "hm"),
    ("top row: 3, 1, 4. Wait, 3, 1.", "3, 1"), ("3 + " + "9" * 5000 + " = 4.", "3 + " + "9" * 5000 + " = 4")])
def test_what_is_not_understood_is_counted(thought, odd):
    counts, unknown = counted("grid", thought, right=False)
    assert unknown == Counter([odd]) and counts["unknown"] == 1 and counts["other"] == 1


# ------------------------------------------------------------------------------------------- what is lost

RIGHT = "top row: 3, 1, 4. 3 + 1 = 4. 4 + 4 = 8."


@pytest.mark.parametrize("thought, more, lost", [
    ("I see it at once.", {}, "manner"), ("", {}, "manner"), (RIGHT, {"finish": "length"}, "manner"),
    (RIGHT, {"boxed": False}, "manner"), ("top row: 3, 1, 5. 3 + 1 = 9.", {}, "reading"),
    ("top row: 3, 1. 3 + 1 = 9.", {}, "reading"),
    ("top row: 3, 7, 4. Wait, 3, 1, 4. 3 + 1 = 4.", {}, "other"),
    ("top row: 3, 1, 4. 3 + 1 = 5.", {}, "arithmetic"), ("top row: 3, 1, 4. 3 + 5 = 8.", {}, "arithmetic"),
    (RIGHT, {}, "other"), ("What a day.", {}, "other")])
def test_what_an_answer_is_lost_to(thought, more, lost):
    counts, _ = counted("grid", thought, right=False, **more)
    assert [loss for loss in losses.LOSSES if counts[loss]] == [lost] and counts["wrong"] == 1
    counts, _ = counted("grid", thought, **more)  # a right answer is not lost
    assert not any(counts[loss] for loss in losses.LOSSES)


def test_losses_and_accuracy_make_a_hundred():
    rows = [row("grid", RIGHT), row("grid", RIGHT, False), row("grid", "", False),
            row("counts", RIGHT, False, subject="Design")]
    groups, _ = losses.count(rows, TRUTH)
    assert list(groups) == ["Design", "Math", "all"]
    for counts in groups.values():
        assert counts["right"] + sum(counts[loss] for loss in losses.LOSSES) == counts["responses"]
    _, lost, dark = [dict((r[0], r[1:]) for r in body) for _, body in losses.tables(groups)]
    assert lost["Math"] == ["33.3", "0.0", "0.0", "33.3", "66.7"]
    assert dark["all"] == [3, "33.3", "100.0", 1, "0.0", "0.0"]  # "3" is no "red 3"


# ------------------------------------------------------------------------------------------- searches

def a_try(line, values, distance):
    a, b, c = values
    return f"{line}: {a}, {b}, {c}. {a} + {b} = {a + b}. {a + b} + {c} = {a + b + c}. " \
           f"{max(a + b + c, 12)} - {min(a + b + c, 12)} = {distance}."


TOP, MIDDLE, BOTTOM = a_try("top row", (3, 1, 4), 4), a_try("middle row", (6, 0, 9), 3), \
    a_try("bottom row", (2, 2, 8), 0)
MISREAD = a_try("bottom row", (2, 2, 3), 5)
OTHER = " Alternatively, "


@pytest.mark.parametrize("thought, failed, found, all_failed", [
    (TOP + OTHER + MIDDLE + OTHER + BOTTOM + " bottom row.", (2, 2), (1, 1), (0, 0)),
    (BOTTOM + " bottom row.", (0, 0), (1, 1), (0, 0)),
    (BOTTOM + OTHER + TOP + " bottom row.", (0, 0), (0, 1), (0, 0)),         # it does not stop
    (TOP + " top row.", (0, 1), (0, 0), (0, 0)),                             # it gives up
    (TOP + OTHER + MIDDLE + OTHER + MISREAD + " bottom row.", (2, 2), (0, 0), (0, 1)),
    (TOP + OTHER + MIDDLE + OTHER + MISREAD + OTHER + BOTTOM + " bottom row.", (2, 2), (1, 1), (1, 1)),
    (TOP + OTHER + MIDDLE + OTHER + MISREAD + " Wait, " + BOTTOM + " bottom row.", (2, 2), (1, 1), (1, 1)),
    (TOP + " Wait, " + TOP + OTHER + MIDDLE + " top row.", (2, 3), (0, 0), (0, 0)),  # two candidates only
    # it reads again twice, and is counted once
    (OTHER.join([TOP, MIDDLE, MISREAD + " Wait, " + MISREAD, BOTTOM]), (2, 2), (1, 1), (1, 1)),
    # a try without a distance says nothing, even where it adds to the goal
    (TOP + OTHER + "middle row: 6, 0, 9. 12 + 0 = 12." + OTHER + BOTTOM, (1, 1), (1, 1), (0, 0)),
    (TOP + OTHER + "bottom row: 2, 2, 3. Wait, " + BOTTOM, (1, 1), (1, 1), (0, 0))])  # a second look: one try
def test_searches(thought, failed, found, all_failed):
    counts, unknown = counted("which", thought)
    assert shares(counts, "failed", "found") == [failed, found] and not unknown
    assert (counts["all failed again"], counts["all failed"]) == all_failed
    assert counts["all failed again right"] == counts["all failed again"]
    assert (counts["searches"], counts["searches by steps"], counts["searches right"]) == (1, 1, 1)


def test_a_search_among_bars_and_one_at_once():
    thought = ("left and right: red 5, green 7. 5 + 7 = 12. 12 - 8 = 4. Alternatively, left and middle: "
               "red 5, blue 3. 5 + 3 = 8. 8 - 8 = 0. left and middle.")
    counts, unknown = counted("bars", thought)
    assert shares(counts, "failed", "found", "cells") == [(1, 1), (1, 1), (4, 4)] and not unknown
    counts, _ = counted("which", "I see it at once.", right=False)
    assert (counts["searches"], counts["searches by steps"], counts["manner"]) == (1, 0, 1)


# ------------------------------------------------------------------------------------------- the command

def make_world(folder):
    for name in ("world/mmmu/Math", "run/eval"):
        (folder / name).mkdir(parents=True)
    (folder / "world" / "truth.json").write_text(json.dumps(TRUTH))
    (folder / "world" / "mmmu" / "Math" / "a.parquet").write_text("questions")
    digest = hashlib.sha256(b"questions").hexdigest()
    about = {"source": str(folder / "world" / "mmmu"), "files": {"Math/a.parquet": digest}}
    (folder / "run" / "eval" / "data.json").write_text(json.dumps(about))
    with open(folder / "run" / "eval" / "responses.jsonl", "w") as file:
        for name, thought in (("grid", RIGHT), ("grid", "I see it at once."), ("which", TOP)):
            wrong = {"run": int(not thought.startswith("top")), "question_type": "open", "answer": "1"}
            file.write(json.dumps({**row(name, thought), **wrong, "mode": "think", "options": []}) + "\n")
    return folder / "run"


def test_the_command_prints_its_tables(tmp_path, capsys):
    run = str(make_world(tmp_path))
    losses.print_losses([run])
    text = capsys.readouterr().out
    assert "| Math     |         3 |  100.0 |     66.7 | 100.0 |      100.0 |  100.0 |" in text
    assert "| Math     | 100.0% of 1 | 100.0% of 1 |        0.0% of 1 |" in text
    assert "sentences not understood: 0" in text
    losses.print_losses([run, run], together=True)
    text = capsys.readouterr().out
    assert text.startswith(f"{run} {run}\n") and text.count("| right, %") == 1
    assert "| Math     |         6 |  100.0 |     66.7 | 100.0 |" in text and "| 100.0% of 2 |" in text
    (tmp_path / "world" / "mmmu" / "Math" / "a.parquet").write_text("others")
    with pytest.raises(Refused, match="a.parquet is not the file whose questions"):
        losses.print_losses([run])
