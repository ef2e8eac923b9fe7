"""eval_mmmu.py: both scores on hand-made rows, every fault of the official algorithm, and runs with a fake
sampler."""
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

import eval_mmmu as E
from conftest import ROOT, png, write_jsonl, write_parquet
from machinery import rows as R
from scoring import mmmu
from scoring.official import official_choice

OPTIONS = "['3', \"Bob's\", 'Rome', 'Paris']"
THOUGHT = "Let me see.\n</think>\n\n"


def row(response, answer="B", options=OPTIONS, kind="multiple-choice", **more):
    return {"id": "validation_Math_1", "question_type": kind, "options": options, "answer": answer,
            "response": response, **more}


def one(*args, **more):
    scores, rows = E.score_rows([row(*args, **more)])
    return scores, rows[0]


# -------------------------------------------------------------------------------------------- multiple choice

@pytest.mark.parametrize("response, answer, rule, official, random, unparsed", [
    (THOUGHT + r"\boxed{B}", "B", 1, 0, 1, 0),              # the official parser knows no box
    # the last box; the official parser sees six words and no option
    (THOUGHT + r"It is \boxed{A}, no: \boxed{B}.", "B", 1, 0, 1, 0),
    (THOUGHT + r"\boxed{Bob's}", "B", 1, 0, 1, 0),          # the option's text
    (THOUGHT + r"\boxed{D}", "B", 0, 0, 1, 0),
    ("(B)", "B", 1, 1, 0, 0),
    ("B.", "B", 1, 1, 0, 0),                                # the dot is stripped
    ("B) Bob's", "B", 1, 0, 1, 0),                          # fault: not recognised
    ("**B**", "B", 1, 0, 1, 0),                             # fault: not recognised
    ("The answer is (B).", "B", 1, 1, 0, 0),
    ("**Answer:** C", "C", 1, 1, 0, 0),
    # "B," is no letter to it, "Rome" is an option's text
    ("First I looked.\nThe answer is: B, because Rome is older.", "B", 1, 0, 0, 0),
    # fault: all options echoed count as the last letter
    ("(A) 3 (B) Bob's (C) Rome (D) Paris", "D", 0, 1, 0, 1),
    # two letters are no right answer (official: "3" stands in it)
    ("The answer is A) 3 B) Bob's", "A", 0, 0, 0, 0),
    ("The answer is A lot of work.", "A", 0, 1, 0, 0),      # an article is no letter
    # official: text of an option among more than five words
    ("From the map we know it is the city of Rome", "C", 0, 1, 0, 1),
    # the option's text and nothing else; official: too few words
    ("Rome", "C", 1, 0, 1, 0),
    ("I am sorry, I cannot see the image.", "A", 0, 0, 1, 1),  # fault: a refusal would get a random letter
    ("", "A", 0, 0, 1, 1),
    ("I think \\boxed{B}", "B", 1, 0, 1, 0),                # no thought was asked for as far as the row tells
])
def test_multiple_choice(response, answer, rule, official, random, unparsed):
    _, r = one(response, answer)
    assert (r["rule"], r["official"], r["official_random"],
            r["unparsed"]) == (rule, official, random, unparsed)


def test_the_reasoning_is_never_read():
    for more in ({"mode": "think"}, {"mode": "nowait"}, {"finish": "length"}):
        _, r = one(r"I think \boxed{B}. The answer is B", **more)  # the thought is still open
        assert (r["rule"], r["unparsed"], r["official"]) == (0, 1, 1)
    _, r = one(r"It is (B), surely \boxed{B}" + "\n</think>\n\nI do not know.", mode="think")
    assert (r["rule"], r["official"], r["unparsed"]) == (0, 0, 1)
    _, r = one(r"\boxed{B}", mode="nothink")
    assert r["rule"] == 1
    # --mode for rows that do not know theirs
    assert E.score_rows([row(r"\boxed{B}")], mode="think")[0]["rule"] == 0


@pytest.mark.parametrize("reply, options, choice", [
    ("(C) no. (A) no. (B)", "abcd", "B"), ("(B) or (A), no: (B)", "abcd", "B"),  # where each stands last
    ("(C) beats A ", "abcd", "C"), (" A or D or C or", "abcd", "C"),  # letters in brackets come first
    ("one two three Rome then Paris five", ["Paris", "Rome"], "A"), ("Rome", ["Paris", "Rome"], None)])
def test_official_choice_takes_the_latest(reply, options, choice):
    assert official_choice(reply, options) == choice


@pytest.mark.parametrize("options, answer, response", [
    ("['1','2','3','4','5','6','7','8','9']", "G", "The answer is (G)."),
    ("['<image 1>', '<image 2>']", "B", r"\boxed{B}"),
    ("['1', '2', 'None', '4']", "C", "None"),
    (r"""["Bob's", 'say "hi"', 'a\\b']""", "B", 'say "hi"'),
    ("[['a', 'b'], 3.5]", "B", r"\boxed{3.5}"),              # a nested list and a number
    (["x", "y"], "B", r"\boxed{y}"),                         # our own files hold real lists
])
def test_options(options, answer, response):
    assert one(response, answer, options)[1]["rule"] == 1


# --------------------------------------------------------------------------------------------- open questions

@pytest.mark.parametrize("response, answer, rule, official", [
    (r"\boxed{0.956}", "0.963", 0, 1),                       # fault: two decimals
    (r"\boxed{3.429}", "['24/7', '3.429']", 1, 1),           # a list of accepted answers
    (r"\boxed{24/7}", "['24/7', '3.429']", 1, 1),
    (r"\boxed{7}", "['24/7', '3.429']", 0, 0),
    ("The answer is 1,234.", "1234", 1, 1),
    ("x = 5\nso the speed is 12 m/s", "12", 0, 1),           # nothing plainly stated
    ("First 9 and 8.\nThe result is 4", "9", 0, 0),          # only the tail behind "is" counts
    ("a = 3\nb = 4", "3", 0, 0),                             # "=" counts in the last line only
    ("1.5e3", "1500", 1, 1),
    ("bob", "b", 0, 0),                                      # one character counts beside a space only
    ("a very long reply that goes on and on without ever stating anything 16", "16", 0, 1),
])
def test_open(response, answer, rule, official):
    _, r = one(response, answer, "[]", "open")
    assert (r["rule"], r["official"], r["official_random"]) == (rule, official, 0)
    assert one(response, answer, "[]", "short-answer")[1]["rule"] == rule  # the authors' files call it so


def test_odd_text_does_not_raise():
    for text in ("nan", "inf", "-", "1e999", "9" * 5000, "\\boxed{" * 50, "</think>" * 9, "\u2028\x00", "{",
                 "answer is {", "(" * 3000):
        for answer, kind in (("B", "multiple-choice"), ("nan", "open"), ("[0, 1)", "open"),
                             ("['a', 3]", "open")):
            for mode in ("think", "nothink"):
                _, (r,) = E.score_rows([row(text, answer, OPTIONS, kind, mode=mode)])
                assert r["rule"] == (text == answer and mode == "nothink"), (text, answer, mode)
    assert mmmu.accepted_answers("[0, 1]") == ["[0, 1]"]  # an interval, no list of texts


# ----------------------------------------------------------------------------------------------------- tables

def many():
    rows = []
    for run in (0, 1):
        for n in range(4):  # run 0: 3 of 4 right, run 1: 1 of 4
            good = n < (3, 1)[run]
            rows.append(row(THOUGHT + (r"\boxed{B}" if good else r"\boxed{A}"),
                            id=f"validation_Art_Theory_{n}", run=run, tokens=10 + n,
                            mode="think", finish="stop"))
    rows.append(row(r"I cannot see the image.", id="validation_Tiny_World_1", run=0, finish="length",
                    mode="think", tokens=100))
    return rows


def test_tables_by_hand():
    scores, _ = E.score_rows(many())
    assert scores["n"] == 9 and scores["questions"] == 5
    assert scores["rule"] == pytest.approx(4 / 9)
    art, other = scores["subjects"]["Art_Theory"], scores["subjects"]["Tiny_World"]
    assert (art["n"], art["rule"], art["length"]) == (8, 0.5, 11.5)
    # question means 1, .5, .5, 0: deviation .408, over sqrt(4)
    assert art["rule_se"] == pytest.approx(0.2041241)
    assert other == {"n": 1, "rule": 0, "rule_se": None, "official": 0, "official_boxed": 0, "length": 100}
    assert list(scores["disciplines"]) == ["Art and Design", "Other"]
    questions = scores["question_accuracy"]  # each question's mean over its runs
    assert list(questions["Art_Theory"].values()) == [1, 0.5, 0.5, 0]
    assert questions["Tiny_World"] == {"validation_Tiny_World_1": 0}
    assert scores["runs"] == [pytest.approx(3 / 5), 0.25] and scores["runs_se"] == pytest.approx(0.175)
    for name in ("truncated", "denial", "unparsed"):
        assert scores[name] == pytest.approx(1 / 9) and scores["format"] == pytest.approx(8 / 9), name
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in E.tables(scores).splitlines()]
    assert ["Other", "1", "0.0", "0.0", "0.0", "100"] in lines
    one_box, _ = one(THOUGHT + r"So \boxed{B}")
    assert [one_box[f"official{name}"] for name in ("", "_boxed", "_random")] == [0, 1, 1]


def test_the_judge_counts_apart(tmp_path, monkeypatch):
    """The rule says no to both, the judge says yes to "xyz", and is not asked where nothing was answered."""
    asked, path = [], tmp_path / "responses.jsonl"
    write_jsonl(path, [row(r"\boxed{xyz}", mode="nothink", question="Which town?"),
                       row("I do not know, really.", mode="nothink", id="b")])
    monkeypatch.setattr(E.Verifier, "ask", lambda self, items: asked.extend(items) or [True] * len(items))
    scores = E.score(E.Score(str(path), verifier="http://127.0.0.1:9/v1"))
    assert (scores["judge"], scores["rule"]) == (0.5, 0)
    assert len(asked) == 2 and "Which town?" in asked[1][0] and "Rome" in asked[1][0]  # behind the trial
    assert "judge 50.0" in E.tables(scores)


# ------------------------------------------------------------------------------------------ the score command

def test_score_command_without_torch(tmp_path):
    rows = [row(THOUGHT + r"\boxed{B}" if n % 2 else "no idea \ud800 \u2028", id=f"validation_Math_{n}")
            for n in range(9)]
    path = tmp_path / "responses.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"id": "torn')
    code = ("import report, runpy, sys; sys.argv = sys.argv[1:]; "  # reports start in a second, too
            "runpy.run_path(sys.argv[0], run_name='__main__'); assert 'torch' not in sys.modules")
    command = [sys.executable, "-c", code, "eval_mmmu.py", "score", "--responses", path]
    assert "| all" in subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert (scores["n"], scores["rule"], scores["subjects"]["Math"]["n"]) == (9, pytest.approx(4 / 9), 9)


@pytest.mark.parametrize("change", [
    {"answer": None}, {"options": "[]"}, {"answer": "E"}, {"answer": "?"},
    {"answer": "?", "question_type": "open"}, {"answer": " ", "question_type": "open"}])
def test_rows_that_would_count_as_wrong_are_refused(change):
    with pytest.raises(E.Refused, match="Row validation_Math_1 cannot be scored"):
        E.score_rows([{**row("B"), **change}])
    with pytest.raises(E.Refused, match="stands there 2 times"):
        E.score_rows([row("B"), row("A")])


# --------------------------------------------------------------------------------------------------- the data

def question(n, subject="Math", **more):
    return {"id": f"validation_{subject}_{n}", "question": f"How many in <image 1>? {n}", "options": "[]",
            "explanation": "", "answer": str(n),
            "img_type": "[]", "topic_difficulty": "Easy", "question_type": "open", "subfield": "",
            **{f"image_{k}": None for k in range(1, 8)}, "image_1": {"bytes": png(n), "path": None}, **more}


def write_subject(folder, subject, rows, split="validation"):
    write_parquet(folder / subject / f"{split}-00000-of-00001.parquet", rows)


@pytest.fixture
def data(tmp_path):
    write_subject(tmp_path / "mmmu", "Math", [question(n) for n in range(1, 8)])
    write_subject(tmp_path / "mmmu", "Art_Theory",
                  [question(n, "Art_Theory", question="Which? <image 2>",
                            options="['<image 4>', 'no <image 2>']",
                  answer="A", question_type="multiple-choice", image_1=None,
                  image_2={"bytes": png(2), "path": None},
                  image_4={"bytes": png(4), "path": None}) for n in range(1, 4)])
    write_subject(tmp_path / "mmmu", "Math", [question(9)], split="test")
    return tmp_path / "mmmu"


def config(data, **more):
    return E.Config(**{"data": str(data), "out": str(data.parent / "out"), "max_new_tokens": 50, "chunk": 4,
                       **more})


def test_questions_of_the_schema(data):
    records, about = E.read_questions(config(data))
    assert [r.subject for r in records] == ["Art_Theory"] * 3 + ["Math"] * 7  # the split's files only
    r = records[0]
    # N is the column
    assert r.question == "Which? <image 1>" and r.options == ["<image 2>", "no <image 1>"]
    assert r.images == [png(2), png(4)] and r.sizes == [(48, 48)] * 2
    assert about["revision"] is None and about["questions"]["rows"] == 10 and about["left_out"] == []
    limited, _ = E.read_questions(config(data, limit=5))
    assert [r.id[11:] for r in limited] == [  # evenly: the first of each subject, the second of each, ...
        "Art_Theory_1", "Math_1", "Art_Theory_2", "Math_2", "Art_Theory_3"]
    asked, _ = E.read_questions(config(data, subjects=("Art_Theory",), ask="Box it."))
    # what a judge is told; options and the request (which the chat appends) are no part of it
    assert len(asked) == 3 and asked[0].question == "Which? <image 1>"
    assert asked[0].text() == "Which? <image 1>\nA. <image 2>\nB. no <image 1>"
    with pytest.raises(E.Refused, match="--subjects Maths: not in"):
        E.read_questions(config(data, subjects=("Maths", "Math")))
    unseen, same = E.read_questions(config(data, blank=True))  # grey pictures, the same questions
    assert [[i.getcolors() for i in r.images] for r in unseen[:1]] == [[[(48 * 48, (128, 128, 128))]] * 2]
    assert same == about and [r.id for r in unseen] == [r.id for r in records]


def test_rows_that_cannot_be_asked_are_named_and_the_others_scored(data, capsys):
    choice = {"options": "['a', 'b']", "question_type": "multiple-choice", "answer": "c"}
    write_subject(data, "Math", [question(1, answer=""), question(2, **choice)])
    records, about = E.read_questions(config(data))
    assert [r.subject for r in records] == ["Art_Theory"] * 3
    assert [name[-18:-1] for name in about["left_out"]] == ["validation_Math_1", "validation_Math_2"]
    assert "skipped 2 of 5 rows" in capsys.readouterr().out


def test_a_picture_that_cannot_be_read_stops_it(data):
    """It would change the score. Of a picture that is not asked about nobody knows."""
    write_subject(data, "Math", [question(1), question(2), question(3)])
    write_subject(data, "Physics", [question(2, "Physics", image_1={"bytes": b"no picture", "path": None})])
    with pytest.raises(E.Refused, match="validation_Physics_2.*cannot be read"):
        E.read_questions(config(data))
    assert len(E.read_questions(config(data, subjects=("Math",)))[0]) == 3
    assert len(E.read_questions(config(data, limit=2))[0]) == 2


def test_configurations_and_revision_of_the_hub(data, monkeypatch):
    """MMMU has a configuration for each subject: only those that are asked for are read."""
    asked = []

    def hub_rows(source, split, subset, revision):
        asked.append((source, split, subset, revision))
        return R.parquet_rows(data / subset / f"{split}-00000-of-00001.parquet")

    monkeypatch.setattr(R, "hub_rows", hub_rows)
    monkeypatch.setattr(E, "subsets_of", lambda *_: ["Art_Theory", "Math"])
    records, about = E.read_questions(E.Config(data="MMMU/MMMU", subjects=("Math",), revision="v1"))
    assert len(records) == 7 and about["revision"] == "v1"
    assert asked == [("MMMU/MMMU", "validation", "Math", "v1")]
    assert len(E.read_questions(E.Config(data="MMMU/MMMU"))[0]) == 10 and len(asked) == 3


# ---------------------------------------------------------------------------------- runs, with a fake sampler

class FakeTokenizer:
    """Ids are code points; id 0 is special. The vocabulary that `banned_ids` looks through is `words`."""
    words = ["<wait>", "wait", " Wait", "WAIT,", "await", "ait", "waiting", " but", "butter", "x"]
    all_special_ids = [0]

    def __len__(self):
        return len(self.words)

    def batch_decode(self, lists):
        return ["".join(self.words[i] for i in ids) for ids in lists]


class FakeChat:
    context = 1000

    def __init__(self, *args, **kwargs):
        self.tokenizer = FakeTokenizer()

    def prompts(self, records, thinking=True):
        return [SimpleNamespace(record=r, thinking=thinking) for r in records]


class FakeSampler:
    """Writes `answers(prompt, seed)`; remembers its calls; may stop after some of them."""

    def __init__(self, stop_after=99):
        self.calls, self.stop_after = [], stop_after

    def generate(self, prompts, n, max_new_tokens, temperature, seed, ban, progress):
        if len(self.calls) >= self.stop_after:
            raise KeyboardInterrupt
        self.calls.append({"prompts": prompts, "max_new_tokens": max_new_tokens, "seed": seed,
                           "ban": list(ban), "temperature": temperature})
        texts = [answers(p, seed) for p in prompts]
        return [[SimpleNamespace(ids=list(text), text=text, finish="stop")] for text in texts]


@pytest.fixture
def world(data, monkeypatch):
    """evaluate() with a fake model: returns run(sampler, **flags)."""
    import data as data_py
    import model
    import rollout
    (data.parent / "m").mkdir()
    (data.parent / "m" / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(data_py, "Processor", FakeChat)
    monkeypatch.setattr(model, "load", lambda *a, **k: SimpleNamespace(eval=lambda: None))

    def run(sampler, **more):
        monkeypatch.setattr(rollout, "make_sampler", lambda *a, **k: sampler)
        E.evaluate(config(data, model=str(data.parent / "m"), **more))
        path = data.parent / more.get("out", "out") / "responses.jsonl"
        return E.read_jsonl(path) if "checkpoints" not in more else None
    run.folder = data.parent
    return run


def answers(prompt, seed):
    return f"seed {seed % 1000}\n</think>\n\n\\boxed{{{prompt.record.id.split('_')[-1]}}}"


def test_a_whole_run(world):
    sampler = FakeSampler()
    rows = world(sampler, runs=2, temperature=0.7)
    assert len(rows) == 20 and len({(r["id"], r["run"]) for r in rows}) == 20
    assert set(rows[0]) == {"id", "run", "subject", "question_type", "options", "answer", "question",
                            "response", "finish", "tokens", "mode"}
    assert [len(c["prompts"]) for c in sampler.calls] == [4, 4, 2] * 2
    assert len({c["seed"] for c in sampler.calls}) == 6 and {c["temperature"] for c in sampler.calls} == {0.7}
    assert all(p.thinking for c in sampler.calls for p in c["prompts"])
    scores = json.loads((world.folder / "out" / "scores.json").read_text())
    assert scores["subjects"]["Math"]["rule"] == 1.0 and scores["subjects"]["Art_Theory"]["rule"] == 0
    assert scores["runs"] == [0.7, 0.7]
    assert set(scores["data"]) == {"source", "split", "revision", "left_out", "checkpoint", "weights",
                                   "questions", "max_new_tokens"}


def test_an_interrupted_run_goes_on(world):
    whole = world(FakeSampler(), out=str(world.folder / "whole"), runs=2)
    with pytest.raises(KeyboardInterrupt):
        world(FakeSampler(stop_after=2), runs=2)
    path = world.folder / "out" / "responses.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 8
    path.write_text("".join(lines[:6]) + lines[6][:30])  # killed in the middle of a line
    again = FakeSampler()
    rows = world(again, runs=2)
    assert rows == whole  # the same responses as without the interruption, each once
    assert len(again.calls) == 5  # the torn chunk and the four that were missing
    untouched = FakeSampler()
    assert world(untouched, runs=2) == whole and untouched.calls == []
    assert len(world(untouched, runs=3)) == 30 and len(untouched.calls) == 3  # more runs go on from there
    world(untouched, runs=2)  # and fewer are scored
    assert json.loads((world.folder / "out" / "scores.json").read_text())["n"] == 20


def test_a_folder_does_not_mix(world):
    world(FakeSampler())
    with pytest.raises(E.Refused, match="--temperature was"):
        world(FakeSampler(), temperature=0.5)
    (world.folder / "m" / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(E.Refused, match="responses to others .--weights"):
        world(FakeSampler())


def test_every_checkpoint_of_a_run(world):
    """Each is asked and scored in a folder of its own; what is there is not asked again."""
    for step in ("step_000010", "step_000002"):
        (world.folder / "m" / step).mkdir()
        (world.folder / "m" / step / "model.safetensors").write_text(step)
    out, sampler = world.folder / "all", FakeSampler()
    for _ in range(2):
        world(sampler, checkpoints=True, out=str(out))
        assert len(sampler.calls) == 6
    told = [json.loads((out / step / "data.json").read_text()) for step in ("step_000002", "step_000010")]
    assert told[0]["weights"] != told[1]["weights"]
    assert json.loads((out / "step_000010" / "scores.json").read_text())["n"] == 10


@pytest.mark.parametrize("flags, thinking, ban", [
    ({"mode": "nothink"}, False, []), ({}, True, []),
    # "wait", " Wait", "WAIT,", " but"; not "await", "waiting", "butter"
    ({"mode": "nowait", "ban": ("wait", "but", "hmm")}, True, [1, 2, 3, 7]),
    ({"mode": "nowait"}, True, [1, 2, 3, 7]), ({"ban": ("wait",)}, True, [1, 2, 3])])
def test_modes(flags, thinking, ban, world, capsys):
    sampler = FakeSampler()
    rows = world(sampler, **flags)
    assert all(p.thinking == thinking for c in sampler.calls for p in c["prompts"])
    assert all(c["ban"] == ban for c in sampler.calls)
    assert {r["mode"] for r in rows} == {flags.get("mode", "think")}
    assert ("no token spells hmm" in capsys.readouterr().out) == ("hmm" in flags.get("ban", ()))
