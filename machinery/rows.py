"""Rows as people have them: JSONL, Parquet, folders and hub data sets; other columns, conversations, MMMU.

data.py makes records of them. A reader of the recipe may skip this file. No torch here.
"""
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from machinery.files import Refused, json_lines, say
from machinery.mmmu_rows import parse_options

FIELDS = ("id", "question", "images", "image", "answer", "solution", "options", "subject", "conversations")


def read_rows(source, split, subset=None):
    """Yield each row as a dictionary, or a text that says why it is none. subset: a hub data set's
    configuration."""
    path = Path(source)
    if path.suffix == ".jsonl" or (path.suffix == ".json" and path.is_file()):
        if not path.is_file():
            raise Refused(f"{source}: no such file. "
                          f"For the tiny world run `make tiny` (or python tiny/make.py) first.")
        for _, row in json_lines(path):
            if isinstance(row, ValueError):
                yield f"no JSON: {row}"
            else:
                yield row if isinstance(row, dict) else f"no JSON object but {json.dumps(row)[:40]}"
        return
    import datasets  # it takes a second to import
    try:
        if path.is_dir() or path.suffix == ".parquet":
            files = sorted(map(str, path.rglob("*.parquet"))) if path.is_dir() else [str(path)]
            if not files:
                raise Refused(f"{source}: no Parquet file in this folder")
            found = datasets.load_dataset("parquet", data_files=files, split="train")
        else:
            found = datasets.load_dataset(source, subset, split=split)
        for table in found.with_format("arrow").iter(100):  # as it is stored: images stay files
            yield from table.to_pylist()
    except Refused:
        raise
    except (OSError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:
        raise Refused(f"{source}: neither a file, nor a folder with Parquet files, nor a data set "
                      f"that the hub knows ({error})") from error


def parse_columns(columns):
    """("answer=ground_truth", ...) or a dictionary -> {"answer": "ground_truth"}"""
    if not isinstance(columns, dict):
        columns = dict(c.partition("=")[::2] for c in columns or ())
    for ours, theirs in columns.items():
        if ours not in FIELDS or not theirs:
            raise Refused(f"--columns {ours}={theirs}: write OURS=THEIRS, "
                          f"where OURS is one of {', '.join(FIELDS)}")
    return columns


def usual_fields(row):
    """Other shapes of a row in our fields. Of a conversation the first question and its answer are taken."""
    talk = row.get("conversations") or row.get("messages")
    if isinstance(talk, list) and not row.get("question"):
        said = {}
        for turn in talk:
            who = turn.get("from") or turn.get("role")
            who = {"human": "user", "gpt": "assistant"}.get(who, who)
            said.setdefault(who, turn.get("value") or turn.get("content"))
        answer = said.get("assistant")
        row = {"answer": answer, "solution": answer, **row, "question": said.get("user")}
    if not row.get("images") and not row.get("image"):
        row = {**row, "images": [row[f"image_{i}"] for i in range(1, 8) if row.get(f"image_{i}")]}
    options = row.get("options")
    if isinstance(options, str) and options.strip().startswith("["):
        try:
            row = {**row, "options": parse_options(options)}
        except ValueError:
            pass  # a single option that begins with a bracket
    return row


def image_source(image, folder):
    """A path or the bytes of a file, from what a row holds: a path relative to its file, or how Parquet
    stores images."""
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    return str(folder / image) if isinstance(image, str) else image


def open_image(image):
    """A path, bytes or PIL image as RGB."""
    if isinstance(image, (str, bytes)):
        image = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image)
    return image.convert("RGB")


def image_size(image):
    """(height, width) of an image that can be decoded, else a text that says why it can not."""
    try:
        return open_image(image).size[::-1]
    except (OSError, UnidentifiedImageError, ValueError) as error:
        name = image if isinstance(image, str) else "(bytes)"
        return f"image {name} can not be read ({error.__class__.__name__}: {error})"


# ---------------------------------------------------------------------------------- rows that can not be used

def unusable(record, need):
    """Why a record can not be used, or None."""
    if empty := [f for f in need if not str(getattr(record, f) or "").strip()]:
        return f"no {' and no '.join(empty)}"
    if wrong := [i + 1 for i in record.named_images() if not 0 <= i < len(record.images)]:
        return f"the text names <image {wrong[0]}> but the row has {len(record.images)} image(s)"
    return None


def check_images(records):
    """(good records, [(name, why)] of the others). Every image is decoded once, so that a broken file is
    found now and not in step 412; a good record learns its images' sizes."""
    def is_file(image):
        return isinstance(image, (str, bytes))

    images = [image for r in records for image in r.images]
    files = {image for image in images if is_file(image)}
    with ThreadPoolExecutor(8) as pool:
        sizes = dict(zip(files, pool.map(image_size, files)))
    good, bad = [], []
    for r in records:
        r.sizes = [sizes[image] if is_file(image) else image_size(image) for image in r.images]
        wrong = [s for s in r.sizes if isinstance(s, str)]
        if wrong:
            bad.append((f"row {r.id}", wrong[0]))
        else:
            good.append(r)
    return good, bad


def report_bad(source, good, bad, limit_bad):
    """Say which rows were skipped, or refuse when they are too many."""
    if not good and not bad:
        raise Refused(f"{source} holds no rows")
    if bad:
        rows = good + len(bad)
        listed = "\n".join(f"  {name}: {why}" for name, why in bad[:5]) + ("\n  ..." if len(bad) > 5 else "")
        if not good or len(bad) > limit_bad * rows:
            raise Refused(f"{len(bad)} of {rows} rows of {source} can not be used:\n{listed}\n"
                          f"Mend them, or allow such a share with --limit_bad (now {limit_bad}).")
        say(f"skipped {len(bad)} of {rows} rows of {source}:\n{listed}")
