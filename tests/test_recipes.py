"""The recipes: what recipes/data.py makes of small files of the public sets' columns, what it keeps out; the
rehearsal's checks; and that the steps of every recipe fit together."""
import importlib
import io
import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tyro
from PIL import Image

from conftest import ROOT, write_jsonl, write_parquet
from data import read_records
from machinery.files import Refused
from recipes import data as recipe
from recipes import rehearsal
from recipes.sets import SETS, of_exams_v, subject_of

RECIPES = ["r1v3_38b", "internvl3_1b", "qwen2_5_vl_3b", "lora_24gb", "multi_node"]


def picture(seed, size=(48, 40), kind="PNG", **options):
    """A picture of rough blocks, no two seeds alike, as Parquet files of the hub hold it."""
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(blocks).resize((48, 40), Image.Resampling.BICUBIC)
    image.resize(size).save(buffer, kind, **options)
    return {"bytes": buffer.getvalue(), "path": f"{seed}.{kind.lower()}"}


@pytest.fixture(scope="module")
def hub(tiny, tmp_path_factory):
    """The rehearsal's files, in the hub's columns."""
    out = tmp_path_factory.mktemp("rehearsal")
    rehearsal.make(rehearsal.Config(world=str(tiny), out=str(out)))
    return out / "hub"


@pytest.fixture(scope="module")
def made(hub, tiny):
    files = {"mmk12": hub / "mmk12.parquet", "science_qa": hub / "science_qa.parquet",
             "mmmu_dev": hub / "mmmu_dev"}
    cfg = recipe.Config(out=str(hub.parent / "made"), mmmu=str(tiny / "mmmu"), held_out=8, cold_start=24,
                        source=tuple(f"{name}={files.get(name, '')}" for name in SETS), breadth=60,
                        breadth_val=16)
    recipe.make(cfg)
    return cfg


def rows(cfg, name):
    return [json.loads(line) for line in open(Path(cfg.out) / f"{name}.jsonl")]


def only(tmp_path, mmmu="none", **sets):
    """A configuration whose sets are these rows alone, and maths of its own where none is given."""
    maths = [{"id": str(i), "question": f"How long is side {i}?", "answer": "7", "subject": "math",
              "image": picture(1000 + i)} for i in range(6)]
    given = {"mmk12": maths, "geometry3k": [
        {"images": [picture(2000 + i)], "problem": f"<image>Find x{i}.", "answer": "3"} for i in range(4)],
        "vqa_rad": [{"image": picture(3000 + i), "question": f"Is {i} normal?", "answer": "yes"}
                    for i in range(6)], **sets}
    for name, table in given.items():
        write_parquet(tmp_path / f"{name}.parquet", table)
    source = [f"{name}={tmp_path / f'{name}.parquet' if name in given else ''}" for name in SETS]
    return recipe.Config(out=str(tmp_path / "made"), source=tuple(source), mmmu=mmmu, held_out=2,
                         cold_start=4, breadth=3, breadth_val=2, limit_bad=0.5)


# ----------------------------------------------------------------------------------------------- what is made

def test_every_set_can_be_read_by_the_stages(made):
    for name in recipe.FILES:
        records = read_records(f"{made.out}/{name}.jsonl", limit_bad=0)
        assert len(records) == len({r.id for r in records}) > 5
        assert all(r.images and r.sizes and r.subject for r in records)
    assert {r["subject"] for r in rows(made, "maths")} == {"Mathematics"}
    assert {r["subject"] for r in rows(made, "cold_start_questions")} <= set(recipe.SCIENCES)
    assert len({r["subject"] for r in rows(made, "breadth_questions")} - {"Other"}) >= 10
    assert not any("solution" in row for name in recipe.FILES for row in rows(made, name))


def test_no_row_is_in_two_sets_and_no_picture_on_both_sides(made):
    ids = Counter(row["id"] for name in recipe.FILES for row in rows(made, name))
    assert max(ids.values()) == 1
    for left, right in (("maths", "maths_val"), ("breadth_questions", "breadth_val_questions")):
        first = [{row["images"][0] for row in rows(made, name)} for name in (left, right)]
        assert first[0] and first[1] and not first[0] & first[1]


def test_what_stands_beside_the_data(made):
    note = json.loads((Path(made.out) / "data.json").read_text())
    assert note["sources"]["science_qa"]["left out"]["no picture"] > 0
    assert note["sources"]["science_qa"]["licence"] == "cc-by-sa-4.0"
    assert [note["sets"][name]["rows"] for name in recipe.FILES] == [len(rows(made, n)) for n in recipe.FILES]
    used = {row["images"][0] for name in recipe.FILES for row in rows(made, name)}
    assert {f"images/{f.name}" for f in (Path(made.out) / "images").iterdir()} == used, "pictures of no row"


GOOD = {"vqa_rad": {"image": picture(1), "question": "Is it?", "answer": "yes"},
        "science_qa": {"image": picture(1), "question": "Which?", "choices": ["a", "b"], "answer": 1,
                       "hint": "Look.", "topic": "physics"},
        "exams_v": {"image": picture(1), "answer_key": "A", "subject": "Physics"},
        "mmk12": {"image": picture(1), "question": "How long?", "answer": "2", "subject": "math"},
        "geometry3k": {"images": [picture(1)], "problem": "<image>Find x.", "answer": "3"},
        "finqa": {"images": [picture(1)],
                  "texts": [{"user": "Question: How much?", "assistant": "Answer: 5."}]},
        "mmmu_dev": {"id": "dev_Art_1", "question": "<image 2> Who?", "options": "['a', 'b']", "answer": "B",
                     "question_type": "multiple-choice", "image_1": picture(2), "image_2": picture(1)}}


@pytest.mark.parametrize("name, question, answer, subject, options", [
    ("vqa_rad", "Is it?", "yes", "Medicine", []), ("mmk12", "How long?", "2", "Mathematics", []),
    ("science_qa", "Look.\nWhich?", "B", "Physics", ["a", "b"]), ("finqa", "How much?", "5", "Finance", []),
    ("geometry3k", "<image>Find x.", "3", "Mathematics", []), ("exams_v", None, "A", "Physics", []),
    ("mmmu_dev", "<image 1> Who?", "B", "Art", ["a", "b"])])
def test_a_row_of_each_set(name, question, answer, subject, options):
    row = recipe.our_row(Path("."), next(SETS[name].convert(GOOD[name])))
    assert row == {"question": question or row["question"], "images": [picture(1)["bytes"]],
                   "options": options, "answer": answer, "subject": subject}


@pytest.mark.parametrize("key, letter", [
    ("a", "A"), ("E", "E"), ("Б", "B"), ("д", "E"), ("1", "A"), ("5", "E")])
def test_answer_keys_of_exams(key, letter):
    assert next(of_exams_v({"image": None, "answer_key": key, "subject": "Physics"}))["answer"] == letter


@pytest.mark.parametrize("name, subject", [
    ("Физика", "Physics"), ("高中生物", "Biology"), ("الفيزياء", "Physics"), ("math", "Mathematics"),
    ("Science (Chemistry/Biology)", "Chemistry"), ("earth-science", "Earth Science"), ("Fine Arts", "Art"),
    ("science-and-engineering-practices", "Engineering"), ("Basket weaving", "Other"), ("", "Other")])
def test_subjects(name, subject):
    assert subject_of(name) == subject


# ------------------------------------------------------------------------------------------- what is kept out

def mmmu_of(tmp_path, question, image):
    row = {"id": "validation_Math_1", "question": question, "options": "['1', '2']", "explanation": "",
           "answer": "A", "question_type": "multiple-choice", "image_1": image}
    write_parquet(tmp_path / "mmmu" / "validation-00000-of-00001.parquet", [row])
    return str(tmp_path / "mmmu")


LONG = "Which of the four capital budgeting methods ignores the time value of money?"


@pytest.mark.parametrize("question, image, left_out", [
    (LONG, picture(5), 1),                                        # its text
    ("<image 1> ＷHICH of the four capital-budgeting\nmethods ignores the “time value” of money",
     picture(5), 1),
    ("Another question?", picture(9), 1),                           # its picture
    ("Another question?", picture(9, kind="JPEG", quality=80), 1),  # stored again
    ("Another question?", picture(9, size=(96, 80)), 1),            # in another size
    ("Another question?", picture(9, size=(96, 40)), 0),            # another shape: another picture
    ("Another question?", picture(5), 0),
    ("What is shown in it?", picture(5), 0)])                       # too short to mean the same
def test_rows_of_mmmu_are_kept_out(question, image, left_out, tmp_path):
    mmmu = mmmu_of(tmp_path, question if "shown" in question else LONG, picture(9))
    row = {"image": image, "question": question, "answer": "yes"}
    others = [{"image": picture(3000 + i), "question": f"Is {i} normal?", "answer": "yes"} for i in range(6)]
    cfg = only(tmp_path, mmmu=mmmu, path_vqa=[row], vqa_rad=others)
    recipe.make(cfg)
    note = json.loads((Path(cfg.out) / "data.json").read_text())["sources"]["path_vqa"]
    assert note["usable"] == 1 - left_out and sum(note["left out"].values()) == left_out


def test_the_same_row_of_two_sets_counts_once(tmp_path):
    row = {"image": picture(1), "question": "Is it normal?", "answer": "yes"}
    again = {**row, "image": picture(1, kind="BMP"), "question": "is it  NORMAL"}
    other = {**row, "question": "Is it broken?"}
    more = [{**row, "image": picture(i), "question": f"{i}?"} for i in range(4)]
    cfg = only(tmp_path, vqa_rad=[row, again, other, *more])
    cfg.held_out = 500
    recipe.make(cfg)
    note = json.loads((Path(cfg.out) / "data.json").read_text())["sources"]["vqa_rad"]
    assert note["usable"] == 6 and note["left out"] == {"twice": 1}
    assert len(rows(cfg, "maths")) == len(rows(cfg, "maths_val")) == 3  # half of the rows at most


def test_evenly_takes_from_each_subject_in_turn():
    table = [{"id": f"{s}{i}", "subject": s} for s, n in (("a", 9), ("b", 2), ("c", 5)) for i in range(n)]
    chosen = [row["id"] for row in recipe.evenly(table, 10)]
    assert chosen == ["a0", "a1", "a2", "a3", "b0", "b1", "c0", "c1", "c2", "c3"]


def test_the_seed_decides_and_rows_of_a_picture_stay_together(made):
    table = [{**row, "images": [f"{i % 40}.png"], "source": "science_qa"} for i, row in
             enumerate(rows(made, "breadth_questions") + rows(made, "cold_start_questions"))]
    table += [{**row, "id": f"m{row['id']}", "source": "mmk12"} for row in table]
    small = dict(held_out=9, breadth=30, breadth_val=8)
    first, again, other = (recipe.choose(recipe.Config(seed=seed, **small), table) for seed in (0, 0, 1))
    assert first == again != other
    pictures = [row["images"][0] for row in first["maths"]]
    assert sum(a != b for a, b in zip(pictures, pictures[1:])) == len(set(pictures)) - 1


@pytest.mark.parametrize("name, change, why", [
    ("vqa_rad", dict(answer=None), "no answer"),
    ("vqa_rad", dict(image={"bytes": picture(1)["bytes"][:60], "path": None}), "cannot be read"),
    ("science_qa", dict(answer=-1), "its answer is -1"),
    ("exams_v", dict(answer_key="AB"), "names no option"),
    ("mmk12", dict(subject="physics"), "its subject is Physics, and this set is for mathematics"),
    ("finqa", dict(texts=[{"user": "How much?"}]), "assistant")])
def test_bad_rows_are_named_and_counted(name, change, why, tmp_path, capsys, monkeypatch):
    """A good row, and the bad one behind it."""
    table = [GOOD[name], {**GOOD[name], **change}]
    monkeypatch.setattr(recipe, "read_rows", lambda *_, **__: (
        (f"made-up row {i}", tmp_path, row) for i, row in enumerate(table, 1)))
    cfg = recipe.Config(limit_bad=0.5)
    usable, left_out = recipe.read_set(cfg, recipe.Known(), set(), name, "made-up", tmp_path)
    assert len(usable) == 1 and left_out == {"unusable": 1}
    said = capsys.readouterr().out
    assert "made-up row 2" in said and why in said
    cfg.limit_bad = 0.01
    with pytest.raises(Refused, match="1 of 2 rows"):
        recipe.read_set(cfg, recipe.Known(), set(), name, "made-up", tmp_path)


def test_made_once_and_kept(tmp_path, capsys):
    cfg = only(tmp_path)
    recipe.make(cfg)
    before = (tmp_path / "made" / "maths.jsonl").stat().st_mtime_ns
    recipe.make(cfg)
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(Refused, match="made with other settings .--seed was 0, now 1"):
        recipe.make(recipe.Config(**{**vars(cfg), "seed": 1}))
    assert (tmp_path / "made" / "maths.jsonl").stat().st_mtime_ns == before


# ------------------------------------------------------------------------------------------------ the recipes

def commands(recipe, tmp_path, flag, **env):
    """The command lines that a recipe would start: lists of words."""
    recorder = tmp_path / "recorder"
    recorder.write_text(f"#!/bin/bash\nprintf '%s\\0' \"$@\" $'\\n' >> {tmp_path}/log\n")
    recorder.chmod(0o755)
    env = {"PATH": os.environ["PATH"], "PY": str(recorder), **env}
    subprocess.run(["bash", f"recipes/{recipe}.sh", flag], env=env, cwd=ROOT, check=True, capture_output=True)
    lines = (tmp_path / "log").read_text().split("\n")
    return [line.strip("\0").split("\0") for line in lines if line.strip("\0")]


@pytest.mark.parametrize("name", RECIPES)
def test_the_steps_of_a_recipe(name, tmp_path, monkeypatch):
    """Each has what it reads from the hub or from a step before it, its flags are known, and every one asks
    for the box."""
    monkeypatch.chdir(ROOT)
    planned = []
    monkeypatch.setattr(rehearsal.plan, "plan", lambda cfg: planned.append(cfg) or True)
    (_, _, *words), = commands(name, tmp_path, "--check", DATA="data/none", OUT="out/none")
    assert rehearsal.check(*words) == []
    assert {(cfg.gpus, cfg.model) for cfg in planned} == {(int(words[0]), words[2])} and len(planned) >= 2
    assert {cfg.tensor_parallel for cfg in planned} == ({1, 4} if name == "r1v3_38b" else {1})
    steps = " ".join(words[3:]).replace("-- ", "", 1).split(" -- ")
    order = ["recipes/data.py", "distill.py", "sft.py", "grpo.py", "entropy_select.py"]
    order += ["connector_tune.py", "eval_mmmu.py"] * (name != "multi_node")
    assert list(dict.fromkeys(step.split()[0] for step in steps)) == order
    asked = [step.count("--ask Put the final answer in \\boxed{}.") for step in steps]
    assert asked == [0] + [1] * (len(steps) - 1)


STEP = ("1", "80", "recipes/configs/InternVL3-1B")


@pytest.mark.parametrize("line, why", [
    ("sft.py --model a/b --data data/none.jsonl", "sft.py: data data/none.jsonl is not there"),
    ("sft.py --model out/none --data a/b", "model out/none is not there"),
    ("sft.py --model a/b --data c/d --lr nan", "sft.py: --lr nan"),
    ("sft.py --model a/b --data FOLDER/direct.jsonl", "solution"),
    ("recipes/data.py --out data/none --source vqa_rad=FOLDER/direct.jsonl", "has no column 'image'"),
    ("grpo.py --model out/x --data a/b -- sft.py --model a/b --data c/d --out out/x", "model out/x is not"),
    ("sft.py --model a/b --data c/d --max_tokens 1000000", "more memory than 1 GPUs of 80 GiB have"),
    ("sft.py --model a/b --data c/d --out out/x/ -- grpo.py --model ./out/x --data a/b --rollout vllm", "")])
def test_what_is_wrong_with_steps(line, why, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    if "memory" not in why:
        monkeypatch.setattr(rehearsal.plan, "plan", lambda cfg: True)
    write_jsonl(tmp_path / "direct.jsonl", [{"question": "Q", "answer": "1"}])
    found = rehearsal.check(*STEP, *line.replace("FOLDER", str(tmp_path)).split())
    assert why in found[0] if why else found == []


@pytest.mark.parametrize("name", RECIPES)
def test_rehearsal_of_a_recipe(name, tmp_path, monkeypatch):
    """Its steps are those of the recipe, every flag is known, and all that they read is local and small."""
    monkeypatch.chdir(ROOT)
    checked, *ran = commands(name, tmp_path, "--rehearse")
    assert checked[:2] == ["recipes/rehearsal.py", "check"]
    assert [words[0] for words in ran[:3]] == ["tiny/make.py", "recipes/rehearsal.py", "sft.py"]
    steps = [words[words.index("1") + 1:] for words in ran[3:]]  # behind --nproc_per_node 1
    assert [words[0] for words in steps] == [b for a, b in zip(checked, checked[1:]) if a == "--"]
    for script, *flags in steps:
        cfg = tyro.cli(importlib.import_module(script[:-3].replace("/", ".")).Config, args=flags)
        paths = [getattr(cfg, flag, "") for flag in ("model", "folder", "data", "val", "mmmu", "out")]
        paths += [source.partition("=")[2] for source in getattr(cfg, "source", ())]
        assert all(path.startswith(("data/rehearsal/", f"out/rehearsal/{name}")) for path in paths if path)
        assert getattr(cfg, "rollout", "torch") == "torch" and getattr(cfg, "verifier", "") == ""
        assert getattr(cfg, "max_new_tokens", 1) <= 64 and getattr(cfg, "steps", 1) <= 2
