"""From rows to prompts: Record (a row of a data set) -> Prompt (chat-formatted ids and images). pack.py lays
them into packs.

    records = read_records("data/tiny/rl.jsonl")      # JSON, CSV, Parquet, a folder or a hub name
    chat    = Chat("out/tiny/cold_start")             # tokenizer, image processor, chat template of a model
    prompts = chat.prompts(records, thinking=True)    # the prompt ends with <think> (paper section 6.2)

What can be wrong with data is found here, before the first step, and named by file and row; `python plan.py
data --data D --model M` says what a data set will be to a model.
"""
import re
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from transformers import AutoImageProcessor, AutoTokenizer, GenerationConfig

from connector import visual_tokens
from machinery.families import family_of, read_config
from machinery.fields import BadRow
from machinery.files import Refused, reading, resolve, say
from machinery.pictures import open_image
from machinery.plain_text import CLOSE, OPEN, PlainText
from machinery.readers import read_rows
from machinery.rows import (
    check_images, id_of, our_fields, parse_columns, refuse_unusable, renamed, report_bad, report_twice,
    say_unread_choices, unread_choices)
from machinery.run import say_other_words
from machinery.talks import IMAGE_MARK, THINK, fill_answers, messages

EDGE = re.compile(f"[{OPEN}{CLOSE}]")


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
    turns: list = field(default_factory=list)      # of a longer talk: what was said before (talks.py)
    sizes: list = field(default_factory=list)      # (height, width) of each image, filled in by read_records
    place: str = ""                                # file and row it was read from, for messages

    def name(self):
        """How messages call the row: "rl.jsonl row 7 (id 6)"."""
        return self.place or f"row {self.id}"

    def text(self):
        """Question and options as the model reads them."""
        options = [f"{chr(65 + i)}. {option}" for i, option in enumerate(self.options)]
        return "\n".join([self.question.strip(), *options])

    def named_images(self):
        """The image that each mark of the user's texts names, from 0. A mark without a number names the next
        image."""
        texts = [turn["content"] for turn in self.turns if turn["role"] == "user"] + [self.text()]
        marks = [number for text in texts for number in IMAGE_MARK.findall(text)]
        return [int(number) - 1 if number else i for i, number in enumerate(marks)]


def read_records(source, columns=None, need=("question", "answer"), limit_bad=0.01, split="train",
                 image_root=""):
    """Rows of a file (JSONL, JSON, CSV, TSV, Parquet), a folder of them, or a hub data set -> [Record].

    columns maps our field names to the source's ("answer=ground_truth", ...). Conversations (LLaVA's and
    ShareGPT's) are read as earlier turns, question and solution, and MMMU's image_1, image_2, ... and printed
    options as what they mean. Paths of images are relative to image_root, "": to the file that names them.
    Rows that can not be used (a field of `need` is empty, an image is missing or unreadable, ...) are skipped
    and counted; more than limit_bad of them is refused.
    """
    records, bad, choices, columns = [], [], [], parse_columns(columns)
    for i, found in enumerate(read_rows(source, split, image_root), 1):
        own_id = id_of(found.row, columns)
        name = f"{found.name} (id {own_id})" if own_id else found.name
        try:
            fields = our_fields(found.row, columns, found.folder)
            record = Record(**{**fields, "id": own_id or f"{Path(str(source)).stem}-{i}", "place": name})
            refuse_unusable(record, need, found.row)
            records.append(record)
            choices.append(unread_choices(renamed(found.row, columns)))
        except BadRow as why:
            bad.append((name, str(why)))
    say_unread_choices(source, choices, columns)
    records, broken = check_images(records)
    report_bad(source, len(records), bad + broken, limit_bad)
    report_twice(source, [r.id for r in records])
    return records


def subjects(records):
    """Rows of each subject, for the line printed at the start."""
    return ", ".join(f"{name or '-'} {n}" for name, n in sorted(Counter(r.subject for r in records).items()))


# ---------------------------------------------------------------------------------------------------- prompts

@dataclass
class Prompt:
    record: Record
    ids: list        # one placeholder per image: what vLLM and the chat template know
    full: list       # every placeholder expanded to its visual tokens: what the model sees
    learned: list = field(default_factory=list)  # of a supervised talk, its earlier answers: (start, stop)

    def continued(self, ids):
        """The same prompt with the beginning of a response appended."""
        return replace(self, ids=self.ids + list(ids), full=self.full + list(ids))


class Chat:
    """Tokenizer, image processor and chat template of a model folder, set in one place for trainer and
    sampler."""

    def __init__(self, path, max_tiles=12, pixels=(0, 0), ask="", system="", flag="--model", cache_gib=2.0):
        """max_tiles: of InternVL. pixels: fewest and most pixels of an image for Qwen-VL. 0 keeps the model's
        own. ask: an instruction below every question. system: what the system turn says, "" as the template
        has it (Qwen2.5-VL's has one of its own, the others' have none)."""
        path = resolve(path, flag)
        say_other_words(path, ask=ask, system=system)
        self.path, self.config, self.ask, self.system = path, read_config(path, flag), ask, system
        self.family = family_of(self.config)
        with reading(f"{flag} {path}: tokenizer.json, preprocessor_config.json or generation_config.json"):
            self.tokenizer = AutoTokenizer.from_pretrained(path)
            self.tokenizer.model_max_length = sys.maxsize  # prompts() itself says what is too long
            self.processor = AutoImageProcessor.from_pretrained(path, backend="pil")
            self.stop_ids = self._stop_ids()
        self.family.limit_images(self.processor, max_tiles, pixels)
        self.image_id = self.config.image_token_id
        self.image_mark = self.tokenizer.convert_ids_to_tokens(self.image_id)
        self.marks = self.family.marks(self.tokenizer)
        self.plain = PlainText(self.tokenizer, self.image_mark)  # data that spell control tokens
        self.per_tile = visual_tokens(self.config)  # 256 for InternVL3
        self.context = self.config.text_config.max_position_embeddings
        self.cache, self.cache_left = {}, cache_gib * 2 ** 30
        self._texts = {}

    def _stop_ids(self):
        file = Path(self.path) / "generation_config.json"
        ids = GenerationConfig.from_pretrained(self.path).eos_token_id if file.exists() else None
        ids = ids if isinstance(ids, list) else [ids]
        return sorted({i for i in [*ids, self.tokenizer.eos_token_id] if i is not None})

    def prompts(self, records, thinking=True, limit=None, learn=False):
        """Records -> Prompts, in order. Those longer than `limit` tokens (images expanded) are left out and
        counted: a prompt is never truncated, because the cut could go through an image. learn: earlier
        answers of a talk are to be learned, too."""
        texts = [EDGE.split(self._text(r, thinking)) for r in records]  # every second: an earlier answer
        ids = iter(self.plain.encode([piece for pieces in texts for piece in pieces]))
        prompts = [self._prompt(r, [next(ids) for _ in pieces], learn) for r, pieces in zip(records, texts)]
        limit = min(limit or self.context, self.context)
        fits = [p for p in prompts if len(p.full) < limit]
        if len(fits) < len(prompts):
            longest = max(prompts, key=lambda p: len(p.full))
            text = (f"{len(prompts) - len(fits)} of {len(prompts)} prompts are longer than {limit} tokens "
                    f"(the longest, {longest.record.name()}: {len(longest.full)})")
            if not fits:
                raise Refused(f"{text}: nothing is left. Allow longer prompts, or fewer tiles (--max_tiles) "
                              f"or pixels (--pixels).")
            say(f"left out: {text}")
        return fits

    def _text(self, record, thinking):
        """The record as the chat template writes it, an image where its mark stands; images without a mark
        come first. Answers of earlier turns stand between marks (EDGE)."""
        used = record.named_images()
        if used and max(used) >= len(record.images):
            raise Refused(f"{record.name()} names more images than its {len(record.images)}")
        rest = [i for i in range(len(record.images)) if i not in used]
        record.shown = used + rest  # the order in which the images stand in the prompt; one can stand twice
        turns = messages(record, len(rest), self.ask, self.system, self.plain.hide)
        out = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        out = fill_answers(out, turns, record, self.plain.hide, self.path)
        out = out.removesuffix(THINK)  # the template of Qwen3-VL-Thinking ends with it already
        return out + THINK if thinking else out

    def _prompt(self, record, pieces, learn):
        """Pieces of a prompt -> Prompt: each placeholder as many times as its image has visual tokens. Every
        second piece is an earlier answer, which is learned with the token behind it, that ends the turn."""
        ids = [i for piece in pieces for i in piece]
        if ids.count(self.image_id) != len(record.shown):
            raise Refused(f"{record.name()}: its chat template writes {ids.count(self.image_id)} image "
                          f"placeholders ({self.image_mark}) for {len(record.shown)} images")
        begin, end = self.marks
        sizes, full, spans = iter(self.shown_sizes(record)), [], []
        for k, piece in enumerate(pieces):
            spans += [(len(full), len(full) + len(piece) + 1)] if k % 2 else []
            for i in piece:
                if i == self.image_id:
                    tokens = self.family.image_tokens(self.processor, next(sizes), self.per_tile)
                    full += begin + [i] * tokens + end
                else:
                    full.append(i)
        return Prompt(record, ids, full, spans if learn else [])

    def shown_sizes(self, record):
        return [record.sizes[i] for i in record.shown]

    def positions(self, prompt):
        """Positions of the prompt's tokens for the rotary embedding: (P,), or (3, P) in a family that counts
        rows and columns"""
        return self.family.positions(self.processor, prompt.full, self.shown_sizes(prompt.record))

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
        made = self.processor(open_image(image), return_tensors="pt")
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
        out = [self._piece(i) if i not in special else "" for i in ids]
        whole = self.decode(ids)
        if "".join(out) == whole:
            return out
        # a character over several tokens belongs to the token that completes it
        ends, furthest = [], 0
        for k in range(len(ids)):
            furthest = max(furthest, len(self.decode(ids[:k + 1]).rstrip("\ufffd")))
            ends.append(furthest)
        ends[-1:] = [len(whole)]
        return [whole[a:b] for a, b in zip([0] + ends, ends)]

    def _piece(self, i):
        if i not in self._texts:
            self._texts[i] = self.tokenizer.decode([i], clean_up_tokenization_spaces=False)
        return self._texts[i]

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
