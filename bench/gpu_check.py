"""What only a GPU can show, in one script: `python bench/gpu_check.py` (about ten minutes; --quick for the parity alone).

1. Parity: packs of a small InternVL, Qwen2.5-VL and Qwen3-VL on the GPU against plain transformers on the CPU, in fp32
   (SDPA), and in bf16 (fused varlen attention) against fp32. A wrong layout, window or causal alignment shows at once.
2. A training step of models of InternVL3's shapes with random weights: real tokens per second, model FLOPs utilisation
   (plan.flops: encoder included, nothing counted twice for checkpointing), peak memory beside what plan.py said.
3. vLLM beside a trainer, when it is installed: the gap of their log-probs before and after a sync, memory in use after each
   phase (the engine asleep while the trainer works), tokens per second, seconds of a sync.

Leaves bench/gpu_check.json. --device cpu --shapes tests it where there is no GPU; its times mean nothing then.
"""
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tiny"), str(ROOT / "tests")]

import torch
from transformers import AutoModelForImageTextToText

import attention
import model
import plan
from common import Refused, World, main, say
from data import Chat, Pack, Record
from attention import Layout
from model import PARTS, load, make_optimizer

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12, "L40": 181e12, "4090": 165e12}  # dense bf16, from the data sheets


@dataclass
class Config:
    device: str = "cuda"                          # cpu tries the script, not the GPU
    shapes: tuple[str, ...] = ("recipes/configs/InternVL3-2B", "recipes/configs/InternVL3-8B")  # whose training step is measured
    tokens: int = 16384                           # of a pack
    steps: int = 5                                # measured, after two to warm up
    vllm: str = "recipes/configs/InternVL3-8B"    # whose sampling is measured
    responses: int = 1024                         # 16 to a prompt
    new_tokens: int = 512                         # of a response
    quick: bool = False                           # parity alone
    out: str = "bench/gpu_check.json"             # what was measured


# ---------------------------------------------------------------------------------------------------------------- parity

def folders(where):
    import blank_model
    from families import make_qwen, make_qwen3
    makes = {"internvl": lambda folder: blank_model.save_blank_model(folder, seed=0), "qwen": make_qwen, "qwen3": make_qwen3}
    for name, make in makes.items():
        (where / name).mkdir()
        make(where / name)
    return [where / name for name in makes]


def pack_of(chat):
    """A pack of one image, several, none, several tiles, with responses of unequal length."""
    from PIL import Image
    g = torch.Generator().manual_seed(0)
    draw = lambda h, w: Image.fromarray(torch.randint(0, 256, (h, w, 3), generator=g, dtype=torch.uint8).numpy())  # noqa: E731
    sizes = [[(48, 48)], [(60, 140), (97, 33)], [], [(48, 96)]]
    prompts = chat.prompts([Record(str(i), "What is the sum?", [draw(*s) for s in own], sizes=own) for i, own in enumerate(sizes)])
    return chat.packs([(p, [torch.randint(0, 200, (n,), generator=g).tolist() for n in (5, 30, 17)]) for p in prompts])[0]


def run(path, device, dtype, fused=True):
    was = attention.fused
    attention.fused = was if fused else lambda x: False
    try:
        vlm = load(str(path), device, dtype)
        logp, entropy = vlm(pack_of(Chat(str(path), max_tiles=4)).to(device))
        (logp.sum() + entropy.sum()).backward()
        gradient = torch.cat([p.grad.flatten().double().cpu() for p in vlm.parameters()])
        return logp.detach().float().cpu(), gradient
    finally:
        attention.fused = was


def parity(device):
    rows = {}
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with tempfile.TemporaryDirectory() as where:
        for path in folders(Path(where)):
            ours, gradient = run(path, "cpu", "fp32")
            for name, got in {"fp32": run(path, device, "fp32"), "bf16, fused": run(path, device, "bf16"), "bf16, SDPA": run(path, device, "bf16", False)}.items():
                worst, angle = float((got[0] - ours).abs().max()), float(torch.cosine_similarity(got[1], gradient, dim=0))
                good = worst < (2e-4 if name == "fp32" else 0.3) and angle > (0.99999 if name == "fp32" else 0.98)
                rows[f"{path.name}, {name}"] = {"worst_logp": worst, "gradient_cosine": angle, "good": good}
                say(f"{'ok ' if good else 'BAD'} {path.name:<9} {name:<12} worst log-prob difference to the CPU {worst:.1e}, gradient's cosine {angle:.6f}")
    return rows


# ---------------------------------------------------------------------------------------------------------------- speed

def synthetic(config, tokens, samples=8, tiles=3):
    """A pack as GRPO makes them, of random ids and pixels: two prompts of `tiles` tiles, each with `samples` responses."""
    visual = model.visual_tokens(config)
    P = tiles * visual + tokens // 64
    n = (tokens // 2 - P) // samples
    ids, positions, segments, source, target, at = [], [], [], [], [], 0
    for _ in range(2):
        prompt, begin = torch.randint(0, 500, (P,)), at
        prompt[4:4 + tiles * visual] = config.image_token_id
        ids.append(prompt)
        positions.append(torch.arange(P))
        segments.append((begin, P, 0, 0))
        at += P
        for _ in range(samples):
            response = torch.randint(0, 500, (n,))
            segments.append((at, n, begin, P))
            source.append(torch.cat([torch.tensor([begin + P - 1]), torch.arange(at, at + n - 1)]))
            ids.append(response)
            target.append(response)
            positions.append(torch.arange(P, P + n))
            at += n
    ids = torch.cat(ids)
    pixels = torch.randn(2 * tiles, 3, *model.pair(config.vision_config.image_size))
    return Pack(ids, torch.cat(positions), (ids == config.image_token_id).nonzero()[:, 0], {"pixel_values": pixels}, Layout(segments),
                torch.cat(source), torch.cat(target), torch.arange(2 * samples).repeat_interleave(n), 1.0, [])


def step_of(shape, cfg):
    config = model.read_config(shape, "--shapes")
    s = plan.shape(shape)
    with torch.device(cfg.device):
        hf = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    vlm = model.VLM(hf, config.model_type, shape, torch.bfloat16).train_only(PARTS).train()
    hf.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    pack = synthetic(config, cfg.tokens).to(cfg.device)
    asked = plan.Config(model=shape, gpus=1, tokens=len(pack.ids), visual=len(pack.visual_at), rollout="none")
    table = plan.memory(s, asked)["training"]
    gpu = torch.cuda.get_device_properties(0) if cfg.device == "cuda" else None
    fits = gpu is None or sum(table.values()) < plan.room(plan.Config(gpu_gib=gpu.total_memory / plan.GIB))
    if not fits:  # 16 bytes a weight are too many for one GPU: measured without the optimizer
        table.pop("optimizer (AdamW, fp32)")
    optimizer = make_optimizer(vlm, 0.0) if fits else None
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(2 + cfg.steps):
        begin = time.time()
        logp, _ = vlm(pack)
        (-logp.mean()).backward()
        if optimizer:
            optimizer.step()
        vlm.zero_grad(set_to_none=True)
        if gpu:
            torch.cuda.synchronize()
        times.append(time.time() - begin)
    seconds = sorted(times[2:])[len(times[2:]) // 2]
    pairs = sum(n * P + n * (n + 1) // 2 for _, n, _, P in pack.layout.segments.tolist())
    tiles = len(pack.images["pixel_values"])
    patches = (pack.images["pixel_values"].shape[-1] // model.pair(config.vision_config.patch_size)[0]) ** 2
    work = plan.flops(s, len(pack.ids), pairs, len(pack.source), tiles * patches, patches)
    top = next((p for name, p in PEAK.items() if gpu and name in gpu.name), None)
    row = {"tokens": len(pack.ids), "tiles": tiles, "seconds": seconds, "tokens_per_second": len(pack.ids) / seconds, "tflops": work / seconds / 1e12,
           "mfu": work / seconds / top if top else None, "planned_gib": sum(table.values()), "optimizer": fits,
           "peak_gib": torch.cuda.max_memory_allocated() / plan.GIB if gpu else None}
    say(f"{shape}: {row['tokens_per_second']:,.0f} tokens/s, {row['tflops']:.0f} TFLOP/s" + (f", {row['mfu']:.0%} of {gpu.name}'s peak" if top else "")
        + (f"; peak {row['peak_gib']:.1f} GiB, planned {row['planned_gib']:.1f}" if gpu else "") + ("" if fits else "; without the optimizer"))
    return row


# ------------------------------------------------------------------------------------------------------------- sampling

def random_checkpoint(shape, folder):
    """A folder of this shape with random weights in bf16, the embedded world's tokenizer and a processor for its tiles."""
    import blank_model
    blank_model.save_blank_model(folder, seed=0)
    small, config = model.read_config(folder), model.read_config(shape)
    config.image_token_id = small.image_token_id
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config.text_config, name, getattr(small.text_config, name))
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    file, size = folder / "preprocessor_config.json", model.pair(config.vision_config.image_size)
    file.write_text(json.dumps({**json.loads(file.read_text()), "size": dict(zip(("height", "width"), size))}))
    return size


@torch.no_grad()
def sampling(cfg):
    from PIL import Image
    from rollout_vllm import VLLMSampler
    used = lambda: round(sum(x * s for x, s in zip(torch.cuda.mem_get_info(), (-1, 1))) / plan.GIB, 1) if cfg.device == "cuda" else None  # noqa: E731
    row = {"memory_gib": {}}
    with tempfile.TemporaryDirectory() as where:
        size = random_checkpoint(cfg.vllm, Path(where))
        chat = Chat(where, max_tiles=1)
        draw = lambda i: Image.fromarray(torch.randint(0, 256, (*size, 3), generator=torch.Generator().manual_seed(i), dtype=torch.uint8).numpy())  # noqa: E731
        prompts = chat.prompts([Record(str(i), "What is the sum?", [draw(i)], sizes=[size]) for i in range(cfg.responses // 16)])
        vlm, memory = load(where, cfg.device, "bf16"), row["memory_gib"]
        memory["trainer"] = used()
        sampler = VLLMSampler(vlm, chat, World(0, 1, torch.device(cfg.device)), "bf16", memory=0.35)
        memory["engine awake"] = used()
        for when in ("first", "synced"):
            begin = time.time()
            groups = sampler.generate(prompts, 16, cfg.new_tokens, seed=1)
            row[f"tokens_per_second_{when}"] = sum(len(r.ids) for g in groups for r in g) / (time.time() - begin)
            memory[f"asleep, {when}"] = used()
            pack, = chat.packs([(g[0].prompt, [r.ids for r in g[:2]]) for g in groups[:2]])
            row[f"gap_{when}"] = float((vlm(pack.to(cfg.device))[0].cpu() - torch.cat([r.logp for g in groups[:2] for r in g[:2]])).abs().mean())
            memory[f"trainer at work, {when}"] = used()
            for p in vlm.parameters():
                p.mul_(1 + 0.05 * torch.randn_like(p))
            begin = time.time()
            sampler.sync(vlm)
            row[f"sync_seconds_{when}"] = time.time() - begin
            memory[f"weights awake, {when}"] = used()
    say(f"vLLM, {cfg.vllm}: " + ", ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "memory_gib") + f"; GiB in use: {memory}")
    row["good"] = row["gap_first"] < 0.05 and row["gap_synced"] < 0.05
    return row


def check(cfg):
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise Refused("no GPU here; --device cpu tries the script itself")
    results = {"device": torch.cuda.get_device_name(0) if cfg.device == "cuda" else "cpu", "torch": torch.__version__,
               "flash_attn": attention.flash_attn_varlen_func is not None, "parity": parity(cfg.device)}
    if not cfg.quick:
        results["steps"] = {}
        for shape in cfg.shapes:
            results["steps"][Path(shape).name] = step_of(shape, cfg)
            if cfg.device == "cuda":
                torch.cuda.empty_cache()
        if find_spec("vllm.config"):  # tests/vllm is no vLLM
            results["vllm"] = sampling(cfg)
        else:
            say("vLLM is not installed: its part is left out")
    Path(cfg.out).write_text(json.dumps(results, indent=1))
    if bad := [name for name, row in {**results["parity"], "vLLM": results.get("vllm", {"good": True})}.items() if not row["good"]]:
        raise Refused(f"not equal on this GPU: {', '.join(bad)}")


if __name__ == "__main__":
    main(check, Config)
