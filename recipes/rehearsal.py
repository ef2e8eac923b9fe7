"""A rehearsal: what would cost money in a recipe is checked, and its data in small are made of the embedded
world's pictures: files with the columns of the public sets that are read.

    python recipes/rehearsal.py --world data/rehearsal/tiny --out data/rehearsal
    python recipes/rehearsal.py check GPUS GIB CONFIG sft.py --flags ... -- grpo.py --flags ...

`bash recipes/NAME.sh --rehearse` calls both. The first writes hub/ (Parquet files of three sets of sets.py;
the others are left out) and teacher.jsonl: the same questions with right answers in the thinking format. On
these the rehearsal trains its teacher, a model that knows the format and guesses the letter. So rejection
sampling keeps something, as it does with a real teacher, and with a blank model it would not.
"""
import importlib
import json
import os
import sys
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

if not __package__:  # started by its path: the top folder of the repository comes first
    sys.path[0] = str(Path(__file__).parent.parent)

import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from recipes import plan
from data import read_records
from machinery.files import Refused, append_jsonl, check_flags, hub_name, main, new_folder, say
from recipes.data import FILES, our_row, raw_rows, sources
from recipes.sets import LETTERS, SETS

HUB = ("mmk12", "science_qa", "mmmu_dev")  # a set for each use: maths, cold start and breadth
TOPICS = ("biology", "physics", "chemistry", "geography")  # of ScienceQA
MMMU = ("Agriculture", "Pharmacy", "Music", "Literature", "Clinical_Medicine", "Accounting", "Design", "Math")
THOUGHTS = ("I see it at once.", "Wait, I see it at once.", "I see it. Wait, once over. I see it at once.")


@dataclass
class Config:
    world: str = "data/rehearsal/tiny"  # tiny world (tiny/make.py) whose pictures and questions are taken
    out: str = "data/rehearsal"         # folder that gets hub/ and teacher.jsonl


def rows_of_sets(world):
    """{set: rows in its columns}. Questions to one picture only; most are answered with a letter."""
    rows = [json.loads(line) for name in ("rl", "connector") for line in open(world / f"{name}.jsonl")]
    rows, sets = [row for row in rows if len(row["images"]) == 1], {name: [] for name in HUB}
    for i, row in enumerate(4 * rows):
        path, question = world / row["images"][0], f"{row['question'].replace('<image 1>', '').strip()} ({i})"
        picture = {"bytes": path.read_bytes(), "path": path.name}
        if row["subject"] == "Math" and i < len(rows):
            options = "".join(f"\n{LETTERS[k]}. {option}" for k, option in enumerate(row["options"]))
            sets["mmk12"].append({"question": question + options, "subject": "math", "answer": row["answer"],
                                  "image": picture})
        if row["options"]:
            sets["science_qa"].append({
                "image": picture if i % 8 else None, "question": question, "choices": row["options"],
                "answer": "ABCD".index(row["answer"]), "hint": "", "topic": TOPICS[i % len(TOPICS)]})
            sets["mmmu_dev"].append({
                "id": f"dev_{MMMU[i % len(MMMU)]}_{i}", "question": f"<image 1> {question} Which unit?",
                "options": str(row["options"]), "answer": row["answer"], "question_type": "multiple-choice",
                "image_1": picture})
    return sets


def make(cfg):
    out = Path(cfg.out)
    if (out / "hub").exists():
        say(f"{out / 'hub'} is there: nothing to do")
        return
    with new_folder(out / "hub") as part:
        sets = rows_of_sets(Path(cfg.world))
        (part / "mmmu_dev" / "dev").mkdir(parents=True)
        for name, rows in sets.items():
            file = "mmmu_dev/dev/0" if name == "mmmu_dev" else name
            pq.write_table(pa.Table.from_pylist(rows), part / f"{file}.parquet")
        append_jsonl(part / "teacher.jsonl", taught(sets, part))
    say(f"{out / 'hub'}: {', '.join(f'{name} {len(rows)}' for name, rows in sets.items())}")


def taught(sets, folder):
    """Every question of the sets with a solution in the thinking format."""
    rows = []
    (folder / "teacher").mkdir()
    for name, raw in sets.items():
        for given in (given for row in raw for given in SETS[name].convert(row)):
            row, path = our_row(folder, given), f"teacher/{len(rows)}.png"
            for content in row["images"]:
                (folder / path).write_bytes(content)
            thought = THOUGHTS[len(rows) % len(THOUGHTS)]
            rows.append({**row, "images": [path] * len(row["images"]),
                         "solution": f"{thought}\n</think>\n\n\\boxed{{{row['answer']}}}"})
    return [row for row in rows if row["images"]]


# ------------------------------------------------------------------ what would cost money in the real recipe

def check(gpus, gib, config, *words):
    """Sentences about what is wrong with a recipe's steps: flags, files that no earlier step makes, columns,
    memory. config: a folder with the config.json of the model that trains. words: the steps in order, each a
    script and its flags, "--" between them. The hub is not asked."""
    wrong, made = [], set()
    for script, *flags in (list(step) for is_step, step in groupby(words, "--".__ne__) if is_step):
        cfg = tyro.cli(importlib.import_module(script[:-3].replace("/", ".")).Config, args=flags)
        try:
            check_flags(cfg)
            check_files(cfg, script, made)
            if hasattr(cfg, "train") and not plan.plan(plan.Config(
                    model=config, gpus=int(gpus), gpu_gib=float(gib), train=cfg.train, lora=cfg.lora,
                    tokens=cfg.max_tokens, rollout=getattr(cfg, "rollout", "none"), offload=cfg.offload,
                    tensor_parallel=getattr(cfg, "tensor_parallel", 1), checkpointing=cfg.checkpointing,
                    max_new_tokens=getattr(cfg, "max_new_tokens", 8192), hybrid=cfg.hybrid)):
                raise Refused(f"more memory than {gpus} GPUs of {gib} GiB have")
        except Refused as error:
            wrong.append(f"{script}: {error}")
        out = getattr(cfg, "out", "")
        files = [f"{out}/{name}.jsonl" for name in FILES] if script == "recipes/data.py" else [out]
        made |= {os.path.normpath(file) for file in files}
    return wrong


def check_files(cfg, script, made):
    """Refuse a step that reads what is not there, or lacks a column."""
    flags = ("model", "folder", "data", "val", "curriculum")
    reads = sources(cfg) if script == "recipes/data.py" else {flag: getattr(cfg, flag, "") for flag in flags}
    need = ("question", "solution" if script in ("sft.py", "connector_tune.py") else "answer")
    for name, path in reads.items():
        if path and not Path(path).exists():
            if os.path.normpath(path) not in made and not hub_name(path):
                raise Refused(f"{name} {path} is not there, no step before this one makes it, and it is no "
                              f"name on the hub")
        elif script == "recipes/data.py":
            row = next(raw_rows(name, path))[2]
            try:
                next(SETS[name].convert(row))
            except KeyError as error:
                raise Refused(f"{name} {path} has no column {error} but {', '.join(row)}") from error
        elif path and name in flags[2:] and script != "eval_mmmu.py":
            read_records(path, cfg.columns, need, image_root=cfg.image_root)


if __name__ == "__main__":
    if sys.argv[1:2] == ["check"]:
        sys.exit("\n".join(check(*sys.argv[2:])) or 0)
    main(make, Config)
