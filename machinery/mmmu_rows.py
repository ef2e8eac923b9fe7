"""The questions of MMMU as they are stored: Parquet files, options printed as Python lists.

No torch here, and nothing of our own Records: rows come out as plain dictionaries.
"""
import ast
import hashlib
import re
from pathlib import Path

from machinery.files import Refused

COLUMNS = {"id", "question", "options", "answer", "question_type"}  # and image_1 ... image_7


def parse_options(options):
    """The texts of a row's options, a list or one in print (MMMU's). literal_eval executes nothing.

    A ValueError says what is wrong; callers add the row's name.
    """
    if isinstance(options, str):
        try:
            options = ast.literal_eval(options.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise ValueError(f"its options are not the printed form of a Python list ({error}): "
                             f"{options[:200]!r}") from error
    if options is None:
        return []
    if not isinstance(options, (list, tuple)):
        raise ValueError(f"its options are {type(options).__name__}, a list was expected: "
                         f"{str(options)[:200]!r}")
    return [str(option) for option in options]


def options_of(row, name):
    """The options of a row of MMMU's schema, which has none for open questions."""
    try:
        options = parse_options(row.get("options") or [])
    except ValueError as error:
        raise Refused(f"Row {name}: {error}") from error
    if len(options) > 26:
        raise Refused(f"Row {name}: {len(options)} options, more than there are letters.")
    return options


def subject_of(row_id):
    """ids are {split}_{Subject}_{n}, and subjects hold underscores."""
    match = re.fullmatch(r"[^_]+_(.+)_\d+", row_id)
    return match[1] if match else "unknown"


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def find_parquet(source, split, revision="", subjects=()):
    """(folder, its Parquet files of the split, hub revision or None) of a local folder or file, or a hub data
    set."""
    path = Path(source)
    if path.is_file():
        return path.parent, [path], None
    if not path.is_dir():
        patterns = [f"*{s}/{split}-*.parquet" for s in subjects] or [f"*{split}-*.parquet"]
        path = _download(source, patterns, revision)
        revision = path.name
    files = sorted(path.rglob("*.parquet"))
    if not files:
        raise Refused(f"--data {source}: no Parquet files in it.")
    named = [f for f in files if re.match(r"(dev|validation|test|train)\b", f.name)]
    if named:
        files = [f for f in named if f.name.startswith(split)]
    if not files:
        there = ", ".join(sorted({f.name.split("-")[0] for f in named}))
        raise Refused(f"--data {source}: no Parquet file of the split {split!r}; there are {there}.")
    return path, files, revision or None


def _download(source, patterns, revision):
    """The folder of a hub data set's snapshot; its name is the revision."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.startswith(("data/", "out/", ".")):
        raise Refused(f"--data {source}: no such folder or file. Run `make tiny` (or python tiny/make.py) "
                      f"for the tiny world, or name a folder of Parquet files or a hub data set "
                      f"such as MMMU/MMMU.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    try:
        return Path(snapshot_download(source, repo_type="dataset", revision=revision or None,
                                      allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        at = f" at revision {revision}" if revision else ""
        raise Refused(f"--data {source}: no such folder or file here, and it cannot be had from the hub "
                      f"under this name{at} ({type(error).__name__}: {str(error).splitlines()[0]}). "
                      f"Is the name right (MMMU/MMMU), and is the network there?") from error


def read_parquet(file):
    """The questions of one Parquet file in MMMU's schema, as dictionaries (see question_of)."""
    import pyarrow.parquet as pq
    table = pq.read_table(file)
    if lacking := COLUMNS - set(table.column_names):
        raise Refused(f"{file} lacks the columns {', '.join(sorted(lacking))} of MMMU's schema "
                      f"(it has {', '.join(table.column_names)}).")
    for i, row in enumerate(table.to_pylist(), 1):
        yield question_of(row, f"{row['id']} ({file.name} row {i})", file.parent)


def question_of(row, name, folder):
    """A row of MMMU's schema as {"id", "subject", "question_type", "options", "answer", "question", "images",
    "shown"}.

    options: as they are stored. question, shown (the options as the model reads them): <image N> is
    renumbered, because MMMU names the column image_N, and for us it is the N-th image of the row; columns may
    be empty.
    """
    columns = [n for n in range(1, 8) if row.get(f"image_{n}")]
    images = [row[f"image_{n}"]["bytes"] or str(folder / row[f"image_{n}"]["path"]) for n in columns]

    def renumber(mark):
        if int(mark[1]) not in columns:
            raise Refused(f"Row {name}: its text names <image {mark[1]}>, "
                          f"and the column image_{mark[1]} is empty.")
        return f"<image {columns.index(int(mark[1])) + 1}>"

    options, subject = options_of(row, name), subject_of(row["id"])
    texts = [row["question"] or "", *options]
    question, *shown = [re.sub(r"<image (\d+)>", renumber, text) for text in texts]
    return {"id": row["id"], "subject": folder.name if subject == "unknown" else subject,
            "question_type": row["question_type"], "options": options, "answer": str(row["answer"]),
            "question": question, "images": images, "shown": shown}
