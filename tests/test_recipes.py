"""recipes/data.py on small files of exactly the hub sets' columns: what is made, kept out, split, refused."""
import io
import json
import os
import re
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from conftest import ROOT, write_jsonl
from data import read_records
from machinery.files import Refused, check_flags, hub_name
from recipes import data as recipe
from recipes import rehearsal
from recipes.subjects import STEMS, subject_of

SMALL = dict(held_out=8, cold_start=24, breadth=90, breadth_val=24, least_subjects=15)


def picture(seed, size=(48, 40), kind="PNG", **options):
    """A picture of rough blocks, no two seeds alike, as Parquet files of the hub hold it."""
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(blocks).resize((48, 40), Image.Resampling.BICUBIC)
    image.resize(size).save(buffer, kind, **options)
    return {"bytes": buffer.getvalue(), "path": f"{seed}.{kind.lower()}"}


@pytest.fixture(scope="module")
def hub(tiny, tmp_path_factory):
    """The rehearsal's files: {set: rows in the hub's columns} and where they lie."""
    out = tmp_path_factory.mktemp("rehearsal")
    rehearsal.make(rehearsal.Config(world=str(tiny), out=str(out)))
    return out / "hub"


def file_of(hub, name):
    return hub / (f"{name}.parquet" if name != "mmmu_dev" else f"{name}/dev/dev-00000-of-00001.parquet")


def sources(hub):
    return tuple(f"{name}={hub / name}" + ".parquet" * (name != "mmmu_dev") for name in recipe.SETS)


@pytest.fixture(scope="module")
def made(hub, tiny):
    cfg = recipe.Config(out=str(hub.parent / "made"), source=sources(hub), mmmu=str(tiny / "mmmu"), **SMALL)
    recipe.make(cfg)
    return cfg


def rows(cfg, name):
    return [json.loads(line) for line in open(Path(cfg.out) / f"{name}.jsonl")]


def start(cfg):
    """As main() does it."""
    check_flags(cfg)
    recipe.make(cfg)


def only(tmp_path, mmmu="none", **sets):
    """A configuration whose sets are these rows alone, and maths of its own where none is given."""
    maths = [{"id": str(i), "question": f"How long is side {i}?", "answer": "7", "subject": "math",
              "image": picture(1000 + i)} for i in range(6)]
    given = {"mmk12": maths, "geometry3k": [
        {"images": [picture(2000 + i)], "problem": f"<image>Find x{i}.", "answer": "3"} for i in range(4)],
        "vqa_rad": [{"image": picture(3000 + i), "question": f"Is {i} normal?", "answer": "yes"}
                    for i in range(6)], **sets}
    for name, table in given.items():
        pq.write_table(pa.Table.from_pylist(table), tmp_path / f"{name}.parquet")
    source = [f"{name}={tmp_path / f'{name}.parquet' if name in given else ''}" for name in recipe.SETS]
    return recipe.Config(out=str(tmp_path / "made"), source=tuple(source), mmmu=mmmu, held_out=2,
                         cold_start=4, breadth=3, breadth_val=2, least_subjects=1, limit_bad=0.5)


# ----------------------------------------------------------------------------------------------- what is made

def test_the_columns_are_the_published_ones(hub):
    """The columns that are read are those of the rehearsal's files, which are written out by hand there."""
    for name, s in recipe.SETS.items():
        file = file_of(hub, name)
        assert set(s.columns) <= set(pq.read_schema(file).names), name
        assert s.licence and s.rows and s.use


def test_every_set_can_be_read_by_the_stages(made):
    for name in recipe.FILES:
        records = read_records(f"{made.out}/{name}.jsonl", limit_bad=0)
        assert len(records) == len({r.id for r in records}) > 5
        assert all(r.images and r.sizes and r.subject for r in records)
    assert {r["subject"] for r in rows(made, "maths")} == {"Mathematics"}
    assert {r["subject"] for r in rows(made, "cold_start_questions")} <= set(recipe.SCIENCES)
    assert len({r["subject"] for r in rows(made, "breadth_questions")} - {"Other"}) >= 20
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
    assert note["sources"]["exams_v"]["left out"]["twice"] > 0
    for name in recipe.FILES:
        assert note["sets"][name]["rows"] == len(rows(made, name))
    text = (Path(made.out) / "README.md").read_text()
    assert "cc-by-sa-4.0" in text and "| finqa |" in text and "Medicine" in text
    used = {row["images"][0] for name in recipe.FILES for row in rows(made, name)}
    assert {f"images/{f.name}" for f in (Path(made.out) / "images").iterdir()} == used, "pictures of no row"


def test_rows_of_each_set(hub):
    """One row of each set, converted, against the row itself."""
    def first(name):
        row = pq.read_table(file_of(hub, name)).slice(1, 1).to_pylist()[0]
        return row, next(recipe.SETS[name].convert(row))
    row, made = first("science_qa")
    assert made["answer"] == "ABCD"[row["answer"]] and made["options"] == row["choices"]
    row, made = first("exams_v")
    assert row["answer_key"] in "АБВГ" and made["answer"] == "ABCD"["АБВГ".index(row["answer_key"])]
    row, made = first("finqa")
    assert made["answer"] in "AB" and made["question"].startswith(row["texts"][0]["user"][10:20])
    row, made = first("geometry3k")
    assert made["question"] == row["problem"] and made["answer"] == row["answer"]
    row, made = first("mmmu_dev")
    assert made["question"] == row["question"] and str(made["options"]) == row["options"]


@pytest.mark.parametrize("key, letter", [
    ("a", "A"), ("E", "E"), ("Б", "B"), ("д", "E"), ("1", "A"), ("5", "E")])
def test_answer_keys_of_exams(key, letter):
    row = {"image": picture(1), "answer_key": key, "subject": "Physics"}
    assert next(recipe.of_exams_v(row))["answer"] == letter


@pytest.mark.parametrize("name, subject", [
    ("Физика", "Physics"), ("物理", "Physics"), ("高中生物", "Biology"), ("الفيزياء", "Physics"),
    ("math", "Mathematics"),
    ("Science (Physics, Chemistry)", "Physics"), ("Science (Chemistry/Biology)", "Chemistry"),
    ("us-history", "History"), ("earth-science", "Earth Science"), ("Fine Arts", "Art"),
    ("Art_Theory", "Art"),
    ("Basic_Medical_Science", "Medicine"), ("Computer_Science", "Computer Science"), ("Manage", "Business"),
    ("Energy_and_Power", "Engineering"), ("Public_Health", "Medicine"), ("Politics", "Political Science"),
    ("science-and-engineering-practices", "Engineering"), ("Artificial Intelligence", "Computer Science"),
    ("Underwater basket weaving", "Other"), ("", "Other"), ("Business & Economics", "Business")])
def test_subjects(name, subject):
    assert subject_of(name) == subject


def test_the_papers_twenty_domains_are_known():
    paper = """Mathematics, Physics, Chemistry, Biology, Engineering, Agriculture, Environmental Science,
        Computer Science, Medicine, Pharmacy, Music, Literature, Philosophy, History, Economics, Psychology,
        Political Science, Sociology, Education, Law"""
    for name in re.split(r",\s+", re.sub(r"\s+", " ", paper)):
        assert name in STEMS and subject_of(name) == name


# ------------------------------------------------------------------------------------------- what is kept out

def mmmu_of(tmp_path, question, image):
    row = {"id": "validation_Math_1", "question": question, "options": "['1', '2']", "explanation": "",
           "answer": "A", "question_type": "multiple-choice", "image_1": image}
    (tmp_path / "mmmu").mkdir()
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "mmmu" / "validation-00000-of-00001.parquet")
    return str(tmp_path / "mmmu")


LONG = "Which of the four capital budgeting methods ignores the time value of money?"


@pytest.mark.parametrize("question, image, left_out", [
    (LONG, picture(5), 1),                                        # its text
    ("<image 1> WHICH of the four capital-budgeting\nmethods ignores the “time value” of money",
     picture(5), 1),
    ("Ｗhich of the four capital budgeting methods ignores the time value of money?", picture(5), 1),
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
    recipe.make(cfg)
    note = json.loads((Path(cfg.out) / "data.json").read_text())["sources"]["vqa_rad"]
    assert note["usable"] == 6 and note["left out"] == {"twice": 1}


def test_half_of_the_rows_at_most_are_held_out(tmp_path):
    cfg = only(tmp_path)
    cfg.held_out = 500
    recipe.make(cfg)
    assert len(rows(cfg, "maths")) == len(rows(cfg, "maths_val")) == 3


def test_evenly_takes_from_each_subject_in_turn():
    table = [{"id": f"{s}{i}", "subject": s} for s, n in (("a", 9), ("b", 2), ("c", 5)) for i in range(n)]
    chosen = Counter(row["subject"] for row in recipe.evenly(table, 10))
    assert chosen == {"a": 4, "b": 2, "c": 4}


def test_the_seed_decides_which_rows(tmp_path, made):
    table = [{**row, "id": row["id"], "images": row["images"]} for row in rows(made, "breadth_questions")]
    first, again, other = ([r["id"] for r in sorted(table, key=lambda row: recipe.order(row, seed))]
                           for seed in (0, 0, 1))
    assert first == again != other


# ------------------------------------------------------------------------------------------------------ again

def test_made_once(made, capsys):
    before = (Path(made.out) / "maths.jsonl").stat().st_mtime_ns
    recipe.make(made)
    assert "nothing to do" in capsys.readouterr().out
    assert (Path(made.out) / "maths.jsonl").stat().st_mtime_ns == before


def test_other_settings_other_files_or_a_folder_of_others_are_refused(tmp_path):
    cfg = only(tmp_path)
    recipe.make(cfg)
    with pytest.raises(Refused, match="--seed was 0, now 1"):
        recipe.make(recipe.Config(**{**vars(cfg), "seed": 1}))
    os.utime(tmp_path / "mmk12.parquet", (1, 1))
    with pytest.raises(Refused, match="files was"):
        recipe.make(cfg)
    (tmp_path / "made" / "data.json").write_text("{")
    with pytest.raises(Refused, match="can not be read"):
        recipe.make(cfg)
    (tmp_path / "made" / "data.json").unlink()
    with pytest.raises(Refused, match="was not made by recipes/data.py"):
        recipe.make(cfg)
    assert (tmp_path / "made" / "maths.jsonl").exists()


def test_what_fails_leaves_nothing(tmp_path, monkeypatch):
    cfg = only(tmp_path)
    monkeypatch.setattr(recipe, "choose", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        recipe.make(cfg)
    assert not list(tmp_path.glob("*made*"))


# --------------------------------------------------------------------------------------------------- refusals

FLAGS = [
    (dict(out="F"), "is no folder"), (dict(out="F/x"), "nothing can be inside it"),
    (dict(out=""), "--out : it is empty"), (dict(mmmu=""), "--mmmu : it is empty"),
    (dict(split=("mmk12=a", "mmk12=a")), "stands there twice"),
    (dict(source=("nope=x.parquet",)), "--source nope=: write SET=VALUE"),
    (dict(source=("mmk12",)), "--source mmk12: write SET=VALUE"),
    (dict(source=("=x",)), "write SET=VALUE"),
    (dict(source=("mmk12=a/b", "mmk12=c/d")), "mmk12 is named twice"),
    (dict(source=("mmk12=no/such/file.parquet",)), "no such file or folder"),
    (dict(source=("mmk12=data.parquet",)), "no such file or folder"),
    (dict(source=("mmk12=~/x",)), "no such file or folder"),
    (dict(source=("mmk12=http://x/y.parquet",)), "no such file or folder"),
    (dict(split=("mmk12=",)), "name a split"), (dict(split=("what=train",)), "--split what=: write"),
    (dict(split=("mmk12=test",), source=()), "physics, chemistry and biology"),
    (dict(split=("mmk12=test",), source=("mmk12=FanqingM/MMK12",)), "physics, chemistry and biology"),
    (dict(split=("mmmu_dev=validation",)), "questions of the evaluation"),
    (dict(subset=("finqa",)), "--subset finqa: write"), (dict(subset=("a=b",)), "--subset a=: write"),
    (dict(mmmu="no/such/folder"), "--mmmu no/such/folder: no such"), (dict(mmmu="F"), "--mmmu"),
    (dict(held_out=0), "--held_out 0"), (dict(held_out=-1), "--held_out -1"),
    (dict(cold_start=0), "--cold_start 0"),
    (dict(breadth=0), "--breadth 0"), (dict(breadth_val=0), "--breadth_val 0"), (dict(seed=-1), "--seed"),
    (dict(least_subjects=-2), "--least_subjects"), (dict(limit_bad=float("nan")), "--limit_bad nan"),
    (dict(limit_bad=1.5), "--limit_bad 1.5"), (dict(limit_bad=-0.1), "--limit_bad -0.1"),
    (dict(least_subjects=9), "breadth has 1 subjects"),
]


@pytest.mark.parametrize("flags, why", FLAGS)
def test_bad_flags(flags, why, tmp_path):
    cfg = only(tmp_path)
    (tmp_path / "F").write_text("not ours")
    flags = {k: v.replace("F", str(tmp_path / "F")) if v in ("F", "F/x") else v for k, v in flags.items()}
    if "source" not in flags:
        flags["source"] = cfg.source
    with pytest.raises(Refused, match=re.escape(why)):
        start(recipe.Config(**{**vars(cfg), **flags}))
    assert (tmp_path / "F").read_text() == "not ours" and not list(tmp_path.glob(".*.part"))


QUESTION = {"image": picture(1), "question": "Is it?", "answer": "yes"}
SCIENCE = {"image": picture(1), "question": "Which?", "choices": ["a", "b"], "answer": 0, "hint": "",
           "topic": "physics"}
EXAM = {"image": picture(1), "sample_id": "1", "answer_key": "A", "subject": "Physics", "language": "English"}
MATHS = {"image": picture(1), "id": "1", "question": "How long?", "answer": "2", "subject": "math"}
FINANCE = {"images": [picture(1)], "texts": [{"user": "How much?", "assistant": "5"}]}
BAD = [
    ("vqa_rad", {**QUESTION, "question": None}, "its question is empty"),
    ("vqa_rad", {**QUESTION, "question": "  "}, "its question is"),
    ("vqa_rad", {**QUESTION, "question": ["a"]}, "its question is a list"),
    ("vqa_rad", {**QUESTION, "question": 5}, "its question is a number"),
    ("vqa_rad", {**QUESTION, "answer": None}, "its answer is empty"),
    ("vqa_rad", {**QUESTION, "answer": ""}, "its answer is empty"),
    ("vqa_rad", {**QUESTION, "answer": True}, "its answer is true"),
    ("vqa_rad", {**QUESTION, "answer": float("nan")}, "its answer is nan"),
    ("vqa_rad", {**QUESTION, "answer": float("inf")}, "its answer is inf"),
    ("vqa_rad", {**QUESTION, "answer": ["yes"]}, "its answer is a list"),
    ("vqa_rad", {**QUESTION, "answer": {"a": 1}}, "its answer is an object"),
    ("vqa_rad", {**QUESTION, "image": {"bytes": b"no picture", "path": None}}, "cannot be read"),
    ("vqa_rad", {**QUESTION, "image": {"bytes": picture(1)["bytes"][:60], "path": None}}, "cannot be read"),
    ("vqa_rad", {**QUESTION, "image": {"bytes": None, "path": "gone.png"}}, "gone.png"),
    ("vqa_rad", {**QUESTION, "image": "https://host/x.png"}, "cannot be read"),
    ("vqa_rad", {**QUESTION, "question": "Is \ud800 it?"}, "half of a surrogate pair"),
    ("vqa_rad", {**QUESTION, "answer": "\udfff"}, "half of a surrogate pair"),
    ("science_qa", {**SCIENCE, "choices": ["a", "\ud801"]}, "half of a surrogate pair"),
    ("science_qa", {**SCIENCE, "answer": 2}, "its answer is 2"),
    ("science_qa", {**SCIENCE, "answer": -1}, "its answer is -1"),
    ("science_qa", {**SCIENCE, "answer": "A"}, "its answer is 'A'"),
    ("science_qa", {**SCIENCE, "answer": True}, "its answer is True"),
    ("science_qa", {**SCIENCE, "answer": 0.0}, "its answer is 0.0"),
    ("science_qa", {**SCIENCE, "choices": "a, b"}, "its choices are not a list"),
    ("science_qa", {**SCIENCE, "choices": ["a", ""]}, "its choices are not a list of texts"),
    ("science_qa", {**SCIENCE, "choices": [1, 2]}, "its choices are not a list of texts"),
    ("science_qa", {**SCIENCE, "choices": []}, "its answer is 0, an index of its 0 options"),
    ("science_qa", {**SCIENCE, "topic": None}, "its topic is empty"),
    ("exams_v", {**EXAM, "answer_key": "F"}, "names no option"),
    ("exams_v", {**EXAM, "answer_key": "AB"}, "names no option"),
    ("exams_v", {**EXAM, "answer_key": "6"}, "names no option"),
    ("exams_v", {**EXAM, "answer_key": ""}, "is empty"),
    ("exams_v", {**EXAM, "subject": None}, "its subject is empty"),
    ("mmk12", {**MATHS, "subject": "physics"}, "its subject is Physics, and this set is for mathematics"),
    ("mmk12", {**MATHS, "subject": "生物"}, "its subject is Biology"),
    ("mmk12", {**MATHS, "answer": [1]}, "its answer is a list"),
    ("finqa", {**FINANCE, "texts": None}, "its texts are not a list"),
    ("finqa", {**FINANCE, "texts": ["How much? 5"]}, "no user and assistant"),
    ("finqa", {**FINANCE, "texts": [{"user": "", "assistant": "5"}]}, "its user is empty"),
    ("finqa", {**FINANCE, "texts": [{"user": "How much?"}]}, "its assistant is empty"),
]


@pytest.mark.parametrize("name, row, why", BAD)
def test_bad_rows_are_named_and_counted(name, row, why, tmp_path, capsys):
    """As JSONL, which holds any type: a good row, and the bad one behind it."""
    good = {"vqa_rad": QUESTION, "science_qa": SCIENCE, "exams_v": EXAM, "finqa": FINANCE,
            "mmk12": MATHS}[name]
    part = tmp_path / "part"
    part.mkdir()
    rows = [{**good, "id": "good"}, row]
    source = "made-up rows"
    cfg = recipe.Config(limit_bad=0.5)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(recipe, "read_rows", lambda *_, **__: ((f"{source} row {i}", part, row)
                                                   for i, row in enumerate(rows, 1)))
        usable, left_out = recipe.read_set(cfg, recipe.Known(), set(), (name, source, None, "train"), part)
        assert len(usable) == 1 and left_out == {"unusable": 1}
        said = capsys.readouterr().out
        assert "made-up rows row 2" in said and why in said
        cfg.limit_bad = 0.01
        with pytest.raises(Refused, match="1 of 2 rows"):
            recipe.read_set(cfg, recipe.Known(), set(), (name, source, None, "train"), part)


@pytest.mark.parametrize("content, why", [
    (b"", "vqa_rad"), (b"PAR1 torn", "vqa_rad"), (b"\xff\xfe\x00", "vqa_rad")])
def test_broken_files(content, why, tmp_path):
    cfg = only(tmp_path)
    (tmp_path / "vqa_rad.parquet").write_bytes(content)
    with pytest.raises(Refused, match=f"(?s){why}: .*--source vqa_rad="):
        recipe.make(cfg)


@pytest.mark.parametrize("content, why", [
    ("", "no rows"), ("[]\n{\"a\": 1\n", "rows"), ("{\"x\": 1}\n", "no column")])
def test_broken_json_lines(content, why, tmp_path):
    cfg = only(tmp_path)
    (tmp_path / "rad.jsonl").write_text(content)
    cfg.source = tuple(s if "vqa_rad" not in s else f"vqa_rad={tmp_path / 'rad.jsonl'}" for s in cfg.source)
    with pytest.raises(Refused, match=f"(?s)vqa_rad: .*{why}"):
        recipe.make(cfg)


def test_local_json_lines_with_paths_of_pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i in range(6):
        (tmp_path / "pictures" / f"{i}.png").write_bytes(picture(i)["bytes"])
    own = [{"image": f"pictures/{i}.png", "question": f"Is it {i}?", "answer": "no"} for i in range(6)]
    write_jsonl(tmp_path / "own.jsonl", own)
    cfg = only(tmp_path)
    cfg.source = tuple(s if "vqa_rad" not in s else f"vqa_rad={tmp_path / 'own.jsonl'}" for s in cfg.source)
    recipe.make(cfg)
    assert len(read_records(f"{cfg.out}/breadth_questions.jsonl", limit_bad=0)) == 3


@pytest.mark.parametrize("name", ["FanqingM/MMK12", "hiyouga/geometry3k", "a/b.c", "M4/the_cauldron"])
def test_hub_names(name):
    assert hub_name(name)


@pytest.mark.parametrize("path", [
    "data/x", "out/x", "./x/y", "../x", "/x/y", "~/x", "x", "a/b/c", "a/b.jsonl", "a/b.json", "a/b.parquet",
    "a/b.csv", "", "a/", "/a", "a b/c", "a/b\n", "https://x/y", "ä/b", ".a/b", "-a/b"])
def test_local_paths_are_no_hub_names(path):
    assert not hub_name(path)


# ------------------------------------------------------------------------------------------------ the recipes

def test_recipes_ask_for_the_box_in_every_step():
    """Accuracy needs a box: the same words everywhere, and never words of a recipe's own."""
    for recipe_file in (ROOT / "recipes").glob("*.sh"):
        text = re.sub(r"\\\n\s*", "", recipe_file.read_text())
        for line in text.splitlines():
            step = re.match(r"\s*(?:\[.*\|\| )?stage (\S+\.py) ", line)
            if step and step[1] != "recipes/data.py":
                assert line.count('--ask "$ASK"') == 1, f"{recipe_file.name}: {line}"


@pytest.mark.parametrize("recipe", sorted(p.name for p in (ROOT / "recipes").glob("*_*.sh")))
@pytest.mark.parametrize("out", ["mine", ""])
def test_a_rehearsal_writes_where_it_is_told_to(recipe, out):
    """What stands for Python prints the commands."""
    done = subprocess.run(["bash", f"recipes/{recipe}", "--rehearse"], cwd=ROOT, capture_output=True,
                          text=True, env={**os.environ, "PY": "echo", "OUT": out})
    out = out or f"out/rehearsal/{recipe.removesuffix('.sh')}"
    assert done.returncode == 0 and done.stdout.endswith(f"all steps are done: {out}\n")
    assert f"--data {out}/cold_start.jsonl --out {out}/cold_start" in done.stdout
