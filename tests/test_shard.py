"""shard() beside one process: both Qwen-VL, tied embeddings, bf16, adapters, a copy a node, offload, resume;
selection; all three stages in two processes, from every family's folder as the hub has it, or a release.

Run by torchrun this file is the worker of two processes. test_processes.py does so for whole stages.
"""
import dataclasses
import math
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoConfig

import connector_tune
import entropy_select
import grpo
import sft
from chat_release import make_release
from conftest import ENV, ROOT, plain, write_jsonl
from data import Processor, read_records
from families import hub_shaped, make_qwen, make_qwen3, save_blank_model
from machinery.files import Refused, newest_checkpoint, read_json, read_jsonl
from machinery.parallel import World, even_out, shard, share, start_processes
from machinery.run import Run
from model import load
from pack import make_packs
from recipes import convert
from reward import Reward
from rollout import make_rollout, make_sampler

LIMIT = 480
NAMES = ("qwen", "tied", "bf16", "qwen3")
STARTS = ("internvl", "released", "qwen", "qwen3")  # of all three stages
SAME = dict(dtype="fp32", lr=1e-3, max_tiles=2)
SAMPLED = dict(steps=2, prompts=4, samples=3, max_new_tokens=8)
WAYS = {"plain": {}, "hybrid": dict(hybrid=True), "offload": dict(offload=True)}
STEPS = [(name, way) for name in ("qwen", "qwen3") for way in WAYS]
STEPS += [("bf16", "plain"), ("tied", "plain"), ("tied", "offload")]
STEPS += [("qwen3", "lora"), ("bf16", "lora")]
SELECT = {"shards": dict(rollout="vllm", dtype="fp32"), "half": dict(rollout="vllm", dtype="bf16"),
          "whole": dict(rollout="torch", dtype="fp32", temperature=0.0, samples=1)}  # without a seed


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


def jobs(folder, given, world):
    data = str(given / "rows.jsonl")
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
        grpo.score_batch = score_by_length
        for name in STARTS:
            all_stages(str(given / name), data, folder / name)
        grpo.train(grpo.Config(model=str(given / "qwen3"), data=data, out=str(folder / "adapters"), lora=8,
                               **SAME, **SAMPLED))
    for lora in (0, 8):
        three_steps(given, folder / f"back-{lora}", 3, lora)  # begun by one process, see `both`
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


def all_stages(model, data, out):
    """Two steps of each stage, one after the other as the recipe has them."""
    how = dict(data=data, **SAME)
    taught = dict(batch=4, epochs=2 * 4 / 6, thinking=False)
    sft.train(sft.Config(model=model, out=str(out / "sft"), **how, **taught))
    grpo.train(grpo.Config(model=str(out / "sft"), out=str(out / "grpo"), **how, **SAMPLED))
    connector_tune.train(connector_tune.Config(model=str(out / "grpo"), val=data, out=str(out / "connector"),
                                               **how, **taught))


def score_by_length(texts, *_):
    return [Reward(len(t) % 2, 0.0, float(len(t) % 2), None, "") for t in texts]


def three_steps(given, out, until, lora):
    cfg = sft.Config(model=str(given / "qwen"), data=str(given / "rows.jsonl"), out=str(out), batch=4,
                     epochs=3 * 4 / 6, save_every=1, lr=1e-3, schedule="constant", dtype="fp32",
                     thinking=False, lora=lora)
    stop = Run.save

    def save_and_stop(run, step, *rest):
        stop(run, step, *rest)
        if step == until:
            raise KeyboardInterrupt
    Run.save = save_and_stop
    try:
        sft.train(cfg)
    except KeyboardInterrupt:
        pass
    finally:
        Run.save = stop


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    out = {n: tmp_path_factory.mktemp(f"shards_{n}") for n in (1, 2)}
    given = out["given"] = tmp_path_factory.mktemp("given")
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
    (given / "internvl").mkdir()
    save_blank_model(given / "internvl", 0)
    for name in (*NAMES, "internvl"):  # of InternVL the root says nothing, and the default is the opposite
        hub_shaped(given / name, **{"text" if name == "internvl" else "root": name == "tied"})
    release = str(make_release(given / "release", shards=2))
    convert.convert(convert.Config(model=release, out=str(given / "released")))
    g = torch.Generator().manual_seed(0)
    for name, (h, w) in {"a.png": (48, 48), "b.png": (60, 140), "c.png": (97, 33)}.items():
        pixels = torch.randint(0, 256, (h, w, 3), generator=g, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(given / name)
    images = [["a.png"], [], ["b.png", "c.png"], [], ["b.png"], ["c.png"]]
    write_jsonl(given / "rows.jsonl", [{"question": "What is it?", "images": names, "answer": "7",
                                        "solution": f"It is {i}." + " Yes." * i}
                                       for i, names in enumerate(images)])
    for lora in (0, 8):
        three_steps(given, out[2] / f"back-{lora}", 1, lora)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
               __file__, str(out[2]), str(given)]
    with open(out[2] / "log.txt", "w") as log:
        two = subprocess.Popen(command, cwd=ROOT, env=ENV, stdout=log, stderr=subprocess.STDOUT,
                               start_new_session=True)
        try:
            jobs(out[1], given, World(0, 1, torch.device("cpu")))
            code = two.wait(LIMIT)
        except subprocess.TimeoutExpired:
            code = f"no end within {LIMIT} s: a rank waits for another"
        finally:
            if two.poll() is None:
                os.killpg(two.pid, signal.SIGKILL)
    assert code == 0, f"{code}\n{(out[2] / 'log.txt').read_text()[-3000:]}"
    return out


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


@pytest.mark.parametrize("name", STARTS)
def test_all_stages_from_a_published_folder_in_two_processes(both, name):
    """Each trains what it should, from the weights of the one before it, and any can be loaded anywhere."""
    out, start = both[2] / name, plain(both["given"] / name).state_dict()
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


@pytest.mark.parametrize("lora", [0, 8])
def test_run_of_one_process_goes_on_in_two(both, lora):
    one, two = (read_jsonl(both[n] / f"back-{lora}" / "metrics.jsonl") for n in (1, 2))
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
        assert (one - two).abs().max() < (0.05 if way == "half" else 2e-4)
    one, two = (read_json(both[n] / way / "selected.json") for n in (1, 2))
    assert all(one[x] == two[x] for x in ("step", "rule", "count"))
    assert one["rule"] == ("accuracy" if way == "whole" else "critical_entropy")


def test_nan_of_one_rank_is_refused_by_all(both):
    assert "returned a view" not in (both[2] / "log.txt").read_text()  # FSDP warns: gradients would be lost
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


if __name__ == "__main__":
    os.environ["LOCAL_WORLD_SIZE"] = "1"  # as if each process were a node of its own
    jobs(Path(sys.argv[1]), Path(sys.argv[2]), start_processes(0))
    torch.distributed.destroy_process_group()
