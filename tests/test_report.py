"""report.py and experiments/tables.py on hand-made run folders: curves, the page of rollouts, the tables."""
import json
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import report
from conftest import write_jsonl
from experiments.rows import t_times
from experiments.tables import gains_of_runs
from machinery.files import Refused
from machinery.tables import pooled
from machinery.metrics import rollout_rows
from machinery.page import evenly
from machinery.scores import gain, stage_result


def rows_of(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(path, rows)


def is_png(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and Image.open(path).size[0] > 500


# ------------------------------------------------------------------------------------------------ curves
def test_metrics_leave_out_what_was_not_measured(tmp_path):
    rows_of(tmp_path / "metrics.jsonl", [
        {"step": 1, "reward": 0.5, "critical_entropy": None},
        {"step": 2, "reward": math.nan, "critical_entropy": 0.25, "note": "x"}])
    with open(tmp_path / "metrics.jsonl", "a") as f:
        f.write('{"step": 3, "rew')  # the run is being written, or was killed
    m = report.read_metrics(tmp_path)
    assert {k: (s.tolist(), v.tolist()) for k, (s, v) in m.items()} == {
        "step": ([1, 2], [1, 2]), "reward": ([1], [0.5]), "critical_entropy": ([2], [0.25])}


def test_curves_of_several_runs(tmp_path):
    row = {"reward": 0.5, "critical_entropy": 0.3, "length": 20, "grad_norm": 1.0, "loss": 0.0, "lr": 1}
    rows_of(tmp_path / "a" / "metrics.jsonl", [{"step": s, **row} for s in range(1, 99)])
    rows_of(tmp_path / "b" / "metrics.jsonl", [{"step": 1, "loss": 2.0, "val_loss": 2.1, "lr": 1e-5}])
    runs = tuple(str(tmp_path / name) for name in "ab")
    report.curves(report.Curves(runs, out=str(tmp_path / "curves.png")))
    assert is_png(tmp_path / "curves.png")


def test_curves_of_chosen_metrics(tmp_path, monkeypatch):
    rows_of(tmp_path / "metrics.jsonl", [{"step": s, "reward": 0.5, "lr": 1, "loss": 0.0} for s in (1, 2)])
    drawn, draw = [], report.draw_curves
    monkeypatch.setattr(report, "draw_curves", lambda *given: drawn.append(given[2]) or draw(*given))
    report.curves(report.Curves((str(tmp_path),), metrics=("lr", "loss")))
    assert drawn == [{"lr": ["lr"], "loss": ["loss"]}] and is_png(tmp_path / "curves.png")
    with pytest.raises(Refused, match="--metrics speed: metrics.jsonl has loss, lr, reward"):
        report.curves(report.Curves((str(tmp_path),), metrics=("lr", "speed")))


# ------------------------------------------------------------------------------------------------ page
def rollout_row(step, image, **more):
    tokens = ["Wa", "", "it <b>", "\n", "</think>", "</script>", " 4"]
    return {"step": step, "id": f"q{step}", "question": "<image 1> How many & why?", "images": [str(image)],
            "gold": 4, "text": "".join(tokens), "reward": 1.0, "accuracy": 1.0, "format": 1.0,
            "finish": "stop", "tokens": tokens, "advantage": 0.25,
            "entropy": [0.5, 0.1, math.nan, 0.0, 0.0, 2.0, 0.12346], **more}


def page_data(path):
    text = path.read_text()
    assert text.count("</script>") == 2 and "<!--" not in text  # the texts in the data end no script
    assert not re.search(r"https?:|src=[\"']|href=|@import|innerHTML", text)  # one file, no network
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.S)[1])


def test_page_holds_everything_itself(tmp_path, capsys):
    Image.new("RGB", (900, 300), "red").save(tmp_path / "a.png")
    a, gone, asked = tmp_path / "a.png", tmp_path / "gone.png", "</script><!-- <b>How many?</b>"
    wrong = {"accuracy": 0.0, "advantage": -1.0}
    rows_of(tmp_path / "rollouts.jsonl", [
        rollout_row(1, a, question=asked, group=16, group_right=9),
        rollout_row(1, a, **wrong, format=0.0, finish="length"),
        rollout_row(1, a, **wrong, text="I cannot see the image."),
        rollout_row(2, a, advantage=0.0), rollout_row(2, gone, advantage=0.0),
        rollout_row(3, gone, advantage=0.0), rollout_row(3, a, **wrong)])  # 0 is a group's mean, too
    rows_of(tmp_path / "metrics.jsonl", [{"step": s, "reward": s / 3, "lr": 1e-5} for s in (1, 2, 3)])
    report.page(report.Page(str(tmp_path), image_size=300))
    data, told = page_data(tmp_path / "rollouts.html"), capsys.readouterr().out
    counts = {"right": 4, "wrong": 3, "malformed": 1, "cut off": 1, "denial": 1, "groups without spread": 1}
    assert data["filters"] == counts and "1 images could not be read" in told
    one, two, three = data["groups"]
    assert [r["marks"] for r in one["responses"]] == [
        ["right"], ["wrong", "malformed", "cut off"], ["wrong", "denial"]]
    assert [r["marks"] for r in two["responses"]] == [["right", "groups without spread"]] * 2
    assert [r["marks"] for r in three["responses"]] == [["right"], ["wrong"]]
    row, images = one["responses"][0], data["images"]
    assert row["tokens"] == ["Wa", "", "it <b>", "\n", "</think>", "</script>", " 4"]
    assert (row["critical"], one["gold"], one["question"], one["size"]) == ([0, 2], "4", asked, 16)
    assert row["entropy"] == [0.5, 0.1, None, 0.0, 0.0, 2.0, 0.123]
    assert len(images) == 2 and images[str(gone)] is None  # each once, however many responses show it
    assert images[str(a)].startswith("data:image/")
    assert data["curves"] == {"reward": [[1, 2, 3], [0.3333, 0.6667, 1.0]]}
    assert evenly([(4, 100)] * 5, 8) == {0, 4} and evenly([(4, 100)] * 5, 20) == {0, 1, 2, 3, 4}
    assert len(evenly([(4, 4 * 8192 * 4)] * 528, 5000)) == 61  # of long responses as many as a browser likes


def sampled(prompt, advantage, entropy=(0.25, 0.00001)):
    record = SimpleNamespace(id=prompt.id, text=lambda: "?", images=["a.png", b"x"], answer="4")
    reward = SimpleNamespace(total=0.0, accuracy=float(advantage > 0), format=1.0, extracted=None)
    prompt.record = record
    return SimpleNamespace(prompt=prompt, text="ab", pieces=["a", "b"], finish="stop", reward=reward,
                           entropy=None if entropy is None else torch.tensor(entropy),
                           advantage=torch.tensor([advantage]))


def test_rows_of_a_group_reach_from_its_best_to_its_worst():
    p, q = SimpleNamespace(id="p"), SimpleNamespace(id="q")
    group = [sampled(p, a) for a in (-3.0, 5.0, -1.0, 1.0, 3.0, -5.0, 0.0)]
    rows = rollout_rows(9, group, [])
    assert [row["advantage"] for row in rows] == [5.0, 1.0, -1.0, -5.0]
    assert {(row["step"], row["group"], row["group_right"], row["id"]) for row in rows} == {(9, 7, 3, "p")}
    assert rows[0]["entropy"] == [0.25, 0.0] and rows[0]["images"] == ["a.png"]
    assert len(rollout_rows(9, group[:2], [])) == 2
    # vLLM gives no entropies: then responses that were trained
    rows = rollout_rows(9, [sampled(p, 1.0, None)], [sampled(q, 1.0), sampled(q, -1.0), sampled(p, 2.0)])
    assert [(row["id"], row["advantage"]) for row in rows] == [("q", 1.0), ("q", -1.0)]


# ------------------------------------------------------------------------------------------------ tables
def answered(**subjects):
    """scores.json: {subject: the accuracy of its questions 0, 1, 2, ...}"""
    by_question = {n: {f"{n}_{i}": a for i, a in enumerate(v)} for n, v in subjects.items()}
    short = {name: {"n": len(v), "rule": float(np.mean(v)), "rule_se": float(np.std(v) / len(v) ** 0.5)}
             for name, v in subjects.items()}
    return {"n": 9, "rule": 0.5, "length": 20.0, "subjects": short, "question_accuracy": by_question}


BEFORE = answered(Math=[0, 0, 1, 1], Art=[0, 0.5, 0.5, 1], Law=[0, 0, 0, 0])
AFTER = answered(Math=[1, 0, 1, 1], Art=[0.5, 1, 1, 1], Law=[0, 1, 0, 0])


def write_scores(path, scores):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(scores))


def cells_of(text):
    """{first cell: the others} of printed tables."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return {row[0]: row[1:] for row in rows if row}


def test_stage_result_by_hand():
    subjects = {"Math": {"n": 100, "rule": 0.5, "rule_se": 0.02}, "Design": {"n": 100, "rule": 0.8,
                "rule_se": 0.04}, "Music": {"n": 100, "rule": 0.9, "rule_se": 0.03}}
    r = stage_result({"length": 20.0, "subjects": subjects})
    assert (r["maths"], r["others"], r["length"]) == (0.5, pytest.approx(0.85), 20.0)
    assert r["subjects"] == {"Design": 0.8, "Math": 0.5, "Music": 0.9}
    assert (r["maths_se"], r["others_se"]) == (0.02, pytest.approx(0.025))  # hypot(.04, .03) / 2
    only = stage_result({"length": None, "subjects": {"Math": {"n": 1, "rule": 0.5, "rule_se": None}}})
    assert only["others"] is None and only["others_se"] is None and only["maths_se"] is None


def test_gain_question_by_question():
    g = gain(BEFORE, AFTER, ("one", "two"))
    assert (g["maths"], g["others"]) == (0.25, pytest.approx((0.375 + 0.25) / 2))
    # by hand: differences 1, 0, 0, 0 and .5, .5, .5, 0 have standard deviations .5 and .25
    assert g["maths_se"] == pytest.approx(0.25) and g["subjects_se"]["Art"] == pytest.approx(0.125)
    assert g["others_se"] == pytest.approx(math.hypot(0.125, 0.25) / 2)
    assert gain(BEFORE, BEFORE, ("one", "two"))["maths_se"] == 0  # nothing changed, nothing is uncertain
    alone = gain(answered(Math=[0]), answered(Math=[1]), ("one", "two"))
    assert (alone["maths"], alone["maths_se"], alone["others"], alone["others_se"]) == (1, None, None, None)


@pytest.mark.parametrize("other", [
    answered(Math=[0, 0, 1, 1], Art=[0, 0.5, 0.5, 1]), {**AFTER, "data": {"questions": "b"}}])
def test_gain_needs_the_same_questions(other):
    with pytest.raises(Refused, match="a/rl and b/rl did not answer the same questions"):
        gain({**BEFORE, "data": {"questions": "a"}}, other, ("a/rl", "b/rl"))
    assert gain({**BEFORE, "data": None}, {**AFTER, "data": {"questions": "b"}}, "ab")["maths"] == 0.25


def test_interval_over_runs_and_over_questions():
    assert [t_times(n) for n in (1, 2, 4, 11)] == [12.706, 4.303, 2.776, 2.201]
    assert pooled([1, 2], [0.3, 0.4]) == (1.5, pytest.approx(0.25)) and pooled([], []) == (None, None)
    gains = [{"trained": "Math", "maths": m, "maths_se": 0.02, "others": a, "others_se": None,
              "subjects": {"Math": m, "Art": a}, "subjects_se": {"Math": 0.02, "Art": 0.01}}
             for m, a in ((0.1, 0.0), (0.2, 0.01))]
    assert gains_of_runs(gains) == [  # .15 +- 1.96 x hypot(.02, .02) / 2
        ["maths", "+15.0", "+12.2 to +17.8", "+10.0", "+20.0"], ["others", "+0.5", "-", "+0.0", "+1.0"],
        ["Art", "+0.5", "-0.9 to +1.9", "+0.0", "+1.0"]]


def test_table_of_the_same_questions(tmp_path, capsys):
    for stage, scores in (("base", BEFORE), ("cold_start", AFTER), ("rl", AFTER)):
        write_scores(tmp_path / stage / "eval" / "scores.json", scores)
    report.table(report.Table(str(tmp_path)))
    text = capsys.readouterr().out
    assert "after connector tuning: no scores" in text
    levels, gains = map(cells_of, text.split("points gained"))
    assert gains["maths"] == ["+25.0 (-24.0 to +74.0)", "+0.0 (+0.0 to +0.0)"]
    assert gains["others"][0] == "+31.2 (+3.9 to +58.6)"
    assert (levels["maths"][0], levels["others"][0]) == ("50.0 ± 25.0", "25.0 ± 8.8")
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["base", "cold_start", "rl"]
    assert list(results["rl"]["gains"]) == ["base", "cold_start"]
    assert (results["rl"]["maths"], results["rl"]["others"]) == (0.75, pytest.approx((0.875 + 0.25) / 2))
    assert is_png(tmp_path / "results.png")
