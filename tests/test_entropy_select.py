"""entropy_select.py: the indicator by hand, the choice, and a whole selection with a made-up sampler."""
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

import entropy_select as es
from data import Record
from machinery.files import Refused, read_jsonl, resolve
from machinery.tables import pearson, spearman
from rollout import Rollout


# --------------------------------------------------------------------------------------------- the indicator
def row(question, tokens, entropy, accuracy=1.0, finish="stop"):
    return {"question": question, "tokens": tokens, "entropy": entropy, "accuracy": accuracy, "format": 1.0,
            "finish": finish}


def test_bootstrap():
    assert es.bootstrap([1.0, 2.0, 0.0], [2, 4, 0]) == (0.5, 0.5)  # the mean of every draw is 0.5
    assert es.bootstrap([1.0, 0.0], [1, 0]) == (None, None)  # one response says nothing about spread
    values = np.random.default_rng(1).normal(1.0, 0.3, 400)
    low, high = es.bootstrap(values, np.ones(400))
    assert low < values.mean() < high and (low, high) == es.bootstrap(values, np.ones(400))
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)  # the textbook's interval
    thrice = es.bootstrap(3 * values, 3 * np.ones(400))  # in a response: no surer
    assert thrice == (pytest.approx(low), pytest.approx(high))


def test_correlations():
    assert spearman([1, 2, 3, 100], [0, 1, 5, 6]) == pytest.approx(1)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 30), rng.integers(0, 5, 30)
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y)[0])
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y)[0])
    assert pearson([1, 2], [1, 2]) is None and pearson([1, 1, 1], [1, 2, 3]) is None


def test_measure_by_hand():
    m = es.measure([row(0, ["Wait", ",", " wait"], [1.0, 0.0, 0.5]), row(0, [" but"], [0.3], accuracy=0.0),
                    row(1, [" 4", "."], [2.0, 0.4], finish="length"), row(1, ["4"], [0.0])], high_entropy=0.9)
    assert m["critical_entropy"] == pytest.approx((1.0 + 0.5 + 0.3) / 3)  # over occurrences, not responses
    assert m["count"] == 3
    assert m["words"] == {"wait": {"count": 2, "mean": 0.75}, "but": {"count": 1, "mean": 0.3}}
    assert m["entropy"] == pytest.approx(4.2 / 7) and m["entropy_high"] == pytest.approx(2 / 7)
    assert m["question_accuracy"] == [0.5, 1.0]
    assert m["accuracy"] == 0.75 and m["accuracy_se"] == pytest.approx(0.25)
    assert (m["length"], m["truncated"], m["format"], m["responses"]) == (7 / 4, 0.25, 1.0, 4)
    assert es.measure([row(0, ["4"], [0.0]), row(1, ["4"], [0.0])])["critical_entropy"] is None


# ------------------------------------------------------------------------------------------------ the choice
def checkpoint(step, entropy, accuracy, count=100, width=0.01, questions=50):
    right = np.zeros(questions)
    right[:round(accuracy * questions)] = 1.0
    low, high = (None, None) if entropy is None else (entropy - width, entropy + width)
    return {"step": step, "checkpoint": f"step_{step:06d}", "critical_entropy": entropy, "low": low,
            "high": high, "count": count, "accuracy": float(right.mean()),
            "question_accuracy": right.tolist()}


@pytest.mark.parametrize("table, min_count, step, rule", [
    ([(10, 0.5, 0.60), (20, 0.8, 0.68), (30, 0.6, 0.70)], 50, 20, "critical_entropy"),  # the highest
    ([(10, 0.5, 0.64), (20, 0.8, 0.68), (30, 4.0, 0.20)], 50, 20, "critical_entropy"),  # one falls apart
    ([(20, 0.8, 1.0, 1), (30, 4.0, 0.0)], 50, 20, "accuracy"),  # every question lost: their spread is 0
    ([(5, 0.4, 0.70), (10, 0.5, 0.70), (20, 3.0, 0.68, 49), (30, None, 0.70, 0)], 50, 10, "critical_entropy"),
    ([(5, 0.4, 0.70, 50), (10, 0.6, 0.70, 50)], 50, 10, "critical_entropy"),
    # too few words everywhere; of equal accuracy the later
    ([(5, 0.4, 0.70), (10, 0.5, 0.70), (20, 3.0, 0.68, 49), (30, None, 0.70, 0)], 101, 30, "accuracy"),
    # only one still says "wait": to have the highest entropy of one says nothing for it
    ([(20, 0.5, 0.66), (40, 3.0, 0.68, 49), (60, None, 0.70, 0)], 50, 60, "accuracy"),
    ([(20, 0.5, 0.66)], 50, 20, "critical_entropy"),  # there was only one checkpoint
    ([(20, 0.5, 0.66), (30, None, 0.66, 0), (40, 0.4, 0.66)], 0, 20, "critical_entropy")])
def test_the_choice(table, min_count, step, rule):
    table = [checkpoint(*row) for row in table]
    chosen, by, notes = es.choose(table, min_count)
    assert (chosen["step"], by, bool(notes)) == (step, rule, rule == "accuracy")
    aside = [row["step"] for row in table if row["set_aside"].startswith("only")]
    assert aside == [row["step"] for row in table if row["count"] < max(1, min_count)]


# ------------------------------------------------------------------------------------------------ the command
class World:
    """Stands in for model, chat, sampler: a checkpoint writes "Wait" with entropy 0.1 * step and is right."""

    def __init__(self, monkeypatch):
        self.sampled, self.asked, self.fail_at = [], [], None
        self.now = None

        def load(path, **_):  # a model of one number, its step
            vlm = torch.nn.Module()
            vlm.step, vlm.autocast_dtype = torch.nn.Parameter(torch.tensor(float(path[-6:]))), None
            return vlm

        def prompts(records, thinking):
            return [SimpleNamespace(record=r) for r in records]

        records = [Record(f"q{i}", "?", answer="4") for i in range(40)]
        monkeypatch.setattr(es, "load", load)
        monkeypatch.setattr(es, "Processor", lambda *_, **__: SimpleNamespace(prompts=prompts))
        monkeypatch.setattr(es, "make_sampler", lambda *_, **__: self)
        monkeypatch.setattr(es, "read_records", lambda *_, **__: records)

    def sync(self, vlm):
        self.now = int(vlm.step)

    def generate(self, prompts, n, max_new_tokens, temperature, seed, progress):
        if self.now == self.fail_at:
            raise KeyboardInterrupt
        self.sampled.append(self.now)
        self.asked.append([p.record.id for p in prompts])
        entropy, out = torch.tensor([0.1 * self.now, 0.0, 0.0, 0.0, 0.0]), []
        for p in prompts:
            pieces = ["Wait", f". {p.record.id}", "\n</think>\n\n", "\\boxed{4}", ""]
            out.append(n * [Rollout(p, [1] * 5, -entropy, entropy, "".join(pieces), pieces, "stop")])
        return out


@pytest.fixture
def run(tmp_path):
    for step in (10, 20, 30):
        folder = tmp_path / "rl" / f"step_{step:06d}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"0" * step)
    return tmp_path / "rl"


def test_a_whole_selection(run, monkeypatch, capsys):
    world, cfg = World(monkeypatch), es.Config(folder=str(run), probe=20, samples=3, high_entropy=2.5)
    es.select(cfg)
    selected = json.loads((run / "selected.json").read_text())
    assert (selected["step"], selected["checkpoint"]) == (30, "step_000030")
    assert (selected["rule"], selected["count"]) == ("critical_entropy", 60)
    assert selected["critical_entropy"] == pytest.approx(3.0) and "wait" in selected["words"]
    assert resolve(str(run)) == str(run / "step_000030")  # where the next stage starts
    table = json.loads((run / "selection.json").read_text())
    assert [c["accuracy"] for c in table["checkpoints"]] == [1.0] * 3
    assert table["checkpoints"][2]["entropy_high"] == pytest.approx(0.2)
    assert (run / "selection.png").read_bytes()[:4] == b"\x89PNG"
    assert world.asked[0] == world.asked[1] == world.asked[2]  # one probe set, drawn from all rows
    assert len(set(world.asked[0])) == 20
    rows = read_jsonl(run / "probe" / "step_000010.jsonl")[1:]
    assert [(r["id"], r["tokens"][1]) for r in rows[::3]] == [(i, f". {i}") for i in world.asked[0]]
    text = capsys.readouterr().out
    assert "<- chosen" in text and "no correlation" in text  # all accuracies are equal, and that is said


def test_a_supervised_run_keeps_its_choice(run):
    (run / "selected.json").write_text('{"checkpoint": "step_000020", "val_loss": 0.1}')
    with pytest.raises(Refused, match="validation loss"):
        es.select(es.Config(folder=str(run)))
    assert resolve(str(run)) == str(run / "step_000020")


def test_what_was_measured_is_not_sampled_again(run, monkeypatch):
    world, cfg = World(monkeypatch), es.Config(folder=str(run), probe=20, samples=3)
    monkeypatch.setattr(es, "plot", lambda *_: None)
    world.fail_at = 20
    with pytest.raises(KeyboardInterrupt):
        es.select(cfg)
    assert not (run / "selected.json").exists()
    world.fail_at = None
    es.select(cfg)
    es.select(es.Config(**{**vars(cfg), "words": ("hmm",)}))  # other words, the same responses
    assert world.sampled == [10, 20, 30]
    assert json.loads((run / "selected.json").read_text())["rule"] == "accuracy"
    es.select(es.Config(**{**vars(cfg), "samples": 2}))
    assert world.sampled == 2 * [10, 20, 30]
    (run / "step_000020" / "model.safetensors").write_bytes(b"retrained")
    es.select(es.Config(**{**vars(cfg), "samples": 2}))
    new = [Record(f"q{i}", "new?", answer="4") for i in range(40)]
    monkeypatch.setattr(es, "read_records", lambda *_, **__: new)
    es.select(es.Config(**{**vars(cfg), "samples": 2}))  # the same ids, other questions
    assert world.sampled == 2 * [10, 20, 30] + [20] + [10, 20, 30]
