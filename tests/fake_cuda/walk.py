"""A training step on a GPU that is not there: python -m tests.fake_cuda.walk LIBRARY CASE CASE ...

LIBRARY is guard.cpp, compiled; a CASE is the arguments of `walk` in JSON. It prints a line of JSON for each:
bytes that are held at most, where the forward waits for the GPU, which gradients are not as they should be.
Tensors of the GPU are fake, so no kernel runs; those of the host are real.
"""
import ctypes
import sys

ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)  # before torch

import json  # noqa: E402
import traceback  # noqa: E402
import weakref  # noqa: E402
from types import SimpleNamespace  # noqa: E402

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily  # noqa: E402
from torch.distributed.tensor import DTensor  # noqa: E402
from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves, tree_map_only  # noqa: E402

from connector import make_connectors, visual_tokens  # noqa: E402
from machinery.model_folder import add_adapters, blank_hf, read_decided  # noqa: E402
from machinery.parallel import World, bf16_weights, replace_tensors, shard  # noqa: E402
from model import PARTS, VLM, make_optimizer  # noqa: E402
from pack import make_pack  # noqa: E402

GPU, aten = torch.device("cuda:0"), torch.ops.aten
for name, value in dict(is_available=True, is_bf16_supported=True, device_count=8, current_device=0,
                        is_initialized=True, set_device=None, get_device_capability=(9, 0)).items():
    setattr(torch.cuda, name, lambda *_, value=value, **__: value)
for name in ("Stream", "Event", "stream", "current_stream"):
    setattr(torch.cuda, name, getattr(torch.cpu, name))
# kernels that this torch lacks: in their place it would compute step by step and hold what a GPU does not
library = torch.library.Library("aten", "IMPL")
library.impl("silu_backward", lambda grad, x: torch.empty_like(x), "CUDA")
F.scaled_dot_product_attention = lambda q, k, v, mask, scale: (
    aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)[0])


class Gpu(TorchDispatchMode):
    """Counts the bytes of storages that live on the GPU, and the numbers that python asks of it."""

    def __init__(self):
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.sizes, self.now, self.peak, self.syncs = {}, 0, 0, []
        resize = torch.UntypedStorage.resize_

        def resized(storage, size):  # as FSDP frees what it has gathered
            resize(storage, size)
            self.count(storage)

        torch.UntypedStorage.resize_ = resized

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        if DTensor in types:
            return NotImplemented  # its parts come here next
        to = str(kwargs.get("device"))
        if "cuda" not in to and not any(isinstance(x, FakeTensor) for x in tree_leaves((args, kwargs))):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        number = func is aten._local_scalar_dense.default
        if number or func is aten._to_copy.default and to == "cpu":
            ours = [f for f in traceback.extract_stack()[:-1] if "/torch/" not in f.filename]
            self.syncs.append(f"{ours[-1].filename.split('/')[-1]}:{ours[-1].lineno}")
        if number:
            return args[0].dtype.is_floating_point / 2
        args, kwargs = tree_map_only(torch.Tensor, lambda x: x if isinstance(x, FakeTensor) or x.is_meta else
                                     self.fake.from_tensor(x), (args, kwargs))
        out = func(*args, **kwargs)
        for x in tree_leaves(out):
            if isinstance(x, FakeTensor) and x.fake_device.type == "cuda":
                self.count(x.untyped_storage())
        return out

    def count(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key not in self.sizes:
            weakref.finalize(storage, self.gone, key)
        self.now += size - self.sizes.get(key, 0)
        self.sizes[key], self.peak = size, max(self.peak, self.now)

    def gone(self, key):
        self.now -= self.sizes.pop(key)


def synthetic(config, family, tokens, samples=8):
    """A pack of one prompt with images and its responses; the prompt is text where the encoder would read the
    sizes of its images, because a fake tensor cannot be read."""
    tiles, row = (6, ()) if family.tiled else (0, (3,))
    images = {"pixel_values": torch.zeros(tiles, *family.blank()["pixel_values"].shape[1:])} if tiles else {}
    ids = [config.image_token_id] * (tiles * visual_tokens(config)) + [1] * (tokens // 64)
    processor = SimpleNamespace(image_id=config.image_token_id, pixels=lambda _: images,
                           positions=lambda _: torch.arange(len(ids)).expand(*row, -1))
    n = (tokens - len(ids)) // samples
    prompt = SimpleNamespace(full=ids, learned=())
    return make_pack(processor, [(prompt, [(i, [2] * n) for i in range(samples)])])


def walk(model, tokens=16384, gpus=1, train=PARTS, lora=0, checkpointing=True):
    """The last pack of a step: gradients of earlier ones are there."""
    config, gpu = read_decided(model), Gpu()
    vlm = VLM(blank_hf(config, make_connectors), model, torch.bfloat16, torch.bfloat16)
    row = synthetic(config, vlm.family, tokens)
    if lora:
        add_adapters(vlm, lora)
    if checkpointing:
        vlm.hf.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    vlm.train_only(train).train()
    for weight in bf16_weights(vlm):
        weight.data = weight.data.bfloat16()
    with gpu.fake, gpu:
        if gpus > 1:
            dist.init_process_group("fake", rank=1, world_size=gpus, store=FakeStore())
            vlm = shard(vlm, World(1, gpus, GPU))
        else:
            replace_tensors(vlm, lambda t: torch.empty_like(t, device=GPU))
        learns, optimizer = [p for p in vlm.parameters() if p.requires_grad], make_optimizer(vlm, 0.0)
        for p in learns:
            p.grad = torch.zeros_like(p)
        optimizer.step()
        pack = row.to(GPU)
        gpu.syncs, gpu.peak = [], 0
        logp, _ = vlm(pack)
        syncs = gpu.syncs
        (-logp.mean()).backward()
        peak = gpu.peak
        # what trains, and nothing else, got a gradient of this pack, where it should be and in fp32
        at = {name: getattr(p.grad, "_local_tensor", p.grad) for name, p in vlm.named_parameters()}
        at = {name: g is not None and g._version > 0 and (g.device, g.dtype) for name, g in at.items()}
        wrong = [name for name, p in vlm.named_parameters()
                 if at[name] != (p.requires_grad and (GPU, torch.float32))]
        torch.nn.utils.clip_grad_norm_(learns, 1.0)
        optimizer.step()
    if gpus > 1:
        dist.destroy_process_group()
    return dict(tokens=len(pack.ids), visual=len(pack.visual_at), peak=peak, syncs=syncs, wrong=wrong)


for case in sys.argv[2:]:
    print(json.dumps(walk(**json.loads(case))), flush=True)
