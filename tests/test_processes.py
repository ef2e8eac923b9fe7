"""One or two processes change nothing: whole stages as under torchrun (FSDP2, gloo) beside plain python; and
shard() beside one process: both Qwen-VL, tied embeddings, bf16, adapters, a copy a node, offload, resume,
selection, all three stages from a folder as the hub has it.

Every rank does all of `stages` and of `shards`. Rows of one image, of two, of tiles and without an image lie
in small packs. So ranks have different numbers of micro-batches and meet in the encoder while one of them has
no image.
"""
import contextlib
import dataclasses
import json
import math
import os
import shutil
import warnings
from datetime import timedelta
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoConfig

import connector_tune
import entropy_select
import grpo
import sft
from conftest import plain, write_jsonl, write_mixed
from data import Processor, read_records
from families import hub_shaped, make_qwen, make_qwen3
from machinery.files import Refused, newest_checkpoint, read_json, read_jsonl
from machinery.parallel import World, even_out, shard, share, start_processes
from machinery.run import Run
from model import load
from pack import make_packs
from reward import Reward, VerifierDown
from rollout import make_rollout, make_sampler
from stages import ONE, Given, in_two_processes, metrics, reward_of, tensors


GRPO = {"grpo": {}, "everything": dict(minibatches=2, kl=0.1, checkpointing=True, steps=1),
        "handed_over": dict(steps=1),
        "opened": dict(train=("connector",), dtype="bf16", steps=2)}
NAMES = ("qwen", "tied", "bf16", "qwen3")
SAME = dict(dtype="fp32", lr=1e-3, max_tiles=2)
SAMPLED = dict(steps=2, prompts=4, samples=3, max_new_tokens=8)
WAYS = {"plain": {}, "hybrid": dict(hybrid=True), "offload": dict(offload=True)}
STEPS = [("qwen", "plain"), ("qwen", "hybrid"), ("qwen3", "plain"), ("qwen3", "lora"), ("bf16", "lora"),
         ("tied", "offload")]
SELECT = {"shards": dict(rollout="vllm", dtype="fp32"),
          "whole": dict(rollout="torch", dtype="fp32", temperature=0.0, samples=1)}  # without a seed


# --------------------------------------------------------------------------------------- what both do: stages

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


def stages(folder, given, rank=0):
    """Whole stages into folder, on the model and the rows of `given`"""
    data = str(given / "mixed.jsonl")
    flags = dict(model=str(given / "model"), data=data, max_tiles=4, dtype="fp32", lr=1e-3, max_tokens=1)
    two_steps = dict(batch=5, epochs=2 * 5 / 8)  # of eight rows: three for one rank, two for the other
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


# --------------------------------------------------------------------------------------- what both do: shards

def one_step(model, data, world, way):
    """Loss, gradient norm and weights of a plain gradient step on all rows, a pack each. With adapters it is
    the second step, because in the first one half of them have no gradient."""
    lora, half = 8 * (way == "lora"), "bf16" in model
    vlm = load(model, world.device, "bf16" if lora and half else "fp32", world=world, lora=lora)
    vlm = shard(vlm, world, **WAYS.get(way, {}))
    if lora:
        gradient_step(vlm, model, data, world)
    return *gradient_step(vlm, model, data, world), vlm


def gradient_step(vlm, model, data, world):
    processor = Processor(model)
    rows = [(p, [[7, 8, 9, 10 + i]]) for i, p in enumerate(processor.prompts(read_records(data)))]
    loss = torch.zeros(())
    for pack, weight in even_out(make_packs(processor, rows[world.rank::world.size], max_tokens=1), world):
        logp, entropy = vlm(pack)
        part = weight * (entropy.sum() - logp.sum())
        part.backward()
        loss += part.detach()
    if world.size > 1:
        torch.distributed.all_reduce(loss)
    norm = torch.nn.utils.clip_grad_norm_(vlm.parameters(), 1.0)
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    torch.optim.SGD(vlm.parameters(), lr=0.1).step()
    vlm.zero_grad()
    return float(loss), float(norm)


def shards(folder, given, world):
    """Sharded models into folder: steps, stages, selections"""
    data, model = str(given / "rows.jsonl"), str(given / "qwen3")
    for name, way in STEPS:
        loss, norm, vlm = one_step(str(given / name), data, world, way)
        (folder / f"{name}-{way}").mkdir(exist_ok=True)
        vlm.save(folder / f"{name}-{way}")
        if world.rank == 0:
            (folder / f"{name}-{way}" / "numbers.txt").write_text(f"{loss} {norm}")
        if way == "hybrid" and world.size > 1:
            assert next(vlm.parameters()).device_mesh.shape == (2, 1)
    if world.size > 1:
        refuse_nan(vlm, folder, world, data)
        out, how = folder / "stages", dict(data=data, **SAME)
        taught = dict(batch=4, epochs=2 * 4 / 6, thinking=False)
        sft.train(sft.Config(model=model, out=str(out / "sft"), **how, **taught))  # two steps of each stage
        grpo.train(grpo.Config(model=str(out / "sft"), out=str(out / "grpo"), **how, **SAMPLED))
        connector_tune.train(connector_tune.Config(model=str(out / "grpo"), val=data,
                                                   out=str(out / "connector"), **how, **taught))
        grpo.train(grpo.Config(model=model, out=str(folder / "adapters"), lora=8, **how, **SAMPLED))
    three_steps(given, folder / "back", 3)  # begun by one process, see `both`
    with pytest.MonkeyPatch.context() as m:
        m.setattr(entropy_select, "make_sampler", saved)
        one = partial(entropy_select.add_entropy, max_tokens=1)
        m.setattr(entropy_select, "add_entropy", one)  # a pack a response
        for way, how in SELECT.items():
            entropy_select.select(entropy_select.Config(
                folder=str(folder / way), data=data, probe=5, max_new_tokens=6, min_count=4, **how))


def saved(kind, vlm, processor, **how):
    """In vLLM's place responses that depend on the question alone, without entropies"""
    def generate(prompts, n, *_, **__):
        ids = processor.tokenizer.encode("Wait, it is. But")
        return [[make_rollout(processor, p, ids[k:], None, None, "stop") for k in range(n)] for p in prompts]

    def sync(vlm):
        vlm.state_dict()  # lets go of what is gathered: only the shards count from here on
        weight = vlm.hf.model.language_model.layers[0].mlp.up_proj.weight
        assert hasattr(weight, "placements") == torch.distributed.is_initialized()
        assert weight.dtype == (vlm.autocast_dtype or torch.float32)
    if kind == "torch":
        return make_sampler(kind, vlm, processor, **how)
    return SimpleNamespace(vlm=vlm, processor=processor, generate=generate, sync=sync)


def refuse_nan(vlm, folder, world, data):
    """One rank alone holds a NaN: all of them refuse to save, and none waits for another. The forward without
    backward leaves the root gathered."""
    processor, last = Processor(vlm.source), list(vlm.parameters())[-1]
    with torch.no_grad():
        vlm(*make_packs(processor, [(p, [[7]]) for p in processor.prompts(read_records(data))]))
    if world.rank == 1:
        last.to_local().data.flatten()[:1] = math.nan
    try:
        vlm.save(folder)
        (folder / f"saved_{world.rank}").touch()
    except Refused as error:
        (folder / f"refused_{world.rank}").write_text(str(error))


def three_steps(given, out, until):
    cfg = sft.Config(model=str(given / "qwen"), data=str(given / "rows.jsonl"), out=str(out), batch=4,
                     epochs=3 * 4 / 6, save_every=1, lr=1e-3, schedule="constant", dtype="fp32",
                     thinking=False, lora=8)
    stop = Run.save

    def save_and_stop(run, step, *rest):
        stop(run, step, *rest)
        if step == until:
            raise KeyboardInterrupt
    with pytest.MonkeyPatch.context() as m, contextlib.suppress(KeyboardInterrupt):
        m.setattr(Run, "save", save_and_stop)
        sft.train(cfg)


@pytest.fixture(scope="module")
def both(tiny, rows, tmp_path_factory):
    """{1: folder of one process, 2: folder of two}, and what both read."""
    out = {n: tmp_path_factory.mktemp(f"processes_{n}") for n in (1, 2)}
    given = out["given"] = tmp_path_factory.mktemp("given")
    (given / "model").symlink_to(tiny / "model")
    shutil.copytree(tiny / "model", given / "half")
    plain(tiny / "model").bfloat16().save_pretrained(given / "half")  # frozen parts of it wait in bf16
    write_mixed(given / "mixed.jsonl", rows)
    for name in NAMES:
        (given / name).mkdir()
        if name == "qwen3":  # of the two levels, the second needs a layer behind it to be seen
            make_qwen3(given / name, layers=3, depth=3)
        else:
            make_qwen(given / name, tied=name == "tied", layers=2, depth=3)
    for k in (1, 2):
        (given / "run" / f"step_00000{k}").mkdir(parents=True)
        make_qwen(given / "run" / f"step_00000{k}", layers=2, depth=3, seed=k)
    for n, way in [(n, way) for n in (1, 2) for way in SELECT]:
        shutil.copytree(given / "run", out[n] / way)
    plain(given / "bf16").to(torch.bfloat16).save_pretrained(given / "bf16")
    for name in NAMES:
        hub_shaped(given / name, root=name == "tied")
    g = torch.Generator().manual_seed(0)
    for name, (h, w) in {"a.png": (48, 48), "b.png": (60, 140), "c.png": (97, 33)}.items():
        pixels = torch.randint(0, 256, (h, w, 3), generator=g, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(given / name)
    images = [["a.png"], [], ["b.png", "c.png"], [], ["b.png"], ["c.png"]]
    write_jsonl(given / "rows.jsonl", [{"question": "What is it?", "images": names, "answer": "7",
                                        "solution": f"It is {i}." + " Yes." * i}
                                       for i, names in enumerate(images)])
    three_steps(given, out[2] / "back", 1)

    def meanwhile():
        with pytest.MonkeyPatch.context() as m:
            for name in ("make_sampler", "score_batch"):
                m.setattr(grpo, name, getattr(grpo, name))  # given back afterwards
            stages(out[1], given)
        shards(out[1], given, ONE)

    def rank(number):
        warnings.filterwarnings("error", ".*returned a view")  # FSDP's: gradients would be lost
        stages(out[2], given, number)
        os.environ["LOCAL_WORLD_SIZE"] = "1"  # as if each process were a node of its own
        shards(out[2], given, start_processes(0))
        dist.destroy_process_group()

    in_two_processes(rank, out[2], meanwhile)
    return out


# ----------------------------------------------------------------------------------------------------- stages

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


# ----------------------------------------------------------------------------------------------------- shards

@pytest.mark.parametrize("name, way", STEPS)
def test_two_processes_equal_one(both, name, way):
    numbers = [(both[n] / f"{name}-{way}" / "numbers.txt").read_text().split() for n in (1, 2)]
    one, two = ([float(x) for x in of_one] for of_one in numbers)
    half = (name, way) == ("bf16", "lora")  # it computes in bf16, too
    assert one[0] == pytest.approx(two[0], rel=1e-4 if half else 1e-5)  # kernels go by the shape
    assert one[1] == pytest.approx(two[1], rel=1e-2 if half else 1e-4)
    a, b = (load_file(both[n] / f"{name}-{way}" / "model.safetensors") for n in (1, 2))
    kept = torch.bfloat16 if name == "bf16" else torch.float32  # a folder comes back in its own precision
    assert a.keys() == b.keys() and all(x.dtype == kept for x in (*a.values(), *b.values()))
    assert all(AutoConfig.from_pretrained(both[n] / f"{name}-{way}").dtype == kept for n in (1, 2))
    for key in a:
        near = torch.isclose(a[key].float(), b[key].float(), rtol=0.01 if name == "bf16" else 1e-5,
                             atol=1e-3 if half else 1e-5)
        assert near.all(), key
    assert ("lm_head.weight" in a) == (name != "tied")


def test_all_stages_from_a_published_folder_in_two_processes(both):
    """Each trains what it should, from the weights of the one before it, and any can be loaded anywhere."""
    out, start = both[2] / "stages", plain(both["given"] / "qwen3").state_dict()
    for stage in ("sft", "grpo", "connector"):
        rows = [r for r in read_jsonl(out / stage / "metrics.jsonl") if r["step"]]
        assert len(rows) == 2 and all(math.isfinite(r["loss"]) and r["grad_norm"] > 0 for r in rows)
        if stage == "grpo":
            assert all(r["gap"] < 1e-5 and r["ratio_max"] == 1.0 for r in rows)
        now = plain(newest_checkpoint(out / stage)).state_dict()
        moved = {n for n in now if not torch.equal(now[n], start[n])}
        connector = {n for n in now if "projector" in n or "merger" in n}
        assert moved == (connector if stage == "connector" else set(now))
        start = now


def test_adapters_sample_exactly_what_they_learn_from(both):
    """In two processes each samples from a replica, with adapters of its own."""
    rows = read_jsonl(both[2] / "adapters" / "metrics.jsonl")
    assert len(rows) == 2 and all(r["gap"] < 1e-5 and r["ratio_max"] == 1.0 for r in rows)
    start, now = (plain(path).state_dict() for path in (both["given"] / "qwen3",
                                                        newest_checkpoint(both[2] / "adapters")))
    moved = {n for n in now if not torch.equal(now[n], start[n])}
    assert moved == {n for n in now if "visual" in n or "layers." in n and n.endswith("proj.weight")}


def test_run_of_one_process_goes_on_in_two(both):
    """With adapters beside the parts that train whole"""
    one, two = (read_jsonl(both[n] / "back" / "metrics.jsonl") for n in (1, 2))
    assert len(one) == len(two) == 3
    for a, b in zip(one, two):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("way", SELECT)
def test_two_processes_select_as_one(both, way):
    for k in (1, 2):
        one, two = (read_jsonl(both[n] / way / "probe" / f"step_00000{k}.jsonl")[1:] for n in (1, 2))
        assert [r["tokens"] for r in one] == [r["tokens"] for r in two] and len(one) >= 5
        one, two = (torch.tensor(sum((r["entropy"] for r in rows), [])) for rows in (one, two))
        assert (one - two).abs().max() < 2e-4
    one, two = (read_json(both[n] / way / "selected.json") for n in (1, 2))
    assert all(one[x] == two[x] for x in ("step", "rule", "count"))
    assert one["rule"] == ("accuracy" if way == "whole" else "critical_entropy")


def test_nan_of_one_rank_is_refused_by_all(both):
    said = [(both[2] / f"refused_{rank}").read_text() for rank in (0, 1)]
    assert said[0] == said[1] and "NaN or infinity in 1 tensors" in said[0]
    assert not list(both[2].glob("saved_*"))


def test_share_balances_tokens():
    costs = torch.randint(1, 1000, (64,), generator=torch.Generator().manual_seed(0)).tolist()
    worlds = [dataclasses.replace(World(0, 4, torch.device("cpu")), rank=r) for r in range(4)]
    parts = [share(list(range(64)), lambda i: costs[i], w) for w in worlds]
    assert sorted(i for p in parts for i in p) == list(range(64)) and all(p == sorted(p) for p in parts)
    sums = [sum(costs[i] for i in p) for p in parts]
    assert max(sums) < 1.02 * min(sums)
    few = [share(list(range(4)), lambda i: 5 - i, w) for w in worlds]
    assert all(len(rows) == 1 for rows in few)  # nobody is left without a row
