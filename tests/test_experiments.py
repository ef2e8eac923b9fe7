"""experiments/: rows are what the scores say, verdicts follow the interval, nothing is made twice."""
import importlib
import json

import pytest

from conftest import ROOT
from experiments import lab, table
from machinery.files import Refused

NAMES = sorted(p.stem for p in (ROOT / "experiments").glob("*.py") if p.stem not in ("lab", "table"))


def scores(maths, others):
    """scores.json of four questions of maths and four of another subject; arguments: accuracy of each"""
    accuracy = {"Math": dict(zip("abcd", maths)), "Design": dict(zip("efgh", others))}
    subjects = {name: {"n": 4, "rule": sum(of.values()) / 4, "rule_se": 0.1} for name, of in accuracy.items()}
    return {"subjects": subjects, "question_accuracy": accuracy, "length": 10.0}


def test_a_row_is_the_mean_over_seeds_with_the_error_of_the_differences():
    before = [scores([0, 0, 1, 1], [1, 1, 1, 1]), scores([1, 0, 0, 0], [1, 1, 0, 0])]
    after = [scores([1, 0, 1, 1], [0, 1, 1, 1]), scores([1, 1, 1, 0], [1, 1, 0, 0])]
    maths, others = lab.compared({"a": before, "b": after}, "b", "a", "+1", "higher")
    assert maths.values == [0.25, 0.5] and others.values == [-0.25, 0.0] and maths.levels == [0.75, 0.75]
    middle, half = maths.interval()
    # differences 1 0 0 0 and 0 1 1 0: standard errors 1/4 and 1/sqrt(12)
    assert middle == 0.375 and half == pytest.approx(1.96 * (1 / 16 + 1 / 12) ** 0.5 / 2)
    assert maths.verdict() == "same direction" and others.verdict() == "not resolved"


@pytest.mark.parametrize("values, expected, verdict", [
    ([0.10, 0.11, 0.12], "higher", "same direction"), ([0.10, 0.11, 0.12], "lower", "opposite"),
    ([-0.1, 0.0, 0.11], "lower", "not resolved"), ([0.10, 0.11, 0.12], "equal", "opposite"),
    ([-0.1, 0.0, 0.11], "equal", "no difference seen"), ([0.1, 0.11, 0.12], "", "the paper does not say")])
def test_verdicts(values, expected, verdict):
    row = lab.Row("a", "b", "reward", "", expected, values, [None] * 3, values)
    assert row.verdict() == verdict


def test_intervals_of_metrics_are_students():
    row = lab.Row("a", "b", "reward", "", "", [1.0, 2.0, 3.0], [None] * 3)
    assert row.interval() == (2.0, pytest.approx(4.303 / 3 ** 0.5))


def test_words_of_flags():
    flags = {"lr": 1e-4, "thinking": False, "offload": True, "train": ["llm", "encoder"], "verifier": "",
             "columns": [], "is_clip": None, "kl": 0.0}
    assert lab.words_of(flags) == ["--lr", 1e-4, "--no-thinking", "--offload", "--train", "llm", "encoder",
                                   "--kl", 0.0]


def test_a_finished_run_is_not_made_again_and_a_broken_one_is(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(lab, "call", calls.append)
    out = tmp_path / "run"
    lab.once("grpo.py", out, lr=1.0)
    lab.once("grpo.py", out, lr=1.0)
    assert [c[1:] for c in calls] == [["grpo.py", "--lr", 1.0, "--out", out]]

    def broken(words):
        raise Refused("ended with 1")

    monkeypatch.setattr(lab, "call", broken)
    with pytest.raises(Refused):
        lab.once("grpo.py", tmp_path / "other")
    monkeypatch.setattr(lab, "call", calls.append)
    lab.once("grpo.py", tmp_path / "other")
    assert len(calls) == 2


def test_what_fails_says_which_command():
    with pytest.raises(Refused, match="grpo.py --no-such-flag ended with"):
        lab.call([lab.sys.executable, "grpo.py", "--no-such-flag"])


@pytest.mark.parametrize("name", NAMES)
def test_each_says_what_it_expects(name):
    module = importlib.import_module(f"experiments.{name}")
    assert module.__doc__.count("Paper") and module.EXPECTED and module.WHY and callable(module.run)


def test_report_and_readme(tmp_path, monkeypatch):
    monkeypatch.setattr(lab, "RESULTS", tmp_path)
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    monkeypatch.setattr(table, "README", tmp_path / "README.md")
    (tmp_path / "README.md").write_text("by hand\n" + table.MARKER + "old")
    row = lab.Row("b", "a", "maths", "+5.9", "higher", [0.1, 0.2], [0.01, 0.02], [0.5, 0.6])
    lab.report("try", lab.Config(seeds=(0, 1)), [row], "more.", "small.")
    table.write_readme()
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("by hand\n") and "old" not in text and (tmp_path / "try.png").stat().st_size > 1000
    line = next(x for x in text.splitlines() if x.startswith("| b |"))
    assert line == "| b | a | maths | +5.9 | +15.0 (+12.8 to +17.2) | +10.0 to +20.0 | 2.2 | same direction |"


def test_every_result_in_the_repository_stands_in_the_readme():
    text = (ROOT / "experiments" / "README.md").read_text().partition(table.MARKER)[2]
    for file in (ROOT / "experiments" / "results").glob("*.json"):
        assert table.section(json.loads(file.read_text())) in text, f"{file}: python -m experiments.table"
        assert (ROOT / "experiments" / f"{file.stem}.py").exists() and file.with_suffix(".png").exists()
