"""Ask a model about pictures, and watch it think.

    python ask.py                                          # asks you for questions, again and again
    python ask.py --image picture.png "Add the digits in the top row."
    python ask.py --model Qwen/Qwen2.5-VL-3B-Instruct --image a.png --image b.png --entropy "What differs?"

The response is written as it is sampled: the thought, then the answer. --entropy shades every token by the
entropy (nats) of the distribution that it was drawn from, the brighter the less certain, and underlines the
critical words that the checkpoint selection reads (paper section 5.1). Without a question on the command line
one is asked for, again and again: an empty line takes another question of the tiny world, Ctrl-C stops a
response, Ctrl-D ends.
"""
import random
import time
from dataclasses import dataclass
from itertools import count

import tyro

from data import Processor, Record, read_records
from machinery.files import Refused, main
from machinery.rows import image_size
from machinery.parallel import start_processes
from model import load
from reward import score_batch
from rollout import TorchSampler
from signals import CRITICAL_WORDS, critical_tokens

SHADES = (None, 230, 229, 222, 215, 208)  # of the terminal's 256 colours, from certain to uncertain
FULL = 2.0  # nats that have the last of them


@dataclass
class Config:
    question: tyro.conf.Positional[str] = ""  # "": asked for, again and again
    image: tyro.conf.UseAppendAction[tuple[str, ...]] = ()  # a picture; none: one of the tiny world
    model: str = "out/tiny/connector"       # model folder, run folder or hub name
    entropy: bool = False                   # shade tokens by their entropy, underline critical words
    temperature: float = 1.0                # 0: always the most likely token
    max_new_tokens: int = 8192              # length limit of a response
    thinking: bool = True                   # the prompt ends with <think>
    ask: str = ""                           # said below every question: "Put the final answer in \boxed{}."
    system: str = ""                        # system prompt; "": what the chat template has
    world: str = "data/tiny/val.jsonl"      # rows to take a picture or a question from; "": none
    max_tiles: int = 0                      # tiles of an image (InternVL); 0: the model's (max_patches)
    pixels: tuple[int, int] = (0, 0)        # fewest, most pixels of an image (Qwen-VL); 0: the model's
    words: tuple[str, ...] = CRITICAL_WORDS  # critical words
    dtype: str = "auto"                     # bf16 (over fp32 weights), fp32; auto: bf16 where it is native
    seed: int = 0                           # of sampling, and of the questions of the tiny world


class Writer:
    """Writes a response to the terminal token by token, as TorchSampler.generate calls it."""

    def __init__(self, processor, cfg):
        self.processor, self.cfg, self.ids, self.entropies, self.written = processor, cfg, [], [], 0

    def __call__(self, id, entropy):
        self.ids.append(id)
        self.entropies.append(entropy)
        self.write(behind=2)  # whether "Wait" is a word or the beginning of one shows at the next token

    def write(self, behind=0):
        """Write what was not written yet, but for the last tokens."""
        pieces = self.processor.pieces(self.ids)
        if behind and "".join(pieces).endswith("\ufffd"):
            return  # a part of a character
        critical = set()
        if self.cfg.entropy:
            spans = critical_tokens(pieces, self.cfg.words)
            critical = {k for first, last, _ in spans for k in range(first, last + 1)}
        last = max(self.written, len(pieces) - behind)
        for k in range(self.written, last):
            print(self.shaded(pieces[k], self.entropies[k], k in critical), end="", flush=True)
        self.written = last

    def shaded(self, piece, entropy, critical):
        if not self.cfg.entropy or not piece:
            return piece
        shade = SHADES[min(len(SHADES) - 1, int(entropy / FULL * len(SHADES)))]
        codes = ["4"] * critical + [f"30;48;5;{shade}"] * (shade is not None)
        return f"\033[{';'.join(codes)}m{piece}\033[0m" if codes else piece


def asked(question, images):
    """The Record of a question that was typed"""
    sizes = [image_size(image) for image in images]
    if wrong := [size for size in sizes if isinstance(size, str)]:
        raise Refused(f"--image: {wrong[0]}")
    record = Record("asked", question, list(images), sizes=sizes)
    if (most := max(record.named_images(), default=-1)) >= len(images):
        raise Refused(f"the question names <image {most + 1}>, and the pictures are {len(images)}")
    return record


def questions(cfg):
    """Records, one after the other, as they are asked"""
    asked("", cfg.image)  # refuses what is no picture before anybody types
    draw = random.Random(cfg.seed)
    world = read_records(cfg.world) if cfg.world and not cfg.image else []
    images = cfg.image or (draw.choice(world).images if world else ())
    if cfg.question:
        yield asked(cfg.question, images)
        return
    while True:
        try:
            line = input("\nask (an empty line: one of the tiny world)> " if world else "\nask> ").strip()
            if line:
                yield asked(line, images)
            elif world:
                record = draw.choice(world)
                images = record.images
                yield record
        except Refused as error:
            print(error)
        except (EOFError, KeyboardInterrupt):
            print()
            return


def answer(record, sampler, processor, cfg, seed):
    """Sample a response and write it."""
    prompt, = processor.prompts([record], cfg.thinking)
    writer, begin = Writer(processor, cfg), time.time()
    (response,), = sampler.generate([prompt], 1, cfg.max_new_tokens, cfg.temperature, seed, listen=writer)
    writer.write()
    told = [f"{len(response.ids)} tokens", f"{time.time() - begin:.1f} s"]
    told += ["cut off"] if response.finish == "length" else []
    if record.answer:
        reward, = score_batch([response.text], [record.answer], cfg.thinking, [record.options or None])
        told.append("right" if reward.accuracy else f"wrong, it is {record.answer}")
    print(f"\n[{', '.join(told)}]")


def ask(cfg):
    world = start_processes(cfg.seed)
    processor = Processor(cfg.model, cfg.max_tiles, cfg.pixels, cfg.ask, cfg.system)
    vlm = load(cfg.model, world.device, cfg.dtype)
    sampler, seeds = TorchSampler(vlm, processor), count(cfg.seed)
    for record in questions(cfg):
        for image in record.images:
            print(image if isinstance(image, str) else "(a picture)")
        print(f"{record.text()}\n")
        try:
            answer(record, sampler, processor, cfg, next(seeds))
        except KeyboardInterrupt:
            print("\n[stopped]")


if __name__ == "__main__":
    main(ask, Config)
