"""Who attends to whom in a pack, and the attention itself: one function, registered with transformers for LLM and encoder.

On a CUDA device flash attention over segments of different lengths (flash-attn when it is installed, torch's own
otherwise), elsewhere SDPA over padded buckets of segments. All give the same numbers.
"""
import inspect
from functools import cached_property

import torch
import torch.nn.functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers.modeling_utils import AttentionInterface

try:
    from flash_attn import flash_attn_varlen_func
except ImportError:
    flash_attn_varlen_func = None  # torch's own takes its place

SMALL = 2 ** 24  # attention scores of one call that may be written out


class Layout:
    """Who attends to whom in a row of N tokens, and the attention itself.

    segments: rows (start, length, prefix_start, prefix_length). Tokens of a segment attend causally to each other and to
    the whole prefix. A prompt is a segment without a prefix; a response is a segment whose prefix is its prompt.
    """

    def __init__(self, segments, pad_limit=1.15):
        self.segments, self.pad_limit, self.device = torch.tensor(segments, dtype=torch.long).view(-1, 4), pad_limit, "cpu"

    def to(self, device):
        self.device = device  # what follows is made there when it is first needed
        for made in ("flat", "buckets", "back"):
            self.__dict__.pop(made, None)
        return self

    @cached_property
    def flat(self):
        """For the fused kernels: where the queries and the keys of each segment begin, the longest of both, and the row of
        every key: prefix and own tokens side by side. The queries are the row itself, because segments lie in order."""
        s = self.segments[self.segments[:, 0].argsort()]
        start, length, prefix, P = s.T
        keys = torch.cat([torch.cat([torch.arange(p, p + n), torch.arange(a, a + m)]) for a, m, p, n in s.tolist()])
        ends = lambda n: F.pad(n.cumsum(0), (1, 0)).int().to(self.device)  # noqa: E731
        return ends(length), ends(length + P), int(length.max()), int((length + P).max()), keys.to(self.device)

    @cached_property
    def buckets(self):
        """For SDPA: segments of about the same shape, each [rows of queries, rows of keys, mask, real queries, their rows]"""
        return [[t.to(self.device) for t in self._bucket(s)] for s in self._similar(self.pad_limit)]

    @cached_property
    def back(self):  # from the buckets' order to the row's
        return torch.cat([b[-1] for b in self.buckets]).argsort()

    def _similar(self, pad_limit):  # segments of about the same shape share one padded attention call
        rows = sorted(self.segments.tolist(), key=lambda s: (s[3] > 0, s[1] + s[3]))
        group, waste = [], lambda g: len(g) * max(s[1] + s[3] for s in g) > pad_limit * sum(s[1] + s[3] for s in g)
        for row in rows:
            if group and ((row[3] > 0) != (group[-1][3] > 0) or waste(group + [row])):
                yield torch.tensor(group)
                group = []
            group.append(row)
        if group:
            yield torch.tensor(group)

    @staticmethod
    def _bucket(s):
        start, length, prefix, P = (c[:, None] for c in s.T)                        # (S, 1) each
        i, j = torch.arange(int(length.max())), torch.arange(int((length + P).max()))
        q_at = start + i.clamp(max=length - 1)                                      # (S, Lq) rows of the queries
        k_at = torch.where(j < P, prefix + j, start + (j - P).clamp(min=0).minimum(length - 1))  # (S, Lk)
        mask = j[None, None] <= P[..., None] + i[None, :, None]                     # (S, Lq, Lk) causal after the prefix
        real = (i < length).flatten().nonzero()[:, 0]                               # queries that are no padding
        return q_at, k_at, mask[:, None], real, q_at.flatten()[real]

    def attend(self, layer, q, k, v, scale):
        """q (N, heads, h), k and v (N, kv_heads, h) of one LLM layer -> (N, heads, h)"""
        if fused(v):
            q_ends, k_ends, longest_q, longest_k, keys = self.flat
            return varlen(q, k.index_select(0, keys), v.index_select(0, keys), q_ends, k_ends, longest_q, longest_k, scale, causal=True)
        # index_select: on a CPU its backward takes half the time of x[at]'s
        rows = lambda x, at: x.index_select(0, at.flatten()).unflatten(0, at.shape).transpose(1, 2)  # noqa: E731 (S, heads, L, h)
        outs = []
        for q_at, k_at, mask, real, _ in self.buckets:
            o = attention(rows(q, q_at), rows(k, k_at), rows(v, k_at), mask, scale)
            outs.append(o.transpose(1, 2).flatten(0, 1).index_select(0, real))  # (tokens of the bucket, heads, h)
        return torch.cat(outs).index_select(0, self.back)


def fused(x):
    """Whether the fused kernels take it: on a GPU, in 16 bit, with heads they know."""
    return x.is_cuda and x.dtype in (torch.bfloat16, torch.float16) and x.shape[-1] % 8 == 0 and x.shape[-1] <= 256


def varlen(q, k, v, q_ends, k_ends, longest_q, longest_k, scale, causal):
    """Flash attention over segments of different lengths, (tokens, heads, h): flash-attn when it is installed, else torch's
    own. Causal is aligned at the end: the last query of a segment sees all its keys, prefix included."""
    q, k = q.to(v.dtype), k.to(v.dtype)
    if flash_attn_varlen_func:
        return flash_attn_varlen_func(q, k, v, q_ends, k_ends, longest_q, longest_k, softmax_scale=scale, causal=causal)
    knows, more = inspect.signature(varlen_attn).parameters, {}   # its arguments changed between torch 2.10 and 2.13
    if "scale" in knows:
        more["scale"] = scale
    else:
        q = q * (scale * q.shape[-1] ** 0.5)
    if causal:
        more |= {"window_size": (-1, 0)} if "window_size" in knows else {"is_causal": True}
    if q.shape[1] != k.shape[1]:
        if "enable_gqa" in knows:
            more["enable_gqa"] = True
        else:
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    return varlen_attn(q, k, v, q_ends, k_ends, longest_q, longest_k, **more)


def attention(q, k, v, mask, scale):
    """q (B, heads, Lq, h), k and v (B, kv_heads, Lk, h) -> (B, heads, Lq, h). SDPA, but short rows on a CPU are written out:
    half the time of SDPA there, whose backward in bf16 is six times slower than in fp32."""
    (B, H, Lq, h), kv = q.shape, k.shape[1]
    with torch.autocast(q.device.type, enabled=False):
        if q.device.type == "cpu" and B * H * Lq * k.shape[2] <= SMALL:
            shared = q.to(v.dtype).reshape(B, kv, H // kv * Lq, h)  # the query heads of a kv head side by side
            scores = (shared @ k.to(v.dtype).transpose(-1, -2)).view(B, H, Lq, -1).float() * scale
            scores = scores if mask is None else scores.masked_fill(~mask, float("-inf"))
            return (scores.softmax(-1).to(v.dtype).view(B, kv, -1, k.shape[2]) @ v).view(B, H, Lq, h)
        if H != kv:
            k, v = k.repeat_interleave(H // kv, 1), v.repeat_interleave(H // kv, 1)
        dtype = torch.float32 if q.device.type == "cpu" else v.dtype
        return F.scaled_dot_product_attention(q.to(dtype), k.to(dtype), v.to(dtype), attn_mask=mask, scale=scale).to(v.dtype)


def layout_attention(module, q, k, v, attention_mask=None, scaling=None, layout=None, cu_seq_lens_q=None, max_length_q=None, **_):
    """The attention function registered with transformers, (B, heads, T, h) in and (B, T, heads, h) out: in the LLM the
    layout of the row does the work; in the encoder every patch of a tile (of a window: cu_seq_lens_q) sees every other."""
    if layout is not None:
        return layout.attend(module.layer_idx, *(x[0].transpose(0, 1) for x in (q, k, v)), scaling)[None], None
    if cu_seq_lens_q is None:
        return attention(q, k, v, attention_mask, scaling).transpose(1, 2), None
    if fused(v):
        q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))
        ends, longest = cu_seq_lens_q.int(), int(max_length_q or cu_seq_lens_q.diff().max())
        return varlen(q, k, v, ends, ends, longest, longest, scaling, causal=False)[None], None
    ends = cu_seq_lens_q.tolist()
    lengths = torch.tensor([b - a for a, b in zip(ends, ends[1:]) if b > a])
    out = torch.empty_like(q.transpose(1, 2))                                     # (1, T, heads, h)
    starts = torch.cumsum(lengths, 0) - lengths
    for n in lengths.unique().tolist():                                           # windows of one size share one call
        at = (starts[lengths == n][:, None] + torch.arange(n)).to(q.device)       # (windows, n)
        o = attention(*(x[0][:, at].transpose(0, 1) for x in (q, k, v)), None, scaling)  # (windows, heads, n, h)
        out = out.index_copy(1, at.flatten(), o.transpose(1, 2).flatten(0, 1)[None].to(out.dtype))
    return out, None


AttentionInterface.register("layout", layout_attention)
AttentionInterface.register("layout_flash_windows", layout_attention)  # with "flash" in its name transformers hands over all windows at once
