"""Small random checkpoints in the format of the authors of InternVL3 and Skywork-R1V, for recipes/convert.py:
a model of transformers under the published names, as transformers' own converter knows them
(convert_internvl_weights_to_hf.py; the package that is installed lacks it)."""
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from transformers import InternVLConfig, InternVLForConditionalGeneration

from families import lively

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
ADDED = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|video_pad|>", "<img>", "</img>", "<IMG_CONTEXT>",
         "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
IDS = {token: len(BYTES) + i for i, token in enumerate(ADDED)}
# what has the same name in both formats
VISION = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
              layer_norm_eps=1e-6, num_channels=3, hidden_act="gelu", attention_dropout=0.0)
TEXT = dict(vocab_size=len(BYTES) + len(ADDED), hidden_size=128, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, intermediate_size=128, max_position_embeddings=1024, rope_theta=1e6,
            rms_norm_eps=1e-6, hidden_act="silu", attention_dropout=0.0)
NAMES = (
    ("model.vision_tower.", "vision_model."), (".encoder.layer.", ".encoder.layers."),
    ("cls_token", "class_embedding"), ("position_embeddings", "position_embedding"),
    ("patch_embeddings.projection", "patch_embedding"), ("attention.projection_layer", "attn.proj"),
    (".attention.", ".attn."), ("layernorm_before", "norm1"), ("layernorm_after", "norm2"),
    ("lambda_1", "ls1"), ("lambda_2", "ls2"), ("model.multi_modal_projector.layer_norm", "mlp1.0"),
    ("model.multi_modal_projector.linear_1", "mlp1.1"), ("model.multi_modal_projector.linear_2", "mlp1.3"),
    ("model.language_model.", "language_model.model."), ("lm_head", "language_model.lm_head"))


def make_model(large=True, tied=False):
    """large: the encoder is InternViT-6B's kind (RMSNorm, norms of queries and keys, no bias on them), else
    InternViT-300M's."""
    vision = VISION | dict(image_size=[48, 48], patch_size=[8, 8], layer_scale_init_value=0.5,
                           norm_type="rms_norm" if large else "layer_norm", use_qk_norm=large,
                           attention_bias=not large)
    text = dict(model_type="qwen2", tie_word_embeddings=tied, pad_token_id=None, **TEXT)
    config = InternVLConfig(vision_config=vision, text_config=text, image_token_id=IDS["<IMG_CONTEXT>"],
                            image_seq_length=9, downsample_ratio=0.5, tie_word_embeddings=tied)
    model = lively(InternVLForConditionalGeneration, config, 0, 5)
    g, begin = torch.Generator().manual_seed(0), model.model.vision_tower.embeddings
    for p in (begin.position_embeddings, begin.cls_token):  # which are 0
        p.data.normal_(std=0.3, generator=g)
    return model


def published(state, tied):
    """{name in transformers: tensor} -> {published name: tensor}"""
    out = {}
    for name, t in state.items():
        if "vision_tower" in name and ".q_proj." in name:
            t = torch.cat([state[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"])
            name = name.replace(".q_proj.", ".qkv.")
        for ours, theirs in NAMES:
            name = name.replace(ours, theirs)
        if not (name.startswith("vision_model.") and "_proj." in name or tied and "lm_head" in name):
            out[name] = t
    return out


def make_release(folder, model_type="skywork_chat", large=True, tied=False, shards=1, dtype=torch.float32):
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    write_tokenizer(folder)
    state, where = published(make_model(large, tied).state_dict(), tied), {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors" if shards > 1 else "model.safetensors"
        names = sorted(state)[i::shards]
        save_file({n: state[n].to(dtype) for n in names}, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(names, file)
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    class_of = {"skywork_chat": "SkyworkChat", "internvl_chat": "InternVLChat"}[model_type]
    config = {  # what is read of theirs; the rest of it is left out
        "architectures": [f"{class_of}Model"], "model_type": model_type, "downsample_ratio": 0.5,
        "auto_map": {"AutoConfig": f"configuration_{model_type}.{class_of}Config"},
        "dynamic_image_size": True, "force_image_size": 48, "max_dynamic_patch": 12, "min_dynamic_patch": 1,
        "pad2square": False, "ps_version": "v2", "select_layer": -1, "system_message": None,
        "use_thumbnail": True,
        "llm_config": {
            **TEXT, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "bos_token_id": 256,
            "eos_token_id": 256, "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
            "top_p": 1.0, "sliding_window": None, "torch_dtype": "bfloat16", "use_sliding_window": False,
            "tie_word_embeddings": tied},
        "vision_config": {
            **VISION, "model_type": "intern_vit_6b", "dropout": 0.0, "image_size": 48, "patch_size": 8,
            "initializer_factor": 0.1, "initializer_range": 1e-10, "qk_normalization": large,
            "norm_type": "rms_norm" if large else "layer_norm", "qkv_bias": not large}}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def write_tokenizer(folder):
    """Bytes alone, in the files that Qwen's tokenizer is published in."""
    (folder / "vocab.json").write_text(json.dumps({char: i for i, char in enumerate(BYTES)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "added_tokens.json").write_text(json.dumps(IDS))
    mark = dict(lstrip=False, normalized=False, rstrip=False, single_word=False, special=True)
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "added_tokens_decoder": {str(i): {"content": token, **mark} for token, i in IDS.items()},
        "add_prefix_space": False, "bos_token": None, "errors": "replace", "model_max_length": 12288,
        "clean_up_tokenization_spaces": False, "split_special_tokens": False, "unk_token": None,
        "auto_map": {"AutoTokenizer": ["tokenization_of_theirs.Tokenizer", None]},
        "chat_template": "{% for m in messages %}{{ 'System: helpful' + m['content'] }}{% endfor %}"}))
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "feature_extractor_type": "CLIPFeatureExtractor", "crop_size": 48, "size": 48, "resample": 3}))
