"""The questions of MMMU as they are stored: Parquet files, options printed as Python lists.

No torch here, and nothing of our own Records: rows come out as plain dictionaries.
"""
import ast
import hashlib
import re
from pathlib import Path

from machinery.fields import BadRow, refuse_no_text, text, value
from machinery.files import Refused
from machinery.pictures import image_source
from machinery.talks import IMAGE_MARK

SPLITS = ("dev", "validation", "test", "train")
IMAGE_COLUMNS = range(1, 10)  # image_1 ... image_7 in MMMU, ... image_9 in OlympiadBench


def printed_list(text):
    """The list that a text prints (MMMU's options). literal_eval executes nothing. A ValueError says what is
    wrong."""
    try:
        found = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"its options are not the printed form of a Python list ({error}): "
                         f"{text[:200]!r}") from error
    if not isinstance(found, (list, tuple)):
        raise ValueError(f"its options are {type(found).__name__}, a list was expected: {text[:200]!r}")
    return list(found)


def parse_options(options):
    """The texts of a row's options, a list or one in print (MMMU's).

    A ValueError says what is wrong; callers add the row's name.
    """
    if isinstance(options, str):
        options = printed_list(options)
    if not isinstance(options, (list, tuple, type(None))):
        raise ValueError(f"its options are {type(options).__name__}, a list was expected: "
                         f"{str(options)[:200]!r}")
    if wrong := [o for o in options or [] if o is None or isinstance(o, (bool, dict)) or o != o]:
        raise ValueError(f"one of its options is {wrong[0]!r}, text or a number was expected")
    return [str(option) for option in options or []]


def accepted_answers(answer):
    """[accepted answers] of an open question: MMMU prints a few of them as a list of strings, "['24/7',
    '3.429']"."""
    if answer.lstrip().startswith("["):
        try:
            several = ast.literal_eval(answer.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return [answer]  # an interval, a matrix, ...
        if isinstance(several, list) and several and all(isinstance(a, str) for a in several):
            return several
    return [answer]


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


def find_parquet(source, split, revision="", subjects=(), subset=""):
    """(folder, its Parquet files of the split, hub revision or None) of a local folder or file, or a hub data
    set. subset: the folder of one configuration in it."""
    path = Path(source)
    if path.is_file():
        return path.parent, [path], None
    if not path.is_dir():
        patterns = [f"*{s}/{split}-*.parquet" for s in ([subset] if subset else subjects)]
        patterns = patterns or [f"*{split}-*.parquet"]
        path = _download(source, patterns, revision)
        revision = path.name
    files = sorted(file for file in path.rglob("*.parquet") if subset in ("", file.parent.name))
    if not files:
        where = f"{source}, --subset {subset}" if subset else source
        raise Refused(f"--data {where}: no Parquet files in it.")
    splits = {f: re.split("[-.]", f.name)[0] for f in files}
    named = [f for f in files if splits[f] in SPLITS or re.search(r"-\d+-of-\d+", f.name)]
    if named:  # "test" is not "testmini", which begins like it
        files = [f for f in named if splits[f] == split]
    if not files:
        there = ", ".join(sorted({splits[f] for f in named}))
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


def renumbered(texts, columns):
    """Texts in which <image N> meant the column image_N: for us it is the N-th image of the row. columns: the
    numbers of those that are not empty, in order."""
    def renumber(mark):
        if not mark[1]:  # <image> alone: the next one
            return mark[0]
        if int(mark[1]) not in columns:
            raise BadRow(f"its text names <image {mark[1]}>, and the column image_{mark[1]} is empty.")
        return f"<image {columns.index(int(mark[1])) + 1}>"

    return [IMAGE_MARK.sub(renumber, text) for text in texts]


def question_of(row, name, folder, subject=""):
    """A row of MMMU's schema as {"id", "subject", "question_type", "options", "answer", "question", "images",
    "shown"}. folder: what paths of images are relative to. subject: where the id does not tell it.

    options: as they are stored. question, shown (the options as the model reads them): <image N> is
    renumbered, because MMMU names the column image_N, and for us it is the N-th image of the row; columns may
    be empty.
    """
    columns = [n for n in IMAGE_COLUMNS if row.get(f"image_{n}")]
    images = [image_source(row[f"image_{n}"], folder, f"image_{n}") for n in columns]
    options, answer, row_id = options_of(row, name), value(row, "answer"), value(row, "id")
    texts = [text(row, "question"), *options]
    refuse_no_text("text", [row_id, answer, *texts])
    question, *shown = renumbered(texts, columns)
    said = subject_of(row_id)
    kind = text(row, "question_type") or ("multiple-choice" if options else "open")  # MMMU-Pro names none
    return {"id": row_id, "subject": subject if said == "unknown" else said, "question_type": kind,
            "options": options, "answer": answer, "question": question, "images": images, "shown": shown}
