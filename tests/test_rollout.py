"""rollout.py: the sampler's numbers are the trainer's, samples follow their distribution, and end."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

from conftest import plain, plain_forward
from entropy_select import add_entropy
from machinery.parallel import World
from model import load
from pack import Layout, make_pack, make_packs
from rollout import Decode, Prefill, Rollout, TorchSampler, make_sampler
from signals import critical_spans

ENDS = list(range(0, 500, 20))  # end a response in some tests: a random model hardly writes the true one


@pytest.fixture
def quick(processor, monkeypatch):
    """A chat in which a response ends after about fifteen tokens."""
    monkeypatch.setattr(processor, "stop_ids", ENDS)
    return processor


def trainer(vlm, processor, rollouts, temperature):
    """The trainer's logp and entropy of each rollout of each group."""
    groups = [(g[0].prompt, [r.ids for r in g]) for g in rollouts]
    pack, = make_packs(processor, groups, temperature=temperature)
    with torch.no_grad():
        logp, entropy = vlm(pack)
    lengths = [len(r.ids) for g in rollouts for r in g]
    return logp.split(lengths), entropy.split(lengths)


# ---------------------------------------------------------------------------------------------------- numbers

@pytest.mark.parametrize("temperature, batch", [(1.0, 512), (0.7, 8)])
def test_numbers_are_the_trainers(vlm, quick, prompts, monkeypatch, temperature, batch):
    kept = []
    drop = Decode.drop

    def drop_and_note(cache, running):
        rows = drop(cache, running)
        kept.append(len(rows))
        return rows
    monkeypatch.setattr(Decode, "drop", drop_and_note)
    groups = TorchSampler(vlm, quick, batch).generate(prompts, 4, 80, temperature, seed=5)
    assert [g[0].prompt.record.id for g in groups] == list("abcdefgh") and all(len(g) == 4 for g in groups)
    lengths = {len(r.ids) for g in groups for r in g}
    assert len(lengths) > 10 and len(kept) > 3  # rows left at different times,
    assert max(lengths) > 32  # and keys and values grew
    logp, entropy = trainer(vlm, quick, groups, temperature)
    for r, a, b in zip([r for g in groups for r in g], logp, entropy):
        assert torch.allclose(r.logp, a, atol=1e-5, rtol=0), r.prompt.record.id
        assert torch.allclose(r.entropy, b, atol=1e-5, rtol=0), r.prompt.record.id
        assert r.finish == ("stop" if r.ids[-1] in ENDS else "length") and not set(r.ids[:-1]) & set(ENDS)
        assert len(r.ids) == len(r.logp) == len(r.entropy) == len(r.pieces)


def test_numbers_are_plain_transformers(vlm, quick, prompts, model_path):
    """The same without any code of ours in the oracle."""
    groups = TorchSampler(vlm, quick).generate(prompts[:5], 2, max_new_tokens=20, seed=6)
    sampled = [(g[0].prompt, [r.ids for r in g]) for g in groups]
    logp, entropy = plain_forward(plain(model_path), quick, sampled)
    assert torch.allclose(torch.cat([r.logp for g in groups for r in g]), logp, atol=1e-5, rtol=0)
    assert torch.allclose(torch.cat([r.entropy for g in groups for r in g]), entropy, atol=1e-5, rtol=0)


def test_entropies_that_are_filled_in_are_the_samplers(vlm, quick, prompts):
    """As for vLLM, which gives none: of the distribution that was sampled, in several packs."""
    groups = TorchSampler(vlm, quick).generate(prompts[:4], 2, 20, temperature=0.6, seed=7)
    known = torch.cat([r.entropy for g in groups for r in g])
    for g in groups[1:]:
        g[0].entropy = None
    add_entropy(groups, vlm, quick, 0.6, max_tokens=90)
    assert torch.allclose(torch.cat([r.entropy for g in groups for r in g]), known, atol=1e-5, rtol=0)


def test_greedy_equals_plain_generate(vlm, quick, prompts, model_path):
    hf = plain(model_path)
    ours = TorchSampler(vlm, quick).generate(prompts, 1, max_new_tokens=40, temperature=0)
    settings = GenerationConfig(do_sample=False, max_new_tokens=40, eos_token_id=ENDS, pad_token_id=ENDS[0],
                                suppress_tokens=[quick.image_id])
    ends = set()
    for prompt, (r,) in zip(prompts, ours):
        ids = torch.tensor([prompt.full])
        out = hf.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings,
                          **quick.pixels(prompt))
        assert r.ids == out[0, len(prompt.full):].tolist(), prompt.record.id
        ends.add(r.finish)
    twice = TorchSampler(vlm, quick).generate(prompts, 3, max_new_tokens=40, temperature=0, seed=9)
    assert all(r.ids == ours[i][0].ids for i, g in enumerate(twice) for r in g) and len(ends) == 2


def test_responses_that_ended_are_dropped_by_hand():
    """The picture of Decode.drop. What is left of the cache attends as it did before.

        running, P = 3, m = 4       o x x o      x x x x      x o x x        (o runs, x has ended)
        stays, P = 2, m = 2         0 3                       9 8
    """
    g = torch.Generator().manual_seed(0)

    def token(rows):  # queries of 4 heads, keys and values of 2
        return [torch.randn(rows, heads, 8, generator=g) for heads in (4, 2, 2)]

    prompts = Prefill(Layout([(0, 2, 0, 0), (2, 3, 0, 0), (5, 1, 0, 0)]))  # of 2, 3 and 1 tokens
    prompts.attend(0, *token(6), 0.5)
    whole, part = Decode(prompts, 4, "cpu"), Decode(prompts, 4, "cpu")
    first, second = token(12), token(12)
    for cache in (whole, part):
        cache.attend(0, *first, 0.5)
    rows = part.drop(torch.tensor([c == "o" for c in "oxxo" "xxxx" "xoxx"]))
    assert rows.tolist() == [0, 3, 9, 8] and part.m == 2  # 8 is padding: the rows stay a rectangle
    assert all(torch.equal(a, b[[0, 2]]) for a, b in zip(part.prompt[0], whole.prompt[0]))
    assert all(torch.equal(a, b[rows]) for a, b in zip(part.response[0], whole.response[0]))
    assert part.hide.tolist() == [[False, False, True], [False, True, True]]
    whole.t = part.t = 1
    kept = part.attend(0, *(x[rows] for x in second), 0.5)
    assert torch.allclose(kept, whole.attend(0, *second, 0.5)[rows], atol=1e-6)
    for prompt, row, here in ((slice(0, 2), 0, 0), (slice(5, 6), 9, 2)):  # and as plain attention does
        past, keys = prompts.kept[0], (first, second)
        k, v = (torch.cat([past[i][prompt], *(t[1 + i][row:row + 1] for t in keys)]) for i in (0, 1))
        k, v = (x.repeat_interleave(2, 1) for x in (k, v))                                 # (L, heads, h)
        weight = (torch.einsum("nh,lnh->nl", second[0][row], k) * 0.5).softmax(-1)
        assert torch.allclose(kept[here], torch.einsum("nl,lnh->nh", weight, v), atol=1e-5)


# ---------------------------------------------------------------------------------------------------- samples

def test_first_tokens_follow_their_probabilities(vlm, processor, prompts):
    """Chi-square over the likely tokens of one distribution, 6,000 draws in one call."""
    n, prompt = 6000, prompts[0]
    group, = TorchSampler(vlm, processor).generate([prompt], n, 1, 0.7, seed=11)
    drawn = torch.tensor([r.ids[0] for r in group])
    pack, = make_packs(processor, [(prompt, [[0]])], temperature=0.7)
    with torch.no_grad():
        hidden = vlm.decode(pack, vlm.connect(vlm.encode(pack)))
        p = vlm.logits(hidden[pack.source], 0.7)[0].double().softmax(-1)
    counts = torch.bincount(drawn, minlength=len(p)).double()
    often = p * n > 10
    expected, seen = (torch.cat([x[often], x[~often].sum()[None]]) for x in (p * n, counts))
    chi, degrees = float(((seen - expected) ** 2 / expected).sum()), len(expected) - 1
    assert degrees > 20 and abs(chi - degrees) < 5 * (2 * degrees) ** 0.5


def test_later_tokens_follow_their_probabilities(vlm, quick, prompts):
    """The mean log-prob of what is drawn is minus the entropy, also after rows have left the batch."""
    rollouts = [r for g in TorchSampler(vlm, quick).generate(prompts, 40, 40, seed=12) for r in g]
    logp, entropy = torch.cat([r.logp for r in rollouts]), torch.cat([r.entropy for r in rollouts])
    assert len(logp) > 2000
    assert abs(float((logp + entropy).mean())) < 4 * float((logp + entropy).std()) / len(logp) ** 0.5


def test_image_placeholder_is_never_written(vlm, processor, prompts):
    """Even by a model that wants nothing else."""
    pack = make_pack(processor, [(prompts[0], [])])
    with torch.no_grad():
        last = vlm.decode(pack, vlm.connect(vlm.encode(pack)))[-1]
        vlm.hf.lm_head.weight[processor.image_id] = 100 * last / last.norm()
        assert (last @ vlm.hf.lm_head.weight.T).argmax() == processor.image_id
    for temperature in (0, 1.0):
        rollouts = [r for g in TorchSampler(vlm, processor).generate(prompts, 8, 8, temperature) for r in g]
        assert all(processor.image_id not in r.ids for r in rollouts)
        assert all(torch.isfinite(r.logp).all() and torch.isfinite(r.entropy).all() for r in rollouts)


def test_banned_ids(vlm, processor, prompts):
    sampler = TorchSampler(vlm, processor)
    free = sampler.generate(prompts[:2], 1, 10, temperature=0)
    ban = {r.ids[0] for g in free for r in g} | {5, 6}
    for temperature in (0, 1.0):
        groups = sampler.generate(prompts[:2], 20, 10, temperature, ban=ban)
        assert not any(ban & set(r.ids) for g in groups for r in g)
    allowed = [i for i in range(len(processor.tokenizer)) if i not in ban]  # log-probs are of these alone
    pack, = make_packs(processor, [(prompts[0], [[0]])])
    with torch.no_grad():
        hidden = vlm.decode(pack, vlm.connect(vlm.encode(pack)))
        p = vlm.logits(hidden[pack.source])[0, allowed].log_softmax(-1)
    r = groups[0][0]
    assert float(r.logp[0]) == pytest.approx(float(p[allowed.index(r.ids[0])]), abs=1e-5)
    assert float(r.entropy[0]) == pytest.approx(float(-(p.exp() * p).sum()), abs=1e-5)


# ----------------------------------------------------------------------------------------------------- limits

def test_length_limits(vlm, processor, prompts, monkeypatch):
    sampler = TorchSampler(vlm, processor)
    rollouts = sum(sampler.generate(prompts, 2, 3, seed=1), [])
    goes_on = [r for r in rollouts if r.ids[-1] not in processor.stop_ids]
    assert {(len(r.ids), r.finish) for r in goes_on} == {(3, "length")}
    longest = max(len(p.full) for p in prompts)
    monkeypatch.setattr(processor, "context", longest + 2)  # of the model: prompt and response together
    for g in sampler.generate(prompts, 2, 10, seed=2):
        room = min(10, longest + 2 - len(g[0].prompt.full))
        for r in g:
            assert len(r.ids) <= room if r.finish == "stop" else len(r.ids) == room and r.finish == "length"
    # the last token may be the end
    monkeypatch.setattr(processor, "stop_ids", list(range(len(processor.tokenizer))))
    assert {(len(r.ids), r.finish) for g in sampler.generate(prompts, 2, 1) for r in g} == {(1, "stop")}


@pytest.mark.parametrize("ends, found", [(3, [3]), ([3, 5], [3, 5]), (None, [])])
def test_all_tokens_that_end_a_response(processor, monkeypatch, ends, found):
    """Qwen's generation_config.json lists two; the tokenizer's own always ends one."""
    monkeypatch.setattr(GenerationConfig, "from_pretrained", lambda _: GenerationConfig(eos_token_id=ends))
    assert processor._stop_ids() == sorted([*found, processor.tokenizer.eos_token_id])


def test_end_token_is_no_text(vlm, processor, prompts):
    likely = [g[0].ids[0] for g in TorchSampler(vlm, processor).generate(prompts, 1, 1, temperature=0)]
    with torch.no_grad():  # ending becomes as likely as they are
        vlm.hf.lm_head.weight[processor.tokenizer.eos_token_id] = vlm.hf.lm_head.weight[likely].mean(0)
    rollouts = sum(TorchSampler(vlm, processor).generate(prompts, 30, 12, seed=3), [])
    stopped = [r for r in rollouts if r.finish == "stop"]
    assert stopped
    for r in stopped:
        assert r.ids[-1] == processor.tokenizer.eos_token_id and "<|im_end|>" not in r.text
        assert r.pieces[-1] == "" or r.text.endswith("\ufffd")  # a broken character waits for the last id
        assert r.text == processor.tokenizer.decode(r.ids, skip_special_tokens=True)


# ------------------------------------------------------------------------------------------------------- text

def rollout_of(processor, ids):
    pieces = processor.pieces(ids)
    return Rollout(None, ids, torch.zeros(len(ids)), torch.zeros(len(ids)), "".join(pieces), pieces, "stop")


def spell(processor, text):
    """Ids of a text one byte at a time, as a model may write it but a tokenizer would not."""
    from tokenizers import pre_tokenizers
    byte = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return processor.tokenizer.convert_tokens_to_ids(list(byte.pre_tokenize_str(text)[0][0]))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 10 ** 6), max_size=25))
def test_pieces_join_to_the_text(processor, ids):
    """Any ids, broken characters included."""
    ids = [i % len(processor.tokenizer) for i in ids]
    pieces = processor.pieces(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == processor.tokenizer.decode(ids, skip_special_tokens=True)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(st.characters(codec="utf-8") | st.sampled_from("abB .\u00e9"), max_size=20))
def test_pieces_of_any_text(processor, text):
    """An id is a byte here: a word of one letter stands at the number of bytes before it."""
    ids = spell(processor, text) if text else []
    assert "".join(processor.pieces(ids)) == text
    words = [i for i, _, _ in critical_spans(text, tuple("ab"))]
    assert rollout_of(processor, ids).critical(tuple("ab")) == [len(text[:i].encode()) for i in words]


# ------------------------------------------------------------------------------------------------------- sync

def test_replica_follows_the_trainer(model_path, processor, prompts):
    """As under torchrun: the sampler holds its own weights. A change of the connector alone must reach it."""
    vlm = load(model_path, dtype="fp32")
    sampler = make_sampler("torch", vlm, processor, World(0, 2, torch.device("cpu")))
    assert sampler.vlm is not vlm
    with torch.no_grad():
        vlm.hf.model.multi_modal_projector.linear_2.weight.mul_(1.5)
    stale = sampler.generate(prompts[:2], 2, 8, seed=4)
    theirs = torch.cat([r.logp for g in stale for r in g])
    ours = torch.cat(trainer(vlm, processor, stale, 1.0)[0])
    assert (theirs - ours).abs().mean() > 1e-3
    sampler.sync(vlm)
    fresh = sampler.generate(prompts[:2], 2, 8, seed=4)
    theirs = torch.cat([r.logp for g in fresh for r in g])
    ours = torch.cat(trainer(vlm, processor, fresh, 1.0)[0])
    assert torch.allclose(theirs, ours, atol=1e-5, rtol=0)
    theirs = dict(sampler.vlm.named_parameters())
    assert all(torch.equal(p, theirs[n]) and p is not theirs[n] for n, p in vlm.named_parameters())
    assert not any(p.grad_fn or p.grad is not None for p in theirs.values())


def test_sampling_follows_its_seed_and_leaves_no_trace_in_the_trainer(vlm, processor, prompts):
    before, sampler = torch.get_rng_state(), TorchSampler(vlm, processor)

    def ids(seed):
        return [tuple(r.ids) for g in sampler.generate(prompts[:3], 3, 6, seed=seed) for r in g]
    assert ids(7) == ids(7) != ids(8) and len(set(ids(7))) == 9  # samples of a group differ
    assert torch.equal(before, torch.get_rng_state()) and vlm.training
    assert not sampler.generate(prompts[:1], 1, 4)[0][0].logp.requires_grad
    assert make_sampler("torch", vlm, processor, World(0, 1, torch.device("cpu"))).vlm is vlm
