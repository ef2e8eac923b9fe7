"""Files and messages: what every script needs and what has nothing to do with learning. No torch here.

Every file and folder is written under a temporary name and renamed when complete, so what exists is whole.
"""
import contextlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

from tqdm import tqdm

TRAINER = "trainer"  # inside a checkpoint folder: what only the trainer reads (fp32 weights, optimizer, step)


class Refused(ValueError):
    """Bad input. The message is the whole story: what is wrong (file, row, flag or tensor) and what to do
    next."""


def main(run, Config):
    """The command line of a script: the dataclass Config is the flags, its trailing comments are the
    --help."""
    import tyro  # only a command line needs it
    cfg = tyro.cli(Config, description=sys.modules[run.__module__].__doc__)
    try:
        run(cfg)
    except Refused as error:
        sys.exit(f"\n{error}")


def say(*words):
    """Print on rank 0 only, above a progress bar if there is one."""
    if int(os.environ.get("RANK", 0)) == 0:
        tqdm.write(" ".join(str(w) for w in words), file=sys.stdout)


# ------------------------------------------------------------------------------------------------------- JSON

def json_lines(path, errors="strict"):
    """(line number, row) of each line of a JSON-lines file that is not blank; numbers count from 1.

    Where a line is not JSON, its row is the ValueError: the caller knows whether to refuse or to
    count it. Lines end at "\\n" alone, because a text may hold other line breaks (U+2028). errors: as in
    open().
    """
    with open(path, encoding="utf-8-sig", errors=errors, newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError as error:  # also a number of more digits than python converts
                    yield number, error


def read_jsonl(path):
    """Rows of a JSON-lines file of our own, [] when there is none. A torn last line (the writer was killed)
    is left out."""
    lines = Path(path).read_text().splitlines() if Path(path).exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def append_jsonl(path, rows):
    with open(path, "a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def write_text(path, text):
    part = Path(f"{path}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_json(path, value):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def as_read_back(value):
    """The value as it comes out of a JSON file: tuples are lists, keys are texts."""
    return json.loads(json.dumps(value, default=str))


def changed_settings(before, now, may_change=()):
    """Were these settings used before? Names of those that differ, sorted; `may_change` lists those that may.

    Both are {name: value} as read back from JSON (as_read_back). A name that one lacks counts as None.
    """
    return [k for k in sorted({*before, *now}) if before.get(k) != now.get(k) and k not in may_change]


def describe_change(before, now, names):
    """What changed, in words: --lr was 0.1, now 0.2; --seed was 0, now 1"""
    return "; ".join(f"--{k} was {before.get(k)!r}, now {now.get(k)!r}" for k in names)


# ---------------------------------------------------------------------------------------------------- folders

@contextlib.contextmanager
def new_folder(path):
    """Yield a temporary folder that becomes `path` only when the block ends well."""
    path, part = Path(path), Path(path).with_name(f".{Path(path).name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(path, ignore_errors=True)
    os.rename(part, path)


def discard(checkpoint):
    """Delete a step_* folder. It loses its name first: if the process is killed half way, no half-deleted
    folder can be taken for a checkpoint."""
    gone = checkpoint.with_name(f".{checkpoint.name}.part")
    os.rename(checkpoint, gone)
    shutil.rmtree(gone)


def has_weights(path):
    return any(Path(path).glob("model*.safetensors"))


def newest_checkpoint(run, with_trainer=False):
    """The newest step_* folder of a run folder, or None. with_trainer: only those from which a run can go
    on."""
    steps = sorted(p for p in Path(run).glob("step_*") if not with_trainer or (p / TRAINER).exists())
    return steps[-1] if steps else None


def hub_name(path):
    """Could this be a name on the hub (owner/name)? What begins or ends like a local path is none."""
    local = path.startswith((".", "/", "~", "data/", "out/")) or path.endswith(
        (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".arrow", ".safetensors"))
    return not local and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", path, re.ASCII) is not None


def resolve(path, flag="--model", first="make tiny"):
    """A checkpoint folder from a checkpoint folder, a run folder, or a hub name (which is returned as it is).

    Of a run folder it is the selected checkpoint (selected.json, which entropy_select.py and
    connector_tune.py write), otherwise the newest one.
    """
    folder = Path(path)
    if has_weights(folder):
        return str(folder)
    if (folder / "selected.json").exists():
        chosen = json.loads((folder / "selected.json").read_text())["checkpoint"]
        is_local = chosen.startswith(("step_", ".")) or (folder / chosen).exists()
        return os.path.normpath(folder / chosen) if is_local else chosen  # a tuning may keep its start
    if newest := newest_checkpoint(folder):
        return str(newest)
    if folder.exists() or path.count("/") != 1 or path.startswith(("out/", "data/", ".", "/")):
        raise Refused(f"{flag} {path}: no checkpoint there (neither model*.safetensors nor step_* folders). "
                      f"Run {first} first, or name a model folder or a hub model.")
    return path
