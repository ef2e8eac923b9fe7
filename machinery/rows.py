"""Rows as people have them in our fields: other columns, talks, MMMU's; what is wrong with a row is named.

machinery/readers.py reads the files, machinery/pictures.py the images, machinery/talks.py the conversations.
data.py makes records of what comes out. A reader of the recipe may skip these files. No torch here.
"""
import hashlib
import json
import os
import string
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from machinery.fields import NO_TEXT, BadRow, refuse_no_text, text, value
from machinery.files import Refused, checked, say
from machinery.mmmu_rows import IMAGE_COLUMNS, printed_list, renumbered
from machinery.options import as_letter, options_of
from machinery.pictures import image_size, image_source
from machinery.talks import COLUMNS, talk_fields, turns_of

FIELDS = ("id", "question", "images", "image", "answer", "solution", "options", "subject", "conversations",
          "turns")
NOT_READ = ("video", "videos", "audio", "audios", "tools", "history")  # columns of other people's talks


def parse_columns(columns):
    """("answer=ground_truth", ...) or a dictionary -> {"answer": "ground_truth"}"""
    if not isinstance(columns, dict):
        columns = dict(c.partition("=")[::2] for c in columns or ())
    for ours, theirs in columns.items():
        if ours not in FIELDS or not theirs:
            raise Refused(f"--columns {ours}={theirs}: write OURS=THEIRS, "
                          f"where OURS is one of {', '.join(FIELDS)}")
    return columns


# -------------------------------------------------------------------------------------------- fields of a row

def renamed(row, columns):
    """A row as it was found, with our names of columns beside its own."""
    if isinstance(row, BadRow):
        raise row
    if lost := [theirs for theirs in columns.values() if theirs not in row]:
        raise BadRow(f"no column {lost[0]!r} (--columns); its columns are {', '.join(row)}"[:400])
    return {**row, **{ours: row[theirs] for ours, theirs in columns.items()}}


def our_fields(row, columns, folder):
    """A row as it was found -> our fields, of the right types. folder: what paths of images are relative to.
    A BadRow says what can not be used."""
    row = talk_fields(renamed(row, columns))
    turns, more_images = turns_of(row["turns"]) if row.get("turns") else ([], [])
    if more_images or turns and turns[-1]["role"] == "user":
        raise BadRow("its turns hold images, or end with the user: they are the texts before its question")
    images = [image_source(image, folder, f"image {n}") for n, image in enumerate(images_of(row), 1)]
    options, labels = options_of(row)
    question, columns = text(row, "question"), image_columns(row)
    if not (row.get("images") or row.get("image")) and columns != [*range(1, len(columns) + 1)]:  # a gap
        question, *options = renumbered([question, *options], columns)
    fields = {"id": value(row, "id"), "question": question, "images": images,
              "answer": as_letter(answer_of(row), labels), "solution": text(row, "solution", None),
              "turns": turns, "options": options, "subject": value(row, "subject")}
    for name, what in fields.items():
        refuse_no_text(name, what)
    return fields


def id_of(row, columns):
    """The id that a row names, "" where there is none or it is unusable. For messages, so it refuses
    nothing."""
    given = row.get(columns.get("id", "id")) if isinstance(row, dict) else None
    usable = isinstance(given, (str, int, float)) and given != "" and not NO_TEXT.search(str(given))
    return str(given) if usable else ""


def unread_choices(row):
    """Has a row options that nothing reads? True: its column `choices` (MathVista's) is a list and its answer
    one of them, or a letter. False: its answer is none of them. None: there is no such list."""
    texts = row.get("choices")
    if isinstance(texts, str) and texts.strip().startswith("["):
        try:
            texts = printed_list(texts)
        except ValueError:
            return None
    if row.get("options") or not isinstance(texts, list) or len(texts) < 2:
        return None
    named = {str(text).strip() for text in texts} | set(string.ascii_uppercase[:len(texts)])
    answers = row["answer"] if isinstance(row.get("answer"), list) else [row.get("answer")]
    return all(str(answer).strip() in named for answer in answers)


def say_unread_choices(source, found, columns):
    """Say once that questions lose their options. found: unread_choices of every row. Where an answer is none
    of its row's choices, the data mean open questions (geometry3k: exact answers, rounded choices), and an
    evaluation would refuse options=choices."""
    if True in found and False not in found:
        typed = " ".join([*(f"{ours}={theirs}" for ours, theirs in columns.items()), "options=choices"])
        say(f"{source}: {found.count(True)} of {len(found)} rows have a list of choices that is not read, so "
            f"they are asked as open questions. For multiple choice: --columns {typed}")


def answer_of(row):
    """The answer of a row as text; of a list, each is accepted, and several stay a list in print, as MMMU has
    them (accepted_answers reads it). "" where there is none, or where one of them is empty."""
    if not isinstance(row.get("answer"), list):
        return value(row, "answer")
    several = [value({"answer": answer}, "answer") for answer in row["answer"]]
    refuse_no_text("answer", several)  # print would hide it
    if not several or not all(map(str.strip, several)):
        return ""
    return str(several) if len(several) > 1 else several[0]


def image_columns(row):
    """Numbers of MMMU's columns image_1, image_2, ... that are not empty"""
    return [n for n in IMAGE_COLUMNS if row.get(f"image_{n}")]


def images_of(row):
    """What stands for the images of a row: MMMU has a column for each."""
    if lost := [name for name in NOT_READ if row.get(name)]:
        raise BadRow(f"it has {lost[0]}, which would be lost: only texts and images are read")
    found = [given for name in ("images", "image") if (given := row.get(name))]
    if len(found) == 2 and found[1] not in found[0]:
        raise BadRow("it has a column image and a column images: which is meant? (--columns)")
    images = found[0] if found else [row[f"image_{n}"] for n in image_columns(row)]
    if isinstance(images, str) and images.strip().startswith("["):  # a cell of a CSV file
        try:
            images = json.loads(images)
        except ValueError:
            pass  # a path that begins with a bracket
    return images if isinstance(images, list) else [images]


# ---------------------------------------------------------------------------------- rows that can not be used

def refuse_unusable(record, need, row):
    """Raise a BadRow where a record lacks what the stage needs, or an image that its text names."""
    if unknown := [f for f in need if not hasattr(record, f)]:
        raise Refused(f"--need {unknown[0]}: no such field; there are {', '.join(vars(record))}")
    if empty := [f for f in need if not str(getattr(record, f) or "").strip()]:
        why = ""
        if any(row.get(column) for column in COLUMNS):
            why = ": its conversation ends with the user"
        elif any(f not in row for f in empty):
            why = f"; its columns are {', '.join(row)} (--columns)"[:400]
        raise BadRow(f"no {' and no '.join(empty)}{why}")
    if wrong := [i + 1 for i in record.named_images() if not 0 <= i < len(record.images)]:
        raise BadRow(f"the text names <image {wrong[0]}> but the row has {len(record.images)} image(s)")


NO_FILE = "FileNotFoundError"  # machinery/pictures.py says it of an image


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
            bad.append((r.name(), wrong[0]))
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
        listed = listed.encode("utf-8", "backslashreplace").decode()  # it may not be printable
        if 2 * sum(NO_FILE in why for _, why in bad) > rows:
            listed += "\n  Most of the images are not there: is --image_root right?"
        if not good or len(bad) > limit_bad * rows:
            other = f"or allow such a share with --limit_bad (now {limit_bad})"
            raise Refused(f"{len(bad)} of {rows} rows of {source} can not be used:\n{listed}\n"
                          f"Mend them, {other if good else 'because no row is left'}.")
        say(f"skipped {len(bad)} of {rows} rows of {source}:\n{listed}")


def report_twice(source, ids):
    """Say which ids stand on several rows: they train, but rollouts.jsonl and the logs can not tell them
    apart."""
    twice = [(name, n) for name, n in Counter(ids).items() if n > 1]
    if twice:
        say(f"{source}: {len(twice)} ids stand on several rows ({twice[0][0]} on {twice[0][1]}): logs name "
            f"rows by id")


# --------------------------------------------------------------------------- data that changed between starts

def rows_fingerprint(records):
    """Tells whether a run's data are still the same: {"rows": their number, "sha256": of all fields}.

    An image counts with its bytes where the data hold them, else with its file's name and size, its height
    and its width: reading all files once more would take long."""
    total = hashlib.sha256()
    for r in records:
        fields = [r.id, r.question, r.options, r.answer, r.solution, r.subject, r.turns, r.sizes]
        total.update(json.dumps(fields).encode())
        for image in r.images:
            if isinstance(image, str):
                total.update(f"{os.path.basename(image)} {os.stat(image).st_size}".encode())
            else:
                total.update(image if isinstance(image, bytes) else image.tobytes())
    return {"rows": len(records), "sha256": total.hexdigest()}


def refuse_other_rows(before, now, source, made, file):
    """Refuse to go on with other data: an epoch, or a file, would be half of these and half of those.
    before, now: fingerprints; source: flag and data set; made: what was begun; file: holds `before`."""
    before = checked(before, file, {"rows": int, "sha256": str}, "Put it back, or use another --out.")
    if before != now:
        raise Refused(f"{source}: its rows or images are not those with which {made} was begun "
                      f"({before['rows']} rows then, {now['rows']} now). Put the old ones back to go on, or "
                      f"use another --out to start afresh.")
