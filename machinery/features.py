"""Kept encoder features: a frozen encoder runs once over the data, later epochs read a file.

A reader of the recipe may skip this file.
"""
import hashlib
import json
import math
import os
import shutil
from pathlib import Path

import torch
from tqdm import tqdm

from machinery.files import Refused, as_read_back, say, write_text, writing
from machinery.processes import gather
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
        return self.bytes() / 2 ** 30

    def bytes(self):
        return self.count * self.like[:1].nbytes

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
    done, mark, kept = Path(f"{path}.done"), None, False
    if world.rank == 0:
        mark = origin(features, vlm, chat, rows)
        kept = belongs(done, mark, features)
        if not kept:
            make_room(features)
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
        write_text(done, json.dumps({**mark, "sample": sample(features)}))
    return features


# ------------------------------------------------------------- which features are in the file: its .done mark

def origin(features, vlm, chat, rows):
    """What the features of these rows depend on: the model folder, the images, how they are cut and computed.
    A file counts by its name, size and time."""
    prompts = hashlib.sha256()
    for p in (row.prompt for row in rows):
        images = [seen(image) for image in p.record.images]
        prompts.update(json.dumps([p.record.id, len(p.full), p.record.shown, images]).encode())
    weights = sorted(Path(vlm.source).glob("model*.safetensors"))
    return as_read_back({"prompts": prompts.hexdigest(), "weights": [seen(file) for file in weights],
                         "processor": str(chat.processor), "computed": str(vlm.autocast_dtype),
                         "bytes": features.bytes(), "type": str(features.like.dtype)})


def seen(file):
    """A file counts by its name, size and time; an image that is no file by its bytes."""
    if isinstance(file, (str, Path)):
        stat = os.stat(file)
        return [str(file), stat.st_size, stat.st_mtime_ns]
    return hashlib.sha256(file if isinstance(file, bytes) else file.tobytes()).hexdigest()


def belongs(done, mark, features):
    """Whether the file holds the features that the mark describes; rank 0 asks."""
    if not done.exists():
        return False
    try:
        before = json.loads(done.read_bytes())
        whole = features.path.stat().st_size == features.bytes()
    except (OSError, ValueError):
        before, whole = None, False
    if whole and isinstance(before, dict):
        features.open()
        if before == {**mark, "sample": sample(features)}:
            return True
    say(f"{features.path} is of another model, data or settings, or damaged: computed again")
    return False


def sample(features):
    """A hash of a thousand rows from everywhere in the file."""
    at = torch.linspace(0, features.count - 1, min(features.count, 1000), dtype=torch.float64).long()
    return hashlib.sha256(features.data[at].contiguous().flatten().view(torch.uint8).numpy()).hexdigest()


def make_room(features):
    """An empty file, where there is room for a full one: it is memory, and a full disk would kill the run."""
    forget_features(features.path)
    free = shutil.disk_usage(features.path.parent).free
    if free < features.bytes():
        has = f"needs {features.gib():.1f} GiB and the disk has {free / 2 ** 30:.1f}"
        raise Refused(f"{features.path} {has}: free some space, "
                      f"or use --features_gib 0 (features are then computed every time)")
    with writing(features.path):
        features.path.touch()
