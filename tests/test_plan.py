"""recipes/plan.py: published configurations without weights, simulated ranks, what would fit."""
import dataclasses

import pytest
import torch

from recipes import plan
from conftest import ROOT
from machinery.model_folder import add_adapters
from machinery.parallel import bf16_weights
from model import PARTS, load
from pack import make_packs

CONFIGS = ROOT / "recipes" / "configs"
PUBLISHED = {  # parameters, from the model cards
    "InternVL3-1B": 0.938e9, "InternVL3-2B": 2.09e9, "InternVL3-8B": 7.94e9, "InternVL3-38B": 38.4e9,
    "Qwen2.5-VL-3B": 3.75e9, "Qwen2.5-VL-7B": 8.29e9, "Qwen3-VL-4B": 4.44e9}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
    assert {p.name for p in CONFIGS.iterdir() if p.is_dir()} == PUBLISHED.keys()
    s = plan.shape(CONFIGS / name)
    assert s["total"] == pytest.approx(PUBLISHED[name], rel=2e-3)
    if name == "InternVL3-38B":  # PAPER: encoder of 45 layers, connector of 91.8 M
        assert s["parts"]["connector"] == 91_786_240 and s["depth"] == 45 and s["layers"] == 64
    if name == "Qwen3-VL-4B":  # four mergers of 1024 * 4 -> 2560: two matrices, their biases, and norms
        norms = 2 * (1024 + 3 * 4096)  # of one patch, and three of four patches
        assert s["parts"]["connector"] == 4 * (4096 * 4096 + 4096 + 4096 * 2560 + 2560) + norms
        assert s["depth"] == 24


def test_advice(capsys):
    """What is advised fits; a pack holds at least a prompt and its response."""
    card = plan.Config(str(CONFIGS / "Qwen2.5-VL-3B"), gpus=1, gpu_gib=24, tokens=8192, max_new_tokens=2048)
    assert not plan.plan(card)
    assert capsys.readouterr().out.strip().endswith("What would: --gpus 4, or --lora 8 --train connector llm")
    assert plan.plan(dataclasses.replace(card, gpus=4))
    fits = dataclasses.replace(card, lora=8, train=("connector", "llm"))
    assert plan.plan(fits) and not plan.plan(dataclasses.replace(fits, gpu_gib=4))
    # responses of 8,192 do not fit the sampler, and no smaller pack helps it
    assert not plan.plan(dataclasses.replace(fits, max_new_tokens=8192))
    advice = capsys.readouterr().out.strip().rpartition("What would: ")[2]
    assert "--max_new_tokens 4096" in advice and "--tokens" not in advice
    plan.plan(dataclasses.replace(fits, tokens=2048))  # 3,328 visual tokens do not fit a pack of 2,048
    assert "packs of 2,048 tokens of which 2,048 are visual" in capsys.readouterr().out


@pytest.mark.parametrize("name, train, lora", [
    ("InternVL3-2B", PARTS, 0), ("Qwen2.5-VL-7B", PARTS[1:2], 0), ("Qwen3-VL-4B", PARTS[1:], 8)])
def test_state_is_that_of_the_model(name, train, lora):
    """Weights (frozen matrices in bf16), optimizer and gradients: of one GPU, of shards, of a copy a node."""
    s = plan.shape(CONFIGS / name)
    s["vlm"].autocast_dtype = s["vlm"].file_dtype = torch.bfloat16
    if lora:
        add_adapters(s["vlm"], lora)
    weights = list(s["vlm"].train_only(train).parameters())
    learns = sum(p.numel() for p in weights if p.requires_grad)
    half = sum(w.numel() for w in bf16_weights(s["vlm"]))
    whole = sum(p.numel() for p in weights) - half
    for gpus, hybrid, share in ((1, False, 1), (16, False, 16), (16, True, 8)):
        cfg = plan.Config(gpus=gpus, hybrid=hybrid, train=train, lora=lora, rollout="none")
        rows = {what: n * plan.GIB * share for what, n in plan.memory(s, cfg)["training"].items()}
        expected = {"weights, fp32": 4 * whole, "frozen matrices, bf16": 2 * half,
                    "optimizer (AdamW, fp32)": 8 * learns, "gradients, fp32": 4 * learns}
        assert {what: rows[what] for what in expected} == pytest.approx(expected)
    rows = plan.memory(s, plan.Config(offload=True, train=train, lora=lora, rollout="none"))["training"]
    assert not any(rows[what] for what in expected)


@pytest.mark.parametrize("gpus, batch, rows", [(8, 512, 128), (1, 512, 512), (8, 64, 64), (8, 8, 32)])
def test_rows_of_a_sampler(gpus, batch, rows):
    """torch: as many as TorchSampler.generate takes at a time, of a rank's prompts or of --rollout_batch."""
    s, name = plan.shape(CONFIGS / "InternVL3-1B"), "sampler: keys and values of {} responses"
    cfg = plan.Config(gpus=gpus, rollout_batch=batch, rollout="torch")
    torch_, vllm = (plan.sampling(s, dataclasses.replace(cfg, rollout=kind)) for kind in ("torch", "vllm"))
    token = s["kv"] * s["layers"]
    assert torch_[name.format(rows)] == 6 * token * (rows * 8192 + 2 * rows // 32 * cfg.visual)
    assert vllm[name.format(16)] == 4 * token * 16 * (8192 + cfg.visual)


def test_flops_against_torch(model_path, processor, groups):
    """The formula's matrices against torch's own count of a forward and backward of the tiny world's model
    (attention apart, which computes whole squares: SDPA, or bmm for short rows)."""
    from torch.utils.flop_counter import FlopCounterMode
    vlm, s = load(model_path), plan.shape(model_path)
    pack, = make_packs(processor, groups)
    with FlopCounterMode(display=False) as counter:
        logp, entropy = vlm(pack)
        (logp.sum() + entropy.sum()).backward()
    counted = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    matrices = sum(n for op, n in counted.items() if "attention" not in op and "bmm" not in op)
    tiles = len(pack.images["pixel_values"])
    ours = plan.flops({**s, "hq": 0, "v": 0}, len(pack.ids), 0, len(pack.source), tiles * 36, 0)
    assert ours == pytest.approx(matrices, rel=0.05)
