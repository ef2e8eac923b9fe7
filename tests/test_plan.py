"""plan.py: published configurations without weights, simulated ranks, what would fit."""
import dataclasses
import json

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

import plan
from conftest import ROOT
from machinery.lora import add_adapters
from machinery.parallel import World
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


@pytest.mark.parametrize("lora", [0, 8])
@pytest.mark.parametrize("gpus", [8, 16])
@pytest.mark.parametrize("name", ["InternVL3-38B", "Qwen2.5-VL-7B", "Qwen3-VL-4B"])
def test_shards_over_simulated_ranks(name, gpus, lora):
    """What the plan says of weights is what FSDP gives to rank 0, to half a percent (of uneven rows)."""
    s = plan.shape(CONFIGS / name)
    if lora:
        s["vlm"].autocast_dtype = s["vlm"].file_dtype = torch.bfloat16
        add_adapters(s["vlm"], lora)
        s["vlm"].train_only(PARTS)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=gpus)
    try:
        vlm = shard(s["vlm"], World(0, gpus, torch.device("meta")))
        local = sum(p.to_local().nbytes for p in vlm.parameters())
        assert all(p.is_meta for p in vlm.parameters())
        assert len(list(vlm.parameters())) == sum(map(len, vlm.parts().values()))
    finally:
        dist.destroy_process_group()
    table = plan.memory(s, plan.Config(gpus=gpus, lora=lora))["training"]
    planned = table["weights, fp32"] + table["frozen matrices, bf16"]
    assert local / plan.GIB == pytest.approx(planned, rel=5e-3)


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


def test_one_card_is_told_what_fits_it(capsys):
    """No flag stands twice in an advice, and adapters are advised with the parts that fit beside them."""
    card = plan.Config(str(CONFIGS / "Qwen2.5-VL-3B"), gpus=1, gpu_gib=24, tokens=8192, max_new_tokens=2048)
    assert not plan.plan(card)
    told, adapters = capsys.readouterr().out.strip().splitlines()[-2:]
    flags = [word for word in told.split() if word.startswith("--")]
    assert flags and len(set(flags)) == len(flags)
    assert adapters.endswith(": --lora 8 --train connector llm")
    fits = dataclasses.replace(card, lora=8, train=("connector", "llm"))
    assert plan.plan(fits)
    # responses of 8,192 do not fit the sampler, and no smaller pack helps it
    assert not plan.plan(dataclasses.replace(fits, max_new_tokens=8192))
    assert capsys.readouterr().out.strip().endswith("The smallest change that would: --max_new_tokens 4096")
    # a pack holds at least a prompt and its response, so a smaller one is no advice
    small = plan.Config(str(CONFIGS / "InternVL3-1B"), gpus=1, gpu_gib=24, rollout="vllm")
    assert all(change["tokens"] >= small.visual + small.max_new_tokens
               for _, change in plan.changes(small) if "tokens" in change)
    plan.plan(dataclasses.replace(fits, tokens=2048))  # 3,328 visual tokens do not fit a pack of 2,048
    assert "packs of 2,048 tokens of which 2,048 are visual" in capsys.readouterr().out


def test_what_is_frozen_costs_less():
    s = plan.shape(CONFIGS / "Qwen2.5-VL-7B")
    whole, connector = (plan.memory(s, plan.Config(rollout="none", train=t))["training"]
                        for t in (PARTS, ("connector",)))
    assert connector["optimizer (AdamW, fp32)"] < 0.01 * whole["optimizer (AdamW, fp32)"]
    half = sum(p.numel() for name, p in s["vlm"].named_parameters() if p.ndim == 2 and "merger" not in name
               and "embed" not in name and "lm_head" not in name)
    assert whole["frozen matrices, bf16"] == 0 < connector["weights, fp32"] < 0.2 * whole["weights, fp32"]
    assert 8 * connector["frozen matrices, bf16"] * plan.GIB == pytest.approx(2 * half)
    assert plan.memory(s, plan.Config(rollout="none", offload=True))["training"]["weights, fp32"] == 0
    near, far = (plan.memory(s, plan.Config(gpus=32, hybrid=h))["training"]["weights, fp32"]
                 for h in (True, False))
    assert near == 4 * far


def test_adapters_cost_little():
    """Weights, gradients and optimizer by hand; the card that is too small for the whole LLM holds them."""
    s = plan.shape(CONFIGS / "InternVL3-2B")
    whole = plan.Config(gpus=1, gpu_gib=24, tokens=8192, rollout="none")
    cfg = dataclasses.replace(whole, lora=8)
    rows = {what: n * plan.GIB for what, n in plan.memory(s, cfg)["training"].items()}
    t = s["vlm"].hf.config.text_config
    wide, ff = t.hidden_size, t.intermediate_size
    kv = t.num_key_value_heads * (wide // t.num_attention_heads)
    adapters = 8 * t.num_hidden_layers * (2 * (wide + wide) + 2 * (wide + kv) + 3 * (wide + ff))
    matrices = t.num_hidden_layers * (2 * wide * wide + 2 * wide * kv + 3 * wide * ff)
    learns = s["parts"]["encoder"] + s["parts"]["connector"] + adapters
    assert rows["weights, fp32"] == pytest.approx(4 * (s["total"] - matrices + adapters))
    assert rows["frozen matrices, bf16"] == pytest.approx(2 * matrices)
    assert rows["optimizer (AdamW, fp32)"] == pytest.approx(8 * learns)
    assert rows["gradients, fp32"] == pytest.approx(4 * learns)
    assert plan.need(s, cfg) <= plan.room(cfg) < plan.need(s, whole)


def test_a_card_that_is_too_small_is_told_of_adapters(capsys):
    cfg = plan.Config(model=str(CONFIGS / "InternVL3-2B"), gpus=1, gpu_gib=24, tokens=8192, rollout="none")
    assert not plan.plan(cfg) and "in place of the whole LLM: --lora 8\n" in capsys.readouterr().out
    assert plan.plan(dataclasses.replace(cfg, lora=8))
    assert " of them train: adapters of rank 8\n" in capsys.readouterr().out
    assert not plan.plan(dataclasses.replace(cfg, lora=8, gpu_gib=4))
    assert "in place of" not in capsys.readouterr().out


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
