"""The vision-language model, as a student should see it: encoder -> connector -> LLM, three parts with names.

`load` takes any Hugging Face folder of a family in FAMILIES, `VLM` names its parts and freezes by name, and one forward
takes a whole *pack*: prompts laid into one row without padding, each followed by its responses (data.py lays them).

    features = vlm.encode(pack)            # encoder alone; under no_grad when it is frozen
    visual   = vlm.connect(features)       # connector; (visual tokens, d)
    hidden   = vlm.decode(pack, visual)    # visual tokens take their places among the embeddings; (N, d)
    logp, entropy = vlm.head(hidden, pack) # response positions only, in chunks; (R,), (R,)

Every response of a pack attends to its own prompt and to itself, and to nothing else, and its positions go on where the
prompt ends: an image and its question are computed once for a whole group of GRPO samples. The paper's hero, the
connector, is written out in connector.py; its weights are the family's own.

Parallelism comes from outside: `shard(vlm, world)` wraps the blocks with FSDP2 under torchrun and does nothing in one
process. `python model.py MODEL` prints the table of parts, `python model.py plan --help` what a run needs of memory.
"""
import contextlib
import json
import math
import os
import re
import shutil
import sys
from collections import OrderedDict
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from safetensors import SafetensorError
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.internvl import modeling_internvl
from transformers.utils import logging as hf_logging

import attention  # noqa: F401 (registers itself with transformers)
from common import Refused, has_weights, main, resolve, say, total
from connector import MergerConnector, MLPConnector, PatchMerger, QFormer

hf_logging.disable_progress_bar()  # the bars of a run are its own

PARTS = ("encoder", "connector", "llm")

# Where each family keeps its parts: names inside the Hugging Face model. A parameter belongs to the longest prefix that
# fits. "Freeze the vision tower" freezes the connector too in many codebases, and a frozen connector is exactly what the
# paper shows collapsing (section 5.6); here each part has a name of its own and tests list its tensors.
#
# What else differs: the connector's class, how the encoder is called, and the smallest image, for ranks that have none.
FAMILIES = {
    "internvl": {
        "encoder": "model.vision_tower", "connector": "model.multi_modal_projector", "llm": ("model.language_model", "lm_head"),
        "make_connector": lambda c: (QFormer(c.vision_config.hidden_size, c.text_config.hidden_size, **c.qformer) if has_qformer(c) else
                                     MLPConnector(c.vision_config.hidden_size, c.text_config.hidden_size, c.downsample_ratio)),
        "encode": lambda hf, images: encode_tiles(hf, images["pixel_values"]),
        "connect": lambda hf, features: hf.model.multi_modal_projector(features),
        "blank": lambda c: {"pixel_values": torch.zeros(1, 3, *pair(c.vision_config.image_size))}},
    "qwen2_5_vl": {
        "encoder": "model.visual", "connector": "model.visual.merger", "llm": ("model.language_model", "lm_head"),
        "make_connector": lambda c: MergerConnector(c.vision_config.hidden_size, c.text_config.hidden_size, c.vision_config.spatial_merge_size),
        # the merger only groups patches here (connector.py); the encoder undoes its window order behind it
        "encode": lambda hf, images: hf.model.visual(images["pixel_values"], grid_thw=images["image_grid_thw"]).pooler_output,
        "connect": lambda hf, features: hf.model.visual.merger(features, project=True),
        "blank": lambda c: blank_patches(c)},
    "qwen3_vl": {
        "encoder": "model.visual", "connector": ("model.visual.merger", "model.visual.deepstack_merger_list"), "llm": ("model.language_model", "lm_head"),
        "make_connector": lambda c: patch_mergers(c.vision_config),
        "encode": lambda hf, images: encode_levels(hf, images),
        "connect": lambda hf, features: connect_levels(hf, features),
        "blank": lambda c: blank_patches(c)},
}


def pair(x):
    return tuple(x) if isinstance(x, (list, tuple)) else (x, x)


def has_qformer(config):
    """The configuration of a model that `python connector.py` made says {"queries": 64, "layers": 2}."""
    return getattr(config, "qformer", None) is not None


def visual_tokens(config):
    """InternVL: visual tokens of a tile, 256 for InternVL3"""
    if has_qformer(config):
        return config.qformer["queries"]
    vision = config.vision_config
    return int((pair(vision.image_size)[0] // pair(vision.patch_size)[0]) ** 2 * config.downsample_ratio ** 2)


def encode_tiles(hf, pixels):
    """InternVL: tiles (T, 3, height, width) -> features (T, patches, width), without the class token"""
    layer, tower = hf.config.vision_feature_layer, hf.model.vision_tower
    if layer == -1:
        return tower(pixel_values=pixels).last_hidden_state[:, 1:]
    return tower(pixel_values=pixels, output_hidden_states=True).hidden_states[layer][:, 1:]


def blank_patches(config):
    """Qwen-VL: an image of a single visual token"""
    v = config.vision_config
    return {"pixel_values": torch.zeros(4, 3 * v.temporal_patch_size * v.patch_size ** 2), "image_grid_thw": torch.tensor([[1, 2, 2]])}


def patch_mergers(v):
    """Qwen3-VL: visual.merger and visual.deepstack_merger_list, a level for each; both are the connector"""
    make = lambda together: PatchMerger(v.hidden_size, v.out_hidden_size, v.spatial_merge_size, together)  # noqa: E731
    return make(False), nn.ModuleList(make(True) for _ in v.deepstack_visual_indexes)


def encode_levels(hf, images):
    """Qwen3-VL: its mergers only group patches here; the last layer's and the earlier ones' lie side by side, (V, levels * 4 * width)"""
    out = hf.model.visual(images["pixel_values"], grid_thw=images["image_grid_thw"])
    return torch.cat([out.pooler_output, *out.deepstack_features], -1)


def connect_levels(hf, features):
    """Qwen3-VL: each level through its own merger, side by side again: (V, levels * d), which `decode` takes apart"""
    mergers = [hf.model.visual.merger, *hf.model.visual.deepstack_merger_list]
    return torch.cat([merger(level, project=True) for merger, level in zip(mergers, features.chunk(len(mergers), -1))], -1)


CHUNK = 2 ** 24  # logits that exist at once in the head (64 MiB in fp32), whatever the vocabulary


# -------------------------------------------------------------------------------------------------------------------- model

class VLM(nn.Module):
    """A Hugging Face vision-language model whose parts have names: see the top of this file."""

    def __init__(self, hf, family, source, autocast=None, file_dtype=torch.float32):
        super().__init__()
        self.hf, self.family, self.source, self.autocast_dtype = hf, FAMILIES[family], source, autocast
        self.image_id = hf.config.image_token_id
        names, made = self.family["connector"], self.family["make_connector"](hf.config)
        for name, ours in [(names, made)] if isinstance(names, str) else zip(names, made):
            ours.load_state_dict(hf.get_submodule(name).state_dict(), assign=True)
            hf.set_submodule(name, ours)
        hf.get_submodule(self.family["encoder"]).config._attn_implementation = "layout_flash_windows"
        hf.model.language_model.config._attn_implementation = "layout"
        # ids that the policy can not write: placeholders of images (see `logits`)
        self.never = [i for i in (self.image_id, getattr(hf.config, "video_token_id", None)) if i is not None]
        self.file_dtype = file_dtype  # in memory they are fp32; save() writes them as they were found
        self.frozen, self.sharded = set(), False

    # ---- parts by name

    def part_of(self, name):
        prefixes = [(p, part) for part in PARTS for p in ([self.family[part]] if isinstance(self.family[part], str) else self.family[part])]
        fits = [(len(p), part) for p, part in prefixes if name.startswith(p + ".")]
        if not fits:
            raise Refused(f"tensor {name} of {self.source} belongs to no part: add it to FAMILIES in model.py")
        return max(fits)[1]

    def parts(self):
        """{"encoder" | "connector" | "llm": {name: parameter}}; names as in hf.named_parameters()"""
        parts = {p: {} for p in PARTS}
        for name, parameter in self.hf.named_parameters():
            parts[self.part_of(name)][name] = parameter
        return parts

    def train_only(self, names):
        """Freeze by name: `names` train, everything else does not."""
        if wrong := [n for n in names if n not in PARTS] or ([] if names else ["nothing"]):
            raise Refused(f"--train {' '.join(wrong)}: the parts are {', '.join(PARTS)}")
        self.frozen = set(PARTS) - set(names)
        for part, parameters in self.parts().items():
            for p in parameters.values():
                p.requires_grad_(part not in self.frozen)
        return self

    def table(self):
        """Parts, parameters, what trains: printed at the start of every stage."""
        rows = [f"  {part:<10} {sum(p.numel() for p in ps.values()):>15,} parameters in {len(ps):>4} tensors   "
                f"{'frozen' if part in self.frozen else 'trains'}" for part, ps in self.parts().items()]
        return "\n".join([f"{self.source}: {sum(p.numel() for p in self.hf.parameters()):,} parameters"] + rows)

    # ---- the forward, step by step

    def autocast(self):
        device = next(self.parameters()).device.type
        return torch.autocast(device, self.autocast_dtype) if self.autocast_dtype else contextlib.nullcontext()

    def encode(self, pack):
        """Encoder: the pack's images -> features, (tiles, patches, width) or, of a family with dynamic resolution,
        (visual tokens, 4 * width), for Qwen3-VL several such levels side by side; None for a pack without images.

        Under FSDP a rank without images still has to enter the encoder's collectives, or the others wait for it for
        ever: there a black image goes through, and `decode` multiplies it by zero. So it does with a frozen LLM, whose
        loss would otherwise depend on nothing that trains.
        """
        if not pack.images and not self.sharded and "llm" not in self.frozen:
            return None
        grad = torch.enable_grad() if "encoder" not in self.frozen and torch.is_grad_enabled() else torch.no_grad()
        with grad, self.autocast():  # a frozen encoder keeps no graph
            images = pack.images or {k: v.to(pack.ids.device) for k, v in self.family["blank"](self.hf.config).items()}
            return self.family["encode"](self.hf, images)

    def connect(self, features):
        """Connector: features -> visual tokens (V, d) in the LLM's width; for Qwen3-VL (V, levels * d)"""
        if features is None:
            return None
        with self.autocast():
            return self.family["connect"](self.hf, features)

    def decode(self, pack, visual, layout=None):
        """LLM: ids with the visual tokens in their places -> hidden states (N, d)"""
        with self.autocast():
            x = self.hf.model.language_model.embed_tokens(pack.ids)          # (N, d)
            deepstack = {}
            if visual is not None and len(pack.visual_at) == 0:
                x = x + 0 * visual.sum()
            elif visual is not None:
                if len(visual) != len(pack.visual_at):
                    raise Refused(f"{len(visual)} visual tokens for {len(pack.visual_at)} places in the prompts of "
                                  f"{pack.names()}: processor and model disagree about tiles or image size")
                tokens, *levels = visual.split(x.shape[-1], -1)              # (V, d) each
                x = x.index_copy(0, pack.visual_at, tokens.to(x.dtype))
                if levels:  # Qwen3-VL adds them to the visual tokens behind its first layers, one level a layer
                    deepstack = {"visual_pos_masks": (pack.ids == self.image_id)[None], "deepstack_visual_embeds": levels}
            return self.hf.model.language_model(
                inputs_embeds=x[None], position_ids=pack.positions[..., None, :], use_cache=False,
                layout=layout or pack.layout, **deepstack).last_hidden_state[0]

    def logits(self, hidden, temperature=1.0):
        """hidden (n, d) -> logits (n, vocabulary) of the distribution that is sampled: fp32, divided by the temperature,
        image placeholders impossible. Sampler and trainer both call this, so they can not drift apart."""
        head = self.hf.lm_head
        with torch.autocast(hidden.device.type, enabled=False):  # bf16 logits would blur the entropies that select checkpoints
            logits = F.linear(hidden.float(), head.weight.float(), head.bias) / temperature
        never = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        never[self.never] = True
        return logits.masked_fill(never, -1e9)

    def head(self, hidden, pack):
        """Log-prob of each response token and entropy (nats) of the distribution it came from: (R,), (R,).

        Logits exist for CHUNK // vocabulary tokens at a time and are computed again in the backward: memory does not
        grow with vocabulary x length.
        """
        def chunk(h, target):
            logits = self.logits(h, pack.temperature)                    # (c, vocabulary)
            logz = logits.logsumexp(-1)
            logp = logits.gather(-1, target[:, None])[:, 0] - logz
            entropy = logz - ((logits - logz[:, None]).exp() * logits).sum(-1)
            return logp, entropy

        size = max(1, CHUNK // self.hf.lm_head.weight.shape[0])
        source, target = pack.source.split(size), pack.target.split(size)
        if len(source) == 1:
            return chunk(hidden.index_select(0, source[0]), target[0])
        logp, entropy = zip(*(checkpoint(chunk, hidden.index_select(0, s), t, use_reentrant=False) for s, t in zip(source, target)))
        return torch.cat(logp), torch.cat(entropy)

    def forward(self, pack, features=None, only_features=False):
        """pack -> logp (R,), entropy (R,) of all response tokens, in the pack's order."""
        features = self.encode(pack) if features is None else features
        if only_features:
            return features
        return self.head(self.decode(pack, self.connect(features)), pack)

    # ---- saving

    def save(self, folder):
        """A folder that from_pretrained and vLLM load: weights (safetensors, the family's own names, in the precision of
        the folder that was loaded), configuration, tokenizer and processor files. Under torchrun every rank must call it;
        tensors are gathered one at a time and rank 0 writes."""
        tied, state = getattr(self.hf, "all_tied_weights_keys", None) or {}, OrderedDict()
        first = not dist.is_initialized() or dist.get_rank() == 0
        for name, t in self.hf.state_dict().items():
            if name not in tied:
                t = t.detach().to(self.file_dtype if t.is_floating_point() else t.dtype)
                t = t.full_tensor() if isinstance(t, DTensor) else t
                if first:
                    state[name] = t.cpu()
        if first:
            state.update({name: state[source] for name, source in tied.items()})  # one tensor: or the file would hold both
            copy_companions(self.source, folder)
            self.hf.save_pretrained(folder, state_dict=state)
            path = Path(folder) / "config.json"  # which names the precision of the weights in memory
            path.write_text(json.dumps({**json.loads(path.read_text()), "dtype": str(self.file_dtype).removeprefix("torch.")}, indent=2) + "\n")


def copy_companions(source, folder):
    """Tokenizer, processor and template files: everything beside the weights."""
    for file in Path(source).iterdir():
        if file.is_file() and not re.search(r"\.(safetensors|bin|pt|part)$|index\.json$|^config\.json$|^\.", file.name):
            shutil.copy(file, folder)


def compute_dtype(dtype, device):
    """--dtype as what autocast wants: bf16 over fp32 master weights, or None for fp32. auto: bf16 where the processor has it."""
    if dtype not in ("auto", "bf16", "fp32"):
        raise Refused(f"--dtype {dtype}: it is auto, bf16 or fp32")
    native = torch.device(device).type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if dtype == "bf16" or (dtype == "auto" and native) else None


def read_config(path, flag="--model"):
    """Configuration of a model folder, refused when its family is unknown."""
    config = AutoConfig.from_pretrained(path)
    if config.model_type not in FAMILIES:
        raise Refused(f"{flag} {path} is a {config.model_type!r} model; the families are {', '.join(FAMILIES)} (model.py, FAMILIES)")
    return config


def load(path, device="cpu", dtype="fp32", train=PARTS, flag="--model", checkpointing=False, world=None):
    """Load a model folder, run folder or hub name as a VLM whose parts in `train` train.

    dtype: see compute_dtype; weights are always fp32 here. world: the model goes into shard() next, so rank 0 alone reads
    it, into host memory and in the file's own precision; the others only know its shape.
    Raises Refused for an unknown family, an unknown part, and weights that do not match the architecture.
    """
    path = resolve(path, flag)
    if not Path(path).exists():
        from huggingface_hub import snapshot_download
        path = snapshot_download(path, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"])
    if not has_weights(path):
        raise Refused(f"{flag} {path}: no model*.safetensors there; only safetensors weights are read")
    config = read_config(path, flag)
    file_dtype = config.dtype or torch.float32  # from_pretrained overwrites it
    ours = lambda config: FAMILIES[config.model_type]["make_connector"](config)  # noqa: E731
    other = mock.patch.object(modeling_internvl, "InternVLMultiModalProjector", ours) if has_qformer(config) else contextlib.nullcontext()
    together, info = world is not None and world.size > 1, {"missing_keys": (), "unexpected_keys": (), "mismatched_keys": ()}
    try:
        with other:  # transformers builds its own connector, unless told otherwise
            if together and world.rank > 0:
                with torch.device("meta"):
                    hf = AutoModelForImageTextToText.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
            else:
                hf, info = AutoModelForImageTextToText.from_pretrained(
                    path, config=config, dtype="auto" if together else torch.float32, attn_implementation="sdpa",
                    output_loading_info=True, ignore_mismatched_sizes=True)
    except SafetensorError as error:
        raise Refused(f"{flag} {path}: the weights can not be read ({error}). Is a file cut off? Copy it again.") from error
    tied = set(getattr(hf, "all_tied_weights_keys", None) or ())
    wrong = {"missing": sorted(set(info["missing_keys"]) - tied), "unexpected": sorted(info["unexpected_keys"]),
             "mismatched": sorted(str(k[0] if isinstance(k, tuple) else k) for k in info["mismatched_keys"])}
    if any(wrong.values()):
        what = "; ".join(f"{len(v)} {k}, e.g. {v[0]}" for k, v in wrong.items() if v)
        raise Refused(f"{flag} {path}: the weights are not those of its config.json ({what})")
    vlm = VLM(hf, config.model_type, path, compute_dtype(dtype, device), file_dtype)
    if checkpointing:
        hf.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    vlm.train_only(train).train()
    return vlm if together else vlm.to(device)


def shard(vlm, world, hybrid=False, offload=False):
    """FSDP2 under torchrun: every block of encoder and LLM, then the root. Nothing in one process.

    Only rank 0 needs weights (load(..., world=world)): they are sent a tensor at a time and every rank keeps its part, in
    fp32. hybrid: every node holds a whole copy and shards it among its own processes, so that only gradients cross the
    network between nodes. offload: weights, gradients and optimizer wait in host memory. On the device "meta" the model is
    divided and nothing is filled in.
    """
    if world.size == 1:
        return vlm
    real = {name: t.detach() for name, t in (*vlm.named_parameters(), *vlm.named_buffers())}
    renew(vlm, lambda t: torch.empty_like(t, device="meta", dtype=torch.float32 if t.is_floating_point() else None))
    node = int(os.environ.get("LOCAL_WORLD_SIZE", world.size)) if hybrid else world.size
    shape = {"copies": world.size // node, "shards": node} if node < world.size else {"shards": node}
    mesh = init_device_mesh("cuda" if world.device.type == "cuda" else "cpu", tuple(shape.values()), mesh_dim_names=tuple(shape))
    policy = dict(mesh=mesh, mp_policy=MixedPrecisionPolicy(vlm.autocast_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False),
                  offload_policy=CPUOffloadPolicy(pin_memory=world.device.type == "cuda") if offload else OffloadPolicy())
    blocks = set(vlm.hf._no_split_modules or ())
    for module in list(vlm.hf.modules()):
        if type(module).__name__ in blocks:
            fully_shard(module, **policy)
    fully_shard(vlm, **policy)
    vlm.sharded = True
    for module in vlm.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # losses carry their own normaliser, so gradients are summed over ranks
            module.set_force_sum_reduction_for_comms(True)  # by a plain sum: gloo knows no other
    if world.device.type == "meta":
        return vlm
    home = lambda t: "cpu" if offload and isinstance(t, DTensor) else world.device  # noqa: E731
    renew(vlm, lambda t: torch.empty_like(t, device=home(t)))
    with torch.no_grad():
        for name, t in (*vlm.named_parameters(), *vlm.named_buffers()):
            whole = real.pop(name).to(world.device, t.dtype) if world.rank == 0 else torch.empty(t.shape, dtype=t.dtype, device=world.device)
            dist.broadcast(whole, 0)
            if isinstance(t, DTensor):
                t.to_local().copy_(distribute_tensor(whole, t.device_mesh, t.placements, src_data_rank=None).to_local())
            else:
                t.copy_(whole)
    return vlm


def renew(vlm, make):
    """Replace every parameter and buffer. Tied ones stay tied, as they would not with Module.to_empty."""
    new = {}
    for module in vlm.modules():
        for tensors in (module._parameters, module._buffers):
            for name, t in tensors.items():
                if t is not None and id(t) not in new:
                    n = make(t)
                    new[id(t)] = (nn.Parameter(n, t.requires_grad) if isinstance(t, nn.Parameter) else n), t  # t: its id stays taken
                if t is not None:
                    tensors[name] = new[id(t)][0]


# ----------------------------------------------------------------------------------------------------------------- training

def make_optimizer(vlm, weight_decay, kind="adamw"):
    """AdamW over the parts that train; its learning rate is set by `update` in every step. "muon": [Muon for the matrices
    inside, AdamW for embeddings, head, norms and biases], which teaches a model from nothing several times faster."""
    trains = {n: p for n, p in vlm.named_parameters() if p.requires_grad}
    if kind == "adamw":
        return torch.optim.AdamW(trains.values(), weight_decay=weight_decay)
    if kind != "muon" or vlm.sharded:
        raise Refused(f"--optimizer {kind}: it is adamw, or muon in one process (its matrices must be whole)")
    inside = {n for n, p in trains.items() if p.ndim == 2 and not re.search("embed|lm_head|position", n)}
    return [torch.optim.Muon([trains[n] for n in trains if n in inside], weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW([trains[n] for n in trains if n not in inside], weight_decay=weight_decay)]


def share(rows, cost, world):
    """This rank's part of the rows, in order: the costliest go first, each to the rank that has least to do so far."""
    todo, mine = [0.0] * world.size, []
    for i in sorted(range(len(rows)), key=lambda i: -cost(rows[i])):
        rank = todo.index(min(todo))
        todo[rank] += cost(rows[i])
        mine += [i] if rank == world.rank else []
    return [rows[i] for i in sorted(mine)]


def even_out(packs, world):
    """[(pack, weight)]: as many on every rank, weight 0 for repeats, because each forward is a meeting of all ranks."""
    most = int(total([len(packs)], world, "max")[0])
    return [(p, 1.0) for p in packs] + [(packs[-1], 0.0)] * (most - len(packs))


def update(vlm, optimizer, lr, clip, run, batch, patience=3):
    """Clip the gradient, step, zero. Returns the gradient's norm before clipping.

    A gradient that is not finite is not applied: the step is skipped, its rows go to bad_steps.jsonl, and `patience`
    of them in a row stop the run.
    """
    optimizers = optimizer if isinstance(optimizer, list) else [optimizer]
    for group in (g for o in optimizers for g in o.param_groups):
        group["lr"] = lr
    norm = torch.nn.utils.clip_grad_norm_([p for p in vlm.parameters() if p.requires_grad], clip)
    norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
    if math.isfinite(norm):
        for o in optimizers:
            o.step()
        run.bad = 0
    else:
        run.bad += 1
        run.append("bad_steps.jsonl", {"norm": str(norm), "rows": batch})
        say(f"the gradient is {norm}: step skipped, its rows are in {run.dir / 'bad_steps.jsonl'}")
        if run.bad >= patience:
            raise Refused(f"{patience} steps in a row without a finite gradient: lower --lr, or look at {run.dir / 'bad_steps.jsonl'}")
    for o in optimizers:
        o.zero_grad(set_to_none=True)
    return norm


if __name__ == "__main__":
    if sys.argv[1:2] == ["plan"]:  # memory of a run, before anything is rented
        import plan
        sys.argv.pop(1)
        main(plan.plan, plan.Config)
    else:
        for argument in sys.argv[1:] or ["data/tiny/model"]:
            try:
                say(load(argument).table())
            except Refused as error:
                sys.exit(str(error))
