"""Model folders in Hugging Face's format: reading one with our connectors in it, writing one that
transformers and vLLM load.

A reader of the recipe may skip this file. Weights are read from safetensors only; code in it is never run.
"""
import json
import math
import re
import shutil
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch.distributed.tensor import DTensor
from transformers.utils import logging as hf_logging

from machinery.families import family_of, hf_class, raw_config, read_config
from machinery.files import Refused, has_weights, resolve
from machinery.lora import merged

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


# -------------------------------------------------------------------------------- what the weights' files say

def weight_files(path, flag="--model"):
    """The safetensors files of a folder's weights: one, or those that its index names. All are there."""
    path = Path(path)
    if (path / "model.safetensors").exists():
        return [path / "model.safetensors"]
    index = path / "model.safetensors.index.json"
    try:
        files = sorted({path / name for name in json.loads(index.read_text())["weight_map"].values()})
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise Refused(f"{flag} {path}: {index.name}, which lists the files of its weights, is missing or "
                      f"can not be read. Copy it again.") from error
    if lost := [file.name for file in files if not file.exists()]:
        raise Refused(f"{flag} {path}: {index.name} names {lost[0]}, which is not there. Copy it again.")
    return files


def stored(path, flag="--model"):
    """{name: (shape, dtype as safetensors writes it, file)} of a folder's tensors, from the headers alone."""
    found = {}
    for file in weight_files(path, flag):
        try:
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():
                    t = tensors.get_slice(name)
                    found[name] = t.get_shape(), t.get_dtype(), file
        except SafetensorError as error:
            raise Refused(f"{flag} {path}: the weights in {file.name} can not be read ({error}). "
                          f"Is the file cut off? Copy it again.") from error
    return found


def is_tied(path, default, flag="--model"):
    """Whether the output layer is the word embeddings: decided here once, for all ranks, for the folders that
    are saved, for plan.py and for vLLM.

    config.json can not be trusted alone. InternVL3's says it of its LLM only, and the default of its class is
    the opposite; other folders contradict themselves. So the weights decide: a model is tied when its file
    holds one of the two tensors, or both and they are equal. What is said counts where the file leaves it
    open, and "tied" said in either place outweighs "not tied". Only an output layer that is lost stays lost:
    when all that is said is "not tied", loading refuses the folder. default: what holds where nothing is said
    and both tensors are equal.
    """
    raw = raw_config(path, flag)
    places = (raw, raw.get("text_config") or raw.get("llm_config") or {})
    said = [c["tie_word_embeddings"] for c in places if c.get("tie_word_embeddings") is not None]
    tied = any(said) if said else default
    if not has_weights(path):
        return tied
    tensors, both = stored(path, flag), {}
    for end in ("lm_head.weight", "embed_tokens.weight"):
        both[end] = next((name for name in tensors if name.endswith(end)), None)
    if None in both.values():
        return tied or not said
    (head, words), (file, of_words) = both.values(), (tensors[name][2] for name in both.values())
    if not tied or tensors[head][0] != tensors[words][0]:
        return False
    with safe_open(file, "pt") as a, safe_open(of_words, "pt") as b:
        a, b, rows = a.get_slice(head), b.get_slice(words), tensors[head][0][0]
        return all(torch.equal(a[i:i + 4096], b[i:i + 4096]) for i in range(0, rows, 4096))


def stored_dtype(path, flag="--model"):
    """Precision of the weights in their files, whatever config.json calls it and says of it."""
    dtypes = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    sizes = dict.fromkeys(dtypes, 0)  # elements of each
    for shape, dtype, _ in stored(path, flag).values():
        if dtype in sizes:
            sizes[dtype] += math.prod(shape)
    return dtypes[max(sizes, key=sizes.get)]


def set_tied(config, tied):
    """Say it in both places: transformers reads the first, vLLM the second (and asks with an empty
    configuration before it has read one)."""
    for part in (config, getattr(config, "text_config", None)):
        if part is not None:
            part.tie_word_embeddings = tied
    return config


def read_decided(path, flag="--model"):
    """The configuration of a folder, in which it is decided whether the output layer is tied."""
    config = read_config(path, flag)
    return set_tied(config, is_tied(path, config.tie_word_embeddings, flag))


def not_finite(hf):
    """Names of the tensors with NaN or infinity. Every rank must call it, and each gets the same answer."""
    # as they are saved: named_parameters() gives what a forward without backward left gathered on every rank
    named = list(hf.state_dict().items())
    local = [p.detach().to_local() if isinstance(p, DTensor) else p.detach() for _, p in named]
    sums = torch.stack([t.sum(dtype=torch.float32).cpu() for t in local])  # a sum shows each of its terms
    bad = torch.tensor([not math.isfinite(s) and not bool(t.isfinite().all())
                        for s, t in zip(sums.tolist(), local)], dtype=torch.uint8)
    if dist.is_initialized() and isinstance(named[0][1], DTensor):
        dist.all_reduce(bad, op=dist.ReduceOp.MAX)
    return [name for (name, _), wrong in zip(named, bad.tolist()) if wrong]


# ---------------------------------------------------------------------------------------- reading and writing

def local_folder(path, flag="--model"):
    """The folder on this machine of a folder, a run or a hub name; with safetensors weights in it."""
    path = resolve(path, flag)
    if not Path(path).exists():
        from huggingface_hub import snapshot_download
        files = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
        try:
            path = snapshot_download(path, allow_patterns=files)
        except (OSError, ValueError) as error:
            raise Refused(f"{flag} {path}: no such folder here, and the hub does not give it "
                          f"({str(error).strip().splitlines()[0]})") from error
    if not has_weights(path):
        raise Refused(f"{flag} {path}: no model*.safetensors there; only safetensors weights are read")
    return path


def load_hf(path, make_connectors, flag="--model", rank=0, size=1):
    """(Hugging Face model, its folder, precision of the weights in it) of a folder, a run or a hub name.

    In one process the weights are fp32. Of several, rank 0 reads them in the file's own precision, and the
    others only know their shape (machinery/parallel.py sends them). Raises Refused for an unknown family, and
    for weights that do not match the configuration.
    """
    path = local_folder(path, flag)
    config = read_decided(path, flag)
    file_dtype = stored_dtype(path, flag)
    if rank > 0:
        return blank_hf(config, make_connectors), path, file_dtype
    hf, info = model_class(config, make_connectors).from_pretrained(
        path, config=config, dtype=torch.float32 if size == 1 else file_dtype, attn_implementation="sdpa",
        output_loading_info=True, ignore_mismatched_sizes=True)
    tied = set(getattr(hf, "all_tied_weights_keys", None) or ())
    mismatched = [str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"]]
    wrong = {"missing": sorted(set(info["missing_keys"]) - tied),
             "unexpected": sorted(info["unexpected_keys"]), "mismatched": sorted(mismatched)}
    if any(wrong.values()):
        what = "; ".join(f"{len(names)} {kind}, e.g. {names[0]}" for kind, names in wrong.items() if names)
        raise Refused(f"{flag} {path}: the weights are not those of its config.json ({what})")
    if bad := not_finite(hf):
        raise Refused(f"{flag} {path}: NaN or infinity in {len(bad)} of its tensors, e.g. {bad[0]}. Nothing "
                      f"can be trained from these weights: take an earlier checkpoint, or copy them again.")
    return hf, path, file_dtype


def save_folder(hf, folder, source, file_dtype):
    """Write a folder that from_pretrained and vLLM load: weights (safetensors, the family's own names, in the
    precision of the folder `source`, adapters merged), configuration, and the tokenizer and processor files
    of `source`.

    Under torchrun every rank must call it: tensors are gathered one at a time, and rank 0 writes.
    """
    if bad := not_finite(hf):
        raise Refused(f"NaN or infinity in {len(bad)} tensors of the model, e.g. {bad[0]}: it is not saved. "
                      f"Checkpoints from before are kept; lower --lr and go on from the newest.")
    tied, state = getattr(hf, "all_tied_weights_keys", None) or {}, {}
    writes = not dist.is_initialized() or dist.get_rank() == 0
    for name, t in merged(hf.state_dict()):
        if name not in tied:
            t = t.to(file_dtype if t.is_floating_point() else t.dtype)
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
