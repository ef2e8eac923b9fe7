"""The vision-language model, as a student should see it: encoder -> connector -> LLM, three parts with names.

`load` takes any Hugging Face folder of a family that is known here, `VLM` names its parts and freezes by
name, and one forward takes a whole *pack*: prompts laid into one row without padding, each followed by its
responses (pack.py).

    features = vlm.encode(pack)            # encoder alone; under no_grad when it is frozen
    visual   = vlm.connect(features)       # connector; (visual tokens, d)
    hidden   = vlm.decode(pack, visual)    # visual tokens take their places among the embeddings; (N, d)
    logp, entropy = vlm.head(hidden, pack) # response positions only, in chunks; (R,), (R,)

The connector, which the paper studies most, is in connector.py. What differs between families is in
machinery/families.py. Parallelism comes from outside: `shard(vlm, world)` wraps the blocks with FSDP2 under
torchrun and does nothing in one process. `python model.py MODEL` prints the table of parts, and `python
recipes/plan.py` says what a run needs of memory.
"""
import contextlib
import sys

import torch
import torch.nn as nn
import transformers

from connector import make_connectors
from machinery.families import PARTS, family_of
from machinery.files import Refused, say
from machinery.head import LogProbAndEntropy, sampled_logits
from machinery.model_folder import add_adapters, is_adapter
from machinery.model_folder import load_hf, save_folder
from machinery.optimizer import make_optimizer, update  # noqa: F401 (for the stages)
from machinery.parallel import compute_dtype, bf16_weights, refresh_dtypes, shard
from pack import layout_attention

# logits that exist at once in the head, whatever the vocabulary: 16 MiB in fp32, about what a processor
# caches, or 256 MiB, which keep a GPU busy
CHUNK = {"cpu": 2 ** 22, "cuda": 2 ** 26}


class VLM(nn.Module):
    """A Hugging Face vision-language model whose parts have names: see the top of this file."""

    def __init__(self, hf, source, autocast=None, file_dtype=torch.float32):
        """hf: the model with our connectors in it (load makes one). source: the folder it came from."""
        super().__init__()
        self.hf, self.source, self.autocast_dtype = hf, source, autocast
        self.family = family_of(hf.config)
        self.image_id = hf.config.image_token_id
        # transformers hands over all windows at once only to an attention with "flash" in its name
        for name in ("layout", "layout_flash_windows"):
            transformers.AttentionInterface.register(name, layout_attention)
        for encoder in self.family.encoder:
            hf.get_submodule(encoder).config._attn_implementation = "layout_flash_windows"
        hf.model.language_model.config._attn_implementation = "layout"
        # ids that the policy must never sample: the placeholders of images and videos (see `logits`)
        placeholders = (self.image_id, getattr(hf.config, "video_token_id", None))
        self.never = [i for i in placeholders if i is not None]
        self.file_dtype = file_dtype  # what trains is fp32 in memory; save() writes it as it was found
        self.frozen, self.sharded, self.lora = set(), False, 0  # lora: the rank of the LLM's adapters

    # ------------------------------------------------------------------------------------------ parts by name

    def parts(self):
        """{"encoder" | "connector" | "llm": {name: parameter}}; names as in hf.named_parameters()"""
        parts = {part: {} for part in PARTS}
        for name, parameter in self.hf.named_parameters():
            part = self.family.part_of(name)
            if part is None:
                raise Refused(f"tensor {name} of {self.source} belongs to no part: add it to its family in "
                              f"machinery/families.py")
            parts[part][name] = parameter
        return parts

    def train_only(self, names):
        """Freeze by name: `names` train, everything else does not. Also in the middle of a run: a part that
        is opened there is kept in fp32 from then on; the optimizer already holds it."""
        self.freeze(names)
        if any(p.requires_grad and p.dtype != torch.float32 for p in self.parameters()):
            self.float()
            refresh_dtypes(self)
        return self

    def freeze(self, names):
        """requires_grad of all parameters; of an LLM with adapters only these train. CHANGE FREEZING HERE."""
        if not names or set(names) - set(PARTS):
            raise Refused(f"--train {' '.join(names) or 'nothing'}: the parts are {', '.join(PARTS)}")
        self.frozen = set(PARTS) - set(names)
        for part, parameters in self.parts().items():
            whole = part != "llm" or not self.lora
            for name, p in parameters.items():
                p.requires_grad_(part not in self.frozen and (whole or is_adapter(name)))

    def table(self):
        """Parts, parameters, what trains: printed at the start of every stage."""
        lines = [f"{self.source}: {sum(p.numel() for p in self.hf.parameters()):,} parameters"]
        for part, tensors in self.parts().items():
            count = sum(p.numel() for p in tensors.values())
            trains = sum(p.numel() for p in tensors.values() if p.requires_grad)
            how = "trains" if trains else "frozen"
            if 0 < trains < count:
                how = f"{trains:,} of them train: adapters of rank {self.lora}"
            lines.append(f"  {part:<10} {count:>15,} parameters in {len(tensors):>4} tensors   {how}")
        return "\n".join(lines)

    # ------------------------------------------------------------------------------ the forward, step by step

    def forward(self, pack, features=None, only_features=False):
        """pack -> logp (R,), entropy (R,) of all response tokens, in the pack's order."""
        features = self.encode(pack) if features is None else features
        if only_features:
            return features
        return self.head(self.decode(pack, self.connect(features)), pack)

    def autocast(self):
        device = next(self.parameters()).device.type
        dtype = self.autocast_dtype
        return torch.autocast(device, dtype) if dtype else contextlib.nullcontext()

    def encode(self, pack):
        """Encoder: the pack's images -> features, (tiles, patches, width), or (visual tokens, 4 * width) in a
        family whose images keep their shape. None for a pack without images.

        Under FSDP a rank without images still has to enter the encoder's collectives, or the others wait for
        it for ever. There a black image goes through, and `decode` multiplies it by zero. The same is done
        when the LLM is frozen, because the loss of such a pack would otherwise depend on nothing that trains.
        """
        if not pack.images and not self.sharded and "llm" not in self.frozen:
            return None
        images = pack.images or {name: t.to(pack.ids.device) for name, t in self.family.blank().items()}
        trains = "encoder" not in self.frozen and torch.is_grad_enabled()
        with torch.set_grad_enabled(trains), self.autocast():  # a frozen encoder keeps no graph
            return self.family.encode(self.hf, images)

    def connect(self, features):
        """Connector: features -> visual tokens (V, d) in the LLM's width"""
        if features is None:
            return None
        with self.autocast():
            return self.family.connect(self.hf, features)

    def decode(self, pack, visual, layout=None):
        """LLM: ids with the visual tokens in their places -> hidden states (N, d)"""
        with self.autocast():
            x, more = self.hf.model.language_model.embed_tokens(pack.ids), {}          # (N, d)
            if visual is not None and len(pack.visual_at) == 0:
                x = x + 0 * visual.sum()
            elif visual is not None:
                if len(visual) != len(pack.visual_at):
                    raise Refused(f"{len(visual)} visual tokens for {len(pack.visual_at)} places in the "
                                  f"prompts of {pack.names()}: processor and model disagree about tiles or "
                                  f"image size")
                x, more = self.family.place(x, visual, pack.visual_at)
            return self.llm(x, pack.positions, layout or pack.layout, **more)

    def llm(self, x, positions, layout, **more):
        """The LLM's layers: embeddings (N, d), positions (N,) or (3, N), who attends to whom -> hidden states
        (N, d)"""
        out = self.hf.model.language_model(inputs_embeds=x[None], position_ids=positions[..., None, :],
                                           use_cache=False, layout=layout, **more)
        return out.last_hidden_state[0]

    def logits(self, hidden, temperature=1.0):
        """hidden (n, d) -> logits (n, vocabulary) of the distribution that is sampled: fp32, divided by the
        temperature, image placeholders impossible. `head` takes the same function, so sampler and trainer can
        not drift apart."""
        head = self.hf.lm_head
        with torch.autocast(hidden.device.type, enabled=False):  # bf16 would blur the entropies
            return sampled_logits(hidden.float(), head.weight.float(), head.bias, self.never, temperature,
                                  tf32=self.autocast_dtype is not None)

    def head(self, hidden, pack):
        """Log-prob of each response token and entropy (nats) of the distribution it came from: (R,), (R,); as
        from `logits`. Logits exist for CHUNK // vocabulary tokens at a time; what is too much to keep is
        computed again in the backward. So memory does not grow with vocabulary x length."""
        head = self.hf.lm_head
        size = max(1, CHUNK[hidden.device.type] // head.weight.shape[0])
        with torch.autocast(hidden.device.type, enabled=False):
            return LogProbAndEntropy.apply(
                hidden.index_select(0, pack.source), head.weight, head.bias, pack.target, size,
                self.never, pack.temperature, self.autocast_dtype is not None)

    def compile_blocks(self, backend="inductor"):
        """torch.compile for each block of encoder and LLM, inside activation checkpointing and FSDP: what
        lies around the attention becomes a few kernels. One graph serves packs of every length, one more
        those of a single tile, which torch treats apart."""
        for block in self.hf.modules():
            if type(block).__name__ in (self.hf._no_split_modules or ()):
                block.compile(dynamic=True, backend=backend)

    # ------------------------------------------------------------------------------------------------- saving

    def save(self, folder):
        """A folder that from_pretrained and vLLM load, with weights in the precision of the folder that was
        loaded. Under torchrun every rank must call it."""
        save_folder(self.hf, folder, self.source, self.file_dtype)


def load(path, device="cpu", dtype="fp32", train=PARTS, flag="--model", checkpointing=False, world=None,
         lora=0, compile=False):
    """Load a model folder, run folder or hub name as a VLM whose parts in `train` train.

    dtype: auto, bf16 or fp32, what is computed in; weights that train are fp32 all the same. world: the model
    goes into shard() next, so rank 0 alone reads it, into host memory and in the file's own precision; the
    others only know its shape. lora: the LLM gets adapters of this rank. Raises Refused for an unknown
    family, an unknown part, and weights that do not fit.
    """
    together = world is not None and world.size > 1
    rank, size = (world.rank, world.size) if together else (0, 1)
    hf, source, file_dtype = load_hf(path, make_connectors, flag, rank, size)
    vlm = VLM(hf, source, compute_dtype(dtype, device), file_dtype)
    if lora:
        if "llm" not in train:
            raise Refused(f"--lora {lora}: its adapters are the LLM's: add llm to --train")
        add_adapters(vlm, lora)
    if checkpointing:
        hf.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if compile:
        vlm.compile_blocks()
    vlm.freeze(train)
    vlm.train()
    for weight in bf16_weights(vlm):  # frozen matrices
        weight.data = weight.data.bfloat16()
    return vlm if together else vlm.to(device)


def load_model(cfg, world, reference=False):
    """The model of a stage by its flags, sharded under torchrun. reference: the one that the run started
    from, frozen and without adapters."""
    vlm = load(cfg.model, world.device, cfg.dtype, cfg.train, checkpointing=cfg.checkpointing, world=world,
               lora=0 if reference else cfg.lora, compile=cfg.compile)
    if reference:
        vlm.requires_grad_(False)
    return shard(vlm, world, cfg.hybrid, cfg.offload)


if __name__ == "__main__":
    for folder in sys.argv[1:] or ["data/tiny/model"]:
        say(load(folder).table())
