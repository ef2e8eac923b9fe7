"""Small random checkpoints of the other families than the tiny world's, laid out like a real folder."""
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (GenerationConfig, InternVLConfig, InternVLForConditionalGeneration, LlavaConfig,
                          LlavaForConditionalGeneration, Qwen2_5_VLConfig,
                          Qwen2_5_VLForConditionalGeneration, Qwen3VLConfig, Qwen3VLForConditionalGeneration)

from tiny import blank_model


def lively(kind, config, seed, factor):
    """A random model whose every tensor matters: norms and biases are random, too."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(config)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn_like(p)) if p.ndim == 1 else p.mul_(factor)
    return model


def make_internvl35(folder, like, seed=0):
    """The tiny world's folder with InternVL3.5's LLM (Qwen3: norms of queries and keys, an own head size)
    and the norms of InternViT-6B (RMSNorm, of queries and keys too, no biases) in its encoder."""
    copy_all_but_weights(like, folder)
    old = InternVLConfig.from_pretrained(like)
    vision, text = old.vision_config.to_dict(), old.text_config
    vision |= dict(norm_type="rms_norm", use_qk_norm=True, attention_bias=False, layer_scale_init_value=0.1)
    text = dict(model_type="qwen3", vocab_size=text.vocab_size, hidden_size=96, num_hidden_layers=3,
                num_attention_heads=4, num_key_value_heads=2, head_dim=16, intermediate_size=160,
                max_position_embeddings=512, eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id)
    config = InternVLConfig(vision_config=vision, text_config=text, image_token_id=old.image_token_id,
                            image_seq_length=9, downsample_ratio=0.5, tie_word_embeddings=False)
    model = lively(InternVLForConditionalGeneration, config, seed, 1.5)
    g, begin = torch.Generator().manual_seed(seed), model.model.vision_tower.embeddings
    for p in (begin.position_embeddings, begin.cls_token):  # which are 0
        p.data.normal_(std=0.1, generator=g)
    model.generation_config = GenerationConfig.from_pretrained(like)
    model.save_pretrained(folder)
    return folder


def make_llava(folder, like, seed=0):
    """A family that is not known here: the tiny world's folder with CLIP and LLaVA's projector."""
    copy_all_but_weights(like, folder)
    old = InternVLConfig.from_pretrained(like)
    vision = dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
                  image_size=48, patch_size=8)
    config = LlavaConfig(vision_config=vision, text_config=old.text_config.to_dict(), image_seq_length=36,
                         image_token_index=old.image_token_id)
    model = lively(LlavaForConditionalGeneration, config, seed, 1.5)
    model.generation_config = GenerationConfig.from_pretrained(like)
    model.save_pretrained(folder)
    return folder


def copy_all_but_weights(like, folder):
    for file in Path(like).glob("*"):
        if file.is_file() and "safetensors" not in file.name:
            shutil.copy(file, folder)


def save_blank_model(folder, seed=0):
    blank_model.save_blank_model(folder, seed)
    return folder


def of_any_qwen(width, layers, rope):
    """The tokenizer, ids of the configuration, and the LLM's part of it."""
    template = blank_model.CHAT_TEMPLATE.replace("<IMG_CONTEXT>\\n", blank_model.IN_QWEN)
    marks = blank_model.QWEN_SPECIALS
    tokenizer = blank_model.make_tokenizer(blank_model.SPECIALS[:3] + marks, {}, template)
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    return tokenizer, dict(zip(names, tokenizer.convert_tokens_to_ids(list(marks)))), dict(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=1024, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, **rope})


def make_qwen(folder, tied=False, width=96, layers=3, depth=4, seed=0):
    """A Qwen2.5-VL of a million parameters, with windows and full attention in its encoder."""
    tokenizer, ids, text = of_any_qwen(width, layers, {
        "mrope_section": [width // 48, width // 32, width // 32]})
    config = Qwen2_5_VLConfig(
        vision_config=dict(depth=depth, hidden_size=64, intermediate_size=96, num_heads=4, patch_size=4,
                           spatial_merge_size=2, window_size=16, fullatt_block_indexes=[1, depth - 1],
                           out_hidden_size=width, temporal_patch_size=2),
        text_config=text, tie_word_embeddings=tied, **ids)
    images = dict(image_processor_type="Qwen2VLImageProcessor", processor_class="Qwen2_5_VLProcessor",
                  min_pixels=16 * 16, max_pixels=64 * 64, patch_size=4, temporal_patch_size=2, merge_size=2,
                  image_mean=[0.48, 0.46, 0.41], image_std=[0.27, 0.26, 0.28])
    return save_qwen(folder, Qwen2_5_VLForConditionalGeneration, config, tokenizer, images, seed)


def make_qwen3(folder, tied=False, width=96, layers=4, depth=4, seed=0):
    """A dense Qwen3-VL: patches of 16 pixels as in the real one, two DeepStack levels, an own head size, a
    table of 6 x 6 positions that images of other shapes interpolate."""
    head = width // 3
    tokenizer, ids, text = of_any_qwen(width, layers, {
        "mrope_section": [head // 4, head // 8, head // 8], "mrope_interleaved": True})
    config = Qwen3VLConfig(
        vision_config=dict(depth=depth, hidden_size=64, intermediate_size=96, num_heads=4, patch_size=16,
                           spatial_merge_size=2, temporal_patch_size=2, out_hidden_size=width,
                           num_position_embeddings=36, deepstack_visual_indexes=[0, depth - 2]),
        text_config=dict(text, head_dim=head), tie_word_embeddings=tied, **ids)
    images = dict(image_processor_type="Qwen2VLImageProcessorFast", processor_class="Qwen3VLProcessor",
                  size=dict(shortest_edge=32 * 32, longest_edge=128 * 128), patch_size=16,
                  temporal_patch_size=2, merge_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return save_qwen(folder, Qwen3VLForConditionalGeneration, config, tokenizer, images, seed)


def save_qwen(folder, kind, config, tokenizer, images, seed):
    model = lively(kind, config, seed, 2)
    model.generation_config = GenerationConfig(eos_token_id=config.text_config.eos_token_id,
                                               pad_token_id=config.text_config.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(images, indent=1))
    return folder


# ---------------------------------------------------------------------------------------- the hub's own shape

OLD_VISION = {  # what the published files say beside what a configuration class of today writes
    "internvl": dict(architectures=["InternVisionModel"], dropout=0.0, initializer_factor=0.1,
                     torch_dtype="float32"),
    "qwen2_5_vl": dict(in_chans=3, spatial_patch_size=4, tokens_per_second=2),
    "qwen3_vl": dict(in_channels=3, initializer_range=0.02)}
OLD_TEXT = {
    "internvl": dict(architectures=["Qwen2ForCausalLM"], max_window_layers=70, sliding_window=None,
                     use_cache=True, use_bfloat16=True, torch_dtype="float32", moe_config=None),
    "qwen2_5_vl": dict(max_window_layers=70, sliding_window=32768, use_cache=True, vision_token_id=3),
    "qwen3_vl": dict(use_cache=True, dtype="float32")}


def hub_shaped(folder, **ties):
    """Write config.json as the hub has it: keys of transformers 4, extra keys, missing keys. ties: what is
    said of tied embeddings, root and text; a place that is not named says nothing."""
    path = Path(folder) / "config.json"
    now = json.loads(path.read_text())
    kind, text, vision = now["model_type"], now.pop("text_config"), now.pop("vision_config")
    rope = text.pop("rope_parameters")
    for part in (now, text, vision):
        for new in ("dtype", "tie_word_embeddings", "layer_types", "rope_parameters"):
            part.pop(new, None)
    text |= OLD_TEXT[kind] | {"rope_theta": rope.pop("rope_theta")}
    old = {k: v for k, v in rope.items() if k.startswith("mrope")}
    text["rope_scaling"] = {"internvl": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
                            "qwen2_5_vl": {"type": "mrope", **old},
                            "qwen3_vl": {"rope_type": "default", **old}}[kind]
    vision |= OLD_VISION[kind] | ({} if kind == "internvl" else {"model_type": kind})
    now |= {"transformers_version": "4.52.0.dev0"}
    if "text" in ties:
        text["tie_word_embeddings"] = ties["text"]
    if kind == "qwen2_5_vl":  # its LLM's keys stand at the root
        now = {**now, **text, "model_type": kind, "vision_config": vision}
    else:
        now |= {"text_config": text, "vision_config": vision}
    if kind != "qwen3_vl":  # which names it in its LLM's configuration alone
        now["torch_dtype"] = "float32"
    if "root" in ties:
        now["tie_word_embeddings"] = ties["root"]
    path.write_text(json.dumps(now, indent=2))
    return folder


def tie_weights_of(folder, both=False):
    """Make the output layer the word embeddings. both: the file holds it under both names."""
    path = Path(folder) / "model.safetensors"
    state = load_file(path)
    head, words = (next(n for n in state if n.endswith(end)) for end in ("lm_head.weight", "tokens.weight"))
    del state[head]
    save_file(state | ({head: state[words].clone()} if both else {}), path, metadata={"format": "pt"})
    return folder
