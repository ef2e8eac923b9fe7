"""The run folder out/<stage>/: config.json, metrics.jsonl (a line a step), rollouts.jsonl, step_000123/.

The same command in the same folder goes on where it stopped. The same folder with other settings is refused.
"""
import dataclasses
import errno
import fcntl
import json
import math
import os
import platform
import secrets
import subprocess
import sys
import time
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from machinery.files import (
    TRAINER, Refused, append_jsonl, as_read_back, changed_settings, checked, checkpoints, describe_change,
    discard, newest_checkpoint, read_json, read_jsonl, say, write_text, writing)
from machinery.loggers import open_logger
from machinery.rows import refuse_other_rows, rows_fingerprint

LOGS = ("metrics.jsonl", "rollouts.jsonl", "responses.jsonl")  # one of them in a folder: a run was there


class Run:
    """A stage's folder, its lock, and its logs. Rank 0 writes.

    Another configuration in the same folder is refused, except for the flags in `may_change`, which do not
    alter what the steps so far have computed. `step` is where the newest complete checkpoint (`last`) stands:
    the run goes on there.
    """

    def __init__(self, out, cfg, world, may_change=()):
        self.dir, self.rank, self.bad_steps, self.send = Path(out), world.rank, 0, None
        config, path = as_read_back(dataclasses.asdict(cfg)), self.dir / "config.json"
        self._refuse_other_settings(path, config, cfg, ("out", *may_change))
        self.last = newest_checkpoint(self.dir, with_trainer=True)
        self.step = int(self.last.name[5:]) if self.last else 0
        if not self.last and (other := newest_checkpoint(self.dir)):
            raise Refused(f"{other} is there, but without its {TRAINER}/ folder the run can not go on. "
                          f"Put that back, use another --out to start afresh, or delete {self.dir}.")
        before = read_json(path) if self.last and path.exists() else {}
        self.about = {"id": before.get("id") or secrets.token_hex(4), "config": config,
                      "command": " ".join(sys.argv), "processes": world.size, "device": str(world.device),
                      **versions(), "data": before.get("data", {})}
        world.barrier()  # nobody writes before everybody has read
        if self.rank == 0:
            with writing(self.dir):
                self.dir.mkdir(parents=True, exist_ok=True)
            self.lock = hold(self.dir / ".lock", self.dir)
            self._tell_changed_code(path)
            write_text(path, json.dumps(self.about, indent=1))
            for name in ("metrics.jsonl", "rollouts.jsonl"):
                self._forget_later_steps(self.dir / name)

    def _refuse_other_settings(self, path, config, cfg, may_change):
        # config.json alone in the folder is of a run that was refused: it made nothing, so it claims nothing
        there = {p.name for p in self.dir.iterdir()} if self.dir.is_dir() else set()
        if there <= {path.name, f"{path.name}.part", ".lock"}:
            return
        remedy = f"Use another --out, or put {path} back as the run in {self.dir} wrote it."
        if there.isdisjoint({path.name, *LOGS}) and not checkpoints(self.dir):
            return  # other people's files, which a run does not touch
        defaults = as_read_back(dataclasses.asdict(type(cfg)()))  # of flags that are younger than the run
        before = {**defaults, **read_json(path, {"config": dict}, remedy)["config"]}
        if changed := changed_settings(before, config, may_change):
            what = describe_change(before, config, changed)
            raise Refused(f"{self.dir} was made by a run with other settings ({what}). Use the same flags "
                          f"to go on, another --out to start afresh, or delete the folder.")

    def refuse_other_data(self, **data):
        """Refuse to go on with data that are not those of the first start. data: {flag: records}; their
        fingerprints stand in config.json."""
        path = self.dir / "config.json"
        known = checked(self.about["data"], f"{path}: data", {}, "Put it back, or use another --out.")
        for flag, records in data.items():
            now, source = rows_fingerprint(records), f"--{flag} {self.about['config'][flag]}"
            refuse_other_rows(known.setdefault(flag, now), now, source, self.dir)
        if self.rank == 0:
            write_text(path, json.dumps(self.about, indent=1))

    def _tell_changed_code(self, path):
        """Say what is not as it was when the run was started last; it goes on all the same."""
        before = read_json(path) if self.last and path.exists() else versions()
        for what in ("git", "torch", "transformers"):
            if before.get(what) != (now := versions()[what]):
                name = "code" if what == "git" else f"version of {what}"
                say(f"the {name} changed since step {self.step}: {before.get(what)} -> {now}")

    def _forget_later_steps(self, path):
        """Remove the lines of steps that are going to be computed again, and a torn last line."""
        if path.exists():
            rows = read_jsonl(path, {"step": int})
            write_text(path, "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= self.step))

    # ---- logs: CHANGE LOGGING HERE; `log` gets every metric of every step

    def open_log(self, module):
        """--logger: what `log` gets also goes to this module (machinery/loggers.py)."""
        if module and self.rank == 0:
            config = {**self.about, **self.about["config"]}
            del config["config"]
            self.send = open_logger(module, self.dir, self.about["id"], config, self.step)

    def log(self, step, metrics):
        self.append("metrics.jsonl", {"step": step, **metrics})
        if self.send:
            self.send({name: value for name, value in metrics.items() if value is not None}, step)

    def rollout(self, row):
        self.append("rollouts.jsonl", row)

    def append(self, name, row):
        if self.rank == 0:
            append_jsonl(self.dir / name, [_jsonable(row)])

    def keep_best(self, losses, start):
        """Point selected.json at the best checkpoint, and drop the others but the newest (which a resume
        needs).

        losses: [(validation loss, step)], one of each checkpoint, and of step 0. start: folder or hub name of
        the model that the run began with; step 0 is not saved once more.
        """
        if self.rank:
            return
        loss, step = min(losses)
        best = f"step_{step:06d}"
        if step == 0:
            best = os.path.relpath(start, self.dir) if Path(start).exists() else start
        write_text(self.dir / "selected.json", json.dumps(
            {"step": step, "checkpoint": best, "rule": "lowest validation loss", "val_loss": loss}))
        for old in checkpoints(self.dir):
            if old.name != best and old != newest_checkpoint(self.dir):
                discard(old)


def hold(path, what):
    """Lock a file until this process ends, however it ends. Keep what is returned. what: is written to."""
    with writing(path):
        lock = open(path, "w")
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):  # others: file systems without locks
            raise Refused(f"another process is writing to {what}: "
                          f"wait until it ends, or use another --out") from error
    return lock


def _jsonable(x):
    """Tensors and arrays as lists, floats with six decimals (tiny ones and NaN as they are)."""
    if isinstance(x, dict):
        return {k: _jsonable(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [_jsonable(v) for v in x]
    if hasattr(x, "tolist"):
        return _jsonable(x.tolist())
    return round(x, 6) if isinstance(x, float) and math.isfinite(x) and abs(x) > 1e-3 else x


@lru_cache(maxsize=1)
def versions():
    """What a result may depend on: code, libraries, python; and when the run was started."""
    here = Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty"]
    try:
        git = subprocess.run(command, cwd=here, capture_output=True, text=True).stdout.strip()
    except OSError:  # there is no git here
        git = ""
    return {"git": git, "torch": version("torch"), "transformers": version("transformers"),
            "python": sys.version.split()[0], "started": time.strftime("%Y-%m-%d %H:%M:%S")}


def cpu_name():
    """The processor's name, which times depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def say_other_words(checkpoint, **words):
    """Say when a run's checkpoint is now to be used with another instruction or system prompt than it learned
    with: the model has seen no other. words: {flag: its text now}."""
    config = Path(checkpoint).parent / "config.json"
    if Path(checkpoint).name.startswith("step_") and config.exists():
        before = read_json(config, {"config": dict})["config"]
        before = {flag: before.get(flag, "") for flag in words}
        if changed := changed_settings(before, words):
            say(f"note: {config.parent} was made with other words "
                f"({describe_change(before, words, changed)})")
