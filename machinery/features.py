"""Kept encoder features: a frozen encoder runs once over the data, later epochs read a file."""
import hashlib
import json
import math
import os
import shutil
from pathlib import Path

import torch
from tqdm import tqdm

from machinery.files import read_json, say, write_text
from machinery.parallel import even_out, gather
from machinery.rows import rows_fingerprint


class Features:
    """The features of all prompts in one memory-mapped file: prompt after prompt.

    Call it with a pack and it returns the features of the pack's images, in order.
    """

    def __init__(self, path, like, places, device):
        """like: features of some pack; places: {id of a prompt: its slice of the file}."""
        self.path, self.like, self.places, self.device = path, like, places, device
        self.shape = (max((place.stop for place in places.values()), default=0), *like.shape[1:])
        self.bytes = math.prod(self.shape) * like.element_size()

    def open(self):
        data = torch.from_file(str(self.path), shared=True, size=math.prod(self.shape), dtype=self.like.dtype)
        self.data = data.view(self.shape)

    def __call__(self, pack):
        if not len(pack.visual_at):
            return torch.zeros_like(self.like[:1])  # the model multiplies it by 0
        return torch.cat([self.data[self.places[id(p)]] for p in pack.prompts]).to(self.device)


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
    like = vlm(packs_of([first])[0].to(world.device), only_features=True)
    features = Features(path, like, places, world.device)
    free = shutil.disk_usage(path.parent).free + (path.stat().st_size if path.exists() else 0)
    if features.bytes > min(limit_gib * 2 ** 30, min(gather(free, world))):  # on a full disk its memory kills
        say(f"encoder features would take {features.bytes / 2 ** 30:.1f} GiB (--features_gib {limit_gib}, "
            f"{free / 2 ** 30:.1f} GiB free): computed every time")
        return None
    done, mark, kept = Path(f"{path}.done"), None, False
    if world.rank == 0:
        mark = {"hash": origin(vlm, chat, rows, features)}
        whole = path.exists() and path.stat().st_size == features.bytes
        kept = whole and done.exists() and read_json(done) == mark
        if not kept:
            forget_features(path)
            path.touch()
    kept = gather(kept, world)[0]  # rank 0 decides for all
    features.open()
    if not kept:
        packs = even_out(packs_of(rows[world.rank::world.size]), world)
        for pack, real in tqdm(packs, desc="encoder, once", disable=world.rank > 0, unit="pack", leave=False,
                               dynamic_ncols=True):
            made, begin = vlm(pack.to(world.device), only_features=True), 0
            for prompt in pack.prompts if real and pack.images else ():
                place = places[id(prompt)]
                n = place.stop - place.start
                features.data[place] = made[begin:begin + n].cpu()
                begin += n
        with open(path, "rb") as file:
            os.fsync(file)  # or a machine that stops now would leave a mark on features that it never wrote
    world.barrier()
    if world.rank == 0 and not kept:
        write_text(done, json.dumps(mark))
    return features


def origin(vlm, chat, rows, features):
    """A hash of what the features depend on: weights (by size and time), images, how they are cut and
    computed."""
    weights = [(f.name, f.stat().st_size, f.stat().st_mtime_ns)
               for f in sorted(Path(vlm.source).glob("model*.safetensors"))]
    records = rows_fingerprint([row.prompt.record for row in rows])
    computed = (str(chat.processor), str(vlm.autocast_dtype), features.bytes, str(features.like.dtype))
    return hashlib.sha256(json.dumps([weights, records, computed]).encode()).hexdigest()
