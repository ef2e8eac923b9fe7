"""Every data set of the recipes, made from public sets by name: questions with answers, no solutions.

    python -m recipes.data --out data/recipe
    python -m recipes.data --out data/own --source mmk12=my.parquet exams_v=   (own file; none)

It writes into --out
    maths.jsonl                     for GRPO [3.3]: MMK12's train split (most of its test is other sciences)
    maths_val.jsonl                 a part of it that GRPO does not see, for the choice of a checkpoint [5.1]
    cold_start_questions.jsonl      four sciences, for the teacher to answer [2]
    breadth_questions.jsonl         of each subject as many rows as there are, evenly [3.4]
    breadth_val_questions.jsonl     the same, for early stopping
    images/, data.json, README.md   pictures; sources, licences, counts, and what was left out and why

The sets' own solutions are not used: distill.py samples the cold start's from a teacher, and those of breadth
from the checkpoint that RL has made (the recipes call it). A row that MMMU's validation has too, by its
picture or by its text, goes into no set, and no row goes into two. An interrupted run begins again;
downloads are kept by the hub's cache.

What was read on a set's card and what was not is said in SETS. Licences are what the sets say of themselves:
some hold pictures of others. It runs as a module (-m), from the top folder of the repository.
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
from itertools import chain
from pathlib import Path

if not __package__:  # started by its path, Python does not look into the top folder
    sys.exit("run it as a module, from the top folder of the repository: python -m recipes.data")

import numpy as np
from PIL import Image

from data import Record, find_records
from distill import image_path
from machinery.files import (
    Refused, append_jsonl, as_read_back, changed_settings, describe_change, hub_name, main, new_folder, say,
    write_json, write_text,
)
from machinery.pictures import image_size, open_image
from machinery.rows import (
    IMAGE_MARK, NO_TEXT, BadRow, files_of_split, image_source, read_rows, report_bad, subsets_of, text)
from machinery.rows import of_mmmu as mmmu_row
from recipes.subjects import SCIENCES, subject_of
from scoring import mmmu

FILES = ("maths", "maths_val", "cold_start_questions", "breadth_questions", "breadth_val_questions")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CYRILLIC = "АБВГД"  # the first letters of the Cyrillic alphabet: options of Bulgarian and Serbian exams


# ------------------------------------------------------- the public sets: a row of each -> rows in our fields

def text_of(row, column):
    """A text or a number as text."""
    given = text(row, column).strip()
    if not given:
        raise BadRow(f"its {column} is empty")
    return given


def answer_of(row, column="answer"):
    return text_of(row, column)


def pictures(row, *columns):
    """The images of a row, empty cells left out."""
    cells = [cell for c in columns for cell in (row[c] if isinstance(row.get(c), list) else [row.get(c)])]
    return [c for c in cells if c and (not isinstance(c, dict) or c.get("bytes") or c.get("path"))]


def letter(row, column, options):
    """The letter of an option that is given by its index, from 0."""
    index = row.get(column)
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(options):
        raise BadRow(f"its {column} is {index!r}, an index of its {len(options)} options was expected")
    return LETTERS[index]


def of_mmk12(row):
    """Mathematics alone [3.3]: its test split has other sciences, too."""
    if (subject := subject_of(text(row, "subject"))) in SCIENCES and subject != "Mathematics":
        raise BadRow(f"its subject is {subject}, and this set is for mathematics")
    yield {"question": text_of(row, "question"), "images": pictures(row, "image"), "answer": answer_of(row),
           "subject": "Mathematics"}


def of_geometry3k(row):
    yield {"question": text_of(row, "problem"), "images": pictures(row, "images"), "answer": answer_of(row),
           "subject": "Mathematics"}


def of_science_qa(row):
    options = row.get("choices")
    if not isinstance(options, list) or not all(isinstance(o, str) and o.strip() for o in options):
        raise BadRow("its choices are not a list of texts")
    question = "\n".join(part for part in (row.get("hint"), text_of(row, "question")) if part)
    yield {"question": question, "images": pictures(row, "image"), "options": options,
           "answer": letter(row, "answer", options), "subject": text_of(row, "topic")}


def of_exams_v(row):
    """Question and options stand in the picture, and are marked there by letters of two alphabets or by
    numbers."""
    key = answer_of(row, "answer_key").upper()
    place = next((marks.index(key) for marks in (LETTERS[:5], CYRILLIC, "12345") if key in list(marks)), None)
    if place is None:
        raise BadRow(f"its answer_key {key!r} names no option")
    yield {"question": "The picture shows an exam question with its options. Which option is right? Answer "
                       "with A for the first option, B for the second, and so on.",
           "images": pictures(row, "image"), "answer": LETTERS[place], "subject": text_of(row, "subject")}


def of_medicine(row):
    yield {"question": text_of(row, "question"), "images": pictures(row, "image"), "answer": answer_of(row),
           "subject": "Medicine"}


def of_cauldron(row):
    """Several questions to the same pictures, each {"user", "assistant", "source"}."""
    if not isinstance(row.get("texts"), list):
        raise BadRow("its texts are not a list")
    for turn in row["texts"]:
        if not isinstance(turn, dict):
            raise BadRow("one of its texts has no user and assistant")
        answer = re.sub(r"^answer:\s*", "", answer_of(turn, "assistant"), flags=re.I).rstrip(".")
        yield {"question": text_of(turn, "user").removeprefix("Question:").strip(),
               "images": pictures(row, "images"), "answer": answer, "subject": "Finance"}


def of_mmmu(row):
    row = mmmu_row(row)
    yield {"question": text_of(row, "question"), "images": pictures(row, "images"),
           "options": row.get("options") or [], "answer": answer_of(row),
           "subject": mmmu.subject_of(text_of(row, "id"))}


@dataclass
class Set:
    hub: str            # its name on the hub
    rows: int           # of its train split, as published
    licence: str        # what its card says, or where that was read
    columns: tuple      # what is read of it; other columns are not looked at
    convert: object     # a row of it -> rows in our fields
    use: tuple          # maths, cold_start, breadth
    subset: str = ""    # configuration on the hub; "" where it has one only
    split: str = "train"
    note: str = ""


COMMON = ("image", "question", "answer")
SETS = {
    "mmk12": Set("FanqingM/MMK12", 15_616, "apache-2.0 (read elsewhere, not on its card)",
                 ("id", "question", "answer", "subject", "image"), of_mmk12, ("maths",)),
    "geometry3k": Set("hiyouga/geometry3k", 2_101, "mit", ("images", "problem", "answer"), of_geometry3k,
                      ("cold_start",)),
    "science_qa": Set("derek-thomas/ScienceQA", 12_726, "cc-by-sa-4.0",
                      ("image", "question", "choices", "answer", "hint", "topic"), of_science_qa,
                      ("cold_start", "breadth"), note="about half of its rows have a picture"),
    "exams_v": Set("MBZUAI/EXAMS-V", 16_281, "none on its card; accept its terms on the hub (HF_TOKEN)",
                   ("image", "sample_id", "answer_key", "subject", "language"), of_exams_v,
                   ("cold_start", "breadth"), note="20 school subjects, 13 languages; texts are pictures"),
    "vqa_rad": Set("flaviagiammarino/vqa-rad", 1_793, "cc0-1.0", COMMON, of_medicine, ("breadth",)),
    "path_vqa": Set("flaviagiammarino/path-vqa", 19_654, "its card's licence was not read; its pictures are "
                    "of two textbooks and a library", COMMON, of_medicine, ("breadth",)),
    "finqa": Set("HuggingFaceM4/the_cauldron", 5_276, "mit (FinQA's own; not on the card, nor the count)",
                 ("images", "texts"), of_cauldron, ("breadth",), subset="finqa"),
    "mmmu_dev": Set("MMMU/MMMU", 150, "apache-2.0",
                    ("id", "question", "options", "answer", "question_type", "image_1"), of_mmmu,
                    ("breadth",), split="dev", note="few-shot rows, 5 of each of 30 subjects; no evaluation "
                    "asks them. Leave them out with --source mmmu_dev="),
}


@dataclass
class Config:
    out: str = "data/recipe"          # folder to make
    source: tuple[str, ...] = ()      # SET=FILE or SET=HUB/NAME in its place; SET= leaves it out
    split: tuple[str, ...] = ()       # SET=SPLIT instead of train
    subset: tuple[str, ...] = ()      # SET=CONFIGURATION of the hub data set
    mmmu: str = "MMMU/MMMU"           # rows of its validation split go into no set; none: do not look
    held_out: int = 500               # rows of maths for maths_val.jsonl; ours, the paper does not say
    cold_start: int = 20_000          # most questions of the cold start [2]
    breadth: int = 15_000             # most questions of breadth; the paper has 10K with solutions [3.4]
    breadth_val: int = 500            # most questions of its validation; ours
    least_subjects: int = 20          # breadth of fewer subjects is refused [3.4]
    limit_bad: float = 0.01           # share of unusable rows of a set that is skipped; more is refused
    seed: int = 0                     # of the choice and order of rows


# ------------------------------------------------------------------- what MMMU's validation has, and twice is

def text_key(*texts):
    """Letters and digits alone: other spacing, case, marks or width of characters is no other text."""
    whole = IMAGE_MARK.sub("", " ".join(texts))
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", whole).casefold())


def look(image):
    """(256 bits, height / width): where a 17 x 16 grey thumbnail grows brighter to the right. Stored again in
    another size or format, a picture keeps nearly all of them."""
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


def read_known(source):
    if source == "none":
        return Known()
    try:
        known = Known([vars(record) for subset in subsets_of(source) for record in find_records(
            source, need=(), split="validation", subset=subset)[0]])
    except (OSError, ValueError) as error:  # Refused is a ValueError
        raise Refused(f"--mmmu {source}: rows of MMMU's validation are kept out of every set, and it can not "
                      f"be read ({error}). --mmmu none goes without.") from error
    say(f"MMMU's validation: {len(known.texts)} texts, {len(known.bits)} pictures")
    return known


# ----------------------------------------------------------------------------------------------- reading sets

def given(cfg, flag):
    """{set: value} of --source, --split or --subset."""
    pairs = [pair.partition("=") for pair in getattr(cfg, flag)]
    for name, equals, _ in pairs:
        if not equals or name not in SETS:
            raise Refused(f"--{flag} {name}{equals}: write SET=VALUE, where SET is one of {', '.join(SETS)}")
    if twice := [name for name, n in Counter(name for name, _, _ in pairs).items() if n > 1]:
        raise Refused(f"--{flag}: {twice[0]} is named twice")
    return {name: said for name, _, said in pairs}


def sources(cfg):
    """[(set, where it is read, configuration or None, split)] of the sets that are used."""
    where, subset, split = given(cfg, "source"), given(cfg, "subset"), given(cfg, "split")
    if empty := [name for name, said in split.items() if not said.strip()]:
        raise Refused(f"--split {empty[0]}=: name a split, or leave the set out with --source {empty[0]}=")
    if split.get("mmmu_dev") == "validation":
        raise Refused("--split mmmu_dev=validation: these are the questions of the evaluation")
    if split.get("mmk12") == "test" and where.get("mmk12", SETS["mmk12"].hub) == SETS["mmk12"].hub:
        raise Refused("--split mmk12=test: most of these are physics, chemistry and biology, and others are "
                      "evaluated on them. Use its train split.")
    table = []
    for name, s in SETS.items():
        source = where.get(name, s.hub)
        configuration = subset.get(name, s.subset if source == s.hub else "")
        table.append((name, source, configuration or None, split.get(name, s.split)))
    return [row for row in table if row[1]]


def inputs(cfg):
    """[(flag, path or hub name, "dataset", configuration, split)] for plan.py's dry run. MMMU's 30
    configurations are read as files."""
    found = [(f"--source {name}", source, "dataset", subset, split if name != "mmmu_dev" else None)
             for name, source, subset, split in sources(cfg)]
    return found + [("--mmmu", cfg.mmmu, "dataset", None, None)] * (cfg.mmmu != "none")


def dry_run(cfg):
    """What is wrong with flags and local files, without reading more than a row of each."""
    problems = []
    for name, source, subset, split in sources(cfg):
        try:
            if Path(source).exists():
                first = next(raw_rows(name, source, subset, split), None)
                check_columns(name, first[2] if first else {})
        except Refused as error:
            problems.append(f"--source {name}={source}: {error}")
    try:
        if Path(cfg.mmmu).exists():
            files_of_split(Path(cfg.mmmu), "validation")
        made_before(Path(cfg.out), settings(cfg))
    except Refused as error:
        problems.append(str(error))
    return problems


def missing(cfg):
    """Sentences about sources that cannot be there, before anything is read."""
    found = [f"--source {name}={source}: no such file or folder, and no hub name (owner/name) either"
             for name, source, _, _ in sources(cfg) if not Path(source).exists() and not hub_name(source)]
    if cfg.mmmu != "none" and not Path(cfg.mmmu).exists() and not hub_name(cfg.mmmu):
        found.append(f"--mmmu {cfg.mmmu}: no such file or folder, and no hub name (owner/name) either")
    return found


def raw_rows(name, source, subset, split):
    """Yield (name for messages, folder of its images, row) of each row of a set."""
    for part in subsets_of(source) if name == "mmmu_dev" else [subset]:  # of 30 configurations
        yield from read_rows(source, split, subset=part)


def check_columns(name, row):
    """Refuse a set whose first row lacks a column: then all do."""
    if isinstance(row, dict) and (lacking := set(SETS[name].columns) - set(row)):
        raise Refused(f"it has no column {', '.join(sorted(lacking))}; its columns are {', '.join(row)}")


def read_set(cfg, known, seen, entry, part):
    """The usable rows of a set, their pictures written to part/images, and {why: rows left out}."""
    name, source, subset, split = entry
    rows, bad, why = [], [], Counter()
    for i, (place, folder, given) in enumerate(raw_rows(*entry), 1):
        if i == 1:
            check_columns(name, given)
        try:
            if isinstance(given, BadRow):
                raise given
            for k, row in enumerate(SETS[name].convert(given)):
                reason = look_at(row, known, seen, folder)
                if reason:
                    why[reason] += 1
                    continue
                row["images"] = [image_path(image, part) for image in row["images"]]
                rows.append({"id": f"{name}-{i}" + f"-{k}" * (k > 0), **row, "source": name})
        except (BadRow, Refused) as error:
            bad.append((place, str(error)))
    report_bad(f"{source} ({name})", len(rows) + why.total(), bad, cfg.limit_bad)
    why["unusable"] = len(bad)
    return rows, +why


def look_at(row, known, seen, folder):
    """Why a row is left out, or "" when it can be used; its images become what image_path takes."""
    if NO_TEXT.search("".join([row["question"], row["answer"], *map(str, row.get("options", []))])):
        raise BadRow("one of its texts has a character that is none")
    row["images"] = [image_source(image, folder) for image in row["images"]]
    row["subject"] = subject_of(row["subject"])
    if not row["images"]:
        return "no picture"
    if wrong := [size for size in map(image_size, row["images"]) if isinstance(size, str)]:
        raise BadRow(wrong[0])
    looks = [look(image) for image in row["images"]]
    options = [str(o) for o in row.get("options", [])]
    key = (text_key(row["question"], *sorted(options)), *(bits.tobytes() for bits, _ in looks))
    if key in seen:
        return "twice"
    seen.add(key)
    named = Record("", row["question"], row["images"], options=options).named_images()
    if any(not 0 <= i < len(looks) for i in named):
        return "names a picture that it does not have"
    return known.has(row["question"], looks)


# ------------------------------------------------------------------------------------------------ making sets

def order(row, seed):
    """Rows in an order that depends on the seed and on nothing else; rows of one picture stand together."""
    first = row["images"][0]
    return hashlib.sha256(f"{seed} {first}".encode()).digest(), row["id"]


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
        queues.setdefault(row["subject"], []).append(row)
    turns = [(turn, i, row) for i, queue in enumerate(queues.values()) for turn, row in enumerate(queue)]
    chosen = {row["id"] for _, _, row in sorted(turns, key=lambda t: t[:2])[:n]}
    return [row for row in rows if row["id"] in chosen]


def choose(cfg, rows):
    """{file name: rows} of all five sets."""
    rows = sorted(rows, key=lambda row: order(row, cfg.seed))
    uses = ("maths", "cold_start", "breadth")
    fit = {use: [row for row in rows if use in SETS[row["source"]].use] for use in uses}
    maths, maths_val = split_off(fit["maths"], cfg.held_out)
    taken = evenly(fit["breadth"], cfg.breadth + cfg.breadth_val)
    breadth, breadth_val = split_off(taken, cfg.breadth_val)
    ids = {row["id"] for row in taken}
    cold = [r for r in fit["cold_start"] if r["subject"] in SCIENCES and r["id"] not in ids]
    sets = dict(zip(FILES, (maths, maths_val, evenly(cold, cfg.cold_start), breadth, breadth_val)))
    for name, chosen in sets.items():
        if not chosen:
            raise Refused(f"no rows are left for {name}.jsonl: the sets that it is made of are left out or "
                          f"too small (--source)")
    subjects = {row["subject"] for row in breadth} - {"Other"}
    if len(subjects) < cfg.least_subjects:
        raise Refused(f"breadth has {len(subjects)} subjects ({', '.join(sorted(subjects))}), at least "
                      f"{cfg.least_subjects} are wanted. Add a set (--source), or lower --least_subjects.")
    return sets


def settings(cfg):
    """What decides the content: the flags, and size and time of local files."""
    files = [Path(source) for _, source, _, _ in sources(cfg)] + [Path(cfg.mmmu)]
    files += [file for path in files for file in path.rglob("*.parquet")]  # of a file: none
    stamps = {str(f): [f.stat().st_size, f.stat().st_mtime_ns] for f in sorted(files) if f.is_file()}
    return as_read_back({**{k: v for k, v in asdict(cfg).items() if k != "out"}, "files": stamps})


def made_before(out, now):
    """Whether the folder is there, made with these settings. Anything else in its place is refused."""
    note = out / "data.json"
    if note.is_file():
        try:
            before = json.loads(note.read_text())["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(f"{note} can not be read ({error}). Remove {out} to make it again.") from error
        if changed := changed_settings(before, now):
            raise Refused(f"{out} was made with other settings ({describe_change(before, now, changed)}). "
                          f"Remove it, or name another --out.")
        return True
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Refused(f"--out {out} is there and was not made by recipes/data.py: name a new folder")
    return False


def make(cfg):
    if found := missing(cfg):
        raise Refused("\n".join(found))
    out, now = Path(cfg.out), settings(cfg)
    if made_before(out, now):
        say(f"{out} is there, made with the same settings: nothing to do")
        return
    if int(os.environ.get("RANK", 0)):  # under torchrun one process makes the sets, the others wait
        while not (out / "data.json").exists():
            time.sleep(2)
        return
    try:
        with new_folder(out) as part:
            write(cfg, now, part)
    except OSError as error:
        raise Refused(f"--out {out}: it can not be written ({error})") from error
    say((out / "README.md").read_text())


def write(cfg, now, part):
    known, seen, rows, table = read_known(cfg.mmmu), set(), [], {}
    for entry in sources(cfg):
        name, source, subset, split = entry
        try:
            usable, why = read_set(cfg, known, seen, entry, part)
        except Refused as error:
            raise Refused(f"{name}: {error}\nName a file or a hub set of the same columns with "
                          f"--source {name}=..., or leave it out with --source {name}=") from error
        say(f"{name}: {len(usable):,} rows can be used; left out: {dict(why) or 'none'}")
        rows += usable
        s = SETS[name]
        table[name] = {"source": source, "subset": subset or "", "split": split, "licence": s.licence,
                       "published": s.rows, "usable": len(usable), "left out": dict(why), "note": s.note}
    sets = choose(cfg, rows)
    for name, chosen in sets.items():
        append_jsonl(part / f"{name}.jsonl", chosen)
    used = {image for row in chain(*sets.values()) for image in row["images"]}
    for file in (part / "images").glob("*"):
        if f"images/{file.name}" not in used:
            file.unlink()
    counts = {name: {"rows": len(chosen), "sources": Counter(row["source"] for row in chosen),
                     "subjects": Counter(row["subject"] for row in chosen)} for name, chosen in sets.items()}
    write_json(part / "data.json", {"settings": now, "sources": table, "sets": counts})
    write_text(part / "README.md", readme(cfg, table, counts))


def readme(cfg, table, counts):
    """What stands beside the data for people; data.json has the same for programs."""
    lines = ["# Data of the recipes", "",
             "Made by `python -m recipes.data`. Licences are what the sets say of themselves; check them "
             "before you pass data on.", "",
             "| set | read from | split | licence | usable rows | left out |", "|---|---|---|---|---:|---|"]
    for name, s in table.items():
        why = ", ".join(f"{reason} {n}" for reason, n in s["left out"].items()) or "none"
        where = " ".join(filter(None, (s["source"], s["subset"])))
        lines.append(f"| {name} | {where} | {s['split']} | {s['licence']} | {s['usable']} | {why} |")
    checked = f"Rows that {cfg.mmmu}'s validation has were left out." if cfg.mmmu != "none" else \
        "Rows were NOT compared with MMMU's validation (--mmmu none)."
    lines += ["", checked, "", "| file | rows | subjects |", "|---|---:|---|"]
    for name, s in counts.items():
        subjects = ", ".join(f"{subject} {n}" for subject, n in sorted(s["subjects"].items()))
        lines.append(f"| {name}.jsonl | {s['rows']} | {subjects} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(make, Config)
