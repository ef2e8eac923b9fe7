"""Kept encoder features: a frozen encoder runs once over the data, later epochs read a file."""
import hashlib
import json
import math
import os
import shutil
from pathlib import Path

import torch
from tqdm import tqdm

from machinery.files import read_json, say, write_json
from machinery.parallel import even_out, gather
from machinery.rows import rows_fingerprint


def forget_features(path):
    """Delete the file, which may be of an earlier start of this run that kept features."""
    path.unlink(missing_ok=True)
    Path(f"{path}.done").unlink(missing_ok=True)


@torch.no_grad()
def keep_features(path, vlm, chat, rows, packs_of, limit_gib, world):
    """A function: pack -> features of its images, in order, read from a memory-mapped file; or None where
    nothing is gained: there is no image, or the file would be larger than limit_gib. packs_of(rows) lays rows
    into packs. Every rank must call it; each computes a part of them."""
    places, count = {}, 0  # id of a prompt -> its slice of the file
    for row in rows:
        n = row.prompt.full.count(chat.image_id) // chat.per_tile
        places[id(row.prompt)] = slice(count, count + n)
        count += n
    if not count:
        return None
    first = next(row for row in rows if chat.image_id in row.prompt.full)
    like = vlm(packs_of([first])[0].to(world.device), only_features=True)
    shape = (count, *like.shape[1:])
    size = math.prod(shape) * like.element_size()
    free = shutil.disk_usage(path.parent).free + (path.stat().st_size if path.exists() else 0)
    if size > min(limit_gib * 2 ** 30, *gather(free, world)):  # memory on a full disk kills the process
        say(f"encoder features would take {size / 2 ** 30:.1f} GiB (--features_gib {limit_gib}, "
            f"{free / 2 ** 30:.1f} GiB free): computed every time")
        return None
    done, mark, kept = Path(f"{path}.done"), None, False
    if world.rank == 0:
        mark = origin(vlm, chat, rows, shape, like.dtype)
        kept = path.exists() and path.stat().st_size == size and done.exists() and read_json(done) == mark
        if not kept:
            forget_features(path)
            path.touch()
    kept = gather(kept, world)[0]  # rank 0 decides for all
    data = torch.from_file(str(path), shared=True, size=math.prod(shape), dtype=like.dtype).view(shape)
    if not kept:
        packs = even_out(packs_of(rows[world.rank::world.size]), world)
        for pack, real in tqdm(packs, desc="encoder, once", disable=world.rank > 0, unit="pack", leave=False,
                               dynamic_ncols=True):
            made = vlm(pack.to(world.device), only_features=True)
            if real and pack.images:
                at = [places[id(prompt)] for prompt in pack.prompts]
                for place, own in zip(at, made.split([place.stop - place.start for place in at])):
                    data[place] = own.cpu()
        with open(path, "rb") as file:
            os.fsync(file)  # or a machine that stops now would leave a mark on features that it never wrote
    world.barrier()
    if world.rank == 0 and not kept:
        write_json(done, mark)

    def features(pack):
        if not len(pack.visual_at):
            return torch.zeros_like(like[:1])  # the model multiplies it by 0
        return torch.cat([data[places[id(p)]] for p in pack.prompts]).to(world.device)

    return features


def origin(vlm, chat, rows, *computed):
    """A hash of what the features depend on: weights (by size and time), images, how they are cut and
    computed."""
    weights = [(f.name, f.stat().st_size, f.stat().st_mtime_ns)
               for f in sorted(Path(vlm.source).glob("model*.safetensors"))]
    records = rows_fingerprint([row.prompt.record for row in rows])
    computed = [str(x) for x in (chat.processor, vlm.autocast_dtype, *computed)]
    return hashlib.sha256(json.dumps([weights, records, computed]).encode()).hexdigest()
