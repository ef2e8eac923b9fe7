"""Sampling responses: `sampler.generate(prompts, n) -> [[Rollout]]` and `sampler.sync(vlm)`.

TorchSampler is the embedded default: plain torch, exact (its log-probs are the trainer's), and quick enough for small
models on any machine. A prompt and its images are computed once for its whole group of n samples, and its keys and
values are held once: every sample of the group reads the same ones. It runs the very modules that are trained, with
the same attention hook as the packs (attention.Layout); only the layouts differ.

Sampling has one knob, the temperature. top-p, top-k and repetition penalties would sample from another distribution than
the one that the policy gradient assumes, so they do not exist here.

For models of real size, rollout_vllm.py has the same two methods on vLLM (`--rollout vllm`).
"""
from dataclasses import dataclass
from functools import cached_property

import torch
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from common import Refused
from attention import Layout
from model import load
from signals import critical_spans


@dataclass
class Rollout:
    prompt: object
    ids: list               # response ids, the end token included when the model wrote it
    logp: torch.Tensor      # (T,) log-prob of each id under the distribution that it was drawn from
    entropy: torch.Tensor   # (T,) entropy of that distribution over the full vocabulary, in nats; None from vLLM: add_entropy
    text: str               # without special tokens
    pieces: list            # [str], the text of each id; they join to `text`
    finish: str             # "stop", or "length" when max_new_tokens or the model's context ended it

    @cached_property
    def spans(self):
        """Character span in `text` of each id: [(start, end)]"""
        spans, at = [], 0
        for piece in self.pieces:
            spans.append((at, at + len(piece)))
            at += len(piece)
        return spans

    def critical(self, words):
        """Numbers of the ids that open a critical word. Words are found in the text, not among ids, so that it does not
        matter how the tokenizer cuts them; the token that holds a word's first letter is the one that was doubted."""
        found, k = [], 0
        for start, _, _ in critical_spans(self.text, words):
            while self.spans[k][1] <= start:
                k += 1
            found.append(k)
        return found


class Prefill(Layout):
    """The attention of a pack of prompts, keeping every layer's keys and values."""

    def __init__(self, segments):
        super().__init__(segments)
        self.kept = {}

    def attend(self, layer, q, k, v, scale):
        self.kept[layer] = k, v
        return super().attend(layer, q, k, v, scale)


class Decode:
    """Attention of one new token in each of P x m responses: m rows share the keys of their prompt.

    prompt keys and values (P, kv_heads, Lp, h), held once a prompt; response ones (P * m, kv_heads, T, h), written at t.
    """

    def __init__(self, prefill, segments, m, device):
        start, length = (torch.tensor(c, device=device) for c in zip(*((s[0], s[1]) for s in segments)))
        at = torch.arange(int(length.max()), device=device)
        rows = start[:, None] + at.minimum(length[:, None] - 1)                        # (P, Lp)
        self.hide = at >= length[:, None]                                              # (P, Lp) padding of short prompts
        self.prompt = {i: tuple(x[rows].transpose(1, 2).contiguous() for x in kv) for i, kv in prefill.kept.items()}
        self.response, self.m, self.t = {}, m, 0

    def attend(self, layer, q, k, v, scale):
        """q (P * m, heads, h), k and v (P * m, kv_heads, h) -> (P * m, heads, h)"""
        K, V = self._write(layer, k, v)                                                # (P*m, kv, t + 1, h)
        pk, pv = self.prompt[layer]
        (P, kv, Lp, h), m, B = pk.shape, self.m, len(q)
        g = q.shape[1] // kv                                                           # query heads of a kv head
        own = q.view(B, kv, g, h) @ K.transpose(-1, -2)                                # (B, kv, g, t + 1)
        shared = q.view(P, m, kv, g, h).transpose(1, 2).reshape(P, kv, m * g, h)
        past = (shared @ pk.transpose(-1, -2)).masked_fill(self.hide[:, None, None], float("-inf"))  # (P, kv, m*g, Lp)
        past = past.view(P, kv, m, g, Lp).transpose(1, 2).reshape(B, kv, g, Lp)
        weight = (torch.cat([past, own], -1) * scale).softmax(-1, dtype=torch.float32).to(v.dtype)
        past, own = weight[..., :Lp], weight[..., Lp:]
        past = past.view(P, m, kv, g, Lp).transpose(1, 2).reshape(P, kv, m * g, Lp) @ pv
        out = past.view(P, kv, m, g, h).transpose(1, 2).reshape(B, kv, g, h) + own @ V
        return out.reshape(B, kv * g, h)

    def _write(self, layer, k, v):
        if layer not in self.response or self.response[layer][0].shape[2] <= self.t:   # grow by doubling
            B, kv, h = k.shape
            old = self.response.get(layer)
            room = max(32, 2 * self.t)
            self.response[layer] = tuple(x.new_zeros(B, kv, room, h) for x in (k, v))
            for new, x in zip(self.response[layer], old or ()):
                new[:, :, :self.t] = x[:, :, :self.t]
        K, V = self.response[layer]
        K[:, :, self.t], V[:, :, self.t] = k, v
        return K[:, :, :self.t + 1], V[:, :, :self.t + 1]

    def keep(self, prompts, rows, m):
        """Go on with these prompts and rows (P' * m' of them, in order) only."""
        self.prompt = {i: (k[prompts], v[prompts]) for i, (k, v) in self.prompt.items()}
        self.response = {i: (k[rows], v[rows]) for i, (k, v) in self.response.items()}
        self.hide, self.m = self.hide[prompts], m


class TorchSampler:
    """Samples with the trainer's own modules in one process; under torchrun each process holds a whole replica, because
    ranks sample different lengths and would wait for each other in FSDP's collectives."""

    exact = True  # same modules, same numbers as the trainer: no importance correction is needed

    def __init__(self, vlm, chat, batch=512, world=None):
        self.chat, self.batch = chat, batch
        self.replica = world is not None and world.size > 1
        if self.replica:
            self.vlm = load(vlm.source, device=world.device, dtype="bf16" if vlm.autocast_dtype else "fp32", train=("llm",))
            self.sync(vlm)
        else:
            self.vlm = vlm

    def sync(self, vlm):
        """Take over the trainer's weights. Every rank must call it."""
        if not self.replica:
            return
        mine = dict(self.vlm.named_parameters())
        theirs = dict(vlm.named_parameters())
        if mine.keys() != theirs.keys():
            raise Refused(f"sampler and trainer have different tensors: {sorted(mine.keys() ^ theirs.keys())[:3]}")
        with torch.no_grad():
            for name, p in theirs.items():
                mine[name].copy_(p.full_tensor() if isinstance(p, DTensor) else p)

    @torch.no_grad()
    def generate(self, prompts, n=1, max_new_tokens=8192, temperature=1.0, seed=0, ban=(), progress=None, done=None):
        """n responses for each prompt: a list of n Rollouts a prompt, in the order of the prompts.

        temperature 0 takes the most likely token. ban: ids that are never written. progress: words for a progress bar.
        done(i, group) is called as soon as the responses to prompt i are complete.
        """
        generator = torch.Generator(self.vlm.hf.device).manual_seed(seed)
        out = [[] for _ in prompts]
        todo = sorted(range(len(prompts)), key=lambda i: len(prompts[i].full))  # prompts of like length: little padding
        width = max(1, self.batch // n)
        bar = tqdm(total=len(prompts) * n, desc=progress, disable=progress is None, unit="response", leave=False, dynamic_ncols=True)
        with self.vlm.autocast(), bar:
            for i in range(0, len(todo), width):
                part = todo[i:i + width]
                groups = self._batch([prompts[j] for j in part], n, max_new_tokens, temperature, generator, ban, bar)
                for j, group in zip(part, groups):
                    out[j] = group
                    if done:
                        done(j, group)
        return out

    def _batch(self, prompts, n, max_new_tokens, temperature, generator, ban, bar):
        vlm, device, P = self.vlm, self.vlm.hf.device, len(prompts)
        # ---- prefill: each prompt and its images once
        row = [(p, []) for p in prompts]
        pack = self.chat.pack(row, temperature).to(device)
        segments = pack.layout.segments.tolist()
        prefill = Prefill(segments).to(device)
        hidden = vlm.decode(pack, vlm.connect(vlm.encode(pack)), prefill)                      # (N, d)
        last = torch.tensor([s[0] + s[1] - 1 for s in segments], device=device)
        hidden = hidden[last].repeat_interleave(n, 0)                                          # (P * n, d)
        cache = Decode(prefill, segments, n, device)
        limit = [min(max_new_tokens, self.chat.context - len(p.full)) for p in prompts for _ in range(n)]
        longest = max(limit)
        limit = torch.tensor(limit, device=device)
        ids = torch.zeros(P * n, longest, dtype=torch.long, device=device)                    # everything drawn so far
        logps, entropies = torch.zeros(P * n, longest, device=device), torch.zeros(P * n, longest, device=device)
        length, stopped = torch.zeros_like(limit), torch.zeros_like(limit, dtype=torch.bool)
        stop = torch.tensor(self.chat.stop_ids, device=device)
        ban = torch.tensor(list(ban), dtype=torch.long, device=device)
        position = torch.stack([self.chat.positions(p).max() + 1 for p in prompts]).to(device).repeat_interleave(n)
        alive = torch.arange(P * n, device=device)   # which response each row of the running batch is
        # ---- decode: one token for every running row at a time
        for t in range(longest):
            logits = vlm.logits(hidden, temperature or 1.0)                                    # (B, vocabulary), fp32
            if len(ban):
                logits = logits.index_fill(-1, ban, -1e9)
            logp = logits.log_softmax(-1)
            probs = logp.exp()
            if temperature:  # the first token whose cumulated probability passes a uniform number
                cdf = probs.double().cumsum(-1)
                point = torch.rand(len(cdf), 1, generator=generator, dtype=cdf.dtype, device=device) * cdf[:, -1:]
                token = torch.searchsorted(cdf, point, right=True)[:, 0].clamp(max=cdf.shape[-1] - 1)
            else:
                token = probs.argmax(-1)
            ids[alive, t], logps[alive, t] = token, logp.gather(-1, token[:, None])[:, 0]      # beyond a response's length nobody reads
            entropies[alive, t] = -(probs * logp).sum(-1)
            ended = torch.isin(token, stop)
            now = (length[alive] == 0) & (ended | (t + 1 >= limit[alive]))                     # ended rows only pad their group
            stopped[alive[now & ended]] = True
            length[alive[now]] = t + 1
            bar.update(int(now.sum()))
            running = length[alive] == 0
            if not running.any():
                break
            if running.float().mean() < 0.5:   # rows that have ended are dropped, groups kept rectangular
                table = running.view(-1, cache.m)
                m = int(table.sum(1).max())
                groups = table.any(1).nonzero()[:, 0]
                # per group: running rows first, then ended ones as padding
                order = table[groups].int().sort(dim=1, descending=True, stable=True).indices[:, :m]
                rows = (groups[:, None] * cache.m + order).flatten()
                cache.keep(groups, rows, m)
                alive, token = alive[rows], token[rows]
            x = vlm.hf.model.language_model.embed_tokens(token)[None]                          # (1, B, d)
            hidden = vlm.hf.model.language_model(inputs_embeds=x, position_ids=(position[alive] + t)[None], use_cache=False,
                                                 layout=cache).last_hidden_state[0]
            cache.t += 1
        return self._rollouts(prompts, n, ids.tolist(), logps.cpu(), entropies.cpu(), length.tolist(), stopped.tolist())

    def _rollouts(self, prompts, n, ids, logps, entropies, length, stopped):
        out = []
        for i, prompt in enumerate(prompts):
            out.append([])
            for j in range(i * n, (i + 1) * n):
                own = ids[j][:length[j]]
                pieces = self.chat.pieces(own)
                out[-1].append(Rollout(prompt, own, logps[j, :length[j]].clone(), entropies[j, :length[j]].clone(), "".join(pieces),
                                       pieces, "stop" if stopped[j] else "length"))
        return out


@torch.no_grad()
def add_entropy(groups, vlm, chat, temperature=1.0, max_tokens=16384):
    """Fill in Rollout.entropy where the sampler left it None, by one forward of the model over all responses."""
    missing = [g for g in groups if g and any(r.entropy is None for r in g)]
    flat, done = [r for g in missing for r in g], []
    for pack in chat.packs([(g[0].prompt, [r.ids for r in g]) for g in missing], max_tokens, temperature or 1.0):
        done.append(vlm(pack.to(vlm.hf.device))[1].cpu())
    for r, entropy in zip(flat, torch.cat(done).split([len(r.ids) for r in flat]) if flat else ()):
        r.entropy = entropy


def make_sampler(kind, vlm, chat, world=None, batch=512, dtype="auto", tensor_parallel=1, memory=0.85):
    """"torch" is the sampler of this file, "vllm" that of rollout_vllm.py.

    world: given by a trainer under torchrun. batch is the torch sampler's; dtype, tensor_parallel (processes that share an
    engine) and memory (share of the GPU's) are vLLM's, which needs no vlm when nothing is trained: it reads chat's folder.
    """
    if kind == "vllm":
        from rollout_vllm import VLLMSampler
        return VLLMSampler(vlm, chat, world, dtype, tensor_parallel, memory)
    if kind != "torch":
        raise Refused(f"--rollout {kind}: the samplers are torch and vllm")
    if tensor_parallel > 1:
        raise Refused(f"--tensor_parallel {tensor_parallel} is for --rollout vllm")
    return TorchSampler(vlm, chat, batch, world)
