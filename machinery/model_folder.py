"""Model folders in Hugging Face's format: reading one with our connectors in it, writing one that
transformers and vLLM load; and LoRA, `--lora RANK`, whose adapters leave the trainer merged.

Weights are read from safetensors only; code in a folder is never run.
"""
import math
import re
import shutil
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn as nn
import transformers
from safetensors import SafetensorError, safe_open
from torch.distributed.tensor import DTensor
from transformers.utils import logging as hf_logging

from machinery.families import family_of, raw_config, read_config
from machinery.files import Refused, has_weights, read_json, resolve, write_json

hf_logging.disable_progress_bar()  # the bars of a run are its own


def model_class(config, make_connectors):
    """The family's class of transformers with our connectors in their places, so weights go into them. It has
    the name and module of the class that it extends: by them transformers finds how weights are renamed."""
    theirs = getattr(transformers, family_of(config).hf_class)

    class WithOurConnectors(theirs):
        def __init__(self, config):
            super().__init__(config)
            for place, ours in make_connectors(config).items():
                self.set_submodule(place, ours)

    WithOurConnectors.__name__, WithOurConnectors.__module__ = theirs.__name__, theirs.__module__
    return WithOurConnectors


def blank_hf(config, make_connectors, device="meta"):
    """The model of this configuration with fresh weights; on the device "meta" with none."""
    with torch.device(device):
        return model_class(config, make_connectors)._from_config(
            config, dtype=torch.float32, attn_implementation="sdpa")


# -------------------------------------------------------------------------------- what the weights' files say

def weight_files(path):
    """The safetensors files of a folder's weights: one, or those that its index names"""
    one, index = Path(path, "model.safetensors"), Path(path, "model.safetensors.index.json")
    if one.exists():
        return [one]
    return sorted({Path(path, name) for name in read_json(index)["weight_map"].values()})


def stored(path):
    """{name: (shape, dtype as safetensors writes it, file)} of a folder's tensors, from the headers alone."""
    found = {}
    for file in weight_files(path):
        try:
            with safe_open(file, "pt") as tensors:
                slices = {name: tensors.get_slice(name) for name in tensors.keys()}
                found |= {name: (t.get_shape(), t.get_dtype(), file) for name, t in slices.items()}
        except (SafetensorError, OSError) as error:
            raise Refused(f"{file}: its weights cannot be read ({error}). Copy it again.") from error
    return found


def is_tied(path, default):
    """Whether the output layer is the word embeddings: for all ranks, saved folders, plans and vLLM.

    config.json cannot be trusted alone. InternVL3's says it of its LLM only, and the default of its class is
    the opposite; other folders contradict themselves. So the weights decide: a model is tied when its file
    holds one of the two tensors, or both and they are equal. What is said counts where the file leaves it
    open, and "tied" said in either place outweighs "not tied". Only an output layer that is lost stays lost,
    where all that is said is "not tied". default: where nothing is said and both tensors are equal."""
    raw = raw_config(path)
    places = (raw, raw.get("text_config") or raw.get("llm_config") or {})
    said = [c["tie_word_embeddings"] for c in places if c.get("tie_word_embeddings") is not None]
    tied, tensors = any(said) if said else default, stored(path) if has_weights(path) else {}
    head, words = (next((name for name in tensors if name.endswith(end)), None)
                   for end in ("lm_head.weight", "embed_tokens.weight"))
    if head and words:
        return tied and tensors[head][0] == tensors[words][0] and torch.equal(
            *(safe_open(tensors[name][2], "pt").get_tensor(name) for name in (head, words)))
    return tied or bool(tensors) and not said


def stored_dtype(path):
    """Precision of the weights (of their largest tensor), whatever config.json says of it."""
    dtypes = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    return dtypes[max(stored(path).values(), key=lambda tensor: math.prod(tensor[0]))[1]]


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
    return set_tied(config, is_tied(path, config.tie_word_embeddings))


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
        path = snapshot_download(path, allow_patterns="*.json *.safetensors *.jinja *.txt *.model".split())
    if not has_weights(path):
        raise Refused(f"{flag} {path}: no model*.safetensors there; only safetensors weights are read")
    return path


def load_hf(path, make_connectors, flag="--model", rank=0, size=1):
    """(Hugging Face model, its folder, precision of the weights in it) of a folder, a run or a hub name.

    In one process the weights are fp32. Of several, rank 0 reads them in the file's own precision, and the
    others only know their shape (parallel.py sends them). Raises Refused for weights that do not match."""
    path = local_folder(path, flag)
    config, file_dtype = read_decided(path, flag), stored_dtype(path)
    if rank > 0:
        return blank_hf(config, make_connectors), path, file_dtype
    hf, info = model_class(config, make_connectors).from_pretrained(
        path, config=config, dtype=torch.float32 if size == 1 else file_dtype, attn_implementation="sdpa",
        output_loading_info=True, ignore_mismatched_sizes=True)
    wrong = {kind: sorted(str(key[0] if isinstance(key, tuple) else key) for key in info[f"{kind}_keys"])
             for kind in ("missing", "unexpected", "mismatched")}
    wrong["missing"] = [name for name in wrong["missing"] if name not in hf.all_tied_weights_keys]
    if what := "; ".join(f"{len(names)} {kind}, e.g. {names[0]}" for kind, names in wrong.items() if names):
        raise Refused(f"{flag} {path}: the weights are not those of its config.json ({what})")
    if bad := not_finite(hf):
        raise Refused(f"{flag} {path}: NaN or infinity in {len(bad)} of its tensors, e.g. {bad[0]}. Take an "
                      f"earlier checkpoint, or copy them again.")
    return hf, path, file_dtype


def save_folder(hf, folder, source, file_dtype):
    """Write a folder that from_pretrained and vLLM load: weights (safetensors, the family's own names, in
    file_dtype, adapters merged), configuration, and the tokenizer and processor files of the folder `source`.
    Under torchrun every rank must call it: tensors are gathered one at a time, and rank 0 writes."""
    if bad := not_finite(hf):
        raise Refused(f"NaN or infinity in {len(bad)} tensors of the model, e.g. {bad[0]}: it is not saved. "
                      f"Checkpoints from before are kept; lower --lr and go on from the newest.")
    tied, state = hf.all_tied_weights_keys, {}  # {name: the name of the same tensor}
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
    write_json(path, {**read_json(path), "dtype": str(file_dtype).removeprefix("torch.")})


# ------------------------------------------------------------------------------------------------------- LoRA

FACTOR = 2
BASE = ".base_layer"  # what peft writes into the name of a layer that has got an adapter


def add_adapters(vlm, rank):
    """Put fresh adapters of this rank into the LLM: every linear layer of its blocks computes W x + 2 B A x,
    with A (rank, in) and B (out, rank). A starts at random and B at 0, so a run begins with exactly the model
    that it was given. Which parts train, VLM.train_only decides behind it.

    There is no dropout, because the policy that learns must be the one that sampled. The factor is 2 at every
    rank (peft's alpha is 2 * rank): AdamW makes steps of one size whatever it is. Folders and vLLM get
    W + 2 B A; trainer/ holds all three, because a sum in bf16 cannot be taken apart again."""
    from peft import LoraConfig, inject_adapter_in_model  # here, because only such a run needs peft
    llm = vlm.hf.model.language_model
    places = [name for name, module in llm.named_modules() if isinstance(module, nn.Linear)]
    how = LoraConfig(r=rank, lora_alpha=FACTOR * rank, lora_dropout=0.0, bias="none", target_modules=places)
    inject_adapter_in_model(how, llm, low_cpu_mem_usage=True)  # without weights, whatever W's precision is
    generator = torch.Generator().manual_seed(torch.initial_seed())
    for place in places:
        layer = llm.get_submodule(place)
        layer.cast_input_dtype_enabled = False  # autocast does it, and makes no copy in fp32
        a, b, device = layer.lora_A["default"], layer.lora_B["default"], layer.base_layer.weight.device
        a.weight = nn.Parameter(torch.empty(a.weight.shape, device=device))
        b.weight = nn.Parameter(torch.zeros(b.weight.shape, device=device))
        if device.type != "meta":
            nn.init.kaiming_uniform_(a.weight, a=math.sqrt(5), generator=generator)  # as in nn.Linear
    vlm.lora = rank


def is_adapter(name):
    return ".lora_A." in name or ".lora_B." in name


def merged(named):
    """{name: tensor} -> (name, tensor) of the same model without adapters, one at a time. Sharded tensors
    stay sharded: only the small A is gathered. Without adapters everything is handed on as it is."""
    for name, t in named.items():
        t = t.detach()
        if name.endswith(f"{BASE}.weight"):
            layer = name.removesuffix(f"{BASE}.weight")
            a, b = (named[f"{layer}.lora_{which}.default.weight"].detach() for which in "AB")
            t = t.float() + FACTOR * (b @ a)
        if not is_adapter(name):
            yield name.replace(BASE, ""), t
