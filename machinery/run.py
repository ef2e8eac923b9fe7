"""The run folder out/<stage>/: config.json, metrics.jsonl (a line a step), rollouts.jsonl, step_000123/.

The same command in the same folder goes on where it stopped; the same folder with other settings is refused.
What belongs to a step (its rows, seed and learning rate) is a pure function of its number: that is what makes
resume exact. On a CPU it is so bit for bit; on a GPU index_select's backward and flash attention's add up in
no fixed order, with or without a resume. trainer/ is unpickled by torch: take it only from people you trust.
"""
import dataclasses
import fcntl
import json
import math
import os
import secrets
import shutil
import sys
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from machinery.files import (
    TRAINER, Refused, append_jsonl, changed_settings, newest_checkpoint, read_json, read_jsonl,
    say, versions, write_json, write_text)
from machinery.metrics import open_logger
from machinery.rows import rows_fingerprint


# flags that may change when a run goes on, because what it has computed so far does not depend on them
MAY_CHANGE = ("out", "max_tokens", "checkpointing", "compile", "hybrid", "offload", "logger", "vllm_memory",
              "rollout_batch", "max_new_tokens", "save_every", "features_gib")
LOGS = ("metrics.jsonl", "responses.jsonl")  # one of them in a folder: a run was there


# ------------------------------------------------------------------------------------- what belongs to a step

def seed_of(seed, step, rank=0, what=0):
    """One 63-bit seed for (run seed, step, rank, purpose): different everywhere, the same after a resume."""
    return int(np.random.SeedSequence([seed, step, rank, what]).generate_state(1, np.uint64)[0] >> 1)


@lru_cache(maxsize=4)
def permutation(n, seed, epoch):
    return np.random.default_rng([seed, epoch]).permutation(n)


def batch_indices(n, batch, step, seed):
    """Rows of step `step` (from 0): every row once an epoch, in an order that only (seed, epoch) decides."""
    where = range(step * batch, (step + 1) * batch)
    return [int(permutation(n, seed, i // n)[i % n]) for i in where]


def learning_rate(step, steps, peak, warmup, schedule):
    """Of step `step` (from 0): linear warm-up over `warmup` steps, then constant, linear or cosine to 0."""
    if step < warmup:
        return peak * min(1.0, (step + 1) / warmup)  # a warm-up of 0.3 steps must not begin above the peak
    done = (step - warmup) / max(1, steps - warmup)
    left = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
    return peak * left[schedule]


# ----------------------------------------------------------------------------------------------------- folder

class Run:
    """A stage's folder, its lock, and its logs. Rank 0 writes.

    Another configuration in the same folder is refused, except for the flags in `may_change`, which do not
    alter what the steps so far have computed. `step` is where the newest complete checkpoint (`last`) stands:
    the run goes on there. `state`: what the choice of the next prompts wants to remember (plain JSON, the
    same on every rank); it is saved with every checkpoint."""

    def __init__(self, out, cfg, world, may_change=()):
        self.dir, self.rank, self.bad_steps, self.send = Path(out), world.rank, 0, None
        config, path = dataclasses.asdict(cfg), self.dir / "config.json"
        self.last = newest_checkpoint(self.dir, with_trainer=True)
        self.step = int(self.last.name[5:]) if self.last else 0
        begun = self.last or any((self.dir / name).exists() for name in LOGS)
        before = read_json(path) if begun and path.exists() else {}
        known = {**dataclasses.asdict(type(cfg)()), **before.get("config", config)}  # flags may be younger
        if changed := changed_settings(known, config, (*MAY_CHANGE, *may_change)):
            raise Refused(f"{self.dir} was made by a run with other settings ({changed}). Use the same flags "
                          f"to go on, another --out to start afresh, or delete the folder.")
        if not self.last and (other := newest_checkpoint(self.dir)):
            raise Refused(f"{other} is there, but without its {TRAINER}/ folder the run cannot go on: put "
                          f"that back, or use another --out")
        self.about = {"id": before.get("id") or secrets.token_hex(4), "config": config,
                      "command": " ".join(sys.argv), "processes": world.size, "device": str(world.device),
                      **versions(), "data": before.get("data", {})}
        self.state = {}
        world.barrier()  # nobody writes before everybody has read
        if self.rank == 0:
            self.dir.mkdir(parents=True, exist_ok=True)
            self.lock = hold(self.dir / ".lock", self.dir)
            say(f"{self.dir} {f'goes on behind {self.last.name}' if self.last else 'begins'}: reading "
                f"{config['model']} and {config['data']}")
            write_json(path, self.about)
            for log in filter(Path.exists, (self.dir / "metrics.jsonl", self.dir / "rollouts.jsonl")):
                # without a torn last line, and those of steps that are going to be computed again
                rows = [row for row in read_jsonl(log) if row["step"] <= self.step]
                write_text(log, "".join(json.dumps(row) + "\n" for row in rows))

    def refuse_other_data(self, **data):
        """Refuse to go on with data that are not those of the first start. data: {flag: records}"""
        for flag, records in data.items():
            now = rows_fingerprint(records)
            if (before := self.about["data"].setdefault(flag, now)) != now:
                raise Refused(f"--{flag} {self.about['config'][flag]}: its rows or images are not those with "
                              f"which {self.dir} was begun ({before['rows']} rows then, {now['rows']} now). "
                              f"Put the old ones back to go on, or use another --out to start afresh.")
        if self.rank == 0:
            write_json(self.dir / "config.json", self.about)

    # ---- logs: CHANGE LOGGING HERE; `log` gets every metric of every step

    def open_log(self, module):
        """--logger: what `log` gets also goes to this module (wandb, trackio, swanlab)."""
        if module and self.rank == 0:
            self.send = open_logger(module, self.dir, self.about)

    def log(self, step, metrics):
        self.append("metrics.jsonl", {"step": step, **metrics})
        if self.send:
            self.send({name: value for name, value in metrics.items() if value is not None}, step=step)

    def append(self, name, *rows):
        if self.rank == 0:
            append_jsonl(self.dir / name, map(_jsonable, rows))

    # ---- checkpoints

    def save(self, step, vlm, optimizer, world):
        """Write step_000123: what from_pretrained and vLLM load, and in trainer/ fp32 weights, optimizer and
        state. Older trainer/ folders are deleted afterwards: a run goes on from the newest. Every rank must
        call it."""
        final = self.dir / f"step_{step:06d}"
        part = final.with_name(f".{final.name}.part")
        if world.rank == 0:
            for left in self.dir.glob(".step_*.part"):  # by a run that was killed
                shutil.rmtree(left)
            part.mkdir(parents=True)
        world.barrier()
        vlm.save(part)  # gathers on every rank, writes on rank 0
        weights, state = get_state_dict(vlm, optimizer)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process is a choice here
            dcp.save({"vlm": weights, "optimizer": state}, checkpoint_id=str(part / TRAINER),
                     no_dist=world.size == 1)
        if world.rank == 0:
            trains = [name for name in vlm.parts() if name not in vlm.frozen]
            write_json(part / TRAINER / "state.json", {"train": trains, "state": self.state})
            shutil.rmtree(final, ignore_errors=True)
            os.rename(part, final)
            for old in self.dir.glob(f"step_*/{TRAINER}"):
                if old.parent != final:
                    shutil.rmtree(old)
        world.barrier()
        self.last = final

    def resume(self, vlm, optimizer, world):
        """Load the newest complete checkpoint into vlm and optimizer. Returns its step, 0 without one."""
        if self.last is None:
            return 0
        known = read_json(self.last / TRAINER / "state.json")
        self.state = known["state"]
        vlm.train_only(known["train"])  # a part that the run had opened is open
        weights, state = get_state_dict(vlm, optimizer)
        loaded = {"vlm": weights, "optimizer": state}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            dcp.load(loaded, checkpoint_id=str(self.last / TRAINER), no_dist=world.size == 1)
        set_state_dict(vlm, optimizer, model_state_dict=loaded["vlm"], optim_state_dict=loaded["optimizer"],
                       options=StateDictOptions(strict=True))
        say(f"resumed {self.last}")
        return self.step


def hold(path, what):
    """Lock a file until this process ends, however it ends. Keep what is returned. what: is written to."""
    lock = open(path, "w")
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:  # others: file systems without locks
        raise Refused(f"another process is writing to {what}: wait, or use another --out") from error
    except OSError:
        pass
    return lock


def _jsonable(x):
    """Tensors and arrays as lists, floats with six decimals (tiny ones and NaN as they are)."""
    x = x.tolist() if hasattr(x, "tolist") else x
    if isinstance(x, dict):
        return {k: _jsonable(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [_jsonable(v) for v in x]
    return round(x, 6) if isinstance(x, float) and math.isfinite(x) and abs(x) > 1e-3 else x
