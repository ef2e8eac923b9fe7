"""eval_mmmu.py on other people's data: rows shaped like MathVista's, MathVision's and MMMU-Pro's."""
import dataclasses
import json
from types import SimpleNamespace

import pytest

import eval_mmmu as E
from conftest import png, write_jsonl, write_parquet
from data import Record
from machinery.files import Refused

PICTURE = {"bytes": png(3), "path": None}
VISTA = dict(query="Hint: ... Question: ...", unit=None, image="images/1.jpg",
             decoded_image=PICTURE, question_type="free_form", answer_type="text", choices=None,
             metadata={"split": "testmini", "grade": "daily life"})
MATHVISTA = [  # the answer is the text of a choice, a number or a text
    {**VISTA, "pid": "1", "question": "How far?", "answer": "1.2", "answer_type": "float"},
    {**VISTA, "pid": "2", "question": "Which is it?", "choices": ["3", "B", "7", "D"], "answer": "B",
     "question_type": "multi_choice"},
    {**VISTA, "pid": "3", "question": "Is it so?", "choices": ["Yes", "No"], "answer": "No",
     "question_type": "multi_choice"},
    {**VISTA, "pid": "4", "question": "Which two?", "answer": "[1, 5]", "answer_type": "list"}]
VISION = dict(image="images/1.jpg", decoded_image=PICTURE, solution=None, level=3)
MATHVISION = [  # <image1>; the answer is a letter where there are options
    {**VISION, "id": "1", "question": "How many? <image1>", "options": [], "answer": "12",
     "subject": "counting"},
    {**VISION, "id": "2", "question": "Which <image1> is it?", "options": ["A", "B", "C", "D", "E"],
     "answer": "C", "subject": "solid geometry"}]
PRO = dict(explanation="", img_type="['Plots']", topic_difficulty="Easy",
           **{f"image_{k}": None for k in range(1, 8)})
MMMU_PRO = [  # ten printed options, no question_type; an image whose number has no neighbour before it
    {**PRO, "id": "test_History_1", "question": "Which? <image 2>", "answer": "J", "subject": "History",
     "options": str([f"<image {2}>"] + [f"{k}%" for k in range(9)]), "image_2": PICTURE},
    {**PRO, "id": "17", "question": "<image 1> Which?", "options": "['x', 'y']", "answer": "A",
     "subject": "Art_Theory", "image_1": PICTURE}]
PRO_VISION = [{"id": "test_Math_3", "image": PICTURE, "options": str([f"{k}" for k in range(10)]),
               "answer": "B", "subject": "Math"}]
DECODED = ("image=decoded_image",)


def read(tmp_path, rows, split="test", **flags):
    write_parquet(tmp_path / "data" / f"{split}-00000-of-00001-5a3b.parquet", rows)
    return E.read_questions(E.Config(data=str(tmp_path), split=split, **flags))[0]


def answered(records, replies):
    """The scores of these replies, after a way through a file, as a run writes it."""
    rows = [E.row_of(r, 0, SimpleNamespace(text=reply, finish="stop", ids=[1]), "nothink")
            for r, reply in zip(records, replies, strict=True)]
    return E.score_rows(json.loads(json.dumps(rows)))


def test_mathvista(tmp_path):
    records = read(tmp_path, MATHVISTA, "testmini", columns=("id=pid", "options=choices", *DECODED))
    assert [(r.id, r.answer, r.options) for r in records] == [
        ("1", "1.2", []), ("2", "B", ["3", "B", "7", "D"]), ("3", "B", ["Yes", "No"]), ("4", "[1, 5]", [])]
    assert records[2].text() == "Is it so?\nA. Yes\nB. No"
    assert records[0].images == [png(3)]  # not the path beside it
    scores, rows = answered(records, [r"\boxed{1.20}", r"\boxed{B}", r"\boxed{No}", r"\boxed{[1, 5]}"])
    assert scores["rule"] == 1 and list(scores["subjects"]) == ["unknown"]
    assert [row["question_type"] for row in rows] == ["open", *["multiple-choice"] * 2, "open"]
    assert answered(records, [r"\boxed{1.3}", r"\boxed{7}", r"\boxed{A}", r"\boxed{1}"])[0]["rule"] == 0


def test_mathvision(tmp_path):
    records = read(tmp_path, MATHVISION, "testmini", columns=DECODED)
    assert [r.answer for r in records] == ["12", "C"] and records[1].named_images() == [0]
    scores, _ = answered(records, [r"\boxed{12}", "It is hard to say."])
    assert {name: g["rule"] for name, g in scores["subjects"].items()} == {"counting": 1, "solid geometry": 0}
    assert scores["unparsed"] == 0.5


def test_mmmu_pro_with_four_and_with_ten_options(tmp_path):
    """The same ids in several configurations: which is meant has to be said."""
    for name in ("standard (4 options)", "standard (10 options)"):
        records = read(tmp_path, MMMU_PRO, subset="data")
        (tmp_path / "data").rename(tmp_path / name)
    assert [r.subject for r in records] == ["History", "Art_Theory"]
    assert records[0].question == "Which? <image 1>"
    assert records[0].options[0] == "<image 1>" and len(records[0].options) == 10
    scores, _ = answered(records, [r"\boxed{J}", r"\boxed{B}"])
    assert {name: g["rule"] for name, g in scores["subjects"].items()} == {"Art_Theory": 0, "History": 1}
    assert list(scores["disciplines"]) == ["Art and Design", "Humanities and Social Science"]
    cfg = E.Config(data=str(tmp_path), split="test")
    with pytest.raises(Refused, match="2 ids stand there more than once, e.g. test_History_1.*--subset"):
        E.read_questions(cfg)
    assert len(E.read_questions(dataclasses.replace(cfg, subset="standard (4 options)"))[0]) == 2


def test_a_question_in_the_picture(tmp_path):
    """MMMU-Pro's vision: the picture holds question and options, which are not told once more."""
    record, = read(tmp_path, PRO_VISION)
    assert record.text() == "" and len(record.images) == 1
    assert (record.answer, len(record.options)) == ("B", 10)
    assert answered([record], [r"\boxed{B}"])[0]["rule"] == 1


@pytest.mark.parametrize("options, answer, right, wrong", [
    ([], ["24/7", 3.429], r"\boxed{3.429}", r"\boxed{7}"), ([], "['24/7', '3.429']", r"\boxed{24/7}", "7"),
    (["x", "y", "z"], ["A", "C"], "C", "B")])
def test_several_accepted_answers(options, answer, right, wrong, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"question": "How much?", "answer": answer, "options": options}])
    records, _ = E.read_questions(E.Config(data=str(tmp_path / "a.jsonl")))
    assert records[0].id == "a-1"
    assert [answered(records, [reply])[0]["rule"] for reply in (right, wrong)] == [1, 0]


def test_letters_and_texts_of_options():
    """What "B" means, if it is a letter and the text of another option, the other rows tell."""
    def letters(*rows):
        good, bad = E.with_letters([Record(str(i), "?", options=options, answer=answer)
                                    for i, (options, answer) in enumerate(rows)])
        return [r.answer for r in good], [name for name, _ in bad]

    ambiguous = ["B", "C", "A"], "B"
    assert letters(ambiguous, (["no", "yes"], "yes")) == (["A", "B"], [])
    assert letters(ambiguous, (["no", "yes"], "(B)")) == (["B", "B"], [])
    assert letters((["x", "y"], "?"), ([], "x")) == (["?", "x"], [])  # a hidden test split, an open question
    assert letters(ambiguous, (["no", "yes"], "D")) == (["B"], ["row 1"])
