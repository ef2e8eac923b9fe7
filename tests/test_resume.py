"""Whole runs: what they log, resume (a stage that is stopped goes on as if it had never been), refusals, run
folders."""
import dataclasses
import json
import math
import multiprocessing
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import grpo
import model
import sft
from conftest import write_jsonl
from machinery.files import Refused, new_folder, read_jsonl, resolve
from machinery.run import Run, learning_rate
from machinery.supervised import rows_with_solutions
from reward import Reward, VerifierDown
from stages import (ONE, STAGES, Stop, all_get, metrics, reward_of, rollout_rows, run_grpo, same_run,
                    weights)

pytestmark = pytest.mark.usefixtures("a_reward")


# -------------------------------------------------------------------------------------- runs without a stop

def test_training_learns_and_differs_by_step(straight):
    """What the runs above compare is not trivially equal: supervised losses fall, no two steps are alike."""
    first, *_, last = (row["loss"] for row in metrics(straight["sft"]))
    assert last < first - 1
    early, *_, late = (row["val_loss"] for row in metrics(straight["connector"]) if row.get("val_loss"))
    assert late < early - 0.05
    for name, out in straight.items():
        rows = metrics(out)[-4:]
        assert len({r["loss"] for r in rows}) > 1 and all(r["grad_norm"] > 0 for r in rows), name
        assert len({r["grad_norm"] for r in rows}) == 4, name
    assert len({r["id"] for r in rollout_rows(straight["grpo"])}) == 4  # a group of each step is written


def test_logged_learning_rates_are_the_planned_ones(straight):
    for name in ("sft", "connector"):  # cosine over 4 steps; the warm-up of 3% is over at once
        planned = [learning_rate(s, 4, 1e-3, 0.12, "cosine") for s in range(4)]
        assert [r["lr"] for r in metrics(straight[name])[-4:]] == pytest.approx(planned, abs=1e-6)


def test_metrics_agree_with_each_other(straight):
    samples = rollout_rows(straight["grpo"])[::4]  # four responses of a group a step
    for row, sample in zip(metrics(straight["grpo"]), samples, strict=True):
        assert row["reward"] == pytest.approx(0.8 * row["accuracy"] + 0.2 * row["format"], abs=1e-5)
        assert row["length"] * 16 == pytest.approx(row["tokens"], abs=1e-2) and row["length_max"] <= 8
        assert row["ratio_max"] == 1.0 and row["clip_fraction"] == 0 and row["gap"] < 1e-5  # on-policy
        assert 0 < row["entropy"] < 7 and (row["critical_entropy"] is None) == (row["critical_count"] == 0)
        assert sample["step"] == row["step"] and len(sample["tokens"]) == len(sample["entropy"])
        assert "".join(sample["tokens"]) == sample["text"]
        assert Path(sample["images"][0]).exists() and sample["gold"] and sample["question"]


def test_curriculum_changes_the_data(tiny, straight, tmp_path):
    run_grpo(tiny, tmp_path / "run", 4, curriculum=str(tiny / "val.jsonl"), curriculum_at=2)
    ids = [r["id"] for r in rollout_rows(tmp_path / "run")[::4]]  # four responses of a group a step
    assert [i.split("_")[0] for i in ids] == ["rl", "rl", "val", "val"]
    assert metrics(tmp_path / "run")[:2] == metrics(straight["grpo"])[:2]


def test_temperature_and_thinking_reach_sampler_trainer_and_reward(tiny, straight, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(grpo, "score_batch", lambda *a: told.append(a[2]) or reward_of(*a))
    run_grpo(tiny, tmp_path / "run", 1, temperature=0.6, thinking=False)
    cool, = metrics(tmp_path / "run")
    assert set(told) == {False} and cool["gap"] < 1e-5 and cool["ratio_max"] == 1
    assert metrics(straight["grpo"])[0]["entropy"] > cool["entropy"] + 0.2


# ----------------------------------------------------------------------------------------------------- resume

def stopper(monkeypatch, when):
    """Let the run die: after its save of step 2, or while step 3 is logged (with a torn line left behind)."""
    if when == "after a save":
        real = Run.save

        def save(run, step, *args):
            real(run, step, *args)
            if step == 2:
                raise Stop
        monkeypatch.setattr(Run, "save", save)
    else:
        real = Run.log

        def log(run, step, row):
            real(run, step, row)
            if step == 3:
                with open(run.dir / "metrics.jsonl", "a") as f:
                    f.write('{"step": 4, "lo')
                raise Stop
        monkeypatch.setattr(Run, "log", log)


@pytest.mark.parametrize("when", ["after a save", "in step 3"])
@pytest.mark.parametrize("name", STAGES)
def test_resume_is_bit_identical(name, when, tiny, straight, tmp_path, monkeypatch):
    _, run = STAGES[name]
    out = tmp_path / "run"
    with monkeypatch.context() as m:
        stopper(m, when)
        with pytest.raises(Stop):
            run(tiny, out)
    assert not (out / "step_000004").exists()
    run(tiny, out)
    same_run(out, straight[name])
    run(tiny, out)  # nothing left to do: nothing changes
    same_run(out, straight[name])


def test_verifier_that_goes_away_loses_nothing(tiny, straight, tmp_path, monkeypatch):
    def rewards(*args):
        if len(metrics(tmp_path / "run")) == 3:
            raise VerifierDown("no answer for 900 s")
        return reward_of(*args)

    monkeypatch.setattr(grpo.Verifier, "ask", lambda self, items: [True] * len(items))
    options = dict(verifier="http://127.0.0.1:9/v1", save_every=100)
    with monkeypatch.context() as m:
        m.setattr(grpo, "score_batch", rewards)
        with pytest.raises(Refused, match="(?s)900 s.*3 steps are saved"):
            run_grpo(tiny, tmp_path / "run", **options)
    assert (tmp_path / "run" / "step_000003" / "trainer").exists()
    run_grpo(tiny, tmp_path / "run", **options)
    assert weights(tmp_path / "run") == weights(straight["grpo"])


@pytest.mark.parametrize("name, often", [("grpo", dict(lora=8)), ("connector", dict(patience=99))])
def test_killed_at_any_moment(name, often, tiny, tmp_path):
    """kill -9, wherever it is (often in a save, one a step); then the same command. With adapters, too: the
    folders hold them merged, what the run goes on from holds them apart."""
    run, often = STAGES[name][1], dict(often, save_every=1)
    out = tmp_path / "killed"
    process = multiprocessing.get_context("fork").Process(target=run, args=(tiny, out, 4), kwargs=often)
    process.start()
    end = time.time() + 60
    while len(read_jsonl(out / "metrics.jsonl")) < 2 and time.time() < end and process.is_alive():
        time.sleep(0.002)
    time.sleep(0.1 * random.random())
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL and 1 <= len(metrics(out)) < 4
    for path in out.glob("step_*"):
        load_file(path / "model.safetensors")  # every folder that is visible is whole
    run(tiny, out, 4, **often)
    run(tiny, tmp_path / "whole", 4, **often)
    same_run(out, tmp_path / "whole", 4)
    assert not list(out.rglob("*.part"))


def test_only_the_newest_checkpoint_keeps_what_the_trainer_needs(straight):
    for out in straight.values():
        assert sorted(p.name for p in out.glob("step_*") if (p / "trainer").exists()) == ["step_000004"]
        assert [p.name for p in out.glob(".*")] == [".lock"] and not list(out.rglob("*.part"))
    assert sorted(p.name for p in straight["grpo"].glob("step_*")) == ["step_000002", "step_000004"]
    there = {p.name for p in (straight["sft"] / "step_000004").iterdir()}
    assert there >= {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json",
                     "generation_config.json"}


def test_state_and_opened_parts_come_back(tiny, tmp_path, monkeypatch):
    """A fork of the loop: from step 3 on the encoder trains, too, and the choice of prompts remembers."""
    def next_prompts(s, cfg, step, draw=0, real=grpo.next_prompts):
        if step >= 2:
            s.vlm.train_only(model.PARTS)
        s.run.state["seen"] = s.run.state.get("seen", []) + [step]
        return real(s, cfg, len(s.run.state["seen"]))

    monkeypatch.setattr(grpo, "next_prompts", next_prompts)
    out = [tmp_path / name for name in ("straight", "stopped")]
    some = dict(train=("connector",))
    for folder in out:
        if folder.name == "stopped":
            run_grpo(tiny, folder, 3, **some)
        run_grpo(tiny, folder, 4, **some)
    same_run(*out)
    kept = json.loads((out[1] / "step_000004" / "trainer" / "state.json").read_text())
    assert kept == {"train": list(model.PARTS), "state": {"seen": [0, 1, 2, 3]}}
    two, four = (load_file(out[0] / f"step_00000{k}" / "model.safetensors") for k in (2, 4))
    start = load_file(tiny / "model" / "model.safetensors")
    encoder = [name for name in start if "vision_tower" in name]
    assert all(torch.equal(start[name], two[name]) for name in encoder)
    assert not any(torch.equal(start[name], four[name]) for name in encoder if start[name].ndim == 2)


# --------------------------------------------------------------------------------------------------- refusals

@pytest.mark.parametrize("name, flag, value", [
    ("sft", "train", ("llm",)), ("grpo", "temperature", 0.5), ("connector", "patience", 7)])
def test_changed_flag_in_the_same_folder(name, flag, value, tiny, straight, tmp_path):
    """It is refused; but a flag that is younger than the run has its default there, and the run goes on."""
    _, run = STAGES[name]
    shutil.copytree(straight[name], tmp_path / "run")
    about = json.loads((tmp_path / "run" / "config.json").read_text())
    del about["config"]["weight_decay"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(about))
    with pytest.raises(Refused, match=f"(?s)other settings \\(--{flag} was .*, now .*another --out"):
        run(tiny, tmp_path / "run", **{flag: value})
    run(tiny, tmp_path / "run")
    same_run(tmp_path / "run", straight[name])


ROW = {"question": "q", "answer": "1", "solution": "t\n</think>\n\n\\boxed{1}", "images": []}
REFUSED = [  # flags, what is said. rows: a data file of them, each like ROW with changes
    (dict(model="out/tiny/never"), "--model out/tiny/never: no checkpoint there.*Run make tiny first"),
    (dict(data="data/never.jsonl"), "never.jsonl"), (dict(curriculum="data/never.jsonl"), "never.jsonl"),
    (dict(train=("projector",)), "--train projector: the parts are"), (dict(train=()), "--train nothing"),
    (dict(train=("encoder",), lora=4), "--lora 4"), (dict(dtype="fp64"), "--dtype fp64"),
    (dict(samples=1), "two --samples or more"), (dict(temperature=0.0), "a --temperature above 0"),
    (dict(minibatches=3), "--prompts 4 must be a multiple"),
    (dict(rows=[{}, {"images": ["gone.png"]}, {"answer": ""}]), "2 of 3 rows"),
    (dict(rows=[{}, {"answer": "?!"}]), "(?s)the gold answer of 1 of 2 rows .*row 2: .*a --verifier")]


@pytest.mark.parametrize("changes, pattern", REFUSED)
def test_refused_before_the_first_step(changes, pattern, tiny, tmp_path):
    """And the folder is as good as new."""
    if rows := changes.get("rows"):
        write_jsonl(tmp_path / "rows.jsonl", [ROW | row for row in rows])
        changes = dict(data=str(tmp_path / "rows.jsonl"))
    with pytest.raises(Refused, match=pattern):
        run_grpo(tiny, tmp_path / "run", **changes)
    Run(tmp_path / "run", grpo.Config(seed=7), ONE)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_solutions_that_can_not_be_learned(processor, rows, capsys):
    def supervised(solution, limit=10 ** 6):
        record = dataclasses.replace(rows[0], solution=solution)
        return rows_with_solutions([record], processor, True, limit)

    with pytest.raises(Refused, match=r"row 1 \(id a\): the solution has no </think>.*--no-thinking"):
        supervised("\\boxed{4}")
    with pytest.raises(Refused, match="no row fits --max_length"):
        supervised("1 " * 30 + "</think>\\boxed{4}", limit=60)
    # a share of them may be skipped, and is counted
    pair = [dataclasses.replace(rows[0], solution=s) for s in ("\\boxed{4}", "t</think>\\boxed{4}")]
    kept, = rows_with_solutions(pair, processor, True, 10 ** 6, "cold.jsonl", limit_bad=0.5)
    assert processor.tokenizer.decode(kept.ids).startswith("t</think>")
    assert "skipped 1 of 2 rows of cold.jsonl" in capsys.readouterr().out
    with pytest.raises(Refused, match="1 of 2 rows of cold.jsonl cannot be used"):
        rows_with_solutions(pair, processor, True, 10 ** 6, "cold.jsonl", limit_bad=0.4)


@pytest.mark.parametrize("wrong", [4.0, math.nan])
def test_gap_of_the_first_step_is_of_every_response(tiny, tmp_path, monkeypatch, wrong):
    """Wrong pixels, stale weights, another temperature: all show as a gap. One group of four is off, and no
    group has a spread, so that nothing but the first would be trained."""
    make = grpo.make_sampler

    def one_is_off(*args):
        sampler = make(*args)
        generate = sampler.generate

        def off(*args, **kwargs):
            groups = generate(*args, **kwargs)
            for r in groups[-1]:
                r.logp = r.logp + wrong
            return groups
        sampler.generate = off
        return sampler
    monkeypatch.setattr(grpo, "make_sampler", one_is_off)
    monkeypatch.setattr(grpo, "score_batch", all_get(Reward(0.0, 0.0, 0.0, None, "no")))
    with pytest.raises(Refused, match="disagree by (nan|[01]\\.)"):
        run_grpo(tiny, tmp_path / "run")
    if wrong == 4.0:
        run_grpo(tiny, tmp_path / "let", 1, max_gap=10.0)


# ------------------------------------------------------------------------------------------------ run folders

def test_resolve(tmp_path):
    for step in (5, 10, 100):
        (tmp_path / f"step_{step:06d}").mkdir()
    assert resolve(str(tmp_path)).endswith("step_000100")
    (tmp_path / "selected.json").write_text('{"step": 10, "checkpoint": "step_000010"}')
    assert resolve(str(tmp_path)).endswith("step_000010")
    (tmp_path / "step_000005" / "model.safetensors").touch()
    assert resolve(str(tmp_path / "step_000005")).endswith("step_000005")


def test_new_folder_is_whole_or_absent(tmp_path):
    with pytest.raises(Stop):
        with new_folder(tmp_path / "x") as folder:
            (folder / "a").touch()
            raise Stop
    assert not list(tmp_path.iterdir())
    with new_folder(tmp_path / "x") as folder:
        (folder / "a").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["x", "a"]


def test_torn_line_is_left_out(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    assert read_jsonl(tmp_path / "m.jsonl") == [{"step": 1}] and read_jsonl(tmp_path / "none.jsonl") == []


def test_numbers_that_are_not_finite_are_still_json(tmp_path):
    run = Run(tmp_path / "run", sft.Config(), ONE)
    run.log(1, {"a": math.nan, "b": math.inf, "c": torch.tensor(1.5), "d": 1e-9})
    row, = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert math.isnan(row["a"]) and row["c"] == 1.5 and row["d"] == 1e-9


def test_two_processes_do_not_write_to_one_folder(tmp_path):
    cfg, other = sft.Config(out=str(tmp_path / "run")), multiprocessing.get_context("fork")
    begun, end = other.Event(), other.Event()
    first = other.Process(target=hold, args=(cfg, begun, end))
    first.start()
    assert begun.wait(60)
    with pytest.raises(Refused, match="another process is writing to .*run"):
        Run(cfg.out, cfg, ONE)
    end.set()
    first.join()
    Run(cfg.out, cfg, ONE)
    Run(cfg.out, dataclasses.replace(cfg, lr=1.0), ONE)  # the lock's file alone makes no claim


def hold(cfg, begun, end):
    Run(cfg.out, cfg, ONE)
    run = Run(cfg.out, cfg, ONE)  # the same process may
    begun.set()
    end.wait(60)
    assert run.lock


def test_checkpoint_that_can_not_go_on_is_not_overwritten(tiny, straight, tmp_path):
    shutil.copytree(straight["sft"], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "step_000004" / "trainer")
    with pytest.raises(Refused, match="step_000004 is there, but without its trainer/"):
        STAGES["sft"][1](tiny, tmp_path / "run")
