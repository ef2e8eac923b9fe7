"""Files of rows -> rows of one schema (docs/your_data.md) -> the fields of a Record, and pictures. No torch.

What is not in the schema is converted by a few lines of the user's. A row that cannot be used is named and
counted; what looks like a picture or options and is not read is said.
"""
import ast
import csv
import hashlib
import io
import json
import math
import os
import re
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from string import ascii_uppercase as LETTERS

import numpy as np
from PIL import Image, ImageOps

from machinery.files import Refused, hub_name, json_lines, say

FIELDS = ("id", "question", "images", "image", "answer", "solution", "options", "subject", "turns")
# MMMU writes <image 1>, MathVision <image1>, OlympiadBench <image_1>
IMAGE_MARK = re.compile(r"<image(?:[ _]?(\d+))?>")
# half a pair of UTF-16, which no tokenizer takes: bytes that are no UTF-8 are read as such
NO_TEXT = re.compile("[\ud800-\udfff]")
# how people name files and folders of splits: train-0-of-2.parquet, data/test.parquet, val/0.parquet
SPLIT = re.compile(
    r"(?:^|[-_. ])((?:train|valid|val|dev|test)(?:ing|ation|idation|[-_]?mini)?)(?=[-_. \d]|$)", re.I)


class BadRow(ValueError):
    """Why a row cannot be used. The caller knows its name, counts it, and goes on (report_bad)."""


# ------------------------------------------------------------------------------------------------------ files

def read_rows(source, split="train", image_root="", subset=None, revision=None):
    """Yield (name for messages, folder that paths of images are relative to, dictionary or BadRow) of each
    row of a file, a folder's Parquet files of the split, or a hub data set. subset: a folder in the folder,
    or the hub's configuration. image_root: that folder; "": the one given, or that of the file."""
    path = Path(source)
    if path.is_dir():
        tables = [(file, rows_of_file(file)) for file in files_of_split(path, split, subset)]
    elif path.is_file():
        tables = [(path, rows_of_file(path))]
    elif hub_name(str(source)):
        tables = [(source, hub_rows(str(source), split, subset, revision))]
    else:
        raise Refused(f"{source or '--data (empty)'}: no such file or folder. For the tiny world run `make "
                      f"tiny` (or python tiny/make.py) first; a hub data set is named as owner/name.")
    folder = Path(image_root or (path if path.is_dir() else path.parent))
    for name, rows in tables:
        yield from ((f"{name} row {i}", folder, row) for i, row in enumerate(rows, 1))


def files_of_split(folder, split, subset=None):
    """The Parquet files of a folder that are of a split, by the split's exact name: "test" is not "testmini".
    Where none is of it, those whose names tell nothing."""
    files = sorted(f for f in folder.rglob("*.parquet") if subset in (None, "", f.parent.name))
    parts = {f: map(SPLIT.search, reversed(f.relative_to(folder).parts)) for f in files}
    names = {f: next((found[1].lower() for found in parts[f] if found), "") for f in files}
    kept = [f for f in files if names[f] == split] or [f for f in files if not names[f]]
    if not kept:
        there = ", ".join(sorted(set(names.values()))) or "none"
        raise Refused(f"{folder} holds no Parquet file of the split {split!r}; there are {there}. "
                      f"A file of another kind is named itself.")
    if left := [str(f.relative_to(folder)) for f in files if f not in kept]:
        say(f"{folder}: {len(kept)} of {len(files)} files are read; not of the split {split!r}: "
            f"{', '.join(left[:5])}" + ", ..." * (len(left) > 5))
    return kept


def rows_of_file(path):
    kinds = {".jsonl": json_rows, ".json": json_rows, ".csv": csv_rows, ".parquet": parquet_rows}
    if path.suffix.lower() not in kinds:
        raise Refused(f"{path}: data files are {', '.join(kinds)}. Convert it (docs/your_data.md).")
    try:
        yield from kinds[path.suffix.lower()](path)
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's are of these, too
        raise Refused(f"{path} cannot be read to its end: {' '.join(str(error).split())[:300]}") from error


def json_rows(path):
    """One object a line, or one array over the whole file"""
    if path.suffix.lower() == ".json" and re.match(rb"[\xef\xbb\xbf\s]*\[", content := path.read_bytes()):
        yield from json.loads(content)
        return
    for _, row in json_lines(path, errors="surrogateescape"):
        yield BadRow(f"no JSON: {row}") if isinstance(row, ValueError) else row


def csv_rows(path):
    csv.field_size_limit(2 ** 31 - 1)
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = csv.DictReader(file, strict=True)
        if len(set(rows.fieldnames or ())) < len(rows.fieldnames or ()):
            raise ValueError("two columns have the same name")
        for row in rows:  # None stands for a name or a cell that is missing
            yield BadRow(f"it has more or fewer cells than the header's {len(rows.fieldnames)}") \
                if None in row or None in row.values() else row


def parquet_rows(path):
    """As it is stored: images stay files."""
    import pyarrow.parquet
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(100):
            yield from batch.to_pylist()


def hub_rows(source, split, subset=None, revision=None):
    import datasets  # it takes a second to import
    found = datasets.load_dataset(source, subset, split=split, revision=revision)
    for table in found.with_format("arrow").iter(100):
        yield from table.to_pylist()


# -------------------------------------------------------------------------------------------- fields of a row

def parse_columns(columns):
    """("answer=ground_truth", ...) or a dictionary -> {"answer": "ground_truth"}"""
    columns = dict(columns if isinstance(columns, dict) else (c.partition("=")[::2] for c in columns or ()))
    for ours, theirs in columns.items():
        if ours not in FIELDS or not theirs:
            raise Refused(f"--columns {ours}={theirs}: write OURS=THEIRS; ours are {', '.join(FIELDS)}")
    return columns


def renamed(row, columns):
    """A row as it was found, with our names of columns beside its own."""
    if not isinstance(row, dict):
        raise row if isinstance(row, BadRow) else BadRow(f"no object with columns but {row!r}"[:100])
    if lost := [theirs for theirs in columns.values() if theirs not in row]:
        raise BadRow(f"no column {lost[0]!r} (--columns); its columns are {', '.join(row)}"[:400])
    other = {"image": "images", "images": "image"}  # where one of them is given, the other is not meant
    return {**{name: value for name, value in row.items() if other.get(name) not in columns},
            **{ours: row[theirs] for ours, theirs in columns.items()}}


def fields_of(row, folder, need):
    """A row of the schema -> the fields of a Record. folder: what paths of images are relative to. A BadRow
    says what cannot be used; a field that is not needed and of an odd type is left out."""
    question, answer = text(row, "question"), answer_of(row, "answer" in need)
    options = parse_options(row.get("options"))
    own = [OWN_LETTER.match(option) for option in options]
    if [m and m[1] for m in own] == list(LETTERS[:len(options)]):  # "A. 52"
        options = [option[m.end():] for m, option in zip(own, options)]
    if not options and answer.strip("(). ") in list(LETTERS[:len(stated_options(question))]):
        options = stated_options(question)
    turns, images = turns_of(row), images_of(row, folder)
    solution, subject = text(row, "solution", "solution" in need), text(row, "subject", False)
    texts = [question, answer, subject, solution, *options, *(turn["content"] for turn in turns),
             *(image for image in images if isinstance(image, str))]
    if wrong := next(filter(None, map(NO_TEXT.search, texts)), None):
        raise BadRow(f"one of its texts has no character but {ascii(wrong[0])}: is the file UTF-8?")
    return {"question": question, "images": images, "answer": answer, "solution": solution or None,
            "options": options, "subject": subject, "turns": turns}


def text(row, name, needed=True):
    """A text, or a number as text. True, nan and objects are neither."""
    given = row.get(name)
    if isinstance(given, list) and len(given) == 1 and not needed:
        given = given[0]
    number = isinstance(given, (int, float, Decimal)) and not isinstance(given, bool) and math.isfinite(given)
    if isinstance(given, str) or number:
        return str(given)
    if given is not None and needed:
        raise BadRow(f"its {name} is {given!r}, text or a number was expected"[:200])
    return ""


def answer_of(row, needed=True):
    """The answer of a row as text; of a list, each is accepted, and several stay a list in print, as MMMU has
    them. "" where there is none, or where one of them is empty."""
    given = row.get("answer")
    several = [text({"answer": answer}, "answer", needed)
               for answer in (given if isinstance(given, list) else [given])]
    if not all(map(str.strip, several)):
        return ""
    return str(several) if len(several) > 1 else "".join(several)


def listed(given):
    """The list that a text prints (a cell of a CSV file, MMMU's options); anything else as it is."""
    if isinstance(given, str) and given.lstrip().startswith("["):
        try:
            return ast.literal_eval(given.strip())  # it executes nothing
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            pass  # an interval, a matrix, a path that begins with a bracket, ...
    return given


def accepted_answers(answer):
    """[accepted answers] of an open question: MMMU prints some as a list of strings, "['24/7', '3.429']"."""
    several = listed(answer)
    texts = isinstance(several, list) and several and all(isinstance(a, str) for a in several)
    return several if texts else [answer]


OWN_LETTER = re.compile(r"\s*\(?([A-Z])(?:[.)．、]\s*|[:：]\s+)(?=\S)")  # "A:B" is a ratio
STATED = (re.compile(r"\(([A-Z])\)"), re.compile(r"(?<!\S)([A-Z])[.):：．、]\s"))


def parse_options(options):
    """The texts of a row's options, a list or one in print (MMMU's). A BadRow says what is wrong."""
    given = listed(options) or []
    if not isinstance(given, (list, tuple)) or len(given) > len(LETTERS):
        raise BadRow(f"its options are no list of at most {len(LETTERS)}, but {given!r}"[:200])
    if wrong := [o for o in given if o is None or isinstance(o, (bool, dict)) or o != o]:
        raise BadRow(f"one of its options is {wrong[0]!r}, text or a number was expected"[:200])
    return [str(option) for option in given]


def stated_options(question):
    """The options that stand in a question, "(A) a ring (B) a bar" or "A. 3; B. 5"; [] where none do"""
    for mark in STATED:
        found = list(mark.finditer(question))
        if len(found) > 1 and "".join(m[1] for m in found) == LETTERS[:len(found)]:
            ends = [m.start() for m in found[1:]] + [len(question)]
            texts = [question[m.end():end].strip(" \n;,") for m, end in zip(found, ends)]
            texts[-1] = texts[-1].partition("\n")[0]  # behind it stands what is asked for
            return texts if all(texts) else []
    return []


def images_of(row, folder):
    found = [listed(row[name]) for name in ("images", "image") if row.get(name)]
    found = [images if isinstance(images, list) else [images] for images in found] or [[]]
    if found[0] != found[-1]:
        raise BadRow("it has a column image and a column images: which is meant? (--columns)")
    return [image_source(image, folder) for image in found[0]]


def image_source(image, folder):
    """A path or the bytes of a file, from what a row holds: a path relative to a folder, or {bytes, path}."""
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, str) and image.strip():
        return str(folder / image)
    if not isinstance(image, bytes) or not image:
        raise BadRow(f"one of its images is {image!r}, not a path or {{bytes, path}}"[:200])
    return image


def turns_of(row):
    """The turns before the question: the system's or none, then of user and assistant in turn."""
    given = listed(row.get("turns") or [])
    turns = [turn if isinstance(turn, dict) else {} for turn in (given if isinstance(given, list) else [0])]
    roles = [turn.get("role") for turn in turns][turns[:1] != [] and turns[0].get("role") == "system":]
    if roles != ["user", "assistant"] * (len(roles) // 2) or not all(
            isinstance(turn.get("content"), str) and turn["content"].strip() for turn in turns):
        raise BadRow('its turns are not [{"role": "user", "content": text}, {"role": "assistant", ...}, ...]')
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


# --------------------------------------------------------------------------------------- what is said of rows

PICTURE = re.compile(r"(data:image|iVBORw0KGgo|/9j/).*|\S[^\n]*\.(png|jpe?g|gif|webp|bmp|tiff?)", re.I | re.S)


def remarks(row, columns, record):
    """What is to be said of a row that is used: a column looks like pictures or options that the record lacks
    and is not read, its answer is a letter without options, marks are parts of one picture."""
    found = {}
    for name in sorted(row.keys() - {*FIELDS, *columns.values()}):
        first = listed(row[name])
        first = first[0] if isinstance(first, list) and first else first
        picture = first.keys() & {"bytes", "path"} if isinstance(first, dict) else isinstance(first, bytes)
        if (picture or isinstance(first, str) and PICTURE.fullmatch(first)) and not record.images:
            found["image", name] = f"a column {name} that looks like image and is not read"
        elif first and re.search("option|choice", name, re.I) and not record.options:
            found["options", name] = f"a column {name} that looks like options and is not read"
    if not record.options and record.answer.strip("(). ") in list(LETTERS[:10]) and not any(
            ours == "options" for ours, _ in found):
        found["options", "COLUMN"] = "a letter as the answer, and no options"
    for (ours, theirs), what in found.items():
        typed = " ".join(f"{a}={b}" for a, b in {**columns, ours: theirs}.items())
        yield f"{what}: --columns {typed} (docs/your_data.md)"
    if len(record.images) == 1 and not record.named_images() and len(IMAGE_MARK.findall(record.text())) > 1:
        yield "one picture and several marks: these stay as text, and the picture stands first"


def check_images(records):
    """(good records, [(name, why)] of the others). Every image is decoded once, so that a broken file is
    found now and not in step 412; a good record learns its images' sizes."""
    files = list({image for r in records for image in r.images})
    with ThreadPoolExecutor(8) as pool:
        sizes = dict(zip(files, pool.map(image_size, files)))
    good, bad = [], []
    for r in records:
        r.sizes = [sizes[image] for image in r.images]
        if wrong := [size for size in r.sizes if isinstance(size, str)]:
            bad.append((r.name(), wrong[0]))
        else:
            good.append(r)
    return good, bad


def report_bad(source, good, bad, limit_bad):
    """Say which rows were skipped, or refuse when they are too many. good: the number of the others."""
    rows = good + len(bad)
    told = "\n".join([f"  {name}: {why}" for name, why in bad[:5]] + ["  ..."] * (len(bad) > 5))
    told = told.encode("utf-8", "backslashreplace").decode()  # it may not be printable
    if not rows:
        raise Refused(f"{source} has no rows")
    if not good or len(bad) > limit_bad * rows:
        other = f", or allow such a share with --limit_bad (now {limit_bad})" * bool(good and limit_bad)
        raise Refused(f"{len(bad)} of {rows} rows of {source} cannot be used:\n{told}\n"
                      f"Mend or convert them (docs/your_data.md){other}.")
    if bad:
        say(f"skipped {len(bad)} of {rows} rows of {source}:\n{told}")


def rows_fingerprint(records):
    """Tells whether a run's data are still the same: {"rows": their number, "sha256": of all fields}. An
    image that is a file counts with its name, size, height, width: reading all once more would take long."""
    total = hashlib.sha256()
    for r in records:
        fields = [r.id, r.question, r.options, r.answer, r.solution, r.subject, r.turns, r.sizes]
        total.update(json.dumps(fields).encode())
        for image in r.images:
            if isinstance(image, str):
                total.update(f"{os.path.basename(image)} {os.stat(image).st_size}".encode())
            else:
                total.update(image)
    return {"rows": len(records), "sha256": total.hexdigest()}


# --------------------------------------------------------------------------------------------------- pictures

def open_image(image):
    """A path, the bytes of a file or a PIL image as RGB, turned as EXIF says. Nothing is clipped: grey of 16
    bits is scaled down, and what is transparent is laid on white."""
    image = ImageOps.exif_transpose(opened(image))
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def opened(image):
    if isinstance(image, Image.Image):
        return image
    return Image.open(io.BytesIO(image) if isinstance(image, bytes) else image)


def blank(image):
    """A grey picture of the same size: what a question gives away without its picture"""
    return Image.new("RGB", open_image(image).size, (128, 128, 128))


def image_size(image):
    """(height, width) of an image that can be decoded, else a text that says why it cannot be used."""
    name = ascii(image)[1:-1][-80:] if isinstance(image, str) else "(bytes)"
    try:
        image = opened(image)
        if max(image.size) > 200 * min(image.size):  # Qwen-VL's processor refuses it
            return f"image {name} has {image.width} x {image.height} pixels: 200 times longer than wide"
        if image.mode in ("I", "F"):  # its range is not known
            return f"image {name} has pixels of 32 bits: save it with 8 or 16"
        # of several frames one would be taken. A camera's MPO holds a photo, and smaller ones behind it
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
            return f"image {name} is animated or has several pages: name one of them as a file of its own"
        return open_image(image).size[::-1]
    except Exception as error:  # Pillow's readers raise anything on broken files
        return f"image {name} cannot be read ({type(error).__name__}: {str(error)[:200]})"
