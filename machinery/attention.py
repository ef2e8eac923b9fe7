"""The attention itself: one function, registered with transformers for the LLM and for the encoder.

Who attends to whom is decided in pack.py (Layout) and in rollout.py (the sampler's caches); this file only
computes it. On a GPU it is flash attention over segments of different lengths (flash-attn when it is
installed, torch's own otherwise), elsewhere SDPA over padded rows. All give the same numbers.
"""
import inspect
from functools import lru_cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch.nn import attention as torch_attention
from torch.nn.attention.varlen import varlen_attn
from transformers.modeling_utils import AttentionInterface

try:
    from flash_attn import flash_attn_varlen_func
except ImportError:
    flash_attn_varlen_func = None  # torch's own takes its place

SHORT = 128  # keys; fewer are written out on a CPU


def fused(x):
    """Whether the fused kernels take x: on a GPU, in 16 bit, with a head size that they know."""
    short = x.dtype in (torch.bfloat16, torch.float16)
    return x.is_cuda and short and x.shape[-1] % 8 == 0 and x.shape[-1] <= 256


@lru_cache(None)
def flash3(device):
    """Whether torch's varlen attention runs FlashAttention-3: on Hopper, where its module is installed.
    Not at import: a GPU that is asked for its age keeps half a GiB for the process that asks."""
    found = find_spec("flash_attn_interface") and torch.cuda.get_device_capability(device)[0] == 9
    if found:
        torch_attention.activate_flash_attention_impl("FA3")
    return bool(found)


def varlen(q, k, v, q_ends, k_ends, longest_q, longest_k, scale, causal):
    """Flash attention over segments of different lengths; q, k, v are (tokens, heads, h), side by side.

    q_ends and k_ends: where each segment's queries and keys begin, and the end of the last. Causal is aligned
    at the end: the last query of a segment sees all its keys, so a response also sees its whole prefix.
    """
    q, k = q.to(v.dtype), k.to(v.dtype)
    if flash_attn_varlen_func and not flash3(q.device):
        return flash_attn_varlen_func(q, k, v, q_ends, k_ends, longest_q, longest_k, softmax_scale=scale,
                                      causal=causal)
    knows, more = inspect.signature(varlen_attn).parameters, {}  # they changed between torch 2.10 and 2.13
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


AttentionInterface.register("layout", layout_attention)
# transformers hands over all windows at once only to an attention with "flash" in its name
AttentionInterface.register("layout_flash_windows", layout_attention)
