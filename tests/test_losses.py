"""experiments/losses.py: hand-written responses of the tiny world, judged against a known truth."""
import json
import os

import pytest

from experiments import losses
from machinery.files import Refused

GRID = {"top row": ["3", "1", "4"], "middle row": ["6", "0", "9"], "top left": ["3"], "centre": ["0"]}
TRUTH = {"grid": {"kind": "sum_line", "looks": GRID},
         "counts": {"kind": "sum_line", "looks": {"top row": ["red 3", "blue 5", "red 1"]}},
         "two": {"kind": "two_images", "looks": {"top left": ["3"], "left": ["7"]}},
         "images": {"kind": "image_options", "looks": {"": ["5", "7", "3", "1"]}}}
RIGHT = "top row: 3, 1, 4. 3 + 1 = 4. 4 + 4 = 8."


def row(name, thought, right=True, **more):
    return {"id": name, "subject": "Math", "rule": float(right), "boxed": True, "finish": "stop",
            "response": f"{thought}\n</think>\n\n\\boxed{{1}}", **more}


@pytest.mark.parametrize("name, thought, cells, operations", [
    ("grid", RIGHT, (3, 3), (2, 2)), ("grid", "top row: 3, 1. 3 + 1 = 4.", (2, 2), (1, 1)),
    ("grid", "top row: 3, 7, 4. 3 + 7 = 10. 10 + 4 = 15.", (2, 3), (1, 2)),
    ("grid", "top row: 3, 1, 4, 4. A.", (3, 4), (0, 0)), ("grid", "1 - 3 = -2. 3 - 1 = 4.", (0, 0), (1, 2)),
    ("grid", "top row: 3, 7, 4. Wait, top row: 3, 1, 4.", (3, 3), (0, 0)),  # the last look counts
    ("grid", "middle row: 6, 0, 9. Wait, 6, 0, 8.", (2, 3), (0, 0)),        # without its name
    ("grid", "middle row: 6, 0, 9. Largest 9, smallest 0. 9 - 0 = 9.", (3, 3), (1, 1)),
    ("grid", "left row: 6, 0.", (0, 2), (0, 0)), ("two", "top right: 7. left: 7.", (1, 1), (0, 0)),
    ("counts", "top row: red 3, red 5, 1.", (1, 3), (0, 0)), ("images", "5, 7, 2, 1. B.", (3, 4), (0, 0))])
def test_what_was_right(name, thought, cells, operations):
    counts = losses.count([row(name, thought)], TRUTH)["Math"]
    assert (counts["cells right"], counts["cells"]) == cells
    assert (counts["operations right"], counts["operations"]) == operations and counts["by steps"] == 1


@pytest.mark.parametrize("thought, more, lost", [
    ("I see it at once.", {}, "no steps"), ("", {}, "no steps"), (RIGHT, {"finish": "length"}, "no steps"),
    (RIGHT, {"boxed": False}, "no steps"), ("top row: 3, 1, 5. 3 + 1 = 9.", {}, "reading"),
    ("top row: 3, 1. 3 + 1 = 9.", {}, "reading"), ("top row: 3, 7, 4. Wait, 3, 1, 4.", {}, "other"),
    ("top row: 3, 1, 4. 3 + 1 = 5.", {}, "arithmetic"), ("What a day.", {}, "other")])
def test_what_an_answer_is_lost_to(thought, more, lost):
    right, wrong = (losses.count([row("grid", thought, of, **more)], TRUTH)["all"] for of in (True, False))
    assert [loss for loss in losses.LOSSES if wrong[loss]] == [lost]
    assert not any(right[loss] for loss in losses.LOSSES)


def test_the_command_prints_its_table(tmp_path, capsys):
    world, run = tmp_path / "world", tmp_path / "run"
    for folder in (world, run / "eval"):
        folder.mkdir(parents=True)
    (world / "truth.json").write_text(json.dumps(TRUTH))
    (run / "eval" / "data.json").write_text(json.dumps({"source": str(world / "mmmu")}))
    given = {"run": 1, "question_type": "open", "answer": "1", "mode": "think", "options": []}
    rows = [{**row("grid", RIGHT), **given},
            {**row("grid", "I see it at once."), **given, "run": 2, "answer": "2"}]
    (run / "eval" / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    losses.print_losses([str(run)])
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[-2].split("|")[1:-1]]
    assert cells == ["all", "2", "50.0", "50.0", "100.0", "100.0", "50.0", "0.0", "0.0", "0.0"]
    os.utime(run / "eval" / "data.json", (0, 0))
    with pytest.raises(Refused, match="truth.json is younger"):
        losses.print_losses([str(run)])
