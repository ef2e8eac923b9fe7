"""What only a GPU can show, in one script: `python -m bench.gpu_check` from the root of the repository (about
ten minutes; --quick for the parity alone).

1. Parity: packs of a small InternVL, Qwen2.5-VL and Qwen3-VL on the GPU against plain transformers on the
   CPU, in fp32 (SDPA), and in bf16 (fused varlen attention) against fp32. A wrong layout, window or causal
   alignment shows at once.
2. A training step of models of InternVL3's shapes with random weights: real tokens per second, model FLOPs
   utilisation (plan.flops: encoder included, nothing counted twice for checkpointing), peak memory beside
   what plan.py said.
3. vLLM beside a trainer, when it is installed: the gap of their log-probs before and after a sync, memory in
   use after each phase (the engine asleep while the trainer works), tokens per second, seconds of a sync.

Leaves bench/gpu_check.json. --device cpu --shapes tests it without a GPU; its times mean nothing then.
"""
import json
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import torch
from PIL import Image

import pack
import plan
from connector import make_connectors, visual_tokens
from data import Chat, Prompt, Record
from machinery import attention
from machinery.families import family_of
from machinery.files import Refused, main, say
from machinery.model_folder import blank_hf, read_decided
from machinery.parallel import World
from model import PARTS, VLM, load, make_optimizer
from tests.families import make_qwen, make_qwen3
from tiny.blank_model import save_blank_model

# dense bf16, from the data sheets
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12, "L40": 181e12, "4090": 165e12}
SHAPES = ("recipes/configs/InternVL3-2B", "recipes/configs/InternVL3-8B")


@dataclass
class Config:
    device: str = "cuda"                          # cpu tries the script, not the GPU
    shapes: tuple[str, ...] = SHAPES              # whose training step is measured
    tokens: int = 16384                           # of a pack
    steps: int = 5                                # measured, after two to warm up
    vllm: str = "recipes/configs/InternVL3-8B"    # whose sampling is measured
    responses: int = 1024                         # 16 to a prompt
    new_tokens: int = 512                         # of a response
    quick: bool = False                           # parity alone
    out: str = "bench/gpu_check.json"             # what was measured


# ----------------------------------------------------------------------------------------------------- parity

def noise(height, width, generator):
    size = (height, width, 3)
    return Image.fromarray(torch.randint(0, 256, size, generator=generator, dtype=torch.uint8).numpy())


def folders(where):
    """A small model folder of each family"""
    for name in ("internvl", "qwen", "qwen3"):
        (where / name).mkdir()
    save_blank_model(where / "internvl", seed=0)
    return [where / "internvl", make_qwen(where / "qwen"), make_qwen3(where / "qwen3")]


def pack_of(chat):
    """A pack of one image, several, none, several tiles, with responses of unequal length."""
    g = torch.Generator().manual_seed(0)
    records = []
    for i, sizes in enumerate([[(48, 48)], [(60, 140), (97, 33)], [], [(48, 96)]]):
        records.append(Record(str(i), "What is the sum?", [noise(*s, g) for s in sizes], sizes=sizes))
    groups = [(prompt, [torch.randint(0, 200, (n,), generator=g).tolist() for n in (5, 30, 17)])
              for prompt in chat.prompts(records)]
    return pack.make_packs(chat, groups)[0]


def not_fused(x):
    return False


def run(path, device, dtype, fused=True):
    """Log-probs of the pack and the gradient of all parameters. Without `fused` SDPA computes the attention,
    whatever the device."""
    was = attention.fused
    attention.fused = pack.fused = was if fused else not_fused
    try:
        vlm = load(str(path), device, dtype)
        logp, entropy = vlm(pack_of(Chat(str(path), max_tiles=4)).to(device))
        (logp.sum() + entropy.sum()).backward()
        gradient = torch.cat([p.grad.flatten().double().cpu() for p in vlm.parameters()])
        return logp.detach().float().cpu(), gradient
    finally:
        attention.fused = pack.fused = was


def parity(device):
    rows = {}
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with tempfile.TemporaryDirectory() as where:
        for path in folders(Path(where)):
            ours, gradient = run(path, "cpu", "fp32")
            for name, dtype, fused, limits in (("fp32", "fp32", True, (2e-4, 0.99999)),
                                               ("bf16, fused", "bf16", True, (0.3, 0.98)),
                                               ("bf16, SDPA", "bf16", False, (0.3, 0.98))):
                logp, own = run(path, device, dtype, fused)
                worst = float((logp - ours).abs().max())
                angle = float(torch.cosine_similarity(own, gradient, dim=0))
                good = worst < limits[0] and angle > limits[1]
                rows[f"{path.name}, {name}"] = {"worst_logp": worst, "gradient_cosine": angle, "good": good}
                say(f"{'ok ' if good else 'BAD'} {path.name:<9} {name:<12} worst log-prob difference to the "
                    f"CPU {worst:.1e}, gradient's cosine {angle:.6f}")
    return rows


# ------------------------------------------------------------------------------------------------------ speed

def synthetic(config, tokens, samples=8, tiles=3):
    """A pack as GRPO makes them, of random ids and pixels: two prompts of `tiles` tiles, each with `samples`
    responses."""
    visual, tile = tiles * visual_tokens(config), family_of(config).blank()["pixel_values"].shape[1:]
    P = visual + tokens // 64
    n = (tokens // 2 - P) // samples
    chat = SimpleNamespace(image_id=config.image_token_id, positions=lambda prompt: torch.arange(P),
                           pixels=lambda prompt: {"pixel_values": torch.randn(tiles, *tile)})
    row = []
    for k in range(2):
        ids = torch.randint(0, 500, (P,))
        ids[4:4 + visual] = config.image_token_id
        responses = torch.randint(0, 500, (samples, n)).tolist()
        row.append((Prompt(None, [], ids.tolist()), list(enumerate(responses, start=k * samples))))
    return pack.make_pack(chat, row)


def seconds_of(vlm, row, optimizer, cfg):
    """Median of a training step's seconds"""
    times = []
    for _ in range(2 + cfg.steps):
        begin = time.time()
        logp, _ = vlm(row)
        (-logp.mean()).backward()
        if optimizer:
            optimizer.step()
        vlm.zero_grad(set_to_none=True)
        if cfg.device == "cuda":
            torch.cuda.synchronize()
        times.append(time.time() - begin)
    return sorted(times[2:])[len(times[2:]) // 2]


def step_of(shape, cfg):
    config, s = read_decided(shape, "--shapes"), plan.shape(shape)
    vlm = VLM(blank_hf(config, make_connectors, cfg.device), shape, torch.bfloat16).train_only(PARTS).train()
    vlm.hf.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    row = synthetic(config, cfg.tokens).to(cfg.device)
    tokens = len(row.ids)
    asked = plan.Config(model=shape, gpus=1, tokens=tokens, visual=len(row.visual_at), rollout="none")
    table = plan.memory(s, asked)["training"]
    gpu = torch.cuda.get_device_properties(0) if cfg.device == "cuda" else None
    fits = gpu is None or sum(table.values()) < plan.room(plan.Config(gpu_gib=gpu.total_memory / plan.GIB))
    if not fits:  # 16 bytes a weight are too many for one GPU: measured without the optimizer
        table.pop("optimizer (AdamW, fp32)")
    optimizer = make_optimizer(vlm, 0.0) if fits else None
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = seconds_of(vlm, row, optimizer, cfg)
    pairs = sum(n * P + n * (n + 1) // 2 for _, n, _, P in row.layout.segments.tolist())
    tiles, patches = len(row.images["pixel_values"]), visual_tokens(config) * s["patches"]  # of a tile
    speed = plan.flops(s, tokens, pairs, len(row.source), tiles * patches, patches) / seconds
    top = next((p for name, p in PEAK.items() if gpu and name in gpu.name), None)
    found = {"tokens": tokens, "tiles": tiles, "seconds": seconds, "tokens_per_second": tokens / seconds,
             "response_tokens_per_second": len(row.source) / seconds,
             "tflops": speed / 1e12, "mfu": speed / top if top else None,
             "planned_gib": sum(table.values()), "optimizer": fits,
             "peak_gib": torch.cuda.max_memory_allocated() / plan.GIB if gpu else None}
    text = (f"{shape}: {found['tokens_per_second']:,.0f} tokens/s, of which responses "
            f"{found['response_tokens_per_second']:,.0f}; {found['tflops']:.0f} TFLOP/s")
    if top:
        text += f", {found['mfu']:.0%} of {gpu.name}'s peak"
    if gpu:
        text += f"; peak {found['peak_gib']:.1f} GiB, planned {found['planned_gib']:.1f}"
    say(text if fits else f"{text}; without the optimizer")
    return found


# --------------------------------------------------------------------------------------------------- sampling

def random_checkpoint(shape, folder):
    """A folder of this shape with random weights in bf16, the embedded world's tokenizer and a processor for
    its tiles. Returns height and width of a tile."""
    save_blank_model(folder, seed=0)
    small, config = read_decided(folder), read_decided(shape)
    config.image_token_id = small.image_token_id
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config.text_config, name, getattr(small.text_config, name))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    blank_hf(config, make_connectors, device, torch.bfloat16).save_pretrained(folder)
    height, width = family_of(config).blank()["pixel_values"].shape[-2:]
    file = folder / "preprocessor_config.json"
    size = {"height": height, "width": width}
    file.write_text(json.dumps({**json.loads(file.read_text()), "size": size}))
    return height, width


def in_use(cfg):
    """GiB of the GPU that all its processes hold"""
    if cfg.device != "cuda":
        return None
    free, whole = torch.cuda.mem_get_info()
    return round((whole - free) / plan.GIB, 1)


@torch.no_grad()
def sampling(cfg):
    from rollout import VLLMSampler
    row, memory = {}, {}
    with tempfile.TemporaryDirectory() as where:
        size = random_checkpoint(cfg.vllm, Path(where))
        chat, records = Chat(where, max_tiles=1), []
        for i in range(cfg.responses // 16):
            image = noise(*size, torch.Generator().manual_seed(i))
            records.append(Record(str(i), "What is the sum?", [image], sizes=[size]))
        prompts = chat.prompts(records)
        vlm = load(where, cfg.device, "bf16")
        memory["trainer"] = in_use(cfg)
        sampler = VLLMSampler(vlm, chat, World(0, 1, torch.device(cfg.device)), "bf16", memory=0.35)
        memory["engine awake"] = in_use(cfg)
        for when in ("first", "synced"):
            begin = time.time()
            groups = sampler.generate(prompts, 16, cfg.new_tokens, seed=1)
            tokens = sum(len(r.ids) for g in groups for r in g)
            row[f"tokens_per_second_{when}"] = tokens / (time.time() - begin)
            memory[f"asleep, {when}"] = in_use(cfg)
            some = [g[:2] for g in groups[:2]]
            two, = pack.make_packs(chat, [(g[0].prompt, [r.ids for r in g]) for g in some])
            sampled = torch.cat([r.logp for g in some for r in g])
            row[f"gap_{when}"] = float((vlm(two.to(cfg.device))[0].cpu() - sampled).abs().mean())
            memory[f"trainer at work, {when}"] = in_use(cfg)
            for p in vlm.parameters():
                p.mul_(1 + 0.05 * torch.randn_like(p))
            begin = time.time()
            sampler.sync(vlm)
            row[f"sync_seconds_{when}"] = time.time() - begin
            memory[f"weights awake, {when}"] = in_use(cfg)
    numbers = ", ".join(f"{k} {v:.4g}" for k, v in row.items())
    say(f"vLLM, {cfg.vllm}: {numbers}; GiB in use: {memory}")
    return {"memory_gib": memory, **row, "good": row["gap_first"] < 0.05 and row["gap_synced"] < 0.05}


def check(cfg):
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise Refused("no GPU here; --device cpu tries the script itself")
    results = {"device": torch.cuda.get_device_name(0) if cfg.device == "cuda" else "cpu",
               "torch": torch.__version__, "flash_attn": attention.flash_attn_varlen_func is not None,
               "parity": parity(cfg.device)}
    if not cfg.quick:
        results["steps"] = {}
        for shape in cfg.shapes:
            results["steps"][Path(shape).name] = step_of(shape, cfg)
            if cfg.device == "cuda":
                torch.cuda.empty_cache()
        if find_spec("vllm") and find_spec("vllm.config"):  # for pytest tests/vllm is a vllm, too
            results["vllm"] = sampling(cfg)
        else:
            say("vLLM is not installed: its part is left out")
    Path(cfg.out).write_text(json.dumps(results, indent=1))
    judged = {**results["parity"], "vLLM": results.get("vllm", {"good": True})}
    if bad := [name for name, row in judged.items() if not row["good"]]:
        raise Refused(f"not equal on this GPU: {', '.join(bad)}")


if __name__ == "__main__":
    main(check, Config)
