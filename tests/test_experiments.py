"""experiments/: rows are what the scores say, verdicts follow the interval, nothing is made twice."""
import importlib
import json
from pathlib import Path
from dataclasses import asdict

import pytest
import tyro
from PIL import Image

from conftest import ROOT, write_jsonl
from experiments import controls, findings, lab, rules, tables
from experiments.rows import Row, cells
from machinery.files import write_json

STEPWISE = {"response": "2 + 2 = 4.\n\\boxed{4}", "tokens": 7}
STEPS = [f"step_{step:06d}" for step in (10, 20, 30, 40)]


def scores(maths, others):
    """scores.json of four questions of maths and four of another subject; arguments: accuracy of each"""
    accuracy = {"Math": dict(zip("abcd", maths)), "Design": dict(zip("efgh", others))}
    subjects = {name: {"n": 4, "rule": sum(of.values()) / 4, "rule_se": 0.1} for name, of in accuracy.items()}
    return {"subjects": subjects, "question_accuracy": accuracy, "length": 10.0, "denial": 0.1}


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
    ([-0.1, 0.0, 0.11], "equal", "no difference seen"), ([0.1, 0.11, 0.12], "", "the paper does not say"),
    # an effect of 0.045 or more would have been seen
    ([0.0, 0.01, -0.01], "lower", "no such effect"), ([-0.02, 0.0, 0.02], "lower", "not resolved"),
    ([-0.02, -0.021, -0.022], "lower", "same direction"), ([0.02, 0.021, 0.022], "lower", "opposite")])
def test_verdicts(values, expected, verdict):
    at_least = 0.045 * (max(values) < 0.1)
    assert Row("a", "b", "reward", "", expected, values, [None] * 3, values, at_least).verdict() == verdict


def test_a_finished_run_is_not_made_again_and_a_broken_one_is(tmp_path, monkeypatch):
    calls, out = [], tmp_path / "run"
    monkeypatch.setattr(lab, "call", calls.append)
    lab.once("grpo.py", out, lr=1.0)
    lab.once("grpo.py", out, lr=1.0)
    assert [c[1:] for c in calls] == [["grpo.py", "--lr", "1.0", "--out", str(out)]]
    lab.once("grpo.py", out, lr=2.0)
    assert len(calls) == 2, "a run with other flags was taken for this one"
    monkeypatch.setattr(lab, "call", lambda words: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lab.once("grpo.py", tmp_path / "other")
    assert not (tmp_path / "other.finished").exists()


class Pretended:
    """In place of lab.call: a script's flags are read by its own Config, and it leaves files as it would."""

    def __init__(self):
        self.runs = []

    def __call__(self, words):
        script, *flags = [str(w) for w in words[1:]]
        if words[0] == "make":
            return self.leave_recipe("out/tiny-seed1" if "SEED=1" in flags else "out/tiny")
        module = importlib.import_module(script.replace("/", ".").removesuffix(".py"))
        cfg = tyro.cli(module.Config, args=flags)  # ends the process where a flag is unknown
        for path in (getattr(cfg, flag, "") for flag in ("model", "data", "val", "curriculum", "folder")):
            if path and (Path(path).is_relative_to("out") or Path(path).is_relative_to("data")):
                assert Path(path).is_dir() or Path(path).read_text(), f"{path}, that {script} reads"
        self.runs.append((script, cfg))
        self.leave(script, cfg)

    def leave_recipe(self, folder):
        for stage in ("encoder", "base", "cold_start", "rl", "connector"):
            self.write(f"{folder}/{stage}/eval/scores.json", scores([0, 1, 1, 1], [1, 0, 1, 1]))
            self.write(f"{folder}/{stage}/eval/responses.jsonl", STEPWISE)
            script = {"rl": "grpo", "connector": "connector_tune"}.get(stage, "sft")
            self.leave(script, importlib.import_module(script).Config(out=f"{folder}/{stage}"))
        for stage in ("encoder", "cold_start", "base", "rl", "select", "connector"):
            self.write(f"{folder}/{stage}.done", {})
        world = folder.replace("out", "data", 1)
        self.write(f"{world}/truth.json", {i: {"dark": i in "eg"} for i in "abcdefgh"})
        for name, shade in (("light.png", 250), ("dark.png", 5)):
            Image.new("RGB", (4, 4), (shade,) * 3).save(f"{world}/{name}")
        row = {"id": "a", "subject": "Math", "solution": "a: 1. Wait, b: 2. 1 + 2 = 3. 3.\n</think>\n\n3"}
        Path(world, "mmmu").mkdir(exist_ok=True)
        for name in ("cold_start", "cold_start_words", "rl", "rl_hard", "val", "connector", "connector_val"):
            rows = [{**row, "images": [image], "subject": subject} for image in ("light.png", "dark.png")
                    for subject in ("Math", "Design")]
            write_jsonl(f"{world}/{name}.jsonl", rows * 100)

    def leave(self, script, cfg):
        if script == "eval_mmmu.py":
            self.write(f"{cfg.out}/responses.jsonl", STEPWISE)
            for i, part in enumerate([f"/{step}" for step in STEPS] if cfg.checkpoints else [""]):
                self.write(f"{cfg.out}{part}/scores.json", scores([1, 1, 0, i / 3], [1, 1, 1, 0]))
        elif script == "entropy_select.py":
            found = dict.fromkeys(("critical_entropy", "count", "entropy", "entropy_high", "accuracy"), 1)
            found = [{**found, "checkpoint": step, "step": int(step[5:]), "question_accuracy": [0.5, 1.0],
                      "set_aside": ""} for step in STEPS]
            about = {"chosen": 20, "rule": "critical_entropy", "min_count": 1, "checkpoints": found}
            self.write(f"{cfg.folder}/selection.json", about)
            row = {"tokens": ["5", ". ", "Wait", ", ", "6", ". ", "7"], "entropy": [0.0] * 7}
            self.write(f"{cfg.folder}/probe/{STEPS[-1]}.jsonl", row)
        elif script == "distill.py":
            self.write(cfg.out, {})
        else:
            self.write(f"{cfg.out}/config.json", {"config": asdict(cfg)})
            for step in STEPS:
                Path(cfg.out, step).mkdir(exist_ok=True)
            self.write(f"{cfg.out}/selected.json", {"val_loss": 0.1})
            row = dict.fromkeys(("reward", "accuracy", "grad_norm", "repetition", "entropy", "length",
                                 "format", "groups_mixed", "clip_fraction", "critical_count", "loss"), 0.5)
            write_jsonl(f"{cfg.out}/metrics.jsonl", [{"step": i + 1, **row} for i in range(40)])

    def write(self, path, value):
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))


@pytest.fixture
def pretended(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = Pretended()
    monkeypatch.setattr(lab, "call", made)
    monkeypatch.setattr(findings, "noisy", lambda seed: "noisy")  # a model folder
    monkeypatch.setattr(controls, "grafted", lambda seed, place, start, run: Path(place))
    monkeypatch.setattr(controls, "places", lambda vlm: ("encoder", "connector"))
    monkeypatch.setattr(controls, "load", lambda path: path)
    monkeypatch.setattr(controls, "distil", lambda seed, where, *_: seed.again("rl", where, save_every=10))
    monkeypatch.setattr(findings, "imitate", lambda base, fresh, seed, folder: folder.mkdir(parents=True))
    return made


@pytest.mark.parametrize("name", findings.FINDINGS)
def test_each_gives_its_scripts_flags_that_they_know(name, pretended):
    seeds = [lab.Seed(number, "out/experiments") for number in (0, 1)]
    rows = findings.FINDINGS[name](seeds)
    assert rows and all(len(row.values) == len(row.errors) == len(row.levels) == 2 for row in rows)
    made = len(pretended.runs)
    findings.FINDINGS[name](seeds)
    assert len(pretended.runs) == made, "what is finished was made again"


def test_the_last_and_the_chosen_checkpoint_are_evaluated_in_folders_of_their_own(pretended):
    seed = lab.Seed(0, "out/experiments")
    for chosen in (False, True):
        seed.evaluate(seed.recipe("rl.done") / "rl", chosen=chosen)
    (_, last), (_, chosen) = pretended.runs
    assert (last.model, chosen.model) == ("out/tiny/rl/step_000040", "out/tiny/rl") and last.out != chosen.out


def test_an_rl_run_has_the_recipes_flags_but_for_the_changes(pretended):
    lab.Seed(0, "out/e").recipe("rl.done")  # the flags' defaults name its files
    assert lab.Seed(1, "out/e").rl("") == Path("out/tiny-seed1/rl") and not pretended.runs
    lab.Seed(1, "out/e").rl("high rate", lr=0.5)
    (script, cfg), = pretended.runs
    assert (script, cfg.lr, cfg.out, cfg.save_every) == ("grpo.py", 0.5, "out/e/seed1/high_rate", cfg.steps)


def test_the_rules_beside_the_papers():
    """Of four questions the first is doubtful: right in half of the run. A window holds two checkpoints."""
    right = [[0.0, 1, 0, 1], [0.25, 1, 0, 1], [1.0, 1, 0, 0.75], [0.75, 1, 0, 1]]
    assert rules.on_doubtful([{"question_accuracy": of} for of in right]) == [0.0, 0.125, 0.625, 0.875]


def test_looks_are_told_apart(pretended):
    seed = lab.Seed(0, "out/e")
    seed.recipe("rl.done")
    for dark, name in ((True, "dark.png"), (False, "light.png")):
        rows = controls.of_look(seed, dark)
        assert {(row["subject"], *row["images"]) for row in rows} == {("Design", name)} and len(rows) == 100
    looks = controls.by_look(seed, scores([1, 1, 1, 1], [1, 0, 1, 0]))
    assert looks["dark"]["question_accuracy"] == {"Design": {"e": 1, "g": 1}}
    assert looks["light"]["subjects"]["Design"]["rule"] == 0


def test_unseen_pictures_are_blank_or_anothers(pretended):
    seed = lab.Seed(0, "out/e")
    seed.recipe("rl.done")
    for how in ("blank", "other"):
        file = controls.unseen(seed, how)["data"]
        for before, after in zip(seed.rows("rl"), map(json.loads, open(file))):
            image, = after["images"]
            if how == "other":
                assert image != before["images"][0]
            else:
                assert Image.open(image).getcolors() == [(16, (128, 128, 128))]
            assert {**after, "images": 0} == {**before, "images": 0}


def test_manner_counts_what_stands_before_the_answer(tmp_path):
    rows = (("\\boxed{3}", 4), ("1 + 2 = 3.\n\\boxed{3}", 10), ("top row: 3.\n\\boxed{3}", 20),
            (" \\boxed{1}", 5))
    write_jsonl(tmp_path / "responses.jsonl", [{"response": text, "tokens": n} for text, n in rows])
    assert findings.manner(tmp_path) == {"share by steps": 0.5, "tokens by steps": 15.0}


def test_decoration_has_the_same_words_elsewhere():
    rows = [{"solution": f"a {i}. Wait, b. c. Alternatively, d. e. f.\n</think>\n\n3"} for i in range(40)]
    made = [row["solution"] for row in findings.decorated(rows, 0)]
    assert [s.replace("Wait, ", "").replace("Alternatively, ", "") for s in made] == [
        f"a {i}. b. c. d. e. f.\n</think>\n\n3" for i in range(40)]
    for word in ("Wait, ", "Alternatively, "):
        assert sum(s.count(word) for s in made) == 40
    followed = [word in s for s in made for word in ("Wait, b", "Alternatively, d")]
    assert 0 < sum(followed) < 40, "the words still stand where their reasons were"


def test_a_habit_follows_from_the_beginning():
    texts = ("top row: 1. Alternatively, 2. 3.", "left row: 1. 2. 3.", "right: 1. Wait, 2. 3.",
             "top row: 1. 2.")
    assert [row["solution"] for row in findings.habitual([{"solution": t} for t in texts])] == [
        "top row: 1. Wait, 2. 3.", "left row: 1. Alternatively, 2. 3.", "right: 1. 2. 3.", "top row: 1. 2."]


def test_every_result_in_the_repository_stands_in_the_readme():
    text = (ROOT / "experiments" / "README.md").read_text()
    shown = {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.splitlines()
             if line.startswith("|")}
    for file in (ROOT / "experiments" / "results").glob("*.json"):
        assert file.stem in findings.FINDINGS and f"`python -m experiments {file.stem}`" in text
        for row in json.loads(file.read_text())["rows"]:
            assert cells(Row(**row)) in shown, file


def test_clock(tmp_path, capsys):
    """10 minutes up to the cold start, 4 of RL, of which two checkpoints were evaluated, 3 behind it; the
    second seed's minutes are the first's."""
    spent = {"world": 60, "encoder": 60, "base": 360, "cold start": 120, "RL": 240, "selection": 60,
             "evaluation": 999, "connector": 120}
    for seed, scores_of in (("one", (0.52, 0.5, 0.61)), ("two", (0.4, 0.56, 0.5))):
        for where, right in zip(("rl/eval_steps/step_000005", "rl/eval_steps/step_000010", "connector/eval"),
                                scores_of):
            (tmp_path / seed / where).mkdir(parents=True)
            write_json(tmp_path / seed / where / "scores.json", {"length": 9, "subjects": {
                "Math": {"rule": right, "rule_se": 0.1, "n": 9}}})
    (tmp_path / "one" / "times.tsv").write_text("".join(f"{stage}\t{n}\n" for stage, n in spent.items()))
    tables.clock([tmp_path / "one", tmp_path / "two"])
    rows = [line.split("|")[2:6] for line in capsys.readouterr().out.splitlines() if str(tmp_path) in line]
    assert rows == [[f" {cell:>4} " for cell in row] for row in (
        ("12.0", "17.0", "17.0", "17.0"), ("14.0", "14.0", "-", "17.0"))]
