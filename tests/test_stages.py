"""The three stages: numbers by hand, a batch against an oracle, the optimizer's step, flags of grpo.py."""
import itertools
import math
import threading
import zlib
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import connector_tune
import grpo
import sft
from conftest import gradients, plain, plain_forward
from grpo import advantages, grpo_loss, make_batches, set_advantages
from machinery import parallel
from machinery.files import Refused, read_jsonl
from machinery.metrics import add_up
from machinery.signs import signs_of
from machinery.parallel import World, deal
from machinery.run import Run, batch_indices, learning_rate, seed_of
from machinery.supervised import ahead
from model import make_optimizer, update
from reward import Reward, VerifierDown
from rollout import Group, Rollout
from stages import (ONE, STAGES, all_get, metrics, micro_batch, reward_of, rollout_rows, run_grpo,
                    run_sft, weights)

pytestmark = pytest.mark.usefixtures("a_reward")


# --------------------------------------------------------------------------------------------- pure functions

def test_advantages_by_hand():
    reward = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.2, 0.2, 0.2, 0.2], [1.0, 0.2, 0.2, 0.2]])
    before = reward.clone()
    adv = advantages(reward)
    std = math.sqrt(1 / 3)  # of (1, 0, 0, 1): mean 1/2, squares 4 * 1/4, divided by 4 - 1
    assert torch.allclose(adv[0], torch.tensor([0.5, -0.5, -0.5, 0.5]) / std, atol=1e-5)
    assert adv[1].tolist() == [0, 0, 0, 0]  # no spread: exactly nothing to learn
    # (1, .2, .2, .2): mean .4, squares .36 + 3 * .04 = .48, std = .4: advantages 1.5, -.5, -.5, -.5
    assert torch.allclose(adv[2], torch.tensor([1.5, -0.5, -0.5, -0.5]), atol=1e-5)
    assert torch.equal(reward, before)
    assert not advantages(torch.full((40, 1), 0.2) * torch.ones(1, 11)).any()  # whose mean is not 0.2 in fp32


def test_grpo_loss_by_hand():
    """Four tokens of two responses: A = 2 with two tokens, B = -1 with two; so the weight is 1 / (2 * 2)."""
    ratio = torch.tensor([1.5, 0.5, 1.5, 0.5])
    old = torch.tensor([-1.0, -2.0, -3.0, -4.0])
    logp = (old + ratio.log()).requires_grad_()
    adv, length = torch.tensor([2.0, 2.0, -1.0, -1.0]), torch.full((4,), 2)
    kept = [t.clone() for t in (old, adv, length)]
    cfg = grpo.Config(clip_low=0.2, clip_high=0.3)
    loss, r, kl = grpo_loss(logp, torch.zeros(4), micro_batch(adv, length, old), cfg)
    # positive: min(1.5 * 2, 1.3 * 2) = 2.6 clipped; min(0.5 * 2, 0.8 * 2) = 1.0
    # negative: min(1.5 * -1, 1.3 * -1) = -1.5; min(0.5 * -1, 0.8 * -1) = -0.8 clipped
    assert loss.item() == pytest.approx(-(2.6 + 1.0 - 1.5 - 0.8) / 4, abs=1e-6)
    assert torch.allclose(r, ratio) and kl is None
    loss.backward()  # d loss / d logp = -weight * ratio * A where nothing is clipped, 0 where it is
    assert torch.allclose(logp.grad, torch.tensor([0.0, -0.25 * 0.5 * 2, 0.25 * 1.5, 0.0]), atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip((old, adv, length), kept))
    nothing = torch.zeros(0)
    empty = micro_batch(nothing, nothing, nothing)
    assert grpo_loss(nothing, nothing, empty, grpo.Config())[0].item() == 0  # an empty piece is 0, not NaN


def test_any_cut_has_the_same_loss_and_gradient(processor, prompts, monkeypatch):
    """Responses of 1 to 40 tokens: a mean over each one's own tokens, then over responses, however they are
    cut into packs and dealt to ranks; a repeated pack adds nothing. The models are tables of log-probs."""
    g = torch.Generator().manual_seed(0)
    now, old, ref = torch.randn(3, len(processor.tokenizer), generator=g) * 0.3 - 3
    now.requires_grad_()

    def draw(prompt):  # near to `old`
        ids = torch.randint(0, 500, (int(torch.randint(1, 41, (1,), generator=g)),), generator=g)
        logp, reward = old[ids] + 0.5 * torch.randn(len(ids), generator=g), float(torch.rand(1, generator=g))
        return Rollout(prompt, ids.tolist(), logp, None, "", [], "stop", Reward(0, 0, reward, None, ""))

    groups = [Group(prompt, [draw(prompt) for _ in range(3)]) for prompt in prompts]
    cfg = grpo.Config(prompts=8, samples=3, minibatches=2, is_clip=1.5, kl=0.1, max_tokens=10 ** 6)
    set_advantages(groups)

    def of_each_response(weigh):
        terms = []
        for r in (r for group in groups[:4] for r in group.rollouts):
            logp, old_logp, ref_logp = now[r.ids], old[r.ids], ref[r.ids]
            ratio, a = (logp - old_logp).exp(), r.advantage
            penalty = (ref_logp - logp).exp() - (ref_logp - logp) - 1
            term = torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a) - 0.1 * penalty
            terms.append(weigh(-term * (old_logp - r.logp).exp().clamp(max=1.5)))
        return terms

    by_hand = torch.stack(of_each_response(torch.mean)).mean()
    over_tokens = torch.cat(of_each_response(torch.clone)).mean()
    assert abs((by_hand - over_tokens).item()) > 0.01  # the two means can be told apart
    gradient, = torch.autograd.grad(by_hand, now)
    for ranks, max_tokens in itertools.product((1, 2, 4), (1, 60, 10 ** 6)):
        cfg.max_tokens, loss, packs = max_tokens, 0.0, 0
        monkeypatch.setattr(parallel, "gather", lambda *_: [groups[r::ranks] for r in range(ranks)])
        monkeypatch.setattr(parallel, "total", lambda values, *_: [values[0] + 1])  # a pack to repeat
        for rank in range(ranks):
            world = World(rank, ranks, torch.device("cpu"))
            old_model, ref_model = (lambda pack, t=t: (t[pack.target], None) for t in (old, ref))
            s = SimpleNamespace(vlm=old_model, reference=ref_model, processor=processor, world=world)
            micro_batches = make_batches(s, cfg, groups[rank::ranks])[0]
            for micro in micro_batches:
                loss = loss + micro.real * grpo_loss(now[micro.pack.target], None, micro, cfg)[0]
            packs += sum(micro.real for micro in micro_batches)
            assert micro_batches[-1].real == 0
        assert packs >= (12 if max_tokens == 1 else ranks)
        assert loss.item() == pytest.approx(by_hand.item(), abs=1e-5)
        assert torch.allclose(torch.autograd.grad(loss, now)[0], gradient, atol=1e-6)


def test_kl_by_hand():
    logp = torch.tensor([-1.0, -1.0, -1.0])
    ref = torch.tensor([-1.0, -1.0 + math.log(2), -1.0 - math.log(2)])
    by_hand = (0.0 + 2 - math.log(2) - 1 + 0.5 + math.log(2) - 1) / 6  # 1 / (3 tokens * 2 responses)
    micro = micro_batch(torch.zeros(3), torch.full((3,), 3), logp)
    micro.ref_logp = ref
    loss, _, kl = grpo_loss(logp, None, micro, grpo.Config(kl=0.5))
    assert kl.item() == pytest.approx(by_hand, abs=1e-6)
    assert loss.item() == pytest.approx(0.5 * by_hand, abs=1e-6)


@given(n=st.integers(1, 40), batch=st.integers(1, 50), seed=st.integers(0, 5))
def test_every_row_once_an_epoch(n, batch, seed):
    steps = 3 * n
    order = [i for step in range(steps) for i in batch_indices(n, batch, step, seed)]
    for epoch in range(len(order) // n):
        assert sorted(order[epoch * n:(epoch + 1) * n]) == list(range(n))
    if n > 20:  # another order in each epoch, and of each seed
        again = [i for step in range(steps) for i in batch_indices(n, batch, step, seed + 1)]
        assert order[:n] != again[:n] and order[:n] != order[n:2 * n]


def test_ahead_is_one_step_ahead():
    """While step k trains, the packs of k + 1 are being made, and of no later one; every step has its own."""
    made = {k: threading.Event() for k in range(2, 6)}

    def make(step):
        made[step].set()
        return 10 * step
    seen = []
    for step, packs in ahead(make, 2, 6):
        seen.append((step, packs))
        assert step == 5 or made[step + 1].wait(20)
        assert not any(made[k].is_set() for k in range(step + 2, 6))
    assert seen == [(2, 20), (3, 30), (4, 40), (5, 50)]
    with pytest.raises(Refused, match="no such image"):
        list(ahead(lambda step: (_ for _ in ()).throw(Refused("no such image")), 0, 3))


def test_seeds_differ_by_rank_step_run_and_purpose():
    every = itertools.product(range(4), range(20), range(8), range(3))
    seeds = {seed_of(seed, step, rank, what) for seed, step, rank, what in every}
    assert len(seeds) == 4 * 20 * 8 * 3 and all(0 <= s < 2 ** 63 for s in seeds)


def test_learning_rate():
    rates = [learning_rate(s, 100, 2.0, 10, "cosine") for s in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert rates[10] == 2.0 and rates[55] == pytest.approx(1.0) and 0 < rates[99] < 0.002
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert [learning_rate(s, 4, 1.0, 0, "linear") for s in range(4)] == [1, 0.75, 0.5, 0.25]
    assert [learning_rate(s, 4, 1.0, 2, "constant") for s in range(4)] == [0.5, 1, 1, 1]
    assert learning_rate(0, 1, 1.0, 0.03, "cosine") > 0  # a run of one step does learn


def test_logged_learning_rates_are_the_planned_ones(straight):
    for name in ("sft", "connector"):  # cosine over 4 steps; the warm-up of 3% is over at once
        planned = [learning_rate(s, 4, 1e-3, 0.12, "cosine") for s in range(4)]
        assert [r["lr"] for r in metrics(straight[name])[-4:]] == pytest.approx(planned, abs=1e-6)


def test_count_by_hand():
    """Entropies of the trainer, critical words of the text: " Wait" is token 1, "again" token 2."""
    def rollout(pieces):
        return Rollout(None, list(range(len(pieces))), None, None, "".join(pieces), pieces, "stop")

    rollouts = [rollout(["7.", " Wait", ", 8"]), rollout(["x", " ", "aga", "in"]), rollout(["no"])]
    entropy = torch.tensor([0.1, 2.0, 0.3, 0.4, 0.5, 3.0, 0.7, 0.8])
    m, cfg = defaultdict(float), grpo.Config(words=("wait", "again"), high_entropy=1.5)
    for some, part in ((rollouts[:2], entropy[:7]), (rollouts[2:], entropy[7:])):  # sums over packs
        micro = SimpleNamespace(rollouts=some, old_logp=part, sampled_logp=part + 0.5)
        add_up(m, torch.tensor(1.0), torch.tensor([0.7, 1.3, *[1.0] * 5])[:len(part)], None, part, micro, cfg)
    assert m["gap"] == pytest.approx(4.0) and m["loss"] == 2 and m["clip_fraction"] == 3
    assert (m["tokens"], m["entropy_high"], m["critical_count"]) == (8, 2, 2)
    assert m["entropy"] == pytest.approx(7.8) and m["critical_entropy"] == pytest.approx(5.0)


GOOD = dict(reward=0.5, entropy=1.0, repetition=0, truncated=0, denial=0, gap=1e-6, groups_mixed=0.5,
            entropy_high=0.01, grad_norm=2.0)


@pytest.mark.parametrize("change, name", [
    (dict(reward=0.24), "reward collapse"), (dict(repetition=0.4), "repetition"),
    (dict(entropy=3.6), "entropy shoots up"), (dict(entropy=0.04), "entropy vanishes"),
    (dict(entropy=0.9, entropy_high=0.06), "high entropy spreads"), (dict(denial=0.06), "image denial"),
    (dict(grad_norm=21.0), "gradient norm explodes"), (dict(truncated=0.3), "lengths at the limit"),
    (dict(gap=0.06), "sampler/trainer gap"), (dict(groups_mixed=0.01), "no signal")])
def test_warning_signs(change, name):
    """Once each time one appears; in the first steps a comparison would be a false alarm."""
    steps = [GOOD] * 9 + [{**GOOD, **change}] * 2 + [GOOD, {**GOOD, **change}]
    found = [(step, sign) for step, sign, _ in signs_of([{**m, "step": i} for i, m in enumerate(steps, 1)])]
    assert found == [(10, name), (13, name)]
    at_once = ("repetition", "image denial", "lengths at the limit", "sampler/trainer gap", "no signal")
    assert bool([*signs_of([{**GOOD, **change, "step": 1}])]) == (name in at_once)


# ---------------------------------------------------------------------------------- a batch against an oracle

def gradient_of(monkeypatch, run):
    """Run one step and return the gradients that reach the optimizer, by name, and the step's metrics."""
    caught = {}

    def catch(vlm, *args, **kwargs):
        caught.update(gradients(vlm.hf))
        return update(vlm, *args, **kwargs)

    with monkeypatch.context() as m:
        m.setattr(grpo, "update", catch)
        m.setattr(sft, "update", catch)
        run()
    return caught


def same_gradients(a, b, tolerance=1e-5):
    assert a.keys() == b.keys()
    scale = max(float(g.abs().max()) for g in b.values())
    assert scale > 1e-3
    for name in b:
        assert (a[name] - b[name]).abs().max() <= tolerance * max(scale, float(b[name].abs().max())), name


def test_grpo_gradient_is_the_papers(tiny, mixed, sampler, processor, prompts, monkeypatch, tmp_path):
    """One step of grpo.py = the gradient of mean over responses of mean over tokens of A * logp, one response
    at a time in plain transformers, images and all; in one pack, and in many with split groups."""
    ways = {"one": dict(checkpointing=True), "many": dict(max_tokens=60)}
    options = dict(data=mixed, prompts=8, samples=3, max_gap=1e9, temperature=0.8, max_tiles=4)
    hf = plain(tiny / "model")
    groups = [[sampler.rollout(p, k) for k in range(3)] for p in prompts]
    loss = 0.0
    for p, group in zip(prompts, groups):
        r = torch.tensor([x.total for x in reward_of([g.text for g in group], None)])
        adv = (r - r.mean()) / (r.std() + 1e-6)
        for g, a in zip(group, adv):
            loss = loss - a * plain_forward(hf, processor, [(p, [g.ids])], 0.8)[0].mean() / 24
    loss.backward()
    for name, more in ways.items():
        caught = gradient_of(monkeypatch, lambda: run_grpo(tiny, tmp_path / name, 1, **options, **more))
        same_gradients(caught, gradients(hf))
    a, b = metrics(tmp_path / "one")[0], metrics(tmp_path / "many")[0]
    assert a.keys() == b.keys()
    assert all(a[k] == b[k] or a[k] == pytest.approx(b[k], abs=1e-5, rel=1e-4) for k in a)


def test_sft_gradient_is_the_mean_over_tokens(tiny, mixed, processor, prompts, monkeypatch, tmp_path):
    hf = plain(tiny / "model")
    taught = [processor.tokenizer(p.record.solution, add_special_tokens=False)["input_ids"] for p in prompts]
    pairs = [(p, [ids + [processor.tokenizer.eos_token_id]]) for p, ids in zip(prompts, taught)]
    loss = -plain_forward(hf, processor, pairs)[0].mean()
    loss.backward()
    options = dict(data=mixed, val=mixed, batch=8, epochs=1, max_tiles=4)
    for name, more in {"one": {}, "many": dict(max_tokens=60)}.items():
        caught = gradient_of(monkeypatch, lambda: run_sft(tiny, tmp_path / name, **options, **more))
        same_gradients(caught, gradients(hf))
        row, = metrics(tmp_path / name)
        assert row["loss"] == pytest.approx(loss.item(), abs=1e-5)
        assert row["tokens"] == sum(len(ids) for _, (ids,) in pairs)
    after = plain(tmp_path / "one" / "step_000001")
    loss = -plain_forward(after, processor, pairs)[0].mean()
    assert row["val_loss"] == pytest.approx(loss.item(), abs=1e-4)  # after the step


# --------------------------------------------------------------------------------------- the optimizer's step

def test_gradients_that_are_not_finite(tmp_path):
    net = torch.nn.Linear(2, 1)
    net.parts = lambda: {"llm": dict(net.named_parameters())}
    optimizer = make_optimizer(net, 0.0)
    run = Run(tmp_path / "run", sft.Config(), ONE)

    def step(value):
        for p in net.parameters():
            p.grad = torch.full_like(p, value)
        return update(net, optimizer, 0.1, 1.0, run, ["row 7", "row 8"])

    start = net.weight.clone()
    assert math.isnan(step(math.nan))
    assert torch.equal(net.weight, start) and not optimizer.state and net.weight.grad is None
    assert math.isinf(step(math.inf))
    assert step(1.0) == pytest.approx(3 ** 0.5)  # a good one: the count begins again
    assert not torch.equal(net.weight, start)
    step(math.nan), step(math.nan)
    told = "3 steps in a row without a finite gradient: lower --lr.*bad_steps.jsonl"
    with pytest.raises(Refused, match=told):
        step(math.nan)
    rows = read_jsonl(tmp_path / "run" / "bad_steps.jsonl")
    assert len(rows) == 5 and rows[0]["rows"] == ["row 7", "row 8"] and rows[1]["norm"] == "inf"
    assert torch.isfinite(net.weight).all()


# ---------------------------------------------------------------------------------------------- flags of grpo


def test_metrics_agree_with_each_other(straight):
    samples = rollout_rows(straight["grpo"])[::4]  # four responses of a group a step
    for row, sample in zip(metrics(straight["grpo"]), samples, strict=True):
        assert row["reward"] == pytest.approx(0.8 * row["accuracy"] + 0.2 * row["format"], abs=1e-5)
        assert row["length"] * 16 == pytest.approx(row["tokens"], abs=1e-2) and row["length_max"] <= 8
        assert row["ratio_max"] == 1.0 and row["clip_fraction"] == 0 and row["gap"] < 1e-5  # on-policy
        assert 0 < row["entropy"] < 7 and (row["critical_entropy"] is None) == (row["critical_count"] == 0)
        assert sample["step"] == row["step"] and len(sample["tokens"]) == len(sample["entropy"])
        assert "".join(sample["tokens"]) == sample["text"]
        assert Path(sample["images"][0]).exists() and sample["gold"] and sample["question"]


def test_kl_gradient_is_the_penaltys(tiny, mixed, sampler, processor, prompts, monkeypatch, tmp_path):
    """A step that moves the policy, then one in which all advantages are zero: only the penalty is left,
    against the model that the run started from, mean over tokens, then over responses."""
    options = dict(data=mixed, prompts=8, samples=3, max_gap=1e9, kl=0.5, max_tiles=4)
    run_grpo(tiny, tmp_path / "run", 1, **options)
    policy, reference = plain(tmp_path / "run" / "step_000001"), plain(tiny / "model")
    loss = 0.0
    for p in prompts:
        for ids in (sampler.rollout(p, k).ids for k in range(3)):
            logp, ref = (plain_forward(hf, processor, [(p, [ids])])[0] for hf in (policy, reference))
            loss = loss + 0.5 * ((ref.detach() - logp).exp() - (ref.detach() - logp) - 1).mean() / 24
    loss.backward()
    monkeypatch.setattr(grpo, "score_batch", all_get(Reward(0.0, 0.0, 0.0, None, "no")))
    caught = gradient_of(monkeypatch, lambda: run_grpo(tiny, tmp_path / "run", 2, **options))
    same_gradients(caught, gradients(policy))
    assert metrics(tmp_path / "run")[1]["kl"] * 0.5 == pytest.approx(loss.item(), rel=1e-4)


def test_dynamic_sampling_replaces_groups_without_spread(tiny, sampler, tmp_path, monkeypatch):
    """Half of the prompts are all right or all wrong (their format still spreads): others are drawn."""
    def rewards(responses, golds, thinking, options, verifier, questions):
        out = []
        for i, q in enumerate(questions):
            right = (0.0, 1.0, i % 2, i % 2)[zlib.crc32(q.encode()) % 4]  # all wrong, all right, mixed, mixed
            neat = i // 2 % 2
            out.append(Reward(right, neat, 0.8 * right + 0.2 * neat, None, "rule"))
        return out

    monkeypatch.setattr(grpo, "score_batch", rewards)
    out = {}
    for dynamic in (False, True):
        sampler.asked.clear()
        run_grpo(tiny, tmp_path / str(dynamic), 2, prompts=8, dynamic_sampling=dynamic, max_gap=1e9)
        out[dynamic] = [r["groups_mixed"] for r in metrics(tmp_path / str(dynamic))], len(sampler.asked)
    assert min(out[False][0]) < 1 and out[False][1] == 16
    assert out[True][0] == [1, 1] and 16 < out[True][1] <= 16 * 5
    assert metrics(tmp_path / "True")[0]["tokens"] < 8 * 4 * 12  # the batch keeps its size
    monkeypatch.setattr(grpo, "score_batch", all_get(Reward(1.0, 0.0, 0.8, None, "rule")))
    run_grpo(tiny, tmp_path / "hopeless", 1, dynamic_sampling=True, max_gap=1e9)
    row, = metrics(tmp_path / "hopeless")  # nothing mixed anywhere: it gives up and goes on
    assert row["groups_mixed"] == 0 and row["grad_norm"] == pytest.approx(0, abs=1e-6)


def test_groups_without_spread_are_left_out(tiny, sampler, tmp_path, monkeypatch):
    """They cost no forward and no backward; the step is as with them, which a KL of weight ~0 keeps."""
    def rewards(texts, golds, thinking, options, verifier, questions):
        no, spread = Reward(0.0, 1.0, 0.2, None, "no"), reward_of(texts, None)
        return [r if zlib.crc32(q.encode()) % 2 else no for r, q in zip(spread, questions)]

    monkeypatch.setattr(grpo, "score_batch", rewards)
    options, caught = dict(prompts=8, samples=3, max_gap=1e9), {}
    for kl in (0.0, 1e-30):
        caught[kl] = gradient_of(monkeypatch, lambda: run_grpo(tiny, tmp_path / str(kl), 1, kl=kl, **options))
    same_gradients(caught[0.0], caught[1e-30])
    few, all_ = (metrics(tmp_path / str(kl))[0] for kl in caught)
    assert 0.2 * all_["tokens"] < few["tokens"] < 0.8 * all_["tokens"]
    assert few["reward"] == all_["reward"] and few["length"] == all_["length"]


def test_deal_by_hand(monkeypatch):
    """The picture of machinery.parallel.deal, with room 10 and prompts of 2 tokens:

        sampled         rank 0: A C E     rank 1: B D F     F is longer than the room, C and E do not matter
        two steps       A B C   |   D E F
        left out        A B     |   D F
        cut             A B     |   D F1 F2
        dealt           rank 0: A | D F1      rank 1: B | F2
    """
    def group(name, *lengths):
        rollouts = [SimpleNamespace(name=f"{name}{i}", ids=[0] * n) for i, n in enumerate(lengths)]
        return Group(SimpleNamespace(name=name, full=[0, 0]), rollouts)

    def names(rank):
        return [" ".join(r.name for g in groups for r in g.rollouts) for groups, _ in rank]

    def deal_to(groups):  # what each of two ranks gets, which sampled the groups in turn
        monkeypatch.setattr(parallel, "gather", lambda *_: [groups[::2], groups[1::2]])
        worlds = [World(rank, 2, torch.device("cpu")) for rank in (0, 1)]
        return [deal(groups[w.rank::2], 2, lambda g: g.prompt.name not in "CE", 10, w) for w in worlds]

    A, B, C = group("A", 3, 3), group("B", 2, 2), group("C", 4, 4)
    D, E, F = group("D", 1, 1), group("E", 7, 1), group("F", 4, 4, 4, 4)
    zero, one = deal_to([A, B, C, D, E, F])
    assert names(zero) == ["A0 A1", "D0 D1 F0 F1"] and names(one) == ["B0 B1", "F2 F3"]
    assert [tokens for _, tokens in zero] == [18, 26] == [tokens for _, tokens in one]  # of all groups
    assert len(F.rollouts) == 4  # the group itself stays whole
    # of C and F one matters: C stays, because each of two ranks has to keep something to do
    zero, one = deal_to([A, B, C, F])
    assert names(zero) == ["A0 A1", "F0 F1 C0 C1"] and names(one) == ["B0 B1", "F2 F3"]


def test_curriculum_changes_the_data(tiny, straight, tmp_path):
    run_grpo(tiny, tmp_path / "run", 4, curriculum=str(tiny / "val.jsonl"), curriculum_at=2)
    ids = [r["id"] for r in rollout_rows(tmp_path / "run")[::4]]  # four responses of a group a step
    assert [i.split("_")[0] for i in ids] == ["rl", "rl", "val", "val"]
    assert metrics(tmp_path / "run")[:2] == metrics(straight["grpo"])[:2]


def test_temperature_and_thinking_reach_sampler_trainer_and_reward(tiny, straight, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(grpo, "score_batch", lambda *a: told.append(a[2]) or reward_of(*a))
    run_grpo(tiny, tmp_path / "run", 1, temperature=0.6, thinking=False)
    cool, = metrics(tmp_path / "run")
    assert set(told) == {False} and cool["gap"] < 1e-5 and cool["ratio_max"] == 1
    assert metrics(straight["grpo"])[0]["entropy"] > cool["entropy"] + 0.2


def test_verifier_that_goes_away_loses_nothing(tiny, straight, tmp_path, monkeypatch):
    def rewards(*args):
        if len(metrics(tmp_path / "run")) == 3:
            raise VerifierDown("no answer for 900 s")
        return reward_of(*args)

    options = dict(verifier="http://127.0.0.1:9/v1", save_every=100)
    with monkeypatch.context() as m:
        m.setattr(grpo, "score_batch", rewards)
        with pytest.raises(Refused, match="(?s)900 s.*3 steps are saved"):
            run_grpo(tiny, tmp_path / "run", **options)
    assert (tmp_path / "run" / "step_000003" / "trainer").exists()
    run_grpo(tiny, tmp_path / "run", **options)
    assert weights(tmp_path / "run") == weights(straight["grpo"])


def test_defaults_are_the_papers():
    assert all(stage.Config().lr == 1e-5 for stage, _ in STAGES.values())
    c = grpo.Config()
    assert (c.prompts, c.samples, c.temperature, c.minibatches) == (32, 32, 1.0, 1)
    assert (c.clip_low, c.clip_high, c.kl) == (0.2, 0.2, 0.0)
    c = connector_tune.Config()
    assert (c.batch, c.epochs, c.warmup, c.schedule) == (64, 2.0, 0.03, "cosine")
    assert (c.max_length, c.train) == (16384, ("connector",))
