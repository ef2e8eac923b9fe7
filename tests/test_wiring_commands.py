"""Every flag of the other commands arrives, as test_wiring.py says it of the stages: distill.py,
entropy_select.py, eval_mmmu.py, reward.py, connector.py, plan.py, report.py and tiny/make.py.
"""
import base64
import dataclasses
import io
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tqdm import tqdm

import connector
import data
import distill
import entropy_select
import eval_mmmu
import make
import model
import plan
import report
import reward
import rollout
from conftest import write_jsonl
from machinery.families import InternVL
from machinery.fields import BadRow
from machinery.files import read_jsonl
from machinery.steps import permutation, seed_of
from machinery.talks import talk_fields
from scoring import reward_rows, workers
from scoring.workers import POOL, TIME_LIMIT
from signals import critical_spans
from stages import Given, Seen, as_the_table_says, flags_of, reward_of

WORDS = tuple("abcdefgh")


class Asked(Given):
    """A sampler for all commands; its responses have random entropies."""

    def __init__(self, chat, vlm=None):
        super().__init__(chat)
        self.vlm = vlm

    def generate(self, prompts, n=1, max_new_tokens=0, temperature=1.0, seed=0, ban=(), progress=None,
                 done=None):
        groups = super().generate(prompts, n, max_new_tokens, temperature, seed, lambda i, group: None)
        for r in (r for group in groups for r in group):
            r.entropy = torch.rand(len(r.ids), generator=torch.Generator().manual_seed(len(r.ids)))
        return groups


def watch(m, module, tiny, **cfg):
    """Run a command with a sampler that only answers. Its functions are spied on where it looks them up."""
    seen, samplers = Seen(m), []

    def sampler(kind, vlm, chat, *_, **__):
        samplers.append(Asked(chat, vlm))
        seen.spy(samplers[-1], "generate")
        return samplers[-1]

    where = (data, model, rollout) if module is eval_mmmu else (module,) * 3
    for owner, name in zip(where, ("Chat", "load")):
        seen.spy(owner, name)
    seen.spy(where[2], "make_sampler", sampler)
    seen.spy(InternVL, "limit_images")
    seen.cfg = module.Config(**cfg)
    return seen


def prompt_texts(seen):
    decode = seen["Chat"][0].out.tokenizer.decode
    return {decode(p.ids) for call in seen["generate"] for p in call.prompts}


def asked(seen):
    return [[p.record.id for p in call.prompts] for call in seen["generate"]]


def all_of(name, field):
    """What each call of the function was given, once."""
    return lambda s: {getattr(call, field) for call in s[name]}


def arrives(flag, name="generate", field=None):
    return lambda s: (all_of(name, field or flag)(s), {getattr(s.cfg, flag)})


SAMPLED = {
    "model": lambda s: ({s["Chat"][0].path, s["load"][0].path}, {s.cfg.model}),
    "temperature": arrives("temperature"),
    "rollout": arrives("rollout", "make_sampler", "kind"),
    "tensor_parallel": arrives("tensor_parallel", "make_sampler"),
    "dtype": lambda s: ({c.dtype for c in s["make_sampler"] + s["load"]}, {"bf16"}),
    "max_tiles": lambda s: ({s["Chat"][0].max_tiles, s["Chat"][0].out.processor.max_patches}, {2}),
    "pixels": arrives("pixels", "limit_images"),
    "ask": lambda s: ({t.split("<|im_end|>")[1][-7:] for t in prompt_texts(s)}, {"Box it."}),
    "system": lambda s: ({t.split("<|im_end|>")[0] for t in prompt_texts(s)},
                         {"<|im_start|>system\nBe brief."}),
    "thinking": lambda s: ({t.endswith("<think>\n") for t in prompt_texts(s)}, {False}),
    "max_new_tokens": arrives("max_new_tokens"),
}
SAME = dict(temperature=0.6, rollout="vllm", tensor_parallel=3, dtype="bf16", max_tiles=2, pixels=(64, 4096),
            ask="Box it.", system="Be brief.", seed=5, max_new_tokens=9)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Ten questions, one of which can not be used, under another name; no image in them."""
    folder = tmp_path_factory.mktemp("questions")
    rows = [{"id": f"q{i}", "problem": "What is it? " * (1 + i % 3), "answer": str(i) * (i != 4),
             "options": ["1", "2"] * (i == 1)} for i in range(10)]
    write_jsonl(folder / "all.jsonl", rows)
    write_jsonl(folder / "good.jsonl", rows[:4] + rows[5:])
    return folder


# ------------------------------------------------------------------------------------------------- distill.py

@pytest.fixture(scope="module")
def distilled(tiny, questions, tmp_path_factory):
    out = tmp_path_factory.mktemp("distilled") / "d.jsonl"
    with pytest.MonkeyPatch.context() as m:
        seen = watch(m, distill, tiny, **SAME, model=str(tiny / "model"), data=str(questions / "all.jsonl"),
                     columns=("question=problem",), image_root=str(questions), out=str(out), samples=4,
                     keep=2, thinking=False,
                     max_length=6, max_repetition=0.25, limit=5, chunk=2, limit_bad=0.2,
                     verifier="http://there:1/v1", verifier_model="judge")
        for name in ("read_records", "judge", "fate"):
            seen.spy(distill, name)
        seen.spy(distill, "Verifier", lambda url, name: (url, name))
        seen.spy(distill, "score_batch", reward_of)
        distill.distill(seen.cfg)
        with pytest.raises(RuntimeError, match="loaded"):  # --rollout torch: the model is loaded here
            seen.spy(distill, "load", loaded)
            distill.distill(dataclasses.replace(seen.cfg, rollout="torch", tensor_parallel=1,
                                                out=f"{out}.2"))
        return seen


def loaded(*_, **__):
    raise RuntimeError("loaded")


DISTILL = SAMPLED | {
    "data": lambda s: ({i for ids in asked(s) for i in ids}, {"q0", "q1", "q2", "q3", "q5"}),
    "columns": lambda s: ({p.record.question[:7] for c in s["generate"] for p in c.prompts}, {"What is"}),
    "out": lambda s: ({row["id"][:1] for row in read_jsonl(s.cfg.out)}, {"q"}),
    "image_root": arrives("image_root", "read_records"),
    "samples": arrives("samples", field="n"),
    "keep": arrives("keep", "judge"),
    "max_length": arrives("max_length", "fate"),
    "max_repetition": arrives("max_repetition", "fate"),
    "limit": lambda s: (sum(map(len, asked(s))), 5),
    "chunk": lambda s: ([len(ids) for ids in asked(s)], [2, 2, 1]),
    "limit_bad": arrives("limit_bad", "read_records"),
    "verifier": lambda s: ({c.verifier for c in s["score_batch"]}, {("http://there:1/v1", "judge")}),
    "verifier_model": arrives("verifier_model", "Verifier", "model"),
    "seed": lambda s: ([c.seed for c in s["generate"]], [seed_of(5, k, 0) for k in range(3)]),
    "thinking": lambda s: ((SAMPLED["thinking"](s)[0], all_of("score_batch", "thinking_prompt")(s)),
                           ({False}, {False})),
}


@pytest.mark.parametrize("flag", flags_of(distill.Config))
def test_flag_of_distill(flag, distilled):
    as_the_table_says(DISTILL, flag, distilled)


def test_a_text_is_kept_once(chat, prompts):
    right = reward.Reward(1.0, 1.0, 1.0, "4", "rule")
    texts = [SimpleNamespace(text=text, ids=[1], finish="stop") for text in ("a b", "c d", "a b", "e f")]
    kept, told = distill.judge(texts, [right] * 4, keep=4)
    assert kept == ["a b", "c d", "e f"] and told["fates"] == {"kept": 3, "duplicate": 1}


# ------------------------------------------------------------------------------------------ entropy_select.py

@pytest.fixture(scope="module")
def selected(tiny, questions, tmp_path_factory):
    run = tmp_path_factory.mktemp("selected")
    for step in (1, 2):
        shutil.copytree(tiny / "model", run / f"step_{step:06d}")
    with pytest.MonkeyPatch.context() as m:
        seen = watch(m, entropy_select, tiny, **SAME, folder=str(run), data=str(questions / "good.jsonl"),
                     columns=("question=problem",), image_root=str(questions), probe=5, samples=3,
                     thinking=False, words=WORDS,
                     high_entropy=0.4, min_count=3, plot=False)
        for name in ("read_records", "measure", "choose", "plot"):
            seen.spy(entropy_select, name)
        seen.spy(entropy_select, "score_batch", reward_of)
        entropy_select.select(seen.cfg)
        return seen


def probe_rows(seen):
    return [read_jsonl(f"{seen.cfg.folder}/probe/step_00000{k}.jsonl")[1:] for k in (1, 2)]


def share_of_high(rows, limit):
    entropy = [e for row in rows for e in row["entropy"]]
    return pytest.approx(sum(e > limit for e in entropy) / len(entropy))


SELECT = SAMPLED | {
    "folder": lambda s: ([c.path for c in s["load"]], [f"{s.cfg.folder}/step_00000{k}" for k in (1, 2)]),
    "data": lambda s: (all_of("read_records", "source")(s), {s.cfg.data}),
    "columns": lambda s: ({p.record.question[:7] for c in s["generate"] for p in c.prompts}, {"What is"}),
    "probe": lambda s: (asked(s), [[f"q{i + (i > 3)}" for i in permutation(9, 5, 0)[:5]]] * 2),
    "image_root": arrives("image_root", "read_records"),
    "samples": arrives("samples", field="n"),
    "words": lambda s: ([c.out["count"] for c in s["measure"]],
                        [sum(len(critical_spans("".join(row["tokens"]), WORDS)) for row in rows)
                         for rows in probe_rows(s)]),
    "high_entropy": lambda s: ([c.out["entropy_high"] for c in s["measure"]],
                               [share_of_high(rows, 0.4) for rows in probe_rows(s)]),
    "min_count": arrives("min_count", "choose"),
    "plot": lambda s: (s["plot"], []),
    "seed": lambda s: (all_of("generate", "seed")(s), {seed_of(5, 0, 0)}),
    "thinking": DISTILL["thinking"],
}


@pytest.mark.parametrize("flag", flags_of(entropy_select.Config))
def test_flag_of_entropy_select(flag, selected):
    as_the_table_says(SELECT, flag, selected)


def test_what_a_probe_depends_on(tmp_path):
    """Responses that were made with another value of a flag are not used again, but for these flags."""
    free = {"folder", "words", "high_entropy", "min_count", "plot", "tensor_parallel"}
    free |= {"probe", "image_root"}  # these show in the rows, which are compared, too
    world, base = SimpleNamespace(size=1), entropy_select.Config()
    before = entropy_select.settings_of(base, tmp_path, [], world)
    for f in dataclasses.fields(base):
        value = getattr(base, f.name)
        other = not value if isinstance(value, bool) else 2 * value or type(value)("3")
        changed = dataclasses.replace(base, **{f.name: other})
        same = entropy_select.settings_of(changed, tmp_path, [], world) == before
        assert same == (f.name in free), f.name


def test_the_reward_hears_of_gold_and_options(distilled, selected):
    for seen in (distilled, selected):
        rows = [(gold, options) for call in seen["score_batch"] for gold, options in
                zip(call.golds, call.options, strict=True)]
        assert ("1", ["1", "2"]) in rows and all(bool(options) == (gold == "1") for gold, options in rows)
    assert all(len(call.questions) == len(call.golds) and call.questions[0][:7] == "What is"
               for call in distilled["score_batch"])


# ----------------------------------------------------------------------------------------------- eval_mmmu.py

@pytest.fixture(scope="module")
def evaluated(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluated") / "run"
    for k, file in enumerate(sorted((tiny / "mmmu").rglob("*.parquet"))):
        for subset in ("all", "twice"):  # both would be too much: ids would stand there twice
            (out.parent / "mmmu" / subset).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, out.parent / "mmmu" / subset / f"valid-{k:05d}-of-00006.parquet")
    with pytest.MonkeyPatch.context() as m:
        seen = watch(m, eval_mmmu, tiny, **SAME, model=str(tiny / "model"), data=str(out.parent / "mmmu"),
                     columns=("subject=subfield",), subset="all", out=str(out), split="valid",
                     subjects=("Design", "Math"), limit=5, mode="nowait", ban=("wait", "x"),
                     runs=2, budget=3, closing="</think>7", on_budget="cut", chunk=3,
                     rollout_batch=7, verifier="http://there:1/v1", verifier_model="judge",
                     revision="unused", image_root=str(tmp_path_factory.mktemp("pictures")))
        for name in ("banned_ids", "respond", "find_parquet", "read_questions_of"):
            seen.spy(eval_mmmu, name)
        seen.spy(eval_mmmu, "Verifier", lambda url, name: (url, name))
        seen.spy(eval_mmmu, "score_rows", lambda rows, mode="auto", verifier=None: ({}, rows))
        m.setattr(eval_mmmu, "report", lambda *_: None)
        eval_mmmu.evaluate(seen.cfg)
        with pytest.raises(RuntimeError, match="loaded"):
            seen.spy(model, "load", loaded)
            eval_mmmu.evaluate(dataclasses.replace(seen.cfg, rollout="torch", tensor_parallel=1,
                                                   out=f"{out}2"))
        seen.steps = out.parent / "steps"
        for name in ("step_000002", "step_000010", "eval"):
            (seen.steps / name).mkdir(parents=True)
        evaluate = eval_mmmu.evaluate
        seen.spy(eval_mmmu, "evaluate", lambda cfg: None)
        evaluate(dataclasses.replace(seen.cfg, model=str(seen.steps), checkpoints=True, rollout="torch"))
        return seen


def of_every_checkpoint(seen):
    """What each checkpoint has to be scored with: all else is as for a single one."""
    return [dataclasses.replace(seen.cfg, model=str(step), out=f"{seen.cfg.out}/{step.name}", rollout="torch")
            for step in (seen.steps / "step_000002", seen.steps / "step_000010")]


EVAL = SAMPLED | {
    "checkpoints": lambda s: ([c.cfg for c in s["evaluate"]], of_every_checkpoint(s)),
    "data": arrives("data", "find_parquet", "source"),
    "image_root": arrives("image_root", "read_questions_of"),
    "columns": lambda s: ([c.columns for c in s["read_questions_of"]][0], {"subject": "subfield"}),
    "subset": arrives("subset", "find_parquet"),
    "split": arrives("split", "find_parquet"),
    "revision": arrives("revision", "find_parquet"),
    "subjects": lambda s: ({row["subject"] for row in read_jsonl(f"{s.cfg.out}/responses.jsonl")},
                           {"Design", "Math"}),
    "limit": lambda s: (len({i for ids in asked(s) for i in ids}), 5),
    "out": lambda s: (len(read_jsonl(f"{s.cfg.out}/responses.jsonl")), 10),
    "mode": lambda s: ({t.endswith("<think>\n") for t in prompt_texts(s)}, {True}),
    "ban": lambda s: ((all_of("banned_ids", "words")(s), {tuple(c.ban) for c in s["generate"]}),
                      ({("wait", "x")}, {tuple(s["banned_ids"][0].out[0])})),
    "runs": lambda s: (len(s["generate"]), 4),
    "max_new_tokens": lambda s: (all_of("generate", "max_new_tokens")(s), {3}),  # the budget; see below
    "budget": lambda s: (all_of("generate", "max_new_tokens")(s), {3}),
    "on_budget": lambda s: (len(s["generate"]), 4),  # nothing is asked for the answers
    "chunk": lambda s: ([len(ids) for ids in asked(s)], [3, 2] * 2),
    "rollout_batch": arrives("rollout_batch", "make_sampler", "batch"),
    "closing": lambda s: ([c.cfg.closing for c in s["respond"]], ["</think>7"] * 4),
    "verifier": lambda s: (all_of("score_rows", "verifier")(s), {("http://there:1/v1", "judge")}),
    "verifier_model": arrives("verifier_model", "Verifier", "model"),
    "seed": lambda s: ([c.seed for c in s["generate"]], [seed_of(5, k) for k in range(4)]),
}


@pytest.mark.parametrize("flag", flags_of(eval_mmmu.Config))
def test_flag_of_eval_mmmu(flag, evaluated):
    as_the_table_says(EVAL, flag, evaluated)


def test_budget_and_the_rest(chat, prompts):
    """--budget for the thought, --max_new_tokens for both: what closes the thought stands in between."""
    sampler, seen = Asked(chat), Seen(pytest.MonkeyPatch())
    seen.spy(sampler, "generate")
    cfg = eval_mmmu.Config(budget=4, max_new_tokens=11, closing="</think>7", temperature=0.3)
    sampler.rollout = lambda p, k: dataclasses.replace(Given.rollout(sampler, p, k), finish="length")
    out = eval_mmmu.respond(sampler, chat, prompts[:3], cfg, [5], 3, None)
    first, second = seen["generate"]
    assert (first.max_new_tokens, second.max_new_tokens, second.temperature) == (4, 7, 0.3)
    assert first.seed != second.seed and second.ban == [5]
    closing = chat.tokenizer("</think>7", add_special_tokens=False)["input_ids"]
    for (p, before, after, row) in zip(prompts, first.out, second.prompts, out):
        assert after.full == p.full + before[0].ids + closing and row["forced"]
        assert "</think>7" in row["response"]


SCORE = {
    "responses": lambda s: (s["read_responses"][0].path, s.cfg.responses),
    "out": lambda s: (json.loads(open(s.cfg.out).read())["n"], 1),
    "rows": lambda s: ([row["rule"] for row in read_jsonl(s.cfg.rows)], [0.0]),
    "mode": lambda s: (read_jsonl(s.cfg.rows)[0]["unparsed"], 1.0),  # read as a thought that never ended
    "verifier": lambda s: (s["score_rows"][0].verifier.url, s.cfg.verifier),
    "verifier_model": lambda s: (s["score_rows"][0].verifier.model, "judge"),
}


@pytest.mark.parametrize("flag", flags_of(eval_mmmu.Score))
def test_flag_of_score(flag, tmp_path, monkeypatch):
    write_jsonl(tmp_path / "r.jsonl", [{"id": "validation_Math_1", "question_type": "open", "options": "[]",
                                        "answer": "7", "response": "\\boxed{7}"}])
    seen = Seen(monkeypatch)
    seen.spy(eval_mmmu, "read_responses")
    seen.spy(eval_mmmu, "score_rows")
    seen.cfg = eval_mmmu.Score(str(tmp_path / "r.jsonl"), str(tmp_path / "s.json"), str(tmp_path / "o.jsonl"),
                               "think", "http://there:1/v1", "judge")
    eval_mmmu.score(seen.cfg)
    as_the_table_says(SCORE, flag, seen)


# -------------------------------------------------------------------------------------------------- reward.py

@pytest.fixture
def rewarded(tmp_path, monkeypatch, capsys):
    write_jsonl(tmp_path / "in.jsonl", [{"response": "so \\boxed{7}", "answer": "7", "question": "q"},
                                        {"response": "\\boxed{dog}", "answer": "cat"},
                                        {"response": "\\boxed{x}", "answer": "5^5^5^5"}])
    seen = Seen(monkeypatch)
    seen.spy(reward, "Verifier")
    seen.spy(reward, "judge", lambda claims, verifier: reward_of([c.answer for c in claims], None))
    monkeypatch.setattr(POOL, "size", None)
    monkeypatch.setattr(POOL, "limit", TIME_LIMIT)
    seen.cfg = reward.Config(str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), thinking_prompt=False,
                             verifier="http://there:1/v1", verifier_model="judge", patience=12.0,
                             check_golds=True, workers=3, time_limit=1.5)
    monkeypatch.setattr(reward_rows, "_list_unreadable_golds", lambda rows: print(f"golds {len(rows)}"))
    reward.main(seen.cfg)
    seen.printed = capsys.readouterr().out
    return seen


REWARD = {
    "responses": lambda s: (len(s["judge"][0].claims), 3),
    "out": lambda s: (len(read_jsonl(s.cfg.out)), 3),
    "thinking_prompt": lambda s: ([c.answer for c in s["judge"][0].claims], ["7", "dog", "x"]),
    "verifier": lambda s: (s["judge"][0].verifier.url, "http://there:1/v1"),
    "verifier_model": lambda s: (s["judge"][0].verifier.model, "judge"),
    "patience": lambda s: (s["judge"][0].verifier.patience, 12.0),
    "check_golds": lambda s: ("golds 3" in s.printed, True),
    "workers": lambda s: (POOL.size, 3),
    "time_limit": lambda s: (POOL.limit, 1.5),
}


def test_as_many_workers_as_are_asked_for(monkeypatch):
    class Worker:
        ready = True

        def wait_until_ready(self, failed):
            pass

        def compare(self, task):
            return True, f"{task['limit']}", 0.0

    monkeypatch.setattr(workers, "Worker", Worker)
    monkeypatch.setattr(workers.os, "cpu_count", lambda: 6)
    for size, local, expected in ((3, "1", 3), (None, "1", 6), (None, "2", 3), (9, "1", 7)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
        pool = workers.Pool()
        pool.size, pool.limit = size, 1.5
        assert pool.map([("1", "2", None)] * 7) == [(True, "1.5", 0.0)] * 7
        assert len(pool.workers) == expected  # no more than pairs


@pytest.mark.parametrize("flag", flags_of(reward.Config))
def test_flag_of_reward(flag, rewarded):
    as_the_table_says(REWARD, flag, rewarded)


# ---------------------------------------------------------------------------------------------- connector.py

def test_flags_of_connector(model_path, tmp_path):
    made = {}
    for name, seed in (("one", 7), ("two", 7), ("three", 8)):
        cfg = connector.Config(model=model_path, out=str(tmp_path / name), connector="qformer", queries=3,
                               layers=1, seed=seed)
        connector.replace(cfg)
        made[name] = model.load(str(tmp_path / name)).hf.model.multi_modal_projector
    one, two, three = made.values()
    assert one.queries.shape[0] == 3 == data.Chat(str(tmp_path / "one")).per_tile and len(one.blocks) == 1
    assert torch.equal(one.queries, two.queries) and not torch.equal(one.queries, three.queries)
    assert torch.equal(one.out.weight, two.out.weight) and not torch.equal(one.out.weight, three.out.weight)
    assert {*flags_of(connector.Config)} == {"model", "out", "connector", "queries", "layers", "seed"}


# --------------------------------------------------------------------------------------------------- plan.py

PLAN = dict(gpus=16, train=("connector",), lora=8, tokens=8192, visual=512, rollout="torch",
            tensor_parallel=4, responses=32, max_new_tokens=4096, checkpointing=False, hybrid=True,
            offload=True, select=True, prompts=64, samples=8, rollout_batch=64)
LARGER = {"gpus": 16, "hybrid": 16}  # of GPUs, where the flag says something


@pytest.fixture(scope="module")
def planned(model_path):
    return plan.shape(model_path)


@pytest.mark.parametrize("flag", flags_of(plan.Config))
def test_flag_of_plan(flag, planned, monkeypatch):
    base = plan.Config(gpus=LARGER.get(flag, 8) if flag != "gpus" else 8,
                       rollout="torch" if flag in ("prompts", "samples", "rollout_batch") else "vllm")
    if flag == "gpu_gib":
        assert plan.room(plan.Config(gpu_gib=40.0)) == pytest.approx(0.94 * 40 - 1.5)
    elif flag == "model":
        monkeypatch.setattr(plan, "shape", lambda path: loaded() if path == "here" else None)
        with pytest.raises(RuntimeError, match="loaded"):
            plan.plan(dataclasses.replace(base, model="here"))
    else:
        other = dataclasses.replace(base, **{flag: PLAN[flag]})
        assert plan.memory(planned, base) != plan.memory(planned, other), flag


@pytest.mark.parametrize("flag", flags_of(plan.DataConfig))
def test_flag_of_plan_data(flag, model_path, tiny, questions, tmp_path, capsys):
    wide = torch.zeros(60, 140, 3, dtype=torch.uint8)
    Image.fromarray(wide.numpy()).save(tmp_path / "wide.png")
    (tmp_path / "pictures").mkdir()
    Image.fromarray(wide[:30].numpy()).save(tmp_path / "pictures" / "wide.png")
    write_jsonl(tmp_path / "rows.jsonl", [
        {"problem": "p", "question": "What is it?", "images": ["wide.png"], "answer": "7",
         "solution": "It is.\n</think>\n\n7"},
        {"problem": "q", "question": "Why?", "answer": "8"}])
    base = plan.DataConfig(data=str(tmp_path / "rows.jsonl"), model=model_path)
    other = dict(data=str(questions / "good.jsonl"), columns=("question=problem",), max_tiles=2,
                 need=("question", "solution"), thinking=False, ask="Box it.", system="Be brief.",
                 image_root=str(tmp_path / "pictures"))
    if flag in ("model", "pixels"):
        seen = Seen(pytest.MonkeyPatch())
        seen.spy(plan, "Chat", loaded)
        with pytest.raises(RuntimeError, match="loaded"):
            plan.report(dataclasses.replace(base, pixels=(64, 4096)))
        seen.patch.undo()
        assert (seen["Chat"][0].path, seen["Chat"][0].pixels) == (model_path, (64, 4096))
        return
    texts = []
    more = {"columns": ("question=problem",)} if flag == "data" else {}
    for cfg in (base, dataclasses.replace(base, **{flag: other[flag], **more})):
        plan.report(cfg)
        texts.append(capsys.readouterr().out.replace(cfg.data, ""))
    assert texts[0] != texts[1]


# ------------------------------------------------------------------------------------------------- report.py

def test_flags_of_report(tmp_path, capsys):
    Image.new("RGB", (900, 300), "red").save(tmp_path / "a.png")
    row = {"step": 1, "id": "q", "question": "?", "images": [str(tmp_path / "a.png")], "gold": 4, "text": "x",
           "reward": 1.0, "accuracy": 1.0, "format": 1.0, "finish": "stop", "advantage": 0.25,
           "tokens": ["so", " foo", "."], "entropy": [0.5, 0.1, 0.0]}
    write_jsonl(tmp_path / "rollouts.jsonl", [{**row, "step": k} for k in (1, 2, 3)])
    sizes = []
    for size in (40, 400):
        out = tmp_path / f"{size}.html"
        report.page(report.Page(str(tmp_path), str(out), most=2, image_size=size, words=("foo",)))
        text = out.read_text()
        shown = json.loads(text.partition('type="application/json">')[2].partition("</script>")[0])
        assert [r["critical"] for group in shown["groups"] for r in group["responses"]] == [[1]] * 2
        picture, = shown["images"].values()
        sizes.append(Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))).size)
    assert sizes == [(40, 13), (400, 133)]
    subjects = {"Math": {"n": 100, "rule": 0.5}, "Art": {"n": 100, "rule": 0.8}, "Law": {"n": 9, "rule": 0.9}}
    (tmp_path / "rl" / "eval").mkdir(parents=True)
    (tmp_path / "rl" / "eval" / "scores.json").write_text(json.dumps({"subjects": subjects}))
    report.table(report.Table(str(tmp_path), maths="Art"))
    result = json.loads((tmp_path / "results.json").read_text())["rl"]
    assert (result["maths"], result["others"]) == (0.8, pytest.approx(0.7))
    kinds = (report.Curves, report.Compare, report.Page, report.Table, report.Seeds,
             report.Card)  # test_card.py has the last
    assert flags_of(*kinds) == ["runs", "out", "runs", "out", "run", "out", "most", "image_size", "words",
                                "folder", "maths", "folders", "run", "scores", "out"]


def test_panels_without_one_below_say_step(tmp_path, monkeypatch):
    """Five panels in three columns: three below, or with nothing below."""
    figures = []
    monkeypatch.setattr(report, "save_figure", lambda figure, out: figures.append(figure))
    write_jsonl(tmp_path / "metrics.jsonl", [
        {"step": k, "reward": 0.5, "accuracy": 0.4, "length": 9, "entropy": 1.0, "grad_norm": 2.0}
        for k in (1, 2)])
    report.curves(report.Curves((str(tmp_path),)))
    shown = [ax for ax in figures[0].axes if ax.get_visible()]
    assert [ax.get_xlabel() for ax in shown] == ["", "", "step", "step", "step"]


# --------------------------------------------------------------------------------------------- tiny/make.py

def test_shares_of_the_tiny_world(monkeypatch, tmp_path):
    """Who writes how: the sets, and what a solution is made of."""
    seen = Seen(monkeypatch)
    seen.spy(make, "solution", lambda *_: "s")
    monkeypatch.setattr(make, "write_jsonl", lambda *_: None)
    cfg = make.Config(steps_share=0.25, connector_steps_share=0.75, think_empty="Oh.", seed=3)
    names = (*make.SETS, "mmmu")
    monkeypatch.setattr(make, "write_mmmu", lambda *_: None)
    make.write_sets(cfg, tmp_path, {name: [{"name": name}] for name in names}, tqdm(disable=True))
    found = {c.row["name"]: (c.steps_share, c.thinking, c.empty) for c in seen["solution"]}
    assert found == {"captions": (0.75, False, "Oh."), "base": (0.25, False, "Oh."),
                     "cold_start": (0.25, True, "Oh."), "connector": (0.75, True, "Oh."),
                     "connector_val": (0.75, True, "Oh."), "val": (0.75, True, "Oh.")}


def test_sets_of_the_tiny_world(monkeypatch):
    """What each set is made of: how many rows, whose handwriting, how many dark pictures, which kinds."""
    seen = Seen(monkeypatch)
    seen.spy(make, "make_pools", lambda rng, part, *_, **__: part)
    seen.spy(make, "make_rows", lambda rng, pools, subjects, *_, **__: subjects)
    seen.spy(make, "make_scene", lambda *_: None)
    seen.spy(make, "caption", lambda *_: {})
    seen.spy(make, "sums", lambda *_: {})
    sizes = dict(captions=31, sums=8, base=12, base_captions=5, cold_start=13, rl=14, rl_hard=15,
                 connector=16, connector_val=17, val=18, math_test=9, other_test=2)
    cfg = make.Config(**sizes, dark_before=1.0, dark_breadth=0.25, dark_test=0.75, seed=3)
    sets = make.make_sets(cfg, tqdm(disable=True))
    assert {name: len(rows) for name, rows in sets.items()} == {
        **{name: sizes[name] for name in make.SETS}, "captions": 31 + 8, "base": 12 + 5, "mmmu": 9 + 5 * 2}
    found = {len(c.subjects): (c.pools, c.dark) for c in seen["make_rows"]}
    assert found == {12: ("train", 1.0), 13: ("train", 1.0), 14: ("rl", 0.0), 15: ("rl", 0.0),
                     16: ("train", 0.25), 17: ("val", 0.25), 18: ("val", 0.0), 19: ("test", 0.75)}
    kinds = {len(c.subjects): c.kinds for c in seen["make_rows"]}
    assert kinds.pop(15) is make.HARD and kinds.pop(18)["Math"]["which"] == 4 * make.KINDS["Math"]["which"]
    assert all(k is make.KINDS for k in kinds.values())
    assert set(sets["rl"]) == set(sets["rl_hard"]) == {"Math"} and sets["val"].count("Math") == 9
    assert {(c.pools, c.dark) for c in seen["make_scene"]} == {("train", False), ("train", True)}
    assert all(c.dark == (c.subject != "Math") for c in seen["make_scene"])
    assert {*flags_of(make.Config)} == {*sizes, "out", "seed", "steps_share", "connector_steps_share",
                                        "dark_before", "dark_breadth", "dark_test", "think_empty"}


# ------------------------------------------------------------------------------------------------------ talks

def test_a_last_answer_that_is_not_to_be_learned():
    """It would be taught as the row's solution."""
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So.", "weight": 0}]
    with pytest.raises(BadRow, match="last turn of its messages is not to be learned"):
        talk_fields({"messages": turns})
    turns[1]["weight"] = 1
    assert talk_fields({"messages": turns})["solution"] == "So."
