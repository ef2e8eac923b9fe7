"""--lora: what trains, what leaves the trainer merged, and what a run goes on from."""
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import model
from conftest import gradients, plain
from data import Processor
from families import copy_all_but_weights, hub_shaped, make_qwen, make_qwen3, tie_weights_of
from machinery.model_folder import is_adapter, merged
from model import load
from pack import make_packs

RANK = 8
FOLDERS = ("internvl", "internvl tied", "qwen", "qwen tied", "qwen3")


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request, model_path, tmp_path_factory):
    """A model folder of each family, with the output layer tied and not."""
    folder, tied = tmp_path_factory.mktemp("lora") / "model", "tied" in request.param
    if request.param.startswith("internvl"):
        shutil.copytree(model_path, folder)
        return str(hub_shaped(tie_weights_of(folder) if tied else folder, text=tied))
    folder.mkdir()
    make = make_qwen3 if request.param.startswith("qwen3") else make_qwen
    return str(make(folder, tied=tied, layers=3, depth=3))


def learned(vlm, size=0.05):
    """As if the adapters had learned: all of them are random."""
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in vlm.named_parameters():
            if is_adapter(name):
                p.add_(size * torch.randn(p.shape, generator=g))
    return vlm


def packed(path, rows):
    """A pack of one image, two, none."""
    processor = Processor(path, max_tiles=4)
    groups = [(p, [[7, 8, 9, 10 + i], [11] * (1 + i)]) for i, p in enumerate(processor.prompts(rows[:3]))]
    return make_packs(processor, groups)[0]


def test_merged_checkpoint_equals_base_and_adapters(folder, rows, tmp_path):
    """At the start it is the model that was given, bit for bit; later the folder that is saved is base and
    adapters together, in an ordinary model of the same tensors."""
    vlm, pack = load(folder, lora=RANK), packed(folder, rows)
    with torch.no_grad():
        begin, _ = vlm(pack)
        assert torch.equal(begin, load(folder)(pack)[0])
        logp, _ = learned(vlm)(pack)
        assert float((logp - begin).abs().max()) > 0.1
        vlm.save(tmp_path)
        again = load(tmp_path)
        assert not any(is_adapter(name) for name, _ in again.named_parameters())
        assert float((again(pack)[0] - logp).abs().max()) < 1e-5
    before, after = (load_file(f"{path}/model.safetensors") for path in (folder, tmp_path))
    assert {n: t.shape for n, t in before.items()} == {n: t.shape for n, t in after.items()}
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved == {n for n in before if "layers." in n and "visual" not in n and "vision" not in n
                     and n.endswith("proj.weight")}


def test_adapters_get_a_gradient_and_nothing_else_of_the_llm(folder, rows):
    vlm = learned(load(folder, train=("connector", "llm"), lora=RANK, checkpointing=True))
    logp, entropy = vlm(packed(folder, rows))
    (logp.sum() + entropy.sum()).backward()
    got = {part: {n for n, p in named.items() if p.grad is not None and float(p.grad.abs().max()) > 0}
           for part, named in vlm.parts().items()}
    assert got["encoder"] == set() and got["connector"] == set(vlm.parts()["connector"])
    linear = {n.removesuffix(".base_layer.weight") for n in vlm.parts()["llm"] if "base_layer.weight" in n}
    assert got["llm"] == {f"{n}.lora_{which}.default.weight" for n in linear for which in "AB"}
    assert len(linear) == 7 * vlm.hf.config.text_config.num_hidden_layers
    for name, p in vlm.parts()["llm"].items():
        assert p.requires_grad == is_adapter(name) == (p.grad is not None), name
    assert all(RANK in p.shape for n, p in vlm.parts()["llm"].items() if is_adapter(n))


@pytest.mark.parametrize("folder", ["internvl", "qwen", "qwen3"], indirect=True)
@pytest.mark.parametrize("train, lora", [(("connector", "llm"), RANK), (("connector",), 0)])
def test_what_is_frozen_waits_in_bf16_and_changes_no_number(folder, rows, tmp_path, train, lora, monkeypatch):
    """Of a file in bf16 the frozen matrices are bf16 when bf16 is computed in, and only then. Log-probs,
    gradients, and what is saved are those of weights in fp32, bit for bit."""
    path, found = tmp_path / "file", []
    path.mkdir()
    copy_all_but_weights(folder, path)
    plain(folder).to(torch.bfloat16).save_pretrained(path)
    for half in (True, False):
        if not half:
            monkeypatch.setattr(model, "bf16_weights", lambda vlm: [])
        vlm = learned(load(path, dtype="bf16", train=train, lora=lora))
        kept = {n for n, p in vlm.hf.named_parameters() if p.dtype == torch.bfloat16}
        assert not kept & {n for n, p in vlm.hf.named_parameters() if p.requires_grad}
        assert {vlm.family.part_of(n) for n in kept} == ({"encoder", "llm"} if half else set())
        assert not any("embed" in n or "lm_head" in n or "norm" in n for n in kept)
        logp, entropy = vlm(packed(path, rows))
        (logp.sum() + entropy.sum()).backward()
        (tmp_path / f"half {half}").mkdir()
        vlm.save(tmp_path / f"half {half}")
        saved = load_file(tmp_path / f"half {half}" / "model.safetensors")
        found.append({"logp": logp, **gradients(vlm), **saved})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(t, found[1][name]) for name, t in found[0].items())
    monkeypatch.undo()
    for dtype, file in (("fp32", path), ("bf16", folder)):
        vlm = load(file, dtype=dtype, train=train, lora=lora)
        assert all(p.dtype == torch.float32 for p in vlm.parameters())


def test_fresh_adapters_follow_the_seed_and_are_counted(model_path):
    vlm = load(model_path, train=("connector", "llm"), lora=RANK)
    size = sum(p.numel() for n, p in vlm.parts()["llm"].items() if is_adapter(n))
    assert f" {size:,} of them train: adapters of rank {RANK}" in vlm.table().splitlines()[3]

    def first(seed):
        torch.manual_seed(seed)
        torch.rand(seed)  # whatever was drawn before
        return [p for name, p in load(model_path, lora=RANK).named_parameters() if ".lora_A." in name]
    assert all(torch.equal(a, b) for a, b in zip(first(1), first(1)))
    assert not any(torch.equal(a, b) for a, b in zip(first(1), first(2)))
    assert len({float(a.detach().sum()) for a in first(1)}) == len(first(1))  # no two alike


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_vllm_is_given(folder, rows, engine, dtype, monkeypatch):
    """A sync into an ordinary model that stands in for vLLM's, with its names: it gets the merged weights in
    its own precision, one sync after the other, and computes what the trainer does."""
    vlm, theirs = load(folder, train=("connector", "llm"), lora=RANK), load(folder)
    theirs.hf.to(dtype).hf_to_vllm_mapper = SimpleNamespace(map_name=str)
    theirs.hf.lm_head.quant_method = SimpleNamespace(process_weights_after_loading=lambda layer: None)
    own = dict(theirs.hf.named_parameters())

    def load_weights(model, weights):
        names = set()
        for name, t in weights:
            assert t.dtype == dtype
            own[name].data.copy_(t)
            names.add(name)
        return names

    monkeypatch.setattr(type(theirs.hf), "load_weights", load_weights, raising=False)
    worker = SimpleNamespace(model_runner=SimpleNamespace(get_model=lambda: theirs.hf),
                             reload_weights=lambda weights_iterator: theirs.hf.load_weights(weights_iterator))
    marks, pack = [], packed(folder, rows)
    for size in (0.05, 0.02):
        parts = {part: named for part, named in vlm.parts().items() if part != "encoder"}
        engine.receive(worker, learned(vlm, size), parts, dtype)
        for name, t in merged(vlm.parts()["llm"]):
            assert torch.equal(own[name], t.to(dtype)), name
        with torch.no_grad():
            gap = (theirs(pack)[0] - vlm(pack)[0]).abs().max() if dtype == torch.float32 else 0.0
        assert gap < 1e-5
        marks.append(engine.checksums(vlm))
    assert marks[0] != marks[1]  # so a sync that was left out is seen
