"""Files and messages: what every script needs and what has nothing to do with learning. No torch here.

Every file and folder is written under a temporary name and renamed when complete, so what exists is whole.
"""
import contextlib
import json
import os
import re
import shutil
import sys
from functools import lru_cache
from pathlib import Path

from tqdm import tqdm

from machinery.flags import wrong_flags
from machinery.torchrun import refuse

if sys.platform == "win32":  # every script comes by here before anything needs what Windows lacks
    sys.exit("Plain Windows is not supported: file locks and the reward's time limits need Linux or macOS. "
             "Run this inside WSL2.")

# what transformers reads of a model folder: JSON objects, and fields without which it would take defaults
MODEL_FILES = {
    "*config.json": {}, "config.json": {"model_type": str}, "tokenizer.json": {"model": dict},
    "preprocessor_config.json": {"image_processor_type": str}, "special_tokens_map.json": {},
    "added_tokens.json": {}, "vocab.json": {}, "chat_template.json": {}, "model.safetensors.index.json": {}}
TRAINER = "trainer"  # inside a checkpoint folder: what only the trainer reads (fp32 weights, optimizer, step)


class Refused(ValueError):
    """Bad input. The message is the whole story: what is wrong (file, row, flag or tensor) and what to do
    next."""


def main(run, Config):
    """The command line of a script: the dataclass Config is the flags, its trailing comments are the
    --help."""
    import tyro  # only a command line needs it
    try:
        cfg = tyro.cli(Config, description=sys.modules[run.__module__].__doc__)
        check_flags(cfg)
        run(cfg)
    except Refused as error:
        refuse(str(error))
    except BrokenPipeError:  # `| head` has seen enough; what python still holds back goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def check_flags(cfg):
    """Refuse a flag whose value makes no sense, before anything is loaded."""
    if why := wrong_flags(cfg):
        raise Refused(why)


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
                except RecursionError as error:
                    yield number, ValueError(str(error))


def checked(value, name, fields, remedy):
    """The value, when it is a JSON object with these fields ({name: type, or types}). Otherwise it is refused
    by its name (a file, perhaps with a line), and the remedy says what to do."""
    if not isinstance(value, dict):
        raise Refused(f"{name} holds no JSON object but {str(value)[:60]}. {remedy}")
    for field, kind in fields.items():
        if not isinstance(value.get(field), kind):
            has = f"is {str(value[field])[:60]!r} there" if field in value else "is missing"
            raise Refused(f"{name} is not what was written: {field!r} {has}. {remedy}")
    return value


def read_json(path, fields=None, remedy="Put the file back as it was, or delete it."):
    """The JSON object in a file of ours; see `checked`."""
    try:
        value = json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise Refused(f"{path} is not there. {remedy}") from None
    except OSError as error:
        raise Refused(f"{path} can not be read ({error.strerror}). {remedy}") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, cut off, or brackets in brackets without end
        raise Refused(f"{path} is not JSON ({error}). {remedy}") from error
    return checked(value, path, fields or {}, remedy)


def read_jsonl(path, fields=None, remedy="Delete that line or the file, or put the file back as it was."):
    """Rows of a JSON-lines file of our own, [] when there is none; see `checked`. A torn last line (the
    writer was killed) is left out."""
    return list(each_row(path, fields, remedy))


def each_row(path, fields=None, remedy="Delete that line or the file, or put the file back as it was."):
    """As read_jsonl, one row after the other: the responses of a long run need gigabytes."""
    try:
        lines = open(path, "rb")
    except FileNotFoundError:
        return
    except OSError as error:
        raise Refused(f"{path} can not be read ({error.strerror}).") from error
    with lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                if not line.endswith(b"\n"):
                    return
                raise Refused(f"{path} line {number} is not JSON ({error}). {remedy}") from error
            yield checked(row, f"{path} line {number}", fields or {}, remedy)


@contextlib.contextmanager
def reading(what):
    """Say in a sentence what can not be read; the libraries' own errors often do not name it."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:  # of any kind: tokenizers raises plain Exceptions
        why = f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
        raise Refused(f"{what} can not be read ({why}). Is a file missing, or cut off? Copy it again from "
                      f"where the model came from.") from error


@contextlib.contextmanager
def writing(path):
    """Say in a sentence that a file can not be written: the disk is full, the folder gone or locked."""
    try:
        yield
    except OSError as error:
        raise Refused(f"{path} can not be written ({error.strerror or error}). What was complete before is "
                      f"still there: mend that (free some space?) and run the same command again.") from error


def append_jsonl(path, rows):
    with writing(path), open(path, "a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def write_text(path, text):
    part = Path(f"{path}.part")
    with writing(path):
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)


def write_json(path, value):
    with writing(path):
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
    if path.is_dir() and any(path.iterdir()):
        raise Refused(f"{path} is there already, and its files would be lost: "
                      f"use another --out, or delete the folder.")
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
    steps = [p for p in checkpoints(run) if not with_trainer or (p / TRAINER).exists()]
    return steps[-1] if steps else None


def hub_name(path):
    """Could this be a name on the hub (owner/name)? What begins or ends like a local path is none."""
    local = path.startswith((".", "/", "~", "data/", "out/")) or path.endswith(
        (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".arrow", ".safetensors"))
    return not local and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", path, re.ASCII) is not None


def checkpoints(run):
    """The step_000123 folders of a run folder, in order."""
    steps = [p for p in Path(run).glob("step_*") if re.fullmatch(r"step_\d+", p.name) and p.is_dir()]
    return sorted(steps, key=lambda p: int(p.name[5:]))


def resolve(path, flag="--model", first="make tiny"):
    """A checkpoint folder from a checkpoint folder, a run folder, or a hub name (which is returned as it is).

    Of a run folder it is the selected checkpoint (selected.json, which entropy_select.py and
    connector_tune.py write), otherwise the newest one.
    """
    folder, choice = Path(path), Path(path) / "selected.json"
    if not has_weights(folder) and choice.exists():
        again = "Select again, or delete the file: then the newest checkpoint counts."
        chosen = read_json(choice, {"checkpoint": str}, again)["checkpoint"]
        if chosen.count("/") == 1 and chosen[0] != "." and not (folder / chosen).exists():
            return chosen  # a tuning may keep its start, which may be of the hub
        folder = Path(os.path.normpath(folder / chosen))
        if not folder.is_dir():
            raise Refused(f"{choice} names {folder}, which is not there. {again}")
    elif not has_weights(folder):
        folder = newest_checkpoint(folder) or folder
    if has_weights(folder) or folder != Path(path):
        check_model_files(folder, flag)
        return str(folder)
    if folder.exists() or path.count("/") != 1 or path.startswith(("out/", "data/", ".", "/")):
        raise Refused(f"{flag} {path}: no checkpoint there (neither model*.safetensors nor step_* folders). "
                      f"Run {first} first, or name a model folder or a hub model.")
    look_at_hub(path, flag)
    return path


def check_model_files(folder, flag):
    """Refuse a model folder in which a file is cut off: the libraries would not say which."""
    for pattern in MODEL_FILES:
        for file in folder.glob(pattern):
            if pattern in file.name and b"feature_extractor_type" in file.read_bytes():
                continue  # of the authors' own release (convert.py), which names its processor like this
            stat = file.stat()
            read_model_file(file, pattern, stat.st_size, stat.st_mtime_ns, flag)


@lru_cache(maxsize=256)
def read_model_file(file, pattern, size, changed, flag):
    """Once for each version of a file: a tokenizer has megabytes."""
    remedy = f"It belongs to {flag}: copy it again from where the model came from."
    read_json(file, MODEL_FILES[pattern], remedy)


@lru_cache(maxsize=8)
def look_at_hub(name, flag):
    """Refuse at once a hub name that can not be had: without a network the libraries would go on trying for
    minutes. A copy in the cache is as good as the hub."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    try:
        HfApi().model_info(name, timeout=10)
    except Exception as error:  # of its HTTP client's own kinds, which change with its versions
        why = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        if isinstance(error, ValueError) or not isinstance(try_to_load_from_cache(name, "config.json"), str):
            raise Refused(f"{flag} {name}: there is no such folder here, and the hub does not give it under "
                          f"this name ({why}). Is the name right, is there a network, and if the model is "
                          f"gated, did you log in (hf auth login)?") from error
        constants.HF_HUB_OFFLINE = True
        say(f"{flag} {name}: the hub does not answer ({why}), so the copy in its cache is used")
