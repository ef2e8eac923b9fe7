"""Data replaced between two starts of the same run: noticed, for every file of data and for images, too."""
import shutil
from functools import partial

import pytest
from PIL import Image

from conftest import write_jsonl
from data import Record
from machinery.files import Refused, read_json, read_jsonl
from machinery.rows import rows_fingerprint
from stages import STAGES, Stop


def stop(*_, **__):
    raise Stop


def another_row(folder, name):
    rows = read_jsonl(folder / f"{name}.jsonl")
    write_jsonl(folder / f"{name}.jsonl", [{**rows[0], "answer": "9", "solution": "</think>9"}, *rows[1:]])


def another_image(folder, name, level=0):
    Image.new("RGB", (48, 48), (1, 2, 3)).save(folder / "2.png", compress_level=level)


def fewer_rows(folder, name):
    write_jsonl(folder / f"{name}.jsonl", read_jsonl(folder / f"{name}.jsonl")[1:])


@pytest.mark.usefixtures("sampler", "a_reward")
@pytest.mark.parametrize("stage, other", {"sft": "val", "grpo": "curriculum"}.items())
def test_a_run_goes_on_with_its_own_data_alone(stage, other, tiny, tmp_path, monkeypatch):
    folder, out, (module, run) = tmp_path / "data", tmp_path / "run", STAGES[stage]
    folder.mkdir()
    for i in range(4):
        Image.new("RGB", (48, 48), (40 * i, 0, 0)).save(folder / f"{i}.png")
    for name in ("data", other):
        write_jsonl(folder / f"{name}.jsonl", [
            {"id": f"{name}-{i}", "question": "How red?", "images": [f"{i}.png"], "answer": str(i),
             "solution": f"Red.\n</think>\n\n\\boxed{{{i}}}"} for i in range(4)])
    how = dict(batch=2, epochs=0.5) if stage == "sft" else dict(prompts=2, samples=2, max_gap=1e9)
    files = {name: str(folder / f"{name}.jsonl") for name in ("data", other)}
    again = partial(run, tiny, out, 1, **files, **how)
    with monkeypatch.context() as m:
        m.setattr(module, "load_model", stop)
        with pytest.raises(Stop):
            again()
        another_image(folder, "data", 9)  # without a checkpoint any data will do
    again()
    assert {name: about["rows"] for name, about in read_json(out / "config.json")["data"].items()} == {
        "data": 4, other: 4}
    monkeypatch.setattr(module, "load_model", stop)
    shutil.copytree(folder, kept := tmp_path / "kept")
    for name in files:
        for change in (another_row, another_image, fewer_rows):
            change(folder, name)
            with pytest.raises(Refused, match=f"--(data|{name}) .*rows or images are not those .* .4 rows"):
                again()
            shutil.copytree(kept, folder, dirs_exist_ok=True)
    with pytest.raises(Stop):  # it goes on: the model would be loaded now
        again()


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
