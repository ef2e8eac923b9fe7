"""The LLM's head: log-probs and entropies of many tokens without keeping their logits.

Written out with its gradient, because this is the one place where (tokens x vocabulary) numbers arise: each
of them is computed once in the forward, once more in the backward when they are too many to keep (KEEP), and
never copied.
"""
from contextlib import contextmanager

import torch
import torch.nn.functional as F

KEEP = 2 ** 25  # exponentials that are kept for the backward (128 MiB); of more, all are computed again


@contextmanager
def products(tf32):
    """Around the head's fp32 products. Beside bf16, TF32 will do and is seven times as fast: it keeps 10 bits
    where the layers before kept 7. Not set for the process: vLLM takes it back there, and it would blur the
    rotary angles of older transformers."""
    matmul = torch.backends.cuda.matmul
    was = matmul.fp32_precision  # allow_tf32 could not give every earlier state back
    matmul.fp32_precision = "tf32" if tf32 else was
    yield
    matmul.fp32_precision = was


def sampled_logits(hidden, weight, bias, never, temperature, tf32):
    """hidden (n, d) in fp32 -> logits of the distribution that is sampled, (n, vocabulary), and nothing else
    of that size"""
    with products(tf32):
        x = F.linear(hidden, weight, bias)
    if temperature != 1:
        x /= temperature
    for number in never:  # a list as index would be copied to the GPU every time
        x[:, number] = -1e9
    return x


def exponentials(*of):
    """The same as x, logits less the largest of each row; their exponentials e; the sums of these, (n,).
    Probabilities are e / sum, their logarithms x - log sum."""
    x = sampled_logits(*of)
    x -= x.amax(-1, keepdim=True)
    e = x.exp()
    return x, e, e.sum(-1)


class LogProbAndEntropy(torch.autograd.Function):
    """hidden (R, d), weight (vocabulary, d), bias or None, target (R,), tokens of a chunk; more, as in
    sampled_logits: ids that are never drawn, temperature, tf32 -> log-prob of each target and entropy (nats)
    of its distribution: (R,) each, in fp32.

    With x the log-probs, p their probabilities and H the entropy, the gradients by the logits are

        of the log-prob:  1 at the target, minus p          of the entropy:  -p (x + H)
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, target, size, *more):
        h, w = hidden.float(), weight.float()
        ctx.set_materialize_grads(False)
        ctx.more, ctx.size, ctx.kept = more, size, []
        logp, entropy = h.new_empty(len(h)), h.new_empty(len(h))  # two tensors: FSDP warns of views of one
        for i in range(0, len(h), size):
            x, e, total = exponentials(h[i:i + size], w, bias, *more)
            log_total = total.log()
            logp[i:i + size] = x.gather(-1, target[i:i + size, None])[:, 0] - log_total
            mean = (e[:, None] @ x[..., None])[:, 0, 0] / total  # of x, in one pass
            entropy[i:i + size] = log_total - mean
            if len(h) * len(w) <= KEEP:
                ctx.kept.append((e, total))
        ctx.save_for_backward(hidden, weight, bias, target, entropy)
        return logp, entropy

    @staticmethod
    def backward(ctx, d_logp, d_entropy):
        hidden, weight, bias, target, entropy = ctx.saved_tensors
        (never, temperature, tf32), size, d_hidden = ctx.more, ctx.size, torch.empty_like(hidden)
        h, w = hidden.float(), weight.float()
        d_weight = torch.zeros_like(w) if ctx.needs_input_grad[1] else None
        d_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        kept, ctx.kept = ctx.kept, []  # the gradient by the logits takes their place
        for i in range(0, len(h), size):
            at = slice(i, i + size)
            d, total = kept.pop(0) if kept else exponentials(h[at], w, bias, *ctx.more)[1:]
            scale = -d_logp[at, None] if d_logp is not None else 0.0
            if d_entropy is not None:
                x = d.clamp(min=1e-37).log() - total.log()[:, None]  # where p is 0, any number will do
                scale = scale - d_entropy[at, None] * (x + entropy[at, None])
            d *= scale / total[:, None]
            if d_logp is not None:
                d.scatter_add_(-1, target[at, None], d_logp[at, None])
            for number in never:
                d[:, number] = 0
            if temperature != 1:
                d /= temperature
            with products(tf32):
                d_hidden[at] = (d @ w).to(hidden.dtype)
                if d_weight is not None:
                    d_weight.addmm_(d.T, h[at])
            if d_bias is not None:
                d_bias += d.sum(0)
        d_weight = None if d_weight is None else d_weight.to(weight.dtype)
        return d_hidden, d_weight, d_bias, None, None, None, None, None
