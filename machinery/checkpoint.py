"""Checkpoints: save a run, go on from it bit for bit. A reader of the recipe may skip this file."""
import errno
import os
import shutil
import warnings

from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException  # it is a BaseException, not an Exception
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from machinery.files import TRAINER, Refused, newest_checkpoint, say


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
        if getattr(error, "errno", None) != errno.ENOSPC and "No space left" not in str(error):
            raise  # only a full disk is explained; everything else is raised as it is
        raise Refused(f"The disk is full: {final} could not be saved and nothing half-written was left. "
                      f"The newest complete checkpoint is {newest_checkpoint(run.dir)}. "
                      f"Free some space and run again.") from None
    if world.rank == 0:
        shutil.rmtree(final, ignore_errors=True)
        os.rename(part, final)
        for old in run.dir.glob(f"step_*/{TRAINER}"):
            if old.parent != final:
                shutil.rmtree(old)
    world.barrier()
    run.last = final


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
            dcp.load(loaded, checkpoint_id=str(run.last / TRAINER), no_dist=world.size == 1)
    except (Exception, CheckpointException) as error:
        why = str(error).strip().splitlines()[-1]
        raise Refused(f"{run.last / TRAINER} does not fit this model and optimizer ({why}). "
                      f"Was --train or the model changed? Use another --out.") from error
    set_state_dict(vlm, optimizer, model_state_dict=loaded["vlm"], optim_state_dict=loaded["optimizer"],
                   options=StateDictOptions(strict=True))
    say(f"resumed {run.last}")
    return run.step
