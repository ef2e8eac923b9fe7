"""Kept encoder features: a frozen encoder runs once over the data, later epochs read a file.

A reader of the recipe may skip this file.
"""
import math
from pathlib import Path

import torch
from tqdm import tqdm

from machinery.files import say
from machinery.sharding import even_out


class Features:
    """The features of all prompts in one memory-mapped file: prompt after prompt.

    Call it with a pack and it returns the features of the pack's images, in order.
    """

    def __init__(self, path, like, places, device):
        """like: features of some pack; places: {id of a prompt: its slice of the file}."""
        self.path, self.like, self.places, self.device = path, like, places, device
        self.count = max((place.stop for place in places.values()), default=0)
        self.data = None

    def __call__(self, pack):
        if not len(pack.visual_at):
            return torch.zeros_like(self.like[:1])  # the model multiplies it by 0
        return torch.cat([self.data[self.places[id(p)]] for p in pack.prompts]).to(self.device)

    def gib(self):
        return self.count * self.like[:1].nbytes / 2 ** 30

    def open(self):
        shape = (self.count, *self.like.shape[1:])
        data = torch.from_file(str(self.path), shared=True, size=math.prod(shape), dtype=self.like.dtype)
        self.data = data.view(shape)


def forget_features(path):
    """Delete the file, which may be of an earlier start of this run that kept features."""
    path.unlink(missing_ok=True)
    Path(f"{path}.done").unlink(missing_ok=True)


@torch.no_grad()
def keep_features(path, vlm, chat, rows, packs_of, limit_gib, world):
    """Features of all rows' prompts, or None where nothing is gained: there is no image, or their file would
    be larger than limit_gib. packs_of(rows) lays rows into packs. Every rank must call it; each computes a
    part of them."""
    places, count = {}, 0
    for row in rows:
        n = row.prompt.full.count(chat.image_id) // chat.per_tile
        places[id(row.prompt)] = slice(count, count + n)
        count += n
    if not count:
        return None
    first = next(row for row in rows if chat.image_id in row.prompt.full)  # others may have no features
    like = vlm(even_out(packs_of([first]), world)[0][0].to(world.device), only_features=True)
    features = Features(path, like, places, world.device)
    if features.gib() > limit_gib:
        say(f"encoder features would take {features.gib():.1f} GiB (--features_gib {limit_gib}): "
            f"computed every time")
        return None
    if world.rank == 0:
        path.touch()
    world.barrier()
    features.open()
    done = Path(f"{path}.done")
    if not done.exists():
        packs = even_out(packs_of(rows[world.rank::world.size]), world)
        for pack, real in tqdm(packs, desc="encoder, once", disable=world.rank > 0, unit="pack", leave=False,
                               dynamic_ncols=True):
            made, begin = vlm(pack.to(world.device), only_features=True), 0
            for prompt in pack.prompts if real and pack.images else ():
                place = places[id(prompt)]
                n = place.stop - place.start
                features.data[place] = made[begin:begin + n].cpu()
                begin += n
    world.barrier()
    done.touch()
    return features
