"""LoRA, `--lora RANK`: the LLM learns by small adapters beside its matrices, which stay as they are. A reader
of the recipe may skip this file.

Every linear layer of the LLM's blocks computes W x + 2 B A x, with A (rank, in) and B (out, rank). A starts
at random and B at 0, so a run begins with exactly the model that it was given. Embeddings, output layer and
norms do not train. peft puts the adapters in and computes with them.

What leaves the trainer is merged: checkpoint folders and vLLM get W + 2 B A under the names that W has in a
model without adapters. What a run goes on from (trainer/, machinery/run.py) holds W, A and B apart: a
sum that was rounded to bf16 can not be taken apart again.

Two things are no flags. There is no dropout, because the policy that learns must be the one that sampled. And
the factor is 2 at every rank (peft's alpha is 2 * rank): AdamW makes steps of one size whatever the factor,
so a factor would only be a second learning rate.
"""
import math

import torch
import torch.nn as nn

from machinery.files import Refused

FACTOR = 2
BASE = ".base_layer"  # what peft writes into the name of a layer that has got an adapter


def add_adapters(vlm, rank):
    """Put fresh adapters of this rank into the LLM. Which parts train, VLM.train_only decides behind it. A
    rank above the smallest side of the LLM's matrices is refused: there it could be no smaller than W."""
    from peft import LoraConfig, inject_adapter_in_model  # here, because only such a run needs peft
    llm = vlm.hf.model.language_model
    places = [name for name, module in llm.named_modules() if isinstance(module, nn.Linear)]
    most = min(side for name in places for side in llm.get_submodule(name).weight.shape)
    if rank > most:
        raise Refused(f"--lora {rank}: the smallest of the matrices that get adapters has a side of {most}: "
                      f"a higher rank than {most} adds weights and nothing else. 8 is usual.")
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
