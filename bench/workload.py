"""What both sides of a comparison get: the same model folder, the same rows and pictures, the same reward."""
import json
import resource
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from connector import make_connectors
from data import Chat, read_records, rows_with_solutions
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
# gold answers, and how a response says the same
ANSWERS = (("42", "42.0"), ("3/4", "0.75"), (r"\frac{\sqrt{3}}{2}", r"\frac{\sqrt3}{2}"), ("B", "(B)"),
           ("12 cm", r"12\text{ cm}"), ("5", "x = 5"), ("1,200", "1200"), ("60°", r"60^\circ"),
           ("(1, 2)", "(1,2)"), ("blue", r"\text{blue}"))


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


def tokens_of(folder):
    """Mean tokens of a row, its picture's and its solution's among them"""
    chat = Chat(str(folder / "model"), max_tiles=1)
    file = str(folder / "rows.jsonl")
    records = read_records(file, (), ("question", "solution"))
    rows = rows_with_solutions(records, chat, True, 4096, file, 0.0)
    return sum(len(row.prompt.full) + len(row.ids) for row in rows) / len(rows)


def responses(n):
    """n responses of about 60 words; every third answer is right"""
    thought = "We read the digits and add them, 3 + 4 = 7. " * 6
    return [f"{thought}That was try {i}.</think>\n\n\\boxed{{{ANSWERS[(i + i % 3) % len(ANSWERS)][1]}}}"
            for i in range(n)]


def peak_gib():
    """The most memory that this process has held. Linux says it of this process alone; getrusage also of the
    one that started it."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 2 ** 20
    except FileNotFoundError:
        unit = 2 ** 30 if sys.platform == "darwin" else 2 ** 20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def reward(text):
    """Any number that differs from response to response: both sides have a spread in every group."""
    return zlib.crc32(text.encode()) % 997 / 997
