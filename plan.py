"""What a GPU will hold, before one is rented: `python plan.py --model PATH_OR_HUB_NAME --gpus 8 --tokens
16384` (or `python model.py plan ...`).

Only config.json is read: the model is built without weights (torch's meta device), so its tensors are
counted, not guessed. Weights, gradients and optimizer are exact; activations are sums over the tensors that a
block keeps for its backward, written out in `memory` so that they can be checked, and bench/gpu_check.py
compares them with measured peaks.

`python plan.py data --data D --model M` is a pre-pass over a data set: rows that drop out and why, images,
lengths.

`python plan.py dry_run GPUS GIB CONFIG sft.py --flags ... -- grpo.py --flags ...` parses the steps' own
flags and checks paths, data, versions, disk and memory without a GPU; the recipes' --dry_run is made of it.
CONFIG is a folder with the config.json of the model that is to be trained (recipes/configs), for when its
weights are not there yet.
"""
import dataclasses
import sys
from dataclasses import dataclass

import torch

from connector import make_connectors
from data import Chat, of_mode, read_records, subjects
from machinery.files import Refused, main, say
from machinery.lora import add_adapters
from machinery.model_folder import blank_hf, read_decided
from model import CHUNK, PARTS, VLM
from reward import report_unreadable

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
    responses: int = 16                           # responses that a sampler holds at a time, at least
    max_new_tokens: int = 8192                    # their length
    checkpointing: bool = True                    # as in the stages
    hybrid: bool = False                          # every node of 8 holds a whole copy
    offload: bool = False                         # weights, gradients and optimizer in host memory


def shape(path):
    """Numbers of a model that is built without weights: parameters by part, of a block, outside of blocks."""
    config = read_decided(path)
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
        tied=config.tie_word_embeddings, v=v.hidden_size, vff=v.intermediate_size,
        depth=getattr(v, "num_hidden_layers", getattr(v, "depth", 0)), patches=vlm.family.patches_per_token(),
        linear={part: sum(m.weight.numel() for m in of_part) for part, of_part in linear.items()},
        adapter=sum(m.in_features + m.out_features for m in linear["llm"]))  # parameters of one of rank 1


def trained(s, cfg):
    """Parameters that train: all of a part, of an LLM with adapters only these."""
    whole = [s["parts"][part] for part in cfg.train if part != "llm" or not cfg.lora]
    return sum(whole) + cfg.lora * s["adapter"]


def weights(s, cfg):
    """{what: bytes} of one copy of the weights: see half_will_do."""
    frozen = set(PARTS) - set(cfg.train) | ({"llm"} if cfg.lora else set())
    half = sum(s["linear"][part] for part in frozen) if s["file"] == 2 else 0
    return {"weights, fp32": 4 * (s["total"] - half + cfg.lora * s["adapter"]),
            "frozen matrices, bf16": 2 * half}


def memory(s, cfg):
    """{"training": {what: GiB on each GPU}, "sampling": {...}}"""
    learns, copy = trained(s, cfg), weights(s, cfg)
    cast = copy["weights, fp32"] / 2  # bytes of what autocast rounds to bf16
    many = cfg.gpus > 1
    share = min(cfg.gpus, 8) if cfg.hybrid else cfg.gpus                  # GPUs that share one copy
    here = 0 if cfg.offload and many else 1
    state = {what: n / share * here for what, n in copy.items()}
    state["optimizer (AdamW, fp32)"] = 8 * learns / share * here
    train = {**state, "gradients, fp32": 4 * learns / share * here}
    if many:
        # FSDP: what lies outside the blocks stays gathered, of the blocks this one and the next; then the
        # reduction in fp32
        gathered, largest = 2 * s["root"] + 2 * s["block"], max(s["root"], s["block"])
        train["gathered weights, bf16"] = gathered + 2 * s["block"]
        train["gradients before reduction"] = min(gathered + 4 * largest, 6 * learns)
    else:
        train["weights cast to bf16"] = cast
    train |= activations(s, cfg)
    # logits in chunks: the chunk and its exponentials; the head's weight in fp32, and its gradient
    copies = 2 if "llm" in cfg.train and not cfg.lora else 1
    train["head: logits in chunks"] = 2 * 4 * CHUNK["cuda"] + copies * 4 * s["vocabulary"] * s["d"]
    replica = {"sampler: replica": sum(copy.values())} if many and cfg.rollout == "torch" else {}
    phases = {"training": train | replica}
    if cfg.rollout != "none":
        phases["sampling"] = state | replica | sampling(s, cfg, cast)
    return {phase: {what: n / GIB for what, n in rows.items()} for phase, rows in phases.items()}


def activations(s, cfg):
    """Bytes that encoder and LLM keep for their backward."""
    r = 2 if cfg.gpus > 1 else 4                                          # bytes of the residual stream
    d, hq, kv, ff, v, vff = (s[k] for k in ("d", "hq", "kv", "ff", "v", "vff"))
    # a block keeps, per token: two norms with their fp32 insides, inputs of the matrices, queries and keys
    # before and after rotation, keys and values gathered for the packs, attention's output, gate, up, their
    # product
    token = (4 * r + 16 + 6) * d + (2 + 3 * r + 4) * hq + (4 + 2 * r + 8) * kv + 8 * ff
    patch = (4 * r + 16 + 30) * v + 4 * vff
    patches = cfg.visual * s["patches"]
    reaches_llm = bool(set(PARTS) & set(cfg.train))     # the gradient of every part passes through the LLM
    encoder = "encoder" in cfg.train
    if cfg.checkpointing:
        llm = cfg.tokens * (r * d * s["layers"] + token)
        kept = patches * ((r * v * s["depth"] if encoder else 0) + patch)
    else:
        llm = cfg.tokens * token * s["layers"]
        kept = patches * patch * (s["depth"] if encoder else 1)
    return {"activations: LLM": llm * reaches_llm, "activations: encoder": kept}


def sampling(s, cfg, cast):
    """Bytes of the sampler's own weights (cast: rounded to bf16 by autocast) and of the keys and values that
    it holds."""
    cache = 2 * s["kv"] * s["layers"] * 2                     # of a token's keys and values, bf16
    held = cfg.responses * (cfg.max_new_tokens + cfg.visual) * cache
    what = f"sampler: keys and values of {cfg.responses} responses"
    if cfg.rollout == "vllm":
        return {"sampler: weights, bf16": 2 * s["total"] / cfg.tensor_parallel,
                what: held / cfg.tensor_parallel}
    return {"sampler: weights cast to bf16": cast, what: 1.5 * held}


def room(cfg):
    """GiB of a GPU that can be planned with: without CUDA's own 1.5 GiB and 6% lost to fragments."""
    return 0.94 * cfg.gpu_gib - 1.5


def need(s, cfg):
    return max(sum(rows.values()) for rows in memory(s, cfg).values())


def changes(cfg):
    """Yield (words, fields of cfg) of each single change that needs less memory, cheap ones first."""
    if not cfg.checkpointing:
        yield "--checkpointing", dict(checkpointing=True)
    if cfg.rollout == "vllm":
        for n in (2, 4, 8):
            if cfg.tensor_parallel < n <= cfg.gpus:
                yield f"--tensor_parallel {n}", dict(tensor_parallel=n)
    if cfg.rollout == "torch" and cfg.gpus > 1:
        yield "--rollout vllm", dict(rollout="vllm")
    for n in (cfg.tokens // 2, cfg.tokens // 4):
        longest = cfg.visual + (cfg.max_new_tokens if cfg.rollout != "none" else 0)
        if n >= max(2048, longest):  # a row has to fit: its images, and a response of GRPO
            yield f"--tokens {n}", dict(tokens=n)
    for n in (cfg.max_new_tokens // 2, cfg.max_new_tokens // 4):
        if n >= 1024 and cfg.rollout != "none":
            yield f"--max_new_tokens {n}", dict(max_new_tokens=n)
    if cfg.hybrid:
        yield "without --hybrid", dict(hybrid=False)
    else:
        yield from ((f"--gpus {n}", dict(gpus=n)) for n in (cfg.gpus * 2, cfg.gpus * 4))
    if not cfg.offload and cfg.gpus > 1:
        yield "--offload", dict(offload=True)


def smallest_change(s, cfg):
    """The flags that make it fit, as few and as cheap as possible; None when nothing does."""
    tried = [({}, cfg)]
    for _ in range(3):  # one change, else two, else three
        tried = [({**words, word.split()[0]: word}, dataclasses.replace(c, **change))  # of a flag the last
                 for words, c in tried for word, change in changes(c)]
        for words, c in tried:
            if need(s, c) <= room(c):
                return " ".join(words.values())
    return None


def with_adapters(s, cfg):
    """The flags that make it fit when the LLM trains by adapters: the parts as they are, else without the
    encoder, else with more changes; None when nothing does."""
    for parts in (cfg.train, tuple(part for part in cfg.train if part != "encoder")):
        less = dataclasses.replace(cfg, lora=8, train=parts)
        words = "--lora 8" + (f" --train {' '.join(parts)}" if parts != cfg.train else "")
        if need(s, less) <= room(less):
            return words
    change = smallest_change(s, less)
    return f"{words} {change}" if change else None


def plan(cfg):
    """Print the table; returns whether it fits."""
    if wrong := set(cfg.train) - set(PARTS) or ({cfg.rollout} - {"vllm", "torch", "none"}):
        raise Refused(f"{' '.join(wrong)}: the parts are {', '.join(PARTS)}, "
                      f"the rollouts vllm, torch and none")
    cfg = dataclasses.replace(cfg, visual=min(cfg.visual, cfg.tokens))
    s = shape(cfg.model)
    if cfg.lora:
        add_adapters(s["vlm"], cfg.lora)
    say(s["vlm"].train_only(cfg.train).table())
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
    offloaded = f", {(held + 12 * learns) / GIB:.0f} over all nodes" * cfg.offload
    say(f"  host memory: {2 * s['total'] / GIB:.0f} GiB where rank 0 reads the weights{offloaded}; disk: "
        f"{s['file'] * s['total'] / GIB:.0f} GiB a checkpoint and {(held + 8 * learns) / GIB:.0f} "
        f"for the newest one's trainer/")
    if need(s, cfg) <= room(cfg):
        say("  it fits")
        return True
    change = smallest_change(s, cfg)
    say(f"  it does not fit. The smallest change that would: {change}" if change else
        "  it does not fit, and no change of flags that is known here makes it")
    if "llm" in cfg.train and not cfg.lora and (words := with_adapters(s, cfg)):
        say(f"  or with adapters in place of the whole LLM: {words}")
    return False


def flops(s, tokens, pairs, responses, patches, seen, train=PARTS):
    """Model FLOPs of a training step, nothing counted twice for checkpointing: 2 for each weight that a token
    meets forward, 2 backward to the input, 2 more to the weight when it trains; 4 * width for each pair of
    tokens in attention forward, twice that backward. The embedding table is looked up, not multiplied.

    pairs: (query, key) pairs that the packs let attend; responses: tokens that the head sees; patches: what
    the encoder sees; seen: patches that each patch attends to.
    """
    def of(part):  # FLOPs of a weight: forward, backward to the input, and to the weight when it trains
        return 6 if part in train else 4

    table = s["d"] * s["vocabulary"]
    blocks = s["parts"]["llm"] - table * (1 if s["tied"] else 2)
    llm = of("llm") * (blocks * tokens + table * responses) + 12 * s["layers"] * s["hq"] * pairs
    trains = "encoder" in train  # else it has no backward
    encoder = (6 if trains else 2) * s["parts"]["encoder"] * patches
    encoder += (12 if trains else 4) * s["depth"] * s["v"] * seen * patches
    reached = bool({"encoder", "connector"} & set(train))  # by the gradient
    connector = (of("connector") if reached else 2) * s["parts"]["connector"] * patches / s["patches"]
    return llm + encoder + connector


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
    chat = Chat(cfg.model, cfg.max_tiles, cfg.pixels, cfg.ask, cfg.system)
    records = read_records(cfg.data, cfg.columns, cfg.need, limit_bad=1.0, image_root=cfg.image_root)
    if "solution" in cfg.need:
        records = of_mode(records, cfg.thinking, cfg.data, 1.0)
    elif "answer" in cfg.need:
        unreadable = report_unreadable(cfg.data, records, 1.0, "")
        records = [r for i, r in enumerate(records) if i not in unreadable]
    prompts = chat.prompts(records, cfg.thinking)
    sizes = [size for r in records for size in r.sizes]
    solutions = [chat.plain.hide(r.solution) for r in records if r.solution]
    table = {"images of a row": [len(r.images) for r in records],
             "image height": [h for h, _ in sizes], "image width": [w for _, w in sizes],
             "visual tokens of a row": [p.full.count(chat.image_id) for p in prompts],
             "prompt tokens": [len(p.full) for p in prompts],
             "solution tokens": [len(ids) for ids in chat.plain.encode(solutions)],
             "options": [len(r.options) for r in records], "earlier turns": [len(r.turns) for r in records]}
    say(f"{cfg.data}: {len(records):,} rows can be used, {len(prompts):,} fit the context of "
        f"{chat.context:,} tokens; subjects: {subjects(records)}")
    say(f"  {'':<24} {'least':>8} {'median':>8} {'99%':>8} {'most':>8}")
    for what, n in table.items():
        n = sorted(n) or [0]
        say(f"  {what:<24} {n[0]:>8,} {n[len(n) // 2]:>8,} {n[int(0.99 * len(n))]:>8,} {n[-1]:>8,}")
    for prompt in prompts[:1]:
        say(f"\nthe first prompt, as the model reads it:\n{chat.tokenizer.decode(prompt.ids)}\n"
            f"answer: {prompt.record.answer!r}")
        if "solution" in cfg.need:
            say(f"solution: {prompt.record.solution!r}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["data"]:
        sys.argv.pop(1)
        main(report, DataConfig)
    else:
        main(plan, Config)
