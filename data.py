"""From rows to prompts: Record (a row of a data set) -> Prompt (chat-formatted ids and images). pack.py lays
them into packs.

    records = read_records("data/tiny/rl.jsonl")      # JSONL, Parquet, a folder or a hub name
    chat    = Chat("out/tiny/cold_start")             # tokenizer, image processor, chat template of a model
    prompts = chat.prompts(records, thinking=True)    # the prompt ends with <think> (paper section 6.2)

What can be wrong with data is found here, before the first step, and named by file and row; `python plan.py
data --data D --model M` says what a data set will be to a model.
"""
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from transformers import AutoImageProcessor, AutoTokenizer, GenerationConfig

from connector import visual_tokens
from machinery.families import family_of, read_config
from machinery.files import Refused, reading, resolve, say
from machinery.rows import (
    check_images, image_source, open_image, parse_columns, read_rows, report_bad, unusable, usual_fields)
from machinery.run import say_other_words

THINK = "<think>\n"
IMAGE_MARK = re.compile(r"<image(?: (\d+))?>")


# ---------------------------------------------------------------------------------------------------- records

@dataclass
class Record:
    id: str
    question: str                          # may name its images in place: <image>, or <image N> with N from 1
    images: list = field(default_factory=list)     # paths, bytes or PIL images; decoded when used
    answer: str = ""
    solution: str | None = None                    # supervised stages: exactly what the model is to write
    options: list = field(default_factory=list)    # multiple choice: the texts of A, B, C, ...
    subject: str = ""
    sizes: list = field(default_factory=list)      # (height, width) of each image, filled in by read_records

    def text(self):
        """Question and options as the model reads them."""
        options = [f"{chr(65 + i)}. {option}" for i, option in enumerate(self.options)]
        return "\n".join([self.question.strip(), *options])

    def named_images(self):
        """The image that each mark of the text names, from 0. A mark without a number names the next
        image."""
        return [int(number) - 1 if number else i for i, number in enumerate(IMAGE_MARK.findall(self.text()))]


def read_records(source, columns=None, need=("question", "answer"), limit_bad=0.01, split="train"):
    """Rows of a JSONL or Parquet file, a folder of them, or a hub data set -> [Record].

    columns maps our field names to the source's ("answer=ground_truth", ...). Conversations (LLaVA's and
    ShareGPT's) are read as question and solution, and MMMU's image_1 ... image_7 and printed options as what
    they mean. Rows that can not be used (a field of `need` is empty, an image is missing or unreadable) are
    skipped and counted; more than limit_bad of them is refused.
    """
    records, bad, columns = [], [], parse_columns(columns)
    folder = Path(source).parent if Path(str(source)).is_file() else Path(source)
    for i, row in enumerate(read_rows(source, split), 1):
        name = f"{source} row {i}"
        lost = [] if isinstance(row, str) else [theirs for theirs in columns.values() if theirs not in row]
        if isinstance(row, str):
            bad.append((name, row))
        elif lost:
            bad.append((name, f"no column {lost[0]!r} (--columns); its columns are {', '.join(row)}"))
        else:
            row = usual_fields({**row, **{ours: row[theirs] for ours, theirs in columns.items()}})
            record = make_record(row, f"{Path(str(source)).stem}-{i}", folder)
            if why := unusable(record, need):
                bad.append((f"{name} (id {record.id})", why))
            else:
                records.append(record)
    records, broken = check_images(records)
    report_bad(source, len(records), bad + broken, limit_bad)
    return records


def make_record(row, default_id, folder):
    """A row in our fields -> Record. folder: what paths of images are relative to."""
    images, options = row.get("images") or row.get("image") or [], row.get("options") or []
    images = images if isinstance(images, list) else [images]
    return Record(
        id=str(row.get("id") or default_id), question=str(row.get("question") or ""),
        images=[image_source(image, folder) for image in images],
        answer=str(row["answer"]) if row.get("answer") is not None else "", solution=row.get("solution"),
        options=options if isinstance(options, list) else [options], subject=str(row.get("subject") or ""))


def subjects(records):
    """Rows of each subject, for the line printed at the start."""
    return ", ".join(f"{name or '-'} {n}" for name, n in sorted(Counter(r.subject for r in records).items()))


# ---------------------------------------------------------------------------------------------------- prompts

@dataclass
class Prompt:
    record: Record
    ids: list        # one placeholder per image: what vLLM and the chat template know
    full: list       # every placeholder expanded to its visual tokens: what the model sees

    def continued(self, ids):
        """The same prompt with the beginning of a response appended."""
        return replace(self, ids=self.ids + list(ids), full=self.full + list(ids))


class Chat:
    """Tokenizer, image processor and chat template of a model folder, set in one place for trainer and
    sampler."""

    def __init__(self, path, max_tiles=12, pixels=(0, 0), ask="", system="", flag="--model", cache_gib=2.0):
        """max_tiles: of InternVL. pixels: fewest and most pixels of an image for Qwen-VL, 0 keeps the model's
        own. ask: an instruction below every question. system: what the system turn says, "" as the template
        has it (Qwen2.5-VL's has one of its own, the others' have none)."""
        path = resolve(path, flag)
        say_other_words(path, ask=ask, system=system)
        self.path, self.config, self.ask, self.system = path, read_config(path, flag), ask, system
        self.family = family_of(self.config)
        with reading(f"{flag} {path}: tokenizer.json, preprocessor_config.json or generation_config.json"):
            self.tokenizer = AutoTokenizer.from_pretrained(path)
            self.processor = AutoImageProcessor.from_pretrained(path, backend="pil")
            self.stop_ids = self._stop_ids()
        self.family.limit_images(self.processor, max_tiles, pixels)
        self.image_id = self.config.image_token_id
        self.image_mark = self.tokenizer.convert_ids_to_tokens(self.image_id)
        self.marks = self.family.marks(self.tokenizer)
        self.per_tile = visual_tokens(self.config)  # 256 for InternVL3
        self.context = self.config.text_config.max_position_embeddings
        self.cache, self.cache_left = {}, cache_gib * 2 ** 30
        self._texts = {}

    def _stop_ids(self):
        file = Path(self.path) / "generation_config.json"
        ids = GenerationConfig.from_pretrained(self.path).eos_token_id if file.exists() else None
        ids = ids if isinstance(ids, list) else [ids]
        return sorted({i for i in [*ids, self.tokenizer.eos_token_id] if i is not None})

    def prompts(self, records, thinking=True, limit=None):
        """Records -> Prompts, in order. Those longer than `limit` tokens (images expanded) are left out and
        counted: a prompt is never truncated, because the cut could go through an image."""
        texts = [self._text(r, thinking) for r in records]
        ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        prompts = [Prompt(r, i, self._expand(r, i)) for r, i in zip(records, ids)]
        limit = min(limit or self.context, self.context)
        fits = [p for p in prompts if len(p.full) < limit]
        if len(fits) < len(prompts):
            longest = max(prompts, key=lambda p: len(p.full))
            text = (f"{len(prompts) - len(fits)} of {len(prompts)} prompts are longer than {limit} tokens "
                    f"(the longest, row {longest.record.id}: {len(longest.full)})")
            if not fits:
                raise Refused(f"{text}: nothing is left. Allow longer prompts, or fewer tiles (--max_tiles) "
                              f"or pixels (--pixels).")
            say(f"left out: {text}")
        return fits

    def _text(self, record, thinking):
        """The record as the chat template writes it, an image where its mark stands; images without a mark
        come first."""
        text, parts, at = "\n".join(filter(None, (record.text(), self.ask))), [], 0
        used = record.named_images()
        for mark, number in zip(IMAGE_MARK.finditer(text), used):
            if number >= len(record.images):
                raise Refused(f"row {record.id} names more images than its {len(record.images)}")
            parts += [{"type": "text", "text": text[at:mark.start()]}, {"type": "image"}]
            at = mark.end()
        rest = [i for i in range(len(record.images)) if i not in used]
        extra = [{"type": "image"} for _ in rest]
        text = {"type": "text", "text": text[at:]}
        parts = [*parts, text, *extra] if used else [*extra, text]
        record.shown = used + rest  # the order in which the images stand in the prompt; one can stand twice
        parts = [p for p in parts if p["type"] == "image" or p["text"]]
        turns = [{"role": "user", "content": parts}]
        if self.system:
            turns.insert(0, {"role": "system", "content": [{"type": "text", "text": self.system}]})
        out = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        if self.system.strip() not in out:
            raise Refused(f"--system: the chat template of {self.path} leaves a system turn out. Use --ask.")
        out = out.removesuffix(THINK)  # the template of Qwen3-VL-Thinking ends with it already
        return out + THINK if thinking else out

    def _expand(self, record, ids):
        """Each placeholder as many times as its image has visual tokens."""
        if ids.count(self.image_id) != len(record.shown):
            raise Refused(f"row {record.id}: {ids.count(self.image_id)} image placeholders for "
                          f"{len(record.shown)} images; does its text contain {self.image_mark} literally?")
        begin, end = self.marks
        sizes, full = iter(self.shown_sizes(record)), []
        for i in ids:
            if i == self.image_id:
                tokens = self.family.image_tokens(self.processor, next(sizes), self.per_tile)
                full += begin + [i] * tokens + end
            else:
                full.append(i)
        return full

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
