"""Kept encoder features: a frozen encoder runs once over the data, later epochs read a file."""
import math
import shutil

import torch
from tqdm import tqdm

from machinery.files import say
from machinery.parallel import even_out, gather


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
