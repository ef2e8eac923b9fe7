"""report.py card: the README.md of a checkpoint says what the run folders know, and nothing else."""
import re
import json
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


def test_what_the_hub_reads_and_what_people_see(chain, tmp_path):
    card = card_of(chain)
    assert card.data.to_dict() == {
        "license": "other", "license_name": "FILL-IN-the-license-of-the-base-model", "tags": ["nanoR1V"],
        "base_model": "OpenGVLab/InternVL3-1B-hf", "pipeline_tag": "image-text-to-text"}
    told = [json.loads(block) for block in re.findall("^```json\n(.*?)^```", card.text, re.M | re.S)]
    assert told == [json.loads((tmp_path / name / "config.json").read_text())
                    for name in ("tuned", "rl", "cold")]
    with pytest.raises(Refused, match="README.md is there already, and somebody may have written into it"):
        card_of(chain)
