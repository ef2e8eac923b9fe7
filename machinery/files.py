"""Files, messages and the command line. No torch here.

A file or folder is written under a temporary name and renamed when it is complete, so what exists is whole.
"""
import atexit
import contextlib
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import time
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

TRAINER = "trainer"  # inside a checkpoint folder: what only the trainer reads (fp32 weights, optimizer, step)


class Refused(ValueError):
    """Bad input. The message is the whole story: what is wrong (file, row, flag or tensor), what to do."""


def say(*words):
    """Print on rank 0 only, above a progress bar if there is one."""
    if int(os.environ.get("RANK", 0)) == 0:
        tqdm.write(" ".join(str(w) for w in words), file=sys.stdout)


@lru_cache(maxsize=1)
def versions():
    """What a result may depend on, and when the run was started"""
    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent,
                         capture_output=True, text=True).stdout.strip() if shutil.which("git") else ""
    return {"git": git, "torch": version("torch"), "transformers": version("transformers"),
            "python": sys.version.split()[0], "started": time.strftime("%Y-%m-%d %H:%M:%S")}


# ----------------------------------------------------------------------------------------------- command line

def main(run, Config):
    """The command line of a script: the dataclass Config is the flags, its comments are the --help."""
    import tyro  # only a command line needs it
    atexit.register(gc.freeze)  # or python looks through everything that torch imported once more: a second
    try:
        about = f"{sys.modules[run.__module__].__doc__}\n[3.3]: section 3.3 of the paper"
        cfg = tyro.cli(Config, description=about, use_underscores=True)
        check_flags(cfg)
        run(cfg)
    except Refused as error:
        sys.exit(f"\n{error}")


# numbers are at least 0; these are above it ...
ABOVE_ZERO = ("lr", "epochs", "clip", "vllm_memory", "max_gap", "batch", "steps", "prompts", "minibatches",
              "max_tokens", "max_new_tokens", "save_every", "runs", "gpus", "tensor_parallel")
SHARES = ("limit_bad", "vllm_memory", "clip_low", "max_repetition")  # ... and these at most 1


def check_flags(cfg):
    """Refuse a number that makes no sense, and an --out that would overwrite what the command reads. Words
    are checked by tyro where a flag's type is Literal."""
    out = getattr(cfg, "out", "")
    for name, value in vars(cfg).items():
        if isinstance(value, (int, float)):
            share = name in SHARES or name == "warmup" and isinstance(value, float)  # of the steps, in sft.py
            least, most = (0 if name not in ABOVE_ZERO else 1e-12), (1 if share else sys.maxsize)
            if not least <= value <= most:
                raise Refused(f"--{name} {value}: it must be {'above' if least else 'at least'} 0"
                              f"{', at most 1' * (most == 1)}")
        elif name != "out" and out and isinstance(value, str) and value:
            if os.path.exists(out) and os.path.exists(value) and os.path.samefile(out, value):
                raise Refused(f"--out {out}: this is the --{name} of the same command, which would be lost")


# ------------------------------------------------------------------------------------------------------- JSON

def json_lines(path, errors="strict"):
    """(line number, row) of each line of a JSON-lines file that is not blank; numbers count from 1.

    Where a line is not JSON, its row is the ValueError: the caller knows whether to refuse or to count it.
    Lines end at "\\n" alone, because a text may hold other line breaks (U+2028). errors: as in open()."""
    with open(path, encoding="utf-8-sig", errors=errors, newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError as error:  # also a number of more digits than python converts
                    yield number, error
                except RecursionError as error:
                    yield number, ValueError(str(error))


def read_json(path):
    return json.loads(Path(path).read_bytes())


def read_jsonl(path):
    """The rows of a JSON-lines file of our own; none when there is no file. A torn last line (the writer was
    killed) is left out."""
    rows = []
    for number, row in json_lines(path) if Path(path).exists() else ():
        if not isinstance(row, ValueError):
            rows.append(row)
        elif getattr(row, "doc", "\n").endswith("\n"):  # only a last line has no end
            raise Refused(f"{path} line {number} is not JSON ({row})")
    return rows


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


def changed_settings(before, now, may_change=()):
    """What differs between two {name: value}, in words ("--lr was 0.1, now 0.2; --seed was 0, now 1"), "" if
    nothing does. A name that one lacks counts as None."""
    before, now = (json.loads(json.dumps(x, default=str)) for x in (before, now))  # tuples become lists
    names = [k for k in sorted({*before, *now}) if before.get(k) != now.get(k) and k not in may_change]
    return "; ".join(f"--{k} was {before.get(k)!r}, now {now.get(k)!r}" for k in names)


# ---------------------------------------------------------------------------------------------------- folders

@contextlib.contextmanager
def new_folder(path):
    """Yield a temporary folder that becomes `path` only when the block ends well."""
    path, part = Path(path), Path(path).with_name(f".{Path(path).name}.part")
    if path.is_dir() and any(path.iterdir()):
        raise Refused(f"{path} is there already, and its files would be lost: "
                      f"use another --out, or delete the folder.")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        shutil.rmtree(path, ignore_errors=True)
        os.rename(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def has_weights(path):
    return any(Path(path).glob("model*.safetensors"))


def hub_name(path):
    """Could this be a name on the hub (owner/name)? What is here, or looks like a local path, is none."""
    local = Path(path).exists() or path.startswith((".", "/", "~", "data/", "out/"))
    return not local and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", path, re.ASCII) is not None


def checkpoints(run, with_trainer=False):
    """The step_000123 folders of a run folder, in order. with_trainer: those from which a run can go on."""
    steps = [p for p in Path(run).glob("step_*") if re.fullmatch(r"step_\d+", p.name) and p.is_dir()]
    steps = [p for p in steps if not with_trainer or (p / TRAINER).exists()]
    return sorted(steps, key=lambda p: int(p.name[5:]))


def newest_checkpoint(run, with_trainer=False):
    """The newest of a run folder's checkpoints, or None"""
    return (checkpoints(run, with_trainer) or [None])[-1]


def resolve(path, flag="--model"):
    """A checkpoint folder from a checkpoint folder, a run folder, or a hub name (which is returned as it is).
    Of a run folder it is the selected checkpoint (selected.json), otherwise the newest one."""
    folder, choice = Path(path), Path(path) / "selected.json"
    if has_weights(folder):
        return str(folder)
    if choice.exists():
        chosen = read_json(choice)["checkpoint"]
        if hub_name(chosen) and not (folder / chosen).exists():
            return chosen  # a tuning may keep its start, which may be of the hub
        return os.path.normpath(folder / chosen)
    newest = newest_checkpoint(folder)
    if not newest and not hub_name(path):
        raise Refused(f"{flag} {path}: no checkpoint there (neither model*.safetensors nor step_* folders). "
                      f"Run make tiny first, or name a model folder or a hub model.")
    return str(newest or path)
