"""Model folders in Hugging Face's format: reading one with our connectors in it, writing one that
transformers and vLLM load.

A reader of the recipe may skip this file. Weights are read from safetensors only; code in it is never run.
"""
import json
import re
import shutil
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch.distributed.tensor import DTensor
from transformers.utils import logging as hf_logging

from machinery.families import family_of, hf_class, read_config
from machinery.files import Refused, has_weights, resolve

hf_logging.disable_progress_bar()  # the bars of a run are its own


def model_class(config, make_connectors):
    """The family's class of transformers with our connectors in their places, so weights go into them.

    It goes by the name and module of the class that it extends, because transformers finds the renaming of
    weights by them.
    """
    theirs = hf_class(family_of(config))

    class WithOurConnectors(theirs):
        def __init__(self, config):
            super().__init__(config)
            for place, ours in make_connectors(config).items():
                self.set_submodule(place, ours)

    WithOurConnectors.__name__, WithOurConnectors.__module__ = theirs.__name__, theirs.__module__
    return WithOurConnectors


def blank_hf(config, make_connectors, device="meta", dtype=torch.float32):
    """The model of this configuration with fresh weights; on the device "meta" with none."""
    kind = model_class(config, make_connectors)
    with torch.device(device):
        return kind._from_config(config, dtype=dtype, attn_implementation="sdpa")


def load_hf(path, make_connectors, flag="--model", rank=0, size=1):
    """(Hugging Face model, its folder, precision of the weights in it) of a folder, a run or a hub name.

    In one process the weights are fp32. Of several, rank 0 reads them in the file's own precision, and the
    others only know their shape (machinery/sharding.py sends them). Raises Refused for an unknown family, and
    for weights that do not match the configuration.
    """
    path = resolve(path, flag)
    if not Path(path).exists():
        from huggingface_hub import snapshot_download
        files = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
        path = snapshot_download(path, allow_patterns=files)
    if not has_weights(path):
        raise Refused(f"{flag} {path}: no model*.safetensors there; only safetensors weights are read")
    config = read_config(path, flag)
    file_dtype = config.dtype or torch.float32  # from_pretrained overwrites it
    if rank > 0:
        return blank_hf(config, make_connectors), path, file_dtype
    try:
        hf, info = model_class(config, make_connectors).from_pretrained(
            path, config=config, dtype=torch.float32 if size == 1 else "auto", attn_implementation="sdpa",
            output_loading_info=True, ignore_mismatched_sizes=True)
    except SafetensorError as error:
        raise Refused(f"{flag} {path}: the weights can not be read ({error}). "
                      f"Is a file cut off? Copy it again.") from error
    tied = set(getattr(hf, "all_tied_weights_keys", None) or ())
    mismatched = [str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"]]
    wrong = {"missing": sorted(set(info["missing_keys"]) - tied),
             "unexpected": sorted(info["unexpected_keys"]), "mismatched": sorted(mismatched)}
    if any(wrong.values()):
        what = "; ".join(f"{len(names)} {kind}, e.g. {names[0]}" for kind, names in wrong.items() if names)
        raise Refused(f"{flag} {path}: the weights are not those of its config.json ({what})")
    return hf, path, file_dtype


def save_folder(hf, folder, source, file_dtype):
    """Write a folder that from_pretrained and vLLM load: weights (safetensors, the family's own names, in the
    precision of the folder `source`), configuration, and the tokenizer and processor files of `source`.

    Under torchrun every rank must call it: tensors are gathered one at a time, and rank 0 writes.
    """
    tied, state = getattr(hf, "all_tied_weights_keys", None) or {}, {}
    writes = not dist.is_initialized() or dist.get_rank() == 0
    for name, t in hf.state_dict().items():
        if name not in tied:
            t = t.detach().to(file_dtype if t.is_floating_point() else t.dtype)
            t = t.full_tensor() if isinstance(t, DTensor) else t
            if writes:
                state[name] = t.cpu()
    if not writes:
        return
    state.update({name: state[same] for name, same in tied.items()})  # one tensor in the file
    not_copied = r"\.(safetensors|bin|pt|part)$|index\.json$|^config\.json$|^\."
    for file in Path(source).iterdir():  # tokenizer, processor and template files
        if file.is_file() and not re.search(not_copied, file.name):
            shutil.copy(file, folder)
    hf.save_pretrained(folder, state_dict=state)
    path = Path(folder) / "config.json"  # which names the precision of the weights in memory
    config = {**json.loads(path.read_text()), "dtype": str(file_dtype).removeprefix("torch.")}
    path.write_text(json.dumps(config, indent=2) + "\n")
