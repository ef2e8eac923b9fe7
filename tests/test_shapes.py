"""Rows of the shape of public data sets: MMK12, geometry3k, MMMU; the report."""
import io
import re

import datasets
import pytest
import torch
from PIL import Image

import plan
from conftest import write_jsonl
from data import open_image, read_records
from machinery.files import Refused


def picture(seed, size=(40, 30)):
    g = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=g, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def png(seed):
    out = io.BytesIO()
    picture(seed).save(out, "png")
    return out.getvalue()


def parquet(path, rows, **features):
    kinds = {k: features.get(k, datasets.Value("string")) for k in rows[0]}
    datasets.Dataset.from_list(rows, features=datasets.Features(kinds)).to_parquet(str(path))
    return str(path)


def test_mmk12(tmp_path):
    """FanqingM/MMK12: id, question, answer, subject, image"""
    rows = [{"id": f"m{i}", "question": "<image>\nFind x.", "answer": str(i), "subject": "math",
             "image": {"bytes": png(i), "path": None}} for i in range(3)]
    records = read_records(parquet(tmp_path / "t.parquet", rows, image=datasets.Image()))
    found = [(r.id, r.answer, r.subject, r.sizes) for r in records]
    assert found == [(f"m{i}", str(i), "math", [(30, 40)]) for i in range(3)]
    assert all(isinstance(r.images[0], bytes) for r in records)  # files, not pixels
    assert open_image(records[1].images[0]).tobytes() == picture(1).tobytes()


def test_geometry3k(tmp_path):
    """hiyouga/geometry3k: images (a list), problem, answer"""
    rows = [{"images": [{"bytes": png(i + k), "path": None} for k in range(i + 1)],
             "problem": "<image>" * (i + 1) + "Find $x$.", "answer": "\\sqrt{2}"} for i in range(2)]
    file = parquet(tmp_path / "t.parquet", rows, images=datasets.List(datasets.Image()))
    records = read_records(file, ("question=problem",))
    assert [len(r.images) for r in records] == [1, 2] and records[0].question == "<image>Find $x$."
    assert records[1].answer == "\\sqrt{2}"
    with pytest.raises(Refused, match="no column 'Problem'.*its columns are images, problem, answer"):
        read_records(file, ("question=Problem",))
    with pytest.raises(Refused, match="no question"):
        read_records(file)


def test_mmmu(tmp_path):
    """MMMU/MMMU: options as printed, image_1 ... image_7"""
    none = {f"image_{i}": None for i in (1, 2, 3)}
    rows = [{"id": "Art_1", "question": "Which, <image 2>?", "options": "['<image 1>', 'none, \"really\"']",
             "answer": "A", **none, **{f"image_{i}": {"bytes": png(i), "path": f"{i}.png"} for i in (1, 2)}},
            {"id": "Art_2", "question": "How many?", "options": "[]", "answer": "3", **none}]
    file = parquet(tmp_path / "t.parquet", rows, **dict.fromkeys(none, datasets.Image()))
    first, second = read_records(file)
    assert first.options == ["<image 1>", 'none, "really"']
    assert [open_image(i).tobytes() for i in first.images] == [picture(n).tobytes() for n in (1, 2)]
    assert second.options == [] and second.images == []


def test_report(tmp_path, model_path, capsys):
    picture(0, (100, 48)).save(tmp_path / "wide.png")
    write_jsonl(tmp_path / "t.jsonl",
                [{"q": "How many?", "answer": "3", "images": ["wide.png"], "subject": "Art"},
                 {"q": "Why?", "answer": "4"}, {"q": "", "answer": "5"},
                 {"q": "Lost", "answer": "6", "images": ["none.png"]}])
    data = str(tmp_path / "t.jsonl")
    plan.report(plan.DataConfig(data=data, model=model_path, columns=("question=q",), max_tiles=4))
    out = capsys.readouterr().out
    assert "skipped 2 of 4 rows" in out and "no question" in out and "none.png" in out
    assert "2 rows can be used" in out and "Art 1" in out
    assert re.search(r"image width.* 100\n", out) and re.search(r"visual tokens.* 0 +27 +27 +27\n", out)
    assert "<|im_start|>user" in out and "answer: '3'" in out
