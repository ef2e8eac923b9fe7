"""InternVL3 and Skywork-R1V as their authors published them -> the plain folder that every script here reads:

    python model.py convert --model Skywork/Skywork-R1V3-38B --out models/R1V3-38B

Their own releases (model types internvl_chat and skywork_chat) run code from the hub. This command runs none:
it reads config.json, the safetensors files and the tokenizer, and writes the InternVL family of transformers.
The weights stay what they are, bit for bit. Names change, the encoder's fused queries, keys and values become
three matrices, and files go over one at a time. A reader of the recipe may skip this file.

What the format says, in the order in which an image passes through it:

    published                                         here
    vision_model.embeddings.class_embedding           vision_tower.embeddings.cls_token
    vision_model.embeddings.patch_embedding.*         vision_tower.embeddings.patch_embeddings.projection.*
    vision_model.embeddings.position_embedding        vision_tower.embeddings.position_embeddings
    vision_model.encoder.layers.N.norm1, norm2        vision_tower.encoder.layer.N.layernorm_before, _after
      .attn.qkv                                         .attention.q_proj, k_proj, v_proj (thirds of its rows)
      .attn.q_norm, k_norm (InternViT-6B)               .attention.q_norm, k_norm
      .attn.proj                                        .attention.projection_layer
      .ls1, .ls2 (layer scale)                          .lambda_1, .lambda_2
    mlp1.0, mlp1.1, mlp1.3                            multi_modal_projector.layer_norm, linear_1, linear_2
    language_model.*                                  language_model.*
"""
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoTokenizer, InternVLConfig, InternVLForConditionalGeneration

from machinery.families import CHAT_FORMATS, raw_config
from machinery.files import Refused, main, new_folder, say, write_json
from machinery.model_folder import is_tied, local_folder, set_tied, stored, stored_dtype

NAMES = [(re.compile(pattern), new) for pattern, new in (
    (r"^vision_model\.embeddings\.class_embedding$", "vision_tower.embeddings.cls_token"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "vision_tower.embeddings.patch_embeddings.projection."),
    (r"^vision_model\.embeddings\.position_embedding$", "vision_tower.embeddings.position_embeddings"),
    (r"^vision_model\.encoder\.layers\.", "vision_tower.encoder.layer."),
    (r"^(vision_tower\..*)\.attn\.proj\.", r"\1.attention.projection_layer."),
    (r"^(vision_tower\..*)\.attn\.", r"\1.attention."),
    (r"^(vision_tower\..*)\.norm1\.", r"\1.layernorm_before."),
    (r"^(vision_tower\..*)\.norm2\.", r"\1.layernorm_after."),
    (r"^(vision_tower\..*)\.ls([12])$", r"\1.lambda_\2"),
    (r"^mlp1\.0\.", "multi_modal_projector.layer_norm."),
    (r"^mlp1\.1\.", "multi_modal_projector.linear_1."),
    (r"^mlp1\.3\.", "multi_modal_projector.linear_2."))]

# the encoder's keys: (published, transformers, what the published class takes where config.json is silent)
VISION = (("hidden_size", "hidden_size", 3200), ("num_hidden_layers", "num_hidden_layers", 48),
          ("num_attention_heads", "num_attention_heads", 25),
          ("intermediate_size", "intermediate_size", 12800), ("num_channels", "num_channels", 3),
          ("hidden_act", "hidden_act", "gelu"),
          ("norm_type", "norm_type", "rms_norm"), ("layer_norm_eps", "layer_norm_eps", 1e-6),
          ("qk_normalization", "use_qk_norm", True), ("qkv_bias", "attention_bias", False),
          ("attention_dropout", "attention_dropout", 0.0), ("dropout", "projection_dropout", 0.0),
          ("initializer_range", "initializer_range", 0.02))
TEXT = """vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads
 head_dim hidden_act max_position_embeddings initializer_range rms_norm_eps rope_theta rope_scaling
 rope_parameters attention_bias attention_dropout use_sliding_window sliding_window max_window_layers
 bos_token_id pad_token_id""".split()
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json",
             "special_tokens_map.json")
LLMS = {"Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}

# ChatML; an image is one placeholder and a line break. SYSTEM: the system turn where none is given
TEMPLATE = """\
{%- if SYSTEM and messages[0]['role'] != 'system' -%}{{ '<|im_start|>system\\n' + SYSTEM + '<|im_end|>\\n' }}
{%- endif -%}
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}{{ '<IMG_CONTEXT>\\n' }}
{%- elif part['type'] == 'text' -%}{{ part['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"""


@dataclass
class Config:
    model: str = "Skywork/Skywork-R1V3-38B"       # the authors' own folder or hub name
    out: str = "models/Skywork-R1V3-38B"          # the new folder, which every stage takes as its --model


def convert(cfg):
    source, out = Path(local_folder(cfg.model)), Path(cfg.out)
    raw = raw_config(source)
    if raw.get("model_type") not in CHAT_FORMATS:
        raise Refused(f"--model {cfg.model} is a {raw.get('model_type')!r} model: only "
                      f"{' and '.join(CHAT_FORMATS)} have to be converted")
    if out.exists():
        raise Refused(f"--out {out} is there already: name a folder that is not")
    refuse_what_is_not_known(raw, cfg.model)
    weight_map, total = {}, 0
    with new_folder(out) as folder:
        ids = write_tokenizer(source, folder, raw, cfg.model)
        config = new_config(raw, ids)
        set_tied(config, is_tied(source, False))
        config.dtype, config.architectures = stored_dtype(source), ["InternVLForConditionalGeneration"]
        files = check_tensors(source, config, cfg.model)
        config.save_pretrained(folder)
        write_processor(folder, raw, config)
        for n, (file, names) in enumerate(files.items(), 1):
            name = f"model-{n:05d}-of-{len(files):05d}.safetensors" if len(files) > 1 else "model.safetensors"
            sizes = write_weights(file, names, folder / name)
            weight_map |= dict.fromkeys(sizes, name)
            total += sum(sizes.values())
            say(f"  {file.name} -> {name}: {len(sizes)} tensors")
        if len(files) > 1:
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            write_json(folder / "model.safetensors.index.json", index)
    say(f"{out}: {cfg.model} as a plain InternVL folder. Its parts: python model.py {out}")


# ---------------------------------------------------------------------------------------------- configuration

def kind_of_llm(raw):
    return LLMS.get(((raw.get("llm_config") or {}).get("architectures") or [None])[0])


def refuse_what_is_not_known(raw, model):
    """What the published code can be set to and the InternVL of transformers can not."""
    vision, text = raw.get("vision_config") or {}, raw.get("llm_config") or {}
    size = vision.get("image_size", 224)
    wrong = {
        f"its LLM is {text.get('architectures')}; known are {', '.join(LLMS)}": kind_of_llm(raw) is None,
        f"its pixel shuffle is {raw.get('ps_version', 'v1')}, not v2": raw.get("ps_version", "v1") != "v2",
        "it pads images to squares (pad2square)": raw.get("pad2square", False),
        "its tiles have no thumbnail (use_thumbnail)":
            raw.get("dynamic_image_size", False) and not raw.get("use_thumbnail", False),
        f"tiles of {raw.get('force_image_size')} pixels for an encoder of {size} (force_image_size)":
            (raw.get("force_image_size") or size) != size,
        "the norm of its queries has another layer_norm_eps than 1e-6":
            vision.get("qk_normalization", True) and vision.get("layer_norm_eps", 1e-6) != 1e-6}
    if reasons := [reason for reason, holds in wrong.items() if holds]:
        raise Refused(f"--model {model}: {reasons[0]}. This is not converted here.")


def new_config(raw, ids):
    """The published config.json as transformers' InternVL wants it. ids: of the tokens that it names."""
    vision, text = raw.get("vision_config") or {}, raw["llm_config"]
    size = vision.get("image_size", 224)
    ours = {new: vision.get(name, default) for name, new, default in VISION}
    patch, ratio = vision.get("patch_size", 14), raw.get("downsample_ratio", 0.5)
    ours |= dict(image_size=[size, size], patch_size=[patch, patch], hidden_dropout_prob=0.0,
                 layer_scale_init_value=vision.get("initializer_factor", 0.1))
    llm = {name: text[name] for name in TEXT if name in text}
    return InternVLConfig(
        vision_config=ours, text_config=llm | {"model_type": kind_of_llm(raw),
                                               "eos_token_id": ids["<|im_end|>"]},
        image_token_id=ids["<IMG_CONTEXT>"], image_seq_length=int((size // patch) ** 2 * ratio ** 2),
        downsample_ratio=ratio, vision_feature_layer=raw.get("select_layer", -1))


# --------------------------------------------------------------------------------------------------- weights

def new_names(name):
    """Name of a published tensor -> its names here: three of a fused matrix, otherwise one."""
    for pattern, new in NAMES:
        name = pattern.sub(new, name)
    if ".attention.qkv." in name:
        return [name.replace(".qkv.", f".{part}_proj.") for part in "qkv"]
    return [name]


def in_memory(name):
    """The name that transformers gives to a tensor of the new files."""
    name = re.sub(r"^language_model\.lm_head\.", "lm_head.", name)
    name = re.sub(r"^language_model\.model\.", "model.language_model.", name)
    return re.sub(r"^(?=vision_tower\.|multi_modal_projector\.)", "model.", name)


def check_tensors(source, config, model):
    """{file: its tensors' names}, after every name and shape was compared with what the configuration asks
    for. Only the files' headers are read."""
    with torch.device("meta"):
        hf = InternVLForConditionalGeneration(config)
    asked, files, found, unknown, other = dict(hf.named_parameters()), {}, set(), [], []
    for name, (shape, _, file) in stored(source).items():
        names = new_names(name)
        if config.tie_word_embeddings and names == ["language_model.lm_head.weight"]:
            continue  # the same as the word embeddings, which hold it
        files.setdefault(file, []).append(name)
        of_each = [shape[0] // len(names), *shape[1:]]
        for new in map(in_memory, names):
            if new not in asked:
                unknown.append(name)
            elif list(asked[new].shape) != of_each or of_each[0] * len(names) != shape[0]:
                other.append(name)
            found.add(new)
    missing = sorted(name for name in asked if name not in found)
    wrong = {"unexpected": unknown, "of another shape": other, "missing (by their names here)": missing}
    if any(wrong.values()):
        what = "; ".join(f"{len(names)} {kind}, e.g. {names[0]}" for kind, names in wrong.items() if names)
        raise Refused(f"--model {model}: the weights are not those of its config.json ({what})")
    return files


def write_weights(file, names, path):
    """One published file -> one of ours; returns {name: bytes}. Its tensors are the only ones in memory."""
    state = {}
    with safe_open(file, "pt") as tensors:
        for name in names:
            new, t = new_names(name), tensors.get_tensor(name)
            parts = [t] if len(new) == 1 else [third.clone() for third in t.chunk(len(new))]
            state.update(zip(new, parts))
    save_file(state, path, metadata={"format": "pt"})
    return {name: t.nbytes for name, t in state.items()}


# ------------------------------------------------------------------------------ tokenizer and image processor

def write_tokenizer(source, folder, raw, model):
    """The published tokenizer with the names that transformers' InternVL has for its image tokens, and a chat
    template that knows images. Returns the ids of the tokens that are needed."""
    name, settings = "", folder / "tokenizer_config.json"
    try:
        for name in filter(lambda name: (source / name).exists(), TOKENIZER):
            if name.endswith(".json"):
                json.loads((source / name).read_text())
            shutil.copy(source / name, folder)
        if settings.exists():  # code of the hub is not run, and its template knows no images
            kept = json.loads(settings.read_text())
            write_json(settings, {k: v for k, v in kept.items() if k not in ("auto_map", "chat_template")})
        name = "together"
        tokenizer = AutoTokenizer.from_pretrained(folder)
        known = tokenizer.get_vocab()
        roles = {"start_image_token": "<img>", "end_image_token": "</img>",
                 "context_image_token": "<IMG_CONTEXT>"}
        # transformers' processor asks for a token of videos, which are not used here: one that is there
        roles["video_token"] = next((t for t in ("<video>", "<|video_pad|>") if t in known), "<IMG_CONTEXT>")
        tokenizer = AutoTokenizer.from_pretrained(folder, extra_special_tokens=roles)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = str(error).strip().splitlines()[0]
        raise Refused(f"--model {model}: its tokenizer can not be read ({name}: {why}). Are tokenizer.json, "
                      f"or vocab.json and merges.txt, and tokenizer_config.json all there?") from error
    size = (raw.get("llm_config") or {}).get("vocab_size", 0)
    if lost := [t for t in (*roles.values(), "<|im_start|>", "<|im_end|>") if known.get(t, size) >= size]:
        raise Refused(f"--model {model}: its tokenizer has no token {lost[0]}, or one outside of the "
                      f"{size} word embeddings")
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.chat_template = TEMPLATE.replace("SYSTEM", json.dumps(raw.get("system_message") or ""))
    tokenizer.save_pretrained(folder)
    return known


def write_processor(folder, raw, config):
    """Tiles of the encoder's size, with the mean and spread of colours of the published code."""
    size, tiles = config.vision_config.image_size[0], raw.get("dynamic_image_size", False)
    write_json(folder / "preprocessor_config.json", dict(
        image_processor_type="GotOcr2ImageProcessor", processor_class="InternVLProcessor", do_resize=True,
        size={"height": size, "width": size}, resample=3, do_rescale=True, rescale_factor=1 / 255,
        do_normalize=True, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
        do_convert_rgb=True, crop_to_patches=tiles, min_patches=raw.get("min_dynamic_patch", 1),
        max_patches=raw.get("max_dynamic_patch", 6)))
    write_json(folder / "processor_config.json", {"processor_class": "InternVLProcessor",
                                                  "image_seq_length": config.image_seq_length})
    write_json(folder / "generation_config.json", {"eos_token_id": config.text_config.eos_token_id,
                                                   "pad_token_id": config.text_config.pad_token_id})


if __name__ == "__main__":
    main(convert, Config)
