"""From rows to prompts: Record (a row of a data set) -> Prompt (chat-formatted ids and images). pack.py lays
them into packs.

    records = read_records("data/tiny/rl.jsonl")      # JSON, CSV, Parquet, a folder or a hub name
    processor = Processor("out/tiny/cold_start")     # tokenizer, image processor, chat template of a model
    prompts = processor.prompts(records, thinking=True)  # the prompt ends with <think> (paper section 6.2)

docs/your_data.md has the schema of rows, machinery/rows.py reads them. What can be wrong with data is found
here, before the first step, and named by file and row; `python recipes/plan.py data` says what they are to a
model.
"""
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import torch
import transformers  # its names are looked up where they are used: only then does it import itself
from jinja2 import TemplateError

from connector import visual_tokens
from machinery.families import family_of, read_config
from machinery.files import Refused, resolve, say
from machinery.rows import (
    IMAGE_MARK, LETTERS, BadRow, check_images, fields_of, open_image, parse_columns, read_rows, remarks,
    renamed, report_bad, stated_options, text)

THINK, END_THINK = "<think>\n", "</think>"


# ---------------------------------------------------------------------------------------------------- records

@dataclass
class Record:
    id: str
    question: str                          # may name its images in place: <image>, or <image N> with N from 1
    images: list = field(default_factory=list)     # paths, bytes or PIL images; decoded when used
    answer: str = ""                               # several accepted ones: a list in print, "['a', 'b']"
    solution: str | None = None                    # supervised stages: exactly what the model is to write
    options: list = field(default_factory=list)    # multiple choice: the texts of A, B, C, ...
    subject: str = ""
    turns: list = field(default_factory=list)      # said before the question: [{"role", "content"}]
    precision: float | None = None                 # decimals that an evaluation rounds answers to (MathVista)
    sizes: list = field(default_factory=list)      # (height, width) of each image, filled in by read_records
    shown: list = field(default_factory=list)      # its images as they stand in the prompt, by Processor
    place: str = ""                                # file and row it was read from, for messages

    def name(self):
        """How messages call the row: "rl.jsonl row 7 (id 6)"."""
        return self.place or f"row {self.id}"

    def text(self):
        """Question and options as the model reads them. Options are not told where the picture or the
        question holds them: there is no question, they are letters alone, or they stand in it."""
        question, letters = self.question.strip(), list(LETTERS[:len(self.options)])
        if not question or self.options == letters or self.options == stated_options(question):
            return question
        return "\n".join([question, *(f"{a}. {option}" for a, option in zip(LETTERS, self.options))])

    def named_images(self):
        """The image that each mark of the user's texts names, from 0. A mark without a number names the next
        image. Several marks with one picture are its parts, and stay text."""
        texts = [turn["content"] for turn in self.turns if turn["role"] == "user"] + [self.text()]
        marks = [number for text in texts for number in IMAGE_MARK.findall(text)]
        named = [int(number) - 1 if number else i for i, number in enumerate(marks)]
        parts_of_one = len(self.images) == 1 and len(set(named)) > 1
        return [] if parts_of_one else named


def read_records(source, columns=None, need=("question", "answer"), limit_bad=0.01, split="train",
                 image_root=""):
    """Rows of a file (JSONL, JSON, CSV, Parquet), a folder of Parquet files or a hub data set -> [Record].

    columns maps our field names to the source's ("answer=ground_truth", ...). Paths of images are relative to
    image_root, "": to the file or folder. Rows that cannot be used (a field of `need` is empty, an image is
    missing or unreadable, ...) are skipped and counted; more than limit_bad of them is refused.
    """
    records, bad = find_records(source, columns, need, split, image_root)
    records, broken = check_images(records)
    report_bad(source, len(records), bad + broken, limit_bad)
    return records


def find_records(source, columns=None, need=("question", "answer"), split="train", image_root="", subset=None,
                 revision=None, convert=lambda row: row):
    """(records whose images nobody has opened, [(name, why)] of the rows that cannot be used)"""
    records, bad, said, columns = [], [], Counter(), parse_columns(columns)
    for i, (name, folder, row) in enumerate(read_rows(source, split, image_root, subset, revision), 1):
        try:
            row = convert(renamed(row, columns))
            own_id = text(row, "id", needed=False)
            name = f"{name} (id {own_id})" if own_id else name
            record = Record(own_id or f"{Path(source).stem}-{i}", **fields_of(row, folder, need), place=name)
            refuse_unusable(record, need, row)
            records.append(record)
            said.update(remarks(row, columns, record))
        except BadRow as why:
            bad.append((name, str(why)))
    for what, n in said.items():
        say(f"{source}: {n} of {len(records)} rows have {what}")
    return records, bad


def refuse_unusable(record, need, row):
    """Raise a BadRow where a record lacks what the stage needs, or an image that its text names."""
    need = need if record.images else dict.fromkeys(("question", *need))  # a picture may hold the question
    if empty := [f for f in need if not str(getattr(record, f) or "").strip()]:
        raise BadRow(f"no {' and no '.join(empty)}; its columns are {', '.join(row)} (--columns)"[:400])
    if wrong := [i + 1 for i in record.named_images() if not 0 <= i < len(record.images)]:
        raise BadRow(f"the text names <image {wrong[0]}> but the row has {len(record.images)} image(s)")


def subjects(records):
    """Rows of each subject, for the line printed at the start."""
    return ", ".join(f"{name or '-'} {n}" for name, n in sorted(Counter(r.subject for r in records).items()))


# ---------------------------------------------------------------------------------------------------- prompts

@dataclass
class Prompt:
    record: Record
    ids: list        # one placeholder per image: what vLLM and the chat template know
    full: list       # every placeholder expanded to its visual tokens: what the model sees


class Processor:
    """Tokenizer, image processor and chat template of a model folder, set in one place for trainer and
    sampler."""

    def __init__(self, path, max_tiles=12, pixels=(0, 0), ask="", system="", flag="--model", cache_gib=2.0):
        """max_tiles: of InternVL. pixels: fewest and most pixels of an image for Qwen-VL. 0 keeps the model's
        own. ask: an instruction below every question. system: what the system turn says, "" as the template
        has it (Qwen2.5-VL's has one of its own, the others' have none)."""
        self.path, self.ask, self.system = resolve(path, flag), ask, system
        self.config = read_config(self.path, flag)
        self.family, self.image_id = family_of(self.config), self.config.image_token_id
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(self.path)
        self.tokenizer.model_max_length = sys.maxsize  # prompts() itself says what is too long
        self.image_processor = transformers.AutoImageProcessor.from_pretrained(self.path, backend="pil")
        self.image_mark = self.tokenizer.convert_ids_to_tokens(self.image_id)
        if self.image_mark is None or not self.tokenizer.chat_template:  # transformers makes empty tokenizers
            raise Refused(f"{flag} {path}: no token {self.image_id} for images (is tokenizer.json lost?), or "
                          f"no chat template: neither chat_template.jinja nor chat_template in "
                          f"tokenizer_config.json (chat_template.json is not read)")
        self.stop_ids = self._stop_ids()
        self.family.limit_images(self.image_processor, max_tiles, pixels)
        self.marks = self.family.marks(self.tokenizer)
        tokens = [t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special]
        tokens = sorted({*tokens, *self.tokenizer.all_special_tokens, self.image_mark}, key=len, reverse=True)
        self.control = re.compile("|".join(map(re.escape, tokens)))
        self.per_tile = visual_tokens(self.config)  # 256 for InternVL3
        self.context = self.config.text_config.max_position_embeddings
        self.cache, self.cache_left = {}, cache_gib * 2 ** 30
        self._texts = {}

    def _stop_ids(self):
        there = Path(self.path, "generation_config.json").exists()
        ids = transformers.GenerationConfig.from_pretrained(self.path).eos_token_id if there else []
        ids = ids if isinstance(ids, list) else [ids]
        return sorted({*ids, self.tokenizer.eos_token_id} - {None})

    def prompts(self, records, thinking=True, limit=None):
        """Records -> Prompts, in order. Those longer than `limit` tokens (images expanded) are left out and
        counted: a prompt is never truncated, because the cut could go through an image."""
        texts = self.encode([self._text(r, thinking) for r in records])
        prompts = [self._prompt(r, ids) for r, ids in zip(records, texts)]
        limit = min(limit or self.context, self.context)
        fits = [p for p in prompts if len(p.full) < limit]
        if len(fits) < len(prompts):
            text = (f"{len(prompts) - len(fits)} of {len(prompts)} prompts are longer than {limit} tokens "
                    f"(the longest has {max(len(p.full) for p in prompts)})")
            if not fits:
                raise Refused(f"{text}: nothing is left. Fewer tiles (--max_tiles) or pixels (--pixels)?")
            say(f"left out: {text}")
        return fits

    def _text(self, record, thinking):
        """The record as the chat template writes it, an image where its mark stands; images without a mark
        stand before the first question, or behind the last where texts name others."""
        used = record.named_images()
        rest = [i for i in range(len(record.images)) if i not in used]
        record.shown = used + rest  # the order in which the images stand in the prompt; one can stand twice
        turns = [{"role": "system", "content": self.system}] * bool(self.system) + record.turns
        turns = [*turns, {"role": "user", "content": record.text()}]
        turns = [{**turn, "content": self._parts(turn, bool(used))} for turn in turns]
        if self.ask:
            ask = self.plain("\n" * bool(record.text()) + self.ask)
            turns[-1]["content"].append({"type": "text", "text": ask})
        asked = [turn["content"] for turn in turns if turn["role"] == "user"]
        if used:
            asked[-1] += [{"type": "image"}] * len(rest)
        else:
            asked[0][:0] = [{"type": "image"}] * len(rest)
        try:
            out = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise Refused(f"the chat template of {self.path} refuses {record.name()} ({error})") from error
        for turn in turns:  # a template may leave earlier thoughts out, and nothing else
            said = "".join(part.get("text", "") for part in turn["content"]).rpartition(END_THINK)[2].strip()
            if turn["role"] != "user" and said not in out:
                raise Refused(f"{record.name()}: the chat template of {self.path} leaves a turn of the "
                              f"{turn['role']} out" + ". Use --ask." * (turn["role"] == "system"))
        out = out.removesuffix(THINK)  # the template of Qwen3-VL-Thinking ends with it already
        return out + THINK if thinking else out

    def _parts(self, turn, in_place):
        """The parts of a turn: texts, and an image where a mark of the user's stands."""
        marks = in_place and turn["role"] == "user"
        pieces = IMAGE_MARK.split(turn["content"]) if marks else [turn["content"]]  # every second: a number
        return [{"type": "image"} if i % 2 else {"type": "text", "text": self.plain(piece)}
                for i, piece in enumerate(pieces) if i % 2 or piece]

    def _prompt(self, record, ids):
        """Each placeholder as many times as its image has visual tokens"""
        if ids.count(self.image_id) != len(record.shown):
            raise Refused(f"{record.name()}: the chat template writes {ids.count(self.image_id)} image "
                          f"placeholders ({self.image_mark}) for {len(record.shown)} images")
        begin, end = self.marks
        sizes, full = iter(self.shown_sizes(record)), []
        for i in ids:
            if i == self.image_id:
                n = self.family.image_tokens(self.image_processor, next(sizes), self.per_tile)
                full += begin + [i] * n + end
            else:
                full.append(i)
        return Prompt(record, ids, full)

    def shown_sizes(self, record):
        return [record.sizes[i] for i in record.shown]

    def positions(self, prompt):
        """Positions of the prompt's tokens for the rotary embedding: (P,), or (3, P) in a family that counts
        rows and columns"""
        return self.family.positions(self.image_processor, prompt.full, self.shown_sizes(prompt.record))

    def images(self, prompt):
        """The prompt's images as PIL images, in the order in which they stand there"""
        return [open_image(prompt.record.images[i]) for i in prompt.record.shown]

    def pixels(self, prompt):
        """What the processor makes of a prompt's images: {"pixel_values": (tiles, 3, height, width)}, for
        Qwen-VL {"pixel_values": (patches, width), "image_grid_thw": (images, 3)}, or {} without images."""
        made = [self._pixels(prompt.record.images[i]) for i in prompt.record.shown]
        return {name: torch.cat([m[name] for m in made]) for name in made[0]} if made else {}

    def _pixels(self, image):
        """Small images are kept (up to cache_gib), so that a second epoch or sample decodes nothing."""
        is_file = isinstance(image, (str, bytes))
        if is_file and image in self.cache:
            return self.cache[image]
        made = self.image_processor(open_image(image), return_tensors="pt")
        made = {name: t for name, t in made.items() if name != "num_patches"}  # pixel_values shows the number
        size = sum(t.nbytes for t in made.values())
        if is_file and size <= self.cache_left:
            self.cache[image] = made
            self.cache_left -= size
        return made

    def pieces(self, ids):
        """The text of each token, such that they join to the text of all: [str] as long as ids, special
        tokens empty."""
        special = set(self.tokenizer.all_special_ids)
        for i in set(ids) - self._texts.keys():
            self._texts[i] = "" if i in special else self.tokenizer.decode(
                [i], clean_up_tokenization_spaces=False)
        out, whole = [self._texts[i] for i in ids], self.decode(ids)
        if "".join(out) == whole:
            return out
        # a character over several tokens belongs to the token that completes it
        ends = [len(self.decode(ids[:k + 1]).rstrip("\ufffd")) for k in range(len(ids))]
        ends = [*accumulate(ends[:-1], max), len(whole)]
        return [whole[a:b] for a, b in zip([0] + ends, ends)]

    def plain(self, text):
        """Text of data is plain text: where it spells a control token (<|im_end|>, <IMG_CONTEXT>), a blank
        keeps it from being the token that ends a turn or stands for an image."""
        return self.control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)

    def encode(self, texts):
        """[text, ...] -> [ids, ...]"""
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
