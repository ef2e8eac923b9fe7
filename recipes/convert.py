"""InternVL3 and Skywork-R1V as their authors published them -> the plain folder that every script here reads:

    python recipes/convert.py --model Skywork/Skywork-R1V3-38B --out models/R1V3-38B

Their own releases (model types internvl_chat and skywork_chat) run code from the hub. This command runs none:
it reads config.json, the safetensors files and the tokenizer, and writes the InternVL family of transformers.
The weights stay what they are, bit for bit. Names change, the encoder's fused queries, keys and values become
three matrices, and files go over one at a time.
"""
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # started by its path: the top folder of the repository comes first
    sys.path[0] = str(Path(__file__).parent.parent)

from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoTokenizer, InternVLConfig

from machinery.families import raw_config
from machinery.files import Refused, main, new_folder, say, write_json
from machinery.model_folder import is_tied, local_folder, set_tied, stored_dtype, weight_files
from tiny.blank_model import CHAT_TEMPLATE

NAMES = (  # parts of a tensor's name, in the order in which an image passes through the model
    ("vision_model.embeddings.class_embedding", "vision_tower.embeddings.cls_token"),
    ("vision_model.embeddings.patch_embedding.", "vision_tower.embeddings.patch_embeddings.projection."),
    ("vision_model.embeddings.position_embedding", "vision_tower.embeddings.position_embeddings"),
    ("vision_model.encoder.layers.", "vision_tower.encoder.layer."),
    (".norm1.", ".layernorm_before."), (".norm2.", ".layernorm_after."),
    (".attn.proj.", ".attention.projection_layer."), (".attn.", ".attention."),
    (".ls1", ".lambda_1"), (".ls2", ".lambda_2"),  # layer scale
    ("mlp1.0.", "multi_modal_projector.layer_norm."), ("mlp1.1.", "multi_modal_projector.linear_1."),
    ("mlp1.3.", "multi_modal_projector.linear_2."))

# the encoder's keys, and what the published class takes where config.json is silent
VISION = {"hidden_size": 3200, "num_hidden_layers": 48, "num_attention_heads": 25, "num_channels": 3,
          "intermediate_size": 12800, "hidden_act": "gelu", "norm_type": "rms_norm", "layer_norm_eps": 1e-6,
          "qk_normalization": True, "qkv_bias": False, "attention_dropout": 0.0, "dropout": 0.0,
          "initializer_range": 0.02}
RENAMED = {"qk_normalization": "use_qk_norm", "qkv_bias": "attention_bias", "dropout": "projection_dropout"}
TEXT = """vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads
 head_dim hidden_act max_position_embeddings initializer_range rms_norm_eps rope_theta rope_scaling
 rope_parameters attention_bias attention_dropout use_sliding_window sliding_window max_window_layers
 bos_token_id pad_token_id""".split()
TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json")
LLMS = {"Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}

# the system turn of the release, where none is given
SYSTEM = """\
{%- if SYSTEM and messages[0]['role'] != 'system' -%}{{ '<|im_start|>system\\n' + SYSTEM + '<|im_end|>\\n' }}
{%- endif -%}
"""


@dataclass
class Config:
    model: str = "Skywork/Skywork-R1V3-38B"       # the authors' own folder or hub name
    out: str = "models/Skywork-R1V3-38B"          # the new folder, which every stage takes as its --model


def convert(cfg):
    source = Path(local_folder(cfg.model))
    raw = raw_config(source)
    refuse_what_is_not_known(raw, cfg.model)
    files, weight_map = weight_files(source), {}
    with new_folder(cfg.out) as folder:
        config = new_config(raw, write_tokenizer(source, folder, raw))
        set_tied(config, is_tied(source, False))
        config.dtype, config.architectures = stored_dtype(source), ["InternVLForConditionalGeneration"]
        config.save_pretrained(folder)
        write_processor(folder, raw, config)
        for n, file in enumerate(files, 1):
            name = f"model-{n:05d}-of-{len(files):05d}.safetensors" if len(files) > 1 else "model.safetensors"
            weight_map |= dict.fromkeys(write_weights(file, folder / name, config.tie_word_embeddings), name)
            say(f"  {file.name} -> {name}")
        if len(files) > 1:
            write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    say(f"{cfg.out}: {cfg.model} as a plain InternVL folder. Its parts: python model.py {cfg.out}")


def refuse_what_is_not_known(raw, model):
    """What the published code can be set to and the InternVL of transformers cannot."""
    vision = raw.get("vision_config") or {}
    size = vision.get("image_size", 224)
    wrong = {"ps_version": raw.get("ps_version", "v1") != "v2",  # the order of the pixel shuffle
             "pad2square": raw.get("pad2square", False),
             "use_thumbnail": raw.get("dynamic_image_size", False) and not raw.get("use_thumbnail", False),
             "force_image_size": (raw.get("force_image_size") or size) != size,
             "layer_norm_eps": vision.get("qk_normalization", True)  # of the norm of its queries
             and vision.get("layer_norm_eps", 1e-6) != 1e-6}
    if names := [name for name, holds in wrong.items() if holds]:
        raise Refused(f"--model {model}: its {' and '.join(names)} cannot be had in transformers' InternVL")


def new_config(raw, ids):
    """The published config.json as transformers' InternVL wants it. ids: of the tokens that it names."""
    vision, text = raw.get("vision_config") or {}, raw["llm_config"]
    size = vision.get("image_size", 224)
    ours = {RENAMED.get(name, name): vision.get(name, default) for name, default in VISION.items()}
    patch, ratio = vision.get("patch_size", 14), raw.get("downsample_ratio", 0.5)
    ours |= dict(image_size=[size, size], patch_size=[patch, patch], hidden_dropout_prob=0.0,
                 layer_scale_init_value=vision.get("initializer_factor", 0.1))
    llm = {name: text[name] for name in TEXT if name in text}
    llm |= {"model_type": LLMS[text["architectures"][0]], "eos_token_id": ids["<|im_end|>"]}
    return InternVLConfig(
        vision_config=ours, text_config=llm, image_token_id=ids["<IMG_CONTEXT>"], downsample_ratio=ratio,
        image_seq_length=int((size // patch) ** 2 * ratio ** 2),
        vision_feature_layer=raw.get("select_layer", -1))


def new_names(name):
    """Name of a published tensor -> its names here: three of a fused matrix, otherwise one."""
    if name.startswith("language_model."):
        return [name]
    for theirs, ours in NAMES:
        name = name.replace(theirs, ours)
    if ".attention.qkv." in name:
        return [name.replace(".qkv.", f".{part}_proj.") for part in "qkv"]
    return [name]


def write_weights(file, path, tied):
    """One published file -> one of ours; returns their names. Its tensors are the only ones in memory. That
    none is missing and every shape fits is what `load` finds out."""
    state = {}
    with safe_open(file, "pt") as tensors:
        for name in tensors.keys():
            if tied and name == "language_model.lm_head.weight":
                continue  # the same as the word embeddings, which hold it
            new, t = new_names(name), tensors.get_tensor(name)
            parts = [t] if len(new) == 1 else [third.clone() for third in t.chunk(len(new))]
            state.update(zip(new, parts, strict=True))
    save_file(state, path, metadata={"format": "pt"})
    return [*state]


def write_tokenizer(source, folder, raw):
    """The published tokenizer with the names that transformers' InternVL has for its image tokens, and a chat
    template that knows images. Returns the ids of all tokens."""
    for name in filter(lambda name: (source / name).exists(), TOKENIZER):
        shutil.copy(source / name, folder)
    # code of the hub is not run, and its template knows no images
    settings = json.loads((source / "tokenizer_config.json").read_text())
    write_json(folder / "tokenizer_config.json",
               {k: v for k, v in settings.items() if k not in ("auto_map", "chat_template")})
    known = AutoTokenizer.from_pretrained(folder).get_vocab()
    roles = {"start_image_token": "<img>", "end_image_token": "</img>",
             "context_image_token": "<IMG_CONTEXT>"}
    # transformers' processor asks for a token of videos, which are not used here: one that is there
    roles["video_token"] = next((t for t in ("<video>", "<|video_pad|>") if t in known), "<IMG_CONTEXT>")
    size = raw["llm_config"]["vocab_size"]
    if lost := [t for t in (*roles.values(), "<|im_start|>", "<|im_end|>") if known.get(t, size) >= size]:
        raise Refused(f"the tokenizer of {source} has no token {lost[0]}, or one outside of the {size} word "
                      f"embeddings")
    tokenizer = AutoTokenizer.from_pretrained(folder, extra_special_tokens=roles)
    tokenizer.eos_token = "<|im_end|>"
    said = json.dumps(raw.get("system_message") or "")
    tokenizer.chat_template = SYSTEM.replace("SYSTEM", said) + CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return known


def write_processor(folder, raw, config):
    """Tiles of the encoder's size, with the mean and spread of colours of the published code."""
    size = config.vision_config.image_size[0]
    write_json(folder / "preprocessor_config.json", dict(
        image_processor_type="GotOcr2ImageProcessor", processor_class="InternVLProcessor", do_resize=True,
        size={"height": size, "width": size}, resample=3, do_rescale=True, rescale_factor=1 / 255,
        do_normalize=True, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
        do_convert_rgb=True, crop_to_patches=raw.get("dynamic_image_size", False),
        min_patches=raw.get("min_dynamic_patch", 1), max_patches=raw.get("max_dynamic_patch", 6)))
    write_json(folder / "processor_config.json", {"processor_class": "InternVLProcessor",
                                                  "image_seq_length": config.image_seq_length})
    write_json(folder / "generation_config.json", {"eos_token_id": config.text_config.eos_token_id,
                                                   "pad_token_id": config.text_config.pad_token_id})


if __name__ == "__main__":
    main(convert, Config)
