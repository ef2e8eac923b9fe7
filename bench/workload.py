"""What both sides of a comparison get: the same model folder, the same rows and pictures, the same reward."""
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from connector import make_connectors
from machinery.model_folder import blank_hf, read_decided
from tiny.blank_model import save_blank_model


@dataclass
class Setting:
    """A GRPO step: `prompts` x `samples` responses of `tokens` tokens, a picture of `visual` tokens each."""
    prompts: int
    samples: int
    tokens: int
    visual: int


SETTINGS = {"short": Setting(8, 8, 64, 16), "long": Setting(4, 16, 128, 256)}
LENGTHS = {"short": (24, 24), "mixed": (20, 400)}  # shortest and longest solution of SFT rows, in tokens


def make_model(folder, visual, vocabulary=4096):
    """About 7M random parameters in InternVL's format, with `visual` tokens (a square number) a picture."""
    folder.mkdir(parents=True)
    save_blank_model(folder, seed=0)
    size = 16 * int(visual ** 0.5)  # four patches of 8 x 8 pixels to a token
    config = read_decided(str(folder))
    vision, text = config.vision_config, config.text_config
    vision.hidden_size, vision.intermediate_size, vision.image_size = 192, 768, [size, size]
    text.hidden_size, text.intermediate_size, text.head_dim = 256, 768, 32
    text.num_attention_heads, text.num_key_value_heads = 8, 4
    text.vocab_size, text.max_position_embeddings = vocabulary, 4096
    config.image_seq_length = visual
    torch.manual_seed(0)
    hf = blank_hf(config, make_connectors, "cpu")
    hf.generation_config.eos_token_id = text.eos_token_id
    hf.save_pretrained(folder)
    for name, changes in (("preprocessor_config.json", {"size": {"height": size, "width": size}}),
                          ("processor_config.json", {"image_seq_length": visual})):
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": 4096}))
    return size


def make_rows(folder, size, n, lengths=None, text_only=0.0):
    """rows.jsonl: n rows, each with a picture of noise; `lengths`: with solutions of so many tokens."""
    g = torch.Generator().manual_seed(0)
    rows = []
    for i in range(n):
        row = {"id": str(i), "question": f"Add {i % 90}.", "answer": str(i), "images": []}
        if i >= n * text_only:
            noise = torch.randint(0, 256, (size, size, 3), generator=g, dtype=torch.uint8)
            row["images"] = [f"{i}.png"]
            Image.fromarray(noise.numpy()).save(folder / f"{i}.png")
        if lengths:
            count = int(torch.randint(lengths[0], lengths[1] + 1, (1,), generator=g))
            row["solution"] = " ".join(["row"] * (count - 4)) + "\n</think>\n\n1"
        rows.append(row)
    order = torch.randperm(n, generator=g).tolist()
    path = Path(folder) / "rows.jsonl"
    path.write_text("".join(json.dumps(rows[i]) + "\n" for i in order))
    return path


def peak_gib():
    """The most memory that this process has held, as Linux says it (getrusage: also the one that started
    it)."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 2 ** 20


def reward(text):
    """Any number that differs from response to response: both sides have a spread in every group."""
    return zlib.crc32(text.encode()) % 997 / 997
