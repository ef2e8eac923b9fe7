"""The tiny world's model: an InternVL of about 2M random parameters, its tokenizer, image processor and
chat template, in the layout of a real Hugging Face model folder (InternVL3's HF-native format).

    python tiny/blank_model.py --family qwen2_5_vl --out out/qwen/model       (or: --width 64)

makes a Qwen2.5-VL of the same sizes instead, or an LLM of half the width. The Qwen reads the same pictures
and texts with another encoder, another connector (the merger) and another way to say where a visual token
stands. Its --model for tiny/encoder.py, then for sft.py, as the Makefile has them.
"""
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig, InternVLConfig, InternVLForConditionalGeneration, PreTrainedTokenizerFast,
    Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration,
)

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>")
QWEN_SPECIALS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
ROLES = {"start_image_token": "<img>", "end_image_token": "</img>",
         "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}
THINK = ("<think>", "</think>")  # ordinary added tokens: skip_special_tokens leaves them in the text

# Every word of the world. The space before a number belongs to its neighbour: so it is always one token.
WORDS = """user assistant system A B C D How In Which What Add Read Largest Wait Alternatively I
 a add adds all and apart are as at away bar bars blue bottom by centre column corner count counts dial dials
 digit digits do does far four green have high how image in is it largest left line middle number numbers of
 once red right row see smallest sum sums take the then there to top up what which yellow""".split()
PIECES = [", ", ". ", ": ", ".\n", " + ", " - ", " = ", "\n", "\n\n", "\\boxed{", "}", "?",
          ", smallest ", "Largest ", "I see it at once.", "red ", "green ", "blue ", "yellow "]

# ChatML as InternVL3 has it: an image is one placeholder and a line break. enable_thinking opens the thought.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}{{ '<IMG_CONTEXT>\\n' }}
{%- elif part['type'] == 'video' -%}{{ '<video>\\n' }}
{%- elif part['type'] == 'text' -%}{{ part['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking -%}{{ '<think>\\n' }}{%- endif -%}
{%- endif -%}"""

IN_QWEN = "<|vision_start|><|image_pad|><|vision_end|>"  # an image in its prompts
PROCESSORS = {
    "internvl": {
        "preprocessor_config.json": dict(
            image_processor_type="GotOcr2ImageProcessor", processor_class="InternVLProcessor",
            do_resize=True, do_rescale=True, do_normalize=True, do_convert_rgb=True, rescale_factor=1 / 255,
            resample=3, size={"height": 48, "width": 48}, image_mean=[0.85] * 3, image_std=[0.25] * 3,
            crop_to_patches=False, min_patches=1, max_patches=1),
        "processor_config.json": dict(processor_class="InternVLProcessor", image_seq_length=9)},
    "qwen2_5_vl": {
        "preprocessor_config.json": dict(
            image_processor_type="Qwen2VLImageProcessor", processor_class="Qwen2_5_VLProcessor",
            min_pixels=48 * 48, max_pixels=48 * 48, patch_size=8, temporal_patch_size=2, merge_size=2,
            image_mean=[0.85] * 3, image_std=[0.25] * 3)}}


def make_tokenizer(specials=SPECIALS, roles=ROLES, template=CHAT_TEMPLATE):
    """The world's words and numbers as single tokens, and 256 byte characters, which spell any other text.

    A Unigram model takes the cheapest way to cut the text. All words cost the same, bytes cost ten times as
    much: so it takes few, long tokens."""
    byte = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    known = [str(n) for n in range(100)] + PIECES + WORDS + [" " + word for word in WORDS]
    spelled = {byte.pre_tokenize_str(text)[0][0]: -1.0 for text in known}
    vocabulary = {char: -10.0 for char in sorted(pre_tokenizers.ByteLevel.alphabet())} | spelled
    core = Tokenizer(models.Unigram(list(vocabulary.items()), unk_id=None))
    core.pre_tokenizer, core.decoder = byte, decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    core.add_tokens([AddedToken(token, special=False, normalized=False) for token in THINK])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=512,
        padding_side="left", clean_up_tokenization_spaces=False, chat_template=template,
        extra_special_tokens=roles)


def text_config(tokenizer, width):
    """The LLM, of either family"""
    end, pad = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    return dict(vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=4, num_attention_heads=4,
                num_key_value_heads=2, intermediate_size=3 * width, max_position_embeddings=512,
                initializer_range=0.06, bos_token_id=None, eos_token_id=end, pad_token_id=pad)


def make_internvl(tokenizer, seed, width):
    vision = dict(hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512,
                  image_size=[48, 48], patch_size=[8, 8], attention_bias=True, layer_scale_init_value=1.0,
                  initializer_range=0.05)
    text = dict(model_type="qwen2", rope_theta=10_000.0, tie_word_embeddings=False,
                **text_config(tokenizer, width))
    config = InternVLConfig(
        vision_config=vision, text_config=text, tie_word_embeddings=False, dtype="float32",
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=9, downsample_ratio=0.5)  # 36 patches, four to a token
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = InternVLForConditionalGeneration(config)
        # The class starts the position embeddings at zero. Here each row of patches has a direction and each
        # column has one: they tell the LLM from the start that cells stand in lines.
        place = torch.randn(2, 6, 128) * 0.5
        grid = (place[0][:, None] + place[1][None]).flatten(0, 1)                  # (36, 128)
        embeddings = model.model.vision_tower.embeddings.position_embeddings       # (1, 1 + 36, 128)
        embeddings.data[:, 1:] = grid
    return model


def make_qwen(tokenizer, seed, width):
    # rows and columns of a visual token turn the slower of the LLM's 16 frequencies; the base is small,
    # because here they count to 2 and not to 100
    rope = {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [4, 6, 6]}
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    config = Qwen2_5_VLConfig(
        vision_config=dict(depth=4, hidden_size=128, intermediate_size=384, num_heads=4, patch_size=8,
                           spatial_merge_size=2, temporal_patch_size=2, window_size=48, out_hidden_size=width,
                           fullatt_block_indexes=[1, 3], initializer_range=0.05),
        text_config=dict(rope_parameters=rope, **text_config(tokenizer, width)),
        tie_word_embeddings=False, dtype="float32",
        **dict(zip(names, tokenizer.convert_tokens_to_ids(list(QWEN_SPECIALS)))))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen2_5_VLForConditionalGeneration(config)


def save_blank_model(folder, seed, family="internvl", width=128):
    """Write the whole model folder; returns the number of parameters."""
    if family == "internvl":
        tokenizer = make_tokenizer()
        model = make_internvl(tokenizer, seed, width)
    else:
        template = CHAT_TEMPLATE.replace("<IMG_CONTEXT>\\n", IN_QWEN).replace("<video>\\n", "<|video_pad|>")
        tokenizer = make_tokenizer(SPECIALS[:3] + QWEN_SPECIALS, {}, template)
        model = make_qwen(tokenizer, seed, width)
    ends = dict(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.generation_config = GenerationConfig(**ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name, settings in PROCESSORS[family].items():
        (folder / name).write_text(json.dumps(settings, indent=1))
    return sum(p.numel() for p in model.parameters())


@dataclass
class Config:
    out: str = "out/qwen/model"                      # model folder to make
    family: Literal["internvl", "qwen2_5_vl"] = "internvl"
    width: int = 128                                 # of the LLM, a multiple of 16; a Qwen's is 128
    seed: int = 0                                    # of its random weights


def main(cfg):
    print(f"{cfg.out}: {save_blank_model(Path(cfg.out), cfg.seed, cfg.family, cfg.width):,} parameters")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
