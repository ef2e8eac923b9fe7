"""Every flag arrives: one run of each command in which no flag is as by default, and a table that says for
each flag what it has to have done there. A flag that is in no table has a test that fails.
"""
import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import connector_tune
import fake_log
import grpo
import pack
import rollout
import sft
from conftest import plain, plain_forward, write_jsonl
from data import Record, read_records
from machinery import attention, sharding
from machinery.families import InternVL
from machinery.files import read_jsonl
from machinery.parallel import World
from machinery.run import Run
from machinery.run import batch_indices, seed_of
from machinery.optimizer import Muon
from model import VLM, make_optimizer
from rollout import Rollout, TorchSampler
from scoring.answers import same_answer
from scoring.limits import too_heavy
from signals import critical_spans
from stages import Seen, as_the_table_says, flags_of, near, reward_of

OTHER_WORDS = tuple("abcdefgh")


# --------------------------------------------------------------------------------------------------- the rows

@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """Rows with none, one and two images, prompts and solutions of many lengths, other names of the columns;
    one row whose prompt is too long, one whose solution is, one that can not be used."""
    folder = tmp_path_factory.mktemp("wiring")
    pictures = sorted((tiny / "images" / "rl").glob("*.png"))[:4]
    (folder / "pictures").mkdir()
    for i, file in enumerate(pictures):
        Image.open(file).save(folder / "pictures" / f"{i}.png")
    for name, first in (("rows", 0), ("hard", 40), ("val", 80)):
        rows = []
        for i in range(first, first + 14):
            images = [f"{k % 4}.png" for k in range(i, i + i % 3)]
            text = f"\\boxed{{{i}}}" if i % 2 else "7 + 2 = 9. " * (i % 9) + "1"
            rows.append({"id": f"{name}-{i}", "problem": "What is it? " * (1 + i % 4), "images": images,
                         "answer": str(i), "solution": text})
        if name != "val":
            rows[3]["answer"] = rows[3]["solution"] = ""
        rows[5]["problem"] = "1 + " * 120
        rows[8]["solution"] = "1 + " * 120
        write_jsonl(folder / f"{name}.jsonl", rows)
    return folder


def fits(seen, name, left_out):
    """Ids of the rows of a file without the bad one, and without those left out."""
    return [row["id"] for i, row in enumerate(read_jsonl(seen.folder / f"{name}.jsonl")) if i not in left_out]


def watch_stage(seen, stage, loop):
    for name in ("load", "shard", "Chat", "make_packs", "batch_indices"):
        seen.spy(loop, name)
    seen.spy(InternVL, "limit_images")
    seen.spy(VLM, "compile_blocks", lambda *_: None)
    seen.optimizers()
    stage.train(seen.cfg)
    return seen


def prompts_of(seen):
    """All prompts of all packs"""
    return [prompt for call in seen["make_packs"] for prompt, _ in call.groups]


def texts(seen):
    """All prompts of all packs, as the model reads them."""
    decode = seen["Chat"][0].out.tokenizer.decode
    return {decode(prompt.ids) for prompt in prompts_of(seen)}


# {flag: (what was seen, what has to be seen)}; these are of every stage
STAGE = {
    "model": lambda s: ({s["Chat"][0].path, *(c.path for c in s["load"])}, {s.cfg.model}),
    "out": lambda s: (s.out.joinpath("config.json").exists(), True),
    "image_root": lambda s: ({str(Path(image).parent) for p in prompts_of(s) for image in p.record.images},
                             {s.cfg.image_root}),
    "ask": lambda s: ({t.split("<|im_end|>")[1][-7:] for t in texts(s)}, {"Box it."}),
    "system": lambda s: ({t.split("<|im_end|>")[0] for t in texts(s)}, {"<|im_start|>system\nBe brief."}),
    "train": lambda s: (s.parts_that_changed(), set(s.cfg.train)),
    "lora": lambda s: ({min(p.shape) for p in s["load"][0].out.parts()["llm"].values() if p.requires_grad},
                       {s.cfg.lora}),
    "max_tiles": lambda s: ({s["Chat"][0].max_tiles, s["Chat"][0].out.processor.max_patches},
                            {s.cfg.max_tiles}),
    "pixels": lambda s: ([c.pixels for c in s["limit_images"]], [s.cfg.pixels]),
    "max_tokens": lambda s: ({c.max_tokens for c in s["make_packs"]}, {s.cfg.max_tokens}),
    "weight_decay": lambda s: ({c.decay for c in s["step"]}, {s.cfg.weight_decay}),
    "dtype": lambda s: (s["load"][0].out.autocast_dtype, torch.bfloat16 if s.cfg.dtype == "bf16" else None),
    "checkpointing": lambda s: (s["load"][0].out.hf.is_gradient_checkpointing, True),
    "compile": lambda s: (len(s["compile_blocks"]), 1),
    "hybrid": lambda s: ({c.hybrid for c in s["shard"]}, {True}),
    "offload": lambda s: ({c.offload for c in s["shard"]}, {True}),
    "logger": lambda s: (fake_log.steps_of(s.out),
                         [row["step"] for row in read_jsonl(s.out / "metrics.jsonl")]),
}


# ---------------------------------------------------------------------------------------------------- stage 2

@pytest.fixture(scope="module")
def grpo_seen(tiny, folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as m:
        seen = Seen(m)
        seen.folder, seen.out, seen.model = folder, tmp_path_factory.mktemp("grpo") / "run", tiny / "model"
        seen.cfg = cfg = grpo.Config(
            model=str(tiny / "model"), data=str(folder / "rows.jsonl"), columns=("question=problem",),
            image_root=str(folder / "pictures"), out=str(seen.out),
            train=("connector", "llm"), lora=4, ask="Box it.", system="Be brief.",
            steps=4, prompts=4, samples=3, lr=2e-3, schedule="linear", warmup=1, temperature=0.7,
            max_new_tokens=5, max_prompt=200, max_tiles=2, pixels=(64, 4096), thinking=False,
            clip_low=0.02, clip_high=0.01, minibatches=2,
            dynamic_sampling=True, kl=0.05, is_clip=1.5, curriculum=str(folder / "hard.jsonl"),
            curriculum_at=2, verifier="http://there:1/v1", verifier_model="judge", rollout="vllm",
            tensor_parallel=3, vllm_memory=0.3, rollout_batch=7, max_tokens=90, max_gap=0.5, weight_decay=0.1,
            clip=0.03, dtype="bf16", checkpointing=True, compile=True, hybrid=True, offload=True,
            words=OTHER_WORDS, high_entropy=1.0, limit_bad=0.2, save_every=3, seed=5, logger="fake_log")

        def torch_sampler(kind, vlm, chat, world, batch, *_):
            sampler = TorchSampler(vlm, chat, batch)
            sampler.exact = False
            seen.spy(sampler, "generate")
            return sampler

        def rewards(*args):
            return [dataclasses.replace(r, verdict=True, asked=True) for r in reward_of(*args)]

        seen.spy(grpo, "make_sampler", torch_sampler)
        seen.spy(grpo, "score_batch", rewards)
        seen.spy(grpo, "Verifier", lambda url, model: (url, model))
        for name in ("grpo_loss", "make_batches", "refuse_gap", "report_unreadable", "count_tokens"):
            seen.spy(grpo, name)
        seen.rows = fits(seen, "rows", (3, 5)), fits(seen, "hard", (3, 5))
        assert cfg.steps == 4
        return watch_stage(seen, grpo, grpo)


def asked(seen):
    return [[p.record.id for p in call.prompts] for call in seen["generate"]]


def draws(seen):
    """[(step, draw)] of each call of the sampler."""
    out, seeds = [], {seed_of(5, step, 0, draw): (step, draw) for step in range(4) for draw in range(5)}
    for call in seen["generate"]:
        out.append(seeds.get(call.seed))
    return out


def prompts_by_hand(seen):
    """What the sampler has to be asked in each (step, draw): rows of one file, then of the other."""
    out = []
    for step, draw in draws(seen):
        rows = seen.rows[step >= 2]
        out.append([rows[i] for i in batch_indices(len(rows), 4, step, seed_of(5, 0, what=draw))])
    return out


def clip_fractions(seen):
    """Of each step: the share of ratios outside of the two limits."""
    outside, tokens = [0] * 4, [0] * 4
    for k, call in enumerate(seen["count_tokens"]):
        tokens[k // 2] += len(call.entropy)
    at = 0
    per_step = [sum(len(b.micro_batches) for b in call.out) for call in seen["make_batches"]]
    for step, n in enumerate(per_step):
        for call in seen["grpo_loss"][at:at + n]:
            ratio = call.out[1]
            outside[step] += call.micro.real * int(((ratio < 1 - 0.02) | (ratio > 1 + 0.01)).sum())
        at += n
    return [a / b for a, b in zip(outside, tokens)]


def trained(seen):
    """The responses of each step that were trained."""
    out = [[] for _ in range(4)]
    for k, call in enumerate(seen["count_tokens"]):
        out[k // 2] += call.rollouts
    return out


def entropy_high(seen, limit):
    steps = [torch.cat([c.entropy for c in seen["count_tokens"][k:k + 2]]) for k in (0, 2, 4, 6)]
    return [float((e > limit).float().mean()) for e in steps]


GRPO = STAGE | {
    "data": lambda s: (asked(s)[0], prompts_by_hand(s)[0]),
    "columns": lambda s: ({p.record.question[:8] for c in s["generate"] for p in c.prompts}, {"What is "}),
    "steps": lambda s: (len(s.metrics("reward")), 4),
    "prompts": lambda s: ([len(c.prompts) for c in s["generate"]], [4] * len(s["generate"])),
    "samples": lambda s: ({(c.n, len(g)) for c in s["generate"] for g in c.out}, {(3, 3)}),
    "lr": lambda s: (max(c.lr for c in s["step"]), 2e-3),
    # one step of warm-up, then a straight line to 0; two gradient steps a batch
    "schedule": lambda s: (s.rates(), near([1, 1, 1, 1, 2 / 3, 2 / 3, 1 / 3, 1 / 3])),
    "warmup": lambda s: (s.metrics("lr"), near([2e-3, 2e-3, 4e-3 / 3, 2e-3 / 3])),
    "temperature": lambda s: ({c.temperature for c in s["generate"] + s["make_packs"]}, {0.7}),
    "max_new_tokens": lambda s: (({c.max_new_tokens for c in s["generate"]}, s.metrics("length_max")),
                                 ({5}, [5] * 4)),
    "max_prompt": lambda s: ({c.n for c in s["batch_indices"]}, {12}),
    "limit_bad": lambda s: ({c.limit_bad for c in s["report_unreadable"]}, {0.2}),
    "thinking": lambda s: (({c.thinking_prompt for c in s["score_batch"]},
                            any("<think>" in s["Chat"][0].out.tokenizer.decode(p.ids)
                                for c in s["generate"] for p in c.prompts)), ({False}, False)),
    "clip_low": lambda s: (s.metrics("clip_fraction"), near(clip_fractions(s))),
    "clip_high": lambda s: (max(s.metrics("clip_fraction")) > 0, True),
    "minibatches": lambda s: ([len(c.out) for c in s["make_batches"]], [2] * 4),
    "dynamic_sampling": lambda s: (asked(s), prompts_by_hand(s)),
    "kl": lambda s: ((len(s["load"]), all(c.micro.ref_logp is not None for c in s["grpo_loss"]),
                      max(s.metrics("kl")) > 1e-6), (2, True, True)),
    "is_clip": lambda s: ({c.cfg.is_clip for c in s["grpo_loss"]}, {1.5}),
    "curriculum": lambda s: ({i.split("-")[0] for i in asked(s)[-1]}, {"hard"}),
    "curriculum_at": lambda s: ([i[0].split("-")[0] for i in asked(s)],
                                [("rows", "hard")[step >= 2] for step, _ in draws(s)]),
    "verifier": lambda s: ({c.verifier for c in s["score_batch"]}, {("http://there:1/v1", "judge")}),
    "verifier_model": lambda s: ([(c.url, c.model) for c in s["Verifier"]], [("http://there:1/v1", "judge")]),
    "rollout": lambda s: ([c.kind for c in s["make_sampler"]], ["vllm"]),
    "tensor_parallel": lambda s: ([c.tensor_parallel for c in s["make_sampler"]], [3]),
    "vllm_memory": lambda s: ([c.memory for c in s["make_sampler"]], [0.3]),
    "rollout_batch": lambda s: ([(c.batch, c.out.batch) for c in s["make_sampler"]], [(7, 7)]),
    "max_gap": lambda s: ([c.out < c.cfg.max_gap == 0.5 for c in s["refuse_gap"]], [True]),
    "clip": lambda s: (max(c.norm for c in s["step"]), pytest.approx(0.03, abs=1e-4)),
    "words": lambda s: (s.metrics("critical_count"),
                        [sum(len(critical_spans(r.text, OTHER_WORDS)) for r in rs) for rs in trained(s)]),
    "high_entropy": lambda s: (s.metrics("entropy_high"), near(entropy_high(s, 1.0))),
    "save_every": lambda s: (s.steps_saved(), [3, 4]),
    "seed": lambda s: (None in draws(s), False),
}


@pytest.mark.parametrize("flag", flags_of(grpo.Config))
def test_flag_of_grpo(flag, grpo_seen):
    as_the_table_says(GRPO, flag, grpo_seen)


# --------------------------------------------------------------------------------------------- stages 1 and 3

def supervised(m, stage, tiny, folder, out, **flags):
    """A run on the fourteen rows. One is bad, one too long as a prompt, one with its solution: eleven are
    left, and twelve of the validation rows. Five steps of four rows."""
    seen = Seen(m)
    seen.folder, seen.out = folder, out
    seen.cfg = stage.Config(
        model=str(tiny / "model"), data=str(folder / "rows.jsonl"), columns=("question=problem",),
        image_root=str(folder / "pictures"), out=str(out), val=str(folder / "val.jsonl"),
        thinking=False, ask="Box it.", system="Be brief.",
        lr=2e-3, schedule="linear", warmup=0.3, batch=4, epochs=1.75, max_tokens=90, max_length=200,
        max_tiles=2, pixels=(64, 4096), weight_decay=0.1, clip=0.03, dtype="fp32", checkpointing=True,
        compile=True, hybrid=True, offload=True, limit_bad=0.2, seed=5, logger="fake_log", lora=4, **flags)
    for name in ("update", "read_records", "rows_with_solutions", "keep_features", "gave_up"):
        seen.spy(sft, name)
    seen.rows = fits(seen, "rows", (3, 5, 8)), fits(seen, "val", (5, 8))
    return watch_stage(seen, stage, sft)


@pytest.fixture(scope="module")
def sft_seen(tiny, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("sft") / "run"
    with pytest.MonkeyPatch.context() as m:
        return supervised(m, sft, tiny, folder, out, train=("encoder", "llm"), optimizer="muon",
                          save_every=2)


@pytest.fixture(scope="module")
def connector_seen(tiny, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("connector") / "run"
    with pytest.MonkeyPatch.context() as m:
        return supervised(m, connector_tune, tiny, folder, out, train=("connector", "llm"), val_every=2,
                          patience=4, features_gib=0.5)


def trained_rows(seen):
    return [call.batch for call in seen["update"]]


def batches_by_hand(seen):
    return [[seen.rows[0][i] for i in batch_indices(11, 4, step, 5)] for step in range(5)]


def measured(seen):
    """{step: its validation loss}"""
    rows = read_jsonl(seen.out / "metrics.jsonl")
    return {row["step"]: row["val_loss"] for row in rows if row.get("val_loss") is not None and "lr" in row}


def validation_by_hand(seen):
    """Of the last weights, by plain transformers: a mean over all tokens of the validation solutions."""
    chat, ids = seen["Chat"][0].out, []
    records = read_records(seen.folder / "val.jsonl", seen.cfg.columns, ("question", "solution"),
                           image_root=seen.cfg.image_root)
    prompts = [p for p in chat.prompts(records, thinking=False) if p.record.id in seen.rows[1]]
    for p in prompts:
        text = chat.tokenizer(p.record.solution, add_special_tokens=False)["input_ids"]
        ids.append([text + [chat.tokenizer.eos_token_id]])
    with torch.no_grad():
        last = plain(seen.out / "step_000005")
        return -float(plain_forward(last, chat, list(zip(prompts, ids)))[0].mean())


def norms(seen):
    """Of all gradients of a step, over both optimizers of "muon"."""
    kinds = len({c.kind for c in seen["step"]})
    steps = [seen["step"][k:k + kinds] for k in range(0, len(seen["step"]), kinds)]
    return [round(math.hypot(*(c.norm for c in step)), 4) for step in steps]


FALLING = near([2 / 3, 1, 6 / 7, 4 / 7, 2 / 7])  # 1.5 steps of warm-up, then a straight line to 0
SUPERVISED = STAGE | {
    "data": lambda s: ({i for ids in trained_rows(s) for i in ids}, {*s.rows[0]}),
    "columns": lambda s: ([c.columns for c in s["read_records"]], [("question=problem",)] * 2),
    "val": lambda s: (measured(s)[5], pytest.approx(validation_by_hand(s), abs=2e-5)),
    "thinking": lambda s: ([c.thinking for c in s["rows_with_solutions"]], [False] * 2),
    "lr": lambda s: (max(c.lr for c in s["step"]), 2e-3),
    "schedule": lambda s: (s.rates(), FALLING),
    "warmup": lambda s: ([round(lr / 2e-3, 3) for lr in s.metrics("lr")],
                         [pytest.approx(lr, abs=1e-3) for lr in (2 / 3, 1, 6 / 7, 4 / 7, 2 / 7)]),
    "batch": lambda s: ([len(ids) for ids in trained_rows(s)], [4] * 5),
    "epochs": lambda s: (len(s.metrics("loss")), round(1.75 * 11 / 4)),
    "max_length": lambda s: (({c.max_length for c in s["rows_with_solutions"]},
                              {c.n for c in s["batch_indices"]}), ({200}, {11})),
    "clip": lambda s: (norms(s), near([0.03] * 5)),
    "limit_bad": lambda s: (s["read_records"][0].limit_bad, 0.2),
    "seed": lambda s: (trained_rows(s), batches_by_hand(s)),
}
SFT = SUPERVISED | {
    "optimizer": lambda s: ((s.rates("Muon"), s.rates("AdamW")), (FALLING, FALLING)),
    "save_every": lambda s: ((s.steps_saved(), [*measured(s)]), ([2, 4, 5], [2, 4, 5])),
}
CONNECTOR = SUPERVISED | {
    "val_every": lambda s: ([*measured(s)], [2, 4, 5]),
    "patience": lambda s: ({c.patience for c in s["gave_up"]}, {4}),
    "features_gib": lambda s: ([c.limit_gib for c in s["keep_features"]], [0.5]),
    "limit_bad": lambda s: ([c.limit_bad for c in s["read_records"]], [0.2, 0.2]),
}


@pytest.mark.parametrize("flag", flags_of(sft.Config))
def test_flag_of_sft(flag, sft_seen):
    as_the_table_says(SFT, flag, sft_seen)


@pytest.mark.parametrize("flag", flags_of(connector_tune.Config))
def test_flag_of_connector_tune(flag, connector_seen):
    as_the_table_says(CONNECTOR, flag, connector_seen)


# ----------------------------------------------------------------------- stage 2 with the reward that it pays

DOG, NUMBERS = ["cat", "dog", "16 cm"], ["12", "15", "20"]
# a question: its gold, options, and four responses with what each is paid with and without a thought
PAID = {
    "open": ("12", [], [("3 + 9 = 12.</think>\\boxed{12}", 1.0, 0.8), ("\\boxed{12}", 0.0, 1.0),
                        ("t</think>It is 12.", 0.2, 0.0), ("</think>\\boxed{12.0} indeed", 0.8, 0.8)]),
    "letter": ("B", NUMBERS, [("t</think>\\boxed{B}", 1.0, 0.8), ("so 15</think>\\boxed{15}", 1.0, 0.8),
                              ("I add 3 and 9</think>\\boxed{C}", 0.2, 0.0), ("\\boxed{15}", 0.0, 1.0)]),
    "text": ("dog", DOG, [("t</think>\\boxed{B}", 1.0, 0.8), ("t</think>\\boxed{A}", 0.2, 0.0),
                          ("Wait, I think of it.</think>\\boxed{dog}", 1.0, 0.8), ("dog", 0.0, 0.0)]),
    # the rule says no to both; the verifier accepts the first
    "asked": ("cat", [], [("t</think>\\boxed{a small feline}", 1.0, 0.8),
                          ("\\boxed{a small feline}", 0.0, 1.0),
                          ("so</think>\\boxed{a small dog}", 0.2, 0.0), ("t", 0.0, 0.0)]),
}


class Judge:
    """Stands in for the verifier: knows what a small feline is, and keeps what it was asked."""

    def __init__(self, url, name):
        self.items, self.counts = [], {}

    def audited(self, *_):
        return False

    def ask(self, items):
        self.items += items
        return [answer == "a small feline" for _, answer, _ in items]


class Writes:
    """A sampler that gives each question its four responses."""

    def __init__(self, chat):
        self.chat = chat

    def generate(self, prompts, n, max_new_tokens, temperature, seed, done):
        for i, group in enumerate(out := [[self.rollout(p, text) for text, *_ in PAID[p.record.id][2]]
                                          for p in prompts]):
            done(i, group)
        return out

    def rollout(self, prompt, text):
        ids = self.chat.tokenizer(text, add_special_tokens=False)["input_ids"]
        logp = torch.full((len(ids),), -3.0)
        return Rollout(prompt, ids, logp, logp, text, self.chat.pieces(ids), "stop")

    def sync(self, vlm):
        pass


@pytest.mark.parametrize("thinking", [True, False])
def test_grpo_pays_its_reward(thinking, tiny, tmp_path, monkeypatch):
    """A step with the rule, options and a verifier. What each response is paid, and with that its advantage,
    stand in PAID. They reach the loss, at the tokens of that response; then the better ones are likelier."""
    write_jsonl(tmp_path / "rows.jsonl", [
        {"id": name, "question": f"{name}?" * (1 + k), "answer": gold, "options": options}
        for k, (name, (gold, options, _)) in enumerate(PAID.items())])
    seen = Seen(monkeypatch)
    seen.spy(grpo, "make_sampler", lambda kind, vlm, chat, *_: Writes(chat))
    seen.spy(grpo, "Verifier", Judge)
    seen.spy(grpo, "grpo_loss")
    seen.spy(grpo, "make_batches")
    grpo.train(grpo.Config(model=str(tiny / "model"), data=str(tmp_path / "rows.jsonl"), prompts=4, samples=4,
                           steps=1, lr=1e-3, out=str(tmp_path / "run"), thinking=thinking, max_gap=1e9,
                           verifier="http://there:1/v1", dtype="fp32", max_tokens=60))
    groups = {group.prompt.record.id: group for group in seen["make_batches"][0].groups}
    by_hand, seen_by_loss = {}, {}
    for name, (_, _, responses) in PAID.items():
        pay = torch.tensor([paid[not thinking] for _, *paid in responses])
        assert [r.reward.total for r in groups[name].rollouts] == pytest.approx(pay.tolist()), name
        adv = (pay - pay.mean()) / (pay.std() + 1e-6)
        for r, a in zip(groups[name].rollouts, adv.tolist()):
            by_hand[name, tuple(r.ids)] = near([len(r.ids), a])
    rollouts = seen["make_batches"][0].out[0].rollouts
    for micro in (call.micro for call in seen["grpo_loss"]):
        for number in micro.pack.owner.unique().tolist():
            mine = micro.pack.owner == number
            (length,), (adv,) = (x[mine].unique().tolist() for x in (micro.length, micro.adv))
            ids = tuple(micro.pack.target[mine].tolist())
            seen_by_loss[rollouts[number].prompt.record.id, ids] = [length, adv]
    assert seen_by_loss == by_hand
    row, = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    totals = [paid[not thinking] for _, _, responses in PAID.values() for _, *paid in responses]
    assert row["reward"] == pytest.approx(sum(totals) / 16, abs=1e-5) and row["groups_mixed"] == 1.0
    spread = [torch.tensor([paid[not thinking] for _, *paid in rs]).std() for _, _, rs in PAID.values()]
    assert row["reward_std"] == pytest.approx(float(sum(spread)) / 4, abs=1e-5)
    judge = seen["Verifier"][0].out
    assert ("asked?" * 4, "a small feline", "cat") in judge.items
    assert all(gold != "12" or answer != "12" for _, answer, gold in judge.items)  # the rule's yes is enough
    were_asked = sum(r.reward.asked for group in groups.values() for r in group.rollouts)
    assert row["asked_rate"] == were_asked / 16 and len(judge.items) == were_asked
    about = {gold: question for question, _, gold in judge.items}
    assert about["B"] == "letter?" * 2 + "\nA. 12\nB. 15\nC. 20"
    learned_from(groups, tiny, tmp_path, seen["make_sampler"][0].chat)


def learned_from(groups, tiny, tmp_path, chat):
    """The step goes uphill: the mean of advantage times log-prob is larger than before."""
    pairs = [(group.prompt, [r.ids for r in group.rollouts]) for group in groups.values()]
    weight = torch.cat([torch.full((len(r.ids),), r.advantage / len(r.ids))
                        for group in groups.values() for r in group.rollouts])
    with torch.no_grad():
        before, after = (plain_forward(plain(path), chat, pairs)[0] @ weight
                         for path in (tiny / "model", tmp_path / "run" / "step_000001"))
    assert after > before + 0.1


# ------------------------------------------------------------------------- what runs elsewhere: ranks, a GPU

def test_validation_loss_of_several_ranks(chat, rows, monkeypatch):
    """A mean over all tokens of all ranks: packs are of different sizes, one rank repeats its last one."""
    supervised_rows = sft.rows_with_solutions(rows, chat, True, 10 ** 6)
    logp = torch.randn(len(chat.tokenizer), generator=torch.Generator().manual_seed(0)) - 3
    tokens = torch.cat([logp[row.ids] for row in supervised_rows]).double()
    cfg, summed = sft.Config(max_tokens=60), torch.zeros(2, dtype=torch.float64)
    monkeypatch.setattr(sft, "total", lambda values, world: summed.add_(torch.tensor(values)).tolist())
    monkeypatch.setattr(sharding, "total", lambda values, *_: [values[0] + 1])  # a pack to repeat
    for rank in range(3):
        world = World(rank, 3, torch.device("cpu"))
        loss = sft.validation_loss(lambda p, _: (logp[p.target], None), chat, supervised_rows, cfg, world)
    assert loss == pytest.approx(-float(tokens.mean()), abs=1e-6) and summed[1] == len(tokens)
    by_row = torch.stack([logp[row.ids].mean() for row in supervised_rows]).mean()
    assert abs(float(by_row) - float(tokens.mean())) > 0.01  # the two means can be told apart


@pytest.mark.parametrize("size", [1, 2, 4])
def test_prompts_are_dealt_to_ranks(size, chat, monkeypatch):
    """Together all ranks ask the prompts of the step, each once; with seeds of their own."""
    asked_by, seeds = [], set()
    source = [SimpleNamespace(record=SimpleNamespace(id=f"p{i}")) for i in range(50)]

    class Sampler:
        def generate(self, prompts, n, max_new_tokens, temperature, seed, done):
            asked_by.append([p.record.id for p in prompts])
            seeds.add(seed)
            return [[SimpleNamespace(reward=None)] * n for _ in prompts]

    monkeypatch.setattr(grpo, "gather", lambda *_: pytest.fail("nothing to tell without a verifier"))
    for rank in range(size):
        world = World(rank, size, torch.device("cpu"))
        cfg = grpo.Config(prompts=8, samples=2, seed=3)
        groups, _ = grpo.collect(source, 6, cfg, with_rewards(Sampler()), None, world)
        assert [g.prompt.record.id for g in groups] == asked_by[-1] and len(groups) == 8 // size
    together = [i for of_ranks in zip(*asked_by) for i in of_ranks]
    assert together == [f"p{i}" for i in batch_indices(50, 8, 6, seed_of(3, 0, what=0))]
    assert len(seeds) == size


def with_rewards(sampler):
    right = SimpleNamespace(accuracy=1.0)
    generate = sampler.generate

    def rewarded(*args, done):
        groups = generate(*args, done=done)
        for group in groups:
            for r in group:
                r.reward = right
        return groups
    sampler.generate = rewarded
    return sampler


def test_flash_attn_gets_what_torchs_own_gets(monkeypatch):
    """The package is not installed here: what it is called with. Causal in the LLM, not in the encoder."""
    calls, x = [], torch.zeros(3, 2, 8, dtype=torch.bfloat16)
    monkeypatch.setattr(attention, "flash_attn_varlen_func", lambda *a, **k: calls.append((a, k)) or a[2])
    monkeypatch.setattr(attention, "fused", lambda _: True)
    monkeypatch.setattr(pack, "fused", lambda _: True)
    layout = pack.Layout([(0, 1, 0, 0), (1, 2, 0, 1)])
    layout.attend(0, x, x, x, 0.3)
    (q, k, v, q_ends, k_ends, longest_q, longest_k), how = calls.pop()
    assert how == {"softmax_scale": 0.3, "causal": True} and (longest_q, longest_k) == (2, 3)
    assert q_ends.tolist() == [0, 1, 3] and k_ends.tolist() == [0, 1, 4] and len(q) == 3 and len(k) == 4
    rows = x.transpose(0, 1)[None]
    attention.window_attention(rows, rows, rows, torch.tensor([0, 1, 3]), None, 0.5)
    (*_, q_ends, k_ends, longest_q, longest_k), how = calls.pop()
    assert how == {"softmax_scale": 0.5, "causal": False} and (longest_q, longest_k) == (2, 2)
    assert q_ends.tolist() == k_ends.tolist() == [0, 1, 3]


def test_muon_steps_as_torchs(vlm):
    """Side by side in fp32: the update of torch's Muon but for its rounding to bf16."""
    torch.manual_seed(0)
    shapes = [(8, 6), (8, 6), (4, 12), (5, 5)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    pair = (Muon(ours, weight_decay=0.1),
            torch.optim.Muon(theirs, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"))
    before = [p.detach().clone() for p in ours]
    for _ in range(3):
        for p, q in zip(ours, theirs):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        for optimizer in pair:
            optimizer.param_groups[0]["lr"] = 0.02
            optimizer.step()
    for p, q, start in zip(ours, theirs, before):
        moved = (q - start).norm()
        assert (p - q).norm() < 0.02 * moved and moved > 0.01


def test_muon_has_the_matrices_inside(vlm):
    muon, adamw = make_optimizer(vlm, 0.1, "muon")
    names = {id(p): name for name, p in vlm.named_parameters()}
    inside = {names[id(p)] for p in muon.param_groups[0]["params"]}
    outside = {names[id(p)] for p in adamw.param_groups[0]["params"]}
    assert inside | outside == {*names.values()} and not inside & outside
    assert all(dict(vlm.named_parameters())[name].ndim == 2 for name in inside)
    assert {"hf.lm_head.weight", "hf.model.language_model.embed_tokens.weight"} <= outside
    assert sum("mlp" in name and name.endswith("weight") for name in inside) >= 20 and len(inside) > 40
    assert muon.param_groups[0]["weight_decay"] == adamw.param_groups[0]["weight_decay"] == 0.1


@pytest.mark.parametrize("rollout, is_clip, largest", [
    ("vllm", None, 2.0), ("torch", None, None), ("vllm", 0.0, None), ("torch", 1.5, 1.5)])
def test_who_truncates_importance_weights(rollout, is_clip, largest):
    old, sampled = torch.tensor([-1.0, -1.0]), torch.tensor([-1.5, -4.0])  # weights of 1.65 and 20
    one = torch.ones(2)
    micro = grpo.MicroBatch(None, one, one, sampled, old, None, 1, 2)
    loss, *_ = grpo.grpo_loss(old.clone(), None, micro, grpo.Config(rollout=rollout, is_clip=is_clip))
    weights = (old - sampled).exp().clamp(max=largest) if largest else one
    assert loss.item() == pytest.approx(-float(weights.sum()), rel=1e-5)


@pytest.mark.parametrize("advantages, kl, kept", [
    ((0.0, 1.0, -1.0), 0.0, True), ((0.0, 0.0, 0.0), 0.0, False), ((0.0, 0.0, 0.0), 0.1, True)])
def test_groups_that_have_a_gradient(advantages, kl, kept):
    group = SimpleNamespace(rollouts=[SimpleNamespace(advantage=a) for a in advantages])
    assert grpo.has_gradient(group, grpo.Config(kl=kl)) is kept


def test_a_sampler_is_made_of_what_it_is_given(vlm, chat, monkeypatch):
    monkeypatch.setattr(rollout, "VLLMSampler", lambda *args: args)
    world = World(0, 1, torch.device("cpu"))
    given = rollout.make_sampler("vllm", vlm, chat, world, 9, "bf16", 4, 0.3)
    assert given == (vlm, chat, world, "bf16", 4, 0.3)
    assert rollout.make_sampler("torch", vlm, chat, world, 9, "bf16").batch == 9
    widths, decode = [], rollout.Decode

    def decode_and_note(kept, m, device):
        widths.append((len(kept.layout.segments), m))
        return decode(kept, m, device)
    monkeypatch.setattr(rollout, "Decode", decode_and_note)
    prompts = chat.prompts([Record(f"{i}", "Why?", answer="1") for i in range(5)])
    rollout.make_sampler("torch", vlm, chat, world, 9).generate(prompts, 4, 2)
    assert widths == [(2, 4), (2, 4), (1, 4)]  # at most nine responses at a time


@pytest.mark.parametrize("fits, heavy, why", [
    ("2^{10000}", "2^{10001}", "exponent"), ("1000!", "1001!", "factorial"), ("1" * 300, "1" * 301, "number"),
    ("(" * 24 + ")" * 24, "(" * 25 + ")" * 25, "nested"), ("x" * 1000, "x" * 1001, "too long"),
    ("2^{2^{2}}", "2^{3^{4^5}}", "tower")])
def test_what_is_too_heavy_to_compare(fits, heavy, why):
    """Where each limit stands: what passes still meets a worker's clock, so nothing else would show it."""
    assert too_heavy(fits) is None and why in too_heavy(heavy)


def test_plus_or_minus_and_minus_or_plus():
    """Two signs in one answer change together: 3 + 2 - 1 and 3 - 2 + 1."""
    assert same_answer("3 \\pm 2 \\mp 1", "4, 2") and not same_answer("3 \\pm 2 \\mp 1", "6, 0")


def test_rank_zero_alone_writes(tmp_path):
    for rank in (1, 0):
        world = SimpleNamespace(rank=rank, size=2, device="cpu", barrier=lambda: None)
        run = Run(tmp_path / "run", sft.Config(), world)
        run.log(1, {"loss": 1.0})
        run.rollout({"text": "x"})
        assert (tmp_path / "run" / "metrics.jsonl").exists() == (rank == 0)
        assert (tmp_path / "run" / "rollouts.jsonl").exists() == (rank == 0)
