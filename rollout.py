"""Sampling responses: `sampler.generate(prompts, n) -> [[Rollout]]` and `sampler.sync(vlm)`.

TorchSampler is the embedded default: plain torch, exact (its log-probs are the trainer's), and quick enough
for small models on any machine. A prompt and its images are computed once for its whole group of n samples,
and its keys and values are held once: every sample of the group reads the same ones. It runs the very modules
that are trained, with the same attention as the packs (pack.Layout); only the layouts differ. For models of
real size VLLMSampler has the same two methods (`--rollout vllm`).

Sampling has one knob, the temperature. top-p, top-k and repetition penalties would sample from another
distribution than the one that the policy gradient assumes, so they do not exist here.
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from connector import chosen
from data import Prompt
from machinery.files import Refused
from machinery.parallel import even_out, total
from model import load
from pack import make_pack, make_packs
from reward import Reward
from signals import critical_tokens, denies_image, repetition


@dataclass
class Rollout:
    """One response, from sampling to the loss."""
    prompt: Prompt
    ids: list               # response ids, the end token included when the model wrote it
    logp: torch.Tensor      # (T,) log-prob of each id under the distribution that it was drawn from
    entropy: torch.Tensor   # (T,) entropy of that distribution, in nats; None from vLLM
    text: str               # without special tokens
    pieces: list            # [str], the text of each id; they join to `text`
    finish: str             # "stop", or "length" when max_new_tokens or the model's context ended it
    reward: Reward = None   # what it was paid (reward.py); the fields below are filled in by grpo.py
    advantage: torch.Tensor = None  # (T,) of each token: its reward against those of its group

    def critical(self, words):
        """Numbers of the ids that open a critical word: the token that holds a word's first letter is the one
        that was doubted. Words are found in the text, so it does not matter how the tokenizer cuts them."""
        return [first for first, _, _ in critical_tokens(self.pieces, words)]

    def seen(self):
        """What is logged of every response, as numbers (a mean over responses makes shares of them)"""
        return {"accuracy": self.reward.accuracy, "format": self.reward.format, "length": len(self.ids),
                "truncated": self.finish == "length", "denial": denies_image(self.text),
                "repetition": repetition(self.text)}


@dataclass
class Group:
    """A prompt and the responses to it, or some of them: what GRPO compares."""
    prompt: Prompt
    rollouts: list

    def with_ids(self):
        """As make_packs reads it"""
        return self.prompt, [r.ids for r in self.rollouts]

    def mixed(self):
        """Whether it has right and wrong answers"""
        return len({r.reward.accuracy for r in self.rollouts}) > 1


def make_rollout(processor, prompt, ids, logp, entropy, finish):
    pieces = processor.pieces(ids)
    return Rollout(prompt, ids, logp, entropy, "".join(pieces), pieces, finish)


# --------------------------------------------------------------------------------------------------- samplers

def prompts_at_once(batch, n):
    """Prompts that TorchSampler takes together, with n responses to each."""
    return max(1, batch // n)


class TorchSampler:
    """Samples with the trainer's own modules in one process; under torchrun each process holds a whole
    replica, because ranks sample different lengths and would wait for each other in FSDP's collectives."""

    def __init__(self, vlm, processor, batch=512, world=None):
        self.vlm, self.processor, self.batch = vlm, processor, batch
        self.replica = world is not None and world.size > 1
        if self.replica:
            dtype = "bf16" if vlm.autocast_dtype else "fp32"
            # it computes exactly as the trainer: adapters are not merged (and want an LLM that trains)
            self.vlm = load(vlm.source, device=world.device, dtype=dtype, train=("llm",), lora=vlm.lora)
            self.sync(vlm)

    @torch.no_grad()
    def sync(self, vlm):
        """Take over the trainer's weights. Every rank must call it."""
        if not self.replica:
            return
        mine, theirs = dict(self.vlm.named_parameters()), dict(vlm.named_parameters())
        if mine.keys() != theirs.keys():
            different = sorted(mine.keys() ^ theirs.keys())
            raise Refused(f"sampler and trainer have different tensors: {different[:3]}")
        for name, p in theirs.items():
            mine[name].copy_(p.full_tensor() if isinstance(p, DTensor) else p)

    @torch.no_grad()
    def generate(self, prompts, n=1, max_new_tokens=8192, temperature=1.0, seed=0, ban=(), progress=None,
                 listen=None):
        """n responses for each prompt: a list of n Rollouts a prompt, in the order of the prompts.

        temperature 0 takes the most likely token. ban: ids that are never written. progress: words for a
        progress bar. listen(id, entropy) is called for each token of a single response as soon as it is
        drawn.
        """
        draw = Draw(temperature, ban, torch.Generator(self.vlm.hf.device).manual_seed(seed))
        out = [[] for _ in prompts]
        todo = sorted(range(len(prompts)), key=lambda i: len(prompts[i].full))  # little padding
        width = prompts_at_once(self.batch, n)
        bar = tqdm(total=len(prompts) * n, desc=progress, disable=progress is None, unit="response",
                   leave=False, dynamic_ncols=True)
        with self.vlm.autocast(), bar:
            for i in range(0, len(todo), width):
                part = todo[i:i + width]
                groups = self._batch([prompts[j] for j in part], n, max_new_tokens, draw, bar, listen)
                for j, group in zip(part, groups):
                    out[j] = group
        return out

    def _batch(self, prompts, n, max_new_tokens, draw, bar, listen):
        """B = P * n responses at a time: every prompt and its images once, then one token for every response
        at a time."""
        vlm, device, B = self.vlm, self.vlm.hf.device, len(prompts) * n
        pack = make_pack(self.processor, [(p, []) for p in prompts], draw.temperature).to(device)
        prefill = Prefill(pack.layout)
        hidden = vlm.decode(pack, vlm.connect(vlm.encode(pack)), prefill)                      # (N, d)
        last = pack.layout.segments[:, :2].sum(1).to(device) - 1                          # start + length - 1
        hidden = hidden[last].repeat_interleave(n, 0)                                          # (B, d)
        cache = Decode(prefill, n, device)

        limit = [min(max_new_tokens, self.processor.context - len(p.full)) for p in prompts]
        longest, limit = max(limit), torch.tensor(limit, device=device).repeat_interleave(n)
        behind = [self.processor.positions(p).max() + 1 for p in prompts]        # position of the first token
        behind = torch.stack(behind).to(device).repeat_interleave(n)
        stop = torch.tensor(self.processor.stop_ids, device=device)
        ids = torch.zeros(B, longest, dtype=torch.long, device=device)                 # what was drawn so far
        logps, entropies = torch.zeros(B, longest, device=device), torch.zeros(B, longest, device=device)
        length, stopped = torch.zeros_like(limit), torch.zeros_like(limit, dtype=torch.bool)  # 0: runs
        alive = torch.arange(B, device=device)  # the response that each row of the running batch belongs to

        # a GPU runs ahead of python until it is asked for a number: that is done at every eighth token
        every, known = 8 if device.type == "cuda" and not listen else 1, 0
        for t in range(longest):  # what is written behind the end of a response, nobody reads
            token, logp, entropy = draw(vlm.logits(hidden, draw.temperature or 1.0))
            ids[alive, t], logps[alive, t], entropies[alive, t] = token, logp, entropy
            if listen:
                listen(int(token), float(entropy))
            ended = torch.isin(token, stop)
            ends_now = (length[alive] == 0) & (ended | (t + 1 >= limit[alive]))
            stopped[alive] = stopped[alive] | (ends_now & ended)
            length[alive] = length[alive] + ends_now * (t + 1)
            if t % every == every - 1 or t + 1 == longest:
                running = length[alive] == 0
                count = int(running.sum())
                bar.update(B - count - known)
                known = B - count
                if not count:
                    break
                if count < len(alive) / 2:
                    rows = cache.drop(running)
                    alive, token = alive[rows], token[rows]
            x = vlm.hf.model.language_model.embed_tokens(token)                                # (rows, d)
            hidden = vlm.llm(x, behind[alive] + t, cache)  # which attends in the place of a layout
            cache.t += 1

        ids, logps, entropies = ids.tolist(), logps.cpu(), entropies.cpu()
        out = [[] for _ in prompts]
        for j, (T, stop) in enumerate(zip(length.tolist(), stopped.tolist())):
            out[j // n].append(make_rollout(self.processor, prompts[j // n], ids[j][:T], logps[j, :T].clone(),
                                            entropies[j, :T].clone(), "stop" if stop else "length"))
        return out


class Prefill:
    """The attention of a pack of prompts (its layout), keeping every layer's keys and values."""

    def __init__(self, layout):
        self.layout, self.kept = layout, {}

    def attend(self, layer, q, k, v, scale):
        self.kept[layer] = k, v
        return self.layout.attend(layer, q, k, v, scale)


class Decode:
    """Attention of one new token in each of B = P x m responses: m rows share the keys of their prompt.

    The prompt's keys and values are held once, so the m rows of a prompt have to multiply them together, and
    every query head of a kv head with them (g of them). Each row also has keys of its own. So the queries are
    looked at in two ways:

        own      (P * m, kv, g, h)   a row alone             @  response keys (P * m, kv, h, t + 1)
        shared   (P, kv, m * g, h)   all rows of a prompt    @  prompt keys   (P, kv, h, Lp)

    and `to_prompts` / `to_rows` turn one way into the other, for queries, scores and outputs alike (x: h or
    Lp).
    """

    def __init__(self, prefill, m, device):
        segments = prefill.layout.segments.tolist()
        start, length = (torch.tensor([s[i] for s in segments], device=device) for i in (0, 1))
        at = torch.arange(int(length.max()), device=device)
        places = start[:, None] + at.minimum(length[:, None] - 1)                      # (P, Lp)
        self.hide = at >= length[:, None]                                   # (P, Lp) padding of short prompts
        self.padded = bool(self.hide.any())
        self.prompt = {layer: tuple(x[places].transpose(1, 2).contiguous() for x in kept)  # (P, kv, Lp, h)
                       for layer, kept in prefill.kept.items()}
        self.response, self.m, self.t = {}, m, 0                             # (P * m, kv, T, h), written at t

    def to_prompts(self, x):
        """(P * m, kv, g, x) -> (P, kv, m * g, x)"""
        return x.unflatten(0, (-1, self.m)).transpose(1, 2).flatten(2, 3)

    def to_rows(self, x):
        """(P, kv, m * g, x) -> (P * m, kv, g, x)"""
        return x.unflatten(2, (self.m, -1)).transpose(1, 2).flatten(0, 1)

    def attend(self, layer, q, k, v, scale):
        """q (P * m, heads, h), k and v (P * m, kv, h) of the new token -> (P * m, heads, h)"""
        keys, values = self._write(layer, k, v)                                        # (P * m, kv, t + 1, h)
        prompt_keys, prompt_values = self.prompt[layer]
        q = q.unflatten(1, (k.shape[1], -1))                                           # (P * m, kv, g, h)
        own = q @ keys.transpose(-1, -2)                                               # (P * m, kv, g, t + 1)
        past = self.to_prompts(q) @ prompt_keys.transpose(-1, -2)                      # (P, kv, m * g, Lp)
        if self.padded:
            past = past.masked_fill(self.hide[:, None, None], float("-inf"))
        past = self.to_rows(past)                                                      # (P * m, kv, g, Lp)
        weight = (torch.cat([past, own], -1) * scale).softmax(-1, dtype=torch.float32).to(v.dtype)
        past, own = weight.split([past.shape[-1], own.shape[-1]], -1)
        out = self.to_rows(self.to_prompts(past) @ prompt_values) + own @ values       # (P * m, kv, g, h)
        return out.flatten(1, 2)

    def _write(self, layer, k, v):
        """Keep the new token's key and value; returns those of the whole response. Room grows by doubling."""
        if layer not in self.response or self.response[layer][0].shape[2] <= self.t:
            B, kv, h = k.shape
            old = self.response.get(layer)
            room = max(32, 2 * self.t)
            self.response[layer] = tuple(x.new_zeros(B, kv, room, h) for x in (k, v))
            for new, x in zip(self.response[layer], old or ()):
                new[:, :, :self.t] = x[:, :, :self.t]
        keys, values = self.response[layer]
        keys[:, :, self.t], values[:, :, self.t] = k, v
        return keys[:, :, :self.t + 1], values[:, :, :self.t + 1]

    def drop(self, running):
        """Forget responses that have ended, running (P * m,). Returns the rows that stay.

        The rows have to stay a rectangle, as many of each prompt. So as many stay of each as the
        longest-running prompt still has, the running ones first; the others are padding, which nobody reads.
        Prompts without any are dropped.

            running, P = 3, m = 4       o x x o      x x x x      x o x x        (o runs, x has ended)
            stays, P = 2, m = 2         0 3                       9 8
        """
        running = running.view(-1, self.m)
        m, prompts = int(running.sum(1).max()), running.any(1).nonzero()[:, 0]
        order = running[prompts].int().sort(dim=1, descending=True, stable=True).indices[:, :m]
        rows = (prompts[:, None] * self.m + order).flatten()
        self.prompt = {layer: (k[prompts], v[prompts]) for layer, (k, v) in self.prompt.items()}
        self.response = {layer: (k[rows], v[rows]) for layer, (k, v) in self.response.items()}
        self.hide, self.m = self.hide[prompts], m
        return rows


@dataclass
class Draw:
    """Draws a token of each distribution."""
    temperature: float
    ban: tuple                  # ids that are never drawn
    generator: torch.Generator

    def __call__(self, logits):
        """logits (B, vocabulary) -> token, its log-prob, the distribution's entropy: (B,) each"""
        if len(self.ban):
            logits = logits.index_fill(-1, torch.tensor(list(self.ban), device=logits.device), -1e9)
        logp = logits.log_softmax(-1)
        probs = logp.exp()
        if self.temperature:  # which 64 tokens, then which of them: sums over all in fp64 would take longest
            uniform = torch.rand(len(probs), 1, generator=self.generator, dtype=torch.float64,
                                 device=probs.device)
            blocks = F.pad(probs, (0, -probs.shape[-1] % 64)).unflatten(-1, (-1, 64))
            block, inside = passes(blocks.sum(-1), uniform)
            tokens = blocks.gather(1, block[..., None].expand(-1, -1, 64))[:, 0]
            token = (64 * block + passes(tokens, inside)[0])[:, 0]
        else:
            token = probs.argmax(-1)
        return token, logp.gather(-1, token[:, None])[:, 0], -(probs * logp).sum(-1)


def passes(weights, share):
    """weights (B, n), share (B, 1) of their sum -> number of the first at which the cumulated weight passes
    it, and how far into that weight it lies, from 0 to almost 1: (B, 1) each"""
    cdf = weights.double().cumsum(-1)
    at = share * cdf[:, -1:]
    first = torch.searchsorted(cdf, at, right=True).clamp(max=weights.shape[-1] - 1)
    weight = weights.gather(-1, first).double()
    inside = (at - (cdf.gather(-1, first) - weight)) / weight
    return first, inside.clamp(0, 1 - 1e-9)


class VLLMSampler:
    """vLLM inside the trainer's process. Its engine, and the checks that keep it equal to the trainer, are in
    machinery/vllm_engine.py. It computes no entropies: Rollout.entropy is None until the trainer fills it
    in."""

    def __init__(self, vlm, processor, world, dtype, tensor_parallel, memory):
        if chosen(processor.config):
            raise Refused(f"--rollout vllm: vLLM does not know the {chosen(processor.config)} connector of "
                          f"{processor.path}; use --rollout torch")
        from machinery.vllm_engine import Engine  # vLLM need not be installed
        self.processor, self.engine = processor, Engine(vlm, processor, world, dtype, tensor_parallel, memory)

    @property
    def vlm(self):
        return self.engine.vlm

    def sync(self, vlm):
        self.engine.sync(vlm)

    def generate(self, prompts, n=1, max_new_tokens=8192, temperature=1.0, seed=0, ban=(), progress=None):
        """As TorchSampler.generate"""
        drawn = self.engine.sample(prompts, n, max_new_tokens, temperature, seed, ban, progress)
        return [[make_rollout(self.processor, prompt, ids, logp, None, finish) for ids, logp, finish in group]
                for prompt, group in zip(prompts, drawn)]


def make_sampler(kind, vlm, processor, world=None, batch=512, dtype="auto", tensor_parallel=1, memory=0.85):
    """The sampler "torch" or "vllm".

    world: given by a trainer under torchrun. batch is the torch sampler's; dtype, tensor_parallel (processes
    that share an engine) and memory (share of the GPU's) are vLLM's, which needs no vlm when nothing is
    trained: it reads the processor's folder.
    """
    if kind == "vllm":
        return VLLMSampler(vlm, processor, world, dtype, tensor_parallel, memory)
    return TorchSampler(vlm, processor, batch, world)


@torch.no_grad()
def computed(groups, vlm, processor, max_tokens, temperature, world):
    """[Group] -> what the model itself computes of all their responses: logp (R,), entropy (R,)"""
    packs = make_packs(processor, [group.with_ids() for group in groups], max_tokens, temperature)
    device = world.device or vlm.hf.device
    both = [(vlm(pack.to(device)), real) for pack, real in even_out(packs, world)]
    return (torch.cat([numbers[i].cpu() for numbers, real in both if real]) for i in (0, 1))


def check_gap(groups, vlm, processor, cfg, world):
    """Refuse to go on when the log-probs of sampler and trainer differ by more than --max_gap nats a token,
    as a mean over every response of the groups. Returns the mean."""
    logp, _ = computed(groups, vlm, processor, cfg.max_tokens, cfg.temperature, world)
    sampled = torch.cat([r.logp for group in groups for r in group.rollouts])
    gap, tokens = total([(logp - sampled).abs().sum().item(), len(logp)], world)
    gap /= max(1, tokens)
    if not gap <= cfg.max_gap:
        raise Refused(f"sampler and trainer disagree by {gap:.3f} nats a token at the first step (--max_gap "
                      f"{cfg.max_gap}). Likely causes: other weights, other pixels or tile limits, another "
                      f"temperature, a wrong mask, bf16 on one side only.")
    return gap
