"""report.py card: the README.md of a checkpoint says what the run folders know, and nothing else."""
import json
import re
import shlex
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import save_file

import connector_tune
import grpo
import report
import sft
from machinery.files import Refused, write_json
from machinery.run import Run
from stages import ONE

WORLD = SimpleNamespace(**vars(ONE), barrier=lambda: None)


def run_folder(out, cfg, step, rows=60):
    """A run folder with one checkpoint, as a stage leaves it."""
    cfg.out = str(out)
    run, script = Run(out, cfg, WORLD), type(cfg).__module__
    run.about |= {"data": {"data": {"rows": rows}}, "command": f"/somewhere/{script}.py --out {out}"}
    write_json(out / "config.json", run.about)
    checkpoint = out / f"step_{step:06d}"
    checkpoint.mkdir()
    save_file({"a": torch.zeros(3, 5), "b": torch.zeros(step)}, checkpoint / "model.safetensors")
    (checkpoint / "config.json").write_text('{"model_type": "internvl"}')
    return checkpoint


@pytest.fixture
def chain(tmp_path):
    """Cold start from the hub -> GRPO -> connector tuning; the last two from a run folder or a checkpoint."""
    cold = run_folder(tmp_path / "cold", sft.Config(model="OpenGVLab/InternVL3-1B-hf", data="c.jsonl"), 9)
    cfg = grpo.Config(model=str(cold.parent), data="FanqingM/MMK12")
    rl = run_folder(tmp_path / "rl", cfg, 40, rows=15616)
    cfg = connector_tune.Config(model=str(rl), data=str(tmp_path), ask="Box it.", system="It's short.")
    return run_folder(tmp_path / "tuned", cfg, 25)


def card_of(run):
    report.card(report.Card(str(run)))
    checkpoint = run if run.name.startswith("step_") else next(run.glob("step_*"))
    return ModelCard((checkpoint / "README.md").read_text())


def cells(text, columns):
    """The rows of the tables with so many columns"""
    lines = [line for line in text.splitlines() if line.startswith("|") and line.count("|") == columns + 1]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "--" not in line][1:]


def test_what_the_hub_reads_and_what_a_reader_sees(chain, tmp_path):
    card, at, every = card_of(chain), str(tmp_path), "encoder connector llm"
    assert card.data.to_dict() == {
        "license": "other", "license_name": "FILL-IN-the-license-of-the-base-model",
        "base_model": "OpenGVLab/InternVL3-1B-hf", "library_name": "transformers",
        "pipeline_tag": "image-text-to-text", "datasets": ["FanqingM/MMK12"],
        "tags": ["nanoR1V", "connector_tune", "grpo", "sft"]}
    assert cells(card.text, 6) == [
        ["sft", f"`{at}/cold`", "step_000009", "`c.jsonl`, 60 rows", every, "1e-05"],
        ["grpo", f"`{at}/rl`", "step_000040", "`FanqingM/MMK12`, 15616 rows", every, "1e-05"],
        ["connector_tune", f"`{at}/tuned`", "step_000025", f"`{at}`, 60 rows", "connector", "1e-05"]]
    told = [json.loads(block) for block in re.findall("^````json\n(.*?)^````", card.text, re.M | re.S)]
    assert told == [json.loads((tmp_path / name / "config.json").read_text())
                    for name in ("cold", "rl", "tuned")]
    assert "# tuned, step 25" in card.text and "`<think>`" in card.text
    command, = re.findall("```sh\n(.*?)\n```", card.text)
    assert shlex.split(command)[6:] == ["--ask", "Box it.", "--system", "It's short.", "What is to be seen?"]


def test_the_selected_checkpoint_of_an_earlier_stage_and_a_connector_of_our_own(chain, tmp_path):
    config, rl = tmp_path / "tuned" / "config.json", tmp_path / "rl"
    config.write_text(config.read_text().replace(f"{rl}/step_000040", str(rl)))  # the run, not a checkpoint
    (rl / "selected.json").write_text('{"checkpoint": "step_000020"}')
    (chain / "config.json").write_text('{"model_type": "internvl", "connector": "qformer"}')
    card = card_of(chain)
    assert [row[2] for row in cells(card.text, 6)] == ["step_000009", "step_000020", "step_000025"]
    assert "library_name" not in card.data.to_dict() and "does not know its connector" in card.text


def test_card_refuses(chain, tmp_path):
    card_of(chain)
    with pytest.raises(Refused, match="README.md is there already, and somebody may have written into it"):
        card_of(chain)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(Refused, match="model is no checkpoint of a run folder"):
        card_of(tmp_path / "model")
