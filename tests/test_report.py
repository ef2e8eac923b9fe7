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
from experiments import tables
from experiments.rows import t_times
from experiments.rules import read_selection
from experiments.tables import gains_of_runs
from machinery.figures import apart, draw_curves, smooth
from machinery.files import Refused
from machinery.intervals import pooled
from machinery.metrics import sample_rows
from machinery.page import evenly
from machinery.scores import gain, stage_result


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def is_png(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and Image.open(path).size[0] > 500


# ------------------------------------------------------------------------------------------------ curves
def test_metrics_leave_out_what_was_not_measured(tmp_path):
    write_rows(tmp_path / "metrics.jsonl", [
        {"step": 1, "reward": 0.5, "critical_entropy": None},
        {"step": 2, "reward": math.nan, "critical_entropy": 0.25, "note": "x"}])
    with open(tmp_path / "metrics.jsonl", "a") as f:
        f.write('{"step": 3, "rew')  # the run is being written, or was killed
    m = report.read_metrics(tmp_path)
    assert {k: (s.tolist(), v.tolist()) for k, (s, v) in m.items()} == {
        "step": ([1, 2], [1, 2]), "reward": ([1], [0.5]), "critical_entropy": ([2], [0.25])}


def test_smooth_is_a_mean_over_the_neighbours_that_exist():
    assert smooth(np.array([1.0, 2.0, 6.0, 4.0]), 1).tolist() == [1.5, 3.0, 4.0, 5.0]
    assert smooth(np.array([1.0, 2.0, 6.0]), 0).tolist() == [1.0, 2.0, 6.0]


def test_curves_of_grpo_of_sft_and_of_several_runs(tmp_path, capsys):
    for name in "ab":
        write_rows(tmp_path / name / "metrics.jsonl", [
            {"step": s, "reward": 0.5, "accuracy": 0.4, "format": 0.9, "entropy": 0.1,
             "critical_entropy": 0.3 if s % 2 else None, "length": 20 + s, "grad_norm": 1.0, "loss": 0.0,
             "lr": 1e-5} for s in range(1, 100)])
    write_rows(tmp_path / "sft" / "metrics.jsonl",
               [{"step": 1, "loss": 2.0, "val_loss": 2.1, "grad_norm": 1.0, "lr": 1e-5}])
    report.curves(report.Curves((str(tmp_path / "a"),)))
    assert is_png(tmp_path / "a" / "curves.png")
    text = capsys.readouterr().out
    assert "critical tokens" in text and "gradient norm" in text and "loss" not in text and "step 99" in text
    report.curves(report.Curves((str(tmp_path / "a"), str(tmp_path / "b")), out=str(tmp_path / "both.png")))
    assert is_png(tmp_path / "both.png")
    report.curves(report.Curves((str(tmp_path / "sft"),)))
    assert is_png(tmp_path / "sft" / "curves.png") and "loss" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ figures
def test_a_panel_names_metrics_that_the_first_run_lacks():
    curve = (np.array([1, 2, 3]), np.array([0.52, 0.6, 0.68]))
    figure = draw_curves([{"loss": curve}, {"loss": curve, "val_loss": curve}], ["a", "b"],
                         {"loss": ["loss", "val_loss"], "accuracy": ["loss"]})
    panel, accuracy = figure.axes
    assert [t.get_text() for t in panel.get_legend().get_texts()] == ["loss", "validation loss"]
    assert 0.5 < accuracy.get_ylim()[0] < accuracy.get_ylim()[1] < 0.7  # the data's range


def test_labels_move_apart_as_little_as_possible():
    assert apart([1, 5, 5, 9], 1, 0, 10).tolist() == [1, 4.5, 5.5, 9]
    assert apart([9, 10, 10], 1, 0, 10).tolist() == [8, 9, 10]
    assert apart([], 1, 0, 10).tolist() == []


# ------------------------------------------------------------------------------------------------ page
def test_all_tokens_of_a_critical_word_are_marked():
    tokens = ["3", " W", "", "ait", ",", " but", "ter", " but"]  # "butter" is no "but"
    assert report.marked_tokens(tokens, ("wait", "but")) == [1, 3, 7]


def rollout_row(step, image, **more):
    tokens = ["Wait", " <b>", "\n", "</think>", "</script>", " 4", ""]
    return {"step": step, "id": f"q{step}", "question": "<image 1> How many & why?", "images": [str(image)],
            "gold": 4, "text": "".join(tokens), "reward": 1.0, "accuracy": 1.0, "format": 1.0,
            "finish": "stop", "tokens": tokens, "advantage": 0.25,
            "entropy": [0.5, 0.1, math.nan, 0.0, 0.0, 2.0, 0.1], **more}


def page_data(path):
    text = path.read_text()
    assert text.count("</script>") == 2 and "<!--" not in text  # the texts in the data end no script
    assert not re.search(r"https?:|src=[\"']|href=|@import|innerHTML", text)  # one file, no network
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.S)[1])


def test_page_holds_everything_itself(tmp_path, capsys):
    Image.new("RGB", (900, 300), "red").save(tmp_path / "a.png")
    a, gone = tmp_path / "a.png", tmp_path / "gone.png"
    asked = "</script><!-- <b>How many?</b>"
    write_rows(tmp_path / "rollouts.jsonl", [rollout_row(1, a, question=asked), rollout_row(2, a),
                                             rollout_row(3, gone)])
    write_rows(tmp_path / "metrics.jsonl", [{"step": s, "reward": s / 3, "grad_norm": 1.0, "lr": 1e-5}
                                            for s in (1, 2, 3)])
    report.page(report.Page(str(tmp_path), image_size=300))
    data = page_data(tmp_path / "rollouts.html")
    assert [group["step"] for group in data["groups"]] == [1, 2, 3]
    group, (row,) = data["groups"][0], data["groups"][0]["responses"]
    assert row["tokens"] == ["Wait", " <b>", "\n", "</think>", "</script>", " 4", ""]
    assert row["critical"] == [0] and group["gold"] == "4" and group["question"] == asked
    assert row["entropy"] == [0.5, 0.1, None, 0.0, 0.0, 2.0, 0.1]
    images = data["images"]  # each once, however many responses show it
    assert len(images) == 2 and images[str(tmp_path / "gone.png")] is None
    assert images[str(tmp_path / "a.png")].startswith("data:image/")
    assert "1 images could not be read" in capsys.readouterr().out
    steps = [1, 2, 3]
    assert data["curves"] == {"reward": [steps, [0.3333, 0.6667, 1.0]], "grad_norm": [steps, [1.0] * 3]}


def test_page_takes_groups_from_the_whole_run(tmp_path):
    write_rows(tmp_path / "rollouts.jsonl", [rollout_row(s, "none.png") for s in range(1, 101)])
    report.page(report.Page(str(tmp_path), most=3))
    data = page_data(tmp_path / "rollouts.html")
    assert [group["step"] for group in data["groups"]] == [1, 51, 100] and data["all"] == 100
    assert evenly([(4, 100)] * 5, 8) == {0, 4} and evenly([(4, 100)] * 5, 20) == {0, 1, 2, 3, 4}
    assert len(evenly([(4, 4 * 8192 * 4)] * 528, 5000)) == 61  # of long responses as many as a browser likes
    assert evenly([(4, 100)], 1) == {0}


def test_filters_count_responses_and_groups_without_spread(tmp_path, capsys):
    wrong = {"accuracy": 0.0, "advantage": -1.0}
    write_rows(tmp_path / "rollouts.jsonl", [
        rollout_row(1, "a.png", group=16, group_right=9),
        rollout_row(1, "a.png", **wrong, format=0.0, finish="length"),
        rollout_row(1, "a.png", **wrong, text="I cannot see the image."),
        rollout_row(2, "a.png", advantage=0.0), rollout_row(2, "a.png", advantage=0.0),
        rollout_row(3, "a.png", advantage=0.0), rollout_row(3, "a.png", **wrong)])
    report.page(report.Page(str(tmp_path)))
    data = page_data(tmp_path / "rollouts.html")
    counts = {"right": 4, "wrong": 3, "malformed": 1, "cut off": 1, "denial": 1, "groups without spread": 1}
    assert data["filters"] == counts
    assert ", ".join(f"{name} {n}" for name, n in counts.items()) in capsys.readouterr().out
    one, two, three = data["groups"]
    assert [r["marks"] for r in one["responses"]] == [
        ["right"], ["wrong", "malformed", "cut off"], ["wrong", "denial"]]
    assert (one["size"], one["right"]) == (16, 9)
    assert [r["marks"] for r in two["responses"]] == [["right", "groups without spread"]] * 2
    assert [r["marks"] for r in three["responses"]] == [["right"], ["wrong"]]  # 0 is a group's mean, too


def test_page_refuses_rows_that_do_not_fit(tmp_path):
    with pytest.raises(Refused, match="rollouts.jsonl is not there or empty"):
        report.page(report.Page(str(tmp_path)))
    write_rows(tmp_path / "rollouts.jsonl", [rollout_row(7, "none.png", entropy=[0.1])])
    with pytest.raises(Refused, match="step 7 .*7 tokens but 1 entropies"):
        report.page(report.Page(str(tmp_path)))


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
    rows = sample_rows(9, group, [])
    assert [row["advantage"] for row in rows] == [5.0, 1.0, -1.0, -5.0]
    assert {(row["step"], row["group"], row["group_right"], row["id"]) for row in rows} == {(9, 7, 3, "p")}
    assert rows[0]["entropy"] == [0.25, 0.0] and rows[0]["images"] == ["a.png"]
    assert len(sample_rows(9, group[:2], [])) == 2
    # vLLM gives no entropies: then responses that were trained
    rows = sample_rows(9, [sampled(p, 1.0, None)], [sampled(q, 1.0), sampled(q, -1.0), sampled(p, 2.0)])
    assert [(row["id"], row["advantage"]) for row in rows] == [("q", 1.0), ("q", -1.0)]


# ------------------------------------------------------------------------------------------------ tables
def answered(**subjects):
    """scores.json: {subject: the accuracy of its questions 0, 1, 2, ...}"""
    by_question = {n: {f"{n}_{i}": a for i, a in enumerate(v)} for n, v in subjects.items()}
    short = {name: {"n": len(v), "rule": float(np.mean(v))} for name, v in subjects.items()}
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
    subjects = {"Math": {"n": 100, "rule": 0.5, "rule_se": 0.02}, "Design": {"n": 100, "rule": 0.8},
                "Music": {"n": 100, "rule": 0.9}}
    r = stage_result({"length": 20.0, "subjects": subjects})
    assert (r["maths"], r["others"], r["length"]) == (0.5, pytest.approx(0.85), 20.0)
    assert r["subjects"] == {"Design": 0.8, "Math": 0.5, "Music": 0.9}
    assert r["maths_se"] == 0.02  # as the evaluation measured it
    # binomial: sqrt(.8 * .2 / 100) and sqrt(.9 * .1 / 100)
    assert r["others_se"] == pytest.approx(math.sqrt(0.04 ** 2 + 0.03 ** 2) / 2)
    only = stage_result({"subjects": {"Math": {"n": 4, "rule": 0.5}}})
    assert only["others"] is None and only["others_se"] is None and only["length"] is None


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
    answered(Math=[0, 0, 1, 1, 1], Art=[0, 0.5, 0.5, 1], Law=[0, 0, 0, 0]),
    answered(Math=[0, 0, 1, 1], Art=[0, 0.5, 0.5, 1]), {**AFTER, "data": {"questions": "b"}}])
def test_gain_needs_the_same_questions(other):
    with pytest.raises(Refused, match="a/rl and b/rl did not answer the same questions"):
        gain({**BEFORE, "data": {"questions": "a"}}, other, ("a/rl", "b/rl"))
    assert gain({**BEFORE, "data": None}, {**AFTER, "data": {"questions": "b"}}, "ab")["maths"] == 0.25


def test_interval_over_runs_and_over_questions():
    assert [t_times(n) for n in (1, 2, 4, 11)] == [12.706, 4.303, 2.776, 2.201]
    assert pooled([1, 2], [0.3, 0.4]) == (1.5, pytest.approx(0.25)) and pooled([], []) == (None, None)
    gains = [{"trained": "Math", "maths": m, "maths_se": 0.02, "others": None, "others_se": None,
              "subjects": {"Math": m, "Art": a}, "subjects_se": {"Math": 0.02, "Art": None}}
             for m, a in ((0.1, 0.0), (0.2, 0.01))]
    # .15 +- 1.96 x hypot(.02, .02) / 2; .15 +- 12.706 x .05
    assert gains_of_runs(gains) == [
        ["maths", "+15.0", "+12.2 to +17.8", "-48.5 to +78.5", "+10.0", "+20.0", "2.8"],
        ["Art", "+0.5", "-", "-5.9 to +6.9", "+0.0", "+1.0", "-"]]
    assert gains_of_runs(gains[:1])[0][3] == "-"  # one run tells nothing about runs


def test_table_and_seeds_of_the_same_questions(tmp_path, capsys):
    with pytest.raises(Refused, match="no stage under"):
        report.table(report.Table(str(tmp_path)))
    for name, last in (("one", AFTER), ("two", BEFORE)):
        for stage, s in (("base", BEFORE), ("cold_start", AFTER), ("rl", last)):
            write_scores(tmp_path / name / stage / "eval" / "scores.json", s)
        report.table(report.Table(str(tmp_path / name)))
        text = capsys.readouterr().out
    assert "after connector tuning: no scores" in text
    gains, stage = cells_of(text)["cold start - base"], cells_of(text)["after RL"]
    assert gains == ["+25.0 (-24.0 to +74.0)", "+31.2 (+3.9 to +58.6)"]
    assert cells_of(text)["Art"] == ["+37.5 (+13.0 to +62.0)", "-37.5 (-62.0 to -13.0)"]
    assert stage == ["50.0 ± 25.0", "25.0 ± 12.5", "20.0"]  # sqrt(.5 x .5 / 4), of Art and Law half as much
    results = json.loads((tmp_path / "one" / "results.json").read_text())
    assert list(results) == ["base", "cold_start", "rl"]
    assert list(results["rl"]["gains"]) == ["base", "cold_start"]
    assert (results["rl"]["maths"], results["rl"]["others"]) == (0.75, pytest.approx((0.875 + 0.25) / 2))
    assert is_png(tmp_path / "one" / "results.png")
    run("seeds", tmp_path / "one", tmp_path / "two")
    text = capsys.readouterr().out
    assert cells_of(text.partition("points gained")[0])["after RL"] == [
        "62.5 ± 17.7 (50.0 to 75.0)", "40.6 ± 22.1 (25.0 to 56.2)", "20.0 ± 0.0 (20.0 to 20.0)"]
    found = cells_of(text.rpartition("| after RL - cold start")[0].rpartition("runs of the recipe")[2])
    assert found["maths"] == ["+25.0", "-9.6 to +59.6", "+25.0 to +25.0", "+25.0", "+25.0", "35.4"]


def run(what, *folders):
    tables.tables(tables.Config(what, tuple(map(str, folders))))


# ------------------------------------------------------------------------------------------------ rules
NAMES = ("critical entropy", "entropy of all tokens", "share of high-entropy tokens", "reward", "lowest loss",
         "last", "validation")


def make_run(run, chosen=20, rule="critical_entropy", best=30, count=90):
    """Three checkpoints: critical entropy is highest at 20, that of all tokens and the reward at 10,
    validation and the share of high-entropy tokens at 30; the loss is lowest at 20; `best` scores
    best on the evaluation set, by one of four questions in Math."""
    indicators = {10: (0.2, 0.9, 0.5), 20: (0.4, 0.5, 0.6), 30: (0.3, 0.5, 0.7)}
    checkpoints = [{"step": step, "checkpoint": f"step_{step:06d}", "count": count, "accuracy": accuracy,
                    "critical_entropy": critical, "entropy": entropy, "entropy_high": step / 100}
                   for step, (critical, entropy, accuracy) in indicators.items()]
    write_rows(run / "metrics.jsonl", [{"step": s, "reward": 1 - s / 100 if s != 7 else None,
                                        "loss": abs(s - 15)} for s in range(1, 31)])
    about = {"chosen": chosen, "rule": rule, "min_count": 50, "checkpoints": checkpoints}
    (run / "selection.json").write_text(json.dumps(about))
    for row in checkpoints:
        s = AFTER if row["step"] == best else BEFORE
        write_scores(run / "eval_steps" / row["checkpoint"] / "scores.json", s)


def test_rules_of_one_run(tmp_path, capsys):
    make_run(tmp_path / "rl")
    run("rules", tmp_path / "rl")
    text = capsys.readouterr().out
    found = cells_of(text.partition("| rule")[2].partition("Spearman")[0])
    gain_of_30 = "+29.2 (+4.7 to +53.7)"  # the mean of 25, 37.5, 25; error hypot(.25, .125, .25) / 3
    assert {rule: (cells[1], cells[-1]) for rule, cells in found.items() if rule in NAMES} == {
        "critical entropy": ("20", "the chosen"), "entropy of all tokens": ("10", "+0.0 (+0.0 to +0.0)"),
        "share of high-entropy tokens": ("30", gain_of_30), "reward": ("10", "+0.0 (+0.0 to +0.0)"),
        "lowest loss": ("20", "the chosen"), "last": ("30", gain_of_30), "validation": ("30", gain_of_30)}
    assert found["last"][2:5] == ["75.0", "56.2", "62.5"]  # maths, others, all three
    rewards = [c["reward"] for c in read_selection(tmp_path / "rl").checkpoints.values()]
    assert rewards == pytest.approx([0.947, 0.845, 0.745], abs=5e-4)  # of its own ten steps, without None
    correlations = cells_of(text.partition("| Spearman")[2])
    assert (correlations["critical entropy"], correlations["validation"]) == (["0.00"], ["0.87"])
    assert "chosen by entropy (90 to 90 critical words)" in text
    assert "step 30, +29.2 (+4.7 to +53.7): wrong." in text


@pytest.mark.parametrize("more, told", [
    ({"best": 20}, "Best on the evaluation set: step 20, +0.0 (+0.0 to +0.0): right"),
    ({"chosen": 30, "rule": "accuracy", "best": 30}, "step 30 was chosen by validation")])
def test_verdict_on_the_choice(more, told, tmp_path, capsys):
    make_run(tmp_path, **more)
    run("rules", tmp_path)
    assert told in capsys.readouterr().out


def test_a_difference_that_may_be_chance_is_no_mistake(tmp_path, capsys):
    make_run(tmp_path)
    scores = answered(Math=[0, 1, 1, 1], Art=[0, 0.5, 0.5, 1], Law=[0, 0, 0, 0])  # one question more
    write_scores(tmp_path / "eval_steps" / "step_000030" / "scores.json", scores)
    run("rules", tmp_path)
    assert "+8.3 (-8.0 to +24.7): right" in capsys.readouterr().out


def test_rules_of_several_runs(tmp_path, capsys):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", best=20)
    make_run(tmp_path / "c", chosen=30, rule="accuracy", count=49)
    run("rules", *(tmp_path / name for name in "abc"))
    text = capsys.readouterr().out
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    last = [cells for cells in lines if cells[:1] == ["last"]]
    assert [cells[2] for cells in last] == ["30", "30", "30", ""] and last[3][1] == "mean of 3"
    assert last[3][3:] == ["66.7", "45.8", "52.8", "+0.0 (-11.5 to +11.5)"]  # +29.2, -29.2, 0 in the runs
    # without enough critical words there is no correlation
    assert cells_of(text)["critical entropy"] == ["0.00", "0.87", "-"]
    (tmp_path / "a" / "eval_steps" / "step_000020" / "scores.json").unlink()
    with pytest.raises(Refused, match="step_000020/scores.json is not there"):
        run("rules", tmp_path / "a")


def test_a_row_of_the_board_is_taken_seed_by_seed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, accuracy in (("out/tiny", 0.4), ("out/tiny-seed1", 0.5),
                             ("fork/out/tiny", 0.45), ("fork/out/tiny-seed1", 0.57)):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "results.json").write_text(json.dumps({"connector": {"all": accuracy}}))
    run("board", "fork/out/tiny", "fork/out/tiny-seed1")
    assert capsys.readouterr().out == "| 51.0 ± 8.5 (45.0 to 57.0) | +6.0 ± 1.4 (+5.0 to +7.0) | 2 |\n"
