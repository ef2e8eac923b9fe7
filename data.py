"""From rows to packs: Record (a row of a data set) -> Prompt (chat-formatted ids and images) -> Pack (a row of tokens).

    records = read_records("data/tiny/rl.jsonl")            # JSONL, Parquet, a folder or a hub name
    chat    = Chat("out/tiny/cold_start")                   # tokenizer, image processor and chat template of a model
    prompts = chat.prompts(records, thinking=True)          # the prompt ends with <think> (paper section 6.2)
    packs   = chat.packs([(prompt, [ids, ids, ...]), ...])  # a prompt and its images once, then its responses

What can be wrong with data is found here, before the first step, and named by file and row; `python plan.py data --data D
--model M` says what a data set will be to a model.
"""
import ast
import io
import json
import math
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from transformers import AutoImageProcessor, AutoTokenizer, GenerationConfig

from common import Refused, resolve, say
from attention import Layout
from model import read_config, visual_tokens

THINK, END_THINK = "<think>\n", "</think>"
IMAGE_MARK = re.compile(r"<image(?: (\d+))?>")


# ------------------------------------------------------------------------------------------------------------------ records

@dataclass
class Record:
    id: str
    question: str                                  # may name its images in place: <image>, or <image N> with N from 1
    images: list = field(default_factory=list)     # paths, bytes or PIL images; decoded when used
    answer: str = ""
    solution: str | None = None                    # supervised stages: exactly what the model is to write
    options: list = field(default_factory=list)    # multiple choice: the texts of A, B, C, ...
    subject: str = ""
    sizes: list = field(default_factory=list)      # (height, width) of each image, filled in by read_records

    def text(self):
        """Question and options as the model reads them."""
        return "\n".join([self.question.strip()] + [f"{chr(65 + i)}. {o}" for i, o in enumerate(self.options)])


def read_records(source, columns=None, need=("question", "answer"), limit_bad=0.01, split="train"):
    """Rows of a JSONL or Parquet file, a folder of them, or a hub data set (then through `datasets`).

    columns maps our field names to the source's ("answer=ground_truth", ...). Conversations (LLaVA's and ShareGPT's) are
    read as question and solution, and MMMU's image_1 ... image_7 and printed options as what they mean. Rows that cannot be
    used (a needed field is empty, an image is missing or unreadable) are skipped and counted; more than limit_bad of them
    is refused.
    """
    records, bad, columns = [], [], _columns(columns)
    for i, row in enumerate(_rows(source, split)):
        name = f"{source} row {i + 1}"
        if isinstance(row, str):
            bad.append((name, row))
            continue
        if lost := [theirs for theirs in columns.values() if theirs not in row]:
            bad.append((name, f"no column {lost[0]!r} (--columns); its columns are {', '.join(row)}"))
            continue
        row = _usual({**row, **{ours: row[theirs] for ours, theirs in columns.items()}})
        images = row.get("images") or row.get("image") or []
        options = row.get("options") or []
        record = Record(str(row.get("id") or f"{Path(str(source)).stem}-{i + 1}"), str(row.get("question") or ""),
                        images if isinstance(images, list) else [images], str(row["answer"]) if row.get("answer") is not None else "",
                        row.get("solution"), options if isinstance(options, list) else [options], str(row.get("subject") or ""))
        folder = Path(source).parent if Path(str(source)).is_file() else Path(source)
        record.images = [_as_source(im, folder) for im in record.images]
        if empty := [f for f in need if not str(getattr(record, f) or "").strip()]:
            bad.append((f"{name} (id {record.id})", f"no {' and no '.join(empty)}"))
        elif wrong := [m for m in _marks(record) if not 1 <= m <= len(record.images)]:
            bad.append((f"{name} (id {record.id})", f"the text names <image {wrong[0]}> but the row has {len(record.images)} image(s)"))
        else:
            records.append(record)
    records, broken = _check_images(records)
    bad += broken
    if not records and not bad:
        raise Refused(f"{source} holds no rows")
    if bad:
        listed = "\n".join(f"  {name}: {why}" for name, why in bad[:5]) + ("\n  ..." if len(bad) > 5 else "")
        if not records or len(bad) > limit_bad * (len(records) + len(bad)):
            raise Refused(f"{len(bad)} of {len(records) + len(bad)} rows of {source} can not be used:\n{listed}\n"
                          f"Mend them, or allow such a share with --limit_bad (now {limit_bad}).")
        say(f"skipped {len(bad)} of {len(records) + len(bad)} rows of {source}:\n{listed}")
    return records


def _rows(source, split):
    path = Path(source)
    if path.suffix == ".jsonl" or (path.suffix == ".json" and path.is_file()):
        if not path.is_file():
            raise Refused(f"{source}: no such file. For the tiny world run `make tiny` (or python tiny/make.py) first.")
        with path.open(encoding="utf-8") as lines:  # by \n alone: a text may hold other line breaks
            for line in filter(str.strip, lines):
                try:
                    row = json.loads(line)
                    yield row if isinstance(row, dict) else f"no JSON object but {line.strip()[:40]}"
                except json.JSONDecodeError as error:
                    yield f"no JSON: {error}"
        return
    import datasets
    try:
        if path.is_dir() or path.suffix == ".parquet":
            files = sorted(map(str, path.rglob("*.parquet"))) if path.is_dir() else [str(path)]
            if not files:
                raise Refused(f"{source}: no Parquet file in this folder")
            found = datasets.load_dataset("parquet", data_files=files, split="train")
        else:
            found = datasets.load_dataset(source, split=split)
        for table in found.with_format("arrow").iter(100):  # as it is stored: images stay files until they are used
            yield from table.to_pylist()
    except (FileNotFoundError, ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        raise Refused(f"{source}: neither a file, nor a folder with Parquet files, nor a data set that the hub knows ({error})") from error


def _columns(columns):
    """("answer=ground_truth", ...) or a dict -> {"answer": "ground_truth"}"""
    columns = columns if isinstance(columns, dict) else dict(c.partition("=")[::2] for c in columns or ())
    known = ("id", "question", "images", "image", "answer", "solution", "options", "subject", "conversations")
    if wrong := [f"{ours}={theirs}" for ours, theirs in columns.items() if ours not in known or not theirs]:
        raise Refused(f"--columns {wrong[0]}: write OURS=THEIRS, where OURS is one of {', '.join(known)}")
    return columns


def _usual(row):
    """Other shapes of a row in our fields. Of a conversation the first question and its answer are taken."""
    talk = row.get("conversations") or row.get("messages")
    if isinstance(talk, list) and not row.get("question"):
        said = {}
        for turn in talk:
            said.setdefault({"human": "user", "gpt": "assistant"}.get(who := turn.get("from") or turn.get("role"), who), turn.get("value") or turn.get("content"))
        row = {"answer": said.get("assistant"), "solution": said.get("assistant"), **row, "question": said.get("user")}
    if not row.get("images") and not row.get("image"):
        row = {**row, "images": [row[f"image_{i}"] for i in range(1, 8) if row.get(f"image_{i}")]}
    options = row.get("options")
    if isinstance(options, str) and options.strip().startswith("["):
        try:
            row = {**row, "options": ast.literal_eval(options.strip())}
        except (ValueError, SyntaxError):
            pass  # a single option that begins with a bracket
    return row


def _marks(record):  # the image that each mark of the text names, from 1: a mark without a number names the next one
    return [int(m) if m else i + 1 for i, m in enumerate(IMAGE_MARK.findall(record.text()))]


def _as_source(image, folder):
    if isinstance(image, dict):  # how Parquet files hold images
        image = image.get("bytes") or image.get("path")
    return str(folder / image) if isinstance(image, str) else image


def open_image(image):
    """A path, bytes or PIL image as RGB."""
    if isinstance(image, (str, bytes)):
        image = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image)
    return image.convert("RGB")


def _check_images(records):  # decode every image once: a broken file is found now and not in step 412
    def size(image):
        try:
            return open_image(image).size[::-1]
        except (OSError, UnidentifiedImageError, ValueError) as error:
            return f"image {image if isinstance(image, str) else '(bytes)'} can not be read ({error.__class__.__name__}: {error})"

    files = {im for r in records for im in r.images if isinstance(im, (str, bytes))}
    with ThreadPoolExecutor(8) as pool:
        sizes = dict(zip(files, pool.map(size, files)))
    good, bad = [], []
    for r in records:
        r.sizes = [sizes[im] if isinstance(im, (str, bytes)) else size(im) for im in r.images]
        wrong = [s for s in r.sizes if isinstance(s, str)]
        bad.append((f"row {r.id}", wrong[0])) if wrong else good.append(r)
    return good, bad


# ------------------------------------------------------------------------------------------------------------------ prompts

@dataclass
class Prompt:
    record: Record
    ids: list        # one placeholder per image: what vLLM and the chat template know
    full: list       # every placeholder expanded to its visual tokens: what the model sees

    def continued(self, ids):
        """The same prompt with the beginning of a response appended."""
        return replace(self, ids=self.ids + list(ids), full=self.full + list(ids))


class Chat:
    """Tokenizer, image processor and chat template of a model folder, set in one place for trainer and sampler."""

    def __init__(self, path, max_tiles=12, pixels=(0, 0), flag="--model", cache_gib=2.0):
        """max_tiles: of InternVL. pixels: fewest and most pixels of an image for Qwen-VL, 0 keeps the model's own."""
        path = resolve(path, flag)
        self.path, self.config = path, read_config(path, flag)
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.processor = AutoImageProcessor.from_pretrained(path, backend="pil")
        self.image_id = self.config.image_token_id
        self.image_mark = self.tokenizer.convert_ids_to_tokens(self.image_id)
        self.grids = hasattr(self.config.vision_config, "spatial_merge_size")  # Qwen-VL: images keep their shape, positions are (time, row, column)
        if self.grids:
            least, most = (given or self.processor.size[edge] for given, edge in zip(pixels, ("shortest_edge", "longest_edge")))
            self.processor.size = type(self.processor.size)(shortest_edge=least, longest_edge=most)
            self.per_tile, self.around = 1, ([], [])  # its chat template writes the marks around an image
        else:
            self.processor.crop_to_patches, self.processor.max_patches = max_tiles > 1, max_tiles
            self.per_tile = visual_tokens(self.config)  # 256 for InternVL3
            self.start_id, self.end_id = self.tokenizer.convert_tokens_to_ids(["<img>", "</img>"])
            self.around = [self.start_id], [self.end_id]
        self.stop_ids = self._stop_ids()
        self.context = self.config.text_config.max_position_embeddings
        self.cache, self.cache_left = {}, cache_gib * 2 ** 30
        self._texts = {}

    def _stop_ids(self):
        ids = GenerationConfig.from_pretrained(self.path).eos_token_id if (Path(self.path) / "generation_config.json").exists() else None
        ids = ids if isinstance(ids, list) else [ids]
        return sorted({i for i in [*ids, self.tokenizer.eos_token_id] if i is not None})

    def prompts(self, records, thinking=True, limit=None):
        """Records -> Prompts, in order. Those longer than `limit` tokens (images expanded) are left out and counted:
        a prompt is never truncated, because the cut could go through an image."""
        texts = [self._text(r, thinking) for r in records]
        ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        prompts = [Prompt(r, i, self._expand(r, i)) for r, i in zip(records, ids)]
        limit = min(limit or self.context, self.context)
        fits = [p for p in prompts if len(p.full) < limit]
        if len(fits) < len(prompts):
            longest = max(prompts, key=lambda p: len(p.full))
            text = f"{len(prompts) - len(fits)} of {len(prompts)} prompts are longer than {limit} tokens (the longest, row {longest.record.id}: {len(longest.full)})"
            if not fits:
                raise Refused(f"{text}: nothing is left. Allow longer prompts, or fewer tiles (--max_tiles) or pixels (--pixels).")
            say(f"left out: {text}")
        return fits

    def _text(self, record, thinking):
        parts, used, at = [], [], 0
        text = record.text()
        for mark in IMAGE_MARK.finditer(text):
            number = int(mark[1]) - 1 if mark[1] else len(used)
            if number >= len(record.images):
                raise Refused(f"row {record.id} names more images than its {len(record.images)}")
            parts += [{"type": "text", "text": text[at:mark.start()]}, {"type": "image"}]
            used.append(number)
            at = mark.end()
        rest = [i for i in range(len(record.images)) if i not in used]
        extra = [{"type": "image"} for _ in rest]
        parts = parts + [{"type": "text", "text": text[at:]}] + extra if used else extra + [{"type": "text", "text": text}]
        record.shown = used + rest  # the order in which the images stand in the prompt; one can stand twice
        parts = [p for p in parts if p["type"] == "image" or p["text"]]
        out = self.tokenizer.apply_chat_template([{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True)
        return out.removesuffix(THINK) + (THINK if thinking else "")  # the template of Qwen3-VL-Thinking ends with it already

    def _expand(self, record, ids):
        if ids.count(self.image_id) != len(record.shown):
            raise Refused(f"row {record.id}: {ids.count(self.image_id)} image placeholders for {len(record.shown)} images; "
                          f"does its text contain {self.image_mark} literally?")
        sizes, full = iter([record.sizes[i] for i in record.shown]), []
        for i in ids:
            full += self.around[0] + [i] * self.per_tile * self.tiles(next(sizes)) + self.around[1] if i == self.image_id else [i]
        return full

    def tiles(self, size):
        """Tiles of an image of (height, width): 1, or its tiling and a thumbnail; of a Qwen-VL its visual tokens.
        Tested against the real processors."""
        if self.grids:
            return math.prod(self.grid(size))
        if not self.processor.crop_to_patches:
            return 1
        return int(self.processor.get_number_of_image_patches(*size, {}))

    def grid(self, size):
        """Rows and columns of visual tokens: the image is scaled to multiples of 28 pixels (Qwen3-VL: 32) within the pixel limits."""
        height, width = size
        if max(size) > 200 * min(size):
            raise Refused(f"an image of {width}x{height} pixels is longer than 200 times its width: the model family refuses it")
        unit = self.processor.patch_size * self.processor.merge_size
        least, most = self.processor.size["shortest_edge"], self.processor.size["longest_edge"]
        rows, columns = round(height / unit), round(width / unit)
        if rows * columns * unit ** 2 > most:
            shrink = math.sqrt(height * width / most)
            rows, columns = (max(1, math.floor(x / shrink / unit)) for x in size)
        elif rows * columns * unit ** 2 < least:
            grow = math.sqrt(least / (height * width))
            rows, columns = (math.ceil(x * grow / unit) for x in size)
        return rows, columns

    def positions(self, prompt):
        """Of the rotary embedding: (P,), or for Qwen-VL's M-RoPE (3, P), where text counts on in all three rows and an
        image stands still in time and counts its rows and columns; text after it goes on behind the larger of the two."""
        if not self.grids:
            return torch.arange(len(prompt.full))
        out, i, at = [], 0, 0
        for size in (prompt.record.sizes[k] for k in prompt.record.shown):
            rows, columns = self.grid(size)
            j = prompt.full.index(self.image_id, i)
            out.append((torch.arange(j - i) + at).expand(3, -1))
            at, i = at + j - i, j + rows * columns
            place = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")).view(2, -1)
            out.append(torch.cat([torch.zeros_like(place[:1]), place]) + at)
            at += max(rows, columns)
        return torch.cat(out + [(torch.arange(len(prompt.full) - i) + at).expand(3, -1)], 1)

    def pixels(self, prompt):
        """What the processor makes of a prompt's images: {"pixel_values": (tiles, 3, height, width)}, for
        Qwen-VL {"pixel_values": (patches, width), "image_grid_thw": (images, 3)}, or {} without images.
        Small images are kept (up to cache_gib), so that a second epoch or sample decodes nothing."""
        record, out = prompt.record, []
        for i in record.shown:
            image = record.images[i]
            if image not in self.cache if isinstance(image, (str, bytes)) else True:
                got = self.processor(open_image(image), return_tensors="pt")
                got = {k: v for k, v in got.items() if k != "num_patches"}  # the number of tiles: pixel_values has it
                if not isinstance(image, (str, bytes)) or self.cache_left < (size := sum(v.nbytes for v in got.values())):
                    out.append(got)
                    continue
                self.cache[image] = got
                self.cache_left -= size
            out.append(self.cache[image])
        return {k: torch.cat([o[k] for o in out]) for k in out[0]} if out else {}

    def pieces(self, ids):
        """The text of each token, such that they join to the text of all: [str] as long as ids, special tokens empty."""
        special = set(self.tokenizer.all_special_ids)
        out = [self._piece(i) if i not in special else "" for i in ids]
        whole = self.decode(ids)
        if "".join(out) != whole:  # a character over several tokens: it belongs to the token that completes it
            ends = [len(self.decode(ids[:k + 1]).rstrip("�")) for k in range(len(ids))]
            ends = [max(ends[:k + 1]) for k in range(len(ids) - 1)] + [len(whole)] if ids else []
            out = [whole[a:b] for a, b in zip([0] + ends, ends)]
        return out

    def _piece(self, i):
        if i not in self._texts:
            self._texts[i] = self.tokenizer.decode([i], clean_up_tokenization_spaces=False)
        return self._texts[i]

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    # -------------------------------------------------------------------------------------------------------------- packs

    def packs(self, groups, max_tokens=16384, temperature=1.0, pixels=True):
        """[(prompt, [response ids, ...]), ...] -> Packs of at most max_tokens tokens each, in order.

        Responses are numbered 0, 1, ... over all groups; Pack.owner holds these numbers. A group that does not fit is
        split: its prompt (and images) stands once in each piece. pixels=False leaves the images out (their features are
        known already).
        """
        packs, row, free, number = [], [], 0, 0
        for prompt, responses in groups:
            piece = None
            for ids in responses or [None]:
                n = len(ids) if ids is not None else 0
                if piece is None or n > free:
                    if n + len(prompt.full) > free and row:
                        packs.append(self.pack(row, temperature, pixels))
                        row = []
                    free = (free if row else max_tokens) - len(prompt.full)
                    piece = (prompt, [])
                    row.append(piece)
                if ids is not None:
                    piece[1].append((number, ids))
                    number, free = number + 1, free - n
        return packs + ([self.pack(row, temperature, pixels)] if row else [])

    def pack(self, row, temperature=1.0, images=True):
        """[(prompt, [(number, ids), ...]), ...] -> one Pack"""
        ids, positions, segments, source, owner, pixels = [], [], [], [], [], []
        for prompt, responses in row:
            begin, P = len(ids), len(prompt.full)
            segments.append((begin, P, 0, 0))
            ids += prompt.full
            positions.append(self.positions(prompt))
            behind = int(positions[-1].max()) + 1
            pixels.append(self.pixels(prompt) if images else {})
            for number, response in responses:
                if not response:
                    continue  # an empty response has no token to learn from
                start, n = len(ids), len(response)
                segments.append((start, n, begin, P))
                source += [begin + P - 1, *range(start, start + n - 1)]  # the token before each response token predicts it
                owner += [number] * n
                ids += response
                positions.append((torch.arange(n) + behind).expand(*positions[-1].shape[:-1], n))
        ids = torch.tensor(ids)
        source, owner = torch.tensor(source, dtype=torch.long), torch.tensor(owner, dtype=torch.long)
        targets = [t for _, responses in row for _, r in responses for t in r]
        merged = {k: torch.cat([p[k] for p in pixels if p]) for k in {k for p in pixels for k in p}}
        return Pack(ids, torch.cat(positions, -1), (ids == self.image_id).nonzero()[:, 0], merged, Layout(segments),
                    source, torch.tensor(targets, dtype=torch.long), owner, temperature, [p for p, _ in row])


@dataclass
class Pack:
    """One row of N tokens without padding: prompts, each followed by its responses."""
    ids: torch.Tensor          # (N,)
    positions: torch.Tensor    # (N,) or (3, N) of the rotary embedding: a response goes on where its prompt ends
    visual_at: torch.Tensor    # (V,) places of the visual tokens
    images: dict               # what the processor made of all images, in order
    layout: Layout             # who attends to whom
    source: torch.Tensor       # (R,) the place whose hidden state predicts each response token
    target: torch.Tensor       # (R,) the response tokens
    owner: torch.Tensor        # (R,) number of the response that each belongs to
    temperature: float
    prompts: list

    def names(self):
        return ", ".join(p.record.id for p in self.prompts[:4]) + (", ..." if len(self.prompts) > 4 else "")

    def to(self, device):
        move = lambda t: t.to(device, non_blocking=True)  # noqa: E731
        return replace(self, ids=move(self.ids), positions=move(self.positions), visual_at=move(self.visual_at),
                       images={k: move(v) for k, v in self.images.items()}, layout=self.layout.to(device),
                       source=move(self.source), target=move(self.target), owner=move(self.owner))


def subjects(records):
    """Rows of each subject, for the line printed at the start."""
    return ", ".join(f"{name or '-'} {n}" for name, n in sorted(Counter(r.subject for r in records).items()))
