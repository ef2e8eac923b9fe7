"""Data replaced between two starts of the same run: noticed, for every file of data and for images, too."""
import json
import shutil

import pytest
from PIL import Image

import grpo
import sft
from conftest import write_jsonl
from data import Record
from machinery.files import Refused, read_jsonl
from machinery.rows import rows_fingerprint
from stages import Stop, run_grpo, run_sft


def stop(*_, **__):
    raise Stop


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        Image.new("RGB", (48, 48), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    for name in ("data", "other"):
        write_jsonl(tmp_path / f"{name}.jsonl", [
            {"id": f"{name}-{i}", "question": "How red?", "images": [f"{i}.png"], "answer": str(i),
             "solution": f"Red.\n</think>\n\n\\boxed{{{i}}}"} for i in range(4)])
    return tmp_path


def another_row(folder, name):
    rows = read_jsonl(folder / f"{name}.jsonl")
    write_jsonl(folder / f"{name}.jsonl", [{**rows[0], "answer": "9", "solution": "</think>9"}, *rows[1:]])


def another_image(folder, name):
    Image.new("RGB", (48, 48), (1, 2, 3)).save(folder / "2.png", compress_level=0)


CHANGES = {"row": another_row, "image": another_image,
           "number": lambda folder, name: write_jsonl(folder / f"{name}.jsonl",
                                                      read_jsonl(folder / f"{name}.jsonl")[1:])}


def check(folder, again, flags, patch):
    """flags: {flag: its file}. Without a change the run goes on; with each change it is refused."""
    patch()
    with pytest.raises(Stop):  # it goes on: the model would be loaded now
        again()
    for flag, name in flags.items():
        for what, change in CHANGES.items():
            kept = shutil.copytree(folder, folder.with_name(f"{folder.name}-{flag}-{what}"))
            change(folder, name)
            left = 3 if what == "number" else 4
            said = f"--(data|{flag}) .*its rows or images are not those .* .4 rows then, {left} now"
            with pytest.raises(Refused, match=said):
                again()
            shutil.copytree(kept, folder, dirs_exist_ok=True)
    with pytest.raises(Stop):
        again()


def test_sft(tiny, folder, tmp_path_factory, monkeypatch):
    out = tmp_path_factory.mktemp("out") / "run"

    def again():
        run_sft(tiny, out, data=str(folder / "data.jsonl"), val=str(folder / "other.jsonl"), batch=2,
                epochs=0.5)
    again()
    kept = json.loads((out / "config.json").read_text())["data"]
    assert {flag: about["rows"] for flag, about in kept.items()} == {"data": 4, "val": 4}
    check(folder, again, {"data": "data", "val": "other"}, lambda: monkeypatch.setattr(sft, "load", stop))


def test_grpo(tiny, folder, tmp_path_factory, monkeypatch, sampler, a_reward):
    out = tmp_path_factory.mktemp("out") / "run"

    def again():
        run_grpo(tiny, out, 1, data=str(folder / "data.jsonl"), curriculum=str(folder / "other.jsonl"),
                 prompts=2, samples=2, max_gap=1e9)
    again()
    flags = {"data": "data", "curriculum": "other"}
    check(folder, again, flags, lambda: monkeypatch.setattr(grpo, "load", stop))


def test_a_run_without_a_checkpoint_takes_any_data(tiny, folder, monkeypatch, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "run"
    monkeypatch.setattr(sft, "load", stop)
    for _ in range(2):
        with pytest.raises(Stop):
            run_sft(tiny, out, data=str(folder / "data.jsonl"), batch=2, epochs=0.5)
        another_row(folder, "data")


@pytest.mark.parametrize("field, other", {
    "id": "s", "question": "Who?", "answer": "6", "solution": "t", "options": ["a", "c"], "subject": "Law",
    "sizes": [(5, 4)], "images": [b"12"],
    "turns": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}]}.items())
def test_every_field_counts(field, other):
    record = dict(id="r", question="Why?", answer="5", solution="s", options=["a", "b"], subject="Art",
                  sizes=[(4, 4)], images=[b"11"],
                  turns=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    first, same = (rows_fingerprint([Record(**record)]) for _ in range(2))
    assert first == same != rows_fingerprint([Record(**{**record, field: other})])
