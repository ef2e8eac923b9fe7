"""Every flag arrives: one run of each command in which no flag is as by default, and a table that says for
each flag what it has to have done there. A flag that is in no table is told by `test_no_flag_is_forgotten`.
"""
import dataclasses
import math

import pytest
import torch
from PIL import Image

import connector_tune
import grpo
import sft
from conftest import plain, plain_forward, write_jsonl
from data import read_records
from machinery.families import InternVL
from machinery.files import read_jsonl
from machinery.steps import batch_indices, seed_of
from rollout import TorchSampler
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
    for i, file in enumerate(pictures):
        Image.open(file).save(folder / f"{i}.png")
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
    seen.optimizers()
    stage.train(seen.cfg)
    return seen


def texts(seen):
    """All prompts of all packs, as the model reads them."""
    decode = seen["Chat"][0].out.tokenizer.decode
    return {decode(prompt.ids) for call in seen["make_packs"] for prompt, _ in call.groups}


# {flag: (what was seen, what has to be seen)}; these are of every stage
STAGE = {
    "model": lambda s: ({s["Chat"][0].path, *(c.path for c in s["load"])}, {s.cfg.model}),
    "out": lambda s: (s.out.joinpath("config.json").exists(), True),
    "ask": lambda s: ({t.split("<|im_end|>")[1][-7:] for t in texts(s)}, {"Box it."}),
    "system": lambda s: ({t.split("<|im_end|>")[0] for t in texts(s)}, {"<|im_start|>system\nBe brief."}),
    "train": lambda s: (s.parts_that_changed(), set(s.cfg.train)),
    "max_tiles": lambda s: ({s["Chat"][0].max_tiles, s["Chat"][0].out.processor.max_patches},
                            {s.cfg.max_tiles}),
    "pixels": lambda s: ([c.pixels for c in s["limit_images"]], [s.cfg.pixels]),
    "max_tokens": lambda s: ({c.max_tokens for c in s["make_packs"]}, {s.cfg.max_tokens}),
    "weight_decay": lambda s: ({c.decay for c in s["step"]}, {s.cfg.weight_decay}),
    "dtype": lambda s: (s["load"][0].out.autocast_dtype, torch.bfloat16 if s.cfg.dtype == "bf16" else None),
    "checkpointing": lambda s: (s["load"][0].out.hf.is_gradient_checkpointing, True),
    "hybrid": lambda s: ({c.hybrid for c in s["shard"]}, {True}),
    "offload": lambda s: ({c.offload for c in s["shard"]}, {True}),
}


# ---------------------------------------------------------------------------------------------------- stage 2

@pytest.fixture(scope="module")
def grpo_seen(tiny, folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as m:
        seen = Seen(m)
        seen.folder, seen.out, seen.model = folder, tmp_path_factory.mktemp("grpo") / "run", tiny / "model"
        seen.cfg = cfg = grpo.Config(
            model=str(tiny / "model"), data=str(folder / "rows.jsonl"), columns=("question=problem",),
            out=str(seen.out), train=("connector", "llm"), ask="Box it.", system="Be brief.",
            steps=4, prompts=4, samples=3, lr=2e-3, schedule="linear", warmup=1, temperature=0.7,
            max_new_tokens=5, max_prompt=200, max_tiles=2, pixels=(64, 4096), thinking=False,
            clip_low=0.02, clip_high=0.01, minibatches=2,
            dynamic_sampling=True, kl=0.05, is_clip=1.5, curriculum=str(folder / "hard.jsonl"),
            curriculum_at=2, verifier="http://there:1/v1", verifier_model="judge", rollout="vllm",
            tensor_parallel=3, vllm_memory=0.3, rollout_batch=7, max_tokens=90, max_gap=0.5, weight_decay=0.1,
            clip=0.03, dtype="bf16", checkpointing=True, hybrid=True, offload=True, words=OTHER_WORDS,
            high_entropy=1.0, limit_bad=0.2, save_every=3, seed=5)

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
        out=str(out), val=str(folder / "val.jsonl"), thinking=False, ask="Box it.", system="Be brief.",
        lr=2e-3, schedule="linear", warmup=0.3, batch=4, epochs=1.75, max_tokens=90, max_length=200,
        max_tiles=2, pixels=(64, 4096), weight_decay=0.1, clip=0.03, dtype="fp32", checkpointing=True,
        hybrid=True, offload=True, limit_bad=0.2, seed=5, **flags)
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
    records = read_records(seen.folder / "val.jsonl", seen.cfg.columns, ("question", "solution"))
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
