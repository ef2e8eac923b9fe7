"""What is boring, once: refusing bad input, torchrun set-up, the run folder, checkpoints and exact resume.

Nothing here knows what a reward or a connector is. The rule that makes resume exact: the batch and the random numbers
of step k are pure functions of (seed, k, rank), so a checkpoint is weights + optimizer + k, and there is no loader or
RNG state that could be forgotten. Every folder is written under a temporary name and then renamed: a step_* folder
that exists is complete.
"""
import contextlib
import dataclasses
import errno
import fcntl
import json
import math
import os
import shutil
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import transformers
import tyro
from torch.distributed.checkpoint.api import CheckpointException  # no Exception, but a BaseException
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

TRAINER = "trainer"  # inside a checkpoint folder: what only the trainer reads (master weights, optimizer, step)


class Refused(ValueError):
    """Bad input. The message is the whole story: what is wrong (file, row, flag or tensor) and what to do next."""


def main(run, Config):
    """Command line of a stage: the dataclass Config is the flags, its trailing comments are the --help."""
    cfg = tyro.cli(Config, description=sys.modules[run.__module__].__doc__)
    try:
        run(cfg)
    except Refused as error:
        sys.exit(f"\n{error}")
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


# ---------------------------------------------------------------------------------------------------------------- processes

@dataclasses.dataclass
class World:
    rank: int
    size: int
    device: torch.device


def start(seed, device="auto"):
    """Join the other processes when torchrun started us, be a world of one under plain python. Seeds torch."""
    size, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    if device == "auto":
        device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=30))
    torch.manual_seed(seed)
    return World(dist.get_rank() if size > 1 else 0, size, device)


def say(*words):
    """Print on rank 0 only, above a progress bar if there is one."""
    if int(os.environ.get("RANK", 0)) == 0:
        from tqdm import tqdm
        tqdm.write(" ".join(str(w) for w in words), file=sys.stdout)


def total(values, world, op="sum"):
    """Sum (or max) of a list of floats over all ranks. Every rank must call it."""
    if world.size == 1:
        return list(values)
    tensor = torch.tensor(list(values), dtype=torch.float64)  # gloo carries it on every device
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX if op == "max" else dist.ReduceOp.SUM)
    return tensor.tolist()


def gather(obj, world):
    """A list of every rank's (picklable) object, in rank order. Every rank must call it."""
    if world.size == 1:
        return [obj]
    everyone = [None] * world.size
    dist.all_gather_object(everyone, obj)
    return everyone


# ------------------------------------------------------------------------------------------------- pure functions of a step

def seed_of(seed, step, rank=0, what=0):
    """One 63-bit seed for (run seed, step, rank, purpose): different everywhere, the same after a resume."""
    return int(np.random.SeedSequence([seed, step, rank, what]).generate_state(1, np.uint64)[0] >> 1)


@lru_cache(maxsize=4)
def permutation(n, seed, epoch):
    return np.random.default_rng([seed, epoch]).permutation(n)


def batch_indices(n, batch, step, seed):
    """Rows of step `step` (0-based): every row once an epoch, in an order that only (seed, epoch) decides."""
    where = range(step * batch, (step + 1) * batch)
    return [int(permutation(n, seed, i // n)[i % n]) for i in where]


def learning_rate(step, steps, peak, warmup, schedule):
    """Of optimizer step `step` (0-based): linear warm-up over `warmup` steps, then constant, linear or cosine to 0."""
    if step < warmup:
        return peak * min(1.0, (step + 1) / warmup)  # a warm-up of 0.3 steps must not begin above the peak
    done = (step - warmup) / max(1, steps - warmup)
    return peak * {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[schedule]


def ahead(make, first, last):
    """(step, make(step)) for each step: the next one is made in a thread (images read, cut, laid into packs) while this one
    trains. make must not talk to other processes, whose collectives need one order everywhere."""
    with ThreadPoolExecutor(1) as thread:
        soon = thread.submit(make, first)
        for step in range(first, last):
            now = soon.result()
            if step + 1 < last:
                soon = thread.submit(make, step + 1)
            yield step, now


# --------------------------------------------------------------------------------------------------------------- run folder

class Run:
    """out/<stage>/: config.json, metrics.jsonl (a line a step), rollouts.jsonl, step_000123/. Rank 0 writes.

    The same command in the same folder goes on where it stopped. Another configuration in the same folder is refused,
    except for the fields in `may_change`, which do not alter what the steps so far have computed.
    """

    def __init__(self, out, cfg, world, may_change=()):
        self.dir, self.rank, self.bad = Path(out), world.rank, 0
        config = json.loads(json.dumps(dataclasses.asdict(cfg), default=str))
        path = self.dir / "config.json"
        if path.exists() and any(p.name not in {path.name, ".lock"} for p in self.dir.iterdir()):  # alone, it is of a run that was refused
            defaults = json.loads(json.dumps(dataclasses.asdict(type(cfg)()), default=str))  # of flags younger than the run
            before = {**defaults, **json.loads(path.read_text())["config"]}
            other = [f"--{k} was {before.get(k)!r}, now {config.get(k)!r}" for k in sorted({*before, *config})
                     if before.get(k) != config.get(k) and k not in {"out", *may_change}]
            if other:
                raise Refused(f"{self.dir} was made by a run with other settings ({'; '.join(other)}). "
                              f"Use the same flags to go on, another --out to start afresh, or delete the folder.")
        self.last = newest_checkpoint(self.dir, with_trainer=True)
        self.step = int(self.last.name[5:]) if self.last else 0
        if not self.last and (other := newest_checkpoint(self.dir)):
            raise Refused(f"{other} is there, but without its {TRAINER}/ folder the run can not go on. "
                          f"Put that back, use another --out to start afresh, or delete {self.dir}.")
        if world.size > 1:
            dist.barrier()  # nobody writes before everybody has read
        if self.rank == 0:
            self.dir.mkdir(parents=True, exist_ok=True)
            self.lock = open(self.dir / ".lock", "w")  # held until the process ends, however it ends
            try:
                fcntl.lockf(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):  # other errors: a file system without locks
                    raise Refused(f"another process is writing to {self.dir}: wait until it ends, or use another --out") from error
            write_text(path, json.dumps({"config": config, "command": " ".join(sys.argv), "processes": world.size,
                                         "device": str(world.device), **versions()}, indent=1))
            for name in ("metrics.jsonl", "rollouts.jsonl"):
                self._forget_after(self.dir / name)

    def _forget_after(self, path):  # lines of steps that are going to be computed again, and a torn last line
        if path.exists():
            lines = path.read_text().splitlines()
            keep = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= self.step]
            write_text(path, "".join(line + "\n" for line in keep))

    def log(self, step, metrics):
        self.append("metrics.jsonl", {"step": step, **metrics})

    def rollout(self, row):
        self.append("rollouts.jsonl", row)

    def append(self, name, row):
        if self.rank == 0:
            with open(self.dir / name, "a") as f:
                f.write(json.dumps(_plain(row)) + "\n")


def read_jsonl(path):
    """Rows of a JSON-lines file. A torn last line (the writer was killed) is left out."""
    lines = Path(path).read_text().splitlines() if Path(path).exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def _plain(x):
    if isinstance(x, dict):
        return {k: _plain(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [_plain(v) for v in x]
    if isinstance(x, (torch.Tensor, np.ndarray, np.generic)):
        return _plain(x.tolist())
    return round(x, 6) if isinstance(x, float) and math.isfinite(x) and abs(x) > 1e-3 else x


def write_text(path, text):
    tmp = Path(f"{path}.part")
    tmp.write_text(text)
    os.replace(tmp, path)


@lru_cache(maxsize=1)
def versions():
    here = Path(__file__).parent
    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
    return {"git": git.stdout.strip(), "torch": torch.__version__, "transformers": transformers.__version__,
            "python": sys.version.split()[0], "started": time.strftime("%Y-%m-%d %H:%M:%S")}


# -------------------------------------------------------------------------------------------------------------- checkpoints

@contextlib.contextmanager
def new_folder(path):
    """Yield a temporary folder that becomes `path` only when the block ends well."""
    path, tmp = Path(path), Path(path).with_name(f".{Path(path).name}.part")
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir(parents=True)
    try:
        yield tmp
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise
    shutil.rmtree(path, ignore_errors=True)
    os.rename(tmp, path)


def has_weights(path):
    return any(Path(path).glob("model*.safetensors"))


def newest_checkpoint(run, with_trainer=False):
    steps = sorted(p for p in Path(run).glob("step_*") if not with_trainer or (p / TRAINER).exists())
    return steps[-1] if steps else None


def resolve(path, flag="--model", first="make tiny"):
    """A checkpoint folder from a checkpoint folder, a hub name, or a run folder: there the selected checkpoint
    (selected.json, written by entropy_select.py and connector_tune.py), else the newest."""
    folder = Path(path)
    if has_weights(folder):
        return str(folder)
    if (folder / "selected.json").exists():
        return str(folder / json.loads((folder / "selected.json").read_text())["checkpoint"])
    if newest := newest_checkpoint(folder):
        return str(newest)
    if folder.exists() or path.count("/") != 1 or path.startswith(("out/", "data/", ".", "/")):
        raise Refused(f"{flag} {path}: no checkpoint there (neither model*.safetensors nor step_* folders). "
                      f"Run {first} first, or name a model folder or a hub model.")
    return path  # a hub name


def save(run, step, vlm, optimizer, world):
    """Write run/step_000123: what from_pretrained and vLLM load, and trainer/ (fp32 weights, optimizer) beside it.

    Older trainer/ folders are dropped afterwards: only the newest is ever resumed from. Every rank must call it.
    """
    final = run.dir / f"step_{step:06d}"
    part = final.with_name(f".{final.name}.part")
    trouble = ""
    try:
        if world.rank == 0:
            for left in run.dir.glob(".step_*.part"):  # by a run that was killed
                shutil.rmtree(left)
            part.mkdir(parents=True)
        if world.size > 1:
            dist.barrier()
        vlm.save(part)  # gathers on every rank, writes on rank 0
        weights, state = get_state_dict(vlm, optimizer)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process is a choice here
            dcp.save({"vlm": weights, "optimizer": state}, checkpoint_id=str(part / TRAINER), no_dist=world.size == 1)
    except (Exception, CheckpointException) as error:  # only a full disk is explained; everything else is raised as it is
        if world.rank == 0:
            shutil.rmtree(part, ignore_errors=True)
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        if not full:
            raise
        trouble = (f"The disk is full: {final} could not be saved and nothing half-written was left. "
                   f"The newest complete checkpoint is {newest_checkpoint(run.dir)}. Free some space and run again.")
    if trouble:
        raise Refused(trouble)
    if world.rank == 0:
        shutil.rmtree(final, ignore_errors=True)
        os.rename(part, final)
        for old in run.dir.glob(f"step_*/{TRAINER}"):
            if old.parent != final:
                shutil.rmtree(old)
    if world.size > 1:
        dist.barrier()
    run.last = final


def discard(checkpoint):
    """Delete a step_* folder. It loses its name first: killed half way, no half of it can be taken for a checkpoint."""
    gone = checkpoint.with_name(f".{checkpoint.name}.part")
    os.rename(checkpoint, gone)
    shutil.rmtree(gone)


def resume(run, vlm, optimizer, world):
    """Load the newest complete checkpoint of the run folder into vlm and optimizer; returns its step (0: none)."""
    if run.last is None:
        return 0
    weights, state = get_state_dict(vlm, optimizer)
    loaded = {"vlm": weights, "optimizer": state}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            dcp.load(loaded, checkpoint_id=str(run.last / TRAINER), no_dist=world.size == 1)
    except (Exception, CheckpointException) as error:
        why = str(error).strip().splitlines()[-1]
        raise Refused(f"{run.last / TRAINER} does not fit this model and optimizer ({why}). "
                      f"Was --train or the model changed? Use another --out.") from error
    set_state_dict(vlm, optimizer, model_state_dict=loaded["vlm"], optim_state_dict=loaded["optimizer"],
                   options=StateDictOptions(strict=True))
    say(f"resumed {run.last}")
    return run.step
