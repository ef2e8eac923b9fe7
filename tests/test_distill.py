"""distill.py with a made-up teacher: what is kept, what is counted, and going on after an interruption."""
import io
import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import distill as d
from conftest import write_jsonl
from data import Record, read_records
from machinery.files import Refused
from reward import Reward
from rollout import Rollout

RIGHT, NO_FORMAT = Reward(1.0, 1.0, 1.0, "4", "rule"), Reward(1.0, 0.0, 0.8, "4", "rule")
WRONG = Reward(0.0, 1.0, 0.2, "5", "no match")


def rollout(text, length=10, finish="stop"):
    return Rollout(None, list(range(length)), torch.zeros(length), torch.zeros(length), text, [text], finish)


# ---------------------------------------------------------------------------------------------- what is kept
GOOD = "2 + 2 = 4.\n</think>\n\n\\boxed{4}"
LOOP = "so we add the two and the two again " * 20 + "</think> \\boxed{4}"


@pytest.mark.parametrize("text, finish, reward, flags, why", [
    (GOOD, "stop", RIGHT, {}, "kept"), (GOOD, "length", RIGHT, {}, "truncated"),
    (GOOD, "stop", WRONG, {}, "wrong"), (GOOD, "stop", NO_FORMAT, {}, "format"),
    ("I cannot see the image. " + GOOD, "stop", RIGHT, {}, "denial"), (LOOP, "stop", RIGHT, {}, "repetition"),
    (LOOP, "stop", RIGHT, {"max_repetition": 1.0}, "kept"), (GOOD, "stop", RIGHT, {"max_length": 9}, "long"),
    (GOOD, "stop", RIGHT, {"max_length": 10}, "kept")])
def test_every_fate(text, finish, reward, flags, why):
    kept, rate = d.judge([rollout(text, 10, finish)], [reward], **flags)
    assert rate["fates"] == {why: 1} and kept == [text] * (why == "kept")


def test_judge_counts_every_response_once():
    rollouts = [*map(rollout, ["bad", "a", "a", "b", "c"]), rollout("d", finish="length")]
    kept, rate = d.judge(rollouts, [WRONG, RIGHT, RIGHT, RIGHT, RIGHT, RIGHT], keep=2)
    assert kept == ["a", "b"]  # the first that may be kept: neither the shortest nor the longest
    fates = {"wrong": 1, "kept": 2, "duplicate": 1, "surplus": 1, "truncated": 1}
    assert rate == {"n": 6, "right": 5, "pass_rate": 5 / 6, "fates": fates}


def test_images_that_are_no_files_become_files(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), "blue").save(buffer, "JPEG")
    record = Record("q", "?", [str(tmp_path / "pictures" / "a.png"), buffer.getvalue()], "4")
    images = d.rows_of(record, ["x"], 0.5, tmp_path / "out")[0]["images"]
    assert images[0] == "../pictures/a.png" and images[1].endswith(".jpeg")
    assert (tmp_path / "out" / images[1]).read_bytes() == buffer.getvalue()
    assert d.rows_of(record, ["x"], 0.5, tmp_path / "out")[0]["images"] == images  # named by their content


# ----------------------------------------------------------------------------------------------- the command
class Teacher:
    """Answers question i rightly in i % 4 of its responses; what it writes depends on the seed."""

    def __init__(self, monkeypatch):
        self.calls, self.stop_after = 0, None

        def prompts(records, thinking):
            return [SimpleNamespace(record=r) for r in records]

        monkeypatch.setattr(d, "load", lambda *_: None)
        monkeypatch.setattr(d, "make_sampler", lambda *_, **__: self)
        monkeypatch.setattr(d, "Processor", lambda *_: SimpleNamespace(prompts=prompts))

    def generate(self, prompts, n, max_new_tokens, temperature, seed):
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        def one(record, j):
            answer = record.answer if j < int(record.id) % 4 else -1
            return rollout(f"draw {seed} {record.id} {j}\n</think>\n\n\\boxed{{{answer}}}")
        return [[one(p.record, j) for j in range(n)] for p in prompts]


@pytest.fixture
def cfg(tmp_path):
    Image.new("RGB", (5, 4), "blue").save(tmp_path / "a.png")
    same = {"images": ["a.png"], "subject": "Math"}
    rows = [{"id": str(i), "question": f"<image> {i}?", "answer": str(i), **same} for i in range(20)]
    write_jsonl(tmp_path / "q.jsonl", rows)
    out = str(tmp_path / "out" / "cold.jsonl")
    return d.Config(data=str(tmp_path / "q.jsonl"), out=out, samples=4, keep=2, chunk=3)


def files(cfg):
    return open(cfg.out).read(), open(cfg.out + ".pass_rates.jsonl").read()


def test_a_whole_distillation(cfg, monkeypatch, capsys):
    Teacher(monkeypatch)
    d.distill(cfg)
    rates = [json.loads(line) for line in files(cfg)[1].splitlines()]
    counts = [(r["id"], r["right"], r["pass_rate"]) for r in rates]
    assert counts == [(str(i), i % 4, (i % 4) / 4) for i in range(20)]
    kept = [json.loads(line) for line in files(cfg)[0].splitlines()]
    assert [r["id"] for r in kept] == [f"{i}#{j}" for i in range(20) for j in range(min(2, i % 4))]
    first = kept[0]
    assert first["solution"].startswith("draw") and first["solution"].endswith("1 0\n</think>\n\n\\boxed{1}")
    assert first["pass_rate"] == 0.25
    assert len({r["solution"].split()[1] for r in kept}) == 7  # a seed for each of the seven chunks
    assert "80 responses to 20 questions: wrong 50 (62.5%), kept 25 (31.2%)" in capsys.readouterr().out
    # sft.py reads it as it is, images included
    records = read_records(cfg.out, need=("question", "answer", "solution"))
    assert len(records) == 25 and records[0].sizes == [(4, 5)]


def test_an_interruption_changes_nothing(cfg, monkeypatch, tmp_path):
    teacher = Teacher(monkeypatch)
    d.distill(cfg)
    whole, calls = files(cfg), teacher.calls
    other = d.Config(**{**vars(cfg), "out": str(tmp_path / "other" / "cold.jsonl")})
    teacher.calls, teacher.stop_after = 0, 3
    with pytest.raises(KeyboardInterrupt):
        d.distill(other)
    # killed while writing: a torn line, and solutions of a question that pass_rates.jsonl does not have
    lines = files(other)[1].splitlines()
    open(other.out + ".pass_rates.jsonl", "w").write("\n".join(lines[:-1]) + '\n{"id": "8", "n"')
    open(other.out, "a").write('{"id": "9#0", "ima')
    teacher.stop_after = None
    d.distill(other)
    assert files(other) == whole and teacher.calls == calls + 1  # the chunk that was cut is sampled again
    open(other.out, "w").write("")  # lost: pass_rates.jsonl alone does not make a question done
    d.distill(other)
    assert sorted(files(other)[0].splitlines()) == sorted(whole[0].splitlines())


def test_refusals(cfg, monkeypatch):
    """Whatever would mix two kinds of rows or lose some; the files stay as they are."""
    teacher = Teacher(monkeypatch)
    d.distill(cfg)
    kept, calls, questions = files(cfg), teacher.calls, open(cfg.data).read()
    with pytest.raises(Refused, match="begun with other flags or data \\(--samples was 4, now 8"):
        d.distill(d.Config(**{**vars(cfg), "samples": 8}))
    open(cfg.data, "a").write(questions.splitlines()[0].replace('"0"', '"90"') + "\n")
    with pytest.raises(Refused, match="begun with other flags or data \\(--rows was {'rows': 20"):
        d.distill(cfg)
    open(cfg.data, "w").write(questions)
    assert files(cfg) == kept and teacher.calls == calls
    open(cfg.data, "a").write(questions)
    with pytest.raises(Refused, match="an id stands there more than once"):
        d.distill(cfg)
