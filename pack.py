"""Packs: prompts, each followed by its responses, laid into one row of tokens without padding.

    packs = make_packs(processor, [(prompt, [ids, ids, ...]), ...])

Every response attends to its own prompt and to itself, and to nothing else; its positions continue from the
prompt's end. So a prompt and its images are computed once for a whole group of GRPO samples. Supervised rows
are the case of one response a prompt. `Layout` says who attends to whom, and `layout_attention`, which
transformers calls in every layer of encoder and LLM, computes it: on a GPU flash attention over segments of
different lengths (torch's own), elsewhere SDPA over padded rows.

    a row of two prompts (P, Q) with their responses       P P P P a a a b b Q Q c c c
    a sees                                                 x x x x x x x
    b sees                                                 x x x x       x x
    c sees                                                                   x x x x x
"""
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch.nn import attention as torch_attention
from torch.nn.attention.varlen import varlen_attn


# ------------------------------------------------------------------------------------------------------ packs

class OnDevice:
    """A dataclass whose tensors, and what holds some, move together."""

    def to(self, device):
        moved = {name: t.to(device) for name, t in vars(self).items() if hasattr(t, "to")}
        return replace(self, **moved)


@dataclass
class Pack(OnDevice):
    """One row of N tokens: prompts, each followed by its responses. R of the tokens belong to responses."""
    ids: torch.Tensor          # (N,)
    positions: torch.Tensor    # (N,) or (3, N), of the rotary embedding
    visual_at: torch.Tensor    # (V,) places of the visual tokens
    images: dict               # what the processor made of all images, in order
    layout: "Layout"           # who attends to whom
    source: torch.Tensor       # (R,) the place whose hidden state predicts each response token
    target: torch.Tensor       # (R,) the response tokens
    owner: torch.Tensor        # (R,) number of the response that each belongs to
    temperature: float
    prompts: list

    def names(self):
        return ", ".join(p.record.id for p in self.prompts[:4]) + (", ..." if len(self.prompts) > 4 else "")

    def to(self, device):
        images = {name: t.to(device) for name, t in self.images.items()}
        return replace(super().to(device), images=images)


def make_packs(processor, groups, max_tokens=16384, temperature=1.0, pixels=True):
    """[(prompt, [response ids, ...]), ...] -> Packs of at most max_tokens tokens each, in order.

    Responses are numbered 0, 1, ... over all groups; Pack.owner holds these numbers. pixels=False leaves the
    images out (their features are known already).
    """
    return [make_pack(processor, row, temperature, pixels) for row in fill_rows(groups, max_tokens)]


def fill_rows(groups, max_tokens):
    """Deal prompts and responses out to rows: [[(prompt, [(number, ids), ...]), ...], ...]. When a row has no
    room for the next response, a new row begins, where the prompt stands once more.

        room 10, prompt P of 4, responses of 3, 3, 2      row 1: P P P P a a a b b b      row 2: P P P P c c
    """
    rows, room, number = [], 0, 0
    for prompt, responses in groups:
        part = None  # this prompt in the current row, with the responses behind it
        for ids in responses or [None]:  # a prompt without a response stands in a row, too
            length = 0 if ids is None else len(ids)
            if part is None or length > room:
                if not rows or len(prompt.full) + length > room:
                    rows.append([])
                    room = max_tokens
                part = (prompt, [])
                rows[-1].append(part)
                room -= len(prompt.full)
            if ids is not None:
                part[1].append((number, ids))
                number, room = number + 1, room - length
    return rows


def make_pack(processor, row, temperature=1.0, images=True):
    """[(prompt, [(number, ids), ...]), ...] -> one Pack.

    What predicts a token is the hidden state of the token before it. For the first token of a response that
    is the last token of the prompt, wherever in the row it stands:

        place      0   1   2  |  3   4  |  5   6            prompt of 3, responses of 2 and 2
        token      p   p   p  |  a   b  |  c   d
        position   0   1   2  |  3   4  |  3   4            both responses continue the prompt
        source                   2   3     2   5            the place that predicts a, b, c, d
    """
    ids, segments, positions, source, target, owner, pixels = [], [], [], [], [], [], []
    for prompt, responses in row:
        begin, length = len(ids), len(prompt.full)
        ids += prompt.full
        alone = responses[0][1] if len(responses) == 1 else []  # with its prompt it is one causal segment
        segments.append((begin, length + len(alone), 0, 0))
        own = processor.positions(prompt)                                        # (length,) or (3, length)
        positions.append(own)
        if images:
            pixels.append(processor.pixels(prompt))
        for number, response in responses:
            if not response:
                continue  # an empty response has no token to learn from
            start, n = len(ids), len(response)
            ids += response
            if not alone:
                segments.append((start, n, begin, length))
            positions.append((torch.arange(n) + own.max() + 1).expand(*own.shape[:-1], n))
            source += [begin + length - 1, *range(start, start + n - 1)]
            target += response
            owner += [number] * n
    ids = torch.tensor(ids)
    source, target, owner = (torch.tensor(x, dtype=torch.long) for x in (source, target, owner))
    pixels = [p for p in pixels if p]  # {} of a prompt without images
    images = {name: torch.cat([p[name] for p in pixels]) for name in pixels[0]} if pixels else {}
    visual_at = (ids == processor.image_id).nonzero()[:, 0]
    return Pack(ids, torch.cat(positions, -1), visual_at, images, Layout(segments), source, target, owner,
                temperature, [prompt for prompt, _ in row])


# ---------------------------------------------------------------------------------------- who attends to whom

class Layout:
    """segments: rows (start, length, prefix_start, prefix_length). The tokens of a segment attend causally to
    each other and to the whole prefix. A prompt is a segment without a prefix, together with its response if
    there is only one; of several responses each is a segment whose prefix is the prompt.
    """

    def __init__(self, segments, pad_limit=1.15):
        self.segments = torch.tensor(segments, dtype=torch.long).view(-1, 4)
        self.pad_limit, self.device = pad_limit, "cpu"

    def to(self, device):
        """In place: the pack that stays in host memory has the same layout."""
        self.device = device
        for made in ("flat", "buckets", "back"):
            self.__dict__.pop(made, None)
        return self

    def attend(self, layer, q, k, v, scale):
        """q (N, heads, h), k and v (N, kv_heads, h) of one LLM layer -> (N, heads, h)"""
        if fused(v):
            q_bounds, k_bounds, longest_q, longest_k, keys = self.flat
            k, v = k.index_select(0, keys), v.index_select(0, keys)
            return varlen(q, k, v, q_bounds, k_bounds, longest_q, longest_k, scale, causal=True)
        outs = []
        for b in self.buckets:
            o = attention(rows_of(q, b.queries), rows_of(k, b.keys), rows_of(v, b.keys), b.mask, scale)
            outs.append(o.transpose(1, 2).flatten(0, 1).index_select(0, b.real))
        return torch.cat(outs).index_select(0, self.back)

    @cached_property
    def flat(self):
        """For the fused kernels: where queries and keys of each segment begin, the longest of both, and the
        place of every key. The queries are the row itself, because segments lie in order."""
        s = self.segments[self.segments[:, 0].argsort()]
        _, length, _, prefix_length = s.T
        keys = []
        for start, n, prefix, p in s.tolist():
            keys += [torch.arange(prefix, prefix + p), torch.arange(start, start + n)]
        ends = (F.pad(n.cumsum(0), (1, 0)).int() for n in (length, length + prefix_length))
        q_bounds, k_bounds = (e.to(self.device) for e in ends)
        longest_q, longest_k = int(length.max()), int((length + prefix_length).max())
        return q_bounds, k_bounds, longest_q, longest_k, torch.cat(keys).to(self.device)

    @cached_property
    def buckets(self):
        """For SDPA: segments of about the same shape share one padded call."""
        return [make_bucket(segments, self.device) for segments in self._alike()]

    @cached_property
    def back(self):
        """From the order of the buckets to that of the row."""
        return torch.cat([b.places for b in self.buckets]).argsort()

    def _alike(self):
        """Yield segments of about the same shape, [start, n, prefix, p] each; prompts apart."""
        group = []
        for segment in sorted(self.segments.tolist(), key=lambda s: (s[3] > 0, s[1] + s[3])):
            if group:
                keys = [s[1] + s[3] for s in (*group, segment)]
                wasteful = len(keys) * max(keys) > self.pad_limit * sum(keys)
                if wasteful or (segment[3] > 0) != (group[-1][3] > 0):
                    yield torch.tensor(group)
                    group = []
            group.append(segment)
        if group:
            yield torch.tensor(group)


@dataclass
class Bucket:
    """S segments padded to one shape: Lq queries and Lk keys."""
    queries: torch.Tensor  # (S, Lq) places in the row; padding repeats the segment's last token
    keys: torch.Tensor     # (S, Lk) places in the row: the prefix, then the segment itself
    mask: torch.Tensor     # (S, 1, Lq, Lk) True where a query may look
    real: torch.Tensor     # (tokens,) which of the S * Lq queries are no padding
    places: torch.Tensor   # (tokens,) their places in the row


def make_bucket(segments, device):
    """Segments of a length n and a prefix of p keys: query i sees the p keys of the prefix and its own tokens
    up to itself, which are the keys 0 ... p + i. One comparison gives the mask, and it hides the padding of
    real queries, too:

        p = 2, n = 3      key      0  1  2  3  4
        query 0                    x  x  x
        query 1                    x  x  x  x
        query 2                    x  x  x  x  x
    """
    start, n, prefix, p = (column[:, None] for column in segments.T)                     # (S, 1) each
    i, j = torch.arange(int(n.max())), torch.arange(int((n + p).max()))
    last = n - 1
    queries = start + i.clamp(max=last)
    own = start + (j - p).clamp(min=0).minimum(last)
    keys = torch.where(j < p, prefix + j, own)
    mask = j[None, None] <= p[..., None] + i[None, :, None]                              # (S, Lq, Lk)
    real = (i < n).flatten().nonzero()[:, 0]
    parts = (queries, keys, mask[:, None], real, queries.flatten()[real])
    return Bucket(*(t.to(device) for t in parts))


def rows_of(x, places):
    """x (N, heads, h) -> (S, heads, L, h); as x[places], but that has a slow backward on a CPU."""
    return x.index_select(0, places.flatten()).unflatten(0, places.shape).transpose(1, 2)


# ------------------------------------------------------------------------------------------------- attention

SHORT = 128  # keys; fewer are written out on a CPU


def fused(x):
    """Whether the fused kernels take x: on a GPU, in 16 bit, with a head size that they know."""
    short = x.dtype in (torch.bfloat16, torch.float16)
    return x.is_cuda and short and x.shape[-1] % 8 == 0 and x.shape[-1] <= 256


@lru_cache(None)
def flash3(device):
    """Let torch's varlen attention run FlashAttention-3: on Hopper, where its module is installed. Not at
    import: a GPU that is asked for its age keeps half a GiB for the process that asks."""
    if find_spec("flash_attn_interface") and torch.cuda.get_device_capability(device)[0] == 9:
        torch_attention.activate_flash_attention_impl("FA3")


def varlen(q, k, v, q_bounds, k_bounds, longest_q, longest_k, scale, causal):
    """Flash attention over segments of different lengths; q, k, v are (tokens, heads, h), side by side.

    q_bounds and k_bounds: where each segment's queries and keys begin, and the end of the last (cu_seqlens).
    Causal is aligned at the end: the last query of a segment sees all its keys, so a response also sees its
    whole prefix.
    """
    q, k = q.to(v.dtype), k.to(v.dtype)
    flash3(q.device)
    return varlen_attn(q, k, v, q_bounds, k_bounds, longest_q, longest_k, scale=scale,
                       window_size=(-1, 0 if causal else -1), enable_gqa=q.shape[1] != k.shape[1])


def attention(q, k, v, mask, scale):
    """Padded rows: q (B, heads, Lq, h), k and v (B, kv_heads, Lk, h) -> (B, heads, Lq, h).

    This is SDPA, except for short rows on a CPU. Those are written out, which takes less time there; SDPA's
    backward in bf16 is six times slower than in fp32, so it computes in fp32.
    """
    (B, H, Lq, h), kv = q.shape, k.shape[1]
    with torch.autocast(q.device.type, enabled=False):
        if q.device.type == "cpu" and k.shape[2] < SHORT:
            shared = q.to(v.dtype).reshape(B, kv, H // kv * Lq, h)  # query heads of a kv head side by side
            scores = (shared @ k.to(v.dtype).transpose(-1, -2)).view(B, H, Lq, -1).float() * scale
            scores = scores if mask is None else scores.masked_fill(~mask, float("-inf"))
            return (scores.softmax(-1).to(v.dtype).view(B, kv, -1, k.shape[2]) @ v).view(B, H, Lq, h)
        if H != kv:
            k, v = k.repeat_interleave(H // kv, 1), v.repeat_interleave(H // kv, 1)
        dtype = torch.float32 if q.device.type == "cpu" else v.dtype
        out = F.scaled_dot_product_attention(q.to(dtype), k.to(dtype), v.to(dtype), mask, scale=scale)
        return out.to(v.dtype)


def window_attention(q, k, v, ends, longest, scale):
    """Windows of different sizes in one row, (1, heads, T, h) -> (1, T, heads, h): all patches of a window
    see each other."""
    if fused(v):
        q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))
        longest = int(longest or ends.diff().max())
        return varlen(q, k, v, ends.int(), ends.int(), longest, longest, scale, causal=False)[None]
    ends = ends.tolist()
    lengths = torch.tensor([b - a for a, b in zip(ends, ends[1:]) if b > a])
    starts = torch.cumsum(lengths, 0) - lengths
    out = torch.empty_like(q.transpose(1, 2))
    for n in lengths.unique().tolist():  # windows of one size share one call
        at = (starts[lengths == n][:, None] + torch.arange(n)).to(q.device)              # (windows, n)
        rows = [x[0][:, at].transpose(0, 1) for x in (q, k, v)]                       # (windows, heads, n, h)
        o = attention(*rows, None, scale)
        out = out.index_copy(1, at.flatten(), o.transpose(1, 2).flatten(0, 1)[None].to(out.dtype))
    return out


@torch.compiler.disable  # --compile takes what lies before and behind it
def layout_attention(module, q, k, v, attention_mask=None, scaling=None, layout=None,
                     cu_seq_lens_q=None, max_length_q=None, **_):
    """The function that transformers calls, (B, heads, T, h) in and (B, T, heads, h) out.

    In the LLM `layout` does the work (any object with `attend(layer, q, k, v, scale)`). In the encoder every
    patch of a tile sees every other one; where the encoder has windows, cu_seq_lens_q says where they end.
    """
    if layout is not None:
        rows = [x[0].transpose(0, 1) for x in (q, k, v)]                                 # (N, heads, h)
        return layout.attend(module.layer_idx, *rows, scaling)[None], None
    if cu_seq_lens_q is not None:
        return window_attention(q, k, v, cu_seq_lens_q, max_length_q, scaling), None
    return attention(q, k, v, attention_mask, scaling).transpose(1, 2), None
