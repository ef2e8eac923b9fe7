"""Checkpoints: save a run, go on from it. On a CPU bit for bit; on a GPU with the same rows, seeds and rates,
but there index_select's backward and flash attention's add up in no fixed order, with or without a resume."""
import errno
import os
import pickle
import shutil
import warnings

import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException  # it is a BaseException, not an Exception
from torch.distributed.checkpoint.metadata import StorageMeta
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from machinery.files import TRAINER, Refused, newest_checkpoint, say

FULL = "The disk is full"


def save(run, step, vlm, optimizer, world):
    """Write run/step_000123: what from_pretrained and vLLM load, and in trainer/ fp32 weights and optimizer.

    Older trainer/ folders are deleted afterwards: a run goes on from the newest. Every rank must call it.
    """
    final = run.dir / f"step_{step:06d}"
    part = final.with_name(f".{final.name}.part")
    try:
        if world.rank == 0:
            for left in run.dir.glob(".step_*.part"):  # by a run that was killed
                shutil.rmtree(left)
            part.mkdir(parents=True)
        world.barrier()
        vlm.save(part)  # gathers on every rank, writes on rank 0
        weights, state = get_state_dict(vlm, optimizer)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process is a choice here
            dcp.save({"vlm": weights, "optimizer": state}, checkpoint_id=str(part / TRAINER),
                     no_dist=world.size == 1)
    except (Exception, CheckpointException) as error:
        if world.rank == 0:
            shutil.rmtree(part, ignore_errors=True)
        if not (why := disk_trouble(error)):
            raise  # only the disk's troubles are explained; everything else is raised as it is
        raise Refused(f"{why}: {final} could not be saved and nothing half-written was left. "
                      f"The newest complete checkpoint is {newest_checkpoint(run.dir)}. "
                      f"{'Free some space' if why == FULL else 'Mend that'} and run again.") from None
    if world.rank == 0:
        shutil.rmtree(final, ignore_errors=True)
        os.rename(part, final)
        for old in run.dir.glob(f"step_*/{TRAINER}"):
            if old.parent != final:
                shutil.rmtree(old)
    world.barrier()
    run.last = final


def disk_trouble(error):
    """FULL, or another thing that keeps files from being written, or ""."""
    chain = [error, *(e for e, _ in getattr(error, "failures", {}).values())]  # those of dcp's other ranks
    for e in chain:  # grows while it is read
        if getattr(e, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return FULL
        chain += [up for up in (e.__cause__, e.__context__) if up is not None and up not in chain]
    # what safetensors says, and torch's zip file, which counts bytes that the disk did not take
    if any(text in str(error) for text in ("No space left", "unexpected pos", "failed writing file")):
        return FULL
    return f"The disk does not take it ({error})" if isinstance(error, OSError) else ""


class Reader(dcp.FileSystemReader):
    """As dcp's own, but what it unpickles cannot run code: a checkpoint may come from anybody."""

    def read_metadata(self, *args, **kwargs):
        with open(self._get_metadata_path(kwargs.get("rank")), "rb") as file:
            metadata = Unpickler(file).load()
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class Unpickler(pickle.Unpickler):
    """Makes the classes that dcp's .metadata consists of, and nothing else."""

    known = {"torch": ("Size",), "torch.serialization": ("_get_layout",),
             "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
             "torch.distributed.checkpoint.metadata": (
                 "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata",
                 "TensorProperties", "_MEM_FORMAT_ENCODING", "MetadataIndex", "StorageMeta")}

    def find_class(self, module, name):
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        is_path = module.startswith("pathlib") and name in ("PosixPath", "WindowsPath")
        if is_dtype or is_path or name in self.known.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no checkpoint needs")


class Planner(dcp.DefaultLoadPlanner):
    def load_bytes(self, read_item, value):
        torch.load(value, weights_only=True)  # dcp would load anything; here what may run code is an error
        value.seek(0)
        super().load_bytes(read_item, value)


def resume(run, vlm, optimizer, world):
    """Load the newest complete checkpoint of the run folder into vlm and optimizer. Returns its step, 0
    without one."""
    if run.last is None:
        return 0
    weights, state = get_state_dict(vlm, optimizer)
    loaded = {"vlm": weights, "optimizer": state}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            dcp.load(loaded, storage_reader=Reader(str(run.last / TRAINER)), planner=Planner(),
                     no_dist=world.size == 1)
    except (Exception, CheckpointException) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise Refused(f"{run.last / TRAINER} does not fit this model and optimizer ({why}). Was --train or "
                      f"the model changed, or is a file of it cut off? Use another --out.") from error
    set_state_dict(vlm, optimizer, model_state_dict=loaded["vlm"], optim_state_dict=loaded["optimizer"],
                   options=StateDictOptions(strict=True))
    say(f"resumed {run.last}")
    return run.step
