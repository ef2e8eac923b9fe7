"""report.py on hand-made run folders: curves, the page of rollouts, the tables."""
import json
import math
import re

import numpy as np
import pytest
from PIL import Image

import report
from machinery.files import Refused


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
    assert report.smooth(np.array([1.0, 2.0, 6.0, 4.0]), 1).tolist() == [1.5, 3.0, 4.0, 5.0]
    assert report.smooth(np.array([1.0, 2.0, 6.0]), 0).tolist() == [1.0, 2.0, 6.0]


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


def test_curves_refuse_a_folder_without_steps(tmp_path):
    with pytest.raises(Refused, match="metrics.jsonl is not there or holds no step"):
        report.curves(report.Curves((str(tmp_path),)))


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
    assert text.count("</script>") == 2  # the texts in the data end no script
    assert not re.search(r"https?:|src=[\"']|href=|@import", text)  # one file, no network
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.S)[1])


def test_page_holds_everything_itself(tmp_path, capsys):
    Image.new("RGB", (900, 300), "red").save(tmp_path / "a.png")
    a, gone = tmp_path / "a.png", tmp_path / "gone.png"
    write_rows(tmp_path / "rollouts.jsonl", [rollout_row(1, a), rollout_row(2, a), rollout_row(3, gone)])
    report.page(report.Page(str(tmp_path), image_size=300))
    data = page_data(tmp_path / "rollouts.html")
    assert [r["step"] for r in data["rows"]] == [1, 2, 3]
    row = data["rows"][0]
    assert row["tokens"] == ["Wait", " <b>", "\n", "</think>", "</script>", " 4", ""]
    assert row["critical"] == [0] and row["gold"] == "4"
    assert row["entropy"] == [0.5, 0.1, None, 0.0, 0.0, 2.0, 0.1]
    images = data["images"]  # each once, however many responses show it
    assert len(images) == 2 and images[str(tmp_path / "gone.png")] is None
    assert images[str(tmp_path / "a.png")].startswith("data:image/")
    assert "1 images could not be read" in capsys.readouterr().out


def test_page_takes_responses_from_the_whole_run(tmp_path):
    write_rows(tmp_path / "rollouts.jsonl", [rollout_row(s, "none.png") for s in range(1, 101)])
    report.page(report.Page(str(tmp_path), most=3))
    data = page_data(tmp_path / "rollouts.html")
    assert [r["step"] for r in data["rows"]] == [1, 51, 100] and data["all"] == 100


def test_page_refuses_rows_that_do_not_fit(tmp_path):
    with pytest.raises(Refused, match="rollouts.jsonl is not there or empty"):
        report.page(report.Page(str(tmp_path)))
    write_rows(tmp_path / "rollouts.jsonl", [rollout_row(7, "none.png", entropy=[0.1])])
    with pytest.raises(Refused, match="step 7 .*7 tokens but 1 entropies"):
        report.page(report.Page(str(tmp_path)))


# ------------------------------------------------------------------------------------------------ tables
def scores(maths, design, music, length=20.0):
    subjects = {"Math": {"n": 100, "rule": maths, "rule_se": 0.02}, "Design": {"n": 100, "rule": design},
                "Music": {"n": 100, "rule": music}}
    return {"n": 300, "rule": 0.5, "length": length, "subjects": subjects}


def test_stage_result_by_hand():
    r = report.stage_result(scores(0.5, 0.8, 0.9))
    assert (r["maths"], r["others"], r["length"]) == (0.5, pytest.approx(0.85), 20.0)
    assert r["subjects"] == {"Design": 0.8, "Math": 0.5, "Music": 0.9}
    assert r["maths_se"] == 0.02  # as the evaluation measured it
    # binomial: sqrt(.8 * .2 / 100) and sqrt(.9 * .1 / 100)
    assert r["others_se"] == pytest.approx(math.sqrt(0.04 ** 2 + 0.03 ** 2) / 2)
    only = report.stage_result({"subjects": {"Math": {"n": 4, "rule": 0.5}}})
    assert only["others"] is None and only["others_se"] is None and only["length"] is None


def make_stages(folder, shift=0.0, stages=("base", "cold_start", "rl", "connector")):
    values = [(0.4, 0.7, 0.8, 10), (0.45, 0.7, 0.8, 12), (0.65, 0.75, 0.85, 30), (0.66, 0.8, 0.9, 28)]
    for stage, (maths, design, music, length) in zip(stages, values):
        path = folder / stage / "eval" / "scores.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(scores(maths + shift, design, music, length)))


def test_table_of_all_stages(tmp_path, capsys):
    make_stages(tmp_path)
    report.table(report.Table(str(tmp_path)))
    text = capsys.readouterr().out
    assert re.search(r"after RL +\| +65.0 ± 2.0 \| +80.0 ± 2.8 \| +30.0 \|", text)
    assert re.search(r"after RL - cold start +\| +\+20.0 ± 2.8 \| +\+5.0 ± 4.1 \|", text)
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["base", "cold_start", "rl", "connector"]
    rl = results["rl"]
    assert (rl["maths"], rl["others"], rl["length"]) == (0.65, pytest.approx(0.8), 30)
    assert rl["subjects"]["Music"] == 0.85
    assert is_png(tmp_path / "results.png")


def test_table_of_a_recipe_that_is_still_going(tmp_path, capsys):
    with pytest.raises(Refused, match="no stage under"):
        report.table(report.Table(str(tmp_path)))
    make_stages(tmp_path, stages=("base",))
    capsys.readouterr()
    report.table(report.Table(str(tmp_path)))
    assert "after RL: no scores" in capsys.readouterr().out
    assert list(json.loads((tmp_path / "results.json").read_text())) == ["base"]


def test_seeds_mean_and_spread(tmp_path, capsys):
    for name, shift in (("one", 0.0), ("two", 0.02)):
        make_stages(tmp_path / name, shift)
        report.table(report.Table(str(tmp_path / name)))
    capsys.readouterr()
    report.seeds(report.Seeds((str(tmp_path / "one"), str(tmp_path / "two"))))
    text = capsys.readouterr().out
    assert re.search(r"after RL +\| 66.0 ± 1.4 \(65.0 to 67.0\)", text)
    assert "+20.0 ± 0.0 (+20.0 to +20.0)" in text  # the gain is taken run by run
    with pytest.raises(Refused, match=r"report.py table .*three` first"):
        report.seeds(report.Seeds((str(tmp_path / "three"),)))
