"""The tiny world: pictures, questions and an untrained model of about 2M parameters, made in seconds.

The recipe needs a vision-language model that can see, calculate, and has two manners of answering: step by
step and at once. Real ones cost hours; this world has the same ingredients at a size that a laptop trains in
minutes. Its files and formats are those of a real model and real data, so no stage has a special case for it.

- Every picture is 48x48 with nine 16x16 cells, because the model sees one visual token a cell (pictures.py).
- Six subjects with MMMU's names, one for each of its disciplines. Math is a grid of real handwritten digits
  (scikit-learn's); the handwriting of the evaluation set appears in no training set. The others are drawn.
- Most questions need two to four steps (questions.py). A four-layer model that writes them down gets them
  right far more often than one that answers at once: this is what reinforcement learning can discover.
- "Wait" stands where a reading is truly doubted (handwriting that a classifier finds close, a pointer between
  two marks), "Alternatively" where a search goes on with another line, because one did not add up.
- Some pictures of the other subjects are dark: few before reinforcement learning, half of them after it.

    python tiny/make.py --out data/tiny --seed 0      (same seed, same bytes)

Makes model/ (blank_model.py), images/, base.jsonl (NoThink), cold_start.jsonl, cold_start_words.jsonl (the
pictures told in words), connector.jsonl, connector_val.jsonl, val.jsonl (thinking), rl.jsonl and
rl_hard.jsonl (Math only, no solutions), mmmu/ (Parquet in MMMU's schema) and truth.json (what its pictures
really show). This folder imports nothing from the top of the repository.
"""
import io
import json
import random
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro
from PIL import Image

from pictures import make_pools, make_scene
from questions import HARD, KINDS, OTHERS, SUBJECTS, ask, caption, in_words, solution, sums, truth


@dataclass
class Config:
    out: str = "data/tiny"  # folder to make
    seed: int = 0  # same seed and sizes, same bytes
    base: int = 20_000  # rows of base.jsonl that ask about pictures, all subjects
    captions: int = 14_000  # rows there that join the parts: a picture and what stands in it
    sums: int = 4_000  # rows there without a picture, from which the LLM learns to calculate
    cold_start: int = 3_000  # rows that teach the thinking format, all subjects
    rl: int = 4_000  # rows for reinforcement learning: Math only, question and answer, no solution
    rl_hard: int = 2_000  # the same with longer searches and sums, for grpo.py --curriculum
    connector: int = 4_000  # rows for connector tuning, the same number of every subject
    connector_val: int = 400  # its validation rows
    val: int = 500  # validation rows, half of them Math, most of them searches, handwriting of its own
    math_test: int = 400  # evaluation questions in Math, handwriting unseen in training and validation
    other_test: int = 200  # evaluation questions in each other subject


# share of dark pictures, but in Math: in base and cold_start; in connector's; in the evaluation
DARK_BEFORE, DARK_BREADTH, DARK_TEST = 0.1, 0.5, 0.2

# ------------------------------------------------------------------------------------------------- sets

def make_rows(rng, pools, subjects, per_image, kinds=KINDS, dark=0.0):
    """A row for each of the subjects listed, per_image questions a picture: these rows share its Scene.

    dark: share of dark pictures in all subjects but Math."""
    rows = []
    for subject in kinds:
        names, weights = list(kinds[subject]), list(kinds[subject].values())
        drawn, asked, todo = [], per_image, subjects.count(subject)
        while todo:
            if asked == per_image:
                scene = make_scene(rng, pools, subject, dark=subject != "Math" and rng.random() < dark)
                drawn.append(scene)
                asked = 0
            kind = rng.choices(names, weights)[0]
            more = {"two_images": 1, "image_options": 3}.get(kind, 0)  # pictures drawn before this one
            if len(drawn) <= more:
                continue
            row = ask(rng, [drawn[-1], *rng.sample(drawn[:-1], more)], kind)
            if row is not None:
                rows.append(row)
                asked, todo = asked + 1, todo - 1
    rng.shuffle(rows)
    return rows


def mix(n, math_share):
    """The subject of each of n rows."""
    math = round(n * math_share)
    return ["Math"] * math + [OTHERS[i % len(OTHERS)] for i in range(n - math)]


def make_sets(cfg):
    """{name: rows} of every set. Each has its own random numbers.

    Reinforcement, validation and evaluation also have their own handwriting: what encoder and connector
    learned from is not theirs."""
    sets, pools = {}, {}
    for part in ("train", "rl", "val", "test"):
        pools[part] = make_pools(random.Random(f"{cfg.seed} {part}"), part, looks=120)
    searches = {subject: {kind: weight * (4 if kind == "which" else 1) for kind, weight in kinds.items()}
                for subject, kinds in KINDS.items()}  # a selection needs many critical words
    single = {subject: {kind: weight for kind, weight in kinds.items() if "image" not in kind}
              for subject, kinds in KINDS.items()}
    test = ["Math"] * cfg.math_test + list(OTHERS) * cfg.other_test
    plan = {  # name: handwriting, questions a picture, subjects, and what differs
        "base": ("train", 4, mix(cfg.base, 0.4), {"dark": DARK_BEFORE}),
        "cold_start": ("train", 2, mix(cfg.cold_start, 0.4), {"dark": DARK_BEFORE}),
        "cold_start_words": ("train", 2, mix(cfg.cold_start, 0.4), {"kinds": single}),
        "rl": ("rl", 2, mix(cfg.rl, 1.0), {}),
        "rl_hard": ("rl", 2, mix(cfg.rl_hard, 1.0), {"kinds": HARD}),
        "connector": ("train", 2, mix(cfg.connector, 1 / 6), {"dark": DARK_BREADTH}),
        "connector_val": ("val", 2, mix(cfg.connector_val, 1 / 6), {"dark": DARK_BREADTH}),
        "val": ("val", 1, mix(cfg.val, 0.5), {"kinds": searches}),
        "mmmu": ("test", 1, test, {"dark": DARK_TEST})}
    for name, (part, per_image, subjects, more) in plan.items():
        sets[name] = make_rows(random.Random(f"{cfg.seed} {name}"), pools[part], subjects, per_image, **more)
    sets["cold_start_words"] = [in_words(row) for row in sets["cold_start_words"]]
    rng, hard = random.Random(f"{cfg.seed} captions"), SUBJECTS[:3]  # to read: handwriting, bars, dots
    captions = []
    for subject in ((*SUBJECTS, *hard)[i % 9] for i in range(cfg.captions)):
        dark = subject != "Math" and rng.random() < DARK_BEFORE
        captions.append(caption(rng, make_scene(rng, pools["train"], subject, dark)))
    sets["base"] += captions + [sums(rng) for _ in range(cfg.sums)]
    rng.shuffle(sets["base"])
    return sets


# ------------------------------------------------------------------------------------------------- files

def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def write_jsonl(folder, name, rows):
    """name.jsonl and its pictures in images/name/."""
    keys = ("question", "options", "answer", "subject", "kind", "solution")
    (folder / "images" / name).mkdir(parents=True)
    paths = {}  # id of a Scene -> its file
    with open(folder / f"{name}.jsonl", "w") as file:
        for i, row in enumerate(rows):
            for scene in row["scenes"]:
                if id(scene) not in paths:
                    paths[id(scene)] = f"images/{name}/{len(paths):05d}.png"
                    (folder / paths[id(scene)]).write_bytes(png(scene.pixels))
            out = {"id": f"{name}_{i}", "images": [paths[id(scene)] for scene in row["scenes"]]}
            out |= {key: row[key] for key in keys if key in row}
            file.write(json.dumps(out) + "\n")


def write_mmmu(folder, rows):
    """Parquet in MMMU's schema: all but the pictures are strings; options are a printed Python list. What is
    really to be seen goes into truth.json beside it (python -m experiments.tables losses)."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    texts = ("id", "question", "options", "explanation")
    tail = ("img_type", "answer", "topic_difficulty", "question_type", "subfield")
    pictures = tuple(f"image_{k}" for k in range(1, 8))
    picture = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    columns = {name: picture if name in pictures else pa.string() for name in (*texts, *pictures, *tail)}
    text, image = {"dtype": "string", "_type": "Value"}, {"_type": "Image"}
    features = {name: image if name in pictures else text for name in columns}
    about = {"huggingface": json.dumps({"info": {"features": features}})}  # what `datasets` reads
    schema = pa.schema(list(columns.items()), metadata=about)
    true = {}
    for subject in SUBJECTS:
        table = []
        for i, row in enumerate(r for r in rows if r["subject"] == subject):
            operations = row["steps"].count("=")
            difficulty = ("Easy", "Medium", "Medium", "Hard")[min(operations, 3)]
            out = {"id": f"validation_{subject}_{i + 1}", "question": row["question"],
                   "options": str(row["options"]), "explanation": row["steps"], "img_type": "['Tables']",
                   "answer": row["answer"], "topic_difficulty": difficulty, "subfield": row["kind"],
                   "question_type": "multiple-choice" if row["options"] else "open"}
            true[out["id"]] = truth(row)
            out |= {name: None for name in pictures}
            for name, scene in zip(pictures, row["scenes"]):
                out[name] = {"bytes": png(scene.pixels), "path": f"{out['id']}_{name[-1]}.png"}
            table.append(out)
        (folder / subject).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(table, schema=schema),
                       folder / subject / "validation-00000-of-00001.parquet")
    (folder.parent / "truth.json").write_text(json.dumps(true))


def make(cfg):
    """A world that exists is whole: it gets its name when it is complete."""
    out, wanted = Path(cfg.out), {k: v for k, v in asdict(cfg).items() if k != "out"}
    if out.exists():
        if json.loads((out / "world.json").read_text()) != wanted:
            sys.exit(f"\n{out} was made with another seed or sizes. Remove it, or give another --out.")
        print(f"{out} exists, made with the same seed and sizes: nothing to do.")
        return
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    print("making the world: half a minute")
    sets = make_sets(cfg)
    write_mmmu(part / "mmmu", sets["mmmu"])
    for name, rows in sets.items():
        rng = random.Random(f"{cfg.seed} {name} solutions")
        for row in rows if name not in ("rl", "rl_hard", "mmmu") else ():
            # half of the solutions of base and the cold starts answer at once
            row["solution"] = solution(rng, row, 0.5 if name.startswith(("base", "cold_start")) else 1.0,
                                       thinking=name != "base")
        if name != "mmmu":
            write_jsonl(part, name, rows)
    from blank_model import save_blank_model  # transformers takes seconds
    parameters = save_blank_model(part / "model", cfg.seed)
    (part / "world.json").write_text(json.dumps(wanted, indent=1))
    part.rename(out)
    print(f"{out}: {sum(map(len, sets.values())):,} questions, a model of {parameters:,} parameters")


if __name__ == "__main__":
    make(tyro.cli(Config, description=__doc__))
