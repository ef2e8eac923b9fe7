"""The authors' own release -> a plain folder: every tensor, the forward pass, and what is refused."""
import json
import runpy
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import chat_release as release
from conftest import ROOT, close, plain, plain_forward, write_jsonl
from data import Processor, read_records
from machinery.files import Refused
from model import load
from pack import make_packs
from recipes import convert as recipe

KINDS = {"r1v3": dict(), "bf16": dict(dtype=torch.bfloat16, shards=2),
         "tied": dict(model_type="internvl_chat", large=False, tied=True, shards=3)}


def convert(source, out):
    recipe.convert(recipe.Config(model=str(source), out=str(out)))
    return out


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    """(the published folder, the converted one, the model that both hold)"""
    folder, kind = tmp_path_factory.mktemp(request.param), KINDS[request.param]
    source = release.make_release(folder / "theirs", **kind)
    model = release.make_model(kind.get("large", True), kind.get("tied", False))
    for p in model.parameters():  # and not the rotary embedding's frequencies
        p.data = p.data.to(kind.get("dtype", torch.float32)).float()
    return source, convert(source, folder / "ours"), model


def test_every_tensor(both):
    """Bit for bit and in the published precision; whole, it is a folder like any other."""
    source, out, model = both
    ours, theirs = plain(out), model.state_dict()
    assert ours.state_dict().keys() == theirs.keys()
    assert all(torch.equal(t, theirs[name]) for name, t in ours.state_dict().items())
    files = [[load_file(file) for file in folder.glob("*.safetensors")] for folder in (source, out)]
    kinds = [{t.dtype for file in of for t in file.values()} for of in files]
    assert len(files[0]) == len(files[1]) and len(kinds[0]) == 1 and kinds[0] == kinds[1]
    tied = ours.lm_head.weight is ours.model.language_model.embed_tokens.weight
    assert tied == ("tied" in str(out))


def test_it_computes_the_same(both, tmp_path):
    """Encoder, connector and LLM on a prompt with two tiles and a thumbnail, one without an image."""
    _, out, model = both
    g = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (60, 130, 3), generator=g, dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "a.png")
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "What is it?", "images": ["a.png"], "answer": "1"},
                                          {"question": "Why?", "answer": "2"}])
    processor, vlm = Processor(str(out), max_tiles=4), load(str(out))
    prompts = processor.prompts(read_records(tmp_path / "rows.jsonl"))
    groups = [(p, [[7, 8, 9, 30 + i], [5]]) for i, p in enumerate(prompts)]
    pack, = make_packs(processor, groups)
    assert len(pack.images["pixel_values"]) == 3
    close(vlm(pack)[0], plain_forward(model, processor, groups, never=vlm.never)[0])


def test_tokens_pixels_and_template(both, tmp_path):
    _, out, _ = both
    processor = Processor(str(out), max_tiles=1)
    g = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (48, 48, 3), generator=g, dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "a.png")
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "Is it \u00e9?", "images": ["a.png"], "answer": "1"}])
    prompt, = processor.prompts(read_records(tmp_path / "rows.jsonl"))
    text = "<|im_start|>user\n<img>" + 9 * "<IMG_CONTEXT>" + "</img>\nIs it \u00e9?<|im_end|>\n" \
           "<|im_start|>assistant\n<think>\n"
    assert processor.tokenizer.decode(prompt.full) == text
    marks = [release.IDS[t] for t in ("<|im_start|>", "<img>", "<IMG_CONTEXT>", "</img>", "<|im_end|>")]
    assert prompt.full[:6] == [marks[0], *map(release.BYTES.index, "user\u010a")]
    assert prompt.full[6:17] == [marks[1], *9 * [marks[2]], marks[3]]
    assert processor.image_id == marks[2] and processor.stop_ids == marks[4:]
    mean, std = (torch.tensor(x)[:, None, None] for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    want = (pixels.permute(2, 0, 1) / 255 - mean) / std
    assert torch.allclose(processor.pixels(prompt)["pixel_values"][0], want, atol=1e-5)
    settings = json.loads((out / "preprocessor_config.json").read_text())
    assert settings["max_patches"] == 12 and settings["crop_to_patches"]
    # what transformers' own processor and vLLM make of an image
    assert processor.config.image_seq_length == processor.per_tile == 9
    roles = ("start_image_token", "end_image_token", "context_image_token", "video_token")
    tokens = [getattr(processor.tokenizer, role) for role in roles]
    assert tokens == ["<img>", "</img>", "<IMG_CONTEXT>", "<|video_pad|>"]


def test_command(tmp_path, monkeypatch):
    """Started by its path, where Python puts recipes/ on the path and not the top folder."""
    source = release.make_release(tmp_path / "theirs", shards=2)
    monkeypatch.setattr("sys.argv", ["convert.py", "--model", str(source), "--out", str(tmp_path / "ours")])
    monkeypatch.setattr("sys.path", [str(ROOT / "recipes"), *sys.path])
    runpy.run_path(str(ROOT / "recipes" / "convert.py"), run_name="__main__")
    assert sys.path[0] == str(ROOT)
    with pytest.raises(Refused, match="'skywork_chat' model.*recipes/convert.py --model .*theirs -"):
        load(str(source))


def test_system_message_of_the_release(tmp_path):
    source = edited(tmp_path, {}, system_message="Du bist 'R1V'.")
    template = Processor(str(convert(source, tmp_path / "ours"))).tokenizer.apply_chat_template
    said, system = [{"role": "user", "content": "x"}], [{"role": "system", "content": "y"}]
    own = "<|im_start|>system\nDu bist 'R1V'.<|im_end|>\n<|im_start|>user\nx<|im_end|>\n"
    assert template(said, tokenize=False) == own
    assert template(system + said, tokenize=False) == own.replace("Du bist 'R1V'.", "y")


def edited(tmp_path, parts, **root):
    """A release whose config.json says something else; {part: {key: value}}, None takes a key away."""
    source = release.make_release(tmp_path / "theirs")
    raw = json.loads((source / "config.json").read_text())
    for part, changes in {**parts, None: root}.items():
        here = raw[part] if part else raw
        here |= changes
        for key in [k for k, v in changes.items() if v is None]:
            del here[key]
    (source / "config.json").write_text(json.dumps(raw))
    return source


@pytest.mark.parametrize("parts, root, words", [
    ({}, dict(ps_version=None), "ps_version"), ({}, dict(pad2square=True), "pad2square"),
    ({}, dict(use_thumbnail=False), "use_thumbnail"), ({}, dict(force_image_size=96), "force_image_size"),
    ({"llm_config": dict(vocab_size=260)}, {}, "no token <img>, or one outside of the 260"),
    ({"vision_config": dict(layer_norm_eps=1e-5)}, {}, "layer_norm_eps")])
def test_configurations_that_are_refused(tmp_path, parts, root, words):
    source = edited(tmp_path, parts, **root)
    with pytest.raises(Refused, match=words):
        convert(source, tmp_path / "ours")
    assert [p.name for p in tmp_path.iterdir()] == ["theirs"]
