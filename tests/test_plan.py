"""plan.py: published configurations without weights, simulated ranks, what would fit."""
import dataclasses
import json

import pytest
import torch

import plan
from conftest import ROOT
from machinery.model_folder import add_adapters
from machinery.parallel import half_will_do
from model import PARTS, load
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
    row = small.visual + small.max_new_tokens
    assert all(n >= row for flag, n in plan.changes(small) if flag == "tokens")
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
    half = sum(w.numel() for w in half_will_do(s["vlm"]))
    whole = sum(p.numel() for p in weights) - half
    for gpus, hybrid, share in ((1, False, 1), (16, False, 16), (16, True, 8)):
        cfg = plan.Config(gpus=gpus, hybrid=hybrid, train=train, lora=lora, rollout="none")
        rows = {what: n * plan.GIB * share for what, n in plan.memory(s, cfg)["training"].items()}
        expected = {"weights, fp32": 4 * whole, "frozen matrices, bf16": 2 * half,
                    "optimizer (AdamW, fp32)": 8 * learns, "gradients, fp32": 4 * learns}
        assert {what: rows[what] for what in expected} == pytest.approx(expected)
    rows = plan.memory(s, plan.Config(offload=True, train=train, lora=lora, rollout="none"))["training"]
    assert not any(rows[what] for what in expected)


def test_a_card_that_is_too_small_is_told_of_adapters(capsys):
    cfg = plan.Config(model=str(CONFIGS / "InternVL3-2B"), gpus=1, gpu_gib=24, tokens=8192, rollout="none")
    assert not plan.plan(cfg) and "in place of the whole LLM: --lora 8\n" in capsys.readouterr().out
    assert plan.plan(dataclasses.replace(cfg, lora=8))
    assert " of them train: adapters of rank 8\n" in capsys.readouterr().out
    assert not plan.plan(dataclasses.replace(cfg, lora=8, gpu_gib=4))
    assert "in place of" not in capsys.readouterr().out


@pytest.mark.parametrize("gpus, batch, rows", [(8, 512, 128), (1, 512, 512), (8, 64, 64), (8, 8, 32)])
def test_rows_of_a_sampler(gpus, batch, rows):
    """torch: as many as TorchSampler.generate takes at a time, of a rank's prompts or of --rollout_batch."""
    s, name = plan.shape(CONFIGS / "InternVL3-1B"), "sampler: keys and values of {} responses"
    cfg = plan.Config(gpus=gpus, rollout_batch=batch, rollout="torch")
    torch_, vllm = (plan.sampling(s, dataclasses.replace(cfg, rollout=kind)) for kind in ("torch", "vllm"))
    token = s["kv"] * s["layers"]
    assert torch_[name.format(rows)] == 6 * token * (rows * 8192 + 2 * rows // 32 * cfg.visual)
    assert vllm[name.format(16)] == 4 * token * 16 * (8192 + cfg.visual)


def test_selection_trains_nothing():
    """vLLM is awake beside the shards; the torch sampler needs all of the model, once."""
    s = plan.shape(CONFIGS / "InternVL3-38B")
    vllm, torch_ = (plan.memory(s, plan.Config(select=True, rollout=kind)) for kind in ("vllm", "torch"))
    assert vllm.keys() == torch_.keys() == {"sampling"}
    assert {"sampler: weights, bf16", "gathered weights, bf16"} < vllm["sampling"].keys()
    for what in ("weights, fp32", "frozen matrices, bf16", "optimizer (AdamW, fp32)"):
        assert torch_["sampling"][what] == 8 * vllm["sampling"][what]
    assert torch_["sampling"]["frozen matrices, bf16"] * plan.GIB == 2 * sum(s["linear"].values())
    assert not torch_["sampling"]["optimizer (AdamW, fp32)"]


@pytest.mark.parametrize("name, cut, blocks", [  # MiB of the LLM's matrices (fused), and of all others
    ("InternVL3-8B", 1, 28 * [32, 32, 512, 256] + [2048] * 2 + 24 * [2, 2, 2, 2, 8, 8] + [32, 32]),
    ("InternVL3-38B", 4, 64 * [32, 16, 256, 128] + [512] * 2 + 45 * [32, 32, 32, 32, 32, 32] + [128, 64])])
def test_host_memory_of_a_sleeping_engine(name, cut, blocks, capsys):
    cfg = plan.Config(str(CONFIGS / name), gpus=16, tensor_parallel=cut)
    assert plan.sleeping(plan.shape(cfg.model), cfg) == pytest.approx(sum(blocks) / 1024, rel=1e-3)
    plan.plan(cfg)
    assert f"an engine, {sum(blocks) / 128:.0f} a node" in capsys.readouterr().out


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
