"""What only the supervised stages need: rows with solutions, the next batch made while this one trains, kept
features of a frozen encoder, the best checkpoint."""
import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from data import END_THINK, Prompt
from machinery.files import Refused, checkpoints, newest_checkpoint, say, write_json
from machinery.parallel import even_out, gather
from machinery.rows import report_bad


@dataclass
class Row:
    prompt: Prompt
    ids: list       # of the solution and the end token: what is learned

    def __len__(self):
        return len(self.prompt.full) + len(self.ids)


def of_mode(records, thinking, source, limit_bad):
    """The records whose solutions are of the mode that is taught. Others are skipped and counted; more than
    limit_bad of them is refused."""
    why = f"the solution has {'no' if thinking else 'a'} {END_THINK}: --thinking teaches what has one, " \
          f"--no-thinking what has none"
    for r in records:
        r.solution = (r.solution or "").removeprefix("<think>").lstrip("\n")
    good = [r for r in records if (END_THINK in r.solution) == thinking]
    bad = [(r.name(), why) for r in records if (END_THINK in r.solution) != thinking]
    report_bad(source, len(good), bad, limit_bad)
    return good


def rows_with_solutions(records, processor, thinking, max_length, source="the data", limit_bad=0.0):
    """Records -> [Row], those that are of the mode and fit max_length (with prompt and solution)."""
    prompts = processor.prompts(of_mode(records, thinking, source, limit_bad), thinking, max_length)
    ids = processor.encode([processor.plain(p.record.solution) for p in prompts])
    rows = [Row(p, i + [processor.tokenizer.eos_token_id]) for p, i in zip(prompts, ids)]
    longest = min(max_length, processor.context)
    fits = [row for row in rows if len(row) <= longest]
    if len(fits) < len(rows):
        say(f"left out: {len(rows) - len(fits)} of {len(rows)} rows are longer than {longest} tokens with "
            f"their solution")
    if not fits:
        raise Refused("no row fits --max_length")
    return fits


def ahead(make, first, last):
    """(step, make(step)) for each step. While one step trains, a thread makes the next one. make must not
    talk to other processes: their collectives need the same order everywhere."""
    with ThreadPoolExecutor(1) as thread:
        soon = thread.submit(make, first)
        for step in range(first, last):
            now = soon.result()
            if step + 1 < last:
                soon = thread.submit(make, step + 1)
            yield step, now


@torch.no_grad()
def keep_features(path, vlm, processor, rows, packs_of, limit_gib, world):
    """A function: pack -> features of its images, in order, read from a memory-mapped file; or None where
    nothing is gained: there is no image, or the file would be larger than limit_gib. packs_of(rows) lays rows
    into packs. Every rank must call it; each computes a part of them, at every start of a run anew."""
    places, count = {}, 0  # id of a prompt -> its slice of the file
    for row in rows:
        n = row.prompt.full.count(processor.image_id) // processor.per_tile
        places[id(row.prompt)] = slice(count, count + n)
        count += n
    if not count:
        return None
    first = next(row for row in rows if processor.image_id in row.prompt.full)
    like = vlm(packs_of([first])[0].to(world.device), only_features=True)
    shape = (count, *like.shape[1:])
    size = math.prod(shape) * like.element_size()
    if world.rank == 0:
        path.unlink(missing_ok=True)  # of an earlier start
    free = min(gather(shutil.disk_usage(path.parent).free, world))  # memory on a full disk kills the process
    if size > min(limit_gib * 2 ** 30, free):
        say(f"encoder features would take {size / 2 ** 30:.1f} GiB (--features_gib {limit_gib}, "
            f"{free / 2 ** 30:.1f} GiB free): computed every time")
        return None
    data = torch.from_file(str(path), shared=True, size=math.prod(shape), dtype=like.dtype).view(shape)
    packs = even_out(packs_of(rows[world.rank::world.size]), world)
    for pack, real in tqdm(packs, desc="encoder, once", disable=world.rank > 0, unit="pack", leave=False,
                           dynamic_ncols=True):
        made = vlm(pack.to(world.device), only_features=True)
        if real and pack.images:
            at = [places[id(prompt)] for prompt in pack.prompts]
            for place, own in zip(at, made.split([place.stop - place.start for place in at])):
                data[place] = own.cpu()
    world.barrier()

    def features(pack):
        if not len(pack.visual_at):
            return torch.zeros_like(like[:1])  # the model multiplies it by 0
        return torch.cat([data[places[id(p)]] for p in pack.prompts]).to(world.device)

    return features


def keep_best(run, losses, start, patience):
    """Point selected.json at the best checkpoint, and drop the others but the newest (which a resume
    needs). Returns True when the last `patience` losses brought no new best.
    losses: [(validation loss, step)], one of each checkpoint, and of step 0. start: folder or hub name of
    the model that the run began with; step 0 is not saved once more."""
    loss, step = min(losses)
    gave_up = len(losses) > patience and step < losses[-patience][1]
    if run.rank:
        return gave_up
    best = f"step_{step:06d}"
    if step == 0:
        best = os.path.relpath(start, run.dir) if Path(start).exists() else start
    write_json(run.dir / "selected.json", {
        "step": step, "checkpoint": best, "rule": "lowest validation loss", "val_loss": loss})
    for old in checkpoints(run.dir):
        if old.name != best and old != newest_checkpoint(run.dir):
            gone = old.with_name(f".{old.name}.part")  # killed half way, it is no checkpoint any more
            os.rename(old, gone)
            shutil.rmtree(gone)
    return gave_up
