"""Files as people have them -> rows: JSON lines, a JSON array, CSV, TSV, Parquet, a folder of such, the hub.

A row that is broken by itself is named, and the others are read on. A file that can not be read to its end is
refused, because nobody can count the rows that are lost with it. No torch here.
"""
import csv
import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from machinery.fields import BadRow
from machinery.files import Refused, json_lines, say

ARRAY = re.compile(r"\s*\[\s*[{\]]")  # how a JSON array of rows begins
BLANK = re.compile(r"\s*")
# how people name files and folders of splits: train-0-of-2.parquet, data/test.csv, val/0.parquet, math_test
SPLIT = re.compile(r"(?:^|[-_. ])(train(?:ing)?|validation|valid|val|dev|test(?:ing)?)(?=[-_. \d]|$)", re.I)


@dataclass
class Found:
    name: str            # file and row, for messages
    folder: Path         # what paths of images are relative to
    row: dict | BadRow


def read_rows(source, split="train", image_root="", subset=None):
    """Yield a Found for each row of a file, a folder of files of one kind, or a hub data set (subset: its
    configuration). image_root: what paths of images are relative to, "": to the file that names them."""
    if image_root and not Path(image_root).is_dir():
        raise Refused(f"--image_root {image_root}: no such folder")
    for found in rows_of(source, split, subset):
        yield replace(found, folder=Path(image_root)) if image_root else found


def rows_of(source, split, subset):
    path = Path(source)
    if not str(source):
        raise Refused("--data is empty: name a file, a folder or a hub data set")
    kind = path.suffix.lower()
    if path.is_dir():
        for file in files_of_split(path, split):
            # images that Parquet names by path lie in the folder, others beside the file that names them
            folder = path if file.suffix == ".parquet" else file.parent
            yield from named(file, folder, rows_of_file(file))
    elif path.is_file():
        yield from named(source, path.parent, rows_of_file(path))
    elif kind in KINDS:
        raise Refused(f"{source}: no such file. For the tiny world run `make tiny` (or python tiny/make.py) "
                      f"first.")
    else:
        yield from named(source, path, hub_rows(source, split, subset))


def named(source, folder, rows):
    for i, row in enumerate(rows, 1):
        yield Found(f"{source} row {i}", folder, row)


def files_of(folder):
    """The data files of a folder, all of one kind. Beside Parquet files, others are taken for
    descriptions."""
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in (*KINDS, ".arrow") and f.is_file())
    files = [f for f in files if not any(part.startswith(".") for part in f.relative_to(folder).parts)]
    kinds = Counter(f.suffix.lower() for f in files)
    if not files:
        raise Refused(f"{folder}: no Parquet file in this folder, nor another data file ({', '.join(KINDS)})")
    if ".arrow" in kinds:
        raise Refused(f"{folder} holds .arrow files, as save_to_disk writes them: use to_parquet instead.")
    if len(kinds) > 1 and ".parquet" not in kinds:
        there = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        raise Refused(f"{folder} holds files of several kinds ({there}): name the file that is meant.")
    return [f for f in files if ".parquet" not in kinds or f.suffix.lower() == ".parquet"]


def files_of_split(folder, split):
    """The data files of a folder, those of the wanted split where names tell: what is for testing must not be
    trained on. Where none is of it, those whose names tell nothing; or all, if they are of one split."""
    files = files_of(folder)
    of = {f: split_of(f.relative_to(folder)) for f in files}
    kept = [f for f in files if of[f] == split] or [f for f in files if not of[f]]
    if not kept and len(set(of.values())) == 1:
        return files
    if not kept:
        there = ", ".join(sorted(set(of.values())))
        raise Refused(f"{folder} holds no file of the split {split!r}, but of {there}: name the file that is "
                      f"meant.")
    if left := [str(f.relative_to(folder)) for f in files if f not in kept]:
        say(f"{folder}: {len(kept)} of {len(files)} files are read; left out, because their names are not of "
            f"the split {split!r}: {', '.join(left[:5])}" + ", ..." * (len(left) > 5))
    return kept


def split_of(path):
    """The split that a file's name tells, or else a folder's above it, or ""."""
    found = next(filter(None, map(SPLIT.search, reversed(path.parts))), None)
    name = found[1].lower().removesuffix("ing") if found else ""
    return "validation" if name in ("valid", "val", "dev") else name


def rows_of_file(path):
    """Yield the rows of one file, each a dictionary or a BadRow."""
    if path.suffix.lower() not in KINDS:
        raise Refused(f"{path}: data files are {', '.join(KINDS)}, unpacked. Convert it to one of these.")
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        raise broken(path, f"it can not be read ({error})") from error
    if head.startswith(b"version https://git-lfs"):
        raise Refused(f"{path} is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`.")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise Refused(f"{path} is written in UTF-16: save it as UTF-8.")
    if head or path.suffix.lower() == ".parquet":  # which is never empty
        yield from KINDS[path.suffix.lower()](path)


def broken(path, why):
    return Refused(f"{path}: {' '.join(str(why).split())[:300]}. Mend the file, or fetch it again.")


# ------------------------------------------------------------------------------------------------------- JSON

def json_rows(path):
    """Lines of JSON, or one array over the whole file (LLaVA's), whatever the file is called.

    Bytes that are no UTF-8 become halves of surrogate pairs: the row that uses them is refused by name.
    """
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        head = file.read(4096)
    if ARRAY.match(head):
        rows = array_rows(path)
    elif path.suffix.lower() == ".json" and (alone := only_object(path)):
        rows = [alone]
    else:
        rows = (row for _, row in json_lines(path, errors="surrogateescape"))
    for row in rows:
        if isinstance(row, ValueError):
            yield BadRow(f"no JSON: {row}")
        else:
            yield row if isinstance(row, dict) else BadRow(f"no JSON object but {json.dumps(row)[:40]}")


def only_object(path):
    """The row of a file that holds one object over several lines, else None."""
    try:
        row = json.loads(path.read_text(encoding="utf-8-sig", errors="surrogateescape"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def array_rows(path):
    """The elements of an array, one at a time: the whole list would take many times its text's memory."""
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    decode, number = json.JSONDecoder().raw_decode, 0
    at = BLANK.match(text, text.index("[") + 1).end()
    while not text.startswith("]", at):
        number += 1
        try:
            row, at = decode(text, at)
        except (ValueError, RecursionError) as error:
            raise broken(path, f"the JSON array breaks in row {number} ({error})") from error
        yield row
        at = BLANK.match(text, at).end()
        if text.startswith(",", at):
            at = BLANK.match(text, at + 1).end()
        elif not text.startswith("]", at):
            raise broken(path, f"the JSON array breaks behind row {number}")
    if text[at + 1:].strip():
        raise broken(path, f"there is text behind the JSON array of {number} rows")


# ----------------------------------------------------------------------------------------------------- tables

def csv_rows(path):
    """Rows under a header. Cells are separated by what the header has most of: commas, semicolons, tabs."""
    csv.field_size_limit(2 ** 31 - 1)
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        first = file.readline()
        file.seek(0)
        separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
        cells = csv_cells(path, csv.reader(file, delimiter=separator, strict=True))
        header = next(cells, [])
        if isinstance(header, BadRow):
            raise broken(path, f"its header is {header}")
        if twice := [name for name, n in Counter(header).items() if n > 1]:
            raise broken(path, f"its header names the column {twice[0]!r} more than once")
        for row in cells:
            if isinstance(row, list) and len(row) != len(header):
                row = BadRow(f"{len(row)} cells, but the header has {len(header)}")
            yield row if isinstance(row, BadRow) else dict(zip(header, row))


def csv_cells(path, reader):
    """The cells of each row that is not blank, or a BadRow."""
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "end of data" in str(error):  # the cell has swallowed all rows behind it
                raise broken(path, f"a quoted cell is open at the end, in line {reader.line_num}") from error
            row = BadRow(f"no CSV: {error} in line {reader.line_num}")
        if row != []:
            yield row


def parquet_rows(path):
    """As it is stored: images stay files."""
    import pyarrow
    import pyarrow.parquet
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if twice := [name for name, n in Counter(names).items() if n > 1]:
                raise broken(path, f"it has the column {twice[0]!r} more than once")
            for batch in file.iter_batches(100):
                yield from batch_rows(batch)
    except (pyarrow.ArrowException, OSError) as error:
        raise broken(path, f"it can not be read as Parquet ({error})") from error


def batch_rows(batch):
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:  # of one row: find it
        return [one_row(batch.slice(i, 1)) for i in range(len(batch))]


def one_row(batch):
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError as error:
        return BadRow(f"a text of it is no UTF-8 ({error})")


def hub_rows(source, split, subset=None):
    import datasets  # it takes a second to import
    from huggingface_hub import HfApi
    try:
        HfApi().dataset_info(source, timeout=10)
    except Exception:  # of its HTTP client's own kinds. Without a network it would try again for a minute
        datasets.config.HF_HUB_OFFLINE = True  # a copy in the cache is as good
    try:
        found = datasets.load_dataset(source, subset, split=split)
        for table in found.with_format("arrow").iter(100):
            yield from table.to_pylist()
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise Refused(f"{source}: neither a file, nor a folder with data files, nor a data set that the hub "
                      f"knows with its split {split!r} ({' '.join(str(error).split())[:300]})") from error


KINDS = {".jsonl": json_rows, ".ndjson": json_rows, ".json": json_rows, ".csv": csv_rows, ".tsv": csv_rows,
         ".parquet": parquet_rows}
