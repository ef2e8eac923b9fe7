"""The authors' own release -> a plain folder: every tensor, the whole forward pass, and what is refused."""
import json
import runpy
import shutil
import weakref

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import chat_release as release
from conftest import ROOT, plain, write_jsonl
from data import Chat, read_records
from machinery import chat_format
from machinery.files import Refused
from machinery.model_folder import stored
from model import load
from pack import make_packs

KINDS = {"r1v3": dict(), "internvl3": dict(model_type="internvl_chat", large=False),
         "shards": dict(shards=3), "tied": dict(model_type="internvl_chat", large=False, tied=True, shards=2),
         "bf16": dict(dtype=torch.bfloat16, shards=2)}


def convert(source, out):
    chat_format.convert(chat_format.Config(model=str(source), out=str(out)))
    return out


def published(folder):
    return {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    """(the published folder, the converted one)"""
    folder = tmp_path_factory.mktemp(request.param)
    source = release.make_release(folder / "theirs", **KINDS[request.param])
    return source, convert(source, folder / "ours")


def test_every_tensor(both):
    source, out = both
    theirs, ours = published(source), published(out)
    names = {"embeddings.class_embedding": "embeddings.cls_token",
             "embeddings.position_embedding": "embeddings.position_embeddings",
             "embeddings.patch_embedding.weight": "embeddings.patch_embeddings.projection.weight",
             "embeddings.patch_embedding.bias": "embeddings.patch_embeddings.projection.bias"}
    inside = {"norm1": "layernorm_before", "norm2": "layernorm_after", "mlp.fc1": "mlp.fc1",
              "mlp.fc2": "mlp.fc2", "attn.proj": "attention.projection_layer",
              "attn.q_norm": "attention.q_norm", "attn.k_norm": "attention.k_norm"}
    want = {f"vision_tower.{new}": theirs.pop(f"vision_model.{old}") for old, new in names.items()}
    for i in range(release.LAYERS):
        old, new = f"vision_model.encoder.layers.{i}", f"vision_tower.encoder.layer.{i}"
        for n in (1, 2):
            want[f"{new}.lambda_{n}"] = theirs.pop(f"{old}.ls{n}")
        for end in ("weight", "bias"):
            for was, now in inside.items():
                if (t := theirs.pop(f"{old}.{was}.{end}", None)) is not None:
                    want[f"{new}.{now}.{end}"] = t
            if (fused := theirs.pop(f"{old}.attn.qkv.{end}", None)) is not None:
                for k, part in enumerate("qkv"):
                    rows = fused[k * release.WIDE:(k + 1) * release.WIDE]
                    want[f"{new}.attention.{part}_proj.{end}"] = rows
    for n, name in {0: "layer_norm", 1: "linear_1", 3: "linear_2"}.items():
        for end in ("weight", "bias"):
            want[f"multi_modal_projector.{name}.{end}"] = theirs.pop(f"mlp1.{n}.{end}")
    assert all(n.startswith("language_model.") for n in theirs)
    want |= theirs
    assert want.keys() == ours.keys()
    for name, t in want.items():
        assert torch.equal(t, ours[name]) and t.dtype == ours[name].dtype, name


def test_forward_is_the_published_formula(both, tmp_path):
    """Encoder, connector and LLM on a prompt with two tiles and a thumbnail, one without an image."""
    source, out = both
    g = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (60, 130, 3), generator=g, dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "a.png")
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "What is it?", "images": ["a.png"], "answer": "1"},
                                          {"question": "Why?", "answer": "2"}])
    chat, vlm = Chat(str(out), max_tiles=4), load(str(out))
    prompts = chat.prompts(read_records(tmp_path / "rows.jsonl"))
    groups = [(p, [[7, 8, 9, 30 + i], [5]]) for i, p in enumerate(prompts)]
    weights = {name: t.float() for name, t in published(source).items()}
    want = []
    for prompt, responses in groups:
        images = chat.pixels(prompt).get("pixel_values")
        for ids in responses:
            logp = release.log_probs(weights, torch.tensor(prompt.full + ids), images, chat.image_id)
            logp = logp.index_fill(-1, torch.tensor(vlm.never), -1e9).log_softmax(-1)
            want.append(logp[len(prompt.full) - 1:-1][range(len(ids)), ids])
    pack, = make_packs(chat, groups)
    assert len(pack.images["pixel_values"]) == 3
    assert (vlm(pack)[0] - torch.cat(want)).abs().max() < 1e-4
    hf = plain(out)  # and it is a folder like any other
    assert (hf.lm_head.weight is hf.model.language_model.embed_tokens.weight) == ("tied" in str(out))


def test_tokens_pixels_and_template(both, tmp_path):
    source, out = both
    chat = Chat(str(out), max_tiles=1)
    g = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (48, 48, 3), generator=g, dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "a.png")
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "Is it \u00e9?", "images": ["a.png"], "answer": "1"}])
    prompt, = chat.prompts(read_records(tmp_path / "rows.jsonl"))
    text = "<|im_start|>user\n<img>" + 9 * "<IMG_CONTEXT>" + "</img>\nIs it \u00e9?<|im_end|>\n" \
           "<|im_start|>assistant\n<think>\n"
    assert chat.tokenizer.decode(prompt.full) == text
    vocabulary, added = (json.loads((source / n).read_text()) for n in ("vocab.json", "added_tokens.json"))
    marks = [added[t] for t in ("<|im_start|>", "<img>", "<IMG_CONTEXT>", "</img>")]
    user = [vocabulary[c] for c in "user"]
    assert prompt.full[:6] == [marks[0], *user, vocabulary["\u010a"]]
    assert prompt.full[6:17] == [marks[1], *9 * [marks[2]], marks[3]]
    assert chat.image_id == marks[2] and chat.stop_ids == [added["<|im_end|>"]]
    mean, std = (torch.tensor(x)[:, None, None] for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    want = (pixels.permute(2, 0, 1) / 255 - mean) / std
    assert torch.allclose(chat.pixels(prompt)["pixel_values"][0], want, atol=1e-5)
    settings = json.loads((out / "preprocessor_config.json").read_text())
    assert settings["max_patches"] == 12 and settings["crop_to_patches"]
    # what transformers' own processor and vLLM make of an image
    assert chat.config.image_seq_length == chat.per_tile == 9
    assert "auto_map" not in (out / "config.json").read_text() + (out / "tokenizer_config.json").read_text()
    roles = ("start_image_token", "end_image_token", "context_image_token", "video_token")
    tokens = [getattr(chat.tokenizer, role) for role in roles]
    assert tokens == ["<img>", "</img>", "<IMG_CONTEXT>", "<|video_pad|>"]
    assert len(list(out.glob("*.safetensors"))) == len(list(source.glob("*.safetensors")))


def test_command(tmp_path, monkeypatch, capsys):
    source = release.make_release(tmp_path / "theirs", shards=2)
    flags = ["convert", "--model", str(source), "--out", str(tmp_path / "ours")]
    monkeypatch.setattr("sys.argv", ["model.py", *flags])
    runpy.run_path(str(ROOT / "model.py"), run_name="__main__")
    assert "model-00002-of-00002.safetensors: " in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["model.py", *flags])
    with pytest.raises(SystemExit, match="is there already: name a folder that is not"):
        runpy.run_path(str(ROOT / "model.py"), run_name="__main__")
    assert "encoder" in load(str(tmp_path / "ours")).table()


def test_system_message_of_the_release(tmp_path):
    source = edited(tmp_path, {}, system_message="Du bist 'R1V'.")
    template = Chat(str(convert(source, tmp_path / "ours"))).tokenizer.apply_chat_template
    said, system = [{"role": "user", "content": "x"}], [{"role": "system", "content": "y"}]
    own = "<|im_start|>system\nDu bist 'R1V'.<|im_end|>\n<|im_start|>user\nx<|im_end|>\n"
    assert template(said, tokenize=False) == own
    assert template(system + said, tokenize=False) == own.replace("Du bist 'R1V'.", "y")


def test_one_file_in_memory_at_a_time(tmp_path, monkeypatch):
    """What was written is gone before the next file is read."""
    source, before = release.make_release(tmp_path / "theirs", shards=3), []

    def save_and_watch(state, *args, **how):
        assert all(ref() is None for ref in before), "tensors of an earlier file are still there"
        before[:] = [weakref.ref(t) for t in state.values()]
        save_file(state, *args, **how)
    monkeypatch.setattr(chat_format, "save_file", save_and_watch)
    convert(source, tmp_path / "ours")
    assert before


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch, stop):
    source, calls = release.make_release(tmp_path / "theirs", shards=3), []

    def save_one(*args, **how):
        calls.append(args)
        if len(calls) == 2:
            raise stop("no more")
        save_file(*args, **how)
    monkeypatch.setattr(chat_format, "save_file", save_one)
    with pytest.raises(stop):
        convert(source, tmp_path / "ours")
    assert [p.name for p in tmp_path.iterdir()] == ["theirs"]
    monkeypatch.setattr(chat_format, "save_file", save_file)
    load(str(convert(source, tmp_path / "ours")))


# --------------------------------------------------------------------------------------------------- refusing

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
    ({}, dict(ps_version="v1"), "pixel shuffle is v1"), ({}, dict(ps_version=None), "pixel shuffle is v1"),
    ({}, dict(pad2square=True), "pad2square"), ({}, dict(use_thumbnail=False), "use_thumbnail"),
    ({}, dict(force_image_size=96), "force_image_size"), ({}, dict(llm_config=None), "its LLM is None"),
    ({"llm_config": dict(architectures=["InternLM2ForCausalLM"])}, {}, "InternLM2.*known are Qwen2ForCausal"),
    ({"llm_config": dict(architectures=None)}, {}, "its LLM is None"),
    ({"llm_config": dict(vocab_size=260)}, {}, "no token <img>, or one outside of the 260"),
    ({"llm_config": dict(num_hidden_layers=4)}, {}, r"missing .*language_model.layers.3"),
    ({"llm_config": dict(num_hidden_layers=2)}, {}, r"unexpected, e.g. language_model.model.layers.2"),
    ({"llm_config": dict(intermediate_size=64)}, {}, r"of another shape, e.g. .*mlp"),
    ({"vision_config": dict(qkv_bias=True)}, {}, r"missing .*[qkv]_proj.bias"),
    ({"vision_config": dict(qk_normalization=False)}, {}, r"unexpected, e.g. .*attn.[kq]_norm"),
    ({"vision_config": dict(layer_norm_eps=1e-5)}, {}, "layer_norm_eps"),
    ({"vision_config": dict(hidden_size=60)}, {}, "of another shape"),
    ({"vision_config": dict(image_size=None)}, {}, "for an encoder of 224"),
    ({}, dict(model_type="internvl"), "only internvl_chat and skywork_chat"),
    ({}, dict(model_type=None), "config.json is not what was written: 'model_type' is missing"),
    ({}, dict(tie_word_embeddings=True, downsample_ratio=0.25), "of another shape, e.g. mlp1")])
def test_configurations_that_are_refused(tmp_path, parts, root, words):
    source = edited(tmp_path, parts, **root)
    with pytest.raises(Refused, match=words):
        convert(source, tmp_path / "ours")
    assert [p.name for p in tmp_path.iterdir()] == ["theirs"]


def lose(name):
    return lambda folder: (folder / name).unlink()


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def change_tensors(change):
    def of(folder):
        file = folder / "model-00002-of-00002.safetensors"
        state = load_file(file)
        change(state)
        save_file(state, file, metadata={"format": "pt"})
    return of


@pytest.mark.parametrize("harm, words", [
    (lose("model-00002-of-00002.safetensors"), "names model-00002-of-00002.safetensors, which is not there"),
    (lose("model.safetensors.index.json"), "index.json, which lists the files"),
    (write("model.safetensors.index.json", "{"), "model.safetensors.index.json is not JSON"),
    (write("model.safetensors.index.json", "[]"), "model.safetensors.index.json holds no JSON object"),
    (write("model.safetensors.index.json", "{}"), "index.json, which lists the files"),
    (write("model-00001-of-00002.safetensors", "torn"), "model-00001-of-00002.safetensors can not be read"),
    (lose("vocab.json"), "tokenizer"), (write("vocab.json", "{"), "vocab.json is not JSON"),
    (write("tokenizer_config.json", "{"), "tokenizer_config.json is not JSON"),
    (lose("config.json"), "config.json can not be read"),
    (write("config.json", "{"), "config.json is not JSON"),
    (write("config.json", "[]"), "config.json holds no JSON object"),
    (change_tensors(lambda state: state.pop("mlp1.1.bias")), "1 missing .*linear_1.bias"),
    (change_tensors(lambda state: state.update(extra=torch.ones(2))), "1 unexpected, e.g. extra"),
    (change_tensors(lambda state: state.update({"language_model.model.norm.weight": torch.ones(2)})),
     "another shape, e.g. language_model.model.norm.weight")])
def test_releases_that_are_refused(tmp_path, harm, words):
    source = release.make_release(tmp_path / "theirs", shards=2)
    harm(source)
    with pytest.raises(Refused, match=words):
        convert(source, tmp_path / "ours")
    assert [p.name for p in tmp_path.iterdir()] == ["theirs"]


def test_out_that_is_there_is_kept(tmp_path):
    source = release.make_release(tmp_path / "theirs")
    for out in (source, tmp_path / "file"):
        shutil.copy(source / "config.json", tmp_path / "file")
        with pytest.raises(Refused, match="is there already"):
            convert(source, out)
    assert stored(source) and (tmp_path / "file").exists()


def test_refusal_of_the_release_names_the_command(tmp_path):
    source = release.make_release(tmp_path / "theirs")
    for start in (load, Chat):
        with pytest.raises(Refused, match="'skywork_chat' model.*python model.py convert --model .*theirs -"):
            start(str(source))
