"""Every family against plain transformers: packs, gradients, positions, placeholders, names, saving."""
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, Qwen2_5_VLProcessor, Qwen3VLProcessor

import connector_tune
import pack as attention
from conftest import close, gradients, plain, plain_forward, plain_inputs, write_jsonl
from data import Processor, Record, read_records
from families import make_internvl35, make_llava, make_qwen, make_qwen3
from machinery.families import FAMILIES, read_config
from machinery.files import Refused
from model import load
from pack import make_packs
from patched import patched
from rollout import TorchSampler


def tensors(*modules):
    return {f"model.{module}.{name}" for module in modules for name in ("weight", "bias")}


MERGERS = ("visual.merger", "visual.deepstack_merger_list.0", "visual.deepstack_merger_list.1")
CONNECTORS = {  # the tiny world's InternVL goes through test_model.py and test_rollout.py
    "internvl3.5": tensors(*(f"multi_modal_projector.{n}" for n in ("layer_norm", "linear_1", "linear_2"))),
    "qwen": {*tensors("visual.merger.mlp.0", "visual.merger.mlp.2"), "model.visual.merger.ln_q.weight"},
    "qwen3": tensors(*(f"{m}.{n}" for m in MERGERS for n in ("norm", "linear_fc1", "linear_fc2"))),
}


@pytest.fixture(scope="session", params=sorted(CONNECTORS))
def family(request):
    return request.param


@pytest.fixture(scope="session")
def path(family, tmp_path_factory, model_path):
    if family == "internvl3.5":
        return str(make_internvl35(tmp_path_factory.mktemp(family), model_path))
    make = make_qwen3 if family.startswith("qwen3") else make_qwen
    return str(make(tmp_path_factory.mktemp(family), tied=family.endswith("-tied")))


@pytest.fixture(scope="session")
def processor(path):
    return Processor(path, max_tiles=4)


@pytest.fixture(scope="session")
def groups(processor, tmp_path_factory):
    """One image, several, none, several tiles, an odd shape, mixed: [(prompt, [ids, ...])]"""
    folder = tmp_path_factory.mktemp("images")
    g = torch.Generator().manual_seed(0)
    for name, (h, w) in {"a": (48, 48), "b": (60, 140), "c": (97, 33), "d": (20, 20)}.items():
        pixels = torch.randint(0, 256, (h, w, 3), generator=g, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{name}.png")
    table = [("What is in <image>?", ["a"]), ("Compare <image 2> with <image 1>.", ["a", "b"]),
             ("What is 3 + 4?", []), ("Which is larger?", ["c", "b", "d"]),
             ("<image 1> or once more <image 1>?", ["c"]), ("Why?", [])]
    write_jsonl(folder / "rows.jsonl",
                [{"question": q, "images": [f"{n}.png" for n in names], "answer": "7"} for q, names in table])
    prompts = processor.prompts(read_records(folder / "rows.jsonl"))
    lengths = [(5, 9), (7, 3, 2), (6,), (8, 4), (3, 11), (2,)]
    drawn = [[torch.randint(0, 250, (n,), generator=g).tolist() for n in ns] for ns in lengths]
    return list(zip(prompts, drawn))


@pytest.mark.parametrize("family", [*CONNECTORS, "qwen3-tied"], indirect=True, scope="session")
def test_pack_equals_plain_transformers(path, processor, groups):
    vlm, hf = load(path, checkpointing=True), plain(path)
    pack, = make_packs(processor, groups)
    logp, entropy = vlm(pack)
    logp_1, entropy_1 = plain_forward(hf, processor, groups, never=vlm.never)
    close(logp, logp_1)
    close(entropy, entropy_1)
    a, b = torch.randn(2, len(logp), generator=torch.Generator().manual_seed(7))
    (logp @ a + entropy @ b).backward()
    (logp_1 @ a + entropy_1 @ b).backward()
    ours, theirs = gradients(vlm.hf), gradients(hf)
    assert ours.keys() == theirs.keys() == dict(hf.named_parameters()).keys()
    for name in theirs:
        close(ours[name], theirs[name])


def reference_varlen(q, k, v, q_ends, k_ends, longest_q, longest_k, scale, causal):
    """What the fused kernels compute, segment by segment: causal from the end, with fewer heads of keys."""
    assert longest_q == q_ends.diff().max() and longest_k == k_ends.diff().max()
    assert q_ends[-1] == len(q) and k_ends[-1] == len(k)
    outs = []
    for a, b, c, d in zip(q_ends, q_ends[1:], k_ends, k_ends[1:]):
        Q, K, V = (x.repeat_interleave(q.shape[1] // x.shape[1], 1).transpose(0, 1)
                   for x in (q[a:b], k[c:d], v[c:d]))
        see = torch.ones(b - a, d - c, dtype=torch.bool).tril(d - c - (b - a)) if causal else None
        out = torch.nn.functional.scaled_dot_product_attention(Q, K, V, attn_mask=see, scale=scale)
        outs.append(out.transpose(0, 1))
    return torch.cat(outs)


def test_fused_attention_gets_the_same_layout(path, processor, groups, monkeypatch):
    """The kernels run on a GPU alone (bench/gpu_check.py). Here: are they handed the right rows?"""
    vlm = load(path)
    out = {}
    for fused in (False, True):
        monkeypatch.setattr(attention, "fused", lambda x, fused=fused: fused)  # the LLM's and the encoder's
        monkeypatch.setattr(attention, "varlen", reference_varlen)
        pack, = make_packs(processor, groups)
        logp, entropy = vlm(pack)
        vlm.zero_grad()
        (logp.sum() + entropy.square().sum()).backward()
        out[fused] = logp.detach(), gradients(vlm)
    close(out[True][0], out[False][0])
    for name, grad in out[False][1].items():
        close(out[True][1][name], grad)


def test_varlen_gives_torch_its_arguments(monkeypatch):
    def kernel(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa):
        assert enable_gqa and window_size in ((-1, 0), (-1, -1))
        return reference_varlen(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale,
                                window_size == (-1, 0))

    monkeypatch.setattr(attention, "varlen_attn", kernel)
    q, k, v = torch.randn(7, 4, 8), torch.randn(9, 2, 8), torch.randn(9, 2, 8)
    q_ends, k_ends = torch.tensor([0, 3, 7]), torch.tensor([0, 4, 9])
    for causal in (True, False):
        ours = attention.varlen(q, k, v, q_ends, k_ends, 4, 5, 0.3, causal)
        assert torch.allclose(ours, reference_varlen(q, k, v, q_ends, k_ends, 4, 5, 0.3, causal), atol=1e-6)


def test_connector_by_name(path, family):
    vlm = load(path)
    assert vlm.parts()["connector"].keys() == CONNECTORS[family]
    assert sum(len(p) for p in vlm.parts().values()) == len(dict(vlm.hf.named_parameters()))
    assert all(n.startswith(("model.vision_tower.", "model.visual.")) and "merger" not in n
               for n in vlm.parts()["encoder"])


def test_saved_model_is_plain_transformers(path, processor, groups, tmp_path):
    vlm = load(path)
    with torch.no_grad():
        for p in vlm.parameters():
            p.mul_(1.1)
    vlm.save(tmp_path)
    hf = plain(tmp_path)
    close(vlm(*make_packs(processor, groups))[0], plain_forward(hf, processor, groups, never=vlm.never)[0])
    assert load_file(f"{path}/model.safetensors").keys() == load_file(tmp_path / "model.safetensors").keys()
    tied = hf.lm_head.weight is hf.model.language_model.embed_tokens.weight
    assert tied == json.loads((tmp_path / "config.json").read_text()).get("tie_word_embeddings", False)
    close(load(str(tmp_path))(*make_packs(processor, groups))[0], vlm(*make_packs(processor, groups))[0], 0)


def test_sampler_and_trainer_agree(path, processor, groups):
    vlm = load(path)
    prompts = [p for p, _ in groups]
    rollouts = TorchSampler(vlm, processor).generate(prompts, n=3, max_new_tokens=24, seed=1)
    pack, = make_packs(processor, [(p, [r.ids for r in g]) for p, g in zip(prompts, rollouts)])
    logp, entropy = vlm(pack)
    close(torch.cat([r.logp for g in rollouts for r in g]), logp)
    close(torch.cat([r.entropy for g in rollouts for r in g]), entropy)
    assert not {i for r in sum(rollouts, []) for i in r.ids} & set(vlm.never)


def test_greedy_is_generate(path, processor, groups):
    """The positions of sampled tokens, too, are transformers' own."""
    vlm, hf = load(path), plain(path)
    for prompt, _ in groups[1:4]:
        (ours,), = TorchSampler(vlm, processor).generate([prompt], n=1, max_new_tokens=12, temperature=0)
        theirs = hf.generate(**plain_inputs(processor, prompt, []), max_new_tokens=12, do_sample=False,
                             suppress_tokens=vlm.never)[0]
        assert theirs[len(prompt.full):].tolist()[:len(ours.ids)] == ours.ids


# --------------------------------------------------------------------------------- what is special to Qwen-VL

of_qwen = pytest.mark.parametrize("family", ["qwen", "qwen3"], indirect=True, scope="session")


@of_qwen
def test_positions_are_those_of_get_rope_index(path, processor, groups):
    hf = plain(path)
    for prompt, _ in groups:
        ids = torch.tensor([prompt.full])
        theirs, delta = hf.model.get_rope_index(ids, mm_token_type_ids=(ids == processor.image_id).int(),
                                                image_grid_thw=processor.pixels(prompt).get("image_grid_thw"))
        ours = processor.positions(prompt)
        assert torch.equal(ours, theirs[:, 0])
        pack, = make_packs(processor, [(prompt, [[5, 6], [7, 8, 9]])])
        behind = len(prompt.full) + int(delta)  # responses go on where generation would
        follow = [behind, behind + 1, behind, behind + 1, behind + 2]
        assert pack.positions[:, len(prompt.full):].tolist() == [follow] * 3


@of_qwen
def test_grid_is_the_processors(path):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
    g = torch.Generator().manual_seed(0)
    for pixels in ((0, 0), (2000, 9000), (64, 64)):
        processor = Processor(path, pixels=pixels)
        least, most = (processor.image_processor.size[edge] for edge in ("shortest_edge", "longest_edge"))
        unit = {"qwen2_5_vl": 8, "qwen3_vl": 32}[processor.config.model_type]
        for h, w in torch.randint(1, 300, (200, 2), generator=g).tolist():
            if max(h, w) > 200 * min(h, w):  # rows of such pictures are not used
                continue
            theirs = smart_resize(h, w, unit, least, most)
            assert tuple(unit * x for x in processor.family.grid(processor.image_processor, (h, w))) == theirs
        for h, w in [(30, 200), (64, 64), (7, 9)]:
            got = processor.image_processor(Image.new("RGB", (w, h)), return_tensors="pt")
            grid = processor.family.grid(processor.image_processor, (h, w))
            assert got["image_grid_thw"].tolist() == [[1, *(2 * x for x in grid)]]
            patches = processor.image_processor.get_number_of_image_patches(h, w, {})
            tokens = processor.family.image_tokens(processor.image_processor, (h, w), processor.per_tile)
            assert tokens * 4 == patches == len(got["pixel_values"])


@pytest.mark.parametrize("thinking", [True, False])
def test_template_that_begins_to_think_itself(tmp_path, thinking):
    """Qwen3-VL-Thinking's template ends with <think>: once in the prompt, not at all without thinking."""
    processor = Processor(str(make_qwen3(tmp_path)))
    record = Record("a", "Why?")
    usual = processor._text(record, thinking)
    old = processor.tokenizer.chat_template
    processor.tokenizer.chat_template = old.replace("assistant\\n", "assistant\\n<think>\\n")
    turn = [{"role": "user", "content": []}]
    text = processor.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert text.endswith("<think>\n")
    assert processor._text(record, thinking) == usual and usual.count("<think>") == thinking


@of_qwen
def test_prompt_is_the_real_processors(path, processor, groups):
    """The processors want torchvision for their videos; their own method that expands an image does not."""
    own = AutoImageProcessor.from_pretrained(path, backend="pil")
    for prompt, _ in groups:
        inputs, at = processor.pixels(prompt), iter(range(9))
        if inputs:
            whole = own(processor.images(prompt), return_tensors="pt")
            assert all(torch.equal(inputs[name], value) for name, value in whole.items())
        real = SimpleNamespace(image_processor=processor.image_processor, image_token=processor.image_mark)
        text = processor._text(prompt.record, True)
        kind = {"qwen2_5_vl": Qwen2_5_VLProcessor, "qwen3_vl": Qwen3VLProcessor}[processor.config.model_type]
        mark = re.escape(processor.image_mark)
        text = re.sub(mark, lambda _: kind.replace_image_token(real, inputs, next(at)), text)
        assert processor.tokenizer(text, add_special_tokens=False)["input_ids"] == prompt.full


# ------------------------------------------------------------------------------------------- connector tuning

def test_connector_tuning_moves_only_the_connector(path, family, groups, tmp_path, no_trainer):
    """Byte for byte, with the encoder's features kept or computed, and with rows without images."""
    taught, losses = tmp_path / "taught.jsonl", []
    rows = [p.record for p, _ in groups]
    write_jsonl(taught, [{"question": r.question, "images": r.images, "answer": "3",
                          "solution": "So it is.\n</think>\n\n\\boxed{3}"} for r in rows])
    for name, gib in {"kept": 1.0, "computed": 0.0}.items():
        out = tmp_path / name
        connector_tune.train(connector_tune.Config(
            model=path, data=str(taught), val=str(taught), out=str(out), batch=3, lr=1e-3, epochs=2,
            save_every=4, max_tiles=3, dtype="fp32", features_gib=gib))
        rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        losses.append([row["loss"] if row["step"] else row["val_loss"] for row in rows])
        before = load_file(f"{path}/model.safetensors")
        after = load_file(out / "step_000004" / "model.safetensors")
        moved = {n for n in before if not torch.equal(before[n], after[n])}
        assert before.keys() == after.keys() and len(moved) == len(CONNECTORS[family])
        assert all("projector" in n or "merger" in n for n in moved)
    assert len(losses[0]) == 5 and losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_family_that_cannot_be_packed_is_told_why(tmp_path):
    for layers, told in ((["full_attention", "linear_attention"], "layers of linear_attention: in a pack"),
                         (["full_attention"], r"families.py\)$")):
        config = {"model_type": "qwen3_5", "text_config": {"layer_types": layers}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(Refused, match=told):
            read_config(str(tmp_path))


def test_a_name_that_the_hub_does_not_know_is_told_in_one_line(monkeypatch):
    def unknown(path):
        raise OSError("no such repository")

    monkeypatch.setattr(transformers.PreTrainedConfig, "get_config_dict", unknown)
    with pytest.raises(Refused, match="^--verifier who/what: no such repository$"):
        read_config("who/what", "--verifier")


# -------------------------------------------------------------------------------------- a family of one's own

def test_a_family_of_ones_own_is_one_class(model_path, rows, tmp_path, monkeypatch):
    """Refused before forks/llava.diff. With it: loaded, equal to plain transformers, trained, saved."""
    given, saved = str(make_llava(tmp_path, model_path)), tmp_path / "saved"
    fork = patched("llava", tmp_path)
    with pytest.raises(Refused, match="is a 'llava' model; the families are internvl"):
        load(given)
    monkeypatch.setitem(FAMILIES, "llava", fork.FAMILIES["llava"])
    vlm, processor = load(given), Processor(given)
    assert vlm.parts()["connector"].keys() == tensors(*(f"multi_modal_projector.linear_{i}" for i in (1, 2)))
    prompts = processor.prompts(rows[:3])  # of one image, two and none
    groups = [(p, [[5, 6, 7 + i], [8, 9 + i]]) for i, p in enumerate(prompts)]
    pack, = make_packs(processor, groups)
    assert len(pack.visual_at) == 36 * len(pack.images["pixel_values"])
    blank = replace(pack, images=vlm.family.blank())  # of ranks without images
    assert vlm.encode(blank).shape == (36, 64)
    before = vlm(pack)[0]
    close(before, plain_forward(plain(given), processor, groups, never=vlm.never)[0])
    before.mean().neg().backward()
    assert all(any(p.grad is not None and p.grad.abs().max() > 0 for p in part.values())
               for part in vlm.parts().values())
    torch.optim.SGD(vlm.parameters(), lr=0.1).step()
    after = vlm(pack)[0]
    assert after.mean() > before.mean()
    saved.mkdir()
    vlm.save(saved)
    assert load_file(saved / "model.safetensors").keys() == load_file(f"{given}/model.safetensors").keys()
    close(load(str(saved))(pack)[0], after, 0)
    close(plain_forward(plain(saved), processor, groups, never=vlm.never)[0], after)
