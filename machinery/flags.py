"""Flags whose values make no sense are refused before anything is loaded. No torch here. A reader of the
recipe may skip this file.

A flag of one name means the same in every script, so one table has the limits of them all. Where a limit is
another in one script, its Config's default tells: a count whose default is 0 may be 0 (it means "no limit").
"""
import dataclasses
import math
import os
import sys
import tempfile
import typing
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

ANY = math.inf
# numbers: {flag: (least, most)}. Others have no upper limit; shares and sizes are at least 0, counts 1, or 0
# where their default is 0.
LIMITS = {
    "seed": (0, 2 ** 63 - 1), "probe": (2, ANY), "visual": (0, ANY), "lr": (0, 1), "epochs": (0, 10_000),
    "temperature": (0, 100), "limit_bad": (0, 1), "max_repetition": (0, 1), "clip_low": (0, 1),
    "vllm_memory": (0, 1)}
# of these, 0 makes no sense either: nothing would be learned, sampled or allowed
NOT_ZERO = ("lr", "epochs", "clip", "vllm_memory", "max_gap", "gpu_gib", "time_limit")
WORDS = {  # flags that are one of a few words, or several of them
    "dtype": ("auto", "bf16", "fp32"), "rollout": ("torch", "vllm"), "optimizer": ("adamw", "muon"),
    "train": ("encoder", "connector", "llm"),
    "need": ("id", "question", "images", "answer", "solution", "options", "subject")}
FILLED = ("train", "words", "ban")  # lists that may not be empty
EMPTY = ("world",)  # texts that may be, though their default is not


def wrong_flags(cfg):
    """A sentence about the first flag of a Config whose value makes no sense, or "". It names the flag."""
    hints = typing.get_type_hints(type(cfg))
    for field in dataclasses.fields(cfg):
        name, value = field.name, getattr(cfg, field.name)
        if why := wrong_value(field, hints[name], value):
            shown = (" ".join(map(str, value)) or "nothing") if isinstance(value, (tuple, list)) else value
            dashes = "" if is_positional(type(cfg), name) else "--"
            return f"{dashes}{name} {shown}: {why}"
    return wrong_together(cfg) or wrong_outputs(cfg)


def is_positional(Config, name):
    """Whether a flag is given by its place, without its name: tyro.conf.Positional[...]"""
    annotated = typing.get_type_hints(Config, include_extras=True)[name]
    return any("Positional" in repr(mark) for mark in getattr(annotated, "__metadata__", ()))


def wrong_value(field, hint, value):
    """Why the value of one flag makes no sense by itself, or ""."""
    name, default = field.name, field.default
    if typing.get_origin(hint) is typing.Literal and value not in typing.get_args(hint):
        return f"it is one of {', '.join(map(str, typing.get_args(hint)))}"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return wrong_number(name, hint, default, value)
    if isinstance(value, (tuple, list)):
        return wrong_list(name, value)
    if not isinstance(value, str):
        return ""
    if not value.strip() and (default is dataclasses.MISSING or default) and name not in EMPTY:
        return "it is empty; leave it out for its default" if default else "it is empty"
    if name in WORDS and value not in allowed_words(field):
        return f"it is one of {', '.join(allowed_words(field))}"
    checks = {"verifier": wrong_address, "logger": wrong_module}
    return checks[name](value) if name in checks and value else ""


def allowed_words(field):
    # the plan of a supervised stage has no sampler
    return (*WORDS[field.name], *(["none"] if field.name == "rollout" and field.default == "vllm" else []))


def wrong_number(name, hint, default, value):
    least, most = LIMITS.get(name, (1 if hint is int and default != 0 else 0, ANY))
    if hint is float and name == "warmup":
        most = 1  # a share of the steps; in grpo.py it is a number of steps
    limits = f"above {least}" if name in NOT_ZERO else f"at least {least}"
    limits += f", at most {most}" if most < ANY else ""
    if not math.isfinite(value):
        return f"it must be a number {limits}"
    fits = least <= value <= most and not (value == 0 and name in NOT_ZERO)
    return "" if fits else f"it must be {limits}"


def wrong_list(name, values):
    if name == "pixels":
        least, most = values
        if min(values) < 0:
            return "a number of pixels is not negative; 0 is the model's own limit"
        return f"fewest ({least}) is more than most ({most})" if least > most > 0 else ""
    if name in WORDS and (set(values) - set(WORDS[name]) or not values and name in FILLED):
        return f"the {'parts' if name == 'train' else 'fields'} are {', '.join(WORDS[name])}"
    if not values and name in FILLED:
        return "leave it out for its default"
    # the same picture may be looked at twice; and a question may stand behind it (ask.py)
    if twice := [v for v in values if values.count(v) > 1 and name != "image"]:
        return f"{twice[0]} stands there twice"
    if name == "columns":
        return wrong_columns([v.partition("=") for v in values])
    return "one of them is empty" if any(not str(v).strip() for v in values) else ""


def wrong_columns(parts):
    """parts: (ours, "=", theirs) of each."""
    if not all(ours.strip() and theirs.strip() for ours, _, theirs in parts):
        return "write OURS=THEIRS, e.g. question=problem"
    names = [ours for ours, _, _ in parts]
    return "one of OURS is given twice" if len(set(names)) < len(names) else ""


def wrong_address(url):
    """Why no OpenAI-compatible server can be there, or ""."""
    example = "write http://host:8000/v1"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # a port that is no number raises ValueError
    except ValueError as error:
        return f"this is no address ({error}); {example}"
    if parts.scheme not in ("http", "https"):
        return f"an address begins with http:// or https://; {example}"
    if not host or url != url.strip() or any(c.isspace() for c in url):
        return f"this is no address: its host is missing, or there is a space in it; {example}"
    if parts.query or parts.fragment or parts.path.rstrip("/").endswith("/completions"):
        return f"this is the address of one request; the server's ends before that: {example}"
    if not parts.path.strip("/"):
        return f"its path is missing, which for vllm serve and OpenAI is /v1; {example}"
    return ""


def wrong_module(name):
    """Why a module can not be imported, or ""."""
    if not name.isidentifier():
        return "it is the name of a module: wandb, trackio, swanlab, tensorboard"
    if name in sys.modules or (spec := find_spec(name)) and spec.origin:  # a mere folder has no origin
        return ""
    return f"there is no such module here: pip install {name}"


def wrong_together(cfg):
    """A sentence about flags that make no sense with each other, or ""."""
    get = vars(cfg).get
    samples, temperature = get("samples", 1), get("temperature", 1)
    if hasattr(cfg, "clip_low") and samples < 2:  # grpo.py
        return "--samples must be at least 2: a response is compared with the others of its group"
    if get("keep", 1) > samples:
        return f"--keep {cfg.keep}: must be between 1 and --samples ({samples})"
    if 0 < temperature < 0.001:
        return f"--temperature {temperature}: numbers would overflow; it must be at least 0.001"
    if samples > 1 and temperature == 0:
        return (f"--temperature 0: it always takes the likeliest token, so the --samples {samples} "
                f"responses to a question would be the same")
    if get("rollout") == "torch" and get("tensor_parallel", 1) > 1 and not hasattr(cfg, "gpus"):
        return f"--tensor_parallel {cfg.tensor_parallel} is for --rollout vllm"
    if get("lora") and "llm" not in cfg.train:
        return (f"--lora {cfg.lora}: its adapters are the LLM's, which does not train; add llm to --train "
                f"{' '.join(cfg.train)}")
    if get("curriculum_at") and not cfg.curriculum:
        return f"--curriculum_at {cfg.curriculum_at}: --curriculum names no data for these steps"
    return ""


# ----------------------------------------------------------------------------------------------------- --out

def wrong_outputs(cfg):
    """A sentence about an --out that cannot be written, or that would write over one of the inputs, or ""."""
    inputs = {n: v for n, v in vars(cfg).items() if n not in ("out", "rows") and isinstance(v, str)}
    for name in ("out", "rows"):  # rows: of eval_mmmu.py score
        if out := vars(cfg).get(name):
            default = type(cfg).__dataclass_fields__[name].default
            is_folder = default not in ("", dataclasses.MISSING) and not Path(default).suffix
            if why := wrong_place(Path(out), is_folder) or an_input(Path(out), inputs):
                return f"--{name} {out}: {why}"
    return ""


def wrong_place(path, is_folder):
    """Why nothing can be written there, or ""."""
    try:
        there = next(p for p in [path, *path.absolute().parents] if p.exists())
        if there == path and not (there.is_dir() if is_folder else there.is_file()):
            return "it is there and is no " + ("folder" if is_folder else "file")
        if there != path and not there.is_dir():
            return f"{there} is a file, so nothing can be inside it"
        folder = there if there.is_dir() else there.absolute().parent
        tempfile.TemporaryFile(dir=folder).close()  # only trying tells: not even root may write everywhere
    except OSError as error:
        return f"nothing can be written there ({error.strerror})"
    return ""


def an_input(path, inputs):
    for name, value in inputs.items():
        if value and path.exists() and os.path.exists(value) and os.path.samefile(path, value):
            return f"this is the --{name} of the same command, which would be lost"
    return ""
