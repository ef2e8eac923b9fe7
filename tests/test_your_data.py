"""docs/your_data.md: its files are written, its commands run, and what it shows is what they print."""
import base64
import contextlib
import io
import json
import re
import shlex

import pytest
import tyro

import grpo
from recipes import plan
import reward
import sft
from conftest import ROOT, png, write_parquet
from data import Processor
from machinery import rows
from machinery.files import Refused

PICTURES = ("pictures/train/bus.jpg", "shelf/pictures/cup.jpg", "shelf/pictures/lamp.jpg", "pictures/cup.jpg",
            "pictures/lamp.jpg")
MODELS = {"out/cold_start", "out/tiny/cold_start", "OpenGVLab/InternVL3-1B-hf"}
PAGE = (ROOT / "docs" / "your_data.md").read_text()
# (language, name of a file or "", text)
BLOCKS = re.findall(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The pictures. What is no file is asked of the hub: it has Parquet files under hub/."""
    def from_hub(source, split, subset, revision):
        assert (split, subset, revision) == ("train", None, None)
        return rows.parquet_rows(tmp_path / "hub" / source.replace("/", "+"))

    for name in PICTURES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rows, "hub_rows", from_hub)
    return tmp_path


def write(folder, name, text):
    if "." in name:
        (folder / name).write_text(text.replace("<BASE64>", base64.b64encode(png()).decode()))
        return
    table = [json.loads(line) for line in text.splitlines()]
    for row in table:
        for image in row.get("images", [row.get("image")]):
            assert image["bytes"] == "<PNG>"
            image["bytes"] = png()
    write_parquet(folder / "hub" / name.replace("/", "+"), table)


def run(command, model_path):
    """A command of the page up to the first step: its flags, its rows, its prompts."""
    python, script, *flags = shlex.split(command)
    assert python == "python"
    if script == "reward.py":
        reward.score_file(tyro.cli(reward.Config, args=flags))
        return
    module, Config = {"grpo.py": (grpo, grpo.Config), "sft.py": (sft, sft.Config),
                      "recipes/plan.py": (plan, plan.DataConfig)}[script]
    cfg = tyro.cli(Config, args=flags[script == "recipes/plan.py":])
    assert cfg.model in MODELS
    cfg.model = model_path
    if module is plan:
        plan.report(cfg)
        return
    processor = Processor(cfg.model, cfg.max_tiles, cfg.pixels, cfg.ask, cfg.system)
    if module is grpo:
        assert grpo.load_prompts(cfg, cfg.data, processor)
    else:
        assert sft.read_rows(cfg.data, cfg, processor)


def printed(language, text, scope, model_path, may_refuse):
    """What a block of Python or a command prints, a refusal's sentence at its end where one may come: a
    command under which the page shows nothing has to work."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            if language == "python":
                exec(text, scope)
            else:
                run(text, model_path)
        except Refused as why:
            if not may_refuse:
                raise
            print(why)
    return out.getvalue()


def test_the_page_is_what_is_printed(folder, model_path):
    scope, out, checked = {"json": json}, "", 0
    for (language, name, text), (then, *_) in zip(BLOCKS, [*BLOCKS[1:], ("",)]):
        if name:
            write(folder, name, text)
        elif language in ("python", "sh"):
            out = printed(language, text, scope, model_path, may_refuse=then == "text")
        else:
            assert language == "text" and out == text, out
            checked += 1
    assert checked >= 9 and {language for language, name, _ in BLOCKS if name} == {"json", "csv"}
