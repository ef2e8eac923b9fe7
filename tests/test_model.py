"""model.py against plain transformers and fp64: packs, the chunked head, parts by name, saving, refusing."""
import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer,
                          InternVLProcessor)

import connector
import model
import sft
from conftest import close, gradients, plain, plain_forward
from data import Processor, open_image
from machinery import head
from machinery.run import Run
from machinery.files import Refused, newest_checkpoint
from machinery.model_folder import not_finite
from machinery.parallel import World
from model import load, make_optimizer
from pack import Layout, make_pack, make_packs


def weights_for(n):  # of an objective in which every token counts differently
    return torch.randn(2, n, generator=torch.Generator().manual_seed(7))


# ------------------------------------------------------------------------------------------------------ packs

def test_pack_equals_one_by_one(vlm, processor, groups, model_path):
    pack, = make_packs(processor, groups, temperature=0.7)
    logp, entropy = vlm(pack)
    hf = plain(model_path)
    logp_1, entropy_1 = plain_forward(hf, processor, groups, 0.7)
    close(logp, logp_1)
    close(entropy, entropy_1)
    a, b = weights_for(len(logp))
    (logp @ a + entropy @ b).backward()
    (logp_1 @ a + entropy_1 @ b).backward()
    ours, theirs = gradients(vlm.hf), gradients(hf)
    assert ours.keys() == theirs.keys()
    for name in theirs:
        close(ours[name], theirs[name])


def test_pack_computes_a_prompt_once(processor, groups):
    pack, = make_packs(processor, groups)
    assert len(pack.ids) == sum(len(p.full) + sum(map(len, rs)) for p, rs in groups)
    visual = sum(p.full.count(processor.image_id) for p, _ in groups)
    assert len(pack.images["pixel_values"]) == visual // processor.per_tile
    assert pack.target.tolist() == [t for _, rs in groups for t in sum(rs, [])]


def test_owner_numbers_responses_over_all_packs(processor, groups):
    numbered = [r for _, rs in groups for r in rs]
    for limit in (10 ** 6, 90, 40, 1):
        packs = make_packs(processor, groups, max_tokens=limit)
        owner = torch.cat([p.owner for p in packs]).tolist()
        target = torch.cat([p.target for p in packs]).tolist()
        assert owner == [i for i, r in enumerate(numbered) for _ in r]
        assert target == [t for r in numbered for t in r]
        if limit >= 90:
            assert all(len(p.ids) <= limit for p in packs)


def test_layout_by_brute_force():
    """Random segments: a token sees its prefix, its own segment up to itself, and nothing else."""
    for seed in range(12):
        g = torch.Generator().manual_seed(seed)
        segments, at = [], 0
        for _ in range(4):
            P = int(torch.randint(1, 9, (1,), generator=g))
            segments.append((at, P, 0, 0))
            begin, at = at, at + P
            for _ in range(int(torch.randint(0, 4, (1,), generator=g))):
                n = int(torch.randint(1, 7, (1,), generator=g))
                segments.append((at, n, begin, P))
                at += n
        q, k, v = torch.randn(3, at, 6, 4, generator=g)
        k, v = k[:, :2], v[:, :2]
        out = Layout(segments, pad_limit=(1.0, 1.15, 1e9)[seed % 3]).attend(0, q, k, v, 0.5)
        see = torch.zeros(at, at, dtype=torch.bool)
        for start, n, prefix, P in segments:
            for i in range(start, start + n):
                see[i, prefix:prefix + P] = True
                see[i, start:i + 1] = True
        K, V = k.repeat_interleave(3, 1), v.repeat_interleave(3, 1)
        weight = (torch.einsum("ihd,jhd->hij", q, K) * 0.5).masked_fill(~see, -torch.inf).softmax(-1)
        assert torch.allclose(out, torch.einsum("hij,jhd->ihd", weight, V), atol=1e-5)


def test_visual_tokens_must_fit_their_places(vlm, processor, groups):
    pack, = make_packs(processor, groups[:1])
    pack.images = {"pixel_values": pack.images["pixel_values"].repeat(2, 1, 1, 1)}
    with pytest.raises(Refused, match=r"18 visual tokens for 9 places in the prompts of a\b"):
        vlm(pack)


# ----------------------------------------------------------------------------------------------- chunked head

@pytest.mark.parametrize("beside, precision", [(None, "ieee"), (torch.bfloat16, "tf32")])
def test_the_heads_products_alone_are_in_tf32(vlm, processor, groups, beside, precision):
    """Whatever vLLM's worker has set: forward, backward and the sampler's; not the entropy's."""
    torch.set_float32_matmul_precision("highest")
    (V, d), heads, others, vlm.autocast_dtype = vlm.hf.lm_head.weight.shape, [], set(), beside

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            if "mm" in op.name():
                a, b, now = *args[-2:], torch.backends.cuda.matmul.fp32_precision
                heads.append(now) if a.ndim == 2 and V in a.shape + b.shape else others.add(now)
            return op(*args, **(kwargs or {}))

    with Watch():
        logp, entropy = vlm(make_packs(processor, groups)[0])
        (logp.sum() + entropy.sum()).backward()
        vlm.logits(torch.zeros(2, d))
    assert heads == [precision] * 4 and others == {"ieee"}


@pytest.mark.parametrize("tokens", [1, 3, 10 ** 6])
def test_chunked_head_equals_fp64(vlm, processor, groups, monkeypatch, tokens):
    pack, = make_packs(processor, groups, temperature=0.8)
    V, d = vlm.hf.lm_head.weight.shape
    monkeypatch.setattr(model, "CHUNK", {"cpu": V * tokens + 1})
    monkeypatch.setattr(head, "KEEP", V * tokens)
    g = torch.Generator().manual_seed(3)
    hidden = torch.randn(len(pack.ids), d, generator=g).requires_grad_()
    a, b = weights_for(len(pack.source))
    sizes = []
    made = head.exponentials
    monkeypatch.setattr(head, "exponentials", lambda h, *more: sizes.append(len(h)) or made(h, *more))
    logp, entropy = vlm.head(hidden, pack)
    (logp @ a + entropy @ b).backward()
    assert max(sizes) <= tokens
    assert sum(sizes) == (1 if tokens > 100 else 2) * len(logp)  # many are computed again in the backward

    hidden64 = hidden.detach().double().requires_grad_()
    weight = vlm.hf.lm_head.weight.detach().double().requires_grad_()
    logits = hidden64[pack.source] @ weight.T / 0.8
    keep = [i for i in range(V) if i != processor.image_id]
    logits = torch.full_like(logits, -1e9).index_copy(1, torch.tensor(keep), logits[:, keep])
    p = logits.log_softmax(-1)
    logp64, entropy64 = p.gather(1, pack.target[:, None])[:, 0], -(p.exp() * p).sum(1)
    (logp64 @ a.double() + entropy64 @ b.double()).backward()
    found = (logp, entropy, hidden.grad, vlm.hf.lm_head.weight.grad)
    for ours, oracle in zip(found, (logp64, entropy64, hidden64.grad, weight.grad)):
        close(ours.double(), oracle)


def test_head_without_responses(vlm, processor, prompts):
    """A pack of prompts alone: nothing to predict, and the backward of its sum is 0, not NaN."""
    logp, entropy = vlm(make_pack(processor, [(p, []) for p in prompts]))
    assert logp.shape == entropy.shape == (0,)
    logp.sum().backward()
    assert all(float(g.abs().sum()) == 0 for g in gradients(vlm).values())


def test_bf16_keeps_fp32_logits(model_path, processor, groups):
    """Compute in bf16 over fp32 weights: close to fp32, and log-prob and entropy come out in fp32."""
    pack, = make_packs(processor, groups)
    exact = load(model_path, dtype="fp32")(pack)
    vlm = load(model_path, dtype="bf16")
    rough = vlm(pack)
    assert rough[0].dtype == rough[1].dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in vlm.parameters())
    assert (exact[0] - rough[0]).abs().mean() < 0.05 and not torch.equal(exact[0], rough[0])


# -------------------------------------------------------------------------------------------------- connector

def test_connector_is_the_familys_own(model_path):
    hf = plain(model_path)
    ours = connector.MLPConnector(hf.config.vision_config.hidden_size, hf.config.text_config.hidden_size)
    theirs = hf.model.multi_modal_projector
    shapes, own = ({n: p.shape for n, p in m.state_dict().items()} for m in (ours, theirs))
    assert shapes == own
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    features = torch.randn(3, 36, 128)
    grid = hf.model.pixel_shuffle(features.view(3, 6, 6, 128), scale_factor=0.5)
    assert torch.equal(connector.pixel_shuffle(features, ours.side), grid.flatten(1, 2))
    close(ours(features), theirs(grid.flatten(1, 2)).flatten(0, 1))


# ------------------------------------------------------------------------------------------------------ parts


@pytest.mark.parametrize("train", [("encoder",), ("connector",), ("llm",), ("encoder", "llm")])
def test_frozen_get_nothing_and_the_others_do(model_path, processor, groups, train):
    vlm = load(model_path, dtype="fp32", train=train, checkpointing=len(train) == 1)
    pack, = make_packs(processor, groups)
    features = vlm.encode(pack)
    assert (features.grad_fn is None) == ("encoder" not in train)
    visual = vlm.connect(features)
    assert (visual.grad_fn is None) == (not {"encoder", "connector"} & set(train))
    logp, entropy = vlm(pack)
    a, b = weights_for(len(logp))
    (logp @ a + entropy @ b).backward()
    for part, parameters in vlm.parts().items():
        for name, p in parameters.items():
            if part not in train:
                assert p.grad is None and not p.requires_grad, name
            else:
                assert p.grad is not None and float(p.grad.abs().max()) > 0, name


def test_compiled_blocks_compute_the_same_without_compiling_again(model_path, processor, groups):
    """From pack to pack, whatever their lengths; the machinery of torch.compile with kernels as they are."""
    vlm, again = (load(model_path, dtype="fp32", checkpointing=True) for _ in range(2))
    for one in (vlm, again):  # a layer of each is enough
        for layers in (one.hf.model.language_model.layers, one.hf.model.vision_tower.encoder.layer):
            del layers[1:]
    counter = CompileCounter()
    again.compile_blocks(counter)
    for n, some in enumerate((groups, groups[1:3], groups[::-1])):
        pack, = make_packs(processor, some)
        graphs = counter.frame_count
        for one in (vlm, again):
            one.zero_grad()
            one(pack)[0].sum().backward()
        assert counter.frame_count > graphs == 0 if n == 0 else counter.frame_count == graphs
        assert all(torch.equal(p.grad, q.grad) for p, q in zip(vlm.parameters(), again.parameters()))


# ---------------------------------------------------------------------------------------------- save and load

def test_saved_model_loads_in_plain_transformers(vlm, processor, groups, model_path, tmp_path):
    with torch.no_grad():  # something to save: not the weights it came from
        for p in vlm.parameters():
            p.add_(0.02 * torch.randn_like(p))
    vlm.save(tmp_path)
    hf, info = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    logp, entropy = plain_forward(hf, processor, groups)
    ours = vlm(*make_packs(processor, groups))
    close(ours[0], logp)
    close(ours[1], entropy)
    assert AutoTokenizer.from_pretrained(tmp_path).encode("3 + 4") == processor.tokenizer.encode("3 + 4")
    again = Processor(str(tmp_path), max_tiles=4)
    assert again.prompts([p.record for p, _ in groups])[4].full == groups[4][0].full
    assert again.stop_ids == processor.stop_ids
    assert AutoConfig.from_pretrained(tmp_path).model_type == "internvl"


def test_expanded_prompt_is_what_the_familys_processor_makes(processor, prompts, model_path):
    """Ids and pixels of every prompt are those of transformers' own processor, thumbnails included."""
    class Family(InternVLProcessor):
        def check_argument_for_proper_class(self, *_):
            pass  # goes without its video processor, which would want torchvision

    of_images = AutoImageProcessor.from_pretrained(model_path, backend="pil")
    theirs = Family(of_images, processor.tokenizer, None, processor.per_tile)
    for p in prompts:
        images = [open_image(p.record.images[i]) for i in p.record.shown]
        text = processor.tokenizer.decode(p.ids)
        out = theirs(images=images or None, text=text, crop_to_patches=True, max_patches=4,
                     return_tensors="pt")
        assert out["input_ids"][0].tolist() == p.full, p.record.id
        if images:
            ours = processor.pixels(p)["pixel_values"]
            assert torch.allclose(out["pixel_values"], ours, atol=2e-2), p.record.id


# --------------------------------------------------------------------------------------------------- refusing

def test_weights_that_do_not_match_are_refused(model_path, tmp_path):
    text = json.loads((AutoConfig.from_pretrained(model_path)).to_json_string())["text_config"]
    deep, less = ({"num_hidden_layers": n, "layer_types": ["full_attention"] * n} for n in (5, 3))
    for name, change, told in (("wide", {"intermediate_size": 352}, r"\d+ mismatched, e.g. .*mlp"),
                               ("deep", deep, r"missing, e.g. model.language_model.layers.4"),
                               ("less", less, r"unexpected, e.g. .*layers.3")):
        shutil.copytree(model_path, tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text()) | {"text_config": text | change}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        with pytest.raises(Refused, match=told):
            load(str(tmp_path / name))
    shutil.copytree(model_path, tmp_path / "nan")
    state = load_file(tmp_path / "nan" / "model.safetensors")
    next(t for n, t in state.items() if n.endswith("lm_head.weight")).flatten()[-1] = math.nan
    save_file(state, tmp_path / "nan" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Refused, match="NaN or infinity in 1 of its tensors, e.g. .*lm_head.weight"):
        load(str(tmp_path / "nan"))


def test_weights_that_are_not_finite_are_not_saved(vlm, tmp_path):
    """The checkpoint from before stays the newest, and nothing half-written is left."""
    one, optimizer = World(0, 1, torch.device("cpu")), make_optimizer(vlm, 0.0)
    run = Run(tmp_path, sft.Config(), one)
    run.save(1, vlm, optimizer, one)
    for end, value in (("lm_head.weight", "nan"), ("linear_2.bias", "inf"), ("cls_token", "-inf")):
        p = next(p for n, p in vlm.hf.named_parameters() if n.endswith(end)).detach().flatten()
        before = float(p[-1])
        p[-1] = float(value)
        with pytest.raises(Refused, match=rf"NaN or infinity in 1 tensors of the model, e.g. .*{end}: it is"):
            run.save(2, vlm, optimizer, one)
        p[-1] = before
        assert [p.name for p in tmp_path.glob("step_*")] == ["step_000001"]
    assert newest_checkpoint(tmp_path, with_trainer=True) == run.last


def test_large_weights_are_finite(model_path):
    """Their sum in fp32 may be infinite although none of them is."""
    vlm = load(model_path)
    with torch.no_grad():
        vlm.hf.lm_head.weight.fill_(3e38)
    assert not not_finite(vlm.hf)
