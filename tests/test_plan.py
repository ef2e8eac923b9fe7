"""plan.py and the recipes: published configurations without weights, simulated ranks, what would fit."""
import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

import plan
from bench import gpu_check
from conftest import ROOT
from machinery.processes import World
from model import PARTS, load, shard
from pack import make_packs

CONFIGS = ROOT / "recipes" / "configs"
PUBLISHED = {  # parameters, from the model cards
    "InternVL3-1B": 0.938e9, "InternVL3-2B": 2.09e9, "InternVL3-8B": 7.94e9, "InternVL3-38B": 38.4e9,
    "Qwen2.5-VL-3B": 3.75e9, "Qwen2.5-VL-7B": 8.29e9, "Qwen3-VL-4B": 4.44e9}


def test_every_configuration_is_known():
    assert {p.name for p in CONFIGS.iterdir() if p.is_dir()} == PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
    s = plan.shape(CONFIGS / name)
    assert s["total"] == pytest.approx(PUBLISHED[name], rel=2e-3)
    if name == "InternVL3-38B":  # PAPER: encoder of 45 layers, connector of 91.8 M
        assert s["parts"]["connector"] == 91_786_240 and s["depth"] == 45 and s["layers"] == 64
    if name == "Qwen3-VL-4B":  # four mergers of 1024 * 4 -> 2560: two matrices, their biases, and norms
        norms = 2 * (1024 + 3 * 4096)  # of one patch, and three of four patches
        assert s["parts"]["connector"] == 4 * (4096 * 4096 + 4096 + 4096 * 2560 + 2560) + norms
        assert s["depth"] == 24


@pytest.mark.parametrize("name", PUBLISHED)
def test_configurations_have_the_hubs_shape(name):
    """What is missing there is missing here: the InternVLs do not say at their root that they are untied."""
    raw, s = json.loads((CONFIGS / name / "config.json").read_text()), plan.shape(CONFIGS / name)
    text = raw.get("text_config", raw)
    assert s["tied"] == (name in ("Qwen2.5-VL-3B", "Qwen3-VL-4B")) == text["tie_word_embeddings"]
    assert ("tie_word_embeddings" in raw) == (not name.startswith("InternVL"))
    assert "rope_parameters" not in text and "rope_scaling" in text
    assert ("text_config" in raw) == (not name.startswith("Qwen2.5")) and s["file"] == 2
    assert ("torch_dtype" in raw) == (name != "Qwen3-VL-4B") and "dtype" not in raw
    if name.startswith("InternVL"):
        assert text["rope_scaling"] == {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"}


@pytest.mark.parametrize("gpus", [8, 16])
@pytest.mark.parametrize("name", ["InternVL3-38B", "Qwen2.5-VL-7B", "Qwen3-VL-4B"])
def test_shards_over_simulated_ranks(name, gpus):
    """What the plan says of weights is what FSDP gives to rank 0, to half a percent (of uneven rows)."""
    s = plan.shape(CONFIGS / name)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=gpus)
    try:
        vlm = shard(s["vlm"], World(0, gpus, torch.device("meta")))
        local = sum(p.to_local().numel() for p in vlm.parameters())
        assert all(p.is_meta for p in vlm.parameters())
        assert len(list(vlm.parameters())) == sum(map(len, vlm.parts().values()))
    finally:
        dist.destroy_process_group()
    table = plan.memory(s, plan.Config(gpus=gpus))["training"]
    assert 4 * local / plan.GIB == pytest.approx(table["weights, fp32"], rel=5e-3)


@pytest.mark.parametrize("name", ["InternVL3-38B", "Qwen2.5-VL-7B", "Qwen3-VL-4B"])
@pytest.mark.parametrize("gpus", [8, 16])
def test_table(name, gpus, capsys):
    cfg = plan.Config(model=str(CONFIGS / name), gpus=gpus)
    fits = plan.plan(cfg)
    out = capsys.readouterr().out
    assert f"GiB on each of {gpus} GPUs" in out and "optimizer (AdamW, fp32)" in out
    assert ("it fits" in out) == fits
    assert fits or "The smallest change that would:" in out


def test_suggested_change_fits():
    s = plan.shape(CONFIGS / "InternVL3-38B")
    cfg = plan.Config(gpus=16, rollout="none", checkpointing=False)
    words = plan.smallest_change(s, cfg).split()
    assert words[0] == "--checkpointing" and not plan.need(s, cfg) <= plan.room(cfg)
    change = {w[2:]: int(n) for w, n in zip(words, words[1:])
              if w in ("--tokens", "--gpus", "--tensor_parallel")}
    assert plan.need(s, dataclasses.replace(cfg, checkpointing=True, **change)) <= plan.room(cfg)
    assert plan.smallest_change(s, plan.Config(gpus=1, gpu_gib=1, rollout="none")) is None


def test_what_is_frozen_costs_less():
    s = plan.shape(CONFIGS / "Qwen2.5-VL-7B")
    whole, connector = (plan.memory(s, plan.Config(rollout="none", train=t))["training"]
                        for t in (PARTS, ("connector",)))
    assert connector["optimizer (AdamW, fp32)"] < 0.01 * whole["optimizer (AdamW, fp32)"]
    assert connector["weights, fp32"] == whole["weights, fp32"]
    assert plan.memory(s, plan.Config(rollout="none", offload=True))["training"]["weights, fp32"] == 0
    near, far = (plan.memory(s, plan.Config(gpus=32, hybrid=h))["training"]["weights, fp32"]
                 for h in (True, False))
    assert near == 4 * far


def test_flops_against_torch(model_path, chat, groups):
    """The formula's matrices against torch's own count of a forward and backward of the tiny world's model
    (attention apart, which computes whole squares: SDPA, or bmm for short rows)."""
    from torch.utils.flop_counter import FlopCounterMode
    vlm, s = load(model_path), plan.shape(model_path)
    pack, = make_packs(chat, groups)
    with FlopCounterMode(display=False) as counter:
        logp, entropy = vlm(pack)
        (logp.sum() + entropy.sum()).backward()
    counted = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    matrices = sum(n for op, n in counted.items() if "attention" not in op and "bmm" not in op)
    tiles = len(pack.images["pixel_values"])
    ours = plan.flops({**s, "hq": 0, "v": 0}, len(pack.ids), 0, len(pack.source), tiles * 36, 0)
    assert ours == pytest.approx(matrices, rel=0.05)


def test_dry_run_of_a_stage(tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "Q", "solution": "S"}) + "\n")
    found = plan.dry_run("8", "80", "recipes/configs/InternVL3-1B", "sft.py", "--model",
                         "OpenGVLab/InternVL3-1B-hf", "--data", str(tmp_path / "rows.jsonl"))
    assert found == [] and "1 rows can be used" in capsys.readouterr().out
    found = plan.dry_run("1", "8", "recipes/configs/InternVL3-8B", "grpo.py", "--model", "/no/such", "--data",
                         "none.jsonl")
    assert [p.split(":")[0] for p in found] == ["--model /no/such", "--data none.jsonl", "grpo.py"]


@pytest.mark.parametrize("recipe", ["r1v3_38b", "internvl3_1b", "qwen2_5_vl_3b", "multi_node"])
def test_recipe_dry_run(recipe, tmp_path, monkeypatch):
    """Every stage of the recipe passes its own dry run when the data are there, else it stops."""
    monkeypatch.chdir(ROOT)
    row = {"question": "Q", "problem": "Q", "answer": "7", "solution": "S"}
    env = {"PATH": os.environ["PATH"], "PY": "echo"}  # prints the checks instead of running them
    for name in ("COLD", "MATHS", "HELD_OUT", "BREADTH", "BREADTH_VAL"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
        env[name] = str(tmp_path / f"{name}.jsonl")
    ran = subprocess.run(["bash", f"recipes/{recipe}.sh", "--dry_run"], env=env, capture_output=True,
                         text=True, check=True)
    stages = [line.split()[2:] for line in ran.stdout.splitlines() if line.startswith("plan.py dry_run")]
    scripts = [s[3] for s in stages]
    assert ran.stdout.endswith("all checked, all done\n") and "grpo.py" in scripts
    if recipe != "multi_node":
        stages_in_order = ["sft.py", "grpo.py", "entropy_select.py", "connector_tune.py", "eval_mmmu.py"]
        assert list(dict.fromkeys(scripts)) == stages_in_order
    for stage in stages:
        assert plan.dry_run(*stage) == [], stage
    (tmp_path / "MATHS.jsonl").unlink()
    assert any(plan.dry_run(*s) for s in stages[:2])


def test_recipe_stops_when_something_is_missing(tmp_path):
    ran = subprocess.run(["bash", "recipes/multi_node.sh", "--dry_run"], cwd=ROOT, capture_output=True,
                         text=True, env={**os.environ, "PY": sys.executable, "MATHS": "no_such.jsonl"})
    assert ran.returncode == 1 and "no_such.jsonl: no such file" in ran.stderr
    assert "something above would stop" in ran.stdout
    assert "it fits" in ran.stdout


def test_gpu_check_runs_without_a_gpu(model_path, tmp_path):
    """The script for the first GPU, on a CPU: so that what fails there is the GPU."""
    out = str(tmp_path / "out.json")
    gpu_check.check(gpu_check.Config(device="cpu", shapes=(model_path,), tokens=256, steps=1, out=out))
    results = json.loads((tmp_path / "out.json").read_text())
    assert len(results["parity"]) == 9 and all(row["good"] for row in results["parity"].values())
    assert results["steps"]["model"]["tokens"] <= 256
