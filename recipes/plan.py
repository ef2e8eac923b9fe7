"""What a GPU will hold, before one is rented: `python recipes/plan.py --model MODEL --gpus 8 --tokens 16384`.

Only config.json is read: the model is built without weights (torch's meta device), so its tensors are
counted, not guessed. Weights, gradients and optimizer are exact; the rest are sums over the tensors that are
there at the worst moment of a pack, written out in `moments`. tests/test_fake_cuda.py compares them with a
step of tensors without content, bench/gpu_check.py with a GPU's peak.

`python recipes/plan.py data --data D --model M` is a pre-pass over a data set: rows that drop out and why,
images, lengths.
"""
import dataclasses
import math
import sys
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # started by its path: the top folder of the repository comes first
    sys.path[0] = str(Path(__file__).parent.parent)

import torch

from connector import make_connectors
from data import Processor, read_records, subjects
from machinery.files import checkpoints, main, resolve, say
from machinery.model_folder import add_adapters, blank_hf, read_decided
from machinery.supervised import of_mode
from model import CHUNK, PARTS, VLM
from reward import report_unreadable
from rollout import prompts_at_once

GIB = 2 ** 30


@dataclass
class Config:
    model: str = "recipes/configs/InternVL3-38B"  # folder with a config.json, or hub name
    gpus: int = 8                                 # over all nodes
    gpu_gib: float = 80.0                         # memory of each
    train: tuple[str, ...] = PARTS                # parts that train: encoder connector llm
    lora: int = 0                                 # rank of the LLM's adapters; 0: it trains whole
    tokens: int = 16384                           # of a pack: --max_tokens of the stages
    visual: int = 3328                        # visual tokens among them (13 tiles of 256 are one large image)
    rollout: str = "vllm"                         # vllm, torch, or none for the supervised stages
    tensor_parallel: int = 1                      # GPUs that share one vllm
    responses: int = 16                           # that vllm has room for at a time, at least
    prompts: int = 32                             # of a step, over all GPUs
    samples: int = 32                             # responses to each
    rollout_batch: int = 512                      # responses that the torch sampler decodes at a time
    max_new_tokens: int = 8192                    # longest response
    checkpointing: bool = True                    # as in the stages
    hybrid: bool = False                          # every node of 8 holds a whole copy
    offload: bool = False                         # weights, gradients and optimizer in host memory


def shape(path):
    """Numbers of a model that is built without weights: parameters by part, of a block, outside of blocks."""
    config = read_decided(resolve(path) if checkpoints(path) else path)
    file = (config.dtype or config.text_config.dtype or torch.float32).itemsize  # bytes of a weight on disk
    vlm = VLM(blank_hf(config, make_connectors), str(path)).train_only(PARTS)
    parts = {part: sum(p.numel() for p in tensors.values()) for part, tensors in vlm.parts().items()}
    total, names = sum(parts.values()), set(vlm.hf._no_split_modules)
    blocks = [m for m in vlm.hf.modules() if type(m).__name__ in names]
    blocks = [sum(p.numel() for p in m.parameters()) for m in blocks]
    t, v = config.text_config, config.vision_config
    head = getattr(t, "head_dim", None) or t.hidden_size // t.num_attention_heads
    linear = {part: [] for part in PARTS}  # matrices, without the output layer
    for name, m in vlm.hf.named_modules():
        if isinstance(m, torch.nn.Linear) and m is not vlm.hf.lm_head:
            linear[vlm.family.part_of(f"{name}.weight")].append(m)
    return dict(
        vlm=vlm, parts=parts, total=total, block=max(blocks), root=total - sum(blocks), file=file,
        d=t.hidden_size, hq=t.num_attention_heads * head, kv=t.num_key_value_heads * head,
        ff=t.intermediate_size, layers=t.num_hidden_layers, vocabulary=t.vocab_size,
        heads=t.num_attention_heads, tied=config.tie_word_embeddings, v=v.hidden_size,
        patches=vlm.family.patches_per_token(), depth=getattr(v, "num_hidden_layers", getattr(v, "depth", 0)),
        qk_norm=hasattr(vlm.hf.model.language_model.layers[0].self_attn, "q_norm"),
        linear={part: sum(m.weight.numel() for m in of_part) for part, of_part in linear.items()},
        ends={part: sum(m.in_features + m.out_features for m in linear[part]) for part in PARTS})


def trained(s, cfg):
    """Parameters that train: all of a part, of an LLM with adapters only these."""
    whole = [s["parts"][part] for part in cfg.train if part != "llm" or not cfg.lora]
    return sum(whole) + cfg.lora * s["ends"]["llm"]


def weights(s, cfg):
    """{what: bytes} of one copy of the weights: see bf16_weights."""
    frozen = set(PARTS) - set(cfg.train) | ({"llm"} if cfg.lora else set())
    half = sum(s["linear"][part] for part in frozen) * (s["file"] == 2)
    return {"weights, fp32": 4 * (s["total"] - half + cfg.lora * s["ends"]["llm"]),
            "frozen matrices, bf16": 2 * half}


def memory(s, cfg):
    """{"training": {what: GiB on each GPU}, "sampling": {...}}, each at its moment that needs most."""
    learns, copy, many, phases = trained(s, cfg), weights(s, cfg), cfg.gpus > 1, {}
    share = min(cfg.gpus, 8) if cfg.hybrid else cfg.gpus                  # GPUs that share one copy
    here = 0 if cfg.offload and many else 1 / share
    state = {what: n * here for what, n in copy.items()} | {"optimizer (AdamW, fp32)": 8 * learns * here}
    if many and cfg.rollout == "torch":
        state["sampler: replica"] = sum(copy.values())
    # a step has several packs, so gradients of earlier ones are there at every moment
    worst = max(moments(s, cfg, share), key=lambda rows: sum(rows.values()))
    phases["training"] = state | {"gradients, fp32": 4 * learns * here} | worst
    if cfg.rollout != "none":
        phases["sampling"] = state | sampling(s, cfg)
    return {phase: {what: n / GIB for what, n in rows.items()} for phase, rows in phases.items()}


def moments(s, cfg, share):
    """[{what: bytes}] of a pack at the end of the LLM's forward, in the head, in the last block's backward,
    and where FSDP reduces the gradients of what lies outside of blocks. Other moments need less: in the
    encoder's backward the LLM's activations are gone, and the optimizer (fused) needs nothing more."""
    d, hq, kv, ff, T, many = s["d"], s["hq"], s["kv"], s["ff"], cfg.tokens, cfg.gpus > 1
    inputs = "llm" in cfg.train  # matrices keep theirs: they or their adapters train
    whole, again = inputs and not cfg.lora, cfg.checkpointing
    table, learns, r = s["vocabulary"] * d, trained(s, cfg), 2 if many else 4  # r: of the residual stream
    # a block of the LLM keeps of a token: inside of norms, inputs of matrices (rounded once for each where
    # the stream is fp32), queries, attention's output, keys and values (twice: each response has its
    # prompt's), gate, its silu, up and their product
    norms, rounded = (8 + 4 * whole, 4) if many else (8 * whole, 10)
    kept = (r + norms + rounded * inputs) * d + 4 * hq + 8 * kv + 6 * (hq + kv) * s["qk_norm"]
    kept += (6 + 2 * inputs) * ff
    llm, encoder, casts = (s["layers"] + 1) * r * d, (s["depth"] + 1) * r * s["v"], s["linear"]["llm"] * whole
    if not again:
        llm += s["layers"] * kept
        encoder += 2 * s["ends"]["encoder"] + 4 * s["depth"] * s["v"]
        casts += sum(s["linear"][part] for part in cfg.train if part != "llm")
    always = {"activations: LLM": T * llm,
              "activations: encoder": cfg.visual * s["patches"] * encoder * ("encoder" in cfg.train)}
    forward = {"a block's forward": T * (2 * r * d + 6 * ff * again)}
    head = {"head: logits in chunks": (16 - 4 * whole) * CHUNK["cuda"] + 12 * T * d
            + (4 * (many + whole) + 2 * (many and whole)) * table}  # weight, gradient in fp32, rounded
    backward = {"a block's backward": T * (kept * again + r * d + (6 - 2 * inputs) * ff)}
    if not many:  # autocast keeps what it has rounded until the forward ends, the backward all that it needs
        now = zip((forward, head, backward), (casts, 0, s["block"] * whole) if again else 3 * (casts,))
        return [always | rows | {"weights cast to bf16": 2 * n} for rows, n in now]
    # gathered are what lies outside of blocks, a block, and the next one in a buffer
    always["gathered weights, bf16"] = 2 * s["root"] + 4 * s["block"]
    backward["gradients before reduction"] = min(6 * s["block"], 6 * learns) + 2 * table * whole
    end = {"gathered weights, bf16": 2 * s["root"],
           "gradients before reduction": (6 + 4 / share) * min(s["root"], learns)}
    return [always | forward, always | head, always | backward, end]


def sampling(s, cfg):
    """{what: bytes} of the sampler"""
    cache, longest = s["kv"] * s["layers"], cfg.visual + cfg.max_new_tokens
    if cfg.rollout == "vllm":
        rows = {"sampler: weights, bf16": 2 * s["total"],
                f"sampler: keys and values of {cfg.responses} responses": 4 * cache * cfg.responses * longest}
        return {what: n / cfg.tensor_parallel for what, n in rows.items()}
    prompts = min(prompts_at_once(cfg.rollout_batch, cfg.samples), math.ceil(cfg.prompts / cfg.gpus))
    B, longer = prompts * cfg.samples, max(32, cfg.max_new_tokens)
    room = 1 << (longer - 1).bit_length()  # tokens: it grows by doubling
    rounds = (set(cfg.train) if cfg.gpus == 1 else {"llm"}) - ({"llm"} if cfg.lora else set())
    return {"sampler: weights cast to bf16": 2 * sum(s["linear"][part] for part in rounds),
            # rotated keys are fp32; a prompt's are there as packed and for the decoding
            f"sampler: keys and values of {B} responses": 6 * cache * (B * room + 2 * prompts * cfg.visual),
            "sampler: a layer's keys in bf16, scores": B * (2 * s["kv"] * room + 14 * s["heads"] * longest),
            "sampler: logits": 5 * 4 * B * s["vocabulary"]}


def room(cfg):
    """GiB of a GPU that can be planned with: without CUDA's own 1.5 GiB and 6% lost to fragments."""
    return 0.94 * cfg.gpu_gib - 1.5


def need(s, cfg):
    return max(sum(rows.values()) for rows in memory(s, cfg).values())


def changes(s, cfg):
    """What to type: changes with which it fits, each alone or with more GPUs for an engine of vLLM."""
    row = cfg.visual + cfg.max_new_tokens * (cfg.rollout != "none")  # a pack holds its images and a response
    tried = [{}, {"checkpointing": True}, {"hybrid": False}, {"rollout": "vllm"}, {"offload": True}]
    for n in (2, 4):
        tried += [{"tokens": max(row, cfg.tokens // n)}, {"max_new_tokens": cfg.max_new_tokens // n},
                  {"gpus": cfg.gpus * n}]
    tried.append({"lora": 8, "train": ("connector", "llm")})
    engines = [{}, *({"tensor_parallel": n} for n in (2, 4) if cfg.tensor_parallel < n <= cfg.gpus)]
    fits = [{**change, **engine} for engine in engines for change in tried
            if need(s, c := dataclasses.replace(cfg, **change, **engine)) <= room(c)]
    typed = {True: "--{}", False: "--no-{}", ("connector", "llm"): "--{} connector llm"}
    return [" ".join(typed.get(value, f"--{{}} {value}").format(name) for name, value in change.items())
            for change in fits]


def plan(cfg):
    """Print the table; returns whether it fits."""
    cfg = dataclasses.replace(cfg, visual=min(cfg.visual, cfg.tokens))
    s = shape(cfg.model)
    if cfg.lora:
        add_adapters(s["vlm"], cfg.lora)
    s["vlm"].train_only(cfg.train)
    say(s["vlm"].table())
    say(f"\nGiB on each of {cfg.gpus} GPUs, packs of {cfg.tokens:,} tokens of which {cfg.visual:,} are visual"
        f"{', checkpointing' * cfg.checkpointing}{', hybrid' * cfg.hybrid}{', offload' * cfg.offload}")
    for phase, rows in memory(s, cfg).items():
        for what, n in rows.items():
            if n:
                say(f"  {what:<50} {n:>8.1f}")
        least = ""
        if phase == "sampling" and cfg.rollout == "vllm":
            share = sum(n for what, n in rows.items() if "sampler" in what) / cfg.gpu_gib
            least = f", --vllm_memory {share:.2f} or more"
        say(f"  {phase + ' phase':<50} {sum(rows.values()):>8.1f}   of {room(cfg):.1f}{least}\n")
    held, learns = sum(weights(s, cfg).values()), trained(s, cfg)
    read, written = (n * s["total"] / GIB for n in (s["file"] if cfg.gpus > 1 else 4, s["file"]))
    say(f"  host memory: {read:.0f} GiB where rank 0 reads the weights"
        + f", {(held + 12 * learns) / GIB:.0f} offloaded over all nodes" * cfg.offload)
    if cfg.rollout == "vllm":
        n = 2 * s["total"] / GIB
        say(f"  and pinned, while vLLM sleeps: {n:.0f} to {2 * n:.0f} an engine (powers of two)")
    if learns:
        say(f"  disk: {written:.0f} GiB a checkpoint and {(held + 8 * learns) / GIB:.0f} "
            f"for the newest one's trainer/")
    if need(s, cfg) <= room(cfg):
        say("  it fits")
        return True
    say(f"  it does not fit. What would: {', or '.join(changes(s, cfg)[:5]) or 'several changes; try some'}")
    return False


def flops(s, tokens, pairs, responses, patches, seen):
    """Model FLOPs of a training step of all parts, nothing counted twice for checkpointing: 6 for each weight
    that a token meets, 12 * width for each pair of tokens in attention. The embedding table is looked up, not
    multiplied.

    pairs: (query, key) pairs that the packs let attend; responses: tokens that the head sees; patches: what
    the encoder sees; seen: patches that each patch attends to."""
    table = s["d"] * s["vocabulary"]
    blocks = s["parts"]["llm"] - table * (1 if s["tied"] else 2)
    llm = 6 * (blocks * tokens + table * responses) + 12 * s["layers"] * s["hq"] * pairs
    encoder = 6 * s["parts"]["encoder"] * patches + 12 * s["depth"] * s["v"] * seen * patches
    return llm + encoder + 6 * s["parts"]["connector"] * patches / s["patches"]


# ------------------------------------------------------------------------------------------- pre-pass of data

@dataclass
class DataConfig:
    data: str = "data/tiny/rl.jsonl"          # JSON, CSV, Parquet, folder, hub name
    model: str = "out/tiny/cold_start"        # whose tokens are counted: model folder, run folder or hub name
    columns: tuple[str, ...] = ()             # OURS=THEIRS, e.g. question=problem answer=ground_truth
    image_root: str = ""                      # folder that image paths start from; "": the data file's
    # fields that may not be empty; supervised stages need question and solution
    need: tuple[str, ...] = ("question", "answer")
    max_tiles: int = 12                       # tiles of an image (InternVL)
    pixels: tuple[int, int] = (0, 0)          # fewest and most pixels (Qwen-VL); 0 = the model's own
    thinking: bool = True                     # the prompt ends with <think>
    ask: str = ""                             # said below every question
    system: str = ""                          # system prompt; "": what the chat template has


def report(cfg):
    """What a data set will be to a model: rows that drop out and why, images, lengths. Rows are those that a
    stage would train on: with solutions those of the thinking mode, with answers those the rule reads."""
    processor = Processor(cfg.model, cfg.max_tiles, cfg.pixels, cfg.ask, cfg.system)
    records = read_records(cfg.data, cfg.columns, cfg.need, limit_bad=1.0, image_root=cfg.image_root)
    if "solution" in cfg.need:
        records = of_mode(records, cfg.thinking, cfg.data, 1.0)
    elif "answer" in cfg.need:
        unreadable = report_unreadable(cfg.data, records, 1.0, "")
        records = [r for i, r in enumerate(records) if i not in unreadable]
    prompts = processor.prompts(records, cfg.thinking)
    solutions = [processor.plain(r.solution) for r in records if r.solution]
    table = {"images of a row": [len(r.images) for r in records],
             "longer side of an image": [max(size) for r in records for size in r.sizes],
             "visual tokens of a row": [p.full.count(processor.image_id) for p in prompts],
             "prompt tokens": [len(p.full) for p in prompts],
             "solution tokens": [len(ids) for ids in processor.encode(solutions)]}
    say(f"{cfg.data}: {len(records):,} rows can be used, {len(prompts):,} fit the context of "
        f"{processor.context:,} tokens; subjects: {subjects(records)}")
    say(f"  {'':<24} {'least':>8} {'median':>8} {'99%':>8} {'most':>8}")
    for what, n in table.items():
        n = sorted(n) or [0]
        say(f"  {what:<24} {n[0]:>8,} {n[len(n) // 2]:>8,} {n[int(0.99 * len(n))]:>8,} {n[-1]:>8,}")
    for prompt in prompts[:1]:
        say(f"\nthe first prompt, as the model reads it:\n{processor.tokenizer.decode(prompt.ids)}\n"
            f"answer: {prompt.record.answer!r}")
        if "solution" in cfg.need:
            say(f"solution: {prompt.record.solution!r}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["data"]:
        sys.argv.pop(1)
        main(report, DataConfig)
    else:
        main(plan, Config)
