"""The real vLLM against the trainer: `make test-vllm` runs these in an environment of their own.

Small random checkpoints of every family, fp32. Their generation_config.json asks for top-p, penalties and
another temperature, which must not reach a sample.
"""
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

if importlib.util.find_spec("vllm.config") is None:
    pytest.skip("vLLM is not installed: make test-vllm", allow_module_level=True)

import torch
from PIL import ImageOps
from transformers import GenerationConfig

import chat_release
import entropy_select
import eval_mmmu
import families
import grpo
import rollout
from conftest import ENV, ROOT, write_jsonl
from data import Processor
from machinery import vllm_engine
from machinery.files import Refused, read_jsonl
from machinery.parallel import World
from machinery.run import seed_of
from machinery.vllm_engine import checksums
from model import PARTS, load, make_optimizer
from pack import make_packs
from recipes import convert
from rollout import VLLMSampler, make_sampler

ONE = World(0, 1, torch.device("cpu"))
EXACT = 1e-5  # nats, any token
ENDS = list(range(0, 500, 20))  # end a response in some tests: a random model hardly writes the true one


def misleading(folder):
    """What Qwen2.5-VL ships with and worse: defaults that vLLM would sample with, if it was left to it."""
    path = folder / "generation_config.json"
    keep = GenerationConfig.from_pretrained(folder)
    path.write_text(json.dumps(dict(eos_token_id=keep.eos_token_id, pad_token_id=keep.pad_token_id,
                                    do_sample=True, temperature=0.3, top_p=0.5, top_k=5,
                                    repetition_penalty=1.5)))
    return str(folder)


class Setting:
    """A family's checkpoint, its trainer and the one engine of this session (it takes five seconds)."""

    def __init__(self, path, rows):
        self.path, self.records = path, rows
        self.processor = Processor(path, max_tiles=4)
        self.prompts = self.processor.prompts(rows)
        self.sampler = VLLMSampler(load(path), self.processor, ONE, "fp32")

    def fresh(self, train=PARTS, lora=0):
        """The trainer at its first weights, and the engine with it."""
        vlm = load(self.path, train=train, lora=lora)
        self.processor.stop_ids = self.processor._stop_ids()
        self.sampler.sync(load(self.path))
        self.sampler.sync(vlm)
        return vlm


@pytest.fixture(scope="session", params=["internvl", "internvl tied", "released", "qwen2_5_vl",
                                         "qwen2_5_vl tied", "qwen3_vl"])
def setting(request, model_path, rows, tmp_path_factory):
    """Folders in the hub's own shape. What they say of ties is missing or wrong: the weights decide."""
    folder, tied = tmp_path_factory.mktemp(request.param.replace(" ", "_")) / "model", "tied" in request.param
    if request.param == "released":
        release = str(chat_release.make_release(folder.with_name("theirs"), shards=2))
        convert.convert(convert.Config(model=release, out=str(folder)))
        return Setting(misleading(folder), rows)
    if request.param.startswith("internvl"):
        shutil.copytree(model_path, folder)
        families.hub_shaped(families.tie_weights_of(folder) if tied else folder, text=not tied, root=True)
    else:
        folder.mkdir()
        make = families.make_qwen3 if request.param == "qwen3_vl" else families.make_qwen
        make(folder, tied=tied, width=192)
        families.hub_shaped(folder, root=True)
    return Setting(misleading(folder), rows)


@pytest.fixture(scope="session")
def internvl(model_path, rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "model"
    shutil.copytree(model_path, folder)
    return Setting(misleading(folder), rows)


def gap(vlm, processor, groups, temperature=1.0):
    """Largest difference of a token's log-prob between sampler and trainer."""
    pairs = [(g[0].prompt, [r.ids for r in g]) for g in groups]
    pack, = make_packs(processor, pairs, temperature=temperature)
    with torch.no_grad():
        logp, _ = vlm(pack)
    return float((logp - torch.cat([r.logp for g in groups for r in g])).abs().max())


def disturb(vlm, parts, size=0.02, seed=0):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in parts:
            for p in vlm.parts()[part].values():
                p.add_(size * torch.randn(p.shape, generator=g))


# ---------------------------------------------------------------------------------------------------- numbers

@pytest.mark.parametrize("temperature, lora", [(1.0, 0), (0.7, 0), (1.0, 8)])
def test_numbers_are_the_trainers(setting, temperature, lora):
    """One image, two, tiles, none: at the first step, and after three optimizer steps, each with a sync.
    With adapters, too, which the engine knows merged."""
    vlm, s = setting.fresh(lora=lora), setting
    optimizer = make_optimizer(vlm, 0.0)
    for step in range(4):
        groups = s.sampler.generate(s.prompts, 3, 20, temperature, seed=step)
        assert [g[0].prompt.record.id for g in groups] == list("abcdefgh")
        assert all(len(g) == 3 for g in groups)
        assert gap(vlm, s.processor, groups, temperature) < EXACT, step
        ids = [(g[0].prompt, [r.ids for r in g]) for g in groups]
        pack, = make_packs(s.processor, ids, temperature=temperature)
        vlm(pack)[0].mean().backward()
        for group in optimizer.param_groups:
            group["lr"] = 3e-3
        optimizer.step()
        optimizer.zero_grad()
        s.sampler.sync(vlm)


def test_samples_follow_the_distribution(internvl):
    """The mean log-prob of what is drawn is minus the entropy: nothing is cut off and nothing penalised."""
    vlm = internvl.fresh()
    groups = internvl.sampler.generate(internvl.prompts, 40, 20, seed=3)
    assert all(r.entropy is None for g in groups for r in g)
    entropy_select.add_entropy(groups, vlm, internvl.processor)
    logp, entropy = (torch.cat([getattr(r, what) for g in groups for r in g]) for what in ("logp", "entropy"))
    assert len(logp) > 4000
    assert abs(float((logp + entropy).mean())) < 4 * float((logp + entropy).std()) / len(logp) ** 0.5


def test_responses_end_as_the_plain_samplers_do(internvl, monkeypatch):
    vlm, processor = internvl.fresh(), internvl.processor
    monkeypatch.setattr(processor, "stop_ids", ENDS)
    for g in internvl.sampler.generate(internvl.prompts, 4, 30, seed=1):
        for r in g:
            assert r.finish == ("stop" if r.ids[-1] in ENDS else "length") and not set(r.ids[:-1]) & set(ENDS)
            assert len(r.ids) == len(r.logp) == len(r.pieces) <= 30 and "".join(r.pieces) == r.text
    greedy = [[r.ids for r in g] for g in internvl.sampler.generate(internvl.prompts, 2, 30, temperature=0)]
    groups = make_sampler("torch", vlm, processor).generate(internvl.prompts, 2, 30, temperature=0)
    plain = [[r.ids for r in g] for g in groups]
    assert greedy == plain
    with pytest.raises(Refused, match="temperature 0.001"):
        internvl.sampler.generate(internvl.prompts, 1, 3, temperature=0.001)


def test_what_memory_does_not_hold_is_refused(internvl, monkeypatch):
    """A context may be longer than the keys and values that fit: vLLM would cut responses without a word."""
    internvl.fresh()
    assert internvl.sampler.engine.room == internvl.processor.context
    longest = max(len(p.full) for p in internvl.prompts)
    monkeypatch.setattr(internvl.sampler.engine, "room", longest + 8)
    internvl.sampler.generate(internvl.prompts, 1, 8)
    told = f"row .*: prompt and response may take {longest + 9} tokens, vLLM's memory holds {longest + 8}"
    with pytest.raises(Refused, match=told):
        internvl.sampler.generate(internvl.prompts, 1, 9)


def test_seeds(internvl):
    internvl.fresh()

    def ids(seed):
        return [[r.ids for r in g] for g in internvl.sampler.generate(internvl.prompts[:3], 3, 6, seed=seed)]
    first = ids(seed_of(0, 7))
    assert first == ids(seed_of(0, 7)) != ids(seed_of(0, 7, rank=1))
    assert len({tuple(r) for g in first for r in g}) == 9


def test_ids_that_are_never_written(internvl):
    """Image placeholders, even by a model that wants nothing else; the words of --ban."""
    vlm = internvl.fresh()
    with torch.no_grad():
        row = 50 * vlm.hf.lm_head.weight.mean(0)
        vlm.hf.lm_head.weight[internvl.processor.image_id] = row * torch.sign(row)
    internvl.sampler.sync(vlm)
    groups = internvl.sampler.generate(internvl.prompts, 4, 10, seed=2)
    drawn = {i for r in sum(groups, []) for i in r.ids}
    assert internvl.processor.image_id not in drawn and gap(vlm, internvl.processor, groups) < 10 * EXACT
    again = internvl.sampler.generate(internvl.prompts, 4, 10, seed=2, ban=list(drawn)[:50])
    assert not {i for r in sum(again, []) for i in r.ids} & set(list(drawn)[:50])


def test_bf16_engine_and_what_it_leaves_behind(internvl, monkeypatch):
    """Its logits are fp32; random numbers and threads are the trainer's again, and no fragment is kept."""
    def make(*args, **how):
        llm = real(*args, **how)
        monkeypatch.setattr(torch, "set_num_threads", threads.append)  # vLLM's, which does nothing on a CPU
        return llm
    real, threads, vlm = vllm_engine.LLM, [], load(internvl.path, dtype="bf16")
    noise = torch.manual_seed(7).get_state()
    monkeypatch.setattr(vllm_engine, "LLM", make)
    s = VLLMSampler(vlm, internvl.processor, ONE, "bf16")
    assert threads == [torch.get_num_threads()] and torch.equal(torch.get_rng_state(), noise)
    assert "expandable_segments:True" in torch._C._accelerator_getAllocatorSettings()
    layers = s.engine.llm.collective_rpc(lambda worker: [*worker.model_runner.get_model().modules()])[0]
    assert [layer.head_dtype for layer in layers if hasattr(layer, "head_dtype")] == [torch.float32]
    assert 1e-3 < gap(vlm, internvl.processor, s.generate(internvl.prompts, 3, 20)) < 0.1
    assert s.generate([], 2, 5) == []


# ------------------------------------------------------------------------------------------------------- sync

@pytest.mark.parametrize("part", PARTS)
def test_each_part_follows_with_the_same_images(setting, part):
    """The connector alone, the encoder alone, the LLM alone. Images were seen before: no cache may answer."""
    vlm, s = setting.fresh(train=(part,)), setting
    pictures = s.prompts[:2] + s.prompts[4:5]
    assert gap(vlm, s.processor, s.sampler.generate(pictures, 2, 8, seed=1)) < EXACT
    for k in range(2):  # tensors that do not train stay in place, tied ones tied
        disturb(vlm, [part], seed=k)
        s.sampler.sync(vlm)
    assert gap(vlm, s.processor, s.sampler.generate(pictures, 2, 8, seed=1)) < EXACT


def test_sync_that_leaves_a_tensor_out_is_refused(setting, monkeypatch):
    vlm, s = setting.fresh(), setting
    parts = vlm.parts()
    name = next(n for n in parts["connector"] if n.endswith("weight"))
    rest = {k: v for k, v in parts["connector"].items() if k != name}
    monkeypatch.setattr(vlm, "parts", lambda: {**parts, "connector": rest})
    with pytest.raises(Refused, match="1 tensors of vLLM were not what the sync"):
        s.sampler.sync(vlm)


def test_sync_that_changes_a_tensor_on_the_way_is_refused(internvl, monkeypatch):
    vlm = internvl.fresh()
    llm = internvl.sampler.engine.llm
    real = llm.collective_rpc

    def rpc(f, args):
        def late(worker, *args):
            reload = worker.reload_weights

            def harmed(weights_iterator):  # vLLM gets other values than we summed up
                reload(weights_iterator=((n, w + 1 if n.endswith("norm.weight") else w)
                                         for n, w in weights_iterator))
            worker.worker.reload_weights = harmed
            try:
                return f(worker, *args)
            finally:
                del worker.worker.reload_weights
        return real(late, args=args)
    monkeypatch.setattr(llm, "collective_rpc", rpc)
    with pytest.raises(Refused, match="the connector's|the llm's|the encoder's"):
        internvl.sampler.sync(vlm)


def test_sleep_and_wake(internvl, monkeypatch):
    """As on a GPU between the phases, as far as a CPU goes: the scheduler pauses, nothing is freed. Weights
    wake for a sync, the rest for sampling; sampled twice between two syncs, as --dynamic_sampling does."""
    vlm, s, log = internvl.fresh(), internvl.sampler, []
    llm = s.engine.llm
    sleep, wake = llm.sleep, llm.wake_up
    monkeypatch.setattr(s.engine, "sleeps", True)
    monkeypatch.setattr(llm, "sleep", lambda level: log.append(f"sleep {level}") or sleep(level))
    monkeypatch.setattr(llm, "wake_up", lambda tags: log.append(*tags) or wake(tags))
    for _ in range(2):
        assert gap(vlm, internvl.processor, s.generate(internvl.prompts, 2, 8, seed=1)) < EXACT
        assert llm.llm_engine.is_sleeping()
        assert gap(vlm, internvl.processor, s.generate(internvl.prompts, 2, 8, seed=1)) < EXACT
        disturb(vlm, PARTS)
        s.sync(vlm)
    assert log == ["sleep 1", "weights", "kv_cache"] * 3 + ["sleep 1", "weights"]
    monkeypatch.undo()
    s.engine._wake("weights", "kv_cache")
    assert gap(vlm, internvl.processor, s.generate(internvl.prompts, 2, 8, seed=1)) < EXACT


# ----------------------------------------------------------------------------------------------------- guards

def test_a_skipped_sync_is_refused(setting):
    vlm, s = setting.fresh(), setting
    for part in PARTS:
        disturb(vlm, [part], size=1e-4)
        with pytest.raises(Refused, match="sampler.sync"):
            s.sampler.generate(s.prompts[:1], 1, 3)
        s.sampler.sync(vlm)
    optimizer = make_optimizer(vlm, 0.0)
    next(p for p in vlm.parameters()).grad = torch.ones_like(next(p for p in vlm.parameters()))
    before = checksums(vlm)
    optimizer.step()
    assert checksums(vlm) != before


def test_doubled_placeholders_are_refused(setting):
    setting.fresh()
    prompt = setting.prompts[0]
    doubled = type(prompt)(prompt.record, prompt.full, prompt.full)
    with pytest.raises(Refused, match="row 1 .id a.: .*expanded twice"):
        setting.sampler.generate([doubled], 1, 3)
    assert setting.sampler.generate([prompt], 1, 3)  # and the engine lives on


def test_other_tile_limits_are_refused(setting, rows):
    """The trainer's chat allows another number of tiles, or of pixels, than the engine was started with."""
    setting.fresh()
    other = Processor(setting.path, max_tiles=1, pixels=(16 * 16, 16 * 16))
    with pytest.raises(Refused, match="tile or pixel limits"):
        setting.sampler.generate(other.prompts(rows)[4:5], 1, 3)


def run_grpo(s, out, monkeypatch, vlm_of=lambda vlm: vlm, **flags):
    """grpo.py with this session's engine."""
    def engine(kind, vlm, *_, **__):
        assert kind == "vllm"
        s.sampler.sync(load(s.path))
        s.sampler.sync(vlm)
        return s.sampler
    monkeypatch.setattr(grpo, "make_sampler", engine)
    data = out / "rows.jsonl"
    out.mkdir()
    write_jsonl(data, [dict(id=r.id, question=r.question, images=r.images, options=r.options, answer=r.answer)
                       for r in s.records])
    usual = dict(prompts=8, samples=3, max_new_tokens=12, steps=1, lr=1e-3, max_gap=0.01)
    grpo.train(grpo.Config(model=s.path, data=str(data), out=str(out / "run"), max_tiles=4, dtype="fp32",
                           rollout="vllm", **{**usual, **flags}))
    return read_jsonl(out / "run" / "metrics.jsonl")


def test_grpo_on_it(internvl, tmp_path, monkeypatch):
    for m in run_grpo(internvl, tmp_path / "a", monkeypatch, steps=3, temperature=0.8):
        assert m["gap"] < EXACT
    rows = read_jsonl(tmp_path / "a" / "run" / "rollouts.jsonl")
    assert all(len(r["entropy"]) == len(r["tokens"]) for r in rows)  # the trainer's


def test_swapped_images_stop_the_run(internvl, tmp_path, monkeypatch):
    """Same size, other pixels: no check of ids can see it, the gap does."""
    processor = internvl.processor  # the engine's; grpo.py makes one of its own for the trainer
    images = processor.images
    monkeypatch.setattr(processor, "images", lambda prompt: [ImageOps.invert(im) for im in images(prompt)])
    with pytest.raises(Refused, match="disagree by .* other pixels"):
        run_grpo(internvl, tmp_path / "a", monkeypatch)


def test_a_temperature_on_one_side_stops_the_run(internvl, tmp_path, monkeypatch):
    generate = VLLMSampler.generate
    def hot(self, prompts, n, limit, temperature, seed):
        return generate(self, prompts, n, limit, 1.0, seed)
    monkeypatch.setattr(VLLMSampler, "generate", hot)
    with pytest.raises(Refused, match="disagree by .* another temperature"):
        run_grpo(internvl, tmp_path / "a", monkeypatch, temperature=0.7)


def test_q_former_is_refused(internvl, monkeypatch):
    monkeypatch.setattr(rollout, "chosen", lambda config: "qformer")
    with pytest.raises(Refused, match="vLLM does not know the qformer connector"):
        VLLMSampler(None, internvl.processor)


# ---------------------------------------------------------------------------------------------- other scripts

def test_selection_and_evaluation(internvl, tiny, tmp_path, monkeypatch):
    """Each loads nothing but what it needs: eval_mmmu has no trainer beside the engine."""
    asked = []

    def engine(kind, vlm, processor, *_, **__):
        asked.append(vlm)
        s = internvl.sampler
        s.engine.vlm, s.engine.synced = vlm, vlm and checksums(vlm)
        return s
    run = tmp_path / "run"
    for k in (1, 2):
        vlm = load(internvl.path)
        disturb(vlm, PARTS, size=0.01 * (k - 1))
        (run / f"step_{k:06d}").mkdir(parents=True)
        vlm.save(run / f"step_{k:06d}")
    for module in (entropy_select, rollout):
        monkeypatch.setattr(module, "make_sampler", engine)
    how = dict(max_new_tokens=12, rollout="vllm", dtype="fp32", max_tiles=4)
    entropy_select.select(entropy_select.Config(
        folder=str(run), data=str(tiny / "val.jsonl"), probe=6, samples=2, **how))
    probes = [read_jsonl(run / "probe" / f"step_{k:06d}.jsonl")[1:] for k in (1, 2)]
    assert all(len(r["entropy"]) == len(r["tokens"]) for p in probes for r in p) and probes[0] != probes[1]
    internvl.fresh()
    eval_mmmu.evaluate(eval_mmmu.Config(
        model=internvl.path, data=str(tiny / "mmmu"), out=str(tmp_path / "eval"), limit=8, **how))
    assert json.loads((tmp_path / "eval" / "scores.json").read_text())["n"] == 8
    assert asked[0] is not None and asked[1:] == [None]


# ---------------------------------------------------------------------------------- processes, and their ends

def flags_of(tiny, out):
    return ["grpo.py", "--model", str(tiny / "model"), "--data", str(tiny / "rl.jsonl"), "--out", str(out),
            "--rollout", "vllm", "--dtype", "fp32", "--prompts", "4", "--samples", "3", "--max_new_tokens",
            "12", "--lr", "1e-3", "--save_every", "1", "--max_tiles", "4"]


WAITING = {**ENV, "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}


def ended(command, limit=240):
    """(exit code, what it printed); killed with its children when it takes too long."""
    with subprocess.Popen(command, cwd=ROOT, env=WAITING, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, start_new_session=True) as p:
        try:
            text = p.communicate(timeout=limit)[0]
            return p.returncode, text
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL)
            return "too slow", p.communicate()[0]


def test_two_processes_with_an_engine_each_or_one_for_both(tiny, tmp_path):
    """FSDP2 in two processes, tensors gathered for the sync; then two halves of one engine. Both runs are
    stopped after a step and go on: the engine has the weights of the checkpoint."""
    found = []
    for parallel in ("1", "2"):
        for steps in ("1", "3"):
            code, text = ended([
                sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
                *flags_of(tiny, tmp_path / parallel), "--tensor_parallel", parallel, "--steps", steps])
            assert code == 0, text[-3000:]
        rows = read_jsonl(tmp_path / parallel / "metrics.jsonl")
        assert [m["step"] for m in rows] == [1, 2, 3] and all(m["gap"] < EXACT for m in rows)
        found.append([m["entropy"] for m in rows])
    assert found[0] == pytest.approx(found[1], abs=1e-3)  # the same responses
