"""One or two processes change nothing: whole scripts under torchrun (FSDP2, gloo) beside plain python.

Run by torchrun this file is the worker: every rank does all of `jobs`. Rows of one image, of two, of tiles
and without an image lie in small packs. So ranks have different numbers of micro-batches and meet in the
encoder while one of them has no image.
"""
import json
import os
import shutil
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

import connector_tune
import grpo
import sft
from conftest import plain, write_mixed
from data import Processor, read_records
from machinery import features
from machinery.files import Refused, newest_checkpoint, read_jsonl
from machinery.parallel import start_processes
from machinery.parallel import even_out
from reward import Reward, VerifierDown
from stages import Given, in_two_processes, metrics, reward_of, tensors

GRPO = {"grpo": {}, "everything": dict(minibatches=2, kl=0.1, checkpointing=True, steps=1),
        "handed_over": dict(steps=1),
        "opened": dict(train=("connector",), dtype="bf16", steps=2)}


def run_grpo(folder, given, name, **more):
    """grpo.py on given responses: what ranks would sample differs by their seeds."""
    model = str(given / ("half" if name == "opened" else "model"))
    flags = dict(model=model, data=str(given / "mixed.jsonl"), max_tiles=4, dtype="fp32", lr=1e-3,
                 max_tokens=60, prompts=4, samples=3, max_gap=1e9, steps=2)
    choose = grpo.next_prompts

    def opens(s, *args):  # the encoder trains in the second step
        if name == "opened" and args[1] == 1:
            s.vlm.train_only(("encoder", "connector"))
        return choose(s, *args)

    grpo.next_prompts = opens
    grpo.train(grpo.Config(out=str(folder / name), **{**flags, **GRPO[name], **more}))
    grpo.next_prompts = choose


def draws_together(given, rank):
    """Ranks meet in the sampler, as in a vLLM engine that they share, and who does not come is missed. Rank 0
    has enough mixed groups at once, rank 1 has none, and loses its verifier in the third draw."""
    def score(texts, *_):
        if rank and len(sampler.seeds) == 3:
            raise VerifierDown("gone")
        return [Reward(float(not rank and i % 2), 0.0, 0.0, None, "rule") for i in range(len(texts))]

    def meet(*args, **how):
        dist.monitored_barrier(timeout=timedelta(seconds=20))
        return Given.generate(sampler, *args, **how)

    processor = Processor(given / "model", max_tiles=4)
    cfg = grpo.Config(prompts=4, samples=3, dynamic_sampling=True)
    sampler, prompts = Given(processor), processor.prompts(read_records(given / "mixed.jsonl"))
    sampler.generate, grpo.score_batch = meet, score
    s = SimpleNamespace(world=start_processes(0), pool=prompts, hard=[], sampler=sampler, verifier=None,
                        run=SimpleNamespace(step=0))
    with pytest.raises(Refused, match="gone"):
        grpo.collect(s, cfg, 0)
    assert len(sampler.seeds) == 3


def jobs(folder, given, rank=0):
    """Every job of this file: whole stages into folder, on the model and the rows of `given`."""
    data = str(given / "mixed.jsonl")
    flags = dict(model=str(given / "model"), data=data, max_tiles=4, dtype="fp32", lr=1e-3, max_tokens=1)
    two_steps = dict(batch=5, epochs=2 * 5 / 8)  # of eight rows: three for one rank, two for the other
    packs = []  # [all of them, of these repeats, without an image] of each batch

    def even_out_and_note(own, world):
        all = even_out(own, world)
        packs.append([len(all), len(all) - len(own), sum(not p.images for p, _ in all)])
        return all

    for module in (sft, grpo, features):
        module.even_out = even_out_and_note
    sft.train(sft.Config(**flags, **two_steps, val=data, out=str(folder / "sft")))
    connector_tune.train(connector_tune.Config(**flags, **two_steps, val=data, out=str(folder / "connector")))
    if dist.is_initialized():
        draws_together(given, rank)
    make_sampler, grpo.score_batch = grpo.make_sampler, reward_of
    grpo.make_sampler = lambda kind, vlm, processor, *_: Given(processor)
    for name in GRPO:
        run_grpo(folder, given, name)

    asked = []  # seeds and samples of the true sampler

    def noting(*args):
        sampler = make_sampler(*args)
        generate = sampler.generate

        def generate_and_note(prompts, *args, **how):
            out = generate(prompts, *args, **how)
            asked.append((args[-1], [r.ids for g in out for r in g]))
            return out
        sampler.generate = generate_and_note
        return sampler

    grpo.make_sampler = noting
    sampled = dict(out=str(folder / "sampled"), steps=2, temperature=0.8, max_new_tokens=6)
    grpo.train(grpo.Config(**flags, **sampled, prompts=4, samples=3))
    (folder / f"asked_{rank}.json").write_text(json.dumps(asked))
    (folder / f"packs_{rank}.json").write_text(json.dumps(packs))


@pytest.fixture(scope="module")
def both(tiny, rows, tmp_path_factory):
    """{1: folder of one process, 2: folder of two}, and what both read."""
    out = {n: tmp_path_factory.mktemp(f"processes_{n}") for n in (1, 2)}
    given = out["given"] = tmp_path_factory.mktemp("given")
    (given / "model").symlink_to(tiny / "model")
    shutil.copytree(tiny / "model", given / "half")
    plain(tiny / "model").bfloat16().save_pretrained(given / "half")  # frozen parts of it wait in bf16
    write_mixed(given / "mixed.jsonl", rows)

    def meanwhile():
        with pytest.MonkeyPatch.context() as m:
            changed = [(grpo, "make_sampler"), (grpo, "score_batch")]
            for stage, name in changed + [(s, "even_out") for s in (sft, grpo, features)]:
                m.setattr(stage, name, getattr(stage, name))  # given back afterwards
            jobs(out[1], given)
    in_two_processes(__file__, out[2], given, meanwhile)
    return out


def same_metrics(a, b):
    """Losses to 1e-5, gradient norms to 1e-4; less exact once AdamW has magnified rounding."""
    a, b = metrics(a), metrics(b)
    assert len(a) == len(b) > 0 and a[0].keys() == b[0].keys()
    for x, y in zip(a, b):
        for key in y:
            near = dict(abs=1e-5, rel=1e-4 if key == "grad_norm" else 1e-5)
            if x["step"] > 1:
                near = dict(abs=2e-4, rel=2e-3)
            assert x[key] == y[key] or x[key] == pytest.approx(y[key], **near), (x["step"], key)


@pytest.mark.parametrize("name", ["sft", "connector", "grpo", "everything", "handed_over"])
def test_stage_is_the_same_in_two_processes(both, name):
    same_metrics(both[2] / name, both[1] / name)
    assert all(r["grad_norm"] > 0 for r in metrics(both[1] / name) if r["step"])  # 0: validation alone
    assert [json.loads((both[n] / name / "config.json").read_text())["processes"] for n in (1, 2)] == [1, 2]


@pytest.mark.parametrize("name", ["sft", "grpo", "connector"])
def test_checkpoint_of_two_processes(both, name):
    """The files, names and weights (to rounding magnified by AdamW) of one process; nothing half-written."""
    one, two = (tensors(both[n] / name / "step_000002") for n in (1, 2))
    assert one.keys() == two.keys()
    assert all(one[n].shape == two[n].shape and one[n].dtype == two[n].dtype for n in one)
    start = tensors(both["given"] / "model")
    moved = sum(float((one[n] - start[n]).abs().sum()) for n in one)
    assert sum(float((one[n] - two[n]).abs().sum()) for n in one) < 0.01 * moved
    names = [sorted(p.name for p in (both[n] / name / "step_000002").iterdir()) for n in (1, 2)]
    assert names[0] == names[1] and not list(both[2].rglob("*.part"))


def test_two_processes_in_bf16(both):
    for one, two in zip(*(metrics(both[n] / "opened") for n in (1, 2)), strict=True):
        assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=0.1) and one["grad_norm"] > 0


def test_frozen_parts_stay_as_they_are_in_two_processes(both):
    for name in ("connector", "opened"):
        start = tensors(both["given"] / ("half" if name == "opened" else "model"))
        after = tensors(newest_checkpoint(both[2] / name))
        changed = {n for n in start if not torch.equal(start[n], after[n])}
        expected = {n for n in start if "multi_modal_projector" in n or name == "opened" and "vision" in n}
        assert changed <= expected and len(changed) > 0.7 * len(expected), name


def test_run_of_two_processes_goes_on_in_one(both, tmp_path, monkeypatch):
    """One step by two processes, the second by one: as if nothing had happened."""
    monkeypatch.setattr(grpo, "make_sampler", lambda kind, vlm, processor, *_: Given(processor))
    monkeypatch.setattr(grpo, "score_batch", reward_of)
    run_grpo(both[2], both["given"], "handed_over", steps=2)
    same_metrics(both[2] / "handed_over", both[1] / "grpo")


def test_ranks_sample_differently_and_exactly(both):
    """Each rank has seeds of its own in every step, and the sampler's replica follows the sharded trainer."""
    asked = [json.loads((both[2] / f"asked_{rank}.json").read_text()) for rank in (0, 1)]
    seeds = [seed for of_rank in asked for seed, _ in of_rank]
    assert len(seeds) == 4 == len(set(seeds))
    assert asked[0][0][1] != asked[1][0][1]
    for row in metrics(both[2] / "sampled"):
        assert row["gap"] < 1e-5 and row["ratio_max"] == 1.0 and row["count"] == 12
    rows = read_jsonl(both[2] / "sampled" / "rollouts.jsonl")  # rank 0 alone writes: a group of 3 a step
    assert [row["step"] for row in rows] == [1, 1, 1, 2, 2, 2]


def test_ranks_did_meet_unequal(both):
    """Otherwise these tests would show little: packs are repeated, and packs without an image meet others."""
    zero, one = (json.loads((both[2] / f"packs_{rank}.json").read_text()) for rank in (0, 1))
    assert [p[0] for p in zero] == [p[0] for p in one]  # forwards: the same number everywhere
    assert sum(a[1] != b[1] for a, b in zip(zero, one)) > 5
    assert sum(a[2] != b[2] for a, b in zip(zero, one)) > 5


if __name__ == "__main__":
    jobs(Path(sys.argv[1]), Path(sys.argv[2]), int(os.environ["RANK"]))
    torch.distributed.destroy_process_group()
