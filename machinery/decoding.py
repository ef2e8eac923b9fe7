"""Keys and values while the plain sampler decodes, held once for all responses to a prompt; and the draw of a
token.

Prefill and Decode take the place of pack.Layout in the attention: `attend(layer, q, k, v, scale)`. A reader
of the recipe may skip this file.
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F


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
