"""Every data set of the recipes, made from public sets by name: questions with answers, no solutions.

    python recipes/data.py --out data/recipe
    python recipes/data.py --out data/own --source mmk12=my.parquet exams_v=   (own file; none)

It writes into --out
    maths.jsonl                     for GRPO [3.3]: MMK12's train split (most of its test is other sciences)
    maths_val.jsonl                 a part of it that GRPO does not see, for the choice of a checkpoint [5.1]
    cold_start_questions.jsonl      four sciences, for the teacher to answer [2]
    breadth_questions.jsonl         of each subject as many rows as there are, evenly [3.4]
    breadth_val_questions.jsonl     the same, for early stopping
    images/, data.json              pictures; sources, licences, counts, and what was left out and why

The sets' own solutions are not used: distill.py samples the cold start's from a teacher, and those of breadth
from the checkpoint that RL has made (the recipes call it). A row that MMMU's validation has too, by its
picture or by its text, goes into no set, and no row goes into two. What was read on a set's card and what was
not is said in sets.py. Licences are what the sets say of themselves: some hold pictures of others.
"""
import hashlib
import json
import os
import re
import sys
import time
import unicodedata
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path

if not __package__:  # started by its path: the top folder of the repository comes first
    sys.path[0] = str(Path(__file__).parent.parent)

import numpy as np
from PIL import Image

from data import Record, find_records, refuse_unusable
from distill import image_path
from machinery.files import Refused, append_jsonl, changed_settings, main, new_folder, say, write_json
from machinery.mmmu_rows import of_mmmu, subsets_of
from machinery.rows import IMAGE_MARK, BadRow, fields_of, image_size, open_image, read_rows, report_bad
from recipes.sets import SCIENCES, SETS, subject_of

FILES = ("maths", "maths_val", "cold_start_questions", "breadth_questions", "breadth_val_questions")
NEED = ("question", "answer")


@dataclass
class Config:
    out: str = "data/recipe"          # folder to make
    source: tuple[str, ...] = ()      # SET=FILE or SET=HUB/NAME in its place; SET= leaves it out
    mmmu: str = "MMMU/MMMU"           # rows of its validation split go into no set; none: do not look
    held_out: int = 500               # rows of maths for maths_val.jsonl; ours, the paper does not say
    cold_start: int = 20_000          # most questions of the cold start [2]
    breadth: int = 15_000             # most questions of breadth; the paper has 10K with solutions [3.4]
    breadth_val: int = 500            # most questions of its validation; ours
    limit_bad: float = 0.01           # share of unusable rows of a set that is skipped; more is refused
    seed: int = 0                     # of the choice and order of rows


# ------------------------------------------------------------------- what MMMU's validation has, and twice is

def text_key(*texts):
    """Letters and digits alone: other spacing, case, marks or width of characters is no other text."""
    whole = IMAGE_MARK.sub("", " ".join(texts))
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", whole).casefold())


def look(image):
    """(256 bits, height / width): where a 17 x 16 grey thumbnail grows brighter to the right. Stored again,
    a picture keeps nearly all of them."""
    picture = open_image(image)
    thumb = np.asarray(picture.convert("L").resize((17, 16), Image.Resampling.BILINEAR), dtype=np.int16)
    return (thumb[:, 1:] - thumb[:, :-1] > 2).flatten(), picture.height / picture.width


class Known:
    """Questions and pictures that no set may hold."""

    def __init__(self, rows=()):
        self.texts = {text_key(row["question"]) for row in rows}
        looks = [look(image) for row in rows for image in row["images"]]
        self.bits = np.array([bits for bits, _ in looks]).reshape(-1, 256)
        self.shapes = np.array([shape for _, shape in looks])

    def has(self, question, looks):
        """Why the question is left out, or "". A short text ("What is shown?") alone says nothing."""
        key = text_key(question)
        if len(key) >= 40 and key in self.texts:
            return "text of MMMU's validation"
        for bits, shape in looks:
            near = (self.bits != bits).sum(1) <= 6
            if (near & (np.abs(np.log(self.shapes / shape)) < 0.05)).any():
                return "picture of MMMU's validation"
        return ""


# ----------------------------------------------------------------------------------------------- reading sets

def sources(cfg):
    """{set: where it is read} of the sets that are used."""
    pairs = [pair.partition("=") for pair in cfg.source]
    if wrong := [name for name, equals, _ in pairs if not equals or name not in SETS]:
        raise Refused(f"--source {wrong[0]}: write SET=VALUE, where SET is one of {', '.join(SETS)}")
    where = {name: s.hub for name, s in SETS.items()} | {name: source for name, _, source in pairs}
    return {name: source for name, source in where.items() if source}


def raw_rows(name, source):
    """Yield (name for messages, folder of its images, row) of each row of a set."""
    s = SETS[name]
    own = (s.subset if source == s.hub else "") or None
    for subset in subsets_of(source) if name == "mmmu_dev" else [own]:  # of 30 configurations
        yield from read_rows(source, s.split, subset=subset)


def read_set(cfg, known, seen, name, source, part):
    """The usable rows of a set, their pictures written to part/images, and {why: rows left out}."""
    rows, bad, why = [], [], Counter()
    for i, (place, folder, found) in enumerate(raw_rows(name, source), 1):
        try:
            if isinstance(found, BadRow):
                raise found
            for k, given in enumerate(SETS[name].convert(found)):
                row = our_row(folder, given)
                if reason := left_out(row, known, seen):
                    why[reason] += 1
                    continue
                row["images"] = [image_path(image, part) for image in row["images"]]
                rows.append({"id": f"{name}-{i}" + f"-{k}" * (k > 0), **row, "source": name})
        except (ValueError, LookupError, TypeError, AttributeError) as error:  # of an odd row
            bad.append((place, f"{type(error).__name__}: {error}"))
    report_bad(f"{name} ({source})", len(rows) + why.total(), bad, cfg.limit_bad)
    why["unusable"] = len(bad)
    return rows, +why


def our_row(folder, given):
    """A row in our fields, as the stages would read it"""
    fields = fields_of(given, folder, NEED)
    refuse_unusable(Record("", **fields), NEED, given)
    return {"question": fields["question"].strip(), "images": fields["images"], "options": fields["options"],
            "answer": fields["answer"].strip(), "subject": subject_of(fields["subject"])}


def left_out(row, known, seen):
    """Why a row is left out, or "" when it can be used."""
    if not row["images"]:
        return "no picture"
    if wrong := [size for size in map(image_size, row["images"]) if isinstance(size, str)]:
        raise BadRow(wrong[0])
    looks = list(map(look, row["images"]))
    key = (text_key(row["question"], *sorted(row["options"])), *(bits.tobytes() for bits, _ in looks))
    if key in seen:
        return "twice"
    seen.add(key)
    return known.has(row["question"], looks)


# ------------------------------------------------------------------------------------------------ making sets

def split_off(rows, n):
    """(rows, others): about n others, such that a picture's rows are all on one side."""
    n = min(n, len(rows) // 2)
    while 0 < n < len(rows) and rows[n]["images"][0] == rows[n - 1]["images"][0]:
        n += 1
    return rows[n:], rows[:n]


def evenly(rows, n):
    """n of the rows, in turn one of each subject as long as it has some."""
    queues = {}
    for row in rows:
        queues.setdefault(row["subject"], []).append(row["id"])
    turns = chain(*zip_longest(*queues.values()))
    chosen = {*islice(filter(None, turns), n)}
    return [row for row in rows if row["id"] in chosen]


def choose(cfg, rows):
    """{file name: rows} of all five sets. Their order depends on the seed and on nothing else; rows of one
    picture stand together."""
    def place(row):
        return hashlib.sha256(f"{cfg.seed} {row['images'][0]}".encode()).digest(), row["id"]

    rows = sorted(rows, key=place)
    maths, cold, breadth = ([row for row in rows if use in SETS[row["source"]].use]
                            for use in ("maths", "cold_start", "breadth"))
    maths, maths_val = split_off(maths, cfg.held_out)
    taken = evenly(breadth, cfg.breadth + cfg.breadth_val)
    breadth, breadth_val = split_off(taken, cfg.breadth_val)
    ids = {row["id"] for row in taken}
    cold = [row for row in cold if row["subject"] in SCIENCES and row["id"] not in ids]
    sets = dict(zip(FILES, (maths, maths_val, evenly(cold, cfg.cold_start), breadth, breadth_val)))
    if empty := [name for name, chosen in sets.items() if not chosen]:
        raise Refused(f"no rows are left for {empty[0]}.jsonl: its sets are left out or too small (--source)")
    return sets


def make(cfg):
    out, note = Path(cfg.out), Path(cfg.out) / "data.json"
    settings = {k: v for k, v in asdict(cfg).items() if k != "out"}
    if note.is_file():
        if changed := changed_settings(json.loads(note.read_text())["settings"], settings):
            raise Refused(f"{out} was made with other settings ({changed}): remove it, or name another --out")
        say(f"{out} is there, made with the same settings: nothing to do")
    elif int(os.environ.get("RANK", 0)):  # under torchrun one process makes the sets, the others wait
        while not note.exists():
            time.sleep(2)
    else:
        with new_folder(out) as part:
            write(cfg, settings, part)


def write(cfg, settings, part):
    seen, rows, table = set(), [], {}
    subsets = subsets_of(cfg.mmmu) if cfg.mmmu != "none" else []
    known = Known([vars(record) for subset in subsets for record in find_records(
        cfg.mmmu, need=(), split="validation", subset=subset, convert=of_mmmu)[0]])
    say(f"MMMU's validation: {len(known.texts)} texts, {len(known.bits)} pictures")
    for name, source in sources(cfg).items():
        usable, why = read_set(cfg, known, seen, name, source, part)
        say(f"{name}: {len(usable):,} rows can be used; left out: {dict(why) or 'none'}")
        rows += usable
        s = SETS[name]
        table[name] = {"source": source, "subset": s.subset if source == s.hub else "", "split": s.split,
                       "licence": s.licence, "published": s.rows, "usable": len(usable),
                       "left out": dict(why)}
    sets, counts = choose(cfg, rows), {}
    for name, chosen in sets.items():
        append_jsonl(part / f"{name}.jsonl", chosen)
        counts[name] = {"rows": len(chosen), "sources": Counter(row["source"] for row in chosen),
                        "subjects": Counter(row["subject"] for row in chosen)}
        say(f"{name}.jsonl: {len(chosen):,} rows, {len(counts[name]['subjects'])} subjects")
    used = {image for row in chain(*sets.values()) for image in row["images"]}
    for file in (part / "images").glob("*"):
        if f"images/{file.name}" not in used:
            file.unlink()
    write_json(part / "data.json", {"settings": settings, "sources": table, "sets": counts})


if __name__ == "__main__":
    main(make, Config)
